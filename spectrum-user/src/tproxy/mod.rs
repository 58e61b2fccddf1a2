//! The rules in the kernel: iptables and ip6tables. Decides nothing about what they say.
#![allow(missing_docs, reason = "stub")]
use crate::plan::firewall::{Chain, Firewall};
use std::collections::BTreeSet;
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct TproxyError;
impl TproxyError {
    pub fn not_permitted(&self) -> Option<&'static str> {
        None
    }
}
pub struct Tproxy;
impl Tproxy {
    pub fn apply(_f: &Firewall, _c: &Chain) -> Result<Self, TproxyError> {
        Err(TproxyError)
    }
    pub fn undo(&mut self) -> Vec<TproxyError> {
        vec![]
    }
}
pub fn sweep(_live: &BTreeSet<Chain>) -> Result<Vec<Chain>, Vec<TproxyError>> {
    Ok(vec![])
}

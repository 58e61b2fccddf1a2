//! The account of what was applied to the firewall, for a process that takes the place of the one that did: it stays as it is meanwhile.
//! Applies nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::Family;
use crate::plan::firewall::nftables::Ruleset;
use crate::plan::firewall::{Chain, ChainPart};

/// The rules that steer, as they are applied.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct HandedRules {
    pub(super) rules: RulesAccount,
    /// The parts, and how they were listed.
    pub(super) prints: Vec<(ChainPart, Option<String>)>,
}

/// The account of a backend.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) enum RulesAccount {
    Iptables { chain: Chain, families: BTreeMap<Family, FamilyAccount> },
    Nftables { chain: Chain, ruleset: Ruleset, leftover: Option<String> },
}

/// The rules of a family, by the program that this part is of.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct FamilyAccount {
    pub(super) part: ChainPart,
    pub(super) table: bool,
    pub(super) text: String,
}

/// A table beside the rules that steer, as it was made.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct HandedTable {
    pub(super) part: ChainPart,
    pub(super) text: String,
    pub(super) print: Option<String>,
}

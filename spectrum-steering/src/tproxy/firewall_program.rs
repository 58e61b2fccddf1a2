//! The programs of the firewall, whichever there are, in what is asked of each alike. Understands no rule.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::TproxyError;
use super::iptables::{self, Iptables};
use super::nftables::Nft;
use crate::model::Family;
use crate::plan::Listing;
use crate::plan::firewall::{Chain, ChainPart};

/// A program of the firewall.
pub(super) trait FirewallProgram: fmt::Debug + Send + Sync {
    /// The parts of instances that it has.
    fn parts(&self) -> Result<BTreeSet<ChainPart>, TproxyError>;

    /// One of them as it lists it, if it has that.
    fn print(&self, part: &ChainPart) -> Result<Option<String>, TproxyError>;

    /// Every rule that it has, whoever made it.
    fn listing(&self) -> Result<Listing, TproxyError>;

    /// Removes all that it has of the instances `doomed`.
    fn sweep(&self, doomed: &BTreeSet<Chain>) -> Result<(), TproxyError>;

    /// True if nobody is told when its rules are changed.
    fn is_untold(&self) -> bool;
}

/// Every program that is installed. Without them, nobody made rules of ours.
pub(super) fn programs() -> impl Iterator<Item = Arc<dyn FirewallProgram>> {
    let iptables = [Family::Ipv4, Family::Ipv6].into_iter().flat_map(Iptables::find_all);
    iptables.map(|iptables| Arc::new(iptables) as _).chain(Nft::find().ok().map(|nft| Arc::new(nft) as _))
}

/// The listings of every program of the firewall that is installed, and why others gave none. Makes no table that is not
/// there. Blocks the calling thread.
#[must_use]
pub fn listings() -> (Vec<Listing>, Vec<TproxyError>) {
    let mut listings = Vec::new();
    let mut errors = Vec::new();
    for program in programs() {
        match program.listing() {
            Ok(listing) => listings.push(listing),
            // A kernel that cannot have rules of this variant has none.
            Err(TproxyError::ExtensionMissing { .. }) => {}
            Err(error) => errors.push(error),
        }
    }
    (listings, errors)
}

/// True if any chain may translate addresses. Says so where it cannot be known; much quicker than [`listings`]. Blocks the
/// calling thread.
#[must_use]
pub fn may_translate() -> bool {
    // Without conntrack there is no NAT (`nf_nat` depends on `nf_conntrack`).
    if !Path::new("/proc/sys/net/netfilter/nf_conntrack_count").exists() {
        return false;
    }
    if [Family::Ipv4, Family::Ipv6].into_iter().any(iptables::has_legacy_nat) {
        return true;
    }
    match Nft::find() {
        Ok(nft) => nft.translates().unwrap_or(true),
        Err(_) => true,
    }
}

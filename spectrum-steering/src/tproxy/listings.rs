//! The firewall's rules, whoever made them, as its programs list them. Understands none of them.

use std::path::Path;

use super::TproxyError;
use super::iptables::{self, Iptables};
use super::nftables::Nft;
use crate::model::Family;
use crate::plan::Listing;

/// The listings of every program of the firewall that is installed, and why others gave none. Makes no table that is not
/// there. Blocks the calling thread.
#[must_use]
pub fn listings() -> (Vec<Listing>, Vec<TproxyError>) {
    let mut listings = Vec::new();
    let mut errors = Vec::new();
    for iptables in [Family::Ipv4, Family::Ipv6].into_iter().flat_map(Iptables::find_all) {
        match iptables.save_all() {
            Ok(text) => {
                let (program, family) = (iptables.command(), iptables.family());
                listings.push(Listing::Iptables { program, family, text });
            }
            // A kernel that cannot have rules of this variant has none.
            Err(TproxyError::ExtensionMissing { .. }) => {}
            Err(error) => errors.push(error),
        }
    }
    match Nft::find_any().map(|nft| nft.ruleset()) {
        Some(Ok(json)) => listings.push(Listing::Nftables(json)),
        Some(Err(TproxyError::ExtensionMissing { .. })) | None => {}
        Some(Err(error)) => errors.push(error),
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
    match Nft::find_any() {
        Some(nft) => nft.translates().unwrap_or(true),
        None => true,
    }
}

//! Trying rules with every program of the firewall, to see which would take them. For a namespace that is thrown away:
//! what is applied stays there.

use super::iptables::{Iptables, stem};
use super::nftables::Nft;
use super::{Backend, TproxyError};
use crate::model::Family;
use crate::plan::firewall::nftables::Ruleset;
use crate::plan::firewall::{Chain, Firewall, iptables as texts};

/// The outcome of one trial.
#[derive(Debug)]
pub struct Trial {
    /// The program, and its variant if it has several: `nft`, `ip6tables (legacy)`.
    pub program: String,
    /// Which rules.
    pub family: Family,
    /// The backend that would use the program; nothing uses another variant of iptables than the one that `iptables`
    /// stands for.
    pub backend: Option<Backend>,
    /// The outcome of applying the rules.
    pub outcome: Result<(), TproxyError>,
}

/// Applies the rules of each family with every program there is, in the calling thread's namespace, in the order in
/// which [`super::Tproxy::apply`] tries them. Nothing is removed again. Blocks the calling thread.
#[must_use]
pub fn try_all(firewall: &Firewall) -> Vec<Trial> {
    let chain = &Chain::of("trial");
    let of = |family: Family| {
        let rules = firewall.rules().iter().filter(|rule| rule.binding.family() == family);
        (family, Firewall::of(rules.copied().collect()))
    };
    let families = [Family::Ipv4, Family::Ipv6].map(of);
    let families = || families.iter().filter(|(_, firewall)| !firewall.rules().is_empty());
    let nftables = families().map(|(family, firewall)| Trial {
        program: "nft".to_owned(),
        family: *family,
        backend: Some(Backend::Nftables),
        outcome: nftables(chain, firewall),
    });
    nftables.chain(families().flat_map(|(family, firewall)| iptables(chain, firewall, *family))).collect()
}

fn nftables(chain: &Chain, firewall: &Firewall) -> Result<(), TproxyError> {
    let ruleset = Ruleset::compile(chain, firewall)?;
    Nft::find()?.transact("apply", &ruleset.creation())
}

/// Trials of what a start would use, and then of what it would not.
fn iptables(chain: &Chain, firewall: &Firewall, family: Family) -> Vec<Trial> {
    let trial = |backend, program, outcome| Trial { program, family, backend, outcome };
    let apply = |iptables: &Iptables| {
        texts::texts(chain, firewall)?.get(&family).map_or(Ok(()), |text| iptables.try_out(text))
    };
    let used = Some(Backend::Iptables);
    let used = match Iptables::find(family) {
        Ok(iptables) => trial(used, iptables.label(), apply(&iptables)),
        Err(error) => trial(used, stem(family).to_owned(), Err(error)),
    };
    let others = Iptables::find_all(family).into_iter().filter(|other| !other.is_default());
    let others = others.map(|other| trial(None, other.label(), apply(&other)));
    std::iter::once(used).chain(others).collect()
}

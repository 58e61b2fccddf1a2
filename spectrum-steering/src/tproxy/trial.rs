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
    let chain = Chain::of("trial");
    Backend::PREFERENCE
        .into_iter()
        .flat_map(|backend| {
            [Family::Ipv4, Family::Ipv6].into_iter().flat_map(move |family| match backend {
                Backend::Iptables => vec![(Some(backend), family), (None, family)],
                Backend::Nftables => vec![(Some(backend), family)],
            })
        })
        .flat_map(|(backend, family)| {
            let rules: Vec<_> =
                firewall.rules().iter().filter(|rule| rule.binding.family() == family).copied().collect();
            let firewall = Firewall::of(rules);
            match backend {
                _ if firewall.rules().is_empty() => Vec::new(),
                Some(Backend::Nftables) => vec![Trial {
                    program: "nft".to_owned(),
                    family,
                    backend,
                    outcome: nftables(&chain, &firewall),
                }],
                Some(Backend::Iptables) => vec![used(&chain, &firewall, family)],
                None => others(&chain, &firewall, family),
            }
        })
        .collect()
}

fn nftables(chain: &Chain, firewall: &Firewall) -> Result<(), TproxyError> {
    let ruleset = Ruleset::compile(chain, firewall)?;
    Nft::find()?.transact("apply", &ruleset.creation())
}

/// Trials of what a start would use.
fn used(chain: &Chain, firewall: &Firewall, family: Family) -> Trial {
    let backend = Some(Backend::Iptables);
    match Iptables::find(family) {
        Ok(iptables) => Trial {
            program: iptables.label(),
            family,
            backend,
            outcome: apply(&iptables, chain, firewall, family),
        },
        Err(error) => Trial { program: stem(family).to_owned(), family, backend, outcome: Err(error) },
    }
}

/// Trials of what a start would not use.
fn others(chain: &Chain, firewall: &Firewall, family: Family) -> Vec<Trial> {
    let used = Iptables::find(family).ok().map(|iptables| iptables.label());
    Iptables::find_all(family)
        .into_iter()
        .filter(|other| used.as_ref() != Some(&other.label()))
        .map(|other| Trial {
            program: other.label(),
            family,
            backend: None,
            outcome: apply(&other, chain, firewall, family),
        })
        .collect()
}

fn apply(iptables: &Iptables, chain: &Chain, firewall: &Firewall, family: Family) -> Result<(), TproxyError> {
    let texts = texts::texts(chain, firewall)?;
    texts.get(&family).map_or(Ok(()), |text| iptables.try_out(text))
}

//! Which firewall rules keep packets from being steered, as far as a reader of rules can say: those that may drop them, and
//! those that give connections another destination before. What a rule asks beyond protocol, address and port is mostly
//! not understood here, so the answer is "may".

mod chains;
mod cure;
mod iptables;
mod nftables;
mod tracking;
mod walk;

use std::collections::HashSet;
use std::fmt;

pub use cure::word;
pub use tracking::{Tracked, Untracking};

use super::Plan;
use super::exemption::Exemption;
use crate::model::{Binding, Family, PortRange, Prefix, visible};
use chains::{ChainName, Chains, Hook, HostRule, State};
use cure::acceptance;
use tracking::{BindingPackets, is_exempt};
use walk::{Hit, Search, Walk, bases};

/// So many obstacles are named, and so many bindings that one of them is about.
const NAMED: usize = 20;
const NAMED_BINDINGS: usize = 4;

/// More comparisons of rules with bindings than this are spared, by looking at prefixes that contain many bindings.
const MOST_WORK: usize = 20_000_000;

/// A firewall rule, or the policy of a chain, that keeps packets to bound addresses and ports from being steered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Obstacle {
    /// The table and chain, and what lists them: `iptables filter INPUT`.
    pub chain: String,
    /// The rule as it is listed, or the policy.
    pub rule: String,
    /// The effect on the packets.
    pub effect: Effect,
    /// The bindings whose packets it is about.
    pub hindered: Hindered,
    /// The command that heals it, as root and in the namespace; empty where nothing is to be done.
    pub cure: String,
}

/// The effect of a rule on packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// It may drop them.
    Drops,
    /// It would take them, but an instance exempts what it binds.
    Exempted,
    /// It gives their connections another destination, perhaps only some.
    MayTake,
    /// The same, of connections that clients on this host itself make.
    MayTakeOwn,
    /// It gives their connections another destination.
    Takes,
}

impl Effect {
    /// The words between the rule and what is bound.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Drops => "may drop packets to",
            Self::Exempted => "would take connections to",
            Self::MayTake => "may take connections to",
            Self::MayTakeOwn => "may take the connections that this host itself makes to",
            Self::Takes => "takes connections to",
        }
    }

    /// True if connections end somewhere else.
    #[must_use]
    pub fn takes(self) -> bool {
        matches!(self, Self::MayTake | Self::MayTakeOwn | Self::Takes)
    }
}

/// Bindings that are in for the same: the first few, and how many more.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hindered {
    /// In the order of precedence.
    pub first: Vec<Binding>,
    /// Those that are not named.
    pub more: usize,
}

impl<'a> FromIterator<&'a Binding> for Hindered {
    fn from_iter<I: IntoIterator<Item = &'a Binding>>(bindings: I) -> Self {
        let mut hindered = Self::default();
        for binding in bindings {
            if hindered.first.len() < NAMED_BINDINGS {
                hindered.first.push(*binding);
            } else {
                hindered.more += 1;
            }
        }
        hindered
    }
}

impl fmt::Display for Hindered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first: Vec<String> = self.first.iter().map(ToString::to_string).collect();
        f.write_str(&first.join(", "))?;
        match self.more {
            0 => Ok(()),
            1 => f.write_str(" and one more binding"),
            more => write!(f, " and {more} more bindings"),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chain, rule, effect, hindered, cure } = self;
        // Comments of rules and names of chains are whatever their authors wanted.
        let (chain, rule) = (visible(chain), visible(rule));
        write!(f, "{chain}: {rule} {} {hindered}", effect.words())?;
        match effect {
            Effect::Exempted => f.write_str(", which are exempted from it"),
            _ => write!(f, "; cure: {}", visible(cure)),
        }
    }
}

/// The listing of a firewall's program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listing {
    /// `iptables-save`, `ip6tables-save` or that of another variant.
    Iptables {
        /// The program that changes what is listed: `iptables`, `ip6tables-legacy`.
        program: String,
        /// Its family.
        family: Family,
        /// The text that was printed.
        text: String,
    },
    /// `nft -j list ruleset`.
    Nftables(String),
}

impl Listing {
    /// The chains that are listed; of nftables without the tables `besides`, which iptables lists too, and better.
    fn chains(&self, besides: &HashSet<(Family, &str)>) -> Chains {
        match self {
            Self::Iptables { program, family, text } => iptables::chains(program, *family, text),
            Self::Nftables(json) => nftables::chains(json, besides),
        }
    }

    /// The chains of all `listings`, each once.
    fn all_chains(listings: &[Self]) -> Chains {
        let mut besides = HashSet::new();
        for listing in listings {
            if let Self::Iptables { family, text, .. } = listing {
                besides.extend(iptables::tables(text).map(|table| (*family, table)));
            }
        }
        listings.iter().flat_map(|listing| listing.chains(&besides)).collect()
    }
}

#[doc(hidden)]
impl Plan {
    /// The rules among `listings` that keep packets to bound addresses and ports from being steered.
    #[must_use]
    pub fn obstacles(&self, listings: &[Listing]) -> Vec<Obstacle> {
        let chains = Listing::all_chains(listings);
        obstacles(&self.looked_at(&chains), &chains)
    }

    /// The bindings whose connections a rule among `listings` takes, as an instance exempts them.
    #[must_use]
    pub fn exemption(&self, listings: &[Listing]) -> Exemption {
        let chains = Listing::all_chains(listings);
        let bindings = self.looked_at(&chains);
        let taken = [Hook::Prerouting, Hook::Output].map(|hook| takes(&chains, hook, &bindings));
        Exemption::of(taken.iter().flatten().flat_map(|hit| hit.bindings.iter().copied()))
    }

    /// The bindings; where there are too many for so many rules, those of the prefixes that contain them.
    fn looked_at(&self, chains: &Chains) -> Vec<Binding> {
        let rules: usize = chains.values().map(|chain| chain.rules.len()).sum();
        let all = || self.bindings.iter().map(|planned| planned.binding);
        if rules.saturating_mul(self.bindings.len()) <= MOST_WORK {
            return all().collect();
        }
        let containing = |prefix: Prefix| {
            let behind = self.routes.partition_point(|route| *route <= prefix);
            let route = behind.checked_sub(1).and_then(|at| self.routes.get(at)).copied();
            route.filter(|route| route.overlaps(&prefix)).unwrap_or(prefix)
        };
        let mut seen = HashSet::new();
        let condensed = all().map(|binding| Binding { prefix: containing(binding.prefix), ..binding });
        condensed.filter(|binding| seen.insert(*binding)).collect()
    }
}

/// The rules among `listings` that keep packets to `binding` from being steered.
#[must_use]
pub fn obstacles_to(binding: Binding, listings: &[Listing]) -> Vec<Obstacle> {
    obstacles(&[binding], &Listing::all_chains(listings))
}

fn obstacles(bindings: &[Binding], chains: &Chains) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    drops(chains, bindings, &mut obstacles);
    let kept = kept(chains, bindings);
    let mut named: HashSet<*const HostRule> = HashSet::new();
    for hook in [Hook::Prerouting, Hook::Output] {
        for hit in takes(chains, hook, bindings) {
            // The rule that takes what comes in takes what this host itself dials as well.
            if !named.insert(std::ptr::from_ref(hit.rule)) {
                continue;
            }
            let (exempted, taken): (Vec<&Binding>, Vec<&Binding>) =
                hit.bindings.iter().copied().partition(|binding| kept.contains(*binding));
            let effect = match (hook, hit.rule.more) {
                (Hook::Output, _) => Effect::MayTakeOwn,
                (_, true) => Effect::MayTake,
                (_, false) => Effect::Takes,
            };
            for (bindings, effect) in [(taken, effect), (exempted, Effect::Exempted)] {
                if bindings.is_empty() {
                    continue;
                }
                let cure = match effect {
                    Effect::Exempted => String::new(),
                    _ => Exemption::of(bindings.iter().copied()).command(),
                };
                obstacles.push(Obstacle {
                    chain: hit.chain.to_string(),
                    rule: shown(&hit),
                    effect,
                    hindered: bindings.into_iter().collect(),
                    cure,
                });
            }
        }
    }
    obstacles.dedup();
    obstacles.truncate(NAMED);
    obstacles
}

/// The rule in backquotes, with the jump that says which ports it is about.
fn shown(hit: &Hit<'_>) -> String {
    match hit.by_way_of {
        Some(jump) => format!("`{}`, by way of `{}`,", hit.rule.text, jump.text),
        None => format!("`{}`", hit.rule.text),
    }
}

/// The hooks at which packets for the host are dropped.
const TO_THE_HOST: &[Hook] = &[Hook::Ingress, Hook::Prerouting, Hook::Input];

fn drops(chains: &Chains, bindings: &[Binding], obstacles: &mut Vec<Obstacle>) {
    for (name, chain) in bases(chains, |chain| chain.is_entered_at(TO_THE_HOST)) {
        let (hits, open) = dropped(chains, name, bindings, State::New);
        for hit in hits {
            obstacles.push(Obstacle {
                chain: hit.chain.to_string(),
                rule: shown(&hit),
                effect: Effect::Drops,
                cure: acceptance(&hit.chain, &hit.bindings),
                hindered: hit.bindings.into_iter().collect(),
            });
        }
        if let Some(policy) = &chain.policy
            && !open.is_empty()
        {
            obstacles.push(Obstacle {
                chain: name.to_string(),
                rule: format!("policy {policy}, unless a rule accepts them,"),
                effect: Effect::Drops,
                cure: acceptance(name, &open),
                hindered: open.into_iter().collect(),
            });
        }
    }
}

/// The rules that a base chain leads to and that drop packets, and the bindings whose packets reach its end.
fn dropped<'a>(
    chains: &'a Chains,
    base: &ChainName,
    bindings: &'a [Binding],
    state: State,
) -> (Vec<Hit<'a>>, Vec<&'a Binding>) {
    let search = |bindings: &'a [Binding]| {
        let mut open: Vec<&Binding> = bindings.iter().collect();
        let mut walk = Walk::new(chains, Search::Drops, state);
        walk.chain(base, &mut open);
        (walk.hits, open)
    };
    let (hits, open) = search(bindings);
    let is_there = |narrowed: &[Binding], rule: &HostRule| {
        let mut open: Vec<&Binding> = narrowed.iter().collect();
        let mut walk = Walk::new(chains, Search::Drops, state);
        walk.chain(base, &mut open);
        walk.hits.iter().any(|hit| std::ptr::eq(hit.rule, rule))
    };
    (confirmed(hits, is_there), open)
}

/// The rules that give connections another destination, of packets that pass `hook`.
fn takes<'a>(chains: &'a Chains, hook: Hook, bindings: &'a [Binding]) -> Vec<Hit<'a>> {
    fn search<'a>(
        chains: &'a Chains,
        bases: &[&ChainName],
        bindings: impl Iterator<Item = &'a Binding>,
    ) -> Vec<Hit<'a>> {
        let mut walk = Walk::new(chains, Search::Takes, State::New);
        let open: Vec<&Binding> = bindings.collect();
        for name in bases {
            let mut entering: Vec<&Binding> =
                open.iter().copied().filter(|binding| !walk.settled.contains(*binding)).collect();
            walk.chain(name, &mut entering);
        }
        walk.hits
    }
    let mut found: Vec<(&ChainName, i64)> =
        bases(chains, |chain| chain.base.is_some_and(|base| base.hook == hook && base.translates))
            .filter(|(name, _)| !name.exempts())
            .filter_map(|(name, chain)| Some((name, chain.base?.priority)))
            .collect();
    if found.is_empty() {
        return Vec::new();
    }
    found.sort_by_key(|(_, priority)| *priority);
    let bases: Vec<&ChainName> = found.into_iter().map(|(name, _)| name).collect();
    let hits = search(
        chains,
        &bases,
        bindings.iter().filter(|binding| !is_exempt(chains, hook, BindingPackets::Requests, binding)),
    );
    confirmed(hits, |narrowed, rule| {
        search(chains, &bases, narrowed.iter()).iter().any(|hit| std::ptr::eq(hit.rule, rule))
    })
}

/// Those of `hits` that still are when only what they are about is looked at: a rule before them may have settled just
/// that.
fn confirmed(hits: Vec<Hit<'_>>, is_there: impl Fn(&[Binding], &HostRule) -> bool) -> Vec<Hit<'_>> {
    let mut hits = hits;
    for hit in &mut hits {
        let rule = hit.rule;
        hit.bindings.retain(|binding| {
            let narrowed = narrowed(binding, rule, hit.ports);
            narrowed == [**binding] || is_there(&narrowed, rule)
        });
    }
    hits.retain(|hit| !hit.bindings.is_empty());
    hits
}

/// The part of `binding` that a rule can be about: its addresses, and `ports` unless they are any.
fn narrowed(binding: &Binding, rule: &HostRule, ports: &[PortRange]) -> Vec<Binding> {
    let prefixes: Vec<Prefix> = if rule.prefixes.is_empty() {
        vec![binding.prefix]
    } else {
        let within = rule.prefixes.iter().filter(|prefix| prefix.overlaps(&binding.prefix));
        // Of two that overlap the longer one is what they have in common.
        let longer = |prefix: &Prefix| {
            if prefix.length() > binding.prefix.length() { *prefix } else { binding.prefix }
        };
        within.map(longer).collect()
    };
    let ports: Vec<PortRange> = match ports {
        [] => vec![binding.ports],
        _ => ports.iter().filter_map(|ports| ports.common(&binding.ports)).collect(),
    };
    let each = prefixes.iter().flat_map(|prefix| ports.iter().map(|ports| (*prefix, *ports)));
    each.map(|(prefix, ports)| Binding { prefix, ports, ..*binding }).collect()
}

/// The bindings that instances of ours exempt from being taken.
fn kept<'a>(chains: &'a Chains, bindings: &'a [Binding]) -> HashSet<&'a Binding> {
    let own =
        bases(chains, |chain| chain.is_entered_at(&[Hook::Prerouting])).filter(|(name, _)| name.exempts());
    let mut walk = Walk::new(chains, Search::Takes, State::New);
    for (name, _) in own {
        walk.chain(name, &mut bindings.iter().collect());
    }
    walk.settled
}

/// The listing of the plain iptables or ip6tables.
#[cfg(test)]
pub(crate) fn iptables_listing(family: Family, text: impl Into<String>) -> Listing {
    let program = match family {
        Family::Ipv4 => "iptables",
        Family::Ipv6 => "ip6tables",
    };
    Listing::Iptables { program: program.to_owned(), family, text: text.into() }
}

#[cfg(test)]
mod tests;

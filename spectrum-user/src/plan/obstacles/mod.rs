//! Which firewall rules may drop packets that are to be steered, as far as a reader of rules can say. What a rule asks
//! beyond protocol, address and port is not understood here, so the answer is "may".

mod iptables;
mod nftables;
mod tracking;

use std::collections::{BTreeMap, HashSet};
use std::fmt;

pub use tracking::Tracked;

use super::Plan;
use crate::model::{Binding, Family, PortRange, Prefix, Protocol, visible};

/// So many obstacles are named, and so many bindings that one of them is about.
const NAMED: usize = 20;
const NAMED_BINDINGS: usize = 4;

/// A firewall rule, or the policy of a chain, that may drop packets to bound addresses and ports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Obstacle {
    /// The table and chain, and what lists them: `iptables filter INPUT`.
    pub chain: String,
    /// The rule as it is listed, or the policy.
    pub rule: String,
    /// The bindings whose packets it may drop.
    pub hindered: Hindered,
}

/// Bindings that are in for the same: the first few, and how many more.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hindered {
    /// In the order of precedence.
    pub first: Vec<Binding>,
    /// Those that are not named.
    pub more: usize,
}

impl Hindered {
    fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
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
        // Comments of rules and names of chains are whatever their authors wanted.
        let (chain, rule) = (visible(&self.chain), visible(&self.rule));
        write!(f, "{chain}: {rule} may drop packets to {}", self.hindered)
    }
}

/// What a firewall's program listed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listing {
    /// `iptables-save` or `ip6tables-save`.
    Iptables(Family, String),
    /// `nft -j list ruleset`.
    Nftables(String),
}

impl Listing {
    /// What is listed; of nftables without what iptables lists too, and better, if it `has_iptables`.
    fn chains(&self, has_iptables: bool) -> Chains {
        match self {
            Self::Iptables(family, text) => iptables::chains(*family, text),
            Self::Nftables(json) => nftables::chains(json, has_iptables),
        }
    }
}

impl Plan {
    /// The rules among `listings` that may drop packets to bound addresses and ports.
    #[must_use]
    pub fn obstacles(&self, listings: &[Listing]) -> Vec<Obstacle> {
        let has_iptables = listings.iter().any(|listing| matches!(listing, Listing::Iptables(..)));
        let mut obstacles = Vec::new();
        for listing in listings {
            let chains = listing.chains(has_iptables);
            for name in chains.iter().filter(|(_, chain)| chain.is_base).map(|(name, _)| name) {
                let mut open: Vec<&Binding> = self.bindings.iter().map(|planned| &planned.binding).collect();
                let mut walk = Walk { chains: &chains, obstacles: &mut obstacles, depth: 0 };
                walk.chain(name, &mut open);
                if let Some(Chain { policy: Some(policy), .. }) = chains.get(name) {
                    open.retain(|binding| name.concerns(binding.family()));
                    let hindered: Hindered = open.into_iter().collect();
                    if !hindered.is_empty() {
                        obstacles.push(Obstacle {
                            chain: name.to_string(),
                            rule: format!("policy {policy}, unless a rule accepts them,"),
                            hindered,
                        });
                    }
                }
            }
        }
        obstacles.dedup();
        obstacles.truncate(NAMED);
        obstacles
    }
}

/// The chains of one listing, by name.
type Chains = BTreeMap<ChainName, Chain>;

/// Which chain.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct ChainName {
    /// What lists it: `iptables`, or `nft` and the family.
    program: &'static str,
    table: String,
    chain: String,
    /// The families of its packets; `None` is both.
    family: Option<Family>,
}

impl ChainName {
    fn concerns(&self, family: Family) -> bool {
        self.family.is_none_or(|own| own == family)
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.program, self.table, self.chain)
    }
}

/// A chain.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Chain {
    /// Whether packets for the host enter it without a jump.
    is_base: bool,
    /// Whether they enter it before conntrack looks at them.
    is_before_conntrack: bool,
    /// The policy, if it is not to accept.
    policy: Option<String>,
    rules: Vec<Rule>,
}

/// A rule, as far as it is understood.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Rule {
    text: String,
    protocol: Option<Protocol>,
    /// Addresses; none given, any.
    prefixes: Vec<Prefix>,
    /// Ports; none given, any.
    ports: Vec<PortRange>,
    /// Whether it asks for something else, too: then it matches some packets only.
    more: bool,
    /// Whether it asks for packets of connections that exist, so that none of ours is among them.
    never: bool,
    /// Whether conntrack has to be there for it.
    tracks: bool,
    verdict: Option<Verdict>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Verdict {
    Accept,
    Drop,
    Jump(String),
    /// To go on, untracked.
    NoTrack,
    Return,
}

impl Rule {
    /// Whether some packets to `binding` match.
    fn may_match(&self, binding: &Binding) -> bool {
        !self.never
            && self.protocol.is_none_or(|protocol| protocol == binding.protocol)
            && (self.prefixes.is_empty()
                || self.prefixes.iter().any(|prefix| prefix.overlaps(&binding.prefix)))
            && (self.ports.is_empty() || self.ports.iter().any(|ports| ports.overlaps(&binding.ports)))
    }

    /// Whether all packets to `binding` match.
    fn must_match(&self, binding: &Binding) -> bool {
        let contains = |prefix: &Prefix| {
            prefix.length() <= binding.prefix.length() && prefix.contains(binding.prefix.address())
        };
        !self.more
            && !self.never
            && self.protocol.is_none_or(|protocol| protocol == binding.protocol)
            && (self.prefixes.is_empty() || self.prefixes.iter().any(contains))
            && (self.ports.is_empty() || self.ports.iter().any(|ports| ports.encloses(&binding.ports)))
    }
}

/// The way of packets through chains.
struct Walk<'a> {
    chains: &'a Chains,
    obstacles: &'a mut Vec<Obstacle>,
    depth: usize,
}

impl Walk<'_> {
    /// Goes through a chain with the packets of the bindings in `open`; what is left there reaches its end.
    fn chain(&mut self, name: &ChainName, open: &mut Vec<&Binding>) {
        /// Deeper than anybody's jumps; the kernel refuses loops.
        const DEEPEST: usize = 16;
        let Some(chain) = self.chains.get(name) else { return };
        open.retain(|binding| name.concerns(binding.family()));
        for rule in &chain.rules {
            if open.is_empty() {
                return;
            }
            match &rule.verdict {
                // What returns goes on behind the jump: still open.
                Some(Verdict::Accept) => open.retain(|binding| !rule.must_match(binding)),
                Some(Verdict::Drop) => {
                    let hindered: Hindered =
                        open.iter().copied().filter(|binding| rule.may_match(binding)).collect();
                    if !hindered.is_empty() {
                        self.obstacles.push(Obstacle {
                            chain: name.to_string(),
                            rule: format!("`{}`", rule.text),
                            hindered,
                        });
                        open.retain(|binding| !rule.must_match(binding));
                    }
                }
                Some(Verdict::Jump(target)) if self.depth < DEEPEST => {
                    let mut entering: Vec<&Binding> =
                        open.iter().copied().filter(|binding| rule.may_match(binding)).collect();
                    let target = ChainName { chain: target.clone(), ..name.clone() };
                    self.depth += 1;
                    self.chain(&target, &mut entering);
                    self.depth -= 1;
                    // Settled there, if all of its packets went there.
                    let left: HashSet<&Binding> = entering.into_iter().collect();
                    open.retain(|binding| left.contains(*binding) || !rule.must_match(binding));
                }
                Some(Verdict::Jump(_) | Verdict::NoTrack | Verdict::Return) | None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;

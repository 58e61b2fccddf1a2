//! The way of packets through chains, and what rules do to them there. Reads no listing.

use std::collections::HashSet;

use super::chains::{ChainName, Chains, HostChain, HostRule, HostVerdict, State};
use crate::model::{Binding, PortRange};

/// The search for something on the way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Search {
    /// Rules that drop packets.
    Drops,
    /// Rules that give connections another destination.
    Takes,
}

/// A rule that was looked for, and what of the bindings it may match.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Hit<'a> {
    pub(super) chain: ChainName,
    pub(super) rule: &'a HostRule,
    /// The jump that says more about ports than the rule itself.
    pub(super) by_way_of: Option<&'a HostRule>,
    /// The only ports that it can be about; empty, any.
    pub(super) ports: &'a [PortRange],
    pub(super) bindings: Vec<&'a Binding>,
}

/// The way of packets through chains.
pub(super) struct Walk<'a> {
    chains: &'a Chains,
    search: Search,
    state: State,
    /// The jumps that lead to the chain that is walked.
    jumps: Vec<&'a HostRule>,
    /// The hits, in the order of the way.
    pub(super) hits: Vec<Hit<'a>>,
    /// The bindings that no later chain can take.
    pub(super) settled: HashSet<&'a Binding>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(chains: &'a Chains, search: Search, state: State) -> Self {
        Self { chains, search, state, jumps: Vec::new(), hits: Vec::new(), settled: HashSet::new() }
    }

    /// Goes through a chain with the packets of the bindings in `open`; what is left there reaches its end, or returns.
    pub(super) fn chain(&mut self, name: &ChainName, open: &mut Vec<&'a Binding>) {
        /// Deeper than anybody's jumps; the kernel refuses loops.
        const DEEPEST: usize = 16;
        let chains = self.chains;
        let Some(chain) = chains.get(name) else { return };
        open.retain(|binding| name.concerns(binding.family()));
        let entered = open.clone();
        let mut returned: HashSet<&Binding> = HashSet::new();
        for rule in &chain.rules {
            if open.is_empty() {
                break;
            }
            let all_of = |binding: &&Binding| rule.must_match(binding, self.state);
            match &rule.verdict {
                Some(HostVerdict::Accept) => open.retain(|binding| !all_of(binding)),
                Some(HostVerdict::Drop) => {
                    if self.search == Search::Drops {
                        self.hit(name, rule, open);
                    }
                    open.retain(|binding| !rule.must_match(binding, self.state));
                }
                Some(HostVerdict::Keep | HostVerdict::Take) => {
                    if self.search == Search::Takes && rule.verdict == Some(HostVerdict::Take) {
                        self.hit(name, rule, open);
                    }
                    let state = self.state;
                    self.settled
                        .extend(open.iter().copied().filter(|binding| rule.must_match(binding, state)));
                    open.retain(|binding| !rule.must_match(binding, state));
                }
                Some(HostVerdict::Jump(target) | HostVerdict::Goto(target)) if self.jumps.len() < DEEPEST => {
                    let mut entering: Vec<&Binding> =
                        open.iter().copied().filter(|binding| rule.may_match(binding, self.state)).collect();
                    if entering.is_empty() {
                        continue;
                    }
                    self.jumps.push(rule);
                    self.chain(&name.beside(target), &mut entering);
                    self.jumps.pop();
                    let left: HashSet<&Binding> = entering.into_iter().collect();
                    let is_goto = matches!(rule.verdict, Some(HostVerdict::Goto(_)));
                    open.retain(|binding| {
                        if !rule.must_match(binding, self.state) {
                            return true;
                        }
                        // All of its packets went there. Settled there, or back; behind a goto, back to an earlier chain.
                        let is_left = left.contains(*binding);
                        if is_left && is_goto {
                            returned.insert(binding);
                        }
                        is_left && !is_goto
                    });
                }
                Some(HostVerdict::Return) => {
                    returned.extend(open.iter().copied().filter(all_of));
                    open.retain(|binding| !returned.contains(*binding));
                }
                Some(HostVerdict::Jump(_) | HostVerdict::Goto(_) | HostVerdict::NoTrack) | None => {}
            }
        }
        if !returned.is_empty() {
            let open_still: HashSet<&Binding> = open.iter().copied().collect();
            // In the order in which they came.
            *open = entered;
            open.retain(|binding| returned.contains(*binding) || open_still.contains(*binding));
        }
    }

    fn hit(&mut self, name: &ChainName, rule: &'a HostRule, open: &[&'a Binding]) {
        let bindings: Vec<&Binding> =
            open.iter().copied().filter(|binding| rule.may_match(binding, self.state)).collect();
        if bindings.is_empty() {
            return;
        }
        let by_way_of = if rule.ports.is_empty() {
            self.jumps.iter().rev().find(|jump| !jump.ports.is_empty()).copied()
        } else {
            None
        };
        let ports = by_way_of.map_or(&rule.ports, |jump| &jump.ports);
        // Two rules of a chain may lead to the same.
        let bindings: Vec<&Binding> = bindings
            .into_iter()
            .filter(|binding| ports.is_empty() || ports.iter().any(|ports| ports.overlaps(&binding.ports)))
            .collect();
        if !bindings.is_empty() {
            self.hits.push(Hit { chain: name.clone(), rule, by_way_of, ports, bindings });
        }
    }
}

/// The base chains among `chains` that are `wanted`.
pub(super) fn bases<'a>(
    chains: &'a Chains,
    wanted: impl Fn(&HostChain) -> bool + 'a,
) -> impl Iterator<Item = (&'a ChainName, &'a HostChain)> {
    chains.iter().filter(move |(_, chain)| chain.base.is_some() && wanted(chain))
}

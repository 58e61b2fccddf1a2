//! Chains and rules, as far as a reader of rules understands them: what stands between a listing and a judgement. Lists
//! nothing and judges nothing.

use std::collections::BTreeMap;
use std::fmt;

use crate::model::{Binding, Family, PortRange, Prefix, Protocol};
use crate::plan::firewall::Chain as Own;

/// The chains of one listing, by name.
pub(super) type Chains = BTreeMap<ChainName, HostChain>;

/// The chain.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct ChainName {
    /// The program that lists and changes it: `iptables`, or `nft` and the family.
    pub(super) program: String,
    pub(super) table: String,
    pub(super) chain: String,
    /// The families of its packets; `None` is both.
    pub(super) family: Option<Family>,
}

impl ChainName {
    pub(super) fn concerns(&self, family: Family) -> bool {
        self.family.is_none_or(|own| own == family)
    }

    /// The chain of this name in the same table.
    pub(super) fn beside(&self, chain: &str) -> Self {
        Self { chain: chain.to_owned(), ..self.clone() }
    }

    /// True if an instance of ours made its table to exempt what it binds.
    pub(super) fn exempts(&self) -> bool {
        Own::of_exempting_table(&self.table).is_ok()
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.program, self.table, self.chain)
    }
}

/// A chain.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct HostChain {
    /// The hook from which packets enter it without a jump.
    pub(super) base: Option<Base>,
    /// The policy, if it is not to accept.
    pub(super) policy: Option<String>,
    pub(super) rules: Vec<HostRule>,
}

impl HostChain {
    pub(super) fn is_entered_at(&self, hooks: &[Hook]) -> bool {
        self.base.is_some_and(|base| hooks.contains(&base.hook))
    }

    /// True if packets enter it at `hook` before conntrack looks at them.
    pub(super) fn is_before_conntrack(&self, hook: Hook) -> bool {
        /// The priority at which conntrack looks at them (`NF_IP_PRI_CONNTRACK`).
        const CONNTRACK: i64 = -200;
        self.base.is_some_and(|base| base.hook == hook && !base.translates && base.priority < CONNTRACK)
    }
}

/// The beginning of a chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Base {
    pub(super) hook: Hook,
    /// Lower ones come first.
    pub(super) priority: i64,
    /// True if it translates addresses: then it sees the first packet of a connection only.
    pub(super) translates: bool,
}

/// A hook that packets pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Hook {
    Ingress,
    Input,
    Output,
    Prerouting,
}

/// The state that conntrack gives a packet that nobody has answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    New,
    Untracked,
}

/// A rule, as far as it is understood.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct HostRule {
    pub(super) text: String,
    pub(super) family: Option<Family>,
    pub(super) protocol: Option<Protocol>,
    /// Addresses dialled; none given, any.
    pub(super) prefixes: Vec<Prefix>,
    /// Addresses that it leaves out.
    pub(super) excluded: Vec<Prefix>,
    /// Ports dialled; none given, any.
    pub(super) ports: Vec<PortRange>,
    /// The prefixes that packets come from; none given, anywhere.
    pub(super) sources: Vec<Prefix>,
    /// The ports that they come from; none given, any.
    pub(super) source_ports: Vec<PortRange>,
    /// True if it asks for something else, too: then it matches some packets only.
    pub(super) more: bool,
    /// True if no packet of ours is what it asks for.
    pub(super) never: bool,
    /// Which of the states it does not ask for.
    pub(super) not_in: Vec<State>,
    /// True if conntrack has to be there for it.
    pub(super) tracks: bool,
    pub(super) verdict: Option<HostVerdict>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum HostVerdict {
    Accept,
    Drop,
    /// To another chain, and back to whoever jumped here.
    Goto(String),
    Jump(String),
    /// To leave the connection the destination it has, whatever later chains say.
    Keep,
    /// To go on, untracked.
    NoTrack,
    Return,
    /// To give the connection another destination.
    Take,
}

impl HostRule {
    /// True if some packets to `binding` match.
    pub(super) fn may_match(&self, binding: &Binding, state: State) -> bool {
        !self.never
            && !self.not_in.contains(&state)
            && self.family.is_none_or(|family| family == binding.family())
            && self.protocol.is_none_or(|protocol| protocol == binding.protocol)
            && (self.prefixes.is_empty()
                || self.prefixes.iter().any(|prefix| prefix.overlaps(&binding.prefix)))
            && !self.excluded.iter().any(|prefix| contains(prefix, &binding.prefix))
            && (self.ports.is_empty() || self.ports.iter().any(|ports| ports.overlaps(&binding.ports)))
    }

    /// True if all packets to `binding` match.
    pub(super) fn must_match(&self, binding: &Binding, state: State) -> bool {
        !self.more
            && self.may_match(binding, state)
            && (self.prefixes.is_empty()
                || self.prefixes.iter().any(|prefix| contains(prefix, &binding.prefix)))
            && !self.excluded.iter().any(|prefix| prefix.overlaps(&binding.prefix))
            && (self.ports.is_empty() || self.ports.iter().any(|ports| ports.encloses(&binding.ports)))
            && self.sources.iter().all(|prefix| prefix.length() == 0)
            && self.source_ports.is_empty()
    }

    /// The rule as answers meet it: what it says of the sender is about what was dialled.
    pub(super) fn reversed(&self) -> Self {
        Self {
            prefixes: self.sources.clone(),
            sources: self.prefixes.clone(),
            ports: self.source_ports.clone(),
            source_ports: self.ports.clone(),
            more: self.more || !self.excluded.is_empty(),
            excluded: Vec::new(),
            ..self.clone()
        }
    }
}

fn contains(prefix: &Prefix, other: &Prefix) -> bool {
    prefix.length() <= other.length() && prefix.contains(other.address())
}

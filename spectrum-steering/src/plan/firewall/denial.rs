//! Whom the rules of a firewall deny: ranges of source addresses, for the listeners whose clients they are. Says nothing of those
//! whom a policy allows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use spectrum_common::Value;

use super::nftables::pieces;
use crate::model::{
    Destination, Family, InterfaceName, OnDeny, Prefix, Protocol, ServiceName, SourcePolicy, SourceRate,
    SourceRule,
};
use crate::plan::table::prefixes::BoundPrefix;
use crate::plan::{Plan, PolicyScope, RunTimeSources};

/// Sources that may not come to some listeners, all of one family.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Denial {
    /// The family.
    pub(crate) family: Family,
    /// The listeners.
    pub(crate) listeners: Vec<(Protocol, SocketAddr)>,
    /// What the sources are told.
    pub(crate) on_deny: OnDeny,
    /// The first and the last address of each range; they do not overlap.
    pub(crate) ranges: Vec<(IpAddr, IpAddr)>,
    /// How often a source may come.
    pub(crate) rate: Option<SourceRate>,
    /// By which interfaces clients may come; none: by any.
    pub(crate) interfaces: BTreeSet<InterfaceName>,
    /// True if the ranges may change at any time, so that there is a place for them.
    pub(crate) may_change: bool,
}

impl Denial {
    /// True if nobody is denied, and nobody is soon.
    pub(super) fn has_no_set(&self) -> bool {
        self.ranges.is_empty() && !self.may_change
    }

    fn turns_anybody_away(&self) -> bool {
        !self.has_no_set() || self.rate.is_some() || !self.interfaces.is_empty()
    }
}

impl Plan {
    /// Whom the services deny, by `run_time` as well, as rules of a firewall have it; `listener` says where the listener of a
    /// destination is.
    #[must_use]
    pub fn denials(
        &self,
        run_time: &RunTimeSources,
        listener: impl Fn(&Destination) -> Option<SocketAddr>,
    ) -> Vec<Denial> {
        if self.policies.is_empty() && !run_time.is_in_use {
            return Vec::new();
        }
        let mut denials: BTreeMap<_, Denial> = BTreeMap::new();
        for destination in self.destinations.values() {
            let Some(address) = listener(destination) else { continue };
            let (family, service) = (destination.family, &destination.service);
            let has_own = self.policies.own.get(service).is_some_and(|own| !own.sources.is_empty())
                || run_time.own.contains_key(service);
            let on_deny = self.policies.on_deny(service);
            let rate = self.policies.rate(service);
            // Services that are counted together have one set.
            let counted = rate.is_some_and(|(scope, _)| scope == PolicyScope::Own).then_some(service);
            let interfaces = self.policies.interfaces(service);
            let key = (
                has_own.then_some(service),
                family,
                on_deny,
                rate.map(|(_, rate)| rate),
                counted,
                interfaces,
            );
            let denial = denials.entry(key).or_insert_with(|| Denial {
                family,
                listeners: Vec::new(),
                on_deny,
                ranges: self.denied(run_time, service, family),
                rate: rate.map(|(_, rate)| rate),
                interfaces: interfaces.clone(),
                may_change: run_time.is_in_use,
            });
            denial.listeners.push((destination.protocol, address));
        }
        denials.into_values().filter(Denial::turns_anybody_away).collect()
    }

    /// The addresses that `service` denies.
    fn denied(
        &self,
        run_time: &RunTimeSources,
        service: &ServiceName,
        family: Family,
    ) -> Vec<(IpAddr, IpAddr)> {
        let own = self.policies.own.get(service).into_iter().flat_map(|own| own.sources.entries());
        let said = run_time.own.get(service).into_iter().flat_map(SourcePolicy::entries);
        let said = run_time.common.entries().iter().chain(said);
        // Of two prefixes as long the later one stays. A prefix sorts before those that it contains.
        let entries = self.policies.common.entries().iter().chain(own).chain(said);
        let entries: BTreeMap<Prefix, SourceRule> = entries
            .filter(|entry| entry.prefix.family() == family)
            .map(|entry| (entry.prefix, entry.rule))
            .collect();
        let denied = Value::destination(0);
        let prefixes: Vec<BoundPrefix> = entries
            .into_iter()
            .map(|(prefix, rule)| BoundPrefix {
                address: prefix.address().into(),
                length: prefix.length(),
                value: if rule == SourceRule::Deny { denied } else { Value::PASS },
            })
            .collect();
        let pieces = pieces(&prefixes).into_iter().filter(|piece| piece.value == denied);
        pieces.map(|piece| piece.bounds(family)).collect()
    }
}

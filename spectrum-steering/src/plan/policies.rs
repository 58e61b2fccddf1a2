//! The source policies of all services together, and the obvious answer to whom they let in. How a table holds them is said by
//! `table`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Plan;
use crate::model::{
    Family, InterfaceName, OnDeny, Protocol, ServiceName, SourceEntry, SourcePolicy, SourceRate, SourceRule,
};

/// Whom the services of a plan let in.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Policies {
    /// For all services.
    pub common: SourcePolicy,
    /// What a client is told that is denied, where its service does not say.
    pub on_deny: OnDeny,
    /// How often a source may come to all services together that have no rate of their own.
    pub rate: Option<SourceRate>,
    /// By which interfaces clients may come, where their service does not say; none: by any.
    pub interfaces: BTreeSet<InterfaceName>,
    /// The services' own, of those that have any.
    pub own: BTreeMap<ServiceName, OwnPolicy>,
}

/// The source policy of one service, beside the one for all.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OwnPolicy {
    /// Whom it lets in. Of two prefixes as long its own decides.
    pub sources: SourcePolicy,
    /// What a client is told that is denied.
    pub on_deny: Option<OnDeny>,
    /// How often a source may come.
    pub rate: Option<SourceRate>,
    /// By which interfaces clients may come; none: as [`Policies::interfaces`] says.
    pub interfaces: BTreeSet<InterfaceName>,
}

/// The list that an entry stands in.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum PolicyScope {
    /// That of all services.
    Common,
    /// The service's own.
    Own,
}

impl Policies {
    /// The entry that decides on clients of `service` at `source`, if any contains it: of the longest prefixes of both lists the
    /// longer one, and of two as long the service's own.
    #[must_use]
    pub fn decisive(&self, service: &ServiceName, source: IpAddr) -> Option<(PolicyScope, SourceEntry)> {
        let own = self.own.get(service).and_then(|own| own.sources.longest(source));
        match (own, self.common.longest(source)) {
            (Some(own), Some(common)) if own.prefix.length() < common.prefix.length() => {
                Some((PolicyScope::Common, common))
            }
            (Some(own), _) => Some((PolicyScope::Own, own)),
            (None, common) => common.map(|entry| (PolicyScope::Common, entry)),
        }
    }

    /// What clients of `service` are told at `source`; `None` where they are let in.
    #[must_use]
    pub fn denies(&self, service: &ServiceName, source: IpAddr) -> Option<OnDeny> {
        let denied = self.decisive(service, source).is_some_and(|(_, entry)| entry.rule == SourceRule::Deny);
        denied.then(|| self.on_deny(service))
    }

    /// What denied clients of `service` are told.
    #[must_use]
    pub fn on_deny(&self, service: &ServiceName) -> OnDeny {
        self.own.get(service).and_then(|own| own.on_deny).unwrap_or(self.on_deny)
    }

    /// How often a source may come to `service`, and whether that is its own rate.
    #[must_use]
    pub fn rate(&self, service: &ServiceName) -> Option<(PolicyScope, SourceRate)> {
        let own = self.own.get(service).and_then(|own| own.rate).map(|rate| (PolicyScope::Own, rate));
        own.or(self.rate.map(|rate| (PolicyScope::Common, rate)))
    }

    /// By which interfaces clients of `service` may come; none: by any.
    #[must_use]
    pub fn interfaces(&self, service: &ServiceName) -> &BTreeSet<InterfaceName> {
        let own = self.own.get(service).map(|own| &own.interfaces).filter(|own| !own.is_empty());
        own.unwrap_or(&self.interfaces)
    }

    /// All interfaces that it names.
    pub fn all_interfaces(&self) -> impl Iterator<Item = &InterfaceName> {
        self.interfaces.iter().chain(self.own.values().flat_map(|own| &own.interfaces))
    }

    /// True if everybody is let in everywhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let is_open =
            |own: &OwnPolicy| own.sources.is_empty() && own.rate.is_none() && own.interfaces.is_empty();
        self.common.is_empty()
            && self.rate.is_none()
            && self.interfaces.is_empty()
            && self.own.values().all(is_open)
    }

    /// True if `service` turns anybody away.
    #[must_use]
    pub fn guard(&self, service: &ServiceName) -> bool {
        let own = self.own.get(service).is_some_and(|own| !own.sources.is_empty());
        own || !self.common.is_empty() || self.rate(service).is_some() || !self.interfaces(service).is_empty()
    }
}

impl Plan {
    /// What the client at `source` is told that dials `address` and `port`, where a service has that and denies the client. The
    /// obvious answer, which says what every faster one must be.
    #[must_use]
    pub fn denies(&self, protocol: Protocol, source: IpAddr, address: IpAddr, port: u16) -> Option<OnDeny> {
        let destination = self.destination(self.winner(protocol, address, port)?.destination)?;
        self.policies.denies(&destination.service, source)
    }

    /// The protocols and families of services that deny without a word, if only whom somebody denies at run time.
    #[must_use]
    pub fn silent(&self) -> BTreeSet<(Protocol, Family)> {
        let denying =
            self.destinations.values().filter(|one| self.policies.on_deny(&one.service) == OnDeny::Silent);
        denying.map(|one| (one.protocol, one.family)).collect()
    }
}

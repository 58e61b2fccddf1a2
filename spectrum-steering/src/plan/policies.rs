//! The source policies of all services together, and the obvious answer to whom they let in. How a table holds them is said by
//! `table`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Plan;
use crate::model::{Family, OnDeny, Protocol, ServiceName, SourceEntry, SourcePolicy, SourceRule};

/// Whom the services of a plan let in.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Policies {
    /// For all services.
    pub common: SourcePolicy,
    /// What a client is told that is denied, where its service does not say.
    pub on_deny: OnDeny,
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

    /// True if everybody is let in everywhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.common.is_empty() && self.own.values().all(|own| own.sources.is_empty())
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

    /// The protocols and families of services that deny without a word.
    #[must_use]
    pub fn silent(&self) -> BTreeSet<(Protocol, Family)> {
        let denying = self.destinations.values().filter(|one| {
            let own = self.policies.own.get(&one.service);
            let denies = !self.policies.common.is_empty() || own.is_some_and(|own| !own.sources.is_empty());
            denies && self.policies.on_deny(&one.service) == OnDeny::Silent
        });
        denying.map(|one| (one.protocol, one.family)).collect()
    }
}

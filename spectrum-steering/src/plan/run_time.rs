//! Whom services let in by what was said at run time, beside the policies of the configuration. Knows nothing of when that ends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Plan, Policies, PolicyScope};
use crate::model::{Family, OnDeny, Protocol, ServiceName, SourceEntry, SourcePolicy, SourceRule};

/// The words said at run time of sources. A clone shares the entries.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RunTimeSources {
    /// For all services.
    pub common: SourcePolicy,
    /// For one service each, of those of which anything was said; they stay when nothing of it is left.
    pub own: Arc<BTreeMap<ServiceName, SourcePolicy>>,
    /// True once anything was said: then there is room for more everywhere.
    pub is_in_use: bool,
}

/// The place of an entry.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum EntrySource {
    /// In the configuration.
    Configured,
    /// Somebody said it at run time.
    RunTime,
}

impl RunTimeSources {
    /// The entry that decides on clients of `service` at `source`, beside what `policies` say: the longest that contains it. Of two as
    /// long what was said at run time, then what was said of the service itself.
    #[must_use]
    pub fn decisive(
        &self,
        policies: &Policies,
        service: &ServiceName,
        source: IpAddr,
    ) -> Option<(EntrySource, PolicyScope, SourceEntry)> {
        let own = self.own.get(service).and_then(|own| own.longest(source));
        let said = [(PolicyScope::Own, own), (PolicyScope::Common, self.common.longest(source))];
        let said = said.map(|(scope, entry)| (EntrySource::RunTime, scope, entry));
        let configured = policies.decisive(service, source);
        let configured = configured.map(|(scope, entry)| (EntrySource::Configured, scope, entry));
        let said = said.into_iter().filter_map(|(of, scope, entry)| Some((of, scope, entry?)));
        said.chain(configured)
            .reduce(|best, next| if next.2.prefix.length() > best.2.prefix.length() { next } else { best })
    }

    /// The answer to the client at `source` that dials `address` and `port` of `plan`, where a service has that and denies the client.
    /// The obvious answer, as [`Plan::denies`].
    #[must_use]
    pub fn denies(
        &self,
        plan: &Plan,
        protocol: Protocol,
        source: IpAddr,
        address: IpAddr,
        port: u16,
    ) -> Option<OnDeny> {
        let destination = plan.destination(plan.winner(protocol, address, port)?.destination)?;
        let service = &destination.service;
        let (.., entry) = self.decisive(&plan.policies, service, source)?;
        (entry.rule == SourceRule::Deny).then(|| plan.policies.on_deny(service))
    }

    /// The lists of which there must be room, each of one family: that of all services is `None`.
    pub(super) fn lists(&self) -> BTreeSet<(Option<&ServiceName>, Family)> {
        if !self.is_in_use {
            return BTreeSet::new();
        }
        let names = std::iter::once(None).chain(self.own.keys().map(Some));
        names.flat_map(|name| [(name, Family::Ipv4), (name, Family::Ipv6)]).collect()
    }

    /// The entries of one of the lists.
    pub(super) fn list(&self, service: Option<&ServiceName>) -> &[SourceEntry] {
        match service {
            None => self.common.entries(),
            Some(service) => self.own.get(service).map_or(&[], SourcePolicy::entries),
        }
    }
}

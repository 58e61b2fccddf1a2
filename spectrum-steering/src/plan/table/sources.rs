//! Whom services let in, without what they bind: for whoever judges clients that have come as far as a listener. Judges nobody.

use std::collections::{BTreeMap, BTreeSet};

use spectrum_common::{Domain, NO_NODE, Node};

use super::gates::Gates;
use super::{RunTimeLists, Table, TableError};
use crate::model::{Destination, DestinationId, Family, Protocol, ServiceName};
use crate::plan::{Policies, RunTimeSources};

/// The gates of services and the lists behind them, compiled as a [`Table`] has them.
#[derive(Clone, Debug)]
pub struct SourceTable {
    table: Table,
    gates: BTreeMap<(ServiceName, Family), u32>,
}

impl SourceTable {
    /// Compiles whom `services` let in, clients of both families each, by `policies` and by what was said at run time. By which
    /// interfaces clients come is not known any more, and nobody is turned away for that.
    ///
    /// # Errors
    /// As for [`Table::of`].
    pub fn of<'a>(
        services: impl IntoIterator<Item = &'a ServiceName>,
        policies: &Policies,
        run_time: &RunTimeSources,
    ) -> Result<Self, TableError> {
        let services: BTreeSet<&ServiceName> = services.into_iter().collect();
        // Whom a proxy names may be of another family than what was dialled.
        let of_both = services.into_iter().flat_map(|service| {
            [Family::Ipv4, Family::Ipv6].map(|family| Destination {
                service: service.clone(),
                revision: 0,
                family,
                protocol: Protocol::Tcp,
            })
        });
        let destinations: BTreeMap<DestinationId, Destination> =
            (0..).map(DestinationId).zip(of_both).collect();
        let run_time = RunTimeLists::of(run_time)?;
        let first = Domain::ALL.len();
        let gates = Gates::of(&destinations, policies, &run_time, first)?;
        let of_each = destinations.iter().map(|(id, one)| (one, gates.value(*id).gate()));
        let of_each = of_each.filter(|(_, gate)| *gate != NO_NODE);
        let of_each = of_each.map(|(one, gate)| ((one.service.clone(), one.family), gate)).collect();
        let mut table = Table { nodes: vec![Node::default(); first + gates.nodes()], run_time };
        gates.place(&mut table, &|_name| None)?;
        Ok(Self { table, gates: of_each })
    }

    /// The gate of each service and family that has one, by its index.
    pub fn gates(&self) -> impl Iterator<Item = (&ServiceName, Family, u32)> {
        self.gates.iter().map(|((service, family), gate)| (service, *family, *gate))
    }

    /// The nodes, as [`spectrum_common::admit`] reads them.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        self.table.nodes()
    }

    /// The lists of what was said at run time.
    #[must_use]
    pub fn run_time(&self) -> &RunTimeLists {
        self.table.run_time()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use spectrum_common::{DenyReason, Source, SourceVerdict, admit};

    use super::*;
    use crate::model::{OnDeny, SourceEntry, SourcePolicy, SourceRule};
    use crate::plan::OwnPolicy;

    fn policy(entries: &[(&str, SourceRule)]) -> SourcePolicy {
        let entries =
            entries.iter().map(|(prefix, rule)| SourceEntry { prefix: prefix.parse().unwrap(), rule: *rule });
        SourcePolicy::of(&entries.collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn services_let_in_whom_their_policies_do_whatever_they_bind() {
        let [web, open]: [ServiceName; 2] = ["web", "open"].map(|name| name.parse().unwrap());
        let own = OwnPolicy {
            sources: policy(&[("10.1.0.0/16", SourceRule::Allow), ("2001:db8::/32", SourceRule::Deny)]),
            on_deny: Some(OnDeny::Silent),
            ..OwnPolicy::default()
        };
        let policies = Policies {
            common: policy(&[("10.0.0.0/8", SourceRule::Deny)]),
            own: [(web.clone(), own)].into(),
            ..Policies::default()
        };
        let run_time = RunTimeSources {
            common: policy(&[("198.51.100.7/32", SourceRule::Deny)]),
            own: Arc::default(),
            is_in_use: true,
        };
        let table = SourceTable::of([&web, &open], &policies, &run_time).unwrap();
        let told = |service: &ServiceName, source: &str| {
            let source: IpAddr = source.parse().unwrap();
            let is_its = |one: &(&ServiceName, Family, u32)| one.0 == service && one.1 == Family::of(source);
            let gate = table.gates().find(is_its).unwrap().2;
            admit(gate, &Source::from(source), &table.table)
        };
        let (refused, silenced) =
            (SourceVerdict::Refuse(DenyReason::Denied), SourceVerdict::Silence(DenyReason::Denied));
        for (service, source, verdict) in [
            (&web, "10.2.0.1", silenced),
            (&web, "10.1.0.1", SourceVerdict::Admit),
            (&web, "2001:db8::1", silenced),
            (&web, "192.0.2.1", SourceVerdict::Admit),
            (&web, "198.51.100.7", silenced),
            (&open, "10.1.0.1", refused),
            (&open, "2001:db8::1", SourceVerdict::Admit),
            (&open, "198.51.100.7", refused),
        ] {
            assert_eq!(told(service, source), verdict, "{source} to {service}");
        }
        let none = SourceTable::of([&web], &Policies::default(), &RunTimeSources::default()).unwrap();
        assert_eq!(none.gates().count(), 0);
    }
}

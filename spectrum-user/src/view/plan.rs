//! The part of the view that a plan alone can tell, which is what `check` prints. Reads no file.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::OriginPlan;
use super::announcement::AnnouncingPlan;
use super::making::millis;
use super::service::{RecordsPlan, ServicePlan};
use super::source_policy::{DatabasePlan, SourcePolicyPlan, judged};
use crate::config::Config;
use crate::model::{
    Destination, DestinationId, Family, PortRange, Prefix, Protocol, Service, ServiceName, Target,
};
use crate::plan::table::Table;
use crate::plan::{Plan, PlannedBinding};

/// A binding and its service.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct BindingView {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its prefix.
    #[serde(with = "text")]
    pub prefix: Prefix,
    /// Its ports.
    #[serde(with = "text")]
    pub ports: PortRange,
    /// The service that it leads to.
    #[serde(with = "text")]
    pub service: ServiceName,
    /// The same for the kernel.
    pub destination: u32,
}

/// A destination as planned.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DestinationPlan {
    /// Its id.
    pub id: u32,
    /// Its service.
    pub service: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its family.
    pub family: Family,
}

/// The size of the steering table.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TableView {
    /// Its nodes.
    pub nodes: usize,
    /// The memory that they take in the kernel.
    pub bytes: usize,
}

/// A configuration, and what a start would raise for it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct PlanView {
    /// The files, in the order in which they were read.
    pub files: Vec<String>,
    /// The path to steer by, as configured.
    pub mode: String,
    /// The firewall of the TPROXY path, as configured.
    pub firewall: String,
    /// The address of metrics and health.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
    /// The bindings that hide the whole of it, so that a start refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_hidden: Option<String>,
    /// The options of the log.
    pub log: LogPlan,
    /// The options for resolving names of origins.
    pub resolver: ResolverPlan,
    /// The prefixes that are announced, and when.
    #[serde(skip_serializing_if = "AnnouncingPlan::is_nothing")]
    pub announcing: AnnouncingPlan,
    /// In the order configured.
    pub services: Vec<CheckedService>,
    /// Whom they let in: first what is said for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<SourcePolicyPlan>,
    /// Where that is judged on the paths that there may be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies_judged: Vec<String>,
    /// The databases whose networks they name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<DatabasePlan>,
    /// By id.
    pub destinations: Vec<DestinationPlan>,
    /// In the order of precedence.
    pub bindings: Vec<BindingView>,
    /// The local routes.
    #[serde(serialize_with = "texts")]
    pub routes: Vec<Prefix>,
    /// The steering table, with sk_lookup.
    pub table: TableView,
}

/// The options of the log.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct LogPlan {
    /// The form of its lines.
    pub format: String,
    /// The records of services that say nothing else.
    #[serde(flatten)]
    pub records: RecordsPlan,
}

/// The options for resolving names of origins.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ResolverPlan {
    /// The name servers; none are those of the host.
    pub servers: Vec<SocketAddr>,
    /// The time that an answer may take.
    pub timeout_ms: u64,
    /// So many addresses of a name are used.
    pub addresses: u16,
    /// So many targets of an SRV name are used.
    pub targets: u16,
    /// The shortest time for which an answer holds.
    pub min_ttl_ms: u64,
}

/// A service as configured, with its origins.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct CheckedService {
    /// The service.
    #[serde(flatten)]
    pub plan: ServicePlan,
    /// What whoever runs its servers should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Its origins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<OriginPlan>,
}

/// What the servers of a registered service must do, which nobody can see before one is there.
fn notes(service: &Service) -> Vec<String> {
    let is_udp = service.bindings.iter().any(|binding| binding.protocol == Protocol::Udp);
    if service.target != Target::Registered || !is_udp {
        return Vec::new();
    }
    let ports: BTreeSet<PortRange> = service
        .bindings
        .iter()
        .filter(|binding| binding.protocol == Protocol::Udp)
        .map(|binding| binding.ports)
        .collect();
    let mut notes = vec![
        "a registered server must answer a datagram from the address that it was sent to, as those do that ask for it (IP_PKTINFO)"
            .to_owned(),
    ];
    let is_one = |ports: &PortRange| ports.first() == ports.last();
    if ports.len() > 1 || !ports.iter().all(is_one) {
        notes.push(
            "it answers from its own port alone, so that no client hears it that dialled another one; relay to it by origins instead"
                .to_owned(),
        );
    }
    notes
}

impl PlanView {
    /// The view of `config` and its `plan`, whose table is `table`.
    #[must_use]
    pub fn of(config: &Config, plan: &Plan, table: &Table) -> Self {
        let services = config.services.iter().map(|service| CheckedService {
            plan: ServicePlan::of(config, service, service.bindings.len(), usize::MAX),
            notes: notes(service),
            origins: match &service.target {
                Target::Origins(origins) => origins.list.iter().map(Into::into).collect(),
                Target::Registered | Target::Respond(_) => Vec::new(),
            },
        });
        Self {
            files: config.shown_files(),
            mode: config.mode.to_string(),
            firewall: config.firewall.to_string(),
            admin: config.admin,
            admin_hidden: config.admin.and_then(|admin| plan.hiding_admin(admin)),
            log: LogPlan {
                format: config.log.format.unwrap_or_default().to_string(),
                records: config.log.general.into(),
            },
            resolver: ResolverPlan {
                servers: config.resolver.servers.clone(),
                timeout_ms: millis(config.resolver.timeout),
                addresses: config.resolver.addresses,
                targets: config.resolver.targets,
                min_ttl_ms: millis(config.resolver.min_ttl),
            },
            announcing: AnnouncingPlan::of(&config.announcing),
            services: services.collect(),
            policies: SourcePolicyPlan::all(&plan.policies),
            policies_judged: judged(config, plan),
            databases: DatabasePlan::all(config),
            destinations: plan.destinations.iter().map(DestinationPlan::of).collect(),
            bindings: plan.bindings.iter().map(|planned| BindingView::of(plan, planned)).collect(),
            routes: plan.routes.clone(),
            table: TableView { nodes: table.nodes().len(), bytes: table.bytes() },
        }
    }
}

impl BindingView {
    /// The view of one of the bindings of `plan`.
    #[must_use]
    pub fn of(plan: &Plan, planned: &PlannedBinding) -> Self {
        let PlannedBinding { binding, destination } = planned;
        let service = plan.destination(*destination).map(|destination| destination.service.clone());
        Self {
            protocol: binding.protocol,
            prefix: binding.prefix,
            ports: binding.ports,
            service: service.unwrap_or_default(),
            destination: destination.0,
        }
    }
}

impl DestinationPlan {
    /// The plan of `destination`, which is known by `id`.
    #[must_use]
    pub fn of((id, destination): (&DestinationId, &Destination)) -> Self {
        let Destination { service, family, protocol, revision: _ } = destination;
        Self { id: id.0, service: service.to_string(), protocol: *protocol, family: *family }
    }
}

fn texts<S: serde::Serializer>(values: &[Prefix], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(ToString::to_string))
}

/// Values as they are typed.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

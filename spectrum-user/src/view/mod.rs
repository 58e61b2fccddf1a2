//! What an instance is and how it fares, as everybody is told: `status`, `explain`, metrics and health are made from a [`View`],
//! and `check` from the part of it that a plan alone can tell. Texts are as they are typed on the command line, so that who reads
//! the JSON needs nothing else. Shows itself to nobody.

mod announcement;
mod faults;
mod line;
mod making;
mod origin;
mod plan;
mod policy;
mod present;
mod readiness;
mod registered;
mod run_time;
mod service;
mod source_policy;
mod surroundings;
mod target;

pub use announcement::{AnnouncedPlan, AnnouncementView, AnnouncingPlan};
pub(crate) use faults::Unmended;
pub use faults::{Faults, News, named};
pub(crate) use making::counted;
pub use making::{DETACHED, Scope};
pub use origin::{CheckView, ErrorView, OriginPlan, OriginView, RecordView};
pub use plan::{BindingView, CheckedService, DestinationPlan, LogPlan, PlanView, ResolverPlan, TableView};
pub use policy::{LimitsView, TimeoutsView, UdpView, policy_lines};
pub use present::{LeavingWorker, Present, Published, Seen};
pub use readiness::Readiness;
pub use registered::{RegisteredCondition, RegisteredView, SocketView, in_percent};
pub use run_time::{Damage, DeniedView, RunTimePresent, RunTimeView};
pub use service::{
    DatagramsView, DrainingView, EjectionPlan, EndedView, HealthPlan, RecordsPlan, ServicePlan, ServiceView,
    SessionsView, SpreadView,
};
pub use source_policy::{DatabasePlan, SourcePolicyPlan};
pub use surroundings::{Conflict, Surroundings, bridges_to_rules};

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use strum::Display;

use crate::confinement::WorkerReport;
use crate::registry::Mode;
use spectrum_steering::dispatcher::{AttachedProgram, XdpMode};

/// An instance at one moment.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct View {
    /// The version of its program.
    #[serde(default)]
    pub version: String,
    /// Its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its process id.
    pub pid: u32,
    /// The phase of its life.
    pub state: InstanceState,
    /// The mode in which it steers, once that is decided.
    pub mode: Option<Mode>,
    /// The inode of its network namespace, as `lsns` prints it.
    pub namespace: u64,
    /// The number of times that the bindings have been published.
    pub generation: u64,
    /// The number of configurations before this one.
    #[serde(default)]
    pub revision: u32,
    /// The files of the configuration, in the order in which they were read; none where flags say it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// The reloads so far.
    #[serde(default)]
    pub reloads: ReloadsView,
    /// The upgrades so far.
    #[serde(default)]
    pub upgrades: UpgradesView,
    /// The repairs of what others had removed, by the kind of thing.
    #[serde(default)]
    pub repairs: BTreeMap<String, u64>,
    /// The looks for what may be missing that failed, by the kind of thing.
    #[serde(default)]
    pub failed_looks: BTreeMap<String, u64>,
    /// What its worker process may do; none where that is no process of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_process: Option<WorkerReport>,
    /// Worker processes that have left their listeners to it, and still have something open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving_workers: Vec<LeavingView>,
    /// The program that is attached, with sk_lookup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<AttachedProgram>,
    /// Its parts in the firewall: the chains or tables that steer with TPROXY, and the tables beside these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firewall: Vec<String>,
    /// The steering table, with sk_lookup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableView>,
    /// The interfaces where XDP is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xdp: Vec<XdpView>,
    /// The directory of what is pinned, by which registered sockets are steered to also without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pins: Option<String>,
    /// The packets that XDP has dropped, before the stack saw them. They are counted as denied, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped_early: Option<u64>,
    /// The address of metrics and health.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
    /// The number of descriptors that all connections together may have; what comes on top is reset.
    pub descriptors: usize,
    /// The number of these that each service has of its own, whatever the others take.
    #[serde(default)]
    pub descriptors_of_each: usize,
    /// In the order configured, then those that the configuration has no more.
    pub services: Vec<ServiceView>,
    /// The connections and UDP sessions of each service and protocol that has had any, of services that are gone, too.
    #[serde(default)]
    pub sessions: Vec<SessionsView>,
    /// The sessions and records that were not counted: there was no room for the counters of one more service.
    #[serde(default)]
    pub uncounted: u64,
    /// By id.
    pub destinations: Vec<DestinationView>,
    /// The prefixes that are to be announced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub announcements: Vec<AnnouncementView>,
    /// The device that has their routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announcing_device: Option<String>,
    /// Why what was withdrawn by hand may be forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announcing_damage: Option<String>,
    /// The BGP daemons of the host, as whoever asks for the status has asked them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bgp_daemons: Vec<crate::model::BgpDaemon>,
    /// The changes of what is announced so far, by the kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub announcing_changes: BTreeMap<String, u64>,
    /// What was said at run time of whom services let in.
    #[serde(default, skip_serializing_if = "RunTimeView::is_empty")]
    pub run_time: RunTimeView,
    /// The clients that the worker process judges, after accept; none: what steers judges all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged_after_accept: Option<String>,
    /// The lines and records that were not written.
    #[serde(default)]
    pub log: LogView,
    /// The things that others removed and that have not been put back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// Those of them that clients need: it is not ready while there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hindrances: Vec<String>,
    /// The things that could not be looked for, so that nobody knows whether they are missing, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unseen: Vec<String>,
    /// The things that stand in its way.
    #[serde(flatten)]
    pub surroundings: Surroundings,
}

/// The XDP program on one interface.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct XdpView {
    /// The interface's name.
    pub interface: String,
    /// Where the program is; none: the interface was not there.
    pub mode: Option<XdpMode>,
}

/// A worker process on its way out.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LeavingView {
    /// Its process id.
    pub pid: u32,
    /// Until what it has open is cut.
    pub cut_in_ms: u64,
}

/// The phase of an instance's life.
#[derive(Clone, Copy, Debug, Default, Deserialize, Display, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum InstanceState {
    /// Nothing is steered yet.
    #[default]
    Starting,
    /// Traffic flows.
    Ready,
    /// Traffic flows, and the next configuration is prepared.
    Reloading,
    /// Traffic flows, and another version of the program takes over.
    Upgrading,
    /// Traffic flows, and nothing is announced any more: the end is near.
    LameDuck,
    /// Nothing is steered any more; what is open may end.
    Draining,
}

impl InstanceState {
    /// True if traffic flows.
    #[must_use]
    pub fn is_serving(self) -> bool {
        matches!(self, Self::Ready | Self::Reloading | Self::Upgrading | Self::LameDuck)
    }
}

/// The numbers of requests for another configuration.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ReloadsView {
    /// Those that took effect.
    pub done: u64,
    /// Those that changed nothing, because something was wrong.
    pub refused: u64,
}

/// The upgrades to other versions of the program.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct UpgradesView {
    /// Those that took place.
    pub done: u64,
    /// Those that did not, because something was wrong.
    pub refused: u64,
    /// The last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastUpgradeView>,
}

/// An upgrade, or an attempt at one.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct LastUpgradeView {
    /// The moment.
    pub at: String,
    /// The version before.
    pub from: String,
    /// The reason for which it did not take place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// The numbers of lines and records that were not written.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogView {
    /// Those that were lost because nobody read them or there was no room for them, by the stream.
    pub lost: BTreeMap<String, u64>,
    /// Records that were left out on purpose, by the reason.
    pub omitted: BTreeMap<String, u64>,
}

/// A destination.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DestinationView {
    /// The destination itself.
    #[serde(flatten)]
    pub plan: DestinationPlan,
    /// Its listener.
    pub listener: Option<ListenerView>,
    /// The counters of its packets, with sk_lookup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<PacketCounts>,
    /// Packets that its source policy turned away, by [`DenyReason`](spectrum_common::DenyReason); with TPROXY those that nftables
    /// counted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub denied: BTreeMap<String, u64>,
}

/// The sockets behind a destination.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ListenerView {
    /// The address that all have.
    pub address: SocketAddr,
    /// Their cookies, in hexadecimal, as `ss -e` prints them behind `sk:`.
    pub cookies: Vec<String>,
}

/// The counters of packets.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct PacketCounts {
    /// Given to the listener.
    pub steered: u64,
    /// Refused since there is no listener.
    pub missed: u64,
    /// Refused for another reason, by the name of the error; those that there were.
    pub refused: BTreeMap<String, u64>,
}

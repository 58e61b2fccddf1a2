//! What a running instance answers, as it travels. Texts are as they are typed on the command line, so that who reads
//! the JSON needs nothing else. How people see it is said in `commands`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{LimitsAnswer, TimeoutsAnswer};
use crate::instance::Mode;
use crate::model::{Family, Protocol};

/// A binding and its service.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ListedBinding {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its prefix.
    pub prefix: String,
    /// Its ports.
    pub ports: String,
    /// The service that it leads to.
    pub service: String,
    /// The same for the kernel.
    pub destination: u32,
}

/// The way of a packet, and the reason.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Explanation {
    /// Its protocol.
    pub protocol: Protocol,
    /// The address and port that it dials.
    pub dialled: SocketAddr,
    /// Its origin.
    pub from: SocketAddr,
    /// The outcome for it.
    pub outcome: Outcome,
    /// More of what happens: why it is refused, or who takes what passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The one that was asked.
    pub decided_by: Decider,
    /// Why the kernel was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_asked: Option<String>,
    /// The answers of the kernel and the host's copy, should they differ: a defect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disagreement: Option<String>,
    /// The binding that wins.
    pub binding: Option<ListedBinding>,
    /// Why it does, or why none matches.
    pub why: String,
    /// The bindings that match as well, in the order of precedence.
    pub hides: Vec<ListedBinding>,
    /// When none matches, the one that comes closest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<ListedBinding>,
    /// The listener that takes it.
    pub listener: Option<ListenerAnswer>,
    /// Other things that may interfere.
    pub notes: Vec<String>,
}

/// The outcome for a packet.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The kernel looks for a socket as if we were not there.
    Passed,
    /// TCP gets a RST, UDP an ICMP port unreachable.
    Refused,
    /// A listener of ours takes it.
    Steered,
}

/// The one that decided.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decider {
    /// The host's copy of the decision.
    Host,
    /// The attached program.
    Kernel,
}

/// The sockets behind a destination.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ListenerAnswer {
    /// The address that all have.
    pub address: SocketAddr,
    /// Their cookies, in hexadecimal, as `ss -e` prints them behind `sk:`.
    pub cookies: Vec<String>,
}

/// The status of an instance.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Status {
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
    /// The program that is attached, with sk_lookup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramAnswer>,
    /// Its parts in the firewall: the chains or tables that steer with TPROXY, and the table of transparent origins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firewall: Vec<String>,
    /// The steering table, with sk_lookup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableAnswer>,
    /// The address of metrics and health.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
    /// The number of descriptors that all connections together may have; what comes on top is reset.
    pub descriptors: usize,
    /// The number of these that each service has of its own, whatever the others take.
    #[serde(default)]
    pub descriptors_of_each: usize,
    /// In the order configured.
    pub services: Vec<ServiceAnswer>,
    /// By id.
    pub destinations: Vec<DestinationAnswer>,
    /// The other sk_lookup programs of the namespace.
    pub other_programs: Vec<ProgramAnswer>,
    /// Listeners that are not for steering and that bindings hide: those of other programs, and the one for metrics.
    pub conflicts: Vec<Conflict>,
    /// The things that others removed and that have not been put back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// The rules that may drop packets before they are steered.
    pub obstacles: Vec<String>,
    /// The things that could not be looked at, each with the reason.
    pub unknown: Vec<String>,
}

/// The phase of an instance's life.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    /// Nothing is steered yet.
    #[default]
    Starting,
    /// Traffic flows.
    Ready,
    /// Traffic flows, and the next configuration is prepared.
    Reloading,
    /// Nothing is steered any more; what is open may end.
    Draining,
}

impl InstanceState {
    /// Its word, as JSON has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Reloading => "reloading",
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A loaded program.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProgramAnswer {
    /// As `bpftool prog show` prints it.
    pub id: u32,
    /// Its name, if it could be asked for.
    pub name: Option<String>,
}

/// The size of the steering table.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TableAnswer {
    /// Its nodes.
    pub nodes: usize,
    /// The memory that they take in the kernel.
    pub bytes: usize,
}

/// A service.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServiceAnswer {
    /// Its name.
    pub name: String,
    /// The target that answers, in words.
    pub target: String,
    /// The limits of its connections.
    pub limits: LimitsAnswer,
    /// Their time limits.
    pub timeouts: TimeoutsAnswer,
    /// The number of its bindings.
    pub bindings: usize,
    /// Connections and UDP sessions that are open.
    pub open: u64,
    /// All there were.
    pub total: u64,
    /// Those of them that were reset since a limit was reached, by what was over it: a key of `limits`, `descriptors` or
    /// `descriptor-share`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub denied: BTreeMap<String, u64>,
    /// When what it has open is cut, where the configuration has it no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<DrainingAnswer>,
    /// The addresses that its connections can go to, in the order configured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<OriginAnswer>,
}

/// Of a service that was removed: the rest of its time.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DrainingAnswer {
    /// Until its connections are cut.
    pub cut_in_ms: u64,
}

/// One address of an origin, or an origin that has none.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OriginAnswer {
    /// As configured.
    pub origin: String,
    /// Its address, with its port unless that is the dialled one.
    pub address: Option<String>,
    /// `primary` or `backup`.
    pub role: String,
    /// Its share.
    pub weight: u16,
    /// True if that was set by `spectrum-user origin`, and is not as configured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_hand: bool,
    /// `up`, `down`, `drained`, `ejected`, `loop`, `refused`, `unresolved` or `unused`.
    pub condition: String,
    /// Of one that is unresolved, refused or unused: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The outcome of its last health check, if it is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_check: Option<CheckAnswer>,
    /// Its open connections.
    pub open: u64,
    /// All connections to it so far.
    pub connections: u64,
    /// Dials that failed so far, and connections that it broke off.
    pub failures: u64,
    /// Dials in a row that failed.
    pub failures_in_row: u32,
    /// Bytes that clients of its connections have sent.
    pub bytes_to_origin: u64,
    /// Bytes that they were handed.
    pub bytes_from_origin: u64,
    /// The last of the failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<ErrorAnswer>,
    /// The SRV record that names it, where the origin is asked for such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordAnswer>,
    /// Of a loop: the services that a connection would pass, this one first, until it came to one of them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub way: Vec<String>,
}

/// The result of setting an origin, or some of its addresses, by hand.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SetOriginAnswer {
    /// The service.
    pub service: String,
    /// The origins that were set, as the status has them.
    pub origins: Vec<OriginAnswer>,
    /// True if any origin of the service gets new connections now.
    pub serves: bool,
}

/// An SRV record.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RecordAnswer {
    /// The lowest that can be reached is used.
    pub priority: u16,
    /// Its share among those of its priority.
    pub weight: u16,
    /// The host's port.
    pub port: u16,
    /// The host.
    pub target: String,
}

/// The outcome of a health check: one of `connected_us` and `error` is there.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CheckAnswer {
    /// The milliseconds since it ended.
    pub ago_ms: u64,
    /// The microseconds that connecting took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected_us: Option<u64>,
    /// Why it did not connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The last error of an origin, not as its checks but as its connections found.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ErrorAnswer {
    /// The system's error of a dial, or the end of a connection.
    pub error: String,
    /// The milliseconds since then.
    pub ago_ms: u64,
}

/// A destination.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DestinationAnswer {
    /// Its id.
    pub id: u32,
    /// Its service.
    pub service: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its family.
    pub family: Family,
    /// Its listener.
    pub listener: Option<ListenerAnswer>,
    /// The counters of its packets, with sk_lookup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<PacketCounts>,
}

/// The counters of packets.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct PacketCounts {
    /// Given to the listener.
    pub steered: u64,
    /// Refused since there is no listener.
    pub missed: u64,
    /// Refused for another reason, by the name of the error.
    pub refused: BTreeMap<String, u64>,
}

/// A listener that is not for steering and that bindings hide.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Conflict {
    /// Its protocol.
    pub protocol: Protocol,
    /// The address at which it listens.
    pub address: SocketAddr,
    /// The process that has it, if that is known.
    pub pid: Option<u32>,
    /// The name of its program.
    pub command: Option<String>,
    /// True if nothing reaches it, or only what is dialled elsewhere.
    pub wholly: bool,
    /// The bindings that hide it, in words.
    pub hidden: String,
}

//! What a running instance answers, as it travels. Texts are as they are typed on the command line, so that who reads
//! the JSON needs nothing else. How people see it is said in `commands`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::config::Keys;
use crate::model::{Protocol, RegisteredSocket, Service};
use crate::registry::Mode;
use crate::view::{AnnouncementView, BindingView, DestinationPlan, ListenerView, OriginView};

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
    pub binding: Option<BindingView>,
    /// Why it does, or why none matches.
    pub why: String,
    /// The bindings that match as well, in the order of precedence.
    pub hides: Vec<BindingView>,
    /// When none matches, the one that comes closest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<BindingView>,
    /// The listener that takes it.
    pub listener: Option<ListenerView>,
    /// What becomes of it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub treatment: Option<Treatment>,
    /// Other things that may interfere.
    pub notes: Vec<String>,
}

/// What a service does with the connection, or session of UDP, that a packet begins.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Treatment {
    /// The target that answers, in words.
    pub target: String,
    /// The limits and times that it has, but for those that hold anyway: a table of the file each.
    pub policy: Vec<String>,
    /// The addresses of its origins, in the order configured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<OriginView>,
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

/// The result of withdrawing prefixes, or of announcing them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AnnounceAnswer {
    /// Those that were meant.
    pub announcements: Vec<AnnouncementView>,
    /// Why a restart will forget it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsaved: Option<String>,
}

/// The result of denying prefixes at run time, or of denying them no more.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct DenyAnswer {
    /// The number of prefixes of which that did not hold before.
    pub changed: usize,
    /// Those of which it did.
    pub unchanged: usize,
    /// All that are denied at run time now.
    pub denied: usize,
    /// All that are let in as exceptions now.
    pub excepted: usize,
    /// Why a restart may forget it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsaved: Option<String>,
}

/// The result of registering sockets, or of letting them go.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RegisterAnswer {
    /// The service.
    pub service: String,
    /// Those that were meant, each with the destination whose packets it gets, or got.
    pub sockets: Vec<(DestinationPlan, RegisteredSocket)>,
    /// What whoever runs the server should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The result of setting an origin, or some of its addresses, by hand.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SetOriginAnswer {
    /// The service.
    pub service: String,
    /// The origins that were set, as the status has them.
    pub origins: Vec<OriginView>,
    /// True if any origin of the service gets new connections now.
    pub serves: bool,
}

/// The configuration of a running instance.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RunningConfiguration {
    /// The mode in which it steers, once that is decided.
    pub mode: Option<Mode>,
    /// The files that said it.
    pub files: Vec<String>,
    /// What was typed.
    pub keys: Keys,
    /// What it means.
    pub services: Vec<Service>,
}

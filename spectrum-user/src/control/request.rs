//! What may be asked of a running instance.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::{DenyWord, OriginSetting, Protocol, Weight, parse_port_ranges};
use crate::plan::Overlap;

/// A request.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum Request {
    /// The bindings that overlap all that is given.
    Bindings(BindingsQuery),
    /// The configuration in force, as it was typed and as it is meant.
    Configuration,
    /// Have prefixes denied, or denied no more, at run time.
    Deny(DenyQuery),
    /// What is denied at run time.
    Denied,
    /// The way of a packet, and the reason.
    Explain(ExplainQuery),
    /// Give one of a service's origins another share of its connections.
    Origin(OriginQuery),
    /// Announce what was withdrawn.
    Announce(AnnounceQuery),
    /// Steer packets of a service to sockets of another program, whose descriptors come along.
    Register(RegisterQuery),
    /// Read the configuration file again and steer by it.
    Reload(ReloadQuery),
    /// Have another worker process take the place of the one that serves.
    Renew,
    /// The status of the instance.
    Status,
    /// Whom services turn away most.
    TopSources(TopSourcesQuery),
    /// Steer packets of a service to a socket of another program no more.
    Unregister(UnregisterQuery),
    /// Become another version of the program.
    Upgrade(UpgradeQuery),
    /// Give a registered socket of a service another weight among them.
    Weight(WeightQuery),
    /// Announce something no more, until it is to be announced.
    Withdraw(AnnounceQuery),
}

impl Request {
    /// True if it is about sockets of other programs.
    #[must_use]
    pub fn is_about_sockets(&self) -> bool {
        matches!(self, Self::Register(_) | Self::Unregister(_) | Self::Weight(_))
    }

    /// True if it may be made twice.
    #[must_use]
    pub fn changes_nothing(&self) -> bool {
        matches!(
            self,
            Self::Bindings(_)
                | Self::Denied
                | Self::Deny(_)
                | Self::Explain(_)
                | Self::Status
                | Self::TopSources(_)
        )
    }
}

/// A service, or all of them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct TopSourcesQuery {
    /// Its name; none are all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// The program to become.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct UpgradeQuery {
    /// Its path; none for what is at the path of the running one now. Only root, and the user that the instance is, may name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<PathBuf>,
}

/// A prefix that is announced, or all of them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct AnnounceQuery {
    /// The prefix as it is typed; none are all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The reason, of a withdrawal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Prefixes, and what is said of them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct DenyQuery {
    /// What is said.
    pub word: DenyWord,
    /// The service whose clients are meant; none: those of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The prefixes as they are typed.
    pub prefixes: Vec<String>,
    /// The time for which it holds; none: until it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
}

/// Sockets of another program. Only root, and the user that the instance is, may register any.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RegisterQuery {
    /// The service.
    pub service: String,
    /// Each socket, in the order of the descriptors.
    pub sockets: Vec<OfferedSocket>,
    /// Their weight beside those that are registered; `None`: they take the place of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Weight>,
}

/// A socket whose descriptor comes along.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct OfferedSocket {
    /// The process that has it.
    pub pid: u32,
    /// The name of that.
    pub command: String,
    /// The number that it has there.
    pub descriptor: i32,
}

/// The registered sockets of a service, or some of them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct UnregisterQuery {
    /// The service.
    pub service: String,
    /// Those of this protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Those that are bound to this address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
}

/// The registered sockets of a service, or some of them, and their weight.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct WeightQuery {
    /// Which.
    #[serde(flatten)]
    pub sockets: UnregisterQuery,
    /// The weight of each.
    pub weight: Weight,
}

/// The permissions of a reload.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ReloadQuery {
    /// The host's own addresses that may be served although that cuts something, as they are typed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub force: Vec<String>,
}

/// Which bindings: those that overlap everything that is given. Texts are as they are typed on the command line.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct BindingsQuery {
    /// Of this protocol.
    pub protocol: Option<Protocol>,
    /// Overlapping this prefix.
    pub prefix: Option<String>,
    /// Overlapping one of these ranges.
    pub ports: Option<String>,
}

impl BindingsQuery {
    /// What it means.
    ///
    /// # Errors
    /// What is no prefix and no ports, in words.
    pub fn overlap(&self) -> Result<Overlap, String> {
        let unclear = |what, typed: &str, error: &dyn std::fmt::Display| {
            format!("understand {what} {typed:?}: {error}")
        };
        let prefix = match &self.prefix {
            Some(typed) => Some(typed.parse().map_err(|error| unclear("prefix", typed, &error))?),
            None => None,
        };
        let ports = match &self.ports {
            Some(typed) => parse_port_ranges(typed).map_err(|error| unclear("ports", typed, &error))?,
            None => Vec::new(),
        };
        Ok(Overlap { protocol: self.protocol, prefix, ports })
    }
}

/// A packet.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ExplainQuery {
    /// Its protocol.
    pub protocol: Protocol,
    /// The dialled address and port.
    pub dialled: SocketAddr,
    /// The client's, if it matters to other programs.
    pub from: Option<SocketAddr>,
}

/// An origin, or one of its addresses, and what becomes of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OriginQuery {
    /// The service's name.
    pub service: String,
    /// The origin as the file has it or as the status shows it.
    pub origin: String,
    /// The setting that it gets.
    pub setting: OriginSetting,
}

impl ExplainQuery {
    /// The packet's source: the one that was given, or an address of documentation's (RFC 5737, RFC 3849).
    #[must_use]
    pub fn from_or_example(&self) -> SocketAddr {
        self.from.unwrap_or(match self.dialled.ip() {
            IpAddr::V4(_) => SocketAddr::from(([198, 51, 100, 9], 4000)),
            IpAddr::V6(_) => SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9], 4000)),
        })
    }
}

//! What an instance raises, in the order of raising it. Raises nothing itself.
//!
//! Not here, since nothing is left of it where it fails: the threads that hear, log and look names up; what the proxy must know of
//! the bindings, which is told before a step and after it; and what a kept listener's connections are answered by, which workers
//! are told after the switch.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strum::{EnumDiscriminants, EnumIter, IntoStaticStr};

use super::{Destination, DestinationId, Family, InterfaceName, Prefix, Protocol, ServiceName};

/// Handshakes that the previous generation began complete within this time, or their clients try again: the first
/// retransmission of a SYN-ACK comes after a second (RFC 6298).
const HANDSHAKES: Duration = Duration::from_secs(3);

/// One thing that an instance has. What is greater stands on what is less: it is raised later and lowered earlier.
#[derive(Clone, Debug, Deserialize, EnumDiscriminants, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[strum_discriminants(
    name(ResourceKind),
    doc = "The kind of a thing. Things of a kind are raised, lowered and looked at together.",
    allow(missing_docs, reason = "the things themselves say it"),
    derive(EnumIter, Hash, IntoStaticStr, Ord, PartialOrd),
    strum(serialize_all = "kebab-case")
)]
pub enum Resource {
    /// The state file, by which others know what is claimed.
    Claim,
    /// The control socket.
    Control,
    /// The eBPF program's attachment to the network namespace.
    Attachment,
    /// A local route.
    Route(Prefix),
    /// The rules and the route for what origins answer to clients' addresses.
    Reply(Family),
    /// The table that marks such answers.
    Mark,
    /// The socket of metrics and health.
    Admin,
    /// The connections and sessions of a service, which come by themselves. Lowering it cuts what is left of them.
    Connections(ServiceName, Family, Protocol),
    /// The threads that serve. Lowering it gives what is open the time to end.
    Workers,
    /// A destination's listeners.
    Listener(Destination),
    /// The socket that packets of denied sources go to which nobody answers.
    Silent(Protocol, Family),
    /// A destination's entry in the map of listeners.
    Registration(DestinationId),
    /// The serving of what a destination's listeners accept.
    Serving(Destination),
    /// The table that exempts from NAT.
    Exemption,
    /// The XDP program on an interface. Without rules it drops nothing.
    Xdp(InterfaceName),
    /// What steers, of this revision: the program's table, or firewall rules. It takes the place of the one before.
    Rules(u32),
    /// The files of a BPF file system by which what steers outlives the instance.
    Pins,
    /// The route by which a prefix is announced.
    Announcement(Prefix),
}

impl Resource {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ResourceKind {
        self.into()
    }

    /// The time for which it stays after nothing wants it any more, where what is open may take as long as `drain`.
    #[must_use]
    pub fn patience(&self, drain: Duration) -> Duration {
        match self {
            // Its listeners close first, so that nothing is accepted after the cut.
            Self::Connections(..) => drain.max(HANDSHAKES),
            Self::Listener(_) | Self::Serving(_) => HANDSHAKES,
            // Connections that are open still need their addresses.
            Self::Mark | Self::Reply(_) | Self::Route(_) => drain,
            Self::Admin
            | Self::Announcement(_)
            | Self::Attachment
            | Self::Claim
            | Self::Control
            | Self::Exemption
            | Self::Pins
            | Self::Registration(_)
            | Self::Rules(_)
            | Self::Silent(..)
            | Self::Workers
            | Self::Xdp(_) => Duration::ZERO,
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim => f.write_str("the state file"),
            Self::Control => f.write_str("the control socket"),
            Self::Attachment => f.write_str("the attachment of the sk_lookup program"),
            Self::Route(prefix) => write!(f, "local route {prefix}"),
            Self::Reply(family) => write!(f, "the rules and route for answers of origins over {family}"),
            Self::Mark => f.write_str("the table that marks answers of origins"),
            Self::Admin => f.write_str("the socket of metrics and health"),
            Self::Connections(service, family, protocol) => {
                write!(f, "the connections of {service} {protocol} {family}")
            }
            Self::Workers => f.write_str("the workers"),
            Self::Listener(destination) => write!(f, "the listeners of {destination}"),
            Self::Silent(protocol, family) => write!(f, "the silent listener of {protocol} {family}"),
            Self::Registration(id) => write!(f, "the listener of destination {id} in the program's map"),
            Self::Serving(destination) => write!(f, "the serving of {destination}"),
            Self::Exemption => f.write_str("the table that exempts from NAT"),
            Self::Xdp(interface) => write!(f, "the XDP program on interface {interface}"),
            Self::Rules(_) => f.write_str("the firewall rules that steer"),
            Self::Pins => f.write_str("the files by which what steers is pinned"),
            Self::Announcement(prefix) => write!(f, "the route that announces {prefix}"),
        }
    }
}

impl ResourceKind {
    /// Those that others can take away, in the order of raising.
    pub const REMOVABLE: [Self; 12] = [
        Self::Claim,
        Self::Control,
        Self::Attachment,
        Self::Route,
        Self::Reply,
        Self::Mark,
        Self::Registration,
        Self::Exemption,
        Self::Xdp,
        Self::Rules,
        Self::Pins,
        Self::Announcement,
    ];

    /// True if it is in the firewall, as far as there is any of it: then programs are run for it.
    #[must_use]
    pub fn is_in_firewall(self) -> bool {
        matches!(self, Self::Exemption | Self::Mark | Self::Rules)
    }

    /// The name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// True if the clients that come are served without it.
    #[must_use]
    pub fn is_aside(self) -> bool {
        matches!(self, Self::Announcement | Self::Claim | Self::Control | Self::Pins | Self::Xdp)
    }
}

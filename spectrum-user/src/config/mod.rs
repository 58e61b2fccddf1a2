//! What the user asked for, understood: flags or a file become one [`Config`]. Asks the system for nothing but the file.

mod error;
mod file;
mod firewall;
mod flags;
mod mode;
mod nat;
mod origin_places;
mod protocols;
mod udp;

pub(crate) use file::nearest::nearest;

pub use error::{ConfigError, Problem};
pub use firewall::{FirewallChoice, ParseFirewallError};
pub use flags::{Flags, FlagsError};
pub use mode::{ModeChoice, ParseModeError};
pub use nat::{NatChoice, ParseNatError};
pub use origin_places::OriginPlaces;
pub use protocols::{ParseProtocolsError, Protocols};
pub use udp::UdpTargetError;

use std::net::SocketAddr;

use crate::model::{Force, LogOptions, ResolverOptions, Service};

/// What to do, however it was said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Which path to steer by.
    pub mode: ModeChoice,
    /// Which firewall carries the rules of the TPROXY path.
    pub firewall: FirewallChoice,
    /// What NAT may do to connections to what is bound.
    pub nat: NatChoice,
    /// Which of the host's own addresses may be served although that cuts something.
    pub force: Force,
    /// Where metrics and health are served; `None`: nowhere.
    pub admin: Option<SocketAddr>,
    /// What is written down, and how.
    pub log: LogOptions,
    /// How names of origins are resolved.
    pub resolver: ResolverOptions,
    /// At least one, each with at least one binding; names differ.
    pub services: Vec<Service>,
    /// Where their origins were typed.
    pub origin_places: OriginPlaces,
}

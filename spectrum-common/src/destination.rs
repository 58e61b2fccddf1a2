//! A destination of packets: the small integer by which the kernel knows it, and on the host what that stands for. Does not know
//! which listener is there.

use core::fmt;

#[cfg(feature = "std")]
use super::{Family, Protocol, ServiceName};

/// Index of a destination (service, family, protocol) in the sockmap and in the counters.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(feature = "std", derive(serde::Deserialize, serde::Serialize))]
pub struct DestinationId(pub u32);

impl fmt::Display for DestinationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One protocol and family of one revision of a service: each has a listener of its own.
#[cfg(feature = "std")]
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize)]
pub struct Destination {
    /// The service.
    pub service: ServiceName,
    /// The configuration with which it came to be. When a reload changes bindings and what answers behind them, there are new
    /// listeners, so that both change together; and what comes back after a reload that did without it is not what is still
    /// retiring.
    pub revision: u32,
    /// Address family.
    pub family: Family,
    /// Transport protocol.
    pub protocol: Protocol,
}

#[cfg(feature = "std")]
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.service, self.protocol, self.family)
    }
}

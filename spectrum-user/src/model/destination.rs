//! What the kernel knows of a service.

use std::fmt;

use super::{Family, Protocol, ServiceName};

pub use spectrum_common::DestinationId;

/// One protocol and family of one revision of a service: each has a listener of its own.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Destination {
    /// The service.
    pub service: ServiceName,
    /// The configuration with which it came to be, or its service to answer as it does. When a reload changes what answers,
    /// the service gets new listeners, so that bindings and what answers behind them change together; and what comes
    /// back after a reload that did without it is not what is still retiring.
    pub revision: u32,
    /// Address family.
    pub family: Family,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.service, self.protocol, self.family)
    }
}

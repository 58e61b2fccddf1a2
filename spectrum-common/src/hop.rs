//! Where a connection goes that we dial ourselves: elsewhere, or back to one of our own services. Says nothing of whether
//! it may.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{PortRange, ServiceName};

/// The service that dials of some ports of one address come back to.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Hop {
    /// The ports.
    pub ports: PortRange,
    /// The service of ours that binds them; `None`: whoever else has the address.
    pub service: Option<ServiceName>,
}

/// The address that the kernel makes of one that is dialled: IPv4 in the form of IPv6 is IPv4, and nobody's is the host's
/// own.
#[must_use]
pub fn reached(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

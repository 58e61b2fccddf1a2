//! Protocol and family as the kernel program knows them together. Knows no bindings.

use spectrum_common::{Domain, Family, Protocol};

/// The domain of a protocol and a family.
#[must_use]
pub fn domain_of(protocol: Protocol, family: Family) -> Domain {
    match (protocol, family) {
        (Protocol::Tcp, Family::Ipv4) => Domain::Tcp4,
        (Protocol::Tcp, Family::Ipv6) => Domain::Tcp6,
        (Protocol::Udp, Family::Ipv4) => Domain::Udp4,
        (Protocol::Udp, Family::Ipv6) => Domain::Udp6,
    }
}

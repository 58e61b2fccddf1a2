//! The sockets of other programs that rules lead to in place of a listener of ours. Registers none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::model::{DestinationId, Family, Protocol};

/// The sockets of other programs that the packets of a destination go to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sharing {
    /// Their protocol.
    pub protocol: Protocol,
    /// What rules and denials call them, where they name the address of a listener otherwise: see [`Sharing::name`].
    pub listener: SocketAddr,
    /// Whose the clients are, of each slot: those of one slot alone are all clients. Without any they are refused.
    pub slots: Vec<SharedSlot>,
}

/// The sockets that the clients of a slot go to. The address and port by which one is found: it is bound to these, or to the port of all addresses,
/// and transparent.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SharedSlot {
    /// Whose they are.
    pub first: SocketAddr,
    /// Whose they are where the first is closed.
    pub next: Option<SocketAddr>,
}

impl Sharing {
    /// What stands for the sockets of destination `id`, of `family`, in the place of a listener's address. No socket has it. `None`: the id is
    /// higher than any is over TPROXY.
    #[must_use]
    pub fn name(id: DestinationId, family: Family) -> Option<SocketAddr> {
        let port = u16::try_from(id.0.checked_add(1)?).ok()?;
        let ip: IpAddr = match family {
            Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        Some(SocketAddr::new(ip, port))
    }
}

//! Addresses for listeners. The first few have a port of their own; of very many, hundreds share a port and differ in their
//! address, because a port that is bound on any address is one that no client of this host is given. Binds nothing.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::model::{Family, Protocol};

/// So many listeners have ports of their own.
const ALONE: usize = 64;

/// So many addresses have listeners on one port. More would be slow to bind before Linux 6.2, which compares each with all.
const SHARING: u8 = 250;

/// The addresses that were given.
#[derive(Clone, Debug, Default, serde::Deserialize, serde::Serialize)]
#[serde(from = "Vec<Shared>", into = "Vec<Shared>")]
pub struct ListenerAddresses {
    /// The port that is shared now, and how many have it.
    shared: HashMap<(Family, Protocol), (u16, u8)>,
}

impl ListenerAddresses {
    /// The address that the next listener may be bound to when there are `present` listeners; port 0 leaves the port to
    /// the kernel.
    pub(super) fn next(&self, family: Family, protocol: Protocol, present: usize) -> SocketAddr {
        match self.shared.get(&(family, protocol)) {
            Some((port, sharing)) if present >= ALONE && *sharing < SHARING => {
                SocketAddr::new(beside(family, *sharing), *port)
            }
            _ => SocketAddr::new(loopback(family), 0),
        }
    }

    /// A listener was bound to `address`.
    pub(super) fn bound(&mut self, family: Family, protocol: Protocol, address: SocketAddr) {
        let shared = self.shared.entry((family, protocol)).or_insert((address.port(), 0));
        if shared.0 != address.port() {
            *shared = (address.port(), 0);
        }
        shared.1 += 1;
    }
}

/// The port that is shared by listeners of a kind, and how many have it.
type Shared = (Family, Protocol, u16, u8);

impl From<Vec<Shared>> for ListenerAddresses {
    fn from(shared: Vec<Shared>) -> Self {
        let shared =
            shared.into_iter().map(|(family, protocol, port, count)| ((family, protocol), (port, count)));
        Self { shared: shared.collect() }
    }
}

impl From<ListenerAddresses> for Vec<Shared> {
    fn from(addresses: ListenerAddresses) -> Self {
        let shared = addresses.shared.into_iter();
        shared.map(|((family, protocol), (port, count))| (family, protocol, port, count)).collect()
    }
}

/// The address that all hosts have.
pub(super) fn loopback(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::LOCALHOST.into(),
        Family::Ipv6 => Ipv6Addr::LOCALHOST.into(),
    }
}

/// The one of so many that share a port. Of IPv6 there is but one loopback address: these are for discarding (RFC 6666), no
/// host has them, and no packet is ever sent to or from them.
fn beside(family: Family, number: u8) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(127, 0, 0, number.saturating_add(1)).into(),
        Family::Ipv6 => Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, u16::from(number) + 1).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_have_ports_of_their_own_and_the_others_share_them() {
        let mut addresses = ListenerAddresses::default();
        let (family, protocol) = (Family::Ipv4, Protocol::Tcp);
        let mut given = Vec::new();
        for present in 0..usize::from(SHARING) * 3 {
            let mut address = addresses.next(family, protocol, present);
            if address.port() == 0 {
                address.set_port(40_000 + u16::try_from(present).unwrap());
            }
            addresses.bound(family, protocol, address);
            assert!(address.ip().is_loopback() && !given.contains(&address), "{address}");
            given.push(address);
        }
        let mut ports: Vec<u16> = given.iter().map(SocketAddr::port).collect();
        ports.dedup();
        assert_eq!(ports.len(), ALONE + 2);
        assert_eq!(given[ALONE].to_string(), "127.0.0.2:40063");
        // Of the other kind there is none yet.
        assert_eq!(addresses.next(Family::Ipv6, protocol, 1_000).to_string(), "[::1]:0");
        addresses.bound(Family::Ipv6, protocol, "[::1]:40001".parse().unwrap());
        assert_eq!(addresses.next(Family::Ipv6, protocol, 1_000).to_string(), "[100::2]:40001");
    }
}

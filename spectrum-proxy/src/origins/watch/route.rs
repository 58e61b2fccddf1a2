//! Whether this host has a route to an address, as its kernel sees it. Sends nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use crate::origins::roster::{Member, Roster};

/// Any: to connect a UDP socket is to look for a route, and nothing else.
const PORT: u16 = 9;

/// Notes of the addresses of names that have both families whether there is a route to each, so that a host with one family
/// does not begin with the other.
pub(super) fn note_routes(roster: &Roster) {
    for place in
        roster.members.iter().filter(|member| has_both_families(member)).flat_map(|member| &member.places)
    {
        place.standing.note_route(is_routed(place.standing.address));
    }
}

fn has_both_families(member: &Member) -> bool {
    let is_ipv6 = |address: IpAddr| address.is_ipv6();
    let mut families = member.places.iter().map(|place| is_ipv6(place.standing.address));
    families.next().is_some_and(|first| families.any(|other| other != first))
}

/// True if `address` has a route, or if that is not known, such as for want of a descriptor: dialling finds out.
fn is_routed(address: IpAddr) -> bool {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    match UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address, PORT))) {
        Ok(()) => true,
        Err(error) => !matches!(
            error.raw_os_error(),
            Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT | libc::EHOSTUNREACH | libc::ENETUNREACH)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_routed() {
        assert!(is_routed("127.0.0.1".parse().unwrap()));
    }
}

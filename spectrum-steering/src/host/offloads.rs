//! What interfaces do with packets before anybody gets them, as far as it costs or spares work. Sets nothing.

use std::collections::BTreeSet;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use socket2::{Domain, Socket, Type};

use super::NetError;
use super::sys::makes_trains;

/// The interfaces of the namespace that are up, have an address, and do not bring what comes together into trains (GRO, generic
/// receive offload): each datagram of a client is steered and read by itself there. Those that do not tell are left out.
///
/// # Errors
/// The kernel does not list them, or has no socket to spare. Needs no capability.
pub fn interfaces_without_gro() -> Result<Vec<String>, NetError> {
    let refused = |errno| NetError::os("list addresses of", "network interfaces", errno, "CAP_NET_ADMIN");
    let up: BTreeSet<String> = getifaddrs()
        .map_err(refused)?
        .filter(|entry| {
            let is_ip = |storage: &nix::sys::socket::SockaddrStorage| {
                storage.as_sockaddr_in().is_some() || storage.as_sockaddr_in6().is_some()
            };
            entry.flags.contains(InterfaceFlags::IFF_UP)
                && !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK)
                && entry.address.as_ref().is_some_and(is_ip)
        })
        .map(|entry| entry.interface_name)
        .collect();
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)
        .map_err(|error| NetError::os("ask features of", "network interfaces", error, "CAP_NET_ADMIN"))?;
    Ok(up.into_iter().filter(|name| makes_trains(&socket, name).is_ok_and(|makes| !makes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_makes_trains_and_one_that_is_not_there_tells_nothing() {
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None).unwrap();
        assert!(makes_trains(&socket, "lo").unwrap());
        assert!(makes_trains(&socket, "no-such-thing").is_err());
        assert!(makes_trains(&socket, "a-name-that-is-too-long-for-one").is_err());
        assert!(!interfaces_without_gro().unwrap().contains(&"lo".to_owned()));
    }
}

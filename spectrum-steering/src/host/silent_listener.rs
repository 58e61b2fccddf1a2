//! The sockets that packets are given to which nobody is to answer. Decides on none of them.

use std::net::SocketAddr;

use socket2::{Domain, SockFilter, Socket, Type};

use super::NetError;
use super::listener_addresses::loopback;
use crate::model::{Family, Protocol};

/// A socket filter that keeps nothing: BPF_RET | BPF_K with the length 0.
pub(super) const NOTHING: [SockFilter; 1] = [SockFilter::new(0x06, 0, 0, 0)];

/// A listener that the kernel gives packets to and that never has any: its filter drops each before the kernel would answer.
///
/// # Errors
/// [`NetError`]: no IPv6 on this host, or out of descriptors.
pub fn silent_listener(protocol: Protocol, family: Family) -> Result<Socket, NetError> {
    let address = SocketAddr::new(loopback(family), 0);
    let failed = |op| move |source| NetError::os(op, address, source, "CAP_NET_ADMIN");
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), None)
        .map_err(failed("open socket for silent listener on"))?;
    // Before it is bound: whoever speaks to its own port is not answered either.
    socket.attach_filter(&NOTHING).map_err(failed("silence the listener on"))?;
    if family == Family::Ipv6 {
        socket.set_only_v6(true).map_err(failed("make IPv6-only the silent listener on"))?;
    }
    socket.bind(&address.into()).map_err(failed("bind silent listener to"))?;
    if protocol == Protocol::Tcp {
        socket.listen(1).map_err(failed("listen silently on"))?;
    }
    Ok(socket)
}

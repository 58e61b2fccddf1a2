//! Answers from addresses and ports that no socket can be bound to, because somebody else has them or because there is
//! no descriptor to spare. Receives nothing.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, SockaddrIn6, sendmsg};
use socket2::{Domain, Socket, Type};

use super::header::header;
use crate::model::Family;
use crate::privileged::PrivilegedSocket;

/// The addresses that the sockets are bound to. The kernel copies every datagram of the host to raw sockets that could
/// want it: these are addresses to which nobody sends any (RFC 6676, RFC 6666). Of IPv4 it is a multicast address, since
/// Linux 5.10 binds a raw socket to no other that the host has not, whatever IP_FREEBIND says (net/ipv4/raw.c, raw_bind).
const NOWHERE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(233, 252, 0, 1), Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0));

/// Where a raw socket is bound that is to receive nothing.
pub(super) fn nowhere(family: Family) -> SocketAddr {
    let nowhere = match family {
        Family::Ipv4 => IpAddr::V4(NOWHERE.0),
        Family::Ipv6 => IpAddr::V6(NOWHERE.1),
    };
    SocketAddr::new(nowhere, 0)
}

/// The socket of a [`RawSender`].
pub(crate) fn open(family: Family) -> io::Result<OwnedFd> {
    let nowhere = nowhere(family);
    let socket = Socket::new(
        Domain::for_address(nowhere),
        Type::RAW.nonblocking().cloexec(),
        Some(socket2::Protocol::UDP),
    )?;
    if family == Family::Ipv6 {
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&nowhere.into())?;
    Ok(socket.into())
}

/// A raw socket for UDP. Needs `CAP_NET_RAW`.
#[derive(Debug)]
pub(super) struct RawSender(Socket);

impl RawSender {
    pub(crate) fn open(family: Family) -> io::Result<Self> {
        Ok(Self(PrivilegedSocket::Raw(family).make()?.into()))
    }

    /// Sends a datagram from one address and port to another. The kernel fragments it where that is needed.
    pub(super) fn send(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        hops: u8,
        class: u8,
        payload: &[u8],
    ) -> io::Result<()> {
        let header = header(from, to, payload).ok_or_else(|| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
        let parts = [IoSlice::new(&header), IoSlice::new(payload)];
        let (hops, v6_class) = (libc::c_int::from(hops), libc::c_int::from(class));
        let fd = self.0.as_raw_fd();
        match (from, to) {
            (SocketAddr::V4(from), SocketAddr::V4(to)) => {
                let source = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from(*from.ip()).to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let notes = [
                    ControlMessage::Ipv4PacketInfo(&source),
                    ControlMessage::Ipv4Ttl(&hops),
                    ControlMessage::Ipv4Tos(&class),
                ];
                sendmsg(fd, &parts, &notes, MsgFlags::MSG_DONTWAIT, Some(&SockaddrIn::from(to)))?;
            }
            (SocketAddr::V6(from), SocketAddr::V6(mut to)) => {
                let source = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: from.ip().octets() },
                    ipi6_ifindex: to.scope_id(),
                };
                let notes = [
                    ControlMessage::Ipv6PacketInfo(&source),
                    ControlMessage::Ipv6HopLimit(&hops),
                    ControlMessage::Ipv6TClass(&v6_class),
                ];
                // For a raw socket the port is the protocol's number or nothing.
                to.set_port(0);
                sendmsg(fd, &parts, &notes, MsgFlags::MSG_DONTWAIT, Some(&SockaddrIn6::from(to)))?;
            }
            _ => return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
        }
        Ok(())
    }
}

//! One datagram with what the kernel knows of its way here. Decides nothing.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::sockopt::{Ipv4OrigDstAddr, Ipv4RecvTtl, Ipv6OrigDstAddr, Ipv6RecvHopLimit};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg, setsockopt,
};

use crate::model::Family;

/// The circumstances of a datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Envelope {
    /// The sender.
    pub(super) client: SocketAddr,
    /// The dialled address, if the socket asks for it. PKTINFO would tell the address without the port.
    pub(super) dialled: Option<SocketAddr>,
    /// The rest of its hop limit.
    pub(super) hops: u8,
    /// The bytes of the buffer that it fills.
    pub(super) length: usize,
}

/// Room for both control messages that are asked for, aligned as the kernel's headers are.
#[repr(align(8))]
struct Control([u8; 128]);

/// Has the kernel tell the hop limits of what `socket` receives.
pub(super) fn ask_for_hops(socket: &impl AsFd, family: Family) -> io::Result<()> {
    match family {
        Family::Ipv4 => setsockopt(socket, Ipv4RecvTtl, &true)?,
        Family::Ipv6 => setsockopt(socket, Ipv6RecvHopLimit, &true)?,
    }
    Ok(())
}

/// Has the kernel tell the dialled addresses of what `socket` receives, also of what it has received already.
pub(super) fn ask_for_dialled(socket: &impl AsFd, family: Family) -> io::Result<()> {
    match family {
        Family::Ipv4 => setsockopt(socket, Ipv4OrigDstAddr, &true)?,
        Family::Ipv6 => setsockopt(socket, Ipv6OrigDstAddr, &true)?,
    }
    Ok(())
}

/// Receives one datagram into `buffer`, without waiting.
pub(super) fn receive(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<Envelope> {
    let mut control = Control([0; 128]);
    let mut iov = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut iov,
        Some(&mut control.0),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let client = message
        .address
        .and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4(SocketAddrV4::from(*v4)));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6))))
        })
        .ok_or_else(|| io::Error::other("a datagram without a sender"))?;
    let mut envelope = Envelope { client, dialled: None, hops: u8::MAX, length: message.bytes };
    for note in message.cmsgs()? {
        match note {
            ControlMessageOwned::Ipv4OrigDstAddr(address) => {
                envelope.dialled = Some(SocketAddrV4::from(SockaddrIn::from(address)).into());
            }
            ControlMessageOwned::Ipv6OrigDstAddr(address) => {
                envelope.dialled = Some(SocketAddrV6::from(SockaddrIn6::from(address)).into());
            }
            ControlMessageOwned::Ipv4Ttl(hops) | ControlMessageOwned::Ipv6HopLimit(hops) => {
                envelope.hops = u8::try_from(hops).unwrap_or(u8::MAX);
            }
            _ => {}
        }
    }
    Ok(envelope)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn the_dialled_address_and_port_come_with_the_datagram() {
        for (bound, dialled) in [("0.0.0.0:0", "127.77.0.1"), ("[::]:0", "::1")] {
            let socket = UdpSocket::bind(bound).unwrap();
            let family = Family::of(socket.local_addr().unwrap().ip());
            let dialled = SocketAddr::new(dialled.parse().unwrap(), socket.local_addr().unwrap().port());
            let client = UdpSocket::bind(SocketAddr::new(
                if family == Family::Ipv4 { "127.0.0.1" } else { "::1" }.parse().unwrap(),
                0,
            ))
            .unwrap();
            client.set_ttl(7).unwrap();
            if family == Family::Ipv6 {
                socket2::SockRef::from(&client).set_unicast_hops_v6(7).unwrap();
            }
            // Sent before anybody asked.
            client.send_to(b"", dialled).unwrap();
            ask_for_dialled(&socket, family).unwrap();
            ask_for_hops(&socket, family).unwrap();
            let envelope = receive(&socket, &mut [0; 16]).unwrap();
            let expected =
                Envelope { client: client.local_addr().unwrap(), dialled: Some(dialled), hops: 7, length: 0 };
            assert_eq!(envelope, expected);
            assert_eq!(receive(&socket, &mut [0; 16]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }
}

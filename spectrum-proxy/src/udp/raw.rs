//! Answers from addresses and ports that no socket can be bound to, because somebody else has them or because there is
//! no descriptor to spare. Receives nothing.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, SockaddrIn6, sendmsg};
use socket2::{Domain, Socket, Type};

use crate::model::Family;

/// The addresses that the sockets are bound to. The kernel copies every datagram of the host to raw sockets that could
/// want it: these are addresses to which nobody sends any (RFC 6676, RFC 6666). Of IPv4 it is a multicast address, since
/// Linux 5.10 binds a raw socket to no other that the host has not, whatever IP_FREEBIND says (net/ipv4/raw.c, raw_bind).
const NOWHERE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(233, 252, 0, 1), Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0));

const UDP_HEADER: u16 = 8;

/// A raw socket for UDP. Needs `CAP_NET_RAW`.
#[derive(Debug)]
pub(super) struct RawSender(Socket);

impl RawSender {
    pub(super) fn open(family: Family) -> io::Result<Self> {
        let nowhere = match family {
            Family::Ipv4 => IpAddr::V4(NOWHERE.0),
            Family::Ipv6 => IpAddr::V6(NOWHERE.1),
        };
        let nowhere = SocketAddr::new(nowhere, 0);
        let socket = Socket::new(
            Domain::for_address(nowhere),
            Type::RAW.nonblocking().cloexec(),
            Some(socket2::Protocol::UDP),
        )?;
        if family == Family::Ipv6 {
            socket.set_freebind_v6(true)?;
        }
        socket.bind(&nowhere.into())?;
        Ok(Self(socket))
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

/// The UDP header of a datagram; `None` when it is too long for one.
fn header(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<[u8; UDP_HEADER as usize]> {
    let length = u16::try_from(payload.len()).ok()?.checked_add(UDP_HEADER)?;
    let mut sum = Sum::default();
    for address in [from.ip(), to.ip()] {
        match address {
            IpAddr::V4(address) => sum.add(&address.octets()),
            IpAddr::V6(address) => sum.add(&address.octets()),
        }
    }
    let fields = [from.port(), to.port(), length];
    // The length is in the pseudo header too, which also names the protocol.
    sum.add_word(17);
    sum.add_word(length);
    for field in fields {
        sum.add_word(field);
    }
    sum.add(payload);
    let mut header = [0; UDP_HEADER as usize];
    for (place, field) in header.chunks_exact_mut(2).zip(fields.into_iter().chain([sum.checksum()])) {
        place.copy_from_slice(&field.to_be_bytes());
    }
    Some(header)
}

/// The Internet checksum (RFC 1071) in the making. 64 bits hold the sum of more words than a datagram has.
#[derive(Clone, Copy, Debug, Default)]
struct Sum(u64);

impl Sum {
    /// Adds bytes, as if a zero followed an odd one.
    fn add(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(2);
        for word in &mut words {
            if let [high, low] = *word {
                self.add_word(u16::from_be_bytes([high, low]));
            }
        }
        if let [last] = *words.remainder() {
            self.add_word(u16::from_be_bytes([last, 0]));
        }
    }

    fn add_word(&mut self, word: u16) {
        self.0 += u64::from(word);
    }

    /// The complement, and never 0, which says that there is no checksum.
    fn checksum(self) -> u16 {
        let mut folded = self.0;
        while folded > 0xffff {
            folded = (folded & 0xffff) + (folded >> 16);
        }
        match u16::try_from(folded) {
            Ok(0xffff) | Err(_) => 0xffff,
            Ok(sum) => !sum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_that_others_compute() {
        // Added up by hand, pseudo header first (RFC 768).
        let from = "192.0.2.1:53".parse().unwrap();
        let to = "198.51.100.2:4000".parse().unwrap();
        let header = header(from, to, b"abc").unwrap();
        assert_eq!(header[..6], [0, 53, 0x0f, 0xa0, 0, 11]);
        let sum: u32 = [0xc000, 0x0201, 0xc633, 0x6402, 0x11, 11, 53, 4000, 11, 0x6162, 0x6300].iter().sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        assert_eq!(u32::from(u16::from_be_bytes([header[6], header[7]])), 0xffff - folded);
    }

    #[test]
    fn a_checksum_is_never_zero() {
        let mut sum = Sum::default();
        sum.add_word(0xffff);
        assert_eq!(sum.checksum(), 0xffff);
        assert_eq!(Sum::default().checksum(), 0xffff);
    }

    #[test]
    fn a_datagram_that_fits_no_header_is_refused() {
        let address = "[2001:db8::1]:1".parse().unwrap();
        assert!(header(address, address, &vec![0; 65_527]).is_some());
        assert!(header(address, address, &vec![0; 65_528]).is_none());
    }
}

//! Simple Proxy Protocol: 38 bytes before every datagram, towards an origin and back, which tell whose it is. Knows no sockets.
//!
//! In network order: the magic number, the client's address, the proxy's, their ports. Addresses of IPv4 are mapped into
//! IPv6. The proxy's is the one that the client dialled.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::address::canonical;

const MAGIC: [u8; 2] = [0x56, 0xec];

/// What stands before a datagram.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SimpleHeader {
    /// The client.
    pub client: SocketAddr,
    /// The address and port that the client dialled.
    pub dialled: SocketAddr,
}

impl SimpleHeader {
    /// The length of every header.
    pub const LENGTH: usize = 38;

    /// The header at the beginning of `datagram`, and what follows it; `None` where there is none.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<(Self, &[u8])> {
        let rest = datagram.strip_prefix(&MAGIC)?;
        let (client, rest) = rest.split_first_chunk::<16>()?;
        let (dialled, rest) = rest.split_first_chunk::<16>()?;
        let (client_port, rest) = rest.split_first_chunk::<2>()?;
        let (dialled_port, rest) = rest.split_first_chunk::<2>()?;
        let address = |ip: &[u8; 16], port: &[u8; 2]| {
            canonical(SocketAddr::new(Ipv6Addr::from(*ip).into(), u16::from_be_bytes(*port)))
        };
        Some((Self { client: address(client, client_port), dialled: address(dialled, dialled_port) }, rest))
    }

    /// True if `datagram` begins as one that has a header does, whole or not.
    pub(crate) fn begins(datagram: &[u8]) -> bool {
        datagram.starts_with(&MAGIC) || datagram == &MAGIC[..1]
    }

    /// The bytes of the header.
    #[must_use]
    pub fn bytes(&self) -> [u8; Self::LENGTH] {
        let octets = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let fields = MAGIC
            .into_iter()
            .chain(octets(self.client))
            .chain(octets(self.dialled))
            .chain(self.client.port().to_be_bytes())
            .chain(self.dialled.port().to_be_bytes());
        let mut bytes = [0; Self::LENGTH];
        for (place, byte) in bytes.iter_mut().zip(fields) {
            *place = byte;
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_description() {
        let header = SimpleHeader {
            client: "192.0.2.1:4096".parse().unwrap(),
            dialled: "198.51.100.2:443".parse().unwrap(),
        };
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        let golden = [
            &[0x56, 0xec][..],
            &mapped,
            &[192, 0, 2, 1],
            &mapped,
            &[198, 51, 100, 2],
            &[0x10, 0x00],
            &[0x01, 0xbb],
        ]
        .concat();
        assert_eq!(header.bytes()[..], golden);
        let datagram = [&golden[..], b"game"].concat();
        assert_eq!(SimpleHeader::parse(&datagram), Some((header, &b"game"[..])));
    }

    #[test]
    fn what_begins_otherwise_or_ends_too_early_has_none() {
        let header = SimpleHeader {
            client: "[2001:db8::1]:1".parse().unwrap(),
            dialled: "[2001:db8::2]:65535".parse().unwrap(),
        };
        let mut bytes = header.bytes();
        for length in 0..SimpleHeader::LENGTH {
            assert_eq!(SimpleHeader::parse(&bytes[..length]), None, "{length}");
        }
        assert_eq!(SimpleHeader::parse(&bytes), Some((header, &[][..])));
        bytes[1] = 0xed;
        assert_eq!(SimpleHeader::parse(&bytes), None);
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(client: [u8; 16], dialled: [u8; 16], ports: (u16, u16), rest: Vec<u8>) {
            let header = SimpleHeader {
                client: canonical(SocketAddr::new(Ipv6Addr::from(client).into(), ports.0)),
                dialled: canonical(SocketAddr::new(Ipv6Addr::from(dialled).into(), ports.1)),
            };
            let datagram = [&header.bytes()[..], &rest].concat();
            prop_assert_eq!(SimpleHeader::parse(&datagram), Some((header, &rest[..])));
        }
    }
}

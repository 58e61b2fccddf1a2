//! PROXY headers: what a proxy says at the beginning of a connection, or of a datagram, of the client that it speaks for. Reads
//! and writes bytes only; whom to believe is decided elsewhere.
//!
//! The format is that of haproxy.org's `proxy-protocol.txt`. The parsers take whatever has come so far. The crate `ppp`
//! was looked at and not taken: in 2.3.0 a line cut behind its last space counts as malformed instead of incomplete, so
//! that the answer depends on how the network splits the bytes; it does not check checksums, bounds no length, and
//! writes nothing that is not as short by hand.

mod checksum;
mod extensions;
mod simple;
mod v1;
mod v2;

use std::net::{IpAddr, SocketAddr};

use crate::address::canonical;
use crate::model::ProxyVersion;
pub use extensions::{Extensions, MAX_UNIQUE_ID};
pub use simple::SimpleHeader;

/// The longest header that is read. Those of version 1 have at most 107 bytes; those of version 2 could have 64 KiB, nearly
/// all of it for extensions. nginx draws the same line.
pub const MAX_LENGTH: usize = 4096;

/// The content of a header.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Header {
    /// The connection is the proxy's own, or it does not tell whose it is: the addresses are those of the connection.
    Local,
    /// It speaks for a client.
    Proxied {
        /// The client.
        client: SocketAddr,
        /// The address and port that the client dialled.
        dialled: SocketAddr,
    },
}

/// What a header travels by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Transport {
    Connection,
    Datagram,
}

/// The first bytes of a connection, understood.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Parsed {
    /// A whole header, of this many bytes. What comes after them is the client's.
    Complete(Header, usize),
    /// The beginning of one, and nothing else.
    Incomplete,
    /// No header, and more bytes will not make it one.
    Malformed,
}

impl Header {
    /// Looks for a header of either version at the beginning of `bytes`. The answer does not depend on what follows it, and
    /// once it is not [`Parsed::Incomplete`] it stays the same however many bytes are added.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Parsed {
        match bytes.first() {
            None => Parsed::Incomplete,
            Some(b'P') => v1::parse(bytes),
            Some(_) => v2::parse(bytes, Transport::Connection),
        }
    }

    /// The bytes of the header in `version`.
    #[must_use]
    pub fn bytes(&self, version: ProxyVersion) -> Vec<u8> {
        self.bytes_with(version, &Extensions::default())
    }

    /// The same with `extensions`, as many of them as [`MAX_LENGTH`] has room for. Version 1 has none, nor does a connection
    /// that is nobody's.
    #[must_use]
    pub fn bytes_with(&self, version: ProxyVersion, extensions: &Extensions) -> Vec<u8> {
        match version {
            ProxyVersion::V1 => v1::bytes(self),
            ProxyVersion::V2 => v2::bytes(self, Transport::Connection, extensions),
        }
    }

    /// Looks for a header of version 2, which alone has a form for them, at the beginning of a datagram: the header, and the bytes
    /// that it takes. `None` where there is none, or only a part of one: what is missing does not follow.
    #[must_use]
    pub fn parse_datagram(datagram: &[u8]) -> Option<(Self, usize)> {
        match Self::of_datagram(datagram) {
            Parsed::Complete(header, length) => Some((header, length)),
            Parsed::Incomplete | Parsed::Malformed => None,
        }
    }

    /// The same, and what is wrong where there is none: [`Parsed::Incomplete`] is for good here.
    pub(crate) fn of_datagram(datagram: &[u8]) -> Parsed {
        v2::parse(datagram, Transport::Datagram)
    }

    /// The bytes of the header in version 2 for datagrams.
    #[must_use]
    pub fn datagram_bytes(&self) -> Vec<u8> {
        self.datagram_bytes_with(&Extensions::default())
    }

    /// The same with `extensions`, as many of them as [`MAX_LENGTH`] has room for.
    pub(crate) fn datagram_bytes_with(&self, extensions: &Extensions) -> Vec<u8> {
        v2::bytes(self, Transport::Datagram, extensions)
    }

    /// The content besides addresses of the header that is all of `bytes`, and was parsed, as far as it is to be passed on.
    #[must_use]
    pub fn extensions(bytes: &[u8]) -> Extensions {
        v2::extensions(bytes)
    }

    fn proxied(client: SocketAddr, dialled: SocketAddr) -> Self {
        Self::Proxied { client: canonical(client), dialled: canonical(dialled) }
    }
}

/// Both addresses in one family, as the format wants it: where they differ, as IPv6 with the IPv4 address mapped into it.
enum AddressPair {
    V4([std::net::SocketAddrV4; 2]),
    V6([(std::net::Ipv6Addr, u16); 2]),
}

impl AddressPair {
    fn of(client: SocketAddr, dialled: SocketAddr) -> Self {
        let mapped = |address: SocketAddr| {
            let ip = match address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            (ip, address.port())
        };
        match (client, dialled) {
            (SocketAddr::V4(client), SocketAddr::V4(dialled)) => Self::V4([client, dialled]),
            _ => Self::V6([mapped(client), mapped(dialled)]),
        }
    }
}

#[cfg(test)]
mod tests;

//! Version 2: bytes. Does not know what the addresses are for, and of extensions only that the checksum must be right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::checksum::crc32c;
use super::extensions::{CHECKSUM, Extensions, split};
use super::{AddressPair, Header, MAX_LENGTH, Parsed, Transport};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The bytes before the addresses: the signature, version and command, family and transport, the length of what follows.
const FIXED: usize = 16;

const VERSION: u8 = 0x20;
const LOCAL: u8 = 0x0;
const PROXY: u8 = 0x1;

const OVER_IPV4: u8 = 0x10;
const OVER_IPV6: u8 = 0x20;

impl Transport {
    /// Its half of the byte that tells family and transport.
    fn code(self) -> u8 {
        match self {
            Self::Connection => 0x1,
            Self::Datagram => 0x2,
        }
    }
}

pub(crate) fn parse(bytes: &[u8], transport: Transport) -> Parsed {
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes.get(..seen) != SIGNATURE.get(..seen) {
        return Parsed::Malformed;
    }
    // Each byte is judged as soon as it is there, so that nobody waits for the rest of what can be no header.
    let [command, family, high, low] = [12, 13, 14, 15].map(|place| bytes.get(place).copied());
    if command.is_some_and(|byte| ![VERSION | LOCAL, VERSION | PROXY].contains(&byte))
        || family.is_some_and(|byte| byte >> 4 > 3 || byte & 0xf > 2)
    {
        return Parsed::Malformed;
    }
    let (Some(command), Some(family), Some(high), Some(low)) = (command, family, high, low) else {
        return Parsed::Incomplete;
    };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_LENGTH {
        return Parsed::Malformed;
    }
    let Some(whole) = bytes.get(..length) else { return Parsed::Incomplete };
    // Of a local connection everything else is to be discarded, the family included.
    if command == VERSION | LOCAL {
        return Parsed::Complete(Header::Local, length);
    }
    match proxied(whole, family, transport) {
        Some(header) => Parsed::Complete(header, length),
        None => Parsed::Malformed,
    }
}

fn proxied(whole: &[u8], family: u8, transport: Transport) -> Option<Header> {
    let (header, extensions) = halves(whole, family)?;
    is_sound(whole, extensions)?;
    // What comes by a connection was never datagrams. The other way round it is usual: resolvers pass on by datagram what clients
    // have asked by TCP or TLS, and say so.
    let is_understood = match transport {
        Transport::Connection => family & 0xf == transport.code(),
        Transport::Datagram => family & 0xf > 0,
    };
    Some(if is_understood { header } else { Header::Local })
}

/// The addresses and the extensions of the whole header of a client's connection.
fn halves(whole: &[u8], family: u8) -> Option<(Header, &[u8])> {
    let addresses = whole.get(FIXED..)?;
    // Unspecified, IPv4, IPv6, a Unix socket: whatever the transport, the family tells how long the addresses are.
    Some(match family >> 4 {
        0 => (Header::Local, addresses),
        1 => {
            let (client, rest) = addresses.split_first_chunk::<4>()?;
            let (dialled, rest) = rest.split_first_chunk::<4>()?;
            let (ports, rest) = rest.split_first_chunk::<4>()?;
            (both(Ipv4Addr::from(*client), Ipv4Addr::from(*dialled), *ports), rest)
        }
        2 => {
            let (client, rest) = addresses.split_first_chunk::<16>()?;
            let (dialled, rest) = rest.split_first_chunk::<16>()?;
            let (ports, rest) = rest.split_first_chunk::<4>()?;
            (both(Ipv6Addr::from(*client), Ipv6Addr::from(*dialled), *ports), rest)
        }
        _ => (Header::Local, addresses.get(216..)?),
    })
}

/// The extensions of a whole header that are to be passed on. Of a proxy's own connection none: they are not about a client.
pub(crate) fn extensions(whole: &[u8]) -> Extensions {
    let (Some(command), Some(family)) = (whole.get(12), whole.get(13)) else { return Extensions::default() };
    if !whole.starts_with(SIGNATURE) || *command != VERSION | PROXY {
        return Extensions::default();
    }
    halves(whole, *family).map_or_else(Extensions::default, |(_, came)| Extensions::to_pass_on(came))
}

fn both(client: impl Into<IpAddr>, dialled: impl Into<IpAddr>, ports: [u8; 4]) -> Header {
    let [a, b, c, d] = ports;
    Header::proxied(
        SocketAddr::new(client.into(), u16::from_be_bytes([a, b])),
        SocketAddr::new(dialled.into(), u16::from_be_bytes([c, d])),
    )
}

/// True if the extensions fill their place, and the header has the checksum that one of them may tell.
fn is_sound(whole: &[u8], mut extensions: &[u8]) -> Option<()> {
    while !extensions.is_empty() {
        let (kind, value, rest) = split(extensions)?;
        if kind == CHECKSUM {
            let told = u32::from_be_bytes(value.try_into().ok()?);
            // It was computed with zeros in its own place.
            let place = whole.len() - rest.len() - value.len();
            let (before, after) = (whole.get(..place)?, rest);
            if crc32c([before, &[0; 4], after]) != told {
                return None;
            }
        }
        extensions = rest;
    }
    Some(())
}

pub(crate) fn bytes(header: &Header, transport: Transport, extensions: &Extensions) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    match header {
        // No addresses: what a receiver discards anyway need not be sent.
        Header::Local => {
            bytes.extend([VERSION | LOCAL, 0, 0, 0]);
            return bytes;
        }
        Header::Proxied { client, dialled } => match AddressPair::of(*client, *dialled) {
            AddressPair::V4([client, dialled]) => {
                bytes.extend([VERSION | PROXY, OVER_IPV4 | transport.code(), 0, 0]);
                bytes.extend(client.ip().octets());
                bytes.extend(dialled.ip().octets());
                bytes.extend(client.port().to_be_bytes());
                bytes.extend(dialled.port().to_be_bytes());
            }
            AddressPair::V6([(client, client_port), (dialled, dialled_port)]) => {
                bytes.extend([VERSION | PROXY, OVER_IPV6 | transport.code(), 0, 0]);
                bytes.extend(client.octets());
                bytes.extend(dialled.octets());
                bytes.extend(client_port.to_be_bytes());
                bytes.extend(dialled_port.to_be_bytes());
            }
        },
    }
    bytes.extend(extensions.within(MAX_LENGTH - bytes.len()));
    let length = u16::try_from(bytes.len() - FIXED).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(place) = bytes.get_mut(FIXED - 2..FIXED) {
        place.copy_from_slice(&length);
    }
    bytes
}

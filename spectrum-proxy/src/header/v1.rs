//! Version 1: a line of text. Does not know what the addresses are for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{AddressPair, Header, Parsed};

const BEGINNING: &[u8] = b"PROXY ";

/// The longest line, with both of its last characters.
const MAX_LENGTH: usize = 107;

pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    let seen = bytes.len().min(BEGINNING.len());
    if bytes.get(..seen) != BEGINNING.get(..seen) {
        return Parsed::Malformed;
    }
    let line = bytes.get(..MAX_LENGTH).unwrap_or(bytes);
    // Whatever stands in it, a carriage return is the end of the line or of all hope.
    let Some(end) = line.iter().position(|byte| *byte == b'\r') else {
        return if line.len() == MAX_LENGTH { Parsed::Malformed } else { Parsed::Incomplete };
    };
    match (bytes.get(end + 1), line.get(BEGINNING.len()..end).and_then(header)) {
        (None, _) if end + 2 <= MAX_LENGTH => Parsed::Incomplete,
        (Some(b'\n'), Some(header)) if end + 2 <= MAX_LENGTH => Parsed::Complete(header, end + 2),
        _ => Parsed::Malformed,
    }
}

/// The header of the words between the first one and the end of the line.
fn header(words: &[u8]) -> Option<Header> {
    let words = std::str::from_utf8(words).ok()?;
    let (protocol, rest) = words.split_once(' ').map_or((words, None), |(first, rest)| (first, Some(rest)));
    match (protocol, rest) {
        // Whatever else it says is to be ignored.
        ("UNKNOWN", _) => Some(Header::Local),
        ("TCP4", Some(rest)) => addresses(rest, |client| Some(IpAddr::V4(client.parse::<Ipv4Addr>().ok()?))),
        ("TCP6", Some(rest)) => addresses(rest, |client| Some(IpAddr::V6(client.parse::<Ipv6Addr>().ok()?))),
        _ => None,
    }
}

/// The client is of the family that the line begins with. What it dialled need not be, though the format says so: nginx
/// writes the address of its own socket, also for a client of the other family that another proxy named to it.
fn addresses(words: &str, address: fn(&str) -> Option<IpAddr>) -> Option<Header> {
    let words: Vec<&str> = words.split(' ').collect();
    let [client, dialled, client_port, dialled_port] = words.as_slice() else { return None };
    Some(Header::proxied(
        SocketAddr::new(address(client)?, port(client_port)?),
        SocketAddr::new(dialled.parse().ok()?, port(dialled_port)?),
    ))
}

/// Digits alone, the first of them no zero, as the format demands.
fn port(word: &str) -> Option<u16> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || (word.len() > 1 && word.starts_with('0')) {
        return None;
    }
    word.parse().ok()
}

pub(crate) fn bytes(header: &Header) -> Vec<u8> {
    let line = match header {
        Header::Local => "PROXY UNKNOWN\r\n".to_owned(),
        Header::Proxied { client, dialled } => match AddressPair::of(*client, *dialled) {
            AddressPair::V4([client, dialled]) => {
                format!(
                    "PROXY TCP4 {} {} {} {}\r\n",
                    client.ip(),
                    dialled.ip(),
                    client.port(),
                    dialled.port()
                )
            }
            AddressPair::V6([(client, client_port), (dialled, dialled_port)]) => {
                format!("PROXY TCP6 {client} {dialled} {client_port} {dialled_port}\r\n")
            }
        },
    };
    line.into_bytes()
}

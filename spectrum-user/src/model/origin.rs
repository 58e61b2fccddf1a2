//! The servers we proxy to, as configured. Resolving names is not done here.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;

/// A server we proxy to.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Origin {
    /// Where it is.
    pub host: OriginHost,
    /// Its port; `None` keeps the dialled port.
    pub port: Option<NonZeroU16>,
}

/// An address, or a name that DNS resolves.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum OriginHost {
    /// An address.
    Address(IpAddr),
    /// A host name.
    Name(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (OriginHost::Address(address), Some(port)) => SocketAddr::new(*address, port.get()).fmt(f),
            (OriginHost::Address(address), None) => address.fmt(f),
            (OriginHost::Name(name), Some(port)) => write!(f, "{name}:{port}"),
            (OriginHost::Name(name), None) => name.fmt(f),
        }
    }
}

impl FromStr for Origin {
    type Err = ParseOriginError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        let port = |text: &str| {
            text.parse::<NonZeroU16>()
                .ok()
                .filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
                .ok_or_else(|| ParseOriginError::Port { port: text.to_owned() })
        };
        // An IPv6 address stands bare, or in brackets when a port follows.
        if let Ok(address) = typed.parse::<IpAddr>() {
            return Ok(Self { host: OriginHost::Address(address), port: None });
        }
        if let Some(rest) = typed.strip_prefix('[') {
            let (address, after) = rest.split_once(']').ok_or(ParseOriginError::Bracket)?;
            let address: Ipv6Addr =
                address.parse().map_err(|_error| ParseOriginError::Host { host: address.to_owned() })?;
            let port = match after.strip_prefix(':') {
                Some(text) => Some(port(text)?),
                None if after.is_empty() => None,
                None => return Err(ParseOriginError::Bracket),
            };
            return Ok(Self { host: OriginHost::Address(address.into()), port });
        }
        let (host, port) = match typed.split_once(':') {
            Some((host, text)) => (host, Some(port(text)?)),
            None => (typed, None),
        };
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Self { host: OriginHost::Address(address), port });
        }
        if is_host_name(host) {
            Ok(Self { host: OriginHost::Name(host.to_owned()), port })
        } else {
            Err(ParseOriginError::Host { host: host.to_owned() })
        }
    }
}

/// Letters, digits, hyphens and underscores in labels of 1 to 63, with a letter somewhere in the last one, so that a
/// mistyped address is not taken for a name (RFC 1123, section 2.1).
fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    text.len() <= 253
        && text.split('.').all(label)
        && text.rsplit('.').next().is_some_and(|last| last.bytes().any(|byte| byte.is_ascii_alphabetic()))
}

/// Why a text is not an [`Origin`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseOriginError {
    /// Brackets that do not enclose an IPv6 address with an optional port behind it.
    #[error("expected [IPV6] or [IPV6]:PORT")]
    Bracket,
    /// Neither an address nor a name.
    #[error("{host:?} is neither an IP address nor a host name")]
    Host {
        /// What was typed.
        host: String,
    },
    /// Not a port.
    #[error("port {port:?} is not a number from 1 to 65535")]
    Port {
        /// What was typed.
        port: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_print_as_they_are_typed() {
        for text in [
            "203.0.113.10",
            "203.0.113.10:80",
            "2001:db8::1",
            "[2001:db8::1]:80",
            "example.com",
            "example.com:80",
            "localhost",
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            ":80",
            "203.0.113.300",
            "203.0.113.10:0",
            "203.0.113.10:70000",
            "[2001:db8::1",
            "[::1]80",
            "a b",
            "-x.example",
            "example.com:http",
            "1.2.3.4.5",
            "2001:db8::g",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text:?} was accepted");
        }
    }
}

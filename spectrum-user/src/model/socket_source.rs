//! What is looked for among the sockets of other programs, to be registered by itself: whose it is, and where it is bound. Looks for nothing.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Protocol;

/// A socket of another program, as it is looked for: `nginx.service tcp 443`.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct SocketSource {
    /// The processes that may have it.
    pub holder: SocketHolder,
    /// Its protocol.
    pub protocol: Protocol,
    /// The address that it is bound to; any if none.
    pub ip: Option<IpAddr>,
    /// Its port.
    pub port: NonZeroU16,
}

/// The processes that may have a socket.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum SocketHolder {
    /// Those whose program calls itself so.
    Command(String),
    /// The one whose id a file has.
    PidFile(PathBuf),
    /// Those of a unit of systemd.
    Unit(String),
}

/// A text that names no socket to look for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "expected whose socket it is, its protocol and its port, such as \"nginx.service tcp 443\", \"/run/knot.pid udp 53\" or \"sshd tcp \
     127.0.0.1:22\""
)]
pub struct ParseSocketSourceError;

impl SocketSource {
    /// True of a socket of this protocol that is bound to `address`.
    #[must_use]
    pub fn is_of(&self, protocol: Protocol, address: SocketAddr) -> bool {
        self.protocol == protocol
            && self.port.get() == address.port()
            && self.ip.is_none_or(|ip| ip == address.ip())
    }
}

impl FromStr for SocketSource {
    type Err = ParseSocketSourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [holder, protocol, place] = words.as_slice() else { return Err(ParseSocketSourceError) };
        let Ok(protocol) = protocol.parse() else { return Err(ParseSocketSourceError) };
        let (ip, port) = if let Ok(port) = place.parse::<NonZeroU16>() {
            (None, port)
        } else {
            let Ok(address) = place.parse::<SocketAddr>() else { return Err(ParseSocketSourceError) };
            (Some(address.ip()), NonZeroU16::new(address.port()).ok_or(ParseSocketSourceError)?)
        };
        let holder = if holder.starts_with('/') {
            SocketHolder::PidFile(PathBuf::from(holder))
        } else if matches!(holder.rsplit_once('.'), Some((_, "service" | "scope"))) {
            SocketHolder::Unit((*holder).to_owned())
        } else {
            SocketHolder::Command((*holder).to_owned())
        };
        Ok(Self { holder, protocol, ip, port })
    }
}

impl fmt::Display for SocketSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { holder, protocol, ip, port } = self;
        match holder {
            SocketHolder::Command(name) | SocketHolder::Unit(name) => f.write_str(name)?,
            SocketHolder::PidFile(path) => write!(f, "{}", path.display())?,
        }
        match ip {
            Some(ip) => write!(f, " {protocol} {}", SocketAddr::new(*ip, port.get())),
            None => write!(f, " {protocol} {port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_what_is_shown() {
        for text in [
            "nginx.service tcp 443",
            "/run/knot.pid udp 53",
            "sshd tcp 127.0.0.1:22",
            "user@1000.scope udp [2001:db8::1]:53",
        ] {
            assert_eq!(text.parse::<SocketSource>().unwrap().to_string(), text);
        }
        for text in
            ["", "nginx", "nginx tcp", "nginx tcp 0", "nginx tcp 65536", "nginx sctp 80", "nginx tcp 80 443"]
        {
            text.parse::<SocketSource>().unwrap_err();
        }
    }

    #[test]
    fn a_port_is_that_of_any_address_and_an_address_its_own() {
        let any: SocketSource = "nginx tcp 80".parse().unwrap();
        let one: SocketSource = "nginx tcp 127.0.0.1:80".parse().unwrap();
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(any.is_of(Protocol::Tcp, at("[::]:80")) && !any.is_of(Protocol::Udp, at("[::]:80")));
        assert!(one.is_of(Protocol::Tcp, at("127.0.0.1:80")) && !one.is_of(Protocol::Tcp, at("0.0.0.0:80")));
        assert!(!any.is_of(Protocol::Tcp, at("[::]:81")));
    }
}

//! What is looked for among the sockets of other programs, to be registered by itself: whose it is, and where it is bound. Looks for nothing.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Protocol, Weight};

/// A socket of another program, as it is looked for: `nginx.service tcp 443`, or `nginx.service tcp 443 weight 9`.
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
    /// Its weight beside the others of the service; `None`: it is looked for where the service has no socket at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<Weight>,
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
     127.0.0.1:22\", and behind it its weight where several share the clients, from 0 to 256: \"nginx.service tcp 443 weight 9\""
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

    /// Its weight beside `all` that a service looks for; `None` where it shares its clients with none of them. Where one has a weight, those
    /// without have 1.
    #[must_use]
    pub fn weight_among(&self, all: &[Self]) -> Option<Weight> {
        let shares = all.iter().any(|one| one.protocol == self.protocol && one.weight.is_some());
        shares.then(|| self.weight.unwrap_or(Weight::ONE))
    }

    /// True if both are the same server, whatever it weighs.
    #[must_use]
    pub fn is_same_server(&self, other: &Self) -> bool {
        let of = |source: &Self| Self { weight: None, ..source.clone() };
        of(self) == of(other)
    }
}

impl FromStr for SocketSource {
    type Err = ParseSocketSourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (holder, protocol, place, weight) = match words.as_slice() {
            [holder, protocol, place] => (holder, protocol, place, None),
            [holder, protocol, place, "weight", weight] => {
                let Ok(weight) = weight.parse() else { return Err(ParseSocketSourceError) };
                (holder, protocol, place, Some(weight))
            }
            _ => return Err(ParseSocketSourceError),
        };
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
        Ok(Self { holder, protocol, ip, port, weight })
    }
}

impl fmt::Display for SocketSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { holder, protocol, ip, port, weight } = self;
        match holder {
            SocketHolder::Command(name) | SocketHolder::Unit(name) => f.write_str(name)?,
            SocketHolder::PidFile(path) => write!(f, "{}", path.display())?,
        }
        match ip {
            Some(ip) => write!(f, " {protocol} {}", SocketAddr::new(*ip, port.get()))?,
            None => write!(f, " {protocol} {port}")?,
        }
        weight.map_or(Ok(()), |weight| write!(f, " weight {}", weight.get()))
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
            "nginx.service tcp 443 weight 0",
            "sshd tcp 127.0.0.1:22 weight 256",
        ] {
            assert_eq!(text.parse::<SocketSource>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "nginx",
            "nginx tcp",
            "nginx tcp 0",
            "nginx tcp 65536",
            "nginx sctp 80",
            "nginx tcp 80 443",
            "nginx tcp 80 weight",
            "nginx tcp 80 weight 257",
            "nginx tcp 80 9",
            "nginx tcp 80 weight 9 9",
        ] {
            text.parse::<SocketSource>().unwrap_err();
        }
    }

    #[test]
    fn where_one_has_a_weight_those_of_its_protocol_have_one_too() {
        let all =
            ["a tcp 80 weight 9", "b tcp 80", "c udp 53"].map(|text| text.parse::<SocketSource>().unwrap());
        let weights = all.each_ref().map(|one| one.weight_among(&all).map(Weight::get));
        assert_eq!(weights, [Some(9), Some(1), None]);
    }

    #[test]
    fn a_server_is_the_same_whatever_it_weighs() {
        let of = |text: &str| text.parse::<SocketSource>().unwrap();
        assert!(of("nginx tcp 80 weight 9").is_same_server(&of("nginx tcp 80")));
        assert!(!of("nginx tcp 80 weight 9").is_same_server(&of("nginx tcp 81 weight 9")));
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

//! The servers we proxy to, as configured. Resolving names is not done here.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::str::FromStr;

use super::{ParsePortRangeError, PortRange, notation};

/// A server we proxy to.
#[derive(Clone, Debug, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Origin {
    /// Its place.
    pub host: OriginHost,
    /// The port that is dialled.
    pub port: OriginPort,
    /// Its share of the connections, next to those of the other origins.
    pub weight: Weight,
    /// The condition under which it is used.
    pub role: OriginRole,
}

/// An address, or a name that DNS resolves.
#[derive(Clone, Debug, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub enum OriginHost {
    /// An address.
    Address(IpAddr),
    /// A host name, of A and AAAA records.
    Name(String),
    /// The name of a service, `_http._tcp.example.com`, whose SRV records name hosts and ports (RFC 2782).
    Service(String),
}

/// The port of an origin that a connection goes to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub enum OriginPort {
    /// The port that the client dialled.
    Dialled,
    /// Always this one.
    Fixed(NonZeroU16),
    /// As far into this range as the dialled port is into the range that the service binds. Both are equally wide.
    Offset(PortRange),
    /// The one that the SRV record says; with [`OriginHost::Service`] and there alone.
    Record,
}

/// An origin's share of the connections.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Weight(u16);

impl Weight {
    /// No new connections: the origin is drained.
    pub const ZERO: Self = Self(0);

    /// The share of an origin of which nothing else is said.
    pub const ONE: Self = Self(1);

    /// The largest.
    pub const MAX: u16 = 256;

    /// A share of `weight`, or `None` if it is more than [`Weight::MAX`].
    #[must_use]
    pub fn new(weight: u16) -> Option<Self> {
        (weight <= Self::MAX).then_some(Self(weight))
    }

    /// As a number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Weight {
    type Error = WeightError;

    fn try_from(weight: u16) -> Result<Self, WeightError> {
        Self::new(weight).ok_or(WeightError)
    }
}

impl FromStr for Weight {
    type Err = WeightError;

    fn from_str(typed: &str) -> Result<Self, WeightError> {
        typed.parse().ok().and_then(Self::new).ok_or(WeightError)
    }
}

impl From<Weight> for u16 {
    fn from(weight: Weight) -> Self {
        weight.get()
    }
}

/// The error of a number that is no [`Weight`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a weight is 0 to {}", Weight::MAX)]
pub struct WeightError;

/// The identity of an origin: the same for one server and port, however its name was typed.
#[doc(hidden)]
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct OriginIdentity(OriginHost, OriginPort);

/// The condition under which an origin is used.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub enum OriginRole {
    /// While no primary one is usable.
    Backup,
    /// Always.
    #[default]
    Primary,
}

impl OriginRole {
    /// As a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Primary => "primary",
        }
    }
}

impl Origin {
    /// An origin of which nothing else is said.
    #[must_use]
    pub fn new(host: OriginHost, port: OriginPort) -> Self {
        Self { host, port, weight: Weight::ONE, role: OriginRole::Primary }
    }

    #[doc(hidden)]
    /// By what it is told from others.
    #[must_use]
    pub fn identity(&self) -> OriginIdentity {
        let host = match &self.host {
            OriginHost::Address(address) => OriginHost::Address(*address),
            OriginHost::Name(name) | OriginHost::Service(name) => {
                OriginHost::Name(name.trim_end_matches('.').to_ascii_lowercase())
            }
        };
        OriginIdentity(host, self.port)
    }
}

impl OriginHost {
    /// True if it is a name that means this host wherever it is said (RFC 6761, section 6.3).
    #[must_use]
    pub fn is_localhost(&self) -> bool {
        let Self::Name(name) = self else { return false };
        let name = name.trim_end_matches('.');
        name.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost"))
    }
}

impl fmt::Display for OriginHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) | Self::Service(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for Origin {
    /// Host and port as they are typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with_port = |f: &mut fmt::Formatter<'_>, port: &dyn fmt::Display| match &self.host {
            OriginHost::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{port}"),
            host => write!(f, "{host}:{port}"),
        };
        match self.port {
            OriginPort::Dialled | OriginPort::Record => self.host.fmt(f),
            OriginPort::Fixed(port) => with_port(f, &port),
            OriginPort::Offset(range) => with_port(f, &range),
        }
    }
}

impl FromStr for Origin {
    type Err = ParseOriginError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        Self::parse(typed).map_err(|error| {
            notation::origin(typed).map_or(error, |cure| ParseOriginError::Notation { cure })
        })
    }
}

impl Origin {
    fn parse(typed: &str) -> Result<Self, ParseOriginError> {
        // An IPv6 address stands bare, or in brackets when a port follows.
        if let Some(address) = parse_address(typed)? {
            return Ok(Self::new(OriginHost::Address(address), OriginPort::Dialled));
        }
        if let Some(rest) = typed.strip_prefix('[') {
            let (address, after) = rest.split_once(']').ok_or(ParseOriginError::Bracket)?;
            let address = parse_address(address)?
                .filter(IpAddr::is_ipv6)
                .ok_or_else(|| ParseOriginError::Host { host: address.to_owned() })?;
            let port = match after.strip_prefix(':') {
                Some(text) => parse_port(text)?,
                None if after.is_empty() => OriginPort::Dialled,
                None => return Err(ParseOriginError::Bracket),
            };
            return Ok(Self::new(OriginHost::Address(address), port));
        }
        let (host, port) = match typed.split_once(':') {
            Some((host, text)) => (host, parse_port(text)?),
            None => (typed, OriginPort::Dialled),
        };
        if let Some(address) = parse_address(host)? {
            return Ok(Self::new(OriginHost::Address(address), port));
        }
        if !is_host_name(host) {
            return Err(ParseOriginError::Host { host: host.to_owned() });
        }
        match (is_service_name(host), port) {
            (false, port) => Ok(Self::new(OriginHost::Name(host.to_owned()), port)),
            (true, OriginPort::Dialled) => {
                Ok(Self::new(OriginHost::Service(host.to_owned()), OriginPort::Record))
            }
            (true, _) => Err(ParseOriginError::ServicePort),
        }
    }
}

/// The address of one server; `None` if `text` has not the form of an address.
fn parse_address(text: &str) -> Result<Option<IpAddr>, ParseOriginError> {
    let zoneless = text.split_once('%').map_or(text, |(address, _zone)| address);
    let Ok(address) = zoneless.parse::<IpAddr>() else { return Ok(None) };
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    if link_local || zoneless.len() < text.len() {
        return Err(ParseOriginError::Link { address });
    }
    if let IpAddr::V6(mapped) = address
        && let Some(ipv4) = mapped.to_ipv4_mapped()
    {
        return Err(ParseOriginError::Mapped { mapped, ipv4 });
    }
    if address.is_unspecified() {
        return Err(ParseOriginError::Unspecified { address });
    }
    if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(ParseOriginError::Many { address });
    }
    Ok(Some(address))
}

/// A port, or a range of ports.
fn parse_port(text: &str) -> Result<OriginPort, ParseOriginError> {
    let range: PortRange = text.parse()?;
    match NonZeroU16::new(range.first()) {
        Some(port) if !text.contains('-') => Ok(OriginPort::Fixed(port)),
        _ => Ok(OriginPort::Offset(range)),
    }
}

/// True if a host name has the form that RFC 2782 gives the names of services over TCP.
fn is_service_name(host: &str) -> bool {
    let mut labels = host.split('.');
    labels.next().is_some_and(|service| service.starts_with('_'))
        && labels.next().is_some_and(|protocol| protocol.eq_ignore_ascii_case("_tcp"))
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

/// The error of a text that is not an [`Origin`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseOriginError {
    /// Brackets that do not enclose an IPv6 address with an optional port behind it.
    #[error("expected [IPV6] or [IPV6]:PORT")]
    Bracket,
    /// Neither an address nor a name.
    #[error("{host:?} is neither an IP address nor a host name")]
    Host {
        /// The text that was typed.
        host: String,
    },
    /// An address that means something else on every link.
    #[error("{address} holds on one link only, and none can be named; write an address that does not")]
    Link {
        /// Which.
        address: IpAddr,
    },
    /// A multicast or the broadcast address.
    #[error("{address} is no server's address but that of many")]
    Many {
        /// Which.
        address: IpAddr,
    },
    /// An IPv4 address in the form of an IPv6 one.
    #[error("{mapped} is an IPv4-mapped address; write {ipv4}")]
    Mapped {
        /// As typed.
        mapped: Ipv6Addr,
        /// The address that is meant.
        ipv4: Ipv4Addr,
    },
    /// Written as another product has it.
    #[error("{cure}")]
    Notation {
        /// The text to write instead.
        cure: String,
    },
    /// Neither a port nor a range of ports.
    #[error(transparent)]
    Port(#[from] ParsePortRangeError),
    /// A port behind the name of a service.
    #[error("the SRV records of a service name say the port; leave it out")]
    ServicePort,
    /// `0.0.0.0` or `::`.
    #[error("{address} is no server's address; for this host write 127.0.0.1 or ::1")]
    Unspecified {
        /// Which.
        address: IpAddr,
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
            "10.0.0.5:3000-4000",
            "[2001:db8::1]:3000-4000",
            "_http._tcp.example.com",
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn localhost_is_told_from_names_that_may_mean_anything() {
        for (text, is_localhost) in [
            ("localhost:80", true),
            ("LocalHost.", true),
            ("db.localhost", true),
            ("localhost.example.com", false),
            ("notlocalhost", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().host.is_localhost(), is_localhost, "{text}");
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
            "10.0.0.5:4000-3000",
            "_http._tcp.example.com:80",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text:?} was accepted");
        }
    }
}

//! The origins of one service, and how a connection gets to one of them. Chooses none: that takes their state.

use spectrum_common::UnknownWord;
use std::net::IpAddr;
use std::time::Duration;
use strum::{Display, EnumString, VariantNames};

use super::{HealthProbe, Origin, OriginPort, PortRange, Prefix, Protocol};

/// The servers that a service relays to.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Origins {
    /// In the order configured; never empty, and not all of them backups.
    pub list: Vec<Origin>,
    /// The rule by which a connection gets one.
    pub balance: Balance,
    /// Their health checks; `None`: they have none.
    pub health: Option<HealthCheck>,
    /// The rule by which failures to dial one take it out of use; `None`: never.
    pub ejection: Option<Ejection>,
    /// The moment at which a connection's origin is dialled.
    pub dial_on: DialOn,
    /// The protocols by which they are dialled.
    pub protocols: OriginProtocols,
    /// The header that tells an origin by TCP who the client is; `None`: none.
    pub header: Option<ProxyVersion>,
    /// The header that tells an origin by UDP who the client is; `None`: none.
    pub datagram_header: Option<DatagramHeader>,
    /// The ids by which connections are called to them.
    pub unique_ids: UniqueIds,
    /// The address that origins see.
    pub source: DialSource,
    /// The prefixes whose addresses sessions of UDP are dialled from, of this host or local to it; empty: the kernel chooses one.
    pub sources: Vec<Prefix>,
    /// The permission of their names to mean this host.
    pub local: LocalOrigins,
    /// The ranges of ports that the service binds, for whichever protocol, where an origin's port depends on them: sorted, and
    /// sharing no port. Empty otherwise.
    pub dialled: Vec<PortRange>,
}

impl Origins {
    /// The port of `origin` for a connection that dialled `dialled`. `None` where the origin's SRV record says it, and for a
    /// port that the service does not bind.
    #[must_use]
    pub fn port(&self, origin: &Origin, dialled: u16) -> Option<u16> {
        match origin.port {
            OriginPort::Dialled => Some(dialled),
            OriginPort::Fixed(port) => Some(port.get()),
            OriginPort::Offset(range) => {
                let bound = self.dialled.iter().find(|bound| bound.contains(dialled))?;
                let port = range.first().checked_add(dialled - bound.first())?;
                range.contains(port).then_some(port)
            }
            OriginPort::Record => None,
        }
    }

    /// The only protocol of whose dials the checks say anything: a port may be open for one alone. `None`: those of both, since there is
    /// no other, or since a port of its own for checks tells of the server, whatever it is dialled for.
    #[must_use]
    pub fn judged(&self) -> Option<Protocol> {
        let check = self.health.as_ref()?;
        let is_apart = self.protocols == OriginProtocols::Both && check.port.is_none();
        is_apart.then(|| check.probe.protocol())
    }
}

/// The protocols by which origins are dialled: those that their service binds.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub enum OriginProtocols {
    /// TCP and UDP.
    Both,
    /// One of them.
    #[default]
    One,
}

impl From<Vec<Origin>> for Origins {
    /// `list`, with everything else as it is where nothing is said.
    fn from(list: Vec<Origin>) -> Self {
        Self {
            list,
            balance: Balance::default(),
            health: None,
            ejection: None,
            dial_on: DialOn::default(),
            protocols: OriginProtocols::default(),
            header: None,
            datagram_header: None,
            unique_ids: UniqueIds::default(),
            source: DialSource::default(),
            sources: Vec::new(),
            local: LocalOrigins::default(),
            dialled: Vec::new(),
        }
    }
}

/// The permission of origins' names to mean what only this host reaches: loopback, link-local and its own addresses.
/// Whoever can change a name could otherwise have strangers led there.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub enum LocalOrigins {
    /// They may.
    Dialled,
    /// Such an address is not dialled.
    #[default]
    Refused,
}

/// The rule by which a connection gets an origin.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    Hash,
    PartialEq,
    Display,
    EnumString,
    VariantNames,
    serde::Deserialize,
    serde::Serialize,
)]
#[strum(serialize_all = "kebab-case", parse_err_ty = UnknownWord, parse_err_fn = UnknownWord::of::<Balance>)]
pub enum Balance {
    /// Each in turn, as often as its weight says.
    #[default]
    RoundRobin,
    /// The one with the fewest open connections for its weight.
    LeastConnections,
    /// By the client's address, always the same one. When one of N origins goes, about one client in N gets another.
    SourceHash,
}

/// A connection to each origin now and then, which is closed at once, or a datagram that it must answer.
#[derive(Clone, Debug, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct HealthCheck {
    /// From one check to the next.
    pub interval: Duration,
    /// The time that a check may take.
    pub timeout: Duration,
    /// The number of checks in a row that must succeed before an origin that is down is up.
    pub rise: u16,
    /// The number of checks in a row that must fail before an origin that is up is down.
    pub fall: u16,
    /// The port that is checked; `None`: the origin's own, which must not depend on the dialled port.
    pub port: Option<u16>,
    /// The header that the origin expects of a connection, to say that nobody is spoken for; `None`: none.
    pub header: Option<ProxyVersion>,
    /// The end of a connection, as the origin sees it.
    pub close: CheckClose,
    /// What is asked.
    pub probe: HealthProbe,
}

impl Default for HealthCheck {
    fn default() -> Self {
        let (interval, timeout) = (Duration::from_secs(5), Duration::from_secs(2));
        let (close, probe) = (CheckClose::default(), HealthProbe::Connect);
        Self { interval, timeout, rise: 2, fall: 3, port: None, header: None, close, probe }
    }
}

/// The way in which a health check closes its connection.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    Hash,
    PartialEq,
    Display,
    EnumString,
    VariantNames,
    serde::Deserialize,
    serde::Serialize,
)]
#[strum(serialize_all = "kebab-case", parse_err_ty = UnknownWord, parse_err_fn = UnknownWord::of::<CheckClose>)]
pub enum CheckClose {
    /// In order: by a FIN, for which the origin's is waited a little.
    #[default]
    Fin,
    /// By a RST, at once.
    Reset,
}

/// The rule by which failures of ordinary connections take an origin out of use for a time.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Ejection {
    /// The number of dials in a row that must fail.
    pub failures: u16,
    /// For how long.
    pub time: Duration,
}

impl Default for Ejection {
    fn default() -> Self {
        Self { failures: 5, time: Duration::from_secs(30) }
    }
}

/// The moment at which the origin of a connection is dialled.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    Hash,
    PartialEq,
    Display,
    EnumString,
    VariantNames,
    serde::Deserialize,
    serde::Serialize,
)]
#[strum(serialize_all = "kebab-case", parse_err_ty = UnknownWord, parse_err_fn = UnknownWord::of::<DialOn>)]
pub enum DialOn {
    /// When it is accepted, but for a moment in which a client that speaks first speaks, and a check resets.
    #[default]
    Accept,
    /// When the client has sent something. An origin that speaks first is never dialled for a client that waits for that.
    FirstByte,
}

/// A version of the PROXY protocol.
#[derive(
    Clone,
    Copy,
    Debug,
    Eq,
    Hash,
    PartialEq,
    Display,
    EnumString,
    VariantNames,
    serde::Deserialize,
    serde::Serialize,
)]
#[strum(serialize_all = "kebab-case", parse_err_ty = UnknownWord, parse_err_fn = UnknownWord::of::<ProxyVersion>)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Bytes.
    V2,
}

/// The way in which datagrams tell an origin who the client is.
#[derive(
    Clone,
    Copy,
    Debug,
    Eq,
    Hash,
    PartialEq,
    Display,
    EnumString,
    VariantNames,
    serde::Deserialize,
    serde::Serialize,
)]
#[strum(serialize_all = "kebab-case", parse_err_ty = UnknownWord, parse_err_fn = UnknownWord::of::<DatagramHeader>)]
pub enum DatagramHeader {
    /// Simple Proxy Protocol: before every datagram, both ways.
    Spp,
    /// A PROXY header of version 2 before every datagram.
    V2,
    /// The same, as a datagram of its own before the first of a session.
    V2Alone,
    /// The same, before the first datagram of a session.
    V2First,
}

/// The choice of a unique id for each connection, which a PROXY header of version 2 tells its origin.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub enum UniqueIds {
    /// Those to which a trusted proxy gave one.
    #[default]
    Given,
    /// The others get one of ours.
    Made,
}

/// The address that origins are dialled from.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub enum DialSource {
    /// The client's own address and port: the origin's answers must be routed through this host.
    Client,
    /// An address of this host.
    #[default]
    Host,
}

/// The proxies that may say in a PROXY header which client a connection is for.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct TrustedProxies {
    /// Their addresses. Connections from there must begin with a header, others have none. Empty: no connection has.
    pub prefixes: Vec<Prefix>,
}

impl TrustedProxies {
    /// True if what comes from `address` begins with a header.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_kept_from_one_range_to_the_other() {
        let origin: Origin = "10.0.0.5:3000-3010".parse().unwrap();
        let mut origins = Origins::from(vec![origin.clone()]);
        origins.dialled = vec!["1000-1010".parse().unwrap(), "2000-2010".parse().unwrap()];
        for (dialled, port) in
            [(1000, Some(3000)), (1010, Some(3010)), (2003, Some(3003)), (999, None), (1011, None)]
        {
            assert_eq!(origins.port(&origin, dialled), port, "{dialled}");
        }
    }

    #[test]
    fn a_check_of_a_port_that_is_dialled_judges_its_own_protocol_where_there_are_two() {
        let mut origins = Origins::from(vec!["10.0.0.5:53".parse().unwrap()]);
        origins.health = Some(HealthCheck::default());
        assert_eq!(origins.judged(), None);
        origins.protocols = OriginProtocols::Both;
        assert_eq!(origins.judged(), Some(Protocol::Tcp));
        origins.health = Some(HealthCheck { port: Some(80), ..HealthCheck::default() });
        assert_eq!(origins.judged(), None);
    }

    #[test]
    fn words_are_what_is_typed() {
        for word in Balance::VARIANTS {
            assert_eq!(word.parse::<Balance>().unwrap().to_string(), *word);
        }
        for word in DialOn::VARIANTS {
            assert_eq!(word.parse::<DialOn>().unwrap().to_string(), *word);
        }
        for word in ProxyVersion::VARIANTS {
            assert_eq!(word.parse::<ProxyVersion>().unwrap().to_string(), *word);
        }
        for word in DatagramHeader::VARIANTS {
            assert_eq!(word.parse::<DatagramHeader>().unwrap().to_string(), *word);
        }
    }
}

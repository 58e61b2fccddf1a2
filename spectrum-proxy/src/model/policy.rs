//! What a service's connections may take: numbers, rates and times. Enforces nothing.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use humantime::format_duration;

use super::{TrustedProxies, UdpPolicy};

/// The rules for every connection of a service, whatever answers it.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Policy {
    /// Their number and rate.
    pub limits: Limits,
    /// The time that it took.
    pub timeouts: Timeouts,
    /// The rules for sessions of UDP.
    pub udp: UdpPolicy,
    /// The proxies that may speak for other clients.
    pub trusted_proxies: TrustedProxies,
}

/// The highest number and rate of a service's connections. `None`: any number.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Limits {
    /// Open connections of the service.
    pub connections: Option<NonZeroU32>,
    /// Open connections from one source prefix.
    pub connections_per_source: Option<NonZeroU32>,
    /// New connections in a second from one source prefix.
    pub rate_per_source: Option<NonZeroU32>,
    /// The length of the prefix of a client's IPv4 address that counts as one source: 0 to 32 bits.
    pub source_ipv4: u8,
    /// The same of IPv6: 0 to 128.
    pub source_ipv6: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: None,
            connections_per_source: None,
            rate_per_source: None,
            source_ipv4: 32,
            // What one customer is given at least (RFC 6177).
            source_ipv6: 64,
        }
    }
}

impl Limits {
    /// True if there is any.
    #[must_use]
    pub fn any(&self) -> bool {
        self.connections.or(self.connections_per_source).or(self.rate_per_source).is_some()
    }
}

impl fmt::Display for Limits {
    /// The keys that are set, and what counts as one source where that matters; `none` without any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.any() {
            return f.pad("none");
        }
        let per_source = self.connections_per_source.or(self.rate_per_source).is_some();
        let keys = [
            ("connections", self.connections.map(NonZeroU32::get)),
            ("connections-per-source", self.connections_per_source.map(NonZeroU32::get)),
            ("rate-per-source", self.rate_per_source.map(NonZeroU32::get)),
            ("source-ipv4", per_source.then_some(self.source_ipv4.into())),
            ("source-ipv6", per_source.then_some(self.source_ipv6.into())),
        ];
        let set = keys.iter().filter_map(|(key, value)| value.map(|value| format!("{key} {value}")));
        f.pad(&set.collect::<Vec<_>>().join(", "))
    }
}

/// The times that a connection of a service may take for what. `None`: for ever.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Timeouts {
    /// Until one address of an origin answers.
    pub connect: Duration,
    /// Without a byte in either direction.
    pub idle: Option<Duration>,
    /// After one side's FIN, without a byte from the other.
    pub half_closed: Option<Duration>,
    /// In all.
    pub lifetime: Option<Duration>,
    /// Until a peer acknowledges what was sent, or makes room for it: TCP_USER_TIMEOUT, tcp(7).
    pub unacknowledged: Option<Duration>,
    /// Silence after which a peer is asked whether it is still there.
    pub keepalive: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            idle: Some(Duration::from_hours(1)),
            half_closed: Some(Duration::from_mins(5)),
            lifetime: None,
            unacknowledged: None,
            keepalive: Some(Duration::from_mins(1)),
        }
    }
}

impl fmt::Display for Timeouts {
    /// The keys that are not as they are where nothing is said; nothing if all are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = Self::default();
        let keys = [
            ("connect", Some(self.connect), Some(usual.connect)),
            ("idle", self.idle, usual.idle),
            ("half-closed", self.half_closed, usual.half_closed),
            ("lifetime", self.lifetime, usual.lifetime),
            ("unacknowledged", self.unacknowledged, usual.unacknowledged),
            ("keepalive", self.keepalive, usual.keepalive),
        ];
        let unusual = keys.into_iter().filter(|(_, time, usual)| time != usual).map(|(key, time, _)| {
            let time = time.map_or_else(|| "none".to_owned(), |time| format_duration(time).to_string());
            format!("{key} {time}")
        });
        f.pad(&unusual.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_shown_where_they_are_not_as_usual() {
        let mut timeouts = Timeouts::default();
        assert_eq!(timeouts.to_string(), "");
        timeouts.idle = None;
        timeouts.lifetime = Some(Duration::from_secs(90));
        assert_eq!(timeouts.to_string(), "idle none, lifetime 1m 30s");
    }

    #[test]
    fn limits_are_shown_by_their_keys() {
        let mut limits = Limits::default();
        assert_eq!(limits.to_string(), "none");
        limits.connections = NonZeroU32::new(1000);
        assert_eq!(limits.to_string(), "connections 1000");
        limits.rate_per_source = NonZeroU32::new(5);
        assert_eq!(limits.to_string(), "connections 1000, rate-per-source 5, source-ipv4 32, source-ipv6 64");
    }
}

//! A service's policy in the view: every key has its unit in its name, and `null` is none. Means what
//! `model` means by it.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Limits, Quic, Timeouts, UdpPolicy};

/// The limits and times of a service, a line each, as far as they are not what holds anyway.
#[must_use]
pub fn policy_lines(limits: &Limits, timeouts: &Timeouts, udp: &UdpPolicy) -> Vec<String> {
    let limits = limits.any().then(|| format!("limits: {limits}"));
    let unusual = [("timeouts", timeouts.to_string()), ("udp", udp.to_string())];
    let unusual = unusual.into_iter().filter(|(_, keys)| !keys.is_empty());
    limits.into_iter().chain(unusual.map(|(table, keys)| format!("{table}: {keys}"))).collect()
}

/// [`Limits`]. `None`: any number.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LimitsView {
    /// Open connections of the service.
    pub connections: Option<u32>,
    /// Open connections from one source prefix.
    pub connections_per_source: Option<u32>,
    /// New connections in a second from one source prefix.
    pub rate_per_source_per_second: Option<u32>,
    /// The length of a source prefix.
    pub source_ipv4_bits: u8,
    /// The same of IPv6.
    pub source_ipv6_bits: u8,
}

impl Default for LimitsView {
    fn default() -> Self {
        (&Limits::default()).into()
    }
}

impl Default for TimeoutsView {
    fn default() -> Self {
        (&Timeouts::default()).into()
    }
}

impl From<&Limits> for LimitsView {
    fn from(limits: &Limits) -> Self {
        Self {
            connections: limits.connections.map(NonZeroU32::get),
            connections_per_source: limits.connections_per_source.map(NonZeroU32::get),
            rate_per_source_per_second: limits.rate_per_source.map(NonZeroU32::get),
            source_ipv4_bits: limits.source_ipv4,
            source_ipv6_bits: limits.source_ipv6,
        }
    }
}

impl From<&LimitsView> for Limits {
    fn from(answer: &LimitsView) -> Self {
        Self {
            connections: answer.connections.and_then(NonZeroU32::new),
            connections_per_source: answer.connections_per_source.and_then(NonZeroU32::new),
            rate_per_source: answer.rate_per_source_per_second.and_then(NonZeroU32::new),
            source_ipv4: answer.source_ipv4_bits,
            source_ipv6: answer.source_ipv6_bits,
        }
    }
}

/// [`Timeouts`] in milliseconds. `None`: for ever.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TimeoutsView {
    /// Until one address of an origin answers.
    pub connect_ms: u64,
    /// Without a byte in either direction.
    pub idle_ms: Option<u64>,
    /// After one side's FIN, without a byte from the other.
    pub half_closed_ms: Option<u64>,
    /// In all.
    pub lifetime_ms: Option<u64>,
    /// Until a peer acknowledges what was sent.
    pub unacknowledged_ms: Option<u64>,
    /// Silence after which a peer is asked whether it is still there.
    pub keepalive_ms: Option<u64>,
}

/// [`UdpPolicy`], the rules for sessions of UDP. `None`: for ever, or any number.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct UdpView {
    /// Without a datagram in either direction.
    pub idle_ms: u64,
    /// In all.
    pub lifetime_ms: Option<u64>,
    /// The number of answers with which a session is over.
    pub responses: Option<u32>,
    /// The most sessions at once.
    pub sessions: Option<u32>,
    /// True if a client of QUIC that has another address continues its session.
    pub quic: bool,
}

impl Default for UdpView {
    fn default() -> Self {
        (&UdpPolicy::default()).into()
    }
}

impl From<&UdpPolicy> for UdpView {
    fn from(policy: &UdpPolicy) -> Self {
        Self {
            idle_ms: ms(policy.idle),
            lifetime_ms: policy.lifetime.map(ms),
            responses: policy.responses.map(NonZeroU32::get),
            sessions: policy.sessions.map(NonZeroU32::get),
            quic: policy.quic == Quic::Followed,
        }
    }
}

impl From<&UdpView> for UdpPolicy {
    fn from(answer: &UdpView) -> Self {
        Self {
            idle: Duration::from_millis(answer.idle_ms),
            lifetime: answer.lifetime_ms.map(Duration::from_millis),
            responses: answer.responses.and_then(NonZeroU32::new),
            sessions: answer.sessions.and_then(NonZeroU32::new),
            quic: if answer.quic { Quic::Followed } else { Quic::Ignored },
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl From<&Timeouts> for TimeoutsView {
    fn from(timeouts: &Timeouts) -> Self {
        Self {
            connect_ms: ms(timeouts.connect),
            idle_ms: timeouts.idle.map(ms),
            half_closed_ms: timeouts.half_closed.map(ms),
            lifetime_ms: timeouts.lifetime.map(ms),
            unacknowledged_ms: timeouts.unacknowledged.map(ms),
            keepalive_ms: timeouts.keepalive.map(ms),
        }
    }
}

impl From<&TimeoutsView> for Timeouts {
    fn from(answer: &TimeoutsView) -> Self {
        Self {
            connect: Duration::from_millis(answer.connect_ms),
            idle: answer.idle_ms.map(Duration::from_millis),
            half_closed: answer.half_closed_ms.map(Duration::from_millis),
            lifetime: answer.lifetime_ms.map(Duration::from_millis),
            unacknowledged: answer.unacknowledged_ms.map(Duration::from_millis),
            keepalive: answer.keepalive_ms.map(Duration::from_millis),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_answered_is_what_was_meant() {
        let limits = Limits {
            connections: NonZeroU32::new(7),
            rate_per_source: NonZeroU32::new(5),
            ..Limits::default()
        };
        assert_eq!(Limits::from(&LimitsView::from(&limits)), limits);
        let timeouts =
            Timeouts { idle: None, lifetime: Some(Duration::from_millis(1500)), ..Timeouts::default() };
        assert_eq!(Timeouts::from(&TimeoutsView::from(&timeouts)), timeouts);
        let udp = UdpPolicy { responses: NonZeroU32::new(1), quic: Quic::Followed, ..UdpPolicy::default() };
        assert_eq!(UdpPolicy::from(&UdpView::from(&udp)), udp);
        assert_eq!(
            policy_lines(&Limits::default(), &Timeouts::default(), &udp),
            ["udp: responses 1, quic true"]
        );
        assert_eq!(
            serde_json::to_string(&TimeoutsView::from(&timeouts)).unwrap(),
            r#"{"connect_ms":5000,"idle_ms":null,"half_closed_ms":300000,"lifetime_ms":1500,"unacknowledged_ms":null,"keepalive_ms":60000}"#
        );
    }
}

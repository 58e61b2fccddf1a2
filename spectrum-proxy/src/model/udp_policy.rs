//! What sessions of UDP may take and last, since nothing in their datagrams says when they are over. Enforces nothing.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use humantime::format_duration;

/// The rules for a service's sessions of UDP, beside those that hold for every connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct UdpPolicy {
    /// Without a datagram in either direction.
    pub idle: Duration,
    /// In all; `None`: for ever.
    pub lifetime: Option<Duration>,
    /// The number of answers with which a session is over; `None`: any number.
    pub responses: Option<NonZeroU32>,
    /// The most sessions of the service at once, where the one that is missed least makes room for another; `None`: as many as
    /// its workers have room for.
    pub sessions: Option<NonZeroU32>,
    /// The treatment of QUIC's connection ids.
    pub quic: Quic,
}

/// The treatment of QUIC's connection ids.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub enum Quic {
    /// A client that has another address but a known id continues its session.
    Followed,
    /// Datagrams are what they are.
    #[default]
    Ignored,
}

impl Default for UdpPolicy {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(30),
            lifetime: None,
            responses: None,
            sessions: None,
            quic: Quic::Ignored,
        }
    }
}

impl fmt::Display for UdpPolicy {
    /// The keys that are not as they are where nothing is said; nothing if all are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = Self::default();
        let time = |time: Duration| format_duration(time).to_string();
        let keys = [
            ("idle", (self.idle != usual.idle).then(|| time(self.idle))),
            ("lifetime", self.lifetime.map(time)),
            ("responses", self.responses.map(|count| count.to_string())),
            ("sessions", self.sessions.map(|count| count.to_string())),
            ("quic", (self.quic == Quic::Followed).then(|| "true".to_owned())),
        ];
        let unusual = keys.into_iter().filter_map(|(key, value)| value.map(|value| format!("{key} {value}")));
        f.pad(&unusual.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_usual_is_not_shown() {
        let mut policy = UdpPolicy::default();
        assert_eq!(policy.to_string(), "");
        policy.idle = Duration::from_mins(2);
        policy.responses = NonZeroU32::new(1);
        policy.quic = Quic::Followed;
        assert_eq!(policy.to_string(), "idle 2m, responses 1, quic true");
    }
}

//! What a service says of its sessions of UDP: the table `udp`, and which other keys are not for the protocols that it binds.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::section::Typed;
use crate::config::udp::BoundProtocols;
use crate::model::{
    DatagramHeader, DialSource, Family, OriginHost, Origins, Prefix, ProxyVersion, Quic, Target, UdpPolicy,
};

/// From what an answer may take to what a NAT remembers at most.
const IDLE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(24);

const LIFETIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24 * 365);

/// The most sessions that a service may be given, each of some hundred bytes.
const SESSIONS: RangeInclusive<u32> = 1..=16_777_216;

/// The most prefixes of source addresses.
const SOURCES: usize = 64;

const NO_UDP: &str = "is about UDP, of which the service has no binding; remove it";

/// The table `udp` of a service, read.
#[derive(Debug, Default)]
pub(super) struct UdpKeys {
    pub(super) policy: UdpPolicy,
    /// The prefixes whose addresses origins see.
    pub(super) sources: Vec<Prefix>,
}

impl UdpKeys {
    /// What `typed` says of a service that binds these protocols and has this target, if any.
    pub(super) fn read(typed: Typed<'_, '_>, bound: BoundProtocols, target: Option<&Target>) -> Self {
        let mut keys = Self::default();
        let origins = match target {
            Some(Target::Origins(origins)) => Some(origins),
            Some(Target::Registered | Target::Respond(_)) | None => None,
        };
        let Some(section) = typed.section("a table such as { idle = \"30s\" }") else { return keys };
        // Without a binding of UDP the table as a whole is refused.
        let taken = |key: &'static str| section.take(key).filter(|_| bound.udp);
        let policy = &mut keys.policy;
        if let Some(time) = taken("idle").and_then(|typed| typed.time(&IDLE)) {
            policy.idle = time;
        }
        if let Some(typed) = taken("lifetime") {
            typed.time_or_none(&LIFETIMES, &mut policy.lifetime);
        }
        let count = |typed: Typed<'_, '_>| typed.number(&(1..=u32::MAX)).and_then(NonZeroU32::new);
        let for_origins = |typed: Option<Typed<'_, '_>>| {
            if let (Some(typed), None) = (typed, origins) {
                typed.refuse("means nothing without origins; remove it, or add origins");
            }
        };
        let responses = taken("responses");
        policy.responses = responses.and_then(count);
        let sessions = taken("sessions").and_then(|typed| typed.number(&SESSIONS));
        policy.sessions = sessions.and_then(NonZeroU32::new);
        let quic = taken("quic");
        if quic.and_then(|typed| typed.truth()) == Some(true) {
            policy.quic = Quic::Followed;
        }
        let source = taken("source");
        [responses, quic, source].into_iter().for_each(for_origins);
        if let (Some(typed), Quic::Followed) = (quic, policy.quic)
            && origins.is_some_and(|origins| origins.source == DialSource::Client)
        {
            typed.refuse("keeps the client's address of the beginning, and transparent shows origins the one of now; remove one of them");
        }
        if let Some(typed) = source {
            keys.sources = sources(typed, origins);
        }
        section.finish();
        if !bound.udp {
            typed.refuse(NO_UDP);
        }
        keys
    }
}

/// The prefixes of `source`, which must have an address of each family that is dialled.
fn sources(typed: Typed<'_, '_>, origins: Option<&Origins>) -> Vec<Prefix> {
    let each = typed.each("leave source out to have the kernel choose an address");
    let prefixes = each.filter_map(|(typed, _)| typed.parsed::<Prefix>("a prefix such as \"10.0.0.0/28\""));
    let prefixes: Vec<Prefix> = prefixes.collect();
    if prefixes.len() > SOURCES {
        typed.refuse(format_args!(
            "more than {SOURCES} prefixes; write neighbouring addresses as one prefix, as in \"10.0.0.0/28\""
        ));
    }
    let Some(origins) = origins.filter(|_| !prefixes.is_empty()) else { return prefixes };
    if origins.source == DialSource::Client {
        typed.refuse("transparent dials from the client's own address; remove one of them");
    }
    let lacking = origins.list.iter().find_map(|origin| match &origin.host {
        OriginHost::Address(address) => {
            let family = Family::of(*address);
            prefixes.iter().all(|prefix| prefix.family() != family).then_some((origin, family))
        }
        OriginHost::Name(_) | OriginHost::Service(_) => None,
    });
    if let Some((origin, family)) = lacking {
        typed.refuse(format_args!(
            "has no {family} address, from which {origin} could be dialled; add a prefix"
        ));
    }
    prefixes
}

/// The headers by which origins are told who the client is, by TCP and by UDP.
pub(super) fn headers(
    typed: Typed<'_, '_>,
    bound: BoundProtocols,
) -> (Option<ProxyVersion>, Option<DatagramHeader>) {
    let text = typed.value().as_str().unwrap_or_default();
    let version = text.parse::<ProxyVersion>().ok();
    let datagram = text.parse::<DatagramHeader>().ok();
    match bound {
        BoundProtocols { udp: false, .. } if version.is_none() && datagram.is_some() => {
            typed.refuse("is for UDP, of which the service has no binding; write v1 or v2");
            (None, None)
        }
        BoundProtocols { udp: false, .. } => (typed.word(), None),
        BoundProtocols { tcp: false, .. } if datagram.is_none() && version.is_some() => {
            typed.refuse(
                "is for TCP, of which the service has no binding; write v2, v2-first, v2-alone or spp",
            );
            (None, None)
        }
        BoundProtocols { tcp: false, .. } => (None, typed.word()),
        BoundProtocols { .. } => {
            if version.is_some() != datagram.is_some() {
                let only = if version.is_some() { "TCP" } else { "UDP" };
                typed.refuse(format_args!(
                    "is for {only} alone, and the service binds both; write v2, or give its UDP bindings to another service"
                ));
                return (None, None);
            }
            (typed.word(), datagram)
        }
    }
}

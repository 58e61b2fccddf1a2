//! What a service says of its connections whatever answers them: `limits`, `timeouts`, `trusted-proxies`.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::section::{Section, Typed};
use crate::config::udp::BoundProtocols;
use crate::model::{Limits, Policy, Prefix, Timeouts, TrustedProxies, UdpPolicy};

/// In seconds, as humantime has it.
const YEAR: u64 = 31_557_600;

/// From the shortest that the kernel's timers tell from nothing to the longest that anybody means.
const TIMES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(YEAR);

/// Of TCP_KEEPIDLE: whole seconds, 32,767 at most (tcp(7)).
const KEEPALIVE_TIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(9);

/// Of TCP_USER_TIMEOUT: milliseconds that an int holds.
const USER_TIMES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(24 * 24);

/// The keys of a service that make its [`Policy`], as typed.
pub(super) struct PolicyKeys<'a, 't> {
    limits: Option<Typed<'a, 't>>,
    timeouts: Option<Typed<'a, 't>>,
    trusted_proxies: Option<Typed<'a, 't>>,
}

impl<'a, 't> PolicyKeys<'a, 't> {
    pub(super) fn take(section: &'a Section<'_, 't>) -> Self {
        Self {
            limits: section.take("limits"),
            timeouts: section.take("timeouts"),
            trusted_proxies: section.take("trusted-proxies"),
        }
    }

    /// Those that are there.
    pub(super) fn each(&self) -> impl Iterator<Item = Typed<'a, 't>> {
        [self.limits, self.timeouts, self.trusted_proxies].into_iter().flatten()
    }

    /// Refuses the keys that are not for the protocols that are bound.
    pub(super) fn refuse_for(&self, bound: BoundProtocols) {
        if let (Some(typed), false) = (self.timeouts, bound.tcp) {
            typed.refuse(
                "is about TCP, of which the service has no binding; remove it, or write udp = { idle = \"30s\" }",
            );
        }
    }

    pub(super) fn read(&self, udp: UdpPolicy) -> Policy {
        Policy {
            limits: self.limits.map(limits).unwrap_or_default(),
            timeouts: self.timeouts.map(timeouts).unwrap_or_default(),
            udp,
            trusted_proxies: self.trusted_proxies.map(trusted).unwrap_or_default(),
        }
    }
}

fn limits(typed: Typed<'_, '_>) -> Limits {
    read_limits(typed, false)
}

/// The same of services that may have a limit of each source themselves.
pub(super) fn limits_of_any(typed: Typed<'_, '_>) -> Limits {
    read_limits(typed, true)
}

fn read_limits(typed: Typed<'_, '_>, is_by_source: bool) -> Limits {
    let mut limits = Limits::default();
    let Some(section) = typed.section("a table such as { connections = 10000 }") else { return limits };
    let count = |key| section.take(key)?.number(&(1..=u32::MAX)).and_then(NonZeroU32::new);
    limits.connections = count("connections");
    limits.connections_per_source = count("connections-per-source");
    limits.rate_per_source = count("rate-per-source");
    let per_source = ["connections-per-source", "rate-per-source"];
    let is_by_source =
        is_by_source || per_source.iter().any(|key| section.has(key) || section.misspells(key));
    let length = |key, longest, length: &mut u8| {
        let Some(typed) = section.take(key) else { return };
        let Some(number) = typed.number(&(0..=longest)) else { return };
        *length = number;
        if !is_by_source {
            let [one, other] = per_source;
            typed.refuse(format_args!(
                "has no effect without a limit of each source; add {one} or {other}, or remove it"
            ));
        }
    };
    length("source-ipv4", 32, &mut limits.source_ipv4);
    length("source-ipv6", 128, &mut limits.source_ipv6);
    section.finish();
    limits
}

pub(super) fn timeouts(typed: Typed<'_, '_>) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let Some(section) = typed.section("a table such as { idle = \"10m\" }") else { return timeouts };
    if let Some(time) = section.take("connect").and_then(|typed| typed.time(&TIMES)) {
        timeouts.connect = time;
    }
    for (key, range, place) in [
        ("idle", TIMES, &mut timeouts.idle),
        ("half-closed", TIMES, &mut timeouts.half_closed),
        ("lifetime", TIMES, &mut timeouts.lifetime),
        ("unacknowledged", USER_TIMES, &mut timeouts.unacknowledged),
        ("keepalive", KEEPALIVE_TIMES, &mut timeouts.keepalive),
    ] {
        if let Some(typed) = section.take(key) {
            typed.time_or_none(&range, place);
        }
    }
    section.finish();
    timeouts
}

fn trusted(typed: Typed<'_, '_>) -> TrustedProxies {
    let each = typed.each("leave trusted-proxies out to trust nobody");
    let prefixes = each.filter_map(|(typed, _)| typed.parsed::<Prefix>("a prefix such as \"10.0.0.0/8\""));
    TrustedProxies { prefixes: prefixes.collect() }
}

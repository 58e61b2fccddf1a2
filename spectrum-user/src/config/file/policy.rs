//! What a service says of its connections whatever answers them: `limits`, `timeouts`, `trusted-proxies`.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::key_path::KeyPath;
use super::quantity::{number, table, time, time_or_none};
use super::section::{Section, Typed, each, parsed, refuse};
use crate::config::error::Problems;
use crate::model::{Limits, Policy, Prefix, Timeouts, TrustedProxies};

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
    limits: Option<&'a Typed<'t>>,
    timeouts: Option<&'a Typed<'t>>,
    trusted_proxies: Option<&'a Typed<'t>>,
}

impl<'a, 't> PolicyKeys<'a, 't> {
    pub(super) fn take(section: &mut Section<'a, 't>) -> Self {
        Self {
            limits: section.take("limits"),
            timeouts: section.take("timeouts"),
            trusted_proxies: section.take("trusted-proxies"),
        }
    }

    /// Each key that is there, and its place.
    pub(super) fn present(&self) -> impl Iterator<Item = (&'static str, &'a Typed<'t>)> {
        [("limits", self.limits), ("timeouts", self.timeouts), ("trusted-proxies", self.trusted_proxies)]
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
    }

    pub(super) fn read(&self, path: KeyPath<'_>, problems: &mut Problems<'_>) -> Policy {
        let mut policy = Policy::default();
        if let Some(value) = self.limits {
            policy.limits = limits(value, KeyPath::Key(&path, "limits"), problems);
        }
        if let Some(value) = self.timeouts {
            policy.timeouts = timeouts(value, KeyPath::Key(&path, "timeouts"), problems);
        }
        if let Some(value) = self.trusted_proxies {
            policy.trusted_proxies = trusted(value, KeyPath::Key(&path, "trusted-proxies"), problems);
        }
        policy
    }
}

fn limits(value: &Typed<'_>, path: KeyPath<'_>, problems: &mut Problems<'_>) -> Limits {
    let mut limits = Limits::default();
    let Some(keys) = table(value, path, "a table such as { connections = 10000 }", problems) else {
        return limits;
    };
    let mut section = Section::new(keys, path);
    let mut count = |key, section: &mut Section<'_, '_>| {
        let value = section.take(key)?;
        number(value, KeyPath::Key(&path, key), &(1..=u32::MAX), problems).and_then(NonZeroU32::new)
    };
    limits.connections = count("connections", &mut section);
    limits.connections_per_source = count("connections-per-source", &mut section);
    limits.rate_per_source = count("rate-per-source", &mut section);
    let per_source = ["connections-per-source", "rate-per-source"];
    let is_by_source = per_source.iter().any(|key| keys.get(*key).is_some() || section.misspells(key));
    let mut length = |key, longest, length: &mut u8| {
        let Some(value) = section.take(key) else { return };
        let path = KeyPath::Key(&path, key);
        let Some(typed) = number(value, path, &(0..=longest), problems) else { return };
        *length = typed;
        if !is_by_source {
            let [one, other] = per_source;
            let reason =
                format!("has no effect without a limit of each source; add {one} or {other}, or remove it");
            refuse(value, path, reason, problems);
        }
    };
    length("source-ipv4", 32, &mut limits.source_ipv4);
    length("source-ipv6", 128, &mut limits.source_ipv6);
    section.finish(problems);
    limits
}

fn timeouts(value: &Typed<'_>, path: KeyPath<'_>, problems: &mut Problems<'_>) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let Some(keys) = table(value, path, "a table such as { idle = \"10m\" }", problems) else {
        return timeouts;
    };
    let mut section = Section::new(keys, path);
    if let Some(value) = section.take("connect")
        && let Some(typed) = time(value, KeyPath::Key(&path, "connect"), &TIMES, problems)
    {
        timeouts.connect = typed;
    }
    for (key, range, place) in [
        ("idle", TIMES, &mut timeouts.idle),
        ("half-closed", TIMES, &mut timeouts.half_closed),
        ("lifetime", TIMES, &mut timeouts.lifetime),
        ("unacknowledged", USER_TIMES, &mut timeouts.unacknowledged),
        ("keepalive", KEEPALIVE_TIMES, &mut timeouts.keepalive),
    ] {
        if let Some(value) = section.take(key) {
            time_or_none(value, KeyPath::Key(&path, key), &range, place, problems);
        }
    }
    section.finish(problems);
    timeouts
}

fn trusted(value: &Typed<'_>, path: KeyPath<'_>, problems: &mut Problems<'_>) -> TrustedProxies {
    let mut prefixes = Vec::new();
    let cure = "leave trusted-proxies out to trust nobody";
    each(value, path, cure, problems, |value, path, _index, problems| {
        prefixes.extend(parsed::<Prefix>(value, path, "a prefix such as \"10.0.0.0/8\"", problems));
    });
    TrustedProxies { prefixes }
}

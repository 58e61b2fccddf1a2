//! What a service says of its origins: `origins` itself and the keys that go with it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::section::{Section, Typed};
use crate::model::{
    Binding, CheckClose, DialSource, Ejection, Family, HealthCheck, LocalOrigins, Origin, OriginHost,
    OriginPort, OriginRole, Origins, PortRange, Protocol, ProxyVersion, Shift, TrustedProxies, UniqueIds,
    Weight,
};

/// The cure for a service that nothing answers.
pub(super) const ADD_TARGET: &str = "add origins = [\"203.0.113.10\"] or respond = \"hello\"";

/// Often enough to be noticed, rarely enough not to be a load.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(1);

const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_mins(1);

const EJECTIONS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);

/// The keys of a service that make its [`Origins`], as typed.
pub(super) struct OriginsKeys<'a, 't> {
    pub(super) origins: Option<Typed<'a, 't>>,
    balance: Option<Typed<'a, 't>>,
    health: Option<Typed<'a, 't>>,
    ejection: Option<Typed<'a, 't>>,
    dial_on: Option<Typed<'a, 't>>,
    proxy_header: Option<Typed<'a, 't>>,
    unique_id: Option<Typed<'a, 't>>,
    transparent: Option<Typed<'a, 't>>,
    local_origins: Option<Typed<'a, 't>>,
}

impl<'a, 't> OriginsKeys<'a, 't> {
    pub(super) fn take(section: &'a Section<'_, 't>) -> Self {
        Self {
            origins: section.take("origins"),
            balance: section.take("balance"),
            health: section.take("health"),
            ejection: section.take("ejection"),
            dial_on: section.take("dial-on"),
            proxy_header: section.take("proxy-header"),
            unique_id: section.take("unique-id"),
            transparent: section.take("transparent"),
            local_origins: section.take("local-origins"),
        }
    }

    /// Refuses the keys that say nothing without origins.
    pub(super) fn refuse_without_origins(&self) {
        let keys = [
            self.balance,
            self.health,
            self.ejection,
            self.dial_on,
            self.proxy_header,
            self.unique_id,
            self.transparent,
            self.local_origins,
        ];
        for typed in keys.into_iter().flatten() {
            typed.refuse("means nothing without origins; remove it, or add origins");
        }
    }

    /// Refuses `transparent` where no origin has an address of a family that clients can have. Which addresses a name has is
    /// not known here, nor whom a trusted proxy may speak for.
    pub(super) fn refuse_other_family(
        &self,
        origins: &Origins,
        bindings: &[Binding],
        trusted: &TrustedProxies,
    ) {
        let Some(typed) = self.transparent.filter(|_| origins.source == DialSource::Client) else { return };
        let tcp = bindings.iter().filter(|binding| binding.protocol == Protocol::Tcp);
        let clients: BTreeSet<Family> = tcp.map(Binding::family).collect();
        let families: Option<BTreeSet<Family>> = origins
            .list
            .iter()
            .map(|origin| match &origin.host {
                OriginHost::Address(address) => Some(Family::of(*address)),
                OriginHost::Name(_) | OriginHost::Service(_) => None,
            })
            .collect();
        // Where they have nothing in common, there is one of each.
        if let (Some(dialled), Some(client), true) = (&families, clients.first(), trusted.prefixes.is_empty())
            && let Some(origin) = dialled.first()
            && dialled.is_disjoint(&clients)
        {
            typed.refuse(format_args!(
                "clients of {client} bindings cannot be spoken for to origins of {origin}, and there are no others; add an \
                 origin of {client}, or remove it"
            ));
        }
    }

    /// For each origin the byte at which it stands, and its number in a list.
    pub(super) fn places(&self) -> Vec<(usize, Option<usize>)> {
        let Some(typed) = self.origins else { return Vec::new() };
        match typed.elements() {
            Some(list) => list.enumerate().map(|(index, typed)| (typed.offset(), Some(index))).collect(),
            None => vec![(typed.offset(), None)],
        }
    }

    /// The keys about the addresses that origins see and have.
    fn read_addresses(&self, origins: &mut Origins) {
        if let Some(typed) = self.transparent {
            origins.source = match typed.truth() {
                Some(true) => DialSource::Client,
                Some(false) | None => DialSource::Host,
            };
        }
        if self.local_origins.and_then(|typed| typed.truth()) == Some(true) {
            origins.local = LocalOrigins::Dialled;
        }
    }

    /// `None` if an origin is refused.
    pub(super) fn read(&self, bindings: &[Binding]) -> Option<Origins> {
        let whole = self.origins?;
        let mut refused = false;
        let mut list = Vec::new();
        for (typed, _) in whole.each(ADD_TARGET) {
            match origin(typed, bindings) {
                Some(origin) => list.push((origin, typed)),
                None => refused = true,
            }
        }
        let mut origins = Origins::from(Vec::new());
        origins.balance = self.balance.and_then(|typed| typed.word()).unwrap_or_default();
        origins.health = self.health.map(health);
        origins.ejection = self.ejection.map(ejection);
        origins.dial_on = self.dial_on.and_then(|typed| typed.word()).unwrap_or_default();
        origins.header = self.proxy_header.and_then(|typed| typed.word());
        if let Some(typed) = self.unique_id
            && typed.truth() == Some(true)
        {
            if origins.header == Some(ProxyVersion::V2) {
                origins.unique_ids = UniqueIds::Made;
            } else {
                typed.refuse(
                    "means nothing without proxy-header = \"v2\", which tells it; add that, or remove it",
                );
            }
        }
        // A port of its own for checks is not the one that expects headers.
        if let Some(health) = &mut origins.health
            && health.port.is_none()
        {
            health.header = origins.header;
            if let (Some(typed), Some(_), CheckClose::Reset) = (self.health, health.header, health.close) {
                typed.refuse_key(
                    "close",
                    "a reset would overtake the PROXY header of a check; leave it out, or give checks a port of their \
                     own: { close = \"reset\", port = 80 }",
                );
            }
        }
        self.read_addresses(&mut origins);
        if refused || list.is_empty() {
            return None;
        }
        if list.iter().all(|(origin, _)| origin.role == OriginRole::Backup) {
            whole.refuse("all origins are backups; leave backup = true out of one");
        }
        let mut seen = HashMap::new();
        for (origin, typed) in &list {
            match seen.entry(origin.identity()) {
                Entry::Vacant(free) => {
                    free.insert(typed.offset());
                }
                Entry::Occupied(first) => typed.refuse(format_args!(
                    "{origin} stands in line {} already; name it once, with a weight if it is to get more: {{ origin = \
                     \"{origin}\", weight = 2 }}",
                    typed.line_of(*first.get())
                )),
            }
            if let OriginPort::Offset(range) = origin.port {
                match dialled_ranges(range, bindings) {
                    Ok(ranges) => origins.dialled = ranges,
                    Err(reason) => typed.refuse(reason),
                }
            }
            if let (Some(HealthCheck { port: None, .. }), Some(health)) = (&origins.health, self.health)
                && matches!(origin.port, OriginPort::Dialled | OriginPort::Offset(_))
            {
                health.refuse(format_args!(
                    "{origin} has no port of its own to check; say which, for instance {{ port = 80 }}"
                ));
                break;
            }
        }
        origins.list = list.into_iter().map(|(origin, _)| origin).collect();
        Some(origins)
    }
}

/// A text, or a table with more to say.
fn origin(typed: Typed<'_, '_>, bindings: &[Binding]) -> Option<Origin> {
    const EXPECTED: &str =
        "a string such as \"203.0.113.10\", or a table such as { origin = \"203.0.113.10\", weight = 2 }";
    if typed.value().as_str().is_some() {
        return server(typed, EXPECTED, bindings);
    }
    let section = typed.section(EXPECTED)?;
    let place = section.take("origin");
    let (weight, backup) = (section.take("weight"), section.take("backup"));
    let misspelt = section.misspells("origin");
    section.finish();
    if place.is_none() && !misspelt {
        let cure = "missing; add the server, for instance origin = \"203.0.113.10\"";
        section.refuse_missing(typed.offset(), "origin", cure);
    }
    let mut origin = place.and_then(|typed| server(typed, "a string such as \"203.0.113.10\"", bindings));
    if let Some(typed) = weight {
        match (typed.number(&(0..=Weight::MAX)).and_then(Weight::new), &mut origin) {
            (Some(weight), Some(origin)) => origin.weight = weight,
            _ => origin = None,
        }
    }
    if let Some(typed) = backup {
        match (typed.truth(), &mut origin) {
            (Some(true), Some(origin)) => origin.role = OriginRole::Backup,
            (Some(_), _) => {}
            (None, _) => origin = None,
        }
    }
    origin
}

/// The server that the text of `typed` stands for.
fn server(typed: Typed<'_, '_>, expected: &str, bindings: &[Binding]) -> Option<Origin> {
    if let Some(text) = typed.value().as_str()
        && let Some((host, _)) = text.rsplit_once(':')
        && let Some(shift) = Shift::of(text)
        && let [bound] = bound_for_tcp(bindings)[..]
        && let Some(range) = shift.range(bound)
    {
        typed.refuse(format_args!(
            "an offset is written as the range of ports that it leads to, as long as the one that is bound; write \
             {host}:{range}"
        ));
        return None;
    }
    typed.parsed(expected)
}

fn health(typed: Typed<'_, '_>) -> HealthCheck {
    let mut check = HealthCheck::default();
    let Some(section) = typed.section("a table such as { interval = \"5s\" }") else { return check };
    for (key, range, place) in
        [("interval", INTERVALS, &mut check.interval), ("timeout", TIMEOUTS, &mut check.timeout)]
    {
        if let Some(time) = section.take(key).and_then(|typed| typed.time(&range)) {
            *place = time;
        }
    }
    for (key, place) in [("rise", &mut check.rise), ("fall", &mut check.fall)] {
        if let Some(number) = section.take(key).and_then(|typed| typed.number(&(1..=1000))) {
            *place = number;
        }
    }
    check.port = section.take("port").and_then(|typed| typed.number(&(1..=u16::MAX)));
    check.close = section.take("close").and_then(|typed| typed.word()).unwrap_or_default();
    section.finish();
    check
}

fn ejection(typed: Typed<'_, '_>) -> Ejection {
    let mut ejection = Ejection::default();
    let Some(section) = typed.section("a table such as { failures = 5 }") else { return ejection };
    if let Some(number) = section.take("failures").and_then(|typed| typed.number(&(1..=1000))) {
        ejection.failures = number;
    }
    if let Some(time) = section.take("time").and_then(|typed| typed.time(&EJECTIONS)) {
        ejection.time = time;
    }
    section.finish();
    ejection
}

/// The ranges from which an offset into `range` is counted: all that the service binds for TCP.
fn dialled_ranges(range: PortRange, bindings: &[Binding]) -> Result<Vec<PortRange>, String> {
    let ranges = bound_for_tcp(bindings);
    if let Some(other) = ranges.iter().find(|other| other.width() != range.width()) {
        return Err(format!(
            "{range} has {} ports and the binding of {other} has {}; an offset needs ranges of the same length",
            range.width(),
            other.width()
        ));
    }
    if let Some([first, second]) = ranges.array_windows().find(|[first, second]| first.overlaps(second)) {
        return Err(format!(
            "the bindings of {first} and {second} overlap, so that an offset into {range} could be counted from either; \
             give one of them to a service of its own"
        ));
    }
    Ok(ranges)
}

/// The ranges of ports that are bound for TCP.
fn bound_for_tcp(bindings: &[Binding]) -> Vec<PortRange> {
    let tcp = bindings.iter().filter(|binding| binding.protocol == Protocol::Tcp);
    let mut ranges: Vec<PortRange> = tcp.map(|binding| binding.ports).collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

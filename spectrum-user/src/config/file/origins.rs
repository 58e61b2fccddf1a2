//! What a service says of its origins: `origins` itself and the keys that go with it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::health;
use super::section::{Section, Typed};
use super::udp;
use crate::config::udp::BoundProtocols;
use crate::model::{
    Balance, Binding, DialSource, Ejection, Family, HealthCheck, LocalOrigins, Origin, OriginHost,
    OriginPort, OriginRole, Origins, PortRange, ProxyVersion, Shift, TrustedProxies, UniqueIds, Weight,
};

/// The cure for a service that nothing answers.
pub(super) const ADD_TARGET: &str = "add origins = [\"203.0.113.10\"] or respond = \"hello\"";

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
        let clients: BTreeSet<Family> = bindings.iter().map(Binding::family).collect();
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

    /// Refuses the keys that are not for the protocols that are bound.
    fn refuse_for(&self, bound: BoundProtocols) {
        if let (Some(typed), false) = (self.dial_on, bound.tcp) {
            typed.refuse("is about TCP, of which the service has no binding; remove it");
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
        let bound = BoundProtocols::of(bindings);
        let mut origins = Origins::from(Vec::new());
        origins.balance = self.balance.and_then(|typed| balance(typed, bound)).unwrap_or_default();
        origins.ejection = self.ejection.map(ejection);
        origins.protocols = bound.of_origins();
        origins.dial_on = self.dial_on.and_then(|typed| typed.word()).unwrap_or_default();
        (origins.header, origins.datagram_header) =
            self.proxy_header.map(|typed| udp::headers(typed, bound)).unwrap_or_default();
        let headers = (origins.header, origins.datagram_header);
        origins.health = self.health.map(|typed| health::read(typed, bound, headers));
        self.refuse_for(bound);
        if let Some(typed) = self.unique_id
            && typed.truth() == Some(true)
        {
            if origins.header == Some(ProxyVersion::V2) {
                origins.unique_ids = UniqueIds::Made;
            } else if !bound.tcp {
                typed.refuse("is about TCP, of which the service has no binding; remove it");
            } else {
                typed.refuse(
                    "means nothing without proxy-header = \"v2\", which tells it; add that, or remove it",
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
                    "{origin} stands in {} already; name it once, with a weight if it is to get more: {{ origin = \
                     \"{origin}\", weight = 2 }}",
                    typed.place_of(*first.get())
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

/// What UDP has instead of connections, in the word for the fewest of them.
const LEAST_SESSIONS: &str = "least-sessions";

fn balance(typed: Typed<'_, '_>, bound: BoundProtocols) -> Option<Balance> {
    if bound.udp && typed.value().as_str() == Some(LEAST_SESSIONS) {
        return Some(Balance::LeastConnections);
    }
    typed.word()
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
        && let [bound] = bound_ranges(bindings)[..]
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

/// The ranges from which an offset into `range` is counted: all that the service binds.
fn dialled_ranges(range: PortRange, bindings: &[Binding]) -> Result<Vec<PortRange>, String> {
    let ranges = bound_ranges(bindings);
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

/// The ranges of ports that are bound.
fn bound_ranges(bindings: &[Binding]) -> Vec<PortRange> {
    let mut ranges: Vec<PortRange> = bindings.iter().map(|binding| binding.ports).collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

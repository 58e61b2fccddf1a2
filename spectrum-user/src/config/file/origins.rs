//! What a service says of its origins: `origins` itself and the keys that go with it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::key_path::KeyPath;
use super::quantity::{number, table, time, truth};
use super::section::{Section, Typed, each, parsed, refuse, word};
use crate::config::error::Problems;
use crate::model::{
    Balance, Binding, CheckClose, DialOn, DialSource, Ejection, Family, HealthCheck, LocalOrigins, Origin,
    OriginHost, OriginPort, OriginRole, Origins, PortRange, Protocol, ProxyVersion, Shift, TrustedProxies,
    UniqueIds, Weight,
};

/// The cure for a service that nothing answers.
pub(super) const ADD_TARGET: &str = "add origins = [\"203.0.113.10\"] or respond = \"hello\"";

/// Often enough to be noticed, rarely enough not to be a load.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(1);

const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_mins(1);

const EJECTIONS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);

/// The keys of a service that make its [`Origins`], as typed.
pub(super) struct OriginsKeys<'a, 't> {
    pub(super) origins: Option<&'a Typed<'t>>,
    balance: Option<&'a Typed<'t>>,
    health: Option<&'a Typed<'t>>,
    ejection: Option<&'a Typed<'t>>,
    dial_on: Option<&'a Typed<'t>>,
    proxy_header: Option<&'a Typed<'t>>,
    unique_id: Option<&'a Typed<'t>>,
    transparent: Option<&'a Typed<'t>>,
    local_origins: Option<&'a Typed<'t>>,
}

impl<'a, 't> OriginsKeys<'a, 't> {
    pub(super) fn take(section: &mut Section<'a, 't>) -> Self {
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
    pub(super) fn refuse_without_origins(&self, path: KeyPath<'_>, problems: &mut Problems<'_>) {
        for (key, value) in [
            ("balance", self.balance),
            ("health", self.health),
            ("ejection", self.ejection),
            ("dial-on", self.dial_on),
            ("proxy-header", self.proxy_header),
            ("unique-id", self.unique_id),
            ("transparent", self.transparent),
            ("local-origins", self.local_origins),
        ] {
            if let Some(value) = value {
                let reason = "means nothing without origins; remove it, or add origins";
                refuse(value, KeyPath::Key(&path, key), reason, problems);
            }
        }
    }

    /// Refuses `transparent` where no origin has an address of a family that clients can have. Which addresses a name has is
    /// not known here, nor whom a trusted proxy may speak for.
    pub(super) fn refuse_other_family(
        &self,
        origins: &Origins,
        bindings: &[Binding],
        trusted: &TrustedProxies,
        path: KeyPath<'_>,
        problems: &mut Problems<'_>,
    ) {
        let Some(value) = self.transparent.filter(|_| origins.source == DialSource::Client) else { return };
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
            let reason = format!(
                "clients of {client} bindings cannot be spoken for to origins of {origin}, and there are no others; add an \
                 origin of {client}, or remove it"
            );
            refuse(value, KeyPath::Key(&path, "transparent"), reason, problems);
        }
    }

    /// For each origin the byte at which it stands, and its number in a list.
    pub(super) fn places(&self) -> Vec<(usize, Option<usize>)> {
        let Some(value) = self.origins else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(list) => {
                list.iter().enumerate().map(|(index, value)| (value.span().start, Some(index))).collect()
            }
            _ => vec![(value.span().start, None)],
        }
    }

    /// The keys about the addresses that origins see and have.
    fn read_addresses(&self, origins: &mut Origins, path: KeyPath<'_>, problems: &mut Problems<'_>) {
        if let Some(value) = self.transparent {
            origins.source = match truth(value, KeyPath::Key(&path, "transparent"), problems) {
                Some(true) => DialSource::Client,
                Some(false) | None => DialSource::Host,
            };
        }
        if let Some(value) = self.local_origins
            && truth(value, KeyPath::Key(&path, "local-origins"), problems) == Some(true)
        {
            origins.local = LocalOrigins::Dialled;
        }
    }

    /// `None` if an origin is refused.
    pub(super) fn read(
        &self,
        bindings: &[Binding],
        path: KeyPath<'_>,
        problems: &mut Problems<'_>,
    ) -> Option<Origins> {
        let value = self.origins?;
        let key = KeyPath::Key(&path, "origins");
        let mut refused = false;
        let mut list = Vec::new();
        each(value, key, ADD_TARGET, problems, |value, path, index, problems| {
            match origin(value, path, bindings, problems) {
                Some(origin) => list.push((origin, index, value)),
                None => refused = true,
            }
        });
        let mut origins = Origins::from(Vec::new());
        if let Some(value) = self.balance {
            let path = KeyPath::Key(&path, "balance");
            origins.balance = word(value, path, Balance::WORDS, problems).unwrap_or_default();
        }
        if let Some(value) = self.health {
            let path = KeyPath::Key(&path, "health");
            origins.health = Some(health(value, path, problems));
        }
        if let Some(value) = self.ejection {
            let path = KeyPath::Key(&path, "ejection");
            origins.ejection = Some(ejection(value, path, problems));
        }
        if let Some(value) = self.dial_on {
            let path = KeyPath::Key(&path, "dial-on");
            origins.dial_on = word(value, path, DialOn::WORDS, problems).unwrap_or_default();
        }
        if let Some(value) = self.proxy_header {
            origins.header = word(value, KeyPath::Key(&path, "proxy-header"), ProxyVersion::WORDS, problems);
        }
        if let Some(value) = self.unique_id {
            let path = KeyPath::Key(&path, "unique-id");
            match truth(value, path, problems) {
                Some(true) if origins.header == Some(ProxyVersion::V2) => {
                    origins.unique_ids = UniqueIds::Made;
                }
                Some(true) => {
                    let reason =
                        "means nothing without proxy-header = \"v2\", which tells it; add that, or remove it";
                    refuse(value, path, reason, problems);
                }
                Some(false) | None => {}
            }
        }
        // A port of its own for checks is not the one that expects headers.
        if let Some(health) = &mut origins.health
            && health.port.is_none()
        {
            health.header = origins.header;
            if let (Some(value), Some(_), CheckClose::Reset) = (self.health, health.header, health.close) {
                let path = KeyPath::Key(&path, "health");
                let reason = "a reset would overtake the PROXY header of a check; leave it out, or give checks a port of their \
                              own: { close = \"reset\", port = 80 }";
                refuse(value, KeyPath::Key(&path, "close"), reason, problems);
            }
        }
        self.read_addresses(&mut origins, path, problems);
        if refused || list.is_empty() {
            return None;
        }
        if list.iter().all(|(origin, ..)| origin.role == OriginRole::Backup) {
            refuse(value, key, "all origins are backups; leave backup = true out of one", problems);
        }
        let mut seen = HashMap::new();
        for (origin, index, value) in &list {
            match seen.entry(origin.identity()) {
                Entry::Vacant(free) => {
                    free.insert(value.span().start);
                }
                Entry::Occupied(first) => {
                    let path = index.map_or(key, |index| KeyPath::Index(&key, index));
                    let reason = format!(
                        "{origin} stands in line {} already; name it once, with a weight if it is to get more: {{ origin = \
                         \"{origin}\", weight = 2 }}",
                        problems.line_of(*first.get())
                    );
                    refuse(value, path, reason, problems);
                }
            }
            if let OriginPort::Offset(range) = origin.port {
                match dialled_ranges(range, bindings) {
                    Ok(ranges) => origins.dialled = ranges,
                    Err(reason) => {
                        let path = index.map_or(key, |index| KeyPath::Index(&key, index));
                        refuse(value, path, reason, problems);
                    }
                }
            }
            if let (Some(HealthCheck { port: None, .. }), Some(health)) = (&origins.health, self.health)
                && matches!(origin.port, OriginPort::Dialled | OriginPort::Offset(_))
            {
                let reason = format!(
                    "{origin} has no port of its own to check; say which, for instance {{ port = 80 }}"
                );
                refuse(health, KeyPath::Key(&path, "health"), reason, problems);
                break;
            }
        }
        origins.list = list.into_iter().map(|(origin, ..)| origin).collect();
        Some(origins)
    }
}

/// A text, or a table with more to say.
fn origin(
    value: &Typed<'_>,
    path: KeyPath<'_>,
    bindings: &[Binding],
    problems: &mut Problems<'_>,
) -> Option<Origin> {
    const EXPECTED: &str =
        "a string such as \"203.0.113.10\", or a table such as { origin = \"203.0.113.10\", weight = 2 }";
    if value.get_ref().as_str().is_some() {
        return server(value, path, EXPECTED, bindings, problems);
    }
    let keys = table(value, path, EXPECTED, problems)?;
    let mut section = Section::new(keys, path);
    let place = section.take("origin");
    let (weight, backup) = (section.take("weight"), section.take("backup"));
    let misspelt = section.misspells("origin");
    section.finish(problems);
    let key = KeyPath::Key(&path, "origin");
    if place.is_none() && !misspelt {
        let cure = "missing; add the server, for instance origin = \"203.0.113.10\"";
        problems.add_about(value.span().start, key, cure);
    }
    let mut origin: Option<Origin> =
        place.and_then(|value| server(value, key, "a string such as \"203.0.113.10\"", bindings, problems));
    if let Some(value) = weight {
        let typed = number(value, KeyPath::Key(&path, "weight"), &(0..=Weight::MAX), problems);
        match (typed.and_then(Weight::new), &mut origin) {
            (Some(weight), Some(origin)) => origin.weight = weight,
            _ => origin = None,
        }
    }
    if let Some(value) = backup {
        match (truth(value, KeyPath::Key(&path, "backup"), problems), &mut origin) {
            (Some(true), Some(origin)) => origin.role = OriginRole::Backup,
            (Some(_), _) => {}
            (None, _) => origin = None,
        }
    }
    origin
}

/// The server that the text of `value` stands for.
fn server(
    value: &Typed<'_>,
    path: KeyPath<'_>,
    expected: &str,
    bindings: &[Binding],
    problems: &mut Problems<'_>,
) -> Option<Origin> {
    if let Some(typed) = value.get_ref().as_str()
        && let Some((host, _)) = typed.rsplit_once(':')
        && let Some(shift) = Shift::of(typed)
        && let [bound] = bound_for_tcp(bindings)[..]
        && let Some(range) = shift.range(bound)
    {
        let reason = format!(
            "an offset is written as the range of ports that it leads to, as long as the one that is bound; write \
             {host}:{range}"
        );
        refuse(value, path, reason, problems);
        return None;
    }
    parsed(value, path, expected, problems)
}

fn health(value: &Typed<'_>, path: KeyPath<'_>, problems: &mut Problems<'_>) -> HealthCheck {
    let mut check = HealthCheck::default();
    let Some(keys) = table(value, path, "a table such as { interval = \"5s\" }", problems) else {
        return check;
    };
    let mut section = Section::new(keys, path);
    for (key, range, place) in
        [("interval", INTERVALS, &mut check.interval), ("timeout", TIMEOUTS, &mut check.timeout)]
    {
        if let Some(value) = section.take(key)
            && let Some(typed) = time(value, KeyPath::Key(&path, key), &range, problems)
        {
            *place = typed;
        }
    }
    for (key, place) in [("rise", &mut check.rise), ("fall", &mut check.fall)] {
        if let Some(value) = section.take(key)
            && let Some(typed) = number(value, KeyPath::Key(&path, key), &(1..=1000), problems)
        {
            *place = typed;
        }
    }
    if let Some(value) = section.take("port") {
        check.port = number(value, KeyPath::Key(&path, "port"), &(1..=u16::MAX), problems);
    }
    if let Some(value) = section.take("close") {
        let path = KeyPath::Key(&path, "close");
        check.close = word(value, path, CheckClose::WORDS, problems).unwrap_or_default();
    }
    section.finish(problems);
    check
}

fn ejection(value: &Typed<'_>, path: KeyPath<'_>, problems: &mut Problems<'_>) -> Ejection {
    let mut ejection = Ejection::default();
    let Some(keys) = table(value, path, "a table such as { failures = 5 }", problems) else {
        return ejection;
    };
    let mut section = Section::new(keys, path);
    if let Some(value) = section.take("failures")
        && let Some(typed) = number(value, KeyPath::Key(&path, "failures"), &(1..=1000), problems)
    {
        ejection.failures = typed;
    }
    if let Some(value) = section.take("time")
        && let Some(typed) = time(value, KeyPath::Key(&path, "time"), &EJECTIONS, problems)
    {
        ejection.time = typed;
    }
    section.finish(problems);
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

//! Every family of metrics, one table: its name, what it is, and where in the view its values are. Writes no text.

use std::borrow::Cow;
use std::collections::BTreeMap;

use prometheus_client::metrics::MetricType;
use spectrum_common::Refusal;

use crate::view::{
    AnnouncementView, DatagramsView, DestinationView, OriginView, PacketCounts, ServiceView, SessionsView,
    SpreadView, TableView, View,
};

/// A family of metrics.
pub(super) struct MetricFamily {
    /// Its name, without `spectrum_` before it and `_total` behind it.
    pub(super) name: &'static str,
    /// Counter, gauge or histogram.
    pub(super) kind: MetricType,
    /// What it is, in words.
    pub(super) help: &'static str,
    /// The place of its values in the view.
    values: Values,
}

/// The samples of a family: the values of its labels, and its own.
pub(super) type Samples<'v> = Vec<(Vec<Cow<'v, str>>, SampleValue)>;

/// The value of a sample.
#[derive(Debug)]
pub(super) enum SampleValue {
    /// Of a counter or a gauge.
    Number(u64),
    /// Of a histogram.
    Spread(SpreadView),
}

const SERVICE: &[&str] = &["service"];
const SESSIONS: &[&str] = &["service", "protocol"];
const PACKETS: &[&str] = &["service", "protocol", "family"];
const ORIGIN: &[&str] = &["service", "origin", "address"];

/// The place of a family's values in the view: of what they are, and so how they are labelled.
enum Values {
    /// Of UDP sessions.
    Datagrams(fn(DatagramsView) -> u64),
    /// Several of them, told apart by one more label.
    DatagramsBy(&'static [&'static str], fn(DatagramsView) -> Vec<(&'static str, u64)>),
    /// Of the instance.
    Instance(fn(&View) -> u64),
    /// Of addresses of origins.
    Origins(fn(&OriginView) -> u64),
    /// Of a kind of their own, under these labels.
    Others(&'static [&'static str], for<'v> fn(&'v View, &mut Samples<'v>)),
    /// Of packets, with `sk_lookup`.
    Packets(fn(&PacketCounts) -> u64),
    /// Of services of the configuration.
    Services(fn(&ServiceView) -> u64),
    /// Of connections and UDP sessions.
    Sessions(fn(&SessionsView) -> u64),
    /// Of the same, spread.
    Spreads(fn(&SessionsView) -> &SpreadView),
    /// Of the steering table, with `sk_lookup`.
    Table(fn(&View, TableView) -> u64),
    /// By a word, under this label.
    Words(&'static [&'static str], fn(&View) -> &BTreeMap<String, u64>),
}

use Values::{
    Datagrams, DatagramsBy, Instance, Origins, Others, Packets, Services, Sessions, Spreads, Table, Words,
};

/// The whole table.
pub(super) const FAMILIES: &[MetricFamily] = &[
    gauge(
        "build_info",
        "The version of the program, and how packets reach it",
        Others(&["version", "mode"], |view, out| {
            let mode = view.mode.map(|mode| mode.to_string()).unwrap_or_default();
            out.push((vec![Cow::from(&view.version), mode.into()], SampleValue::Number(1)));
        }),
    ),
    gauge("bindings", "Bindings of each service", Services(|service| wide(service.plan.bindings))),
    gauge(
        "descriptors_limit",
        "File descriptors that all connections together may have",
        Instance(|view| wide(view.descriptors)),
    ),
    gauge(
        "descriptors_of_service",
        "Of these, the ones that each service has of its own, whatever the others take",
        Instance(|view| wide(view.descriptors_of_each)),
    ),
    gauge(
        "announced",
        "Whether a prefix that is to be announced to routers is (1) or withdrawn (0)",
        Others(&["prefix"], |view, samples| {
            let sample = |one: &'_ AnnouncementView| u64::from(one.announced);
            samples.extend(
                view.announcements
                    .iter()
                    .map(|one| (vec![Cow::Borrowed(one.prefix.as_str())], SampleValue::Number(sample(one)))),
            );
        }),
    ),
    counter(
        "announcement_changes",
        "Times that a prefix was announced, or withdrawn",
        Words(&["change"], |view| &view.announcing_changes),
    ),
    gauge(
        "run_time_prefixes",
        "Prefixes that are denied, or let in as exceptions, at run time",
        Others(&["word"], |view, samples| {
            let words = [("deny", view.run_time.denied), ("except", view.run_time.excepted)];
            let sample = |(word, count)| (vec![Cow::Borrowed(word)], SampleValue::Number(wide(count)));
            samples.extend(words.into_iter().map(sample));
        }),
    ),
    gauge("configuration_revision", "Configurations before this one", Instance(|view| view.revision.into())),
    counter(
        "repairs",
        "Repairs of what others removed, by what it was",
        Words(&["what"], |view| &view.repairs),
    ),
    counter(
        "failed_looks",
        "Looks for what may be missing that failed, by what it was",
        Words(&["what"], |view| &view.failed_looks),
    ),
    gauge(
        "missing",
        "Kinds of things that clients need, that others removed and that have not been put back",
        Instance(|view| wide(view.hindrances.len())),
    ),
    counter(
        "reloads",
        "Requests for another configuration, by what came of them",
        Others(&["outcome"], |view, out| {
            out.push((vec!["done".into()], SampleValue::Number(view.reloads.done)));
            out.push((vec!["refused".into()], SampleValue::Number(view.reloads.refused)));
        }),
    ),
    counter(
        "upgrades",
        "Upgrades to other versions of the program, by what came of them",
        Others(&["outcome"], |view, out| {
            out.push((vec!["done".into()], SampleValue::Number(view.upgrades.done)));
            out.push((vec!["refused".into()], SampleValue::Number(view.upgrades.refused)));
        }),
    ),
    gauge("table_generation", "Steering tables that have been published", Table(|view, _| view.generation)),
    gauge("table_nodes", "Nodes of the steering table", Table(|_, table| wide(table.nodes))),
    gauge("table_bytes", "Memory of the steering table in the kernel", Table(|_, table| wide(table.bytes))),
    counter(
        "steered_packets",
        "Packets that looked for a listener and got ours: connections, and datagrams or trains of them",
        Packets(|packets| packets.steered),
    ),
    counter(
        "missed_packets",
        "Packets that were refused for want of a listener",
        Packets(|packets| packets.missed),
    ),
    counter(
        "denied_packets",
        "Packets that a source policy turned away, by what they failed",
        Others(&["service", "protocol", "family", "reason"], |view, out| {
            for DestinationView { plan, denied, .. } in &view.destinations {
                out.extend(denied.iter().map(|(reason, count)| {
                    let (protocol, family) = (plan.protocol.to_string(), plan.family.to_string());
                    let labels =
                        vec![Cow::from(&plan.service), protocol.into(), family.into(), reason.into()];
                    (labels, SampleValue::Number(*count))
                }));
            }
        }),
    ),
    counter(
        "early_drops",
        "Packets that XDP dropped before the stack saw them, which are among the denied ones",
        Others(&[], |view, out| {
            out.extend(view.dropped_early.map(|count| (Vec::new(), SampleValue::Number(count))));
        }),
    ),
    counter(
        "refused_packets",
        "Packets that the kernel would not give to the listener",
        Others(&["service", "protocol", "family", "errno"], |view, out| {
            for (labels, packets) in packets_of(view) {
                out.extend(Refusal::ALL.map(Refusal::errno).into_iter().map(|errno| {
                    let count = packets.refused.get(errno).copied().unwrap_or_default();
                    ([labels.as_slice(), &[errno.into()]].concat(), SampleValue::Number(count))
                }));
            }
        }),
    ),
    gauge(
        "origin_up",
        "Whether an address of an origin is used: neither down, ejected nor drained, resolved, and leading elsewhere",
        Origins(|origin| origin.is_up().into()),
    ),
    gauge(
        "origin_weight",
        "Share of the connections that an address of an origin has, 0 while it is drained",
        Origins(|origin| origin.plan.weight.into()),
    ),
    gauge(
        "origin_open_connections",
        "Connections that are open to an address of an origin",
        Origins(|origin| origin.open),
    ),
    counter(
        "origin_connections",
        "Connections to an address of an origin so far",
        Origins(|origin| origin.connections),
    ),
    counter(
        "origin_failed_dials",
        "Dials of an address of an origin that failed so far",
        Origins(|origin| origin.failed_dials),
    ),
    counter(
        "origin_broken_connections",
        "Connections that an address of an origin broke off so far",
        Origins(|origin| origin.broken_connections),
    ),
    counter(
        "to_origin_bytes",
        "Bytes that clients sent so far, by connections to an address of an origin",
        Origins(|origin| origin.bytes_to_origin),
    ),
    counter(
        "from_origin_bytes",
        "Bytes that clients were handed so far, by connections to an address of an origin",
        Origins(|origin| origin.bytes_from_origin),
    ),
    gauge(
        "unresolved_origins",
        "Origins of each service whose names have no address that may be dialled",
        Services(|service| wide(origins_of(service).filter(|rows| leads_nowhere(rows)).count())),
    ),
    gauge(
        "refused_addresses",
        "Addresses that the names of a service's origins mean and that are not dialled, since no name may mean them",
        Services(|service| wide(service.origins.iter().filter(|row| row.is_refused()).count())),
    ),
    counter(
        "opened_sessions",
        "Connections that were accepted, and UDP sessions that began",
        Sessions(|sessions| sessions.opened),
    ),
    gauge("open_sessions", "Connections and UDP sessions that are open", Sessions(|sessions| sessions.open)),
    counter(
        "ended_sessions",
        "Connections and UDP sessions that are over, by how they ended",
        Others(&["service", "protocol", "end", "status"], |view, out| {
            for sessions in &view.sessions {
                out.extend(sessions.ended.iter().map(|ended| {
                    let of = [Cow::from(&ended.end), ended.status.to_string().into()];
                    let labels = session_labels(sessions).into_iter().chain(of).collect();
                    (labels, SampleValue::Number(ended.count))
                }));
            }
        }),
    ),
    counter(
        "from_client_bytes",
        "Bytes received from clients so far, by sessions that are open or over",
        Sessions(|sessions| sessions.bytes_from_client),
    ),
    counter(
        "to_client_bytes",
        "Bytes handed to clients so far, by sessions that are open or over",
        Sessions(|sessions| sessions.bytes_to_client),
    ),
    counter(
        "from_client_datagrams",
        "UDP datagrams received from clients so far",
        Datagrams(|datagrams| datagrams.from_client),
    ),
    counter(
        "to_client_datagrams",
        "UDP datagrams handed to the system for clients so far",
        Datagrams(|datagrams| datagrams.to_client),
    ),
    counter(
        "lost_datagrams",
        "UDP datagrams of clients and origins that came and could not be sent on",
        Datagrams(|datagrams| datagrams.lost),
    ),
    counter(
        "overflowed_datagrams",
        "UDP datagrams, or trains of them, that the system threw away since a queue was full, by who sent them",
        DatagramsBy(&["service", "protocol", "sender"], |datagrams| {
            vec![("client", datagrams.overflow_from_client), ("origin", datagrams.overflow_from_origin)]
        }),
    ),
    counter(
        "followed_clients",
        "Times that a client of QUIC had another address, and its UDP session followed",
        Datagrams(|datagrams| datagrams.followed),
    ),
    counter(
        "headerless_answers",
        "UDP datagrams of origins that lacked the header of their session, and were not passed on",
        Datagrams(|datagrams| datagrams.headerless),
    ),
    counter(
        "icmp_messages",
        "Messages of ICMP to UDP clients, by what they say; withheld: could not be sent, or too many were",
        DatagramsBy(&["service", "protocol", "kind"], |datagrams| {
            vec![
                ("port-unreachable", datagrams.told_unreachable),
                ("too-big", datagrams.told_too_big),
                ("withheld", datagrams.withheld),
            ]
        }),
    ),
    histogram(
        "dial_duration_seconds",
        "How long it took to connect to an origin, of sessions that are over",
        Others(SESSIONS, |view, out| {
            let dialled = view.sessions.iter().filter(|sessions| sessions.dials.count() > 0);
            let spread = |of: &SessionsView| SampleValue::Spread(of.dials.clone());
            out.extend(dialled.map(|sessions| (session_labels(sessions), spread(sessions))));
        }),
    ),
    histogram("session_duration_seconds", "From accept to end", Spreads(|sessions| &sessions.durations)),
    gauge(
        "leaving_workers",
        "Worker processes that have left their listeners to another one and still have something open",
        Instance(|view| view.leaving_workers.len() as u64),
    ),
    counter(
        "uncounted_events",
        "Sessions and records that no other counter has, since there was no room for the counters of one more service",
        Instance(|view| view.uncounted),
    ),
    counter(
        "log_lost",
        "Lines and records lost because nobody read them, or there was no room for them",
        Words(&["stream"], |view| &view.log.lost),
    ),
    counter(
        "dropped_records",
        "Connection records lost, as spectrum_log_lost_total has them under records",
        Instance(|view| view.log.lost.get("records").copied().unwrap_or_default()),
    ),
    counter(
        "omitted_records",
        "Connection records left out on purpose, by why",
        Words(&["reason"], |view| &view.log.omitted),
    ),
];

impl MetricFamily {
    /// The labels of each of its samples.
    pub(super) fn labels(&self) -> &'static [&'static str] {
        match self.values {
            Instance(_) | Table(_) => &[],
            DatagramsBy(labels, _) | Others(labels, _) | Words(labels, _) => labels,
            Datagrams(_) | Sessions(_) | Spreads(_) => SESSIONS,
            Origins(_) => ORIGIN,
            Packets(_) => PACKETS,
            Services(_) => SERVICE,
        }
    }

    /// Its samples in `view`.
    pub(super) fn samples<'v>(&self, view: &'v View) -> Samples<'v> {
        let number = |labels, value| (labels, SampleValue::Number(value));
        let sessions = view.sessions.iter();
        let datagrams = || view.sessions.iter().filter_map(|of| Some((of, of.datagrams?)));
        match self.values {
            Datagrams(value) => {
                datagrams().map(|(of, datagrams)| number(session_labels(of), value(datagrams))).collect()
            }
            DatagramsBy(_, values) => datagrams()
                .flat_map(|(of, datagrams)| values(datagrams).into_iter().map(move |by| (of, by)))
                .map(|(of, (by, value))| number([session_labels(of), vec![by.into()]].concat(), value))
                .collect(),
            Instance(value) => vec![number(Vec::new(), value(view))],
            Origins(value) => origin_rows(view).map(|(labels, row)| number(labels, value(row))).collect(),
            Others(_, fill) => {
                let mut samples = Vec::new();
                fill(view, &mut samples);
                samples
            }
            Packets(value) => {
                packets_of(view).map(|(labels, packets)| number(labels, value(packets))).collect()
            }
            Services(value) => configured(view)
                .map(|service| number(vec![Cow::from(&service.plan.name)], value(service)))
                .collect(),
            Sessions(value) => sessions.map(|of| number(session_labels(of), value(of))).collect(),
            Spreads(spread) => {
                let spread = |of| SampleValue::Spread(SpreadView::clone(spread(of)));
                sessions.map(|of| (session_labels(of), spread(of))).collect()
            }
            Table(value) => {
                view.table.into_iter().map(|table| number(Vec::new(), value(view, table))).collect()
            }
            Words(_, counts) => {
                counts(view).iter().map(|(word, count)| number(vec![Cow::from(word)], *count)).collect()
            }
        }
    }
}

const fn counter(name: &'static str, help: &'static str, values: Values) -> MetricFamily {
    MetricFamily { name, kind: MetricType::Counter, help, values }
}

const fn gauge(name: &'static str, help: &'static str, values: Values) -> MetricFamily {
    MetricFamily { name, kind: MetricType::Gauge, help, values }
}

const fn histogram(name: &'static str, help: &'static str, values: Values) -> MetricFamily {
    MetricFamily { name, kind: MetricType::Histogram, help, values }
}

/// The services of the configuration.
fn configured(view: &View) -> impl Iterator<Item = &ServiceView> {
    view.services.iter().filter(|service| service.draining.is_none())
}

fn session_labels(sessions: &SessionsView) -> Vec<Cow<'_, str>> {
    vec![Cow::from(&sessions.service), sessions.protocol.to_string().into()]
}

fn packets_of(view: &View) -> impl Iterator<Item = (Vec<Cow<'_, str>>, &PacketCounts)> {
    view.destinations.iter().filter_map(|DestinationView { plan, packets, .. }| {
        let (protocol, family) = (plan.protocol.to_string(), plan.family.to_string());
        Some((vec![Cow::from(&plan.service), protocol.into(), family.into()], packets.as_ref()?))
    })
}

/// The rows of each origin of a service, which stand together.
fn origins_of(service: &ServiceView) -> impl Iterator<Item = &[OriginView]> {
    service.origins.chunk_by(|one, other| one.plan.origin == other.plan.origin)
}

/// True if these rows of an origin have no address that may be dialled.
fn leads_nowhere(rows: &[OriginView]) -> bool {
    rows.iter().all(OriginView::is_nothing)
}

/// A row for each address of an origin that may be dialled, and one for each origin that has none. SRV records may name a
/// target in two priorities, and a file an origin twice: a series must not occur twice. Rows with the same labels are of one
/// address of a service, so that what is counted there is one and the same number; it is up if either is.
fn origin_rows(view: &View) -> impl Iterator<Item = (Vec<Cow<'_, str>>, &OriginView)> {
    let mut by_labels: BTreeMap<[&str; 3], &OriginView> = BTreeMap::new();
    for service in configured(view) {
        for rows in origins_of(service) {
            let addressed = rows.iter().filter(|row| !row.is_nothing());
            let addressed = addressed.map(|row| (row.address.as_deref().unwrap_or_default(), row));
            // Whoever says what is refused may say something else each time, and series would become ever more.
            let nowhere = rows.first().filter(|_| leads_nowhere(rows)).map(|row| ("", row));
            for (address, row) in addressed.chain(nowhere) {
                let labels = [service.plan.name.as_str(), row.plan.origin.as_str(), address];
                let known = by_labels.entry(labels).or_insert(row);
                if row.is_up() {
                    *known = row;
                }
            }
        }
    }
    by_labels.into_iter().map(|(labels, row)| (labels.map(Cow::from).to_vec(), row))
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const OPERATIONS: &str = include_str!("../../../docs/operations.md");

    /// The families that the documentation has, with their labels.
    fn documented() -> BTreeMap<String, String> {
        let rows = OPERATIONS.lines().filter(|line| line.starts_with("| `spectrum_"));
        let mut documented = BTreeMap::new();
        for row in rows {
            let mut cells = row.split('|').skip(1).map(str::trim);
            let (names, labels) = (cells.next().unwrap(), cells.next().unwrap());
            for name in names.split(", ") {
                documented.insert(name.trim_matches('`').to_owned(), labels.to_owned());
            }
        }
        documented
    }

    #[test]
    fn the_documentation_has_every_family_with_its_labels_and_no_other() {
        let table: BTreeMap<String, String> = FAMILIES
            .iter()
            .map(|family| {
                let total = if matches!(family.kind, MetricType::Counter) { "_total" } else { "" };
                (format!("spectrum_{}{total}", family.name), family.labels().join(", "))
            })
            .collect();
        assert_eq!(table.len(), FAMILIES.len(), "a name stands twice");
        assert_eq!(table, documented());
    }
}

//! Every family of metrics, one table: its name, what it is, and where in the view its values are. Writes no text.

use std::borrow::Cow;
use std::collections::BTreeMap;

use prometheus_client::metrics::MetricType;
use spectrum_common::Refusal;

use crate::view::{
    DatagramsView, DestinationView, OriginView, PacketCounts, ServiceView, SessionsView, SpreadView, View,
};

/// A family of metrics.
pub(super) struct MetricFamily {
    /// Its name, without `spectrum_` before it and `_total` behind it.
    pub(super) name: &'static str,
    /// Counter, gauge or histogram.
    pub(super) kind: MetricType,
    /// What it is, in words.
    pub(super) help: &'static str,
    /// The labels of each of its samples.
    pub(super) labels: &'static [&'static str],
    /// The place of its values in the view.
    pub(super) samples: for<'v> fn(&'v View, &mut Samples<'v>),
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

/// The whole table.
pub(super) const FAMILIES: &[MetricFamily] = &[
    gauge(
        "build_info",
        "The version of the program, and how packets reach it",
        &["version", "mode"],
        |view, out| {
            let mode = view.mode.map(|mode| mode.to_string()).unwrap_or_default();
            out.push((vec![Cow::from(&view.version), mode.into()], SampleValue::Number(1)));
        },
    ),
    gauge("bindings", "Bindings of each service", SERVICE, |view, out| {
        of_services(view, out, |service| wide(service.plan.bindings));
    }),
    gauge(
        "descriptors_limit",
        "File descriptors that all connections together may have",
        &[],
        |view, out| {
            once(out, wide(view.descriptors));
        },
    ),
    gauge(
        "descriptors_of_service",
        "Of these, the ones that each service has of its own, whatever the others take",
        &[],
        |view, out| once(out, wide(view.descriptors_of_each)),
    ),
    gauge("configuration_revision", "Configurations before this one", &[], |view, out| {
        once(out, view.revision.into());
    }),
    counter("repairs", "Repairs of what others removed, by what it was", &["what"], |view, out| {
        by_word(&view.repairs, out);
    }),
    counter(
        "failed_looks",
        "Looks for what may be missing that failed, by what it was",
        &["what"],
        |view, out| {
            by_word(&view.failed_looks, out);
        },
    ),
    gauge(
        "missing",
        "Kinds of things that clients need, that others removed and that have not been put back",
        &[],
        |view, out| once(out, wide(view.hindrances.len())),
    ),
    counter(
        "reloads",
        "Requests for another configuration, by what came of them",
        &["outcome"],
        |view, out| {
            out.push((vec!["done".into()], SampleValue::Number(view.reloads.done)));
            out.push((vec!["refused".into()], SampleValue::Number(view.reloads.refused)));
        },
    ),
    gauge("table_generation", "Steering tables that have been published", &[], |view, out| {
        out.extend(view.table.map(|_| (Vec::new(), SampleValue::Number(view.generation))));
    }),
    gauge("table_nodes", "Nodes of the steering table", &[], |view, out| {
        out.extend(view.table.map(|table| (Vec::new(), SampleValue::Number(wide(table.nodes)))));
    }),
    gauge("table_bytes", "Memory of the steering table in the kernel", &[], |view, out| {
        out.extend(view.table.map(|table| (Vec::new(), SampleValue::Number(wide(table.bytes)))));
    }),
    counter(
        "steered_packets",
        "Packets that looked for a listener and got ours: connections, and datagrams or trains of them",
        PACKETS,
        |view, out| {
            of_packets(view, out, |labels, packets, out| {
                out.push((labels, SampleValue::Number(packets.steered)));
            });
        },
    ),
    counter("missed_packets", "Packets that were refused for want of a listener", PACKETS, |view, out| {
        of_packets(view, out, |labels, packets, out| out.push((labels, SampleValue::Number(packets.missed))));
    }),
    counter(
        "refused_packets",
        "Packets that the kernel would not give to the listener",
        &["service", "protocol", "family", "errno"],
        |view, out| {
            of_packets(view, out, |labels, packets, out| {
                for errno in Refusal::ALL.map(Refusal::errno) {
                    let labels = labels.iter().cloned().chain([errno.into()]).collect();
                    let count = packets.refused.get(errno).copied().unwrap_or_default();
                    out.push((labels, SampleValue::Number(count)));
                }
            });
        },
    ),
    gauge(
        "origin_up",
        "Whether an address of an origin is used: neither down, ejected nor drained, resolved, and leading elsewhere",
        ORIGIN,
        |view, out| of_origins(view, out, |origin| origin.is_up().into()),
    ),
    gauge(
        "origin_weight",
        "Share of the connections that an address of an origin has, 0 while it is drained",
        ORIGIN,
        |view, out| of_origins(view, out, |origin| origin.plan.weight.into()),
    ),
    gauge(
        "origin_open_connections",
        "Connections that are open to an address of an origin",
        ORIGIN,
        |view, out| of_origins(view, out, |origin| origin.open),
    ),
    counter("origin_connections", "Connections to an address of an origin so far", ORIGIN, |view, out| {
        of_origins(view, out, |origin| origin.connections);
    }),
    counter(
        "origin_failed_dials",
        "Dials of an address of an origin that failed so far",
        ORIGIN,
        |view, out| of_origins(view, out, |origin| origin.failed_dials),
    ),
    counter(
        "origin_broken_connections",
        "Connections that an address of an origin broke off so far",
        ORIGIN,
        |view, out| of_origins(view, out, |origin| origin.broken_connections),
    ),
    counter(
        "to_origin_bytes",
        "Bytes that clients sent so far, by connections to an address of an origin",
        ORIGIN,
        |view, out| of_origins(view, out, |origin| origin.bytes_to_origin),
    ),
    counter(
        "from_origin_bytes",
        "Bytes that clients were handed so far, by connections to an address of an origin",
        ORIGIN,
        |view, out| of_origins(view, out, |origin| origin.bytes_from_origin),
    ),
    gauge(
        "unresolved_origins",
        "Origins of each service whose names have no address that may be dialled",
        SERVICE,
        |view, out| {
            of_services(view, out, |service| {
                wide(origins_of(service).filter(|rows| leads_nowhere(rows)).count())
            });
        },
    ),
    gauge(
        "refused_addresses",
        "Addresses that the names of a service's origins mean and that are not dialled, since no name may mean them",
        SERVICE,
        |view, out| {
            of_services(view, out, |service| {
                wide(service.origins.iter().filter(|row| row.is_refused()).count())
            });
        },
    ),
    counter(
        "opened_sessions",
        "Connections that were accepted, and UDP sessions that began",
        SESSIONS,
        |view, out| of_sessions(view, out, |sessions| SampleValue::Number(sessions.opened)),
    ),
    gauge("open_sessions", "Connections and UDP sessions that are open", SESSIONS, |view, out| {
        of_sessions(view, out, |sessions| SampleValue::Number(sessions.open));
    }),
    counter(
        "ended_sessions",
        "Connections and UDP sessions that are over, by how they ended",
        &["service", "protocol", "end", "status"],
        |view, out| {
            for sessions in &view.sessions {
                for ended in &sessions.ended {
                    let of = [Cow::from(&ended.end), ended.status.to_string().into()];
                    let labels = session_labels(sessions).into_iter().chain(of).collect();
                    out.push((labels, SampleValue::Number(ended.count)));
                }
            }
        },
    ),
    counter(
        "from_client_bytes",
        "Bytes received from clients so far, by sessions that are open or over",
        SESSIONS,
        |view, out| of_sessions(view, out, |sessions| SampleValue::Number(sessions.bytes_from_client)),
    ),
    counter(
        "to_client_bytes",
        "Bytes handed to clients so far, by sessions that are open or over",
        SESSIONS,
        |view, out| of_sessions(view, out, |sessions| SampleValue::Number(sessions.bytes_to_client)),
    ),
    counter("from_client_datagrams", "UDP datagrams received from clients so far", SESSIONS, |view, out| {
        of_datagrams(view, out, |datagrams| datagrams.from_client);
    }),
    counter(
        "to_client_datagrams",
        "UDP datagrams handed to the system for clients so far",
        SESSIONS,
        |view, out| of_datagrams(view, out, |datagrams| datagrams.to_client),
    ),
    counter(
        "lost_datagrams",
        "UDP datagrams of clients and origins that came and could not be sent on",
        SESSIONS,
        |view, out| of_datagrams(view, out, |datagrams| datagrams.lost),
    ),
    counter(
        "overflowed_datagrams",
        "UDP datagrams, or trains of them, that the system threw away since a queue was full, by who sent them",
        &["service", "protocol", "sender"],
        |view, out| {
            for sessions in &view.sessions {
                let Some(datagrams) = sessions.datagrams else { continue };
                for (sender, count) in
                    [("client", datagrams.overflow_from_client), ("origin", datagrams.overflow_from_origin)]
                {
                    let labels = session_labels(sessions).into_iter().chain([Cow::from(sender)]).collect();
                    out.push((labels, SampleValue::Number(count)));
                }
            }
        },
    ),
    counter(
        "followed_clients",
        "Times that a client of QUIC had another address, and its UDP session followed",
        SESSIONS,
        |view, out| of_datagrams(view, out, |datagrams| datagrams.followed),
    ),
    counter(
        "headerless_answers",
        "UDP datagrams of origins that lacked the header of their session, and were not passed on",
        SESSIONS,
        |view, out| of_datagrams(view, out, |datagrams| datagrams.headerless),
    ),
    counter(
        "icmp_messages",
        "Messages of ICMP to UDP clients, by what they say; withheld: could not be sent, or too many were",
        &["service", "protocol", "kind"],
        |view, out| {
            for sessions in &view.sessions {
                let Some(datagrams) = sessions.datagrams else { continue };
                for (kind, count) in [
                    ("port-unreachable", datagrams.told_unreachable),
                    ("too-big", datagrams.told_too_big),
                    ("withheld", datagrams.withheld),
                ] {
                    let labels = session_labels(sessions).into_iter().chain([Cow::from(kind)]).collect();
                    out.push((labels, SampleValue::Number(count)));
                }
            }
        },
    ),
    histogram(
        "dial_duration_seconds",
        "How long it took to connect to an origin, of sessions that are over",
        |view, out| {
            of_sessions(view, out, |sessions| SampleValue::Spread(sessions.dials.clone()));
            out.retain(|(_, value)| matches!(value, SampleValue::Spread(dials) if dials.count() > 0));
        },
    ),
    histogram("session_duration_seconds", "From accept to end", |view, out| {
        of_sessions(view, out, |sessions| SampleValue::Spread(sessions.durations.clone()));
    }),
    counter(
        "uncounted_events",
        "Sessions and records that no other counter has, since there was no room for the counters of one more service",
        &[],
        |view, out| once(out, view.uncounted),
    ),
    counter(
        "log_lost",
        "Lines and records lost because nobody read them, or there was no room for them",
        &["stream"],
        |view, out| by_word(&view.log.lost, out),
    ),
    counter(
        "dropped_records",
        "Connection records lost, as spectrum_log_lost_total has them under records",
        &[],
        |view, out| once(out, view.log.lost.get("records").copied().unwrap_or_default()),
    ),
    counter("omitted_records", "Connection records left out on purpose, by why", &["reason"], |view, out| {
        by_word(&view.log.omitted, out);
    }),
];

type Fill = for<'v> fn(&'v View, &mut Samples<'v>);

const fn counter(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    samples: Fill,
) -> MetricFamily {
    MetricFamily { name, kind: MetricType::Counter, help, labels, samples }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    samples: Fill,
) -> MetricFamily {
    MetricFamily { name, kind: MetricType::Gauge, help, labels, samples }
}

const fn histogram(name: &'static str, help: &'static str, samples: Fill) -> MetricFamily {
    MetricFamily { name, kind: MetricType::Histogram, help, labels: SESSIONS, samples }
}

fn once(out: &mut Samples<'_>, value: u64) {
    out.push((Vec::new(), SampleValue::Number(value)));
}

fn by_word<'v>(counts: &'v BTreeMap<String, u64>, out: &mut Samples<'v>) {
    out.extend(counts.iter().map(|(word, count)| (vec![Cow::from(word)], SampleValue::Number(*count))));
}

/// The services of the configuration.
fn configured(view: &View) -> impl Iterator<Item = &ServiceView> {
    view.services.iter().filter(|service| service.draining.is_none())
}

fn of_services<'v>(view: &'v View, out: &mut Samples<'v>, value: impl Fn(&ServiceView) -> u64) {
    let sample =
        |service: &'v ServiceView| (vec![Cow::from(&service.plan.name)], SampleValue::Number(value(service)));
    out.extend(configured(view).map(sample));
}

fn session_labels(sessions: &SessionsView) -> Vec<Cow<'_, str>> {
    vec![Cow::from(&sessions.service), sessions.protocol.to_string().into()]
}

fn of_sessions<'v>(view: &'v View, out: &mut Samples<'v>, value: impl Fn(&SessionsView) -> SampleValue) {
    out.extend(view.sessions.iter().map(|sessions| (session_labels(sessions), value(sessions))));
}

fn of_datagrams<'v>(view: &'v View, out: &mut Samples<'v>, value: impl Fn(DatagramsView) -> u64) {
    out.extend(view.sessions.iter().filter_map(|sessions| {
        Some((session_labels(sessions), SampleValue::Number(value(sessions.datagrams?))))
    }));
}

fn of_packets<'v>(
    view: &'v View,
    out: &mut Samples<'v>,
    add: impl Fn(Vec<Cow<'v, str>>, &PacketCounts, &mut Samples<'v>),
) {
    for DestinationView { plan, packets, .. } in &view.destinations {
        let Some(packets) = packets else { continue };
        let labels =
            vec![Cow::from(&plan.service), plan.protocol.to_string().into(), plan.family.to_string().into()];
        add(labels, packets, out);
    }
}

/// The rows of each origin of a service, which stand together.
fn origins_of(service: &ServiceView) -> impl Iterator<Item = &[OriginView]> {
    service.origins.chunk_by(|one, other| one.plan.origin == other.plan.origin)
}

/// True if these rows of an origin have no address that may be dialled.
fn leads_nowhere(rows: &[OriginView]) -> bool {
    rows.iter().all(OriginView::is_nothing)
}

/// A sample for each address of an origin that may be dialled, and one for each origin that has none. SRV records may name a
/// target in two priorities, and a file an origin twice: a series must not occur twice. Rows with the same labels are of one
/// address of a service, so that what is counted there is one and the same number; it is up if either is.
fn of_origins<'v>(view: &'v View, out: &mut Samples<'v>, value: impl Fn(&OriginView) -> u64) {
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
    out.extend(
        by_labels
            .into_iter()
            .map(|(labels, row)| (labels.map(Cow::from).to_vec(), SampleValue::Number(value(row)))),
    );
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
                (format!("spectrum_{}{total}", family.name), family.labels.join(", "))
            })
            .collect();
        assert_eq!(table.len(), FAMILIES.len(), "a name stands twice");
        assert_eq!(table, documented());
    }
}

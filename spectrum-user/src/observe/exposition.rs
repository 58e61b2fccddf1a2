//! Metrics as Prometheus reads them: what was counted, and what is told of the instance, as text. Counts nothing itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::counters::{Counters, Totals};
use super::histogram::{Bounds, DIAL, Histogram, SESSION};
use super::omissions::{Omission, Omissions};
use super::output::{LossKind, Losses};
use crate::model::{Family, Protocol, ServiceName};

/// The facts about an instance at the moment, besides what its workers count.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct InstanceFacts {
    /// The path by which packets reach the listeners.
    pub mode: String,
    /// Services, and how many bindings each has.
    pub services: Vec<(ServiceName, usize)>,
    /// The counters of packets, where they come by sk_lookup.
    pub packets: Vec<Packets>,
    /// The addresses of origins, and whether they are used.
    pub origins: Vec<OriginFacts>,
    /// The state of the names of origins.
    pub names: Vec<NameFacts>,
    /// The steering table, where they come by sk_lookup.
    pub table: Option<TableFacts>,
    /// The number of configurations before this one.
    pub revision: u32,
    /// Reloads that took effect.
    pub reloads_done: u64,
    /// Reloads that changed nothing, because something was wrong.
    pub reloads_refused: u64,
    /// The number of descriptors that connections may have.
    pub descriptors: usize,
    /// The number of these that are each service's own.
    pub descriptors_of_each: usize,
    /// The repairs of what others had removed, of each kind.
    pub repairs: Vec<(&'static str, u64)>,
}

/// The counters of one destination's packets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Packets {
    /// Its service.
    pub service: ServiceName,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its family.
    pub family: Family,
    /// Given to the listener.
    pub steered: u64,
    /// Refused since there is no listener.
    pub missed: u64,
    /// Refused by the kernel, by the name of the error.
    pub refused: Vec<(&'static str, u64)>,
}

/// One address of an origin.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OriginFacts {
    /// Whose.
    pub service: ServiceName,
    /// The origin as configured.
    pub origin: String,
    /// The address; empty where it has none.
    pub address: String,
    /// True if connections go there.
    pub usable: bool,
    /// Its share.
    pub weight: u16,
    /// Those that are open to it.
    pub open: u64,
    /// All there were.
    pub connections: u64,
    /// Dials that failed.
    pub failed_dials: u64,
    /// Connections that it broke off.
    pub broken: u64,
    /// Bytes that clients sent.
    pub bytes_to: u64,
    /// Bytes that clients were handed.
    pub bytes_from: u64,
}

/// The state of the names of one service's origins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NameFacts {
    /// Whose.
    pub service: ServiceName,
    /// Origins without an address that may be dialled.
    pub unresolved: usize,
    /// Addresses that no name may mean.
    pub refused: usize,
}

/// The steering table's size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TableFacts {
    /// The number of tables published so far.
    pub generation: u64,
    /// Its nodes.
    pub nodes: usize,
    /// The memory that they take in the kernel.
    pub bytes: usize,
}

/// Which form of text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TextFormat {
    /// <https://prometheus.io/docs/specs/om/open_metrics_spec>
    OpenMetrics,
    /// Prometheus' older form, 0.0.4, which everybody understands.
    Prometheus,
}

/// Everything that is exported.
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Metrics from `counters`, the omissions and losses of the log, and `facts`, which must not take long.
    pub fn new(
        counters: Counters,
        losses: Losses,
        omissions: Omissions,
        facts: impl Fn() -> InstanceFacts + Send + Sync + 'static,
    ) -> Self {
        let mut registry = Registry::with_prefix("spectrum");
        registry.register_collector(Box::new(Exposition {
            counters,
            losses,
            omissions,
            facts: Arc::new(facts),
        }));
        Self { registry }
    }

    pub(super) fn text(&self, format: TextFormat) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(match format {
            TextFormat::OpenMetrics => text,
            TextFormat::Prometheus => as_prometheus(&text),
        })
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// The two forms differ in comments alone: the older one names a counter there as its samples are named, and has neither
/// units nor an end.
fn as_prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        if line.starts_with("# HELP ") {
            // Its type is in the next line.
            help = line;
            continue;
        }
        let counter = line.strip_prefix("# TYPE ").and_then(|line| line.strip_suffix(" counter"));
        let total = counter.map(|name| (name, format!("{name}_total")));
        let help = std::mem::take(&mut help);
        match &total {
            Some((name, total)) => {
                text.push_str(&help.replacen(name, total, 1));
                text.push_str("\n# TYPE ");
                text.push_str(total);
                text.push_str(" counter\n");
            }
            None if line.starts_with("# UNIT ") || line == "# EOF" => {}
            None => {
                if !help.is_empty() {
                    text.push_str(help);
                    text.push('\n');
                }
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

struct Exposition {
    counters: Counters,
    losses: Losses,
    omissions: Omissions,
    facts: Arc<dyn Fn() -> InstanceFacts + Send + Sync>,
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposition").finish_non_exhaustive()
    }
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        let facts = (self.facts)();
        instance(encoder, &facts)?;
        packets(encoder, &facts.packets)?;
        origins(encoder, &facts.origins)?;
        names(encoder, &facts.names)?;
        let totals: Vec<((String, String), Totals)> = self
            .counters
            .totals()
            .into_iter()
            .map(|((service, protocol), totals)| ((service.to_string(), protocol.to_string()), totals))
            .collect();
        sessions(encoder, &totals)?;
        written(encoder, &self.losses, &self.omissions)
    }
}

fn written(encoder: &mut DescriptorEncoder<'_>, losses: &Losses, omissions: &Omissions) -> fmt::Result {
    let help = "Lines and records lost because nobody read them, or there was no room for them";
    let mut lost = counter(encoder, "log_lost", help)?;
    for kind in LossKind::ALL {
        count(&mut lost, &[("stream", kind.stream())], losses.of(kind))?;
    }
    let help = "Connection records lost, as spectrum_log_lost_total has them under records";
    let mut dropped = counter(encoder, "dropped_records", help)?;
    count(&mut dropped, &[], losses.of(LossKind::Record))?;
    let help = "Connection records left out on purpose, by why";
    let mut omitted = counter(encoder, "omitted_records", help)?;
    for omission in Omission::ALL {
        count(&mut omitted, &[("reason", omission.word())], omissions.of(omission))?;
    }
    Ok(())
}

fn instance(encoder: &mut DescriptorEncoder<'_>, facts: &InstanceFacts) -> fmt::Result {
    let mut build = gauge(encoder, "build_info", "The version of the program, and how packets reach it")?;
    let version = env!("CARGO_PKG_VERSION");
    measure(&mut build, &[("version", version), ("mode", &facts.mode)], 1_u64)?;
    let mut bindings = gauge(encoder, "bindings", "Bindings of each service")?;
    for (service, number) in &facts.services {
        measure(&mut bindings, &[("service", service.as_str())], wide(*number))?;
    }
    let mut descriptors =
        gauge(encoder, "descriptors_limit", "File descriptors that all connections together may have")?;
    measure(&mut descriptors, &[], wide(facts.descriptors))?;
    let help = "Of these, the ones that each service has of its own, whatever the others take";
    let mut own = gauge(encoder, "descriptors_of_service", help)?;
    measure(&mut own, &[], wide(facts.descriptors_of_each))?;
    let mut revision = gauge(encoder, "configuration_revision", "Configurations before this one")?;
    measure(&mut revision, &[], u64::from(facts.revision))?;
    let help = "Repairs of what others removed, by what it was";
    let mut repairs = counter(encoder, "repairs", help)?;
    for (what, number) in &facts.repairs {
        count(&mut repairs, &[("what", what)], *number)?;
    }
    let mut reloads =
        counter(encoder, "reloads", "Requests for another configuration, by what came of them")?;
    count(&mut reloads, &[("outcome", "done")], facts.reloads_done)?;
    count(&mut reloads, &[("outcome", "refused")], facts.reloads_refused)?;
    let Some(table) = facts.table else { return Ok(()) };
    let mut generation = gauge(encoder, "table_generation", "Steering tables that have been published")?;
    measure(&mut generation, &[], table.generation)?;
    let mut nodes = gauge(encoder, "table_nodes", "Nodes of the steering table")?;
    measure(&mut nodes, &[], wide(table.nodes))?;
    let mut bytes = gauge(encoder, "table_bytes", "Memory of the steering table in the kernel")?;
    measure(&mut bytes, &[], wide(table.bytes))
}

fn packets(encoder: &mut DescriptorEncoder<'_>, packets: &[Packets]) -> fmt::Result {
    let texts: Vec<(String, String)> =
        packets.iter().map(|packets| (packets.protocol.to_string(), packets.family.to_string())).collect();
    let labelled = || {
        packets.iter().zip(&texts).map(|(packets, (protocol, family))| {
            let labels: Labels<'_> =
                vec![("service", packets.service.as_str()), ("protocol", protocol), ("family", family)];
            (packets, labels)
        })
    };
    let help =
        "Packets that looked for a listener and got ours: connections, and datagrams or trains of them";
    let mut steered = counter(encoder, "steered_packets", help)?;
    for (packets, labels) in labelled() {
        count(&mut steered, &labels, packets.steered)?;
    }
    let mut missed = counter(encoder, "missed_packets", "Packets that were refused for want of a listener")?;
    for (packets, labels) in labelled() {
        count(&mut missed, &labels, packets.missed)?;
    }
    let mut refused =
        counter(encoder, "refused_packets", "Packets that the kernel would not give to the listener")?;
    for (packets, labels) in labelled() {
        for (errno, number) in &packets.refused {
            let labels: Labels<'_> = labels.iter().copied().chain([("errno", *errno)]).collect();
            count(&mut refused, &labels, *number)?;
        }
    }
    Ok(())
}

fn origins(encoder: &mut DescriptorEncoder<'_>, origins: &[OriginFacts]) -> fmt::Result {
    // SRV records may name a target in two priorities, and a file an origin twice: a series must not occur twice. Rows with
    // the same labels are of one address of a service, so that what is open there is one and the same number.
    let mut by_labels: BTreeMap<[&str; 3], OriginFacts> = BTreeMap::new();
    for row in origins {
        let labels = [row.service.as_str(), &row.origin, &row.address];
        by_labels.entry(labels).and_modify(|facts| facts.usable |= row.usable).or_insert_with(|| row.clone());
    }
    let help = "Whether an address of an origin is used: neither down, ejected nor drained, resolved, and leading elsewhere";
    let up = gauge(encoder, "origin_up", help)?;
    of_origins(up, &by_labels, measure, |facts| u64::from(facts.usable))?;
    let help = "Share of the connections that an address of an origin has, 0 while it is drained";
    let weight = gauge(encoder, "origin_weight", help)?;
    of_origins(weight, &by_labels, measure, |facts| facts.weight.into())?;
    let help = "Connections that are open to an address of an origin";
    let open = gauge(encoder, "origin_open_connections", help)?;
    of_origins(open, &by_labels, measure, |facts| facts.open)?;
    let connections =
        counter(encoder, "origin_connections", "Connections to an address of an origin so far")?;
    of_origins(connections, &by_labels, count, |facts| facts.connections)?;
    let help = "Dials of an address of an origin that failed so far";
    let failed = counter(encoder, "origin_failed_dials", help)?;
    of_origins(failed, &by_labels, count, |facts| facts.failed_dials)?;
    let help = "Connections that an address of an origin broke off so far";
    let broken = counter(encoder, "origin_broken_connections", help)?;
    of_origins(broken, &by_labels, count, |facts| facts.broken)?;
    let help = "Bytes that clients sent so far, by connections to an address of an origin";
    let to = counter(encoder, "to_origin_bytes", help)?;
    of_origins(to, &by_labels, count, |facts| facts.bytes_to)?;
    let help = "Bytes that clients were handed so far, by connections to an address of an origin";
    let from = counter(encoder, "from_origin_bytes", help)?;
    of_origins(from, &by_labels, count, |facts| facts.bytes_from)
}

/// A sample for each address of an origin.
fn of_origins(
    mut family: MetricEncoder<'_>,
    origins: &BTreeMap<[&str; 3], OriginFacts>,
    sample: impl Fn(&mut MetricEncoder<'_>, &[(&str, &str)], u64) -> fmt::Result,
    value: impl Fn(&OriginFacts) -> u64,
) -> fmt::Result {
    for ([service, origin, address], facts) in origins {
        let labels = [("service", *service), ("origin", *origin), ("address", *address)];
        sample(&mut family, &labels, value(facts))?;
    }
    Ok(())
}

fn names(encoder: &mut DescriptorEncoder<'_>, names: &[NameFacts]) -> fmt::Result {
    let help = "Origins of each service whose names have no address that may be dialled";
    let mut unresolved = gauge(encoder, "unresolved_origins", help)?;
    for NameFacts { service, unresolved: count, .. } in names {
        measure(&mut unresolved, &[("service", service.as_str())], wide(*count))?;
    }
    let help = "Addresses that the names of a service's origins mean and that are not dialled, since no name may mean them";
    let mut refused = gauge(encoder, "refused_addresses", help)?;
    for NameFacts { service, refused: count, .. } in names {
        measure(&mut refused, &[("service", service.as_str())], wide(*count))?;
    }
    Ok(())
}

fn sessions(encoder: &mut DescriptorEncoder<'_>, totals: &[((String, String), Totals)]) -> fmt::Result {
    let labelled = || {
        totals.iter().map(|((service, protocol), totals)| {
            let labels: Labels<'_> = vec![("service", service), ("protocol", protocol)];
            (labels, totals)
        })
    };
    let mut opened =
        counter(encoder, "opened_sessions", "Connections that were accepted, and UDP sessions that began")?;
    for (labels, totals) in labelled() {
        count(&mut opened, &labels, totals.opened)?;
    }
    let mut open = gauge(encoder, "open_sessions", "Connections and UDP sessions that are open")?;
    for (labels, totals) in labelled() {
        measure(&mut open, &labels, totals.open)?;
    }
    let mut ended =
        counter(encoder, "ended_sessions", "Connections and UDP sessions that are over, by how they ended")?;
    for (labels, totals) in labelled() {
        for (end, over) in &totals.ends {
            let status = end.status().to_string();
            let of = [("end", end.word()), ("status", &status)];
            count(&mut ended, &labels.iter().copied().chain(of).collect::<Labels<'_>>(), *over)?;
        }
    }
    let help = "Bytes received from clients so far, by sessions that are open or over";
    let mut received = counter(encoder, "from_client_bytes", help)?;
    for (labels, totals) in labelled() {
        count(&mut received, &labels, totals.bytes_from_client)?;
    }
    let help = "Bytes handed to clients so far, by sessions that are open or over";
    let mut sent = counter(encoder, "to_client_bytes", help)?;
    for (labels, totals) in labelled() {
        count(&mut sent, &labels, totals.bytes_to_client)?;
    }
    let over_udp = || labelled().filter(|(labels, _)| labels.contains(&("protocol", "udp")));
    let mut received =
        counter(encoder, "from_client_datagrams", "UDP datagrams received from clients so far")?;
    for (labels, totals) in over_udp() {
        count(&mut received, &labels, totals.datagrams_from_client)?;
    }
    let mut sent =
        counter(encoder, "to_client_datagrams", "UDP datagrams handed to the system for clients so far")?;
    for (labels, totals) in over_udp() {
        count(&mut sent, &labels, totals.datagrams_to_client)?;
    }
    let help = "UDP datagrams of clients and origins that came and could not be sent on";
    let mut lost = counter(encoder, "lost_datagrams", help)?;
    for (labels, totals) in over_udp() {
        count(&mut lost, &labels, totals.datagrams_lost)?;
    }
    let help = "How long it took to connect to an origin, of sessions that are over";
    let mut dials = histogram(encoder, "dial_duration_seconds", help)?;
    for (labels, totals) in labelled().filter(|(_, totals)| totals.dials.count() > 0) {
        spread(&mut dials, &labels, &totals.dials, &DIAL)?;
    }
    let mut durations = histogram(encoder, "session_duration_seconds", "From accept to end")?;
    for (labels, totals) in labelled() {
        spread(&mut durations, &labels, &totals.durations, &SESSION)?;
    }
    Ok(())
}

fn counter<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Counter)
}

fn gauge<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)
}

fn histogram<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Histogram)
}

fn count(family: &mut MetricEncoder<'_>, labels: &[(&str, &str)], value: u64) -> fmt::Result {
    let none: Option<&Exemplar<NoLabelSet, u64>> = None;
    match labels {
        // Else the library writes braces around nothing.
        [] => family.encode_counter(&value, none),
        labels => family.encode_family(&labels)?.encode_counter(&value, none),
    }
}

fn measure(family: &mut MetricEncoder<'_>, labels: &[(&str, &str)], value: u64) -> fmt::Result {
    match labels {
        [] => family.encode_gauge(&value),
        labels => family.encode_family(&labels)?.encode_gauge(&value),
    }
}

fn spread(
    family: &mut MetricEncoder<'_>,
    labels: &[(&str, &str)],
    of: &Histogram,
    bounds: &Bounds,
) -> fmt::Result {
    let buckets = of.buckets(bounds);
    family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
        of.sum().as_secs_f64(),
        of.count(),
        &buckets,
        None,
    )
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::record::tests::report;

    fn metrics() -> Metrics {
        let counters = Counters::default();
        let worker = counters.worker();
        let report = report();
        worker.opened(&report.service, report.protocol);
        worker.ended(&report);
        Metrics::new(counters, Losses::default(), Omissions::default(), || InstanceFacts {
            mode: "sk-lookup".into(),
            services: vec![(ServiceName::default(), 2)],
            packets: vec![Packets {
                service: ServiceName::default(),
                protocol: Protocol::Tcp,
                family: Family::Ipv6,
                steered: 7,
                missed: 1,
                refused: vec![("EEXIST", 2)],
            }],
            table: Some(TableFacts { generation: 3, nodes: 17, bytes: 1088 }),
            ..InstanceFacts::default()
        })
    }

    #[test]
    fn either_form_has_every_sample_and_its_own_comments() {
        let [new, old] =
            [TextFormat::OpenMetrics, TextFormat::Prometheus].map(|form| metrics().text(form).unwrap());
        let samples = |text: &str| {
            text.lines().filter(|line| !line.starts_with('#')).map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(samples(&new), samples(&old));
        for sample in [
            "spectrum_ended_sessions_total{service=\"default\",protocol=\"tcp\",end=\"downstream-reset\",status=\"499\"} 1",
            "spectrum_open_sessions{service=\"default\",protocol=\"tcp\"} 0",
            "spectrum_steered_packets_total{service=\"default\",protocol=\"tcp\",family=\"ipv6\"} 7",
            "spectrum_refused_packets_total{service=\"default\",protocol=\"tcp\",family=\"ipv6\",errno=\"EEXIST\"} 2",
            "spectrum_session_duration_seconds_bucket{le=\"0.005\",service=\"default\",protocol=\"tcp\"} 1",
            "spectrum_table_bytes 1088",
        ] {
            assert!(old.lines().any(|line| line == sample), "no {sample} in\n{old}");
        }
        assert!(new.ends_with("# EOF\n") && !old.contains("# EOF"));
        assert!(new.contains("# TYPE spectrum_ended_sessions counter\n"));
        assert!(old.contains("# TYPE spectrum_ended_sessions_total counter\n"));
        assert!(old.contains("# HELP spectrum_ended_sessions_total Connections"));
    }

    #[test]
    fn an_address_that_occurs_twice_is_one_series_and_up_if_either_is() {
        let origin = |address: &str, usable, open| OriginFacts {
            service: ServiceName::default(),
            origin: "_http._tcp.example".into(),
            address: address.into(),
            usable,
            weight: 2,
            open,
            connections: open + 1,
            failed_dials: 1,
            broken: 2,
            bytes_to: 3,
            bytes_from: 4,
        };
        let origins = vec![
            origin("203.0.113.10:80", false, 7),
            origin("203.0.113.11:80", false, 3),
            origin("203.0.113.10:80", true, 7),
        ];
        let facts = move || InstanceFacts { origins: origins.clone(), ..InstanceFacts::default() };
        let metrics = Metrics::new(Counters::default(), Losses::default(), Omissions::default(), facts);
        let text = metrics.text(TextFormat::Prometheus).unwrap();
        for (name, first, second) in [("origin_up", " 1", " 0"), ("origin_open_connections", " 7", " 3")] {
            let begin = format!("spectrum_{name}{{");
            let series: Vec<&str> = text.lines().filter(|line| line.starts_with(&begin)).collect();
            assert_eq!(series.len(), 2, "{text}");
            assert!(series.iter().any(|line| line.contains(".10:80") && line.ends_with(first)), "{text}");
            assert!(series.iter().any(|line| line.contains(".11:80") && line.ends_with(second)), "{text}");
            assert!(text.contains(&format!("# TYPE spectrum_{name} gauge\n")), "{text}");
        }
        for (name, value) in [
            ("origin_weight", 2),
            ("origin_connections_total", 8),
            ("origin_failed_dials_total", 1),
            ("origin_broken_connections_total", 2),
            ("to_origin_bytes_total", 3),
            ("from_origin_bytes_total", 4),
        ] {
            let series = "{service=\"default\",origin=\"_http._tcp.example\",address=\"203.0.113.10:80\"}";
            let sample = format!("spectrum_{name}{series} {value}");
            assert!(text.lines().any(|line| line == sample), "no {sample} in\n{text}");
        }
    }

    #[test]
    fn every_sample_of_the_older_form_has_a_help_and_a_type() {
        let text = metrics().text(TextFormat::Prometheus).unwrap();
        let mut known = std::collections::BTreeMap::new();
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# TYPE ") {
                let (name, kind) = comment.split_once(' ').unwrap();
                assert!(text.contains(&format!("# HELP {name} ")), "{name}");
                known.insert(name, kind);
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
                assert!(
                    known.contains_key(name) || histogram.is_some_and(|name| known[name] == "histogram"),
                    "{line}"
                );
                assert_eq!(known.get(name) == Some(&"counter"), name.ends_with("_total"), "{line}");
            }
        }
        assert!(known.len() > 15, "{known:?}");
    }
}

//! A view as Prometheus reads it: the table of families, filled, as text. Counts nothing itself.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::families::{FAMILIES, MetricFamily, SampleValue};
use crate::view::View;

/// A form of text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TextFormat {
    /// <https://prometheus.io/docs/specs/om/open_metrics_spec>
    OpenMetrics,
    /// Prometheus' older form, 0.0.4, which everybody understands.
    Prometheus,
}

/// All of `view` that is exported.
pub(super) fn exposition(view: View, format: TextFormat) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("spectrum");
    registry.register_collector(Box::new(Exposition(view)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(match format {
        TextFormat::OpenMetrics => text,
        TextFormat::Prometheus => as_prometheus(&text),
    })
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

#[derive(Debug)]
struct Exposition(View);

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        FAMILIES.iter().try_for_each(|family| encoded(family, &self.0, &mut encoder))
    }
}

fn encoded(family: &MetricFamily, view: &View, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let MetricFamily { name, kind, help, .. } = family;
    let mut out = encoder.encode_descriptor(name, help, None, *kind)?;
    for (values, value) in family.samples(view) {
        let labels: Vec<(&str, Cow<'_, str>)> = family.labels().iter().copied().zip(values).collect();
        if labels.is_empty() {
            // With these the library would write braces around nothing.
            write(&mut out, *kind, value)?;
        } else {
            write(&mut out.encode_family(&labels)?, *kind, value)?;
        }
    }
    Ok(())
}

fn write(out: &mut MetricEncoder<'_>, kind: MetricType, value: SampleValue) -> fmt::Result {
    match (value, kind) {
        (SampleValue::Number(value), MetricType::Counter) => {
            out.encode_counter(&value, None::<&Exemplar<NoLabelSet, u64>>)
        }
        (SampleValue::Number(value), _) => out.encode_gauge(&value),
        (SampleValue::Spread(spread), _) => {
            let seconds = |micros| Duration::from_micros(micros).as_secs_f64();
            let bound = |(bound, count): &(Option<u64>, u64)| (bound.map_or(f64::INFINITY, seconds), *count);
            let buckets: Vec<(f64, u64)> = spread.buckets.iter().map(bound).collect();
            out.encode_histogram::<NoLabelSet>(seconds(spread.sum_us), spread.count(), &buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, Protocol};
    use crate::view::{
        DestinationPlan, DestinationView, EndedView, OriginView, PacketCounts, ServicePlan, ServiceView,
        SessionsView, SpreadView, TableView,
    };
    use spectrum_proxy::OriginCondition;

    fn view() -> View {
        let spread = SpreadView { buckets: vec![(Some(1000), 0), (Some(5000), 1), (None, 0)], sum_us: 2500 };
        let sessions = SessionsView {
            service: "default".into(),
            protocol: Protocol::Tcp,
            opened: 1,
            open: 0,
            ended: vec![EndedView { end: "downstream-reset".into(), status: 499, count: 1 }],
            bytes_from_client: 7,
            bytes_to_client: 9,
            datagrams: None,
            dials: SpreadView::default(),
            durations: spread,
        };
        let packets = PacketCounts { steered: 7, missed: 1, refused: [("EEXIST".to_owned(), 2)].into() };
        let plan = DestinationPlan {
            id: 0,
            service: "default".into(),
            protocol: Protocol::Tcp,
            family: Family::Ipv6,
        };
        View {
            version: "1.2.3".into(),
            generation: 3,
            services: vec![service(Vec::new())],
            sessions: vec![sessions],
            destinations: vec![DestinationView {
                plan,
                listener: None,
                packets: Some(packets),
                denied: [].into(),
            }],
            table: Some(TableView { nodes: 17, bytes: 1088 }),
            ..View::default()
        }
    }

    fn service(origins: Vec<OriginView>) -> ServiceView {
        let plan = ServicePlan { name: "default".into(), bindings: 2, ..ServicePlan::default() };
        ServiceView { plan, origins, ..ServiceView::default() }
    }

    #[test]
    fn either_form_has_every_sample_and_its_own_comments() {
        let [new, old] =
            [TextFormat::OpenMetrics, TextFormat::Prometheus].map(|form| exposition(view(), form).unwrap());
        let samples = |text: &str| {
            text.lines().filter(|line| !line.starts_with('#')).map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(samples(&new), samples(&old));
        for sample in [
            "spectrum_build_info{version=\"1.2.3\",mode=\"\"} 1",
            "spectrum_bindings{service=\"default\"} 2",
            "spectrum_ended_sessions_total{service=\"default\",protocol=\"tcp\",end=\"downstream-reset\",status=\"499\"} 1",
            "spectrum_open_sessions{service=\"default\",protocol=\"tcp\"} 0",
            "spectrum_steered_packets_total{service=\"default\",protocol=\"tcp\",family=\"ipv6\"} 7",
            "spectrum_refused_packets_total{service=\"default\",protocol=\"tcp\",family=\"ipv6\",errno=\"EEXIST\"} 2",
            "spectrum_session_duration_seconds_bucket{le=\"0.005\",service=\"default\",protocol=\"tcp\"} 1",
            "spectrum_session_duration_seconds_bucket{le=\"+Inf\",service=\"default\",protocol=\"tcp\"} 1",
            "spectrum_session_duration_seconds_sum{service=\"default\",protocol=\"tcp\"} 0.0025",
            "spectrum_table_bytes 1088",
            "spectrum_table_generation 3",
        ] {
            assert!(old.lines().any(|line| line == sample), "no {sample} in\n{old}");
        }
        assert!(!old.contains("dial_duration_seconds_bucket"), "nothing was dialled\n{old}");
        assert!(new.ends_with("# EOF\n") && !old.contains("# EOF"));
        assert!(new.contains("# TYPE spectrum_ended_sessions counter\n"));
        assert!(old.contains("# TYPE spectrum_ended_sessions_total counter\n"));
        assert!(old.contains("# HELP spectrum_ended_sessions_total Connections"));
    }

    #[test]
    fn an_address_that_occurs_twice_is_one_series_and_up_if_either_is() {
        let origin = |address: &str, condition, open| OriginView {
            condition,
            open,
            connections: open + 1,
            failed_dials: 1,
            broken_connections: 2,
            bytes_to_origin: 3,
            bytes_from_origin: 4,
            ..OriginView::up_at(address)
        };
        let origins = vec![
            origin("203.0.113.10:80", OriginCondition::Down, 7),
            origin("203.0.113.11:80", OriginCondition::Down, 3),
            origin("203.0.113.10:80", OriginCondition::Up, 7),
            origin("203.0.113.12:80", OriginCondition::Refused, 0),
        ];
        let view = View { services: vec![service(origins)], ..View::default() };
        let text = exposition(view, TextFormat::Prometheus).unwrap();
        for (name, first, second) in [("origin_up", " 1", " 0"), ("origin_open_connections", " 7", " 3")] {
            let begin = format!("spectrum_{name}{{");
            let series: Vec<&str> = text.lines().filter(|line| line.starts_with(&begin)).collect();
            assert_eq!(series.len(), 2, "{text}");
            assert!(series.iter().any(|line| line.contains(".10:80") && line.ends_with(first)), "{text}");
            assert!(series.iter().any(|line| line.contains(".11:80") && line.ends_with(second)), "{text}");
            assert!(text.contains(&format!("# TYPE spectrum_{name} gauge\n")), "{text}");
        }
        for (name, value) in [
            ("origin_weight", 1),
            ("origin_connections_total", 8),
            ("origin_failed_dials_total", 1),
            ("origin_broken_connections_total", 2),
            ("to_origin_bytes_total", 3),
            ("from_origin_bytes_total", 4),
        ] {
            let series = "{service=\"default\",origin=\"web.example:80\",address=\"203.0.113.10:80\"}";
            let sample = format!("spectrum_{name}{series} {value}");
            assert!(text.lines().any(|line| line == sample), "no {sample} in\n{text}");
        }
        assert!(text.contains("spectrum_refused_addresses{service=\"default\"} 1\n"), "{text}");
        assert!(text.contains("spectrum_unresolved_origins{service=\"default\"} 0\n"), "{text}");
    }

    #[test]
    fn an_origin_that_leads_nowhere_is_one_series_without_an_address() {
        let nowhere = |condition| OriginView { condition, ..OriginView::up_at("203.0.113.10:80") };
        let origins = vec![nowhere(OriginCondition::Refused), nowhere(OriginCondition::Unused)];
        let view = View { services: vec![service(origins)], ..View::default() };
        let text = exposition(view, TextFormat::Prometheus).unwrap();
        let up: Vec<&str> = text.lines().filter(|line| line.starts_with("spectrum_origin_up{")).collect();
        let series = "spectrum_origin_up{service=\"default\",origin=\"web.example:80\",address=\"\"} 0";
        assert_eq!(up, [series]);
        assert!(text.contains("spectrum_unresolved_origins{service=\"default\"} 1\n"), "{text}");
    }

    #[test]
    fn every_sample_of_the_older_form_has_a_help_and_a_type() {
        let text = exposition(view(), TextFormat::Prometheus).unwrap();
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

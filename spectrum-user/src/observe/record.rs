//! How the record of a connection is written. Writes none itself.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::model::{LogFormat, Protocol, ServiceName};
use spectrum_proxy::{Established, Report};

/// The status of a connection that has begun.
const OPENED: u16 = 0;

/// An entry to be recorded.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum RecordEntry {
    Opened(Opened),
    Ended(Report),
}

/// A connection that has begun.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Opened {
    service: ServiceName,
    protocol: Protocol,
    client: SocketAddr,
    via: Option<SocketAddr>,
    dialled: SocketAddr,
    origin: Option<SocketAddr>,
    unique_id: Option<Arc<str>>,
    after: Duration,
}

impl Opened {
    pub(super) fn of(established: &Established<'_>) -> Self {
        let Established { service, protocol, client, via, dialled, origin, unique_id, after } = *established;
        let unique_id = unique_id.cloned();
        Self { service: service.clone(), protocol, client, via, dialled, origin, unique_id, after }
    }
}

/// The fields of a JSON record. The first is called as in the log lines between them.
#[derive(Serialize)]
struct JsonRecord<'a> {
    timestamp: String,
    event: &'static str,
    service: &'a str,
    protocol: Protocol,
    client: SocketAddr,
    via: Option<SocketAddr>,
    dialled: SocketAddr,
    origin: Option<SocketAddr>,
    bytes_from_client: u64,
    bytes_to_client: u64,
    bytes_unacknowledged: Option<u32>,
    dial_ms: Option<f64>,
    duration_ms: f64,
    end: &'static str,
    status: u16,
    unique_id: Option<&'a str>,
    datagrams_from_client: Option<u64>,
    datagrams_to_client: Option<u64>,
}

/// The fields of the JSON record of a connection that has begun.
#[derive(Serialize)]
struct OpenedRecord<'a> {
    timestamp: String,
    event: &'static str,
    service: &'a str,
    protocol: Protocol,
    client: SocketAddr,
    via: Option<SocketAddr>,
    dialled: SocketAddr,
    origin: Option<SocketAddr>,
    dial_ms: Option<f64>,
    status: u16,
    unique_id: Option<&'a str>,
}

/// Adds the record of `entry` and a newline to `lines`.
pub(super) fn write_entry(lines: &mut String, format: LogFormat, entry: &RecordEntry) {
    match entry {
        RecordEntry::Opened(opened) => write_opened(lines, format, opened),
        RecordEntry::Ended(report) => write_ended(lines, format, report),
    }
}

/// This moment, as log lines have it.
#[must_use]
pub fn timestamp() -> String {
    let mut time = String::new();
    // Writing to a String cannot fail, here and below.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    time
}

fn write_opened(lines: &mut String, format: LogFormat, opened: &Opened) {
    let Opened { service, protocol, client, via, dialled, origin, unique_id, after } = opened;
    let dial = origin.map(|_| milliseconds(*after));
    let time = timestamp();
    let _ = match format {
        LogFormat::Json => {
            let record = OpenedRecord {
                timestamp: time,
                event: "opened",
                service: service.as_str(),
                protocol: *protocol,
                client: *client,
                via: *via,
                dialled: *dialled,
                origin: *origin,
                dial_ms: dial.map(rounded),
                status: OPENED,
                unique_id: unique_id.as_deref(),
            };
            serde_json::to_string(&record).map_or(Err(std::fmt::Error), |json| writeln!(lines, "{json}"))
        }
        LogFormat::Text => writeln!(
            lines,
            "{time} opened service={service} protocol={protocol} client={client} via={} dialled={dialled} origin={} \
             dial_ms={} status={OPENED} unique_id={}",
            or_dash(*via),
            or_dash(*origin),
            or_dash(dial.map(|dial| format!("{dial:.3}"))),
            unique_id.as_deref().unwrap_or("-"),
        ),
    };
}

fn write_ended(lines: &mut String, format: LogFormat, report: &Report) {
    let time = timestamp();
    let _ = match format {
        LogFormat::Json => {
            let record = JsonRecord {
                timestamp: time,
                event: "connection",
                service: report.service.as_str(),
                protocol: report.protocol,
                client: report.client,
                via: report.via,
                dialled: report.dialled,
                origin: report.origin,
                bytes_from_client: report.bytes_from_client,
                bytes_to_client: report.bytes_to_client,
                bytes_unacknowledged: report.bytes_unacknowledged,
                dial_ms: report.dial.map(|dial| rounded(milliseconds(dial))),
                duration_ms: rounded(milliseconds(report.duration)),
                end: report.end.word(),
                status: report.end.status(),
                unique_id: report.unique_id.as_deref(),
                datagrams_from_client: report.datagrams.map(|datagrams| datagrams.from_client),
                datagrams_to_client: report.datagrams.map(|datagrams| datagrams.to_client),
            };
            serde_json::to_string(&record).map_or(Err(std::fmt::Error), |json| writeln!(lines, "{json}"))
        }
        LogFormat::Text => writeln!(
            lines,
            "{time} connection service={} protocol={} client={} via={} dialled={} origin={} bytes_from_client={} \
             bytes_to_client={} bytes_unacknowledged={} dial_ms={} duration_ms={:.3} end={} status={} unique_id={} \
             datagrams_from_client={} datagrams_to_client={}",
            report.service,
            report.protocol,
            report.client,
            or_dash(report.via),
            report.dialled,
            or_dash(report.origin),
            report.bytes_from_client,
            report.bytes_to_client,
            or_dash(report.bytes_unacknowledged),
            or_dash(report.dial.map(|dial| format!("{:.3}", milliseconds(dial)))),
            milliseconds(report.duration),
            report.end,
            report.end.status(),
            report.unique_id.as_deref().unwrap_or("-"),
            or_dash(report.datagrams.map(|datagrams| datagrams.from_client)),
            or_dash(report.datagrams.map(|datagrams| datagrams.to_client)),
        ),
    };
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// To microseconds, which is what clocks are good for.
fn rounded(milliseconds: f64) -> f64 {
    (milliseconds * 1000.0).round() / 1000.0
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use spectrum_proxy::{End, Side};

    pub(in crate::observe) fn report() -> Report {
        Report {
            service: ServiceName::default(),
            protocol: Protocol::Tcp,
            client: "127.0.0.1:51234".parse().unwrap(),
            via: None,
            dialled: "[2001:db8::1]:9999".parse().unwrap(),
            origin: None,
            unique_id: None,
            dial: None,
            bytes_from_client: 7,
            bytes_to_client: 100,
            bytes_unacknowledged: Some(60),
            datagrams: None,
            duration: Duration::from_micros(1234),
            end: End::Reset(Side::Downstream),
        }
    }

    fn written(format: LogFormat) -> String {
        let mut line = String::new();
        write_entry(&mut line, format, &RecordEntry::Ended(report()));
        line
    }

    #[test]
    fn text_records_are_pairs_on_one_line() {
        let line = written(LogFormat::Text);
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{time}");
        assert_eq!(
            rest,
            "connection service=default protocol=tcp client=127.0.0.1:51234 via=- dialled=[2001:db8::1]:9999 \
             origin=- bytes_from_client=7 bytes_to_client=100 bytes_unacknowledged=60 dial_ms=- duration_ms=1.234 \
             end=downstream-reset status=499 unique_id=- datagrams_from_client=- datagrams_to_client=-\n"
        );
    }

    #[test]
    fn what_has_begun_has_a_record_of_its_own() {
        let opened = Opened {
            service: ServiceName::default(),
            protocol: Protocol::Tcp,
            client: "127.0.0.1:51234".parse().unwrap(),
            via: None,
            dialled: "[2001:db8::1]:9999".parse().unwrap(),
            origin: Some("192.0.2.1:80".parse().unwrap()),
            unique_id: Some("5f".into()),
            after: Duration::from_micros(731),
        };
        let mut text = String::new();
        write_opened(&mut text, LogFormat::Text, &opened);
        assert_eq!(
            text.split_once(' ').unwrap().1,
            "opened service=default protocol=tcp client=127.0.0.1:51234 via=- dialled=[2001:db8::1]:9999 \
             origin=192.0.2.1:80 dial_ms=0.731 status=0 unique_id=5f\n"
        );
        let mut json = String::new();
        write_opened(&mut json, LogFormat::Json, &Opened { origin: None, ..opened });
        let record: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&record["event"], &record["status"]), (&"opened".into(), &0.into()));
        assert_eq!(
            (&record["origin"], &record["dial_ms"]),
            (&serde_json::Value::Null, &serde_json::Value::Null)
        );
    }

    #[test]
    fn json_records_are_objects_on_one_line() {
        let line = written(LogFormat::Json);
        assert_eq!(line.matches('\n').count(), 1);
        let record: serde_json::Value = serde_json::from_str(&line).unwrap();
        let timestamp = record["timestamp"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(timestamp).is_ok(), "{timestamp}");
        assert_eq!(record["dialled"], "[2001:db8::1]:9999");
        assert_eq!(record["origin"], serde_json::Value::Null);
        assert_eq!(record["duration_ms"], 1.234);
        assert_eq!(record["dial_ms"], serde_json::Value::Null);
        assert_eq!(record["end"], "downstream-reset");
        assert_eq!(record["status"], 499);
    }
}

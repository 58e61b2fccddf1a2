//! How the record of a connection is written. Writes none itself.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::model::{LogFormat, Protocol, ServiceName};
use spectrum_proxy::{Established, Report};

/// The status of a connection that has begun.
const OPENED: u64 = 0;

/// An entry to be recorded.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum RecordEntry {
    Opened(Opened),
    Ended(Report),
}

/// A connection that has begun.
#[derive(Clone, Debug, Eq, PartialEq)]
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

/// What a field says.
#[derive(Clone, Copy, Serialize)]
#[serde(untagged)]
enum FieldValue<'a> {
    Address(SocketAddr),
    Count(u64),
    /// In milliseconds, to microseconds, which is what clocks are good for.
    Milliseconds(#[serde(serialize_with = "rounded")] f64),
    Word(&'a str),
}

impl fmt::Display for FieldValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Count(count) => count.fmt(f),
            Self::Milliseconds(time) => write!(f, "{time:.3}"),
            Self::Word(word) => f.write_str(word),
        }
    }
}

impl From<Duration> for FieldValue<'_> {
    fn from(duration: Duration) -> Self {
        Self::Milliseconds(duration.as_secs_f64() * 1000.0)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn rounded<S: Serializer>(milliseconds: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((milliseconds * 1000.0).round() / 1000.0)
}

/// A field by its key. Both formats have all of an event's, in this order.
type RecordField<'a> = (&'static str, Option<FieldValue<'a>>);

impl RecordEntry {
    /// The name of the event, and its fields.
    fn fields(&self) -> (&'static str, Vec<RecordField<'_>>) {
        use FieldValue::{Count, Word};
        match self {
            Self::Opened(opened) => {
                let Opened { service, protocol, client, via, dialled, origin, unique_id, after } = opened;
                let mut fields = parties(service, *protocol, *client, *via, *dialled, *origin);
                fields.extend([
                    ("dial_ms", origin.map(|_| (*after).into())),
                    ("status", Some(Count(OPENED))),
                    ("unique_id", unique_id.as_deref().map(Word)),
                ]);
                ("opened", fields)
            }
            Self::Ended(report) => {
                let Report { service, protocol, client, via, dialled, origin, unique_id, end, .. } = report;
                let mut fields = parties(service, *protocol, *client, *via, *dialled, *origin);
                let datagrams = report.datagrams;
                fields.extend([
                    ("bytes_from_client", Some(Count(report.bytes_from_client))),
                    ("bytes_to_client", Some(Count(report.bytes_to_client))),
                    ("bytes_unacknowledged", report.bytes_unacknowledged.map(|bytes| Count(bytes.into()))),
                    ("dial_ms", report.dial.map(Into::into)),
                    ("duration_ms", Some(report.duration.into())),
                    ("end", Some(Word(end.word()))),
                    ("status", Some(Count(end.status().into()))),
                    ("unique_id", unique_id.as_deref().map(Word)),
                    ("datagrams_from_client", datagrams.map(|datagrams| Count(datagrams.from_client))),
                    ("datagrams_to_client", datagrams.map(|datagrams| Count(datagrams.to_client))),
                ]);
                ("connection", fields)
            }
        }
    }
}

/// The fields with which every record begins.
fn parties(
    service: &ServiceName,
    protocol: Protocol,
    client: SocketAddr,
    via: Option<SocketAddr>,
    dialled: SocketAddr,
    origin: Option<SocketAddr>,
) -> Vec<RecordField<'_>> {
    use FieldValue::{Address, Word};
    let protocol = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    vec![
        ("service", Some(Word(service.as_str()))),
        ("protocol", Some(Word(protocol))),
        ("client", Some(Address(client))),
        ("via", via.map(Address)),
        ("dialled", Some(Address(dialled))),
        ("origin", origin.map(Address)),
    ]
}

/// Adds the record of `entry` and a newline to `lines`.
pub(super) fn write_entry(lines: &mut String, format: LogFormat, entry: &RecordEntry) {
    let time = timestamp();
    let (event, fields) = entry.fields();
    match format {
        LogFormat::Json => {
            // The first field is called as in the log lines between records.
            let beginning = [("timestamp", time.as_str()), ("event", event)];
            let beginning = beginning.map(|(key, word)| (key, Some(FieldValue::Word(word))));
            lines.push_str(&json(beginning.into_iter().chain(fields)));
        }
        LogFormat::Text => {
            let _ = write!(lines, "{time} {event}");
            for (key, value) in fields {
                let _ = match value {
                    Some(value) => write!(lines, " {key}={value}"),
                    None => write!(lines, " {key}=-"),
                };
            }
        }
    }
    lines.push('\n');
}

/// An object with `fields`, in their order.
fn json<'a>(fields: impl Iterator<Item = RecordField<'a>>) -> String {
    let mut json = Vec::new();
    // Neither writing to a Vec nor such values can fail.
    let _ = serde_json::Serializer::new(&mut json).collect_map(fields);
    String::from_utf8(json).unwrap_or_default()
}

/// This moment, as log lines have it.
#[must_use]
pub fn timestamp() -> String {
    let mut time = String::new();
    // Writing to a String cannot fail, here and below.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    time
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
        write_entry(&mut text, LogFormat::Text, &RecordEntry::Opened(opened.clone()));
        assert_eq!(
            text.split_once(' ').unwrap().1,
            "opened service=default protocol=tcp client=127.0.0.1:51234 via=- dialled=[2001:db8::1]:9999 \
             origin=192.0.2.1:80 dial_ms=0.731 status=0 unique_id=5f\n"
        );
        let mut json = String::new();
        let unanswered = RecordEntry::Opened(Opened { origin: None, ..opened });
        write_entry(&mut json, LogFormat::Json, &unanswered);
        assert_eq!(
            json.split_once(r#","event""#).unwrap().1,
            concat!(
                r#":"opened","service":"default","protocol":"tcp","client":"127.0.0.1:51234","via":null,"#,
                r#""dialled":"[2001:db8::1]:9999","origin":null,"dial_ms":null,"status":0,"unique_id":"5f"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn json_records_are_objects_on_one_line() {
        let line = written(LogFormat::Json);
        let (begin, rest) = line.split_at(r#"{"timestamp":""#.len());
        let (time, rest) = rest.split_once('"').unwrap();
        assert_eq!(begin, r#"{"timestamp":""#);
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
        assert_eq!(
            rest,
            concat!(
                r#","event":"connection","service":"default","protocol":"tcp","client":"127.0.0.1:51234","via":null,"#,
                r#""dialled":"[2001:db8::1]:9999","origin":null,"bytes_from_client":7,"bytes_to_client":100,"#,
                r#""bytes_unacknowledged":60,"dial_ms":null,"duration_ms":1.234,"end":"downstream-reset","status":499,"#,
                r#""unique_id":null,"datagrams_from_client":null,"datagrams_to_client":null}"#,
                "\n"
            )
        );
    }
}

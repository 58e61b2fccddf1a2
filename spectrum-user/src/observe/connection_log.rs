//! One record per connection, or two, written by a thread of its own. Loses records rather than hold a worker up.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::model::{Protocol, ServiceName};
use crate::proxy::{Established, Report};

/// How many records may wait for the writer.
const QUEUE: usize = 4096;

/// How long the writer lets records gather. While it sleeps, handing one over wakes nobody: a worker pays for a queue
/// operation and not for a system call.
const GATHER: Duration = Duration::from_millis(10);

/// The status of a connection that has begun.
const OPENED: u16 = 0;

/// How long the last records may take to be written.
const FINISH: Duration = Duration::from_secs(1);

/// How a record is written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// `key=value` pairs on one line; the origin is `-` where there is none.
    #[default]
    Text,
}

/// The connection log's writer.
#[derive(Debug)]
pub struct ConnectionLog {
    sender: RecordSender,
    written: Receiver<()>,
}

impl ConnectionLog {
    /// Starts the thread that writes to `sink`.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn start(format: LogFormat, sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, records) = mpsc::sync_channel(QUEUE);
        let (done, written) = mpsc::channel();
        let sender = RecordSender { queue, drops: RecordDrops::default() };
        let drops = sender.drops.clone();
        thread::Builder::new().name("connection-log".into()).stack_size(128 * 1024).spawn(move || {
            write_records(&records, format, sink, &drops);
            // Nobody waits for it unless the log was asked to finish.
            let _ = done.send(());
        })?;
        Ok(Self { sender, written })
    }

    /// What a worker hands its records to.
    #[must_use]
    pub fn sender(&self) -> RecordSender {
        self.sender.clone()
    }

    /// How many records are missing, and why, also for those who ask later.
    #[must_use]
    pub fn drops(&self) -> RecordDrops {
        self.sender.drops.clone()
    }

    /// Waits until all records are written, for a second at most: whoever reads them may have stopped reading. All
    /// [`RecordSender`]s must be gone, or it waits in vain.
    pub fn finish(self) {
        drop(self.sender);
        if let Err(RecvTimeoutError::Timeout) = self.written.recv_timeout(FINISH) {
            tracing::warn!("the last connection records were not written in time");
        }
    }
}

/// Hands records to the writer, without ever waiting.
#[derive(Clone, Debug)]
pub struct RecordSender {
    queue: SyncSender<Entry>,
    drops: RecordDrops,
}

/// Records that nobody reads. Clones are about the same ones.
#[derive(Clone, Debug, Default)]
pub struct RecordDrops(Arc<DropCells>);

#[derive(Debug, Default)]
struct DropCells {
    dropped: AtomicU64,
    omitted: AtomicU64,
}

impl RecordDrops {
    /// Lost because the writer could not keep up.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Left out on purpose, because very many connections were shed.
    #[must_use]
    pub fn omitted(&self) -> u64 {
        self.0.omitted.load(Ordering::Relaxed)
    }
}

impl RecordSender {
    /// Has `report` written, or counts it as dropped.
    pub fn send(&self, report: &Report) {
        self.enter(Entry::Ended(report.clone()));
    }

    /// The same for a connection that has only begun.
    pub fn send_opened(&self, established: &Established<'_>) {
        let Established { service, protocol, client, via, dialled, origin, after } = *established;
        let service = service.clone();
        self.enter(Entry::Opened(Opened { service, protocol, client, via, dialled, origin, after }));
    }

    fn enter(&self, entry: Entry) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.queue.try_send(entry) {
            self.drops.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a record that is not to be written.
    pub fn omit(&self) {
        self.drops.0.omitted.fetch_add(1, Ordering::Relaxed);
    }
}

/// What waits for the writer.
#[derive(Debug, Eq, PartialEq)]
enum Entry {
    Opened(Opened),
    Ended(Report),
}

/// A connection that has begun.
#[derive(Debug, Eq, PartialEq)]
struct Opened {
    service: ServiceName,
    protocol: Protocol,
    client: SocketAddr,
    via: Option<SocketAddr>,
    dialled: SocketAddr,
    origin: Option<SocketAddr>,
    after: Duration,
}

/// Until every sender is gone.
fn write_records(records: &Receiver<Entry>, format: LogFormat, mut sink: impl Write, drops: &RecordDrops) {
    let mut lines = String::new();
    let mut reported = 0;
    let mut failing = false;
    while let Ok(first) = records.recv() {
        let mut next = Ok(first);
        while let Ok(entry) = next {
            match &entry {
                Entry::Opened(opened) => write_opened(&mut lines, format, opened),
                Entry::Ended(report) => write_record(&mut lines, format, report),
            }
            // A page or two at a time, so that the buffer stays small however long the queue is.
            if lines.len() >= 8192 {
                write_lines(&mut sink, &mut lines, &mut failing);
            }
            next = records.try_recv();
            if next == Err(TryRecvError::Empty) {
                write_lines(&mut sink, &mut lines, &mut failing);
                thread::sleep(GATHER);
                next = records.try_recv();
            }
        }
        write_lines(&mut sink, &mut lines, &mut failing);
        let dropped = drops.dropped();
        if dropped > reported {
            tracing::warn!(
                records = dropped - reported,
                "connection records dropped: the log is read too slowly"
            );
            reported = dropped;
        }
    }
}

fn write_lines(sink: &mut impl Write, lines: &mut String, failing: &mut bool) {
    let written = sink.write_all(lines.as_bytes()).and_then(|()| sink.flush());
    lines.clear();
    match written {
        Err(error) if !*failing => {
            tracing::error!(%error, "write connection records");
            *failing = true;
        }
        Err(_) => {}
        Ok(()) => *failing = false,
    }
}

/// The fields of a JSON record. The first is called as in the log lines between them.
#[derive(Serialize)]
struct Record<'a> {
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
    dial_ms: Option<f64>,
    duration_ms: f64,
    end: &'static str,
    status: u16,
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
}

fn now() -> String {
    let mut time = String::new();
    // Writing to a String cannot fail, here and below.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    time
}

fn write_opened(lines: &mut String, format: LogFormat, opened: &Opened) {
    let Opened { service, protocol, client, via, dialled, origin, after } = opened;
    let dial = origin.map(|_| milliseconds(*after));
    let time = now();
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
            };
            serde_json::to_string(&record).map_or(Err(std::fmt::Error), |json| writeln!(lines, "{json}"))
        }
        LogFormat::Text => writeln!(
            lines,
            "{time} opened service={service} protocol={protocol} client={client} via={} dialled={dialled} origin={} \
             dial_ms={} status={OPENED}",
            or_dash(*via),
            or_dash(*origin),
            or_dash(dial.map(|dial| format!("{dial:.3}"))),
        ),
    };
}

fn write_record(lines: &mut String, format: LogFormat, report: &Report) {
    let time = now();
    let _ = match format {
        LogFormat::Json => {
            let record = Record {
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
                dial_ms: report.dial.map(|dial| rounded(milliseconds(dial))),
                duration_ms: rounded(milliseconds(report.duration)),
                end: report.end.word(),
                status: report.end.status(),
            };
            serde_json::to_string(&record).map_or(Err(std::fmt::Error), |json| writeln!(lines, "{json}"))
        }
        LogFormat::Text => writeln!(
            lines,
            "{time} connection service={} protocol={} client={} via={} dialled={} origin={} bytes_from_client={} \
             bytes_to_client={} dial_ms={} duration_ms={:.3} end={} status={}",
            report.service,
            report.protocol,
            report.client,
            or_dash(report.via),
            report.dialled,
            or_dash(report.origin),
            report.bytes_from_client,
            report.bytes_to_client,
            or_dash(report.dial.map(|dial| format!("{:.3}", milliseconds(dial)))),
            milliseconds(report.duration),
            report.end,
            report.end.status(),
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
    use std::sync::Mutex;

    use super::*;
    use crate::proxy::{End, Side};

    pub(in crate::observe) fn report() -> Report {
        Report {
            service: ServiceName::default(),
            protocol: Protocol::Tcp,
            client: "127.0.0.1:51234".parse().unwrap(),
            via: None,
            dialled: "[2001:db8::1]:9999".parse().unwrap(),
            origin: None,
            dial: None,
            bytes_from_client: 7,
            bytes_to_client: 100,
            duration: Duration::from_micros(1234),
            end: End::Reset(Side::Downstream),
        }
    }

    /// A sink that can be read back, and that blocks while its owner holds it.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat) -> String {
        let sink = Sink::default();
        let log = ConnectionLog::start(format, sink.clone()).unwrap();
        log.sender().send(&report());
        log.finish();
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_records_are_pairs_on_one_line() {
        let line = logged(LogFormat::Text);
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{time}");
        assert_eq!(
            rest,
            "connection service=default protocol=tcp client=127.0.0.1:51234 via=- dialled=[2001:db8::1]:9999 \
             origin=- bytes_from_client=7 bytes_to_client=100 dial_ms=- duration_ms=1.234 end=downstream-reset \
             status=499\n"
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
            after: Duration::from_micros(731),
        };
        let mut text = String::new();
        write_opened(&mut text, LogFormat::Text, &opened);
        assert_eq!(
            text.split_once(' ').unwrap().1,
            "opened service=default protocol=tcp client=127.0.0.1:51234 via=- dialled=[2001:db8::1]:9999 \
             origin=192.0.2.1:80 dial_ms=0.731 status=0\n"
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
        let line = logged(LogFormat::Json);
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

    #[test]
    fn a_reader_that_stops_reading_costs_records_and_no_time() {
        let sink = Sink::default();
        let held = sink.0.lock().unwrap();
        let log = ConnectionLog::start(LogFormat::Text, sink.clone()).unwrap();
        let sender = log.sender();
        for _ in 0..2 * QUEUE + 100 {
            sender.send(&report());
        }
        assert!(log.drops().dropped() >= 100, "{} dropped", log.drops().dropped());
        drop(held);
        let kept = 2 * QUEUE as u64 + 100 - log.drops().dropped();
        drop(sender);
        log.finish();
        let written = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(written.lines().count() as u64, kept);
    }
}

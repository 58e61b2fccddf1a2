//! The way of everything that is written to standard output and standard error: a bounded queue to one thread. Who hands
//! something over never waits for who reads it. What lines say is not decided here.

mod losses;
mod stream;
mod writer;

pub use losses::{LossKind, Losses};

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use super::journal::{Priority, is_journal};
use super::record::{Opened, RecordEntry};
use crate::model::LogFormat;
use spectrum_proxy::{Established, Report};
use stream::OutputStream;
use writer::Writer;

/// The number of lines and records that may wait for the writer, which takes them whether or not its streams do.
const QUEUE: usize = 4096;

/// The bytes of lines that may wait there. Records are all of one size.
const QUEUED_BYTES: usize = 1 << 20;

/// The time to wait before a full queue is tried again, where it must be.
const AGAIN: Duration = Duration::from_millis(5);

/// Hands lines and records to the one thread that writes them. Clones hand to the same one.
#[derive(Clone, Debug)]
pub struct Output {
    queue: SyncSender<Waiting>,
    /// Of lines that wait.
    queued_bytes: Arc<AtomicUsize>,
    losses: Losses,
    /// Whether standard error leads to systemd's journal.
    is_journal: bool,
}

/// A message that waits for the writer.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all that waits are records, and an allocation for each would be the worker's"
)]
enum Waiting {
    /// Tell when nothing is left that can be written now.
    Finish(SyncSender<()>),
    Line(LossKind, Box<[u8]>),
    Record(RecordEntry),
}

impl Output {
    /// Starts the thread that writes records as `format` says. It lives as long as the process.
    ///
    /// # Errors
    /// When the system has no thread to spare.
    pub fn start(
        format: LogFormat,
        stdout: impl AsFd + Send + 'static,
        stderr: impl AsFd + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, waiting) = mpsc::sync_channel(QUEUE);
        let is_journal = is_journal(&stderr);
        let output = Self { queue, queued_bytes: Arc::default(), losses: Losses::default(), is_journal };
        let (queued_bytes, losses) = (Arc::clone(&output.queued_bytes), output.losses.clone());
        let (stdout, stderr) = (
            OutputStream::new(Box::new(stdout), losses.clone()),
            OutputStream::new(Box::new(stderr), losses.clone()),
        );
        let writer = Writer::new(waiting, queued_bytes, losses, format, stdout, stderr);
        thread::Builder::new().name("log".into()).stack_size(128 * 1024).spawn(move || writer.run())?;
        Ok(output)
    }

    /// Has `line`, which ends with a newline, written to where `kind` belongs, or counts it as lost.
    pub fn write(&self, kind: LossKind, line: &[u8]) {
        let length = line.len();
        let before = self.queued_bytes.fetch_add(length, Ordering::Relaxed);
        let fits = before == 0 || before.saturating_add(length) <= QUEUED_BYTES;
        if !fits || self.queue.try_send(Waiting::Line(kind, line.into())).is_err() {
            self.queued_bytes.fetch_sub(length, Ordering::Relaxed);
            self.losses.add(kind, 1);
        }
    }

    /// Has log lines written, or counts them as lost; the journal is told how grave they are.
    pub fn tell(&self, priority: Priority, lines: &str) {
        if self.is_journal {
            self.write(LossKind::Line, priority.mark(lines).as_bytes());
        } else {
            self.write(LossKind::Line, lines.as_bytes());
        }
    }

    /// Has a record of `report` written, or counts it as lost.
    pub fn record(&self, report: &Report) {
        self.enter(RecordEntry::Ended(report.clone()));
    }

    /// The same for a connection that has only begun.
    pub fn record_opened(&self, established: &Established<'_>) {
        self.enter(RecordEntry::Opened(Opened::of(established)));
    }

    fn enter(&self, entry: RecordEntry) {
        if self.queue.try_send(Waiting::Record(entry)).is_err() {
            self.losses.add(LossKind::Record, 1);
        }
    }

    /// The counters of what could not be written, also for those who ask later.
    #[must_use]
    pub fn losses(&self) -> Losses {
        self.losses.clone()
    }

    /// Waits until what was handed over is written as far as that can be, for so long at most: whether it was. Whoever
    /// reads it may have stopped reading.
    #[must_use]
    pub fn finish(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let (done, is_done) = mpsc::sync_channel(1);
        let mut waiting = Waiting::Finish(done);
        loop {
            waiting = match self.queue.try_send(waiting) {
                Ok(()) => break,
                Err(TrySendError::Full(waiting)) if Instant::now() < deadline => waiting,
                Err(_) => return false,
            };
            thread::sleep(AGAIN);
        }
        is_done.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Lines<'a>;

    fn make_writer(&'a self) -> Lines<'a> {
        Lines { output: self, priority: Priority::Info }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Lines<'a> {
        Lines { output: self, priority: Priority::from(*event.level()) }
    }
}

/// Takes log lines, whole ones with each call. Never fails and never waits.
#[derive(Debug)]
pub struct Lines<'a> {
    output: &'a Output,
    priority: Priority,
}

impl Write for Lines<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.output.tell(self.priority, &String::from_utf8_lossy(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;

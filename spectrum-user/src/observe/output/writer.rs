//! The thread that writes: takes what waits, and gives the streams what they take. Nobody waits for it, so it is the one
//! that may be held up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};

use super::Waiting;
use super::losses::{LossKind, Losses};
use super::stream::OutputStream;
use crate::model::LogFormat;
use crate::observe::record::write_entry;

/// The time for which the writer lets records gather. While it sleeps, handing one over wakes nobody: a worker pays for a
/// queue operation and not for a system call.
const GATHER: Duration = Duration::from_millis(10);

/// The time that it waits for a stream without looking at what is handed over meanwhile.
const TURN: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// So much is formatted before it is written.
const PORTION: usize = 8192;

/// The shortest time between two tellings of losses.
const TELL: Duration = Duration::from_secs(1);

/// See above.
pub(super) struct Writer {
    waiting: Receiver<Waiting>,
    queued_bytes: Arc<AtomicUsize>,
    losses: Losses,
    format: LogFormat,
    stdout: OutputStream,
    stderr: OutputStream,
    /// Those who wait until all is written.
    finishing: Vec<SyncSender<()>>,
    /// The losses when they were last told, in the order of [`LossKind::ALL`], and when that was.
    told: [u64; 3],
    told_at: Option<Instant>,
}

/// The outcome of waiting.
#[expect(clippy::large_enum_variant, reason = "it is moved once and never kept")]
enum Came {
    Entry(Waiting),
    Nobody,
    Nothing,
}

impl Writer {
    pub(super) fn new(
        waiting: Receiver<Waiting>,
        queued_bytes: Arc<AtomicUsize>,
        losses: Losses,
        format: LogFormat,
        stdout: OutputStream,
        stderr: OutputStream,
    ) -> Self {
        let (finishing, told) = (Vec::new(), [0; 3]);
        Self { waiting, queued_bytes, losses, format, stdout, stderr, finishing, told, told_at: None }
    }

    /// Until nobody is left who could hand anything over.
    pub(super) fn run(mut self) {
        let mut text = String::new();
        loop {
            let mut came = self.wait();
            let mut gathers = false;
            while let Came::Entry(entry) = came {
                gathers |= matches!(entry, Waiting::Record(_));
                self.take(entry, &mut text);
                // A page or two at a time, so that the buffer stays small however long the queue is.
                if self.stderr.waiting_bytes() >= PORTION {
                    self.stderr.write_out();
                }
                came = match self.waiting.try_recv() {
                    Ok(entry) => Came::Entry(entry),
                    Err(TryRecvError::Disconnected) => Came::Nobody,
                    Err(TryRecvError::Empty) => Came::Nothing,
                };
            }
            self.stdout.write_out();
            self.stderr.write_out();
            self.tell_losses();
            let is_done = [&self.stdout, &self.stderr]
                .into_iter()
                .all(|stream| stream.is_empty() || stream.is_failing());
            if is_done {
                for done in self.finishing.drain(..) {
                    // Who waited may have lost patience.
                    let _ = done.try_send(());
                }
            }
            if matches!(came, Came::Nobody) {
                return;
            }
            if gathers {
                thread::sleep(GATHER);
            }
        }
    }

    /// Until there is something to do.
    fn wait(&mut self) -> Came {
        let mut stalled: Vec<_> = [&self.stdout, &self.stderr]
            .into_iter()
            .filter(|stream| stream.is_stalled())
            .map(OutputStream::room)
            .collect();
        if !stalled.is_empty() {
            if poll(&mut stalled, Some(&TURN)).is_err() {
                thread::sleep(GATHER);
            }
            return match self.waiting.try_recv() {
                Ok(entry) => Came::Entry(entry),
                Err(TryRecvError::Disconnected) => Came::Nobody,
                Err(TryRecvError::Empty) => Came::Nothing,
            };
        }
        let tell_at = self.has_losses().then(|| self.told_at.map_or_else(Instant::now, |at| at + TELL));
        let due = [self.stdout.due(), self.stderr.due(), tell_at.filter(|_| !self.stderr.is_failing())];
        let entry = match due.into_iter().flatten().min() {
            Some(due) => self.waiting.recv_timeout(due.saturating_duration_since(Instant::now())),
            None => self.waiting.recv().map_err(|_gone| RecvTimeoutError::Disconnected),
        };
        match entry {
            Ok(entry) => Came::Entry(entry),
            Err(RecvTimeoutError::Disconnected) => Came::Nobody,
            Err(RecvTimeoutError::Timeout) => Came::Nothing,
        }
    }

    fn take(&mut self, entry: Waiting, text: &mut String) {
        match entry {
            Waiting::Finish(done) => {
                self.stdout.hurry();
                self.stderr.hurry();
                self.finishing.push(done);
            }
            Waiting::Line(kind, line) => {
                self.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
                match kind {
                    LossKind::Answer => self.stdout.push(kind, &line),
                    LossKind::Line | LossKind::Record => self.stderr.push(kind, &line),
                }
            }
            Waiting::Record(entry) => {
                text.clear();
                write_entry(text, self.format, &entry);
                self.stderr.push(LossKind::Record, text.as_bytes());
            }
        }
    }

    fn has_losses(&self) -> bool {
        self.told != LossKind::ALL.map(|kind| self.losses.of(kind))
    }

    /// Once all that waited is written, says what was lost before: through the queue, as any other thread would.
    fn tell_losses(&mut self) {
        let is_told = self.told_at.is_some_and(|at| at.elapsed() < TELL);
        if is_told || !self.stderr.is_empty() || self.stderr.is_failing() || !self.has_losses() {
            return;
        }
        let now = LossKind::ALL.map(|kind| self.losses.of(kind));
        let before = std::mem::replace(&mut self.told, now);
        self.told_at = Some(Instant::now());
        let [lines, answers, records] = [0, 1, 2].map(|kind| {
            let count = |counts: &[u64; 3]| counts.get(kind).copied().unwrap_or_default();
            count(&now) - count(&before)
        });
        let because = self.stderr.obstacle().or(self.stdout.obstacle()).unwrap_or("too much came at once");
        tracing::warn!(records, lines, answers, because, "what the log did not take was lost");
    }
}

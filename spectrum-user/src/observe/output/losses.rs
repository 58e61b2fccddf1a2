//! What was to be written and is not. Counts; decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A kind of what is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LossKind {
    /// A log line, to standard error.
    Line,
    /// An answer to who started the program, on standard output.
    Answer,
    /// A record of a connection, to standard error.
    Record,
}

impl LossKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Line, Self::Answer, Self::Record];

    /// Its name in metrics.
    #[must_use]
    pub fn stream(self) -> &'static str {
        match self {
            Self::Line => "log",
            Self::Answer => "stdout",
            Self::Record => "records",
        }
    }
}

/// The number of lines of each kind that were lost, because nobody read them or there was no room for them. Clones are
/// about the same ones.
#[derive(Clone, Debug, Default)]
pub struct Losses(Arc<[AtomicU64; 3]>);

impl Losses {
    /// The number of lost lines of `kind`.
    #[must_use]
    pub fn of(&self, kind: LossKind) -> u64 {
        self.cell(kind).load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, kind: LossKind, number: u64) {
        self.cell(kind).fetch_add(number, Ordering::Relaxed);
    }

    fn cell(&self, kind: LossKind) -> &AtomicU64 {
        let [lines, answers, records] = &*self.0;
        match kind {
            LossKind::Line => lines,
            LossKind::Answer => answers,
            LossKind::Record => records,
        }
    }
}

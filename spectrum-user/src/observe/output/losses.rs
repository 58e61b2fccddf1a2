//! What was to be written and is not. Counts; decides nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::model::ServiceName;
use crate::observe::book::Book;

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

/// The name of what was lost in the book, without its kind.
const LOST: &str = "lost";

/// The number of lines of each kind that this process has lost, because nobody read them or there was no room for them. Clones
/// are about the same ones.
#[derive(Clone, Debug, Default)]
pub struct Losses(Arc<[Loss; 3]>);

#[derive(Debug, Default)]
struct Loss {
    /// Those of this process.
    own: AtomicU64,
    entry: OnceLock<Entry>,
}

/// The place in the book where losses of a kind are counted.
#[derive(Debug)]
struct Entry {
    cell: &'static AtomicU64,
    /// The number there before this process.
    before: u64,
}

impl Losses {
    /// The number of lines of `kind` that this process has lost.
    #[must_use]
    pub fn of(&self, kind: LossKind) -> u64 {
        self.loss(kind).own.load(Ordering::Relaxed)
    }

    /// The numbers of all processes that count in `book`, in the order of [`LossKind::ALL`].
    #[must_use]
    pub fn sums(book: &Book) -> [u64; 3] {
        let sums = book.singles(LOST);
        LossKind::ALL.map(|kind| sums.get(kind.stream()).copied().unwrap_or(0))
    }

    /// Has them counted in `book`, those of before as well. Once.
    pub fn enter(&self, book: &Book) {
        for kind in LossKind::ALL {
            let Ok(name) = format!("{LOST}.{}", kind.stream()).parse::<ServiceName>() else { continue };
            let Some(cell) = book.claim_single(name) else { continue };
            let loss = self.loss(kind);
            let _ = loss.entry.set(Entry { cell, before: cell.load(Ordering::Relaxed) });
            loss.write(loss.own.load(Ordering::Acquire));
        }
    }

    pub(super) fn add(&self, kind: LossKind, number: u64) {
        let loss = self.loss(kind);
        let own = loss.own.fetch_add(number, Ordering::AcqRel).wrapping_add(number);
        loss.write(own);
    }

    fn loss(&self, kind: LossKind) -> &Loss {
        let [lines, answers, records] = &*self.0;
        match kind {
            LossKind::Line => lines,
            LossKind::Answer => answers,
            LossKind::Record => records,
        }
    }
}

impl Loss {
    /// Writes to the book that there were `own`. Several threads do so, and the one that is late must not write less.
    fn write(&self, own: u64) {
        if let Some(Entry { cell, before }) = self.entry.get() {
            cell.fetch_max(before.wrapping_add(own), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_of_before_and_after_the_entry_are_summed_with_those_of_other_processes() {
        let (book, one, other) = (Book::create().unwrap(), Losses::default(), Losses::default());
        one.add(LossKind::Line, 2);
        one.enter(&book);
        other.enter(&book);
        one.add(LossKind::Line, 3);
        other.add(LossKind::Line, 10);
        other.add(LossKind::Record, 1);
        assert_eq!((one.of(LossKind::Line), other.of(LossKind::Line)), (5, 10));
        assert_eq!(Losses::sums(&book), [15, 0, 1]);
    }
}

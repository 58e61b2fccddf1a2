//! Records that are left out on purpose. Counts; decides nothing.

use std::cell::OnceCell;

use super::book::{BlockKey, BlockKind, Book};
use crate::model::ServiceName;
use spectrum_proxy::Counter;

/// A reason for which a record is left out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Omission {
    /// The client ended the connection before a byte came.
    Empty,
    /// It is none of the share that is wanted.
    Sampled,
    /// Very many were shed.
    Shed,
    /// Such connections are not to be recorded.
    Unwanted,
}

impl Omission {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Empty, Self::Sampled, Self::Shed, Self::Unwanted];

    /// Its name in metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Sampled => "sampled",
            Self::Shed => "shed",
            Self::Unwanted => "unwanted",
        }
    }
}

/// The name of what was left out in the book, without its reason.
const OMITTED: &str = "omitted";

/// The numbers of records that are left out, by reason.
#[derive(Clone, Debug)]
pub struct Omissions(Book);

impl Omissions {
    /// Those in `book`.
    #[must_use]
    pub fn of(book: &Book) -> Self {
        Self(book.clone())
    }

    /// The numbers of all workers, in the order of [`Omission::ALL`].
    #[must_use]
    pub fn sums(&self) -> [u64; 4] {
        let sums = self.0.singles(OMITTED);
        Omission::ALL.map(|omission| sums.get(omission.word()).copied().unwrap_or(0))
    }

    /// One more worker's.
    pub(super) fn worker(&self) -> WorkerOmissions {
        WorkerOmissions { book: self.0.clone(), own: Default::default() }
    }
}

/// One worker's omissions.
#[derive(Debug)]
pub(super) struct WorkerOmissions {
    book: Book,
    /// In the order of [`Omission::ALL`]. `None` where there was no room in the book.
    own: [OnceCell<Option<&'static Counter>>; Omission::ALL.len()],
}

impl WorkerOmissions {
    /// Counts one.
    pub(super) fn add(&self, omission: Omission) {
        let claim = || {
            let name: ServiceName = format!("{OMITTED}.{}", omission.word()).parse().ok()?;
            self.book.claim(&BlockKey { kind: BlockKind::Single, name })?.first()
        };
        match self.own.get(omission as usize).and_then(|own| *own.get_or_init(claim)) {
            Some(counter) => counter.add(1),
            None => self.book.not_counted(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_count_each_for_itself_and_are_summed() {
        let omissions = Omissions::of(&Book::create().unwrap());
        let (one, other) = (omissions.worker(), omissions.worker());
        one.add(Omission::Shed);
        other.add(Omission::Shed);
        other.add(Omission::Empty);
        assert_eq!(omissions.sums(), [1, 0, 2, 0]);
    }
}

//! What is missing of what an instance has raised, and what was put back, as whoever repairs says and whoever asks is told.
//! Decides nothing about it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::{Resource, ResourceKind};
use crate::observe::Book;
use spectrum_steering::netlink::Author;

/// So many looks in a row that fail are told.
const UNSEEN: u32 = 2;

/// So many things are named in one text.
const NAMED: usize = 3;

/// The things that are missing now, and the repairs that were made, for whoever wants to know. Clones tell the same.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<RepairBook>>);

#[derive(Debug, Default)]
struct RepairBook {
    missing: BTreeMap<ResourceKind, Absence>,
    /// The book in which repairs and failures of looks are counted, by kind.
    counts: Option<Book>,
    /// The failures of looks in a row, and the last one's reason.
    unseen: BTreeMap<ResourceKind, (u32, String)>,
}

/// The name of repairs in the book.
const REPAIRS: &str = "repairs";

/// That of looks that failed.
const FAILED_LOOKS: &str = "failed-looks";

/// Things of one kind that are missing.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Absence {
    missing: Vec<Resource>,
    author: Option<Author>,
    why: Unmended,
}

/// The reason that they are not put back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Unmended {
    /// It was tried.
    Failed(String),
    /// Nothing is.
    Never,
    /// They were, too often.
    Resting,
}

/// The newness of what is said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum News {
    /// It has not.
    New,
    /// It has.
    Known,
}

impl Faults {
    /// Has repairs counted in `book` from now on. Before, none are.
    pub fn enter(&self, book: &Book) {
        self.lock().counts = Some(book.clone());
    }

    /// The things that are missing, a line for each kind.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lock().missing.values().map(Absence::line).collect()
    }

    /// Those that clients need, a line for each kind.
    #[must_use]
    pub fn hindrances(&self) -> Vec<String> {
        let told = self.lock();
        told.missing.iter().filter(|(kind, _)| !kind.is_aside()).map(|(_, fault)| fault.line()).collect()
    }

    /// The things that could not be looked at several times in a row, so that nobody knows whether they are missing, a line for
    /// each kind.
    #[must_use]
    pub fn unseen(&self) -> Vec<String> {
        let told = self.lock();
        let often = told.unseen.iter().filter(|(_, (times, _))| *times >= UNSEEN);
        let line = |(kind, (_, error)): (&ResourceKind, &(u32, String))| {
            format!("could not look whether anything is missing of {}: {error}", kind.as_str())
        };
        often.map(line).collect()
    }

    /// True while something of `kind` is missing.
    #[must_use]
    pub fn has(&self, kind: ResourceKind) -> bool {
        self.lock().missing.contains_key(&kind)
    }

    /// The number of repairs of each kind.
    #[must_use]
    pub fn repaired(&self) -> Vec<(&'static str, u64)> {
        self.lock().counted(REPAIRS)
    }

    /// The number of looks of each kind that failed.
    #[must_use]
    pub fn failed_looks(&self) -> Vec<(&'static str, u64)> {
        self.lock().counted(FAILED_LOOKS)
    }

    /// Things of `kind` have been put back.
    pub(crate) fn mended(&self, kind: ResourceKind) {
        let mut told = self.lock();
        told.missing.remove(&kind);
        told.count(REPAIRS, kind);
    }

    /// Things of `kind` could not be looked at. Of several failures in a row the second is news: one may be a busy machine's.
    pub(crate) fn not_looked(&self, kind: ResourceKind, error: String) -> News {
        let mut told = self.lock();
        told.count(FAILED_LOOKS, kind);
        let (times, last) = told.unseen.entry(kind).or_default();
        (*times, *last) = (times.saturating_add(1), error);
        if *times == UNSEEN { News::New } else { News::Known }
    }

    /// Things of `kind` were looked at; whether it was told that they could not be.
    pub(crate) fn looked(&self, kind: ResourceKind) -> News {
        match self.lock().unseen.remove(&kind) {
            Some((UNSEEN.., _)) => News::New,
            _ => News::Known,
        }
    }

    /// Nothing of `kind` is missing; whether something was.
    pub(crate) fn whole(&self, kind: ResourceKind) -> News {
        match self.lock().missing.remove(&kind) {
            Some(_) => News::New,
            None => News::Known,
        }
    }

    /// `missing` is not put back; whether that, or the reason, is news.
    pub(crate) fn missing(
        &self,
        kind: ResourceKind,
        missing: &[Resource],
        author: Option<&Author>,
        why: Unmended,
    ) -> News {
        let mut told = self.lock();
        let before = told.missing.remove(&kind);
        // Later looks find it missing, and no longer know by whom.
        let author = author.cloned().or_else(|| before.as_ref()?.author.clone());
        let news = if before.is_some_and(|before| before.why == why) { News::Known } else { News::New };
        told.missing.insert(kind, Absence { missing: missing.to_vec(), author, why });
        news
    }

    fn lock(&self) -> MutexGuard<'_, RepairBook> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RepairBook {
    fn count(&self, of: &str, kind: ResourceKind) {
        if let Some(book) = &self.counts {
            book.count(of, kind.as_str());
        }
    }

    fn counted(&self, of: &str) -> Vec<(&'static str, u64)> {
        let sums = self.counts.as_ref().map(|book| book.singles(of)).unwrap_or_default();
        let count = |kind: ResourceKind| sums.get(kind.as_str()).copied().unwrap_or(0);
        let kinds = ResourceKind::REMOVABLE.into_iter().chain([ResourceKind::Workers]);
        kinds.map(|kind| (kind.as_str(), count(kind))).collect()
    }
}

impl Absence {
    fn line(&self) -> String {
        let Self { missing, author, why } = self;
        let by = author.as_ref().map_or_else(String::new, |author| format!(", removed by {author}"));
        let why = match why {
            Unmended::Failed(error) => format!("could not be put back: {error}"),
            Unmended::Never => "not put back, since repairing is switched off; cure: spectrum-user reload".to_owned(),
            Unmended::Resting => {
                "put back too often within a minute and left alone for another; find who removes it, or spectrum-user \
                 reload"
                    .to_owned()
            }
        };
        format!("{} missing{by} ({why})", named(missing))
    }
}

/// The first of `resources`, and how many more there are.
#[must_use]
pub fn named(resources: &[Resource]) -> String {
    let mut text = String::new();
    for resource in resources.iter().take(NAMED) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{resource}");
    }
    match resources.len().saturating_sub(NAMED) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_things_are_counted_and_few_named() {
        let routes: Vec<Resource> =
            (0..5).map(|n| Resource::Route(format!("192.0.{n}.0/24").parse().unwrap())).collect();
        let text = "local route 192.0.0.0/24, local route 192.0.1.0/24, local route 192.0.2.0/24";
        assert_eq!(named(&routes[..3]), text);
        assert_eq!(named(&routes), format!("{text} and 2 more"));
    }
}

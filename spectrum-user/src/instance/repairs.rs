//! What is missing of what an instance has raised, what was put back, and whether that is still worth it: who removes the same
//! again and again is left to it for a while. Looks at nothing, and puts nothing back.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Resource, ResourceKind};
use spectrum_steering::netlink::Author;

/// The time in which repairs are counted.
const MINUTE: Duration = Duration::from_mins(1);

/// So long somebody who was quicker is left alone.
const REST: Duration = Duration::from_mins(1);

/// So many looks in a row that fail are told.
const UNSEEN: u32 = 2;

/// So many things are named in one text.
const NAMED: usize = 3;

/// Decides about repairs, and remembers them. What it tells is shared with [`Faults`].
#[derive(Debug, Default)]
pub struct Repairs {
    /// The moments at which things of a kind were put back, in the last minute.
    history: BTreeMap<ResourceKind, VecDeque<Instant>>,
    /// Kinds that are left alone, and until when.
    resting: BTreeMap<ResourceKind, Instant>,
    faults: Faults,
}

/// The thing to do about what is missing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Judgement {
    /// It is to be put back.
    PutBack,
    /// It is to be left as it is; whether that is news.
    Leave(News),
}

/// The newness of what is said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum News {
    /// It has not.
    New,
    /// It has.
    Known,
}

/// The things that are missing now, and the repairs that were made, for whoever wants to know. Clones tell the same.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<RepairBook>>);

#[derive(Debug, Default)]
struct RepairBook {
    missing: BTreeMap<ResourceKind, Absence>,
    repaired: BTreeMap<ResourceKind, u64>,
    /// The failures of looks in a row, and the last one's reason.
    unseen: BTreeMap<ResourceKind, (u32, String)>,
    failed_looks: BTreeMap<ResourceKind, u64>,
}

/// Things of one kind that are missing.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Absence {
    missing: Vec<Resource>,
    author: Option<Author>,
    why: Why,
}

/// The reason that they are not put back.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Why {
    /// It was tried.
    Failed(String),
    /// Nothing is.
    Never,
    /// They were, too often.
    Resting,
}

impl Repairs {
    /// The thing to do about `missing`, of one kind, where things of a kind are put back at most `most` times a minute.
    pub fn judge(
        &mut self,
        kind: ResourceKind,
        missing: &[Resource],
        author: Option<&Author>,
        most: u32,
        now: Instant,
    ) -> Judgement {
        if most == 0 {
            return Judgement::Leave(self.faults.missing(kind, missing, author, Why::Never));
        }
        let history = self.history.entry(kind).or_default();
        while history.front().is_some_and(|then| now.duration_since(*then) >= MINUTE) {
            history.pop_front();
        }
        if self.resting.get(&kind).is_some_and(|until| *until <= now) {
            self.resting.remove(&kind);
            history.clear();
        }
        if history.len() >= usize::try_from(most).unwrap_or(usize::MAX) {
            self.resting.entry(kind).or_insert(now + REST);
        }
        if self.resting.contains_key(&kind) {
            return Judgement::Leave(self.faults.missing(kind, missing, author, Why::Resting));
        }
        Judgement::PutBack
    }

    /// Things of `kind` have been put back.
    pub fn done(&mut self, kind: ResourceKind, now: Instant) {
        self.history.entry(kind).or_default().push_back(now);
        let mut told = self.faults.lock();
        told.missing.remove(&kind);
        *told.repaired.entry(kind).or_default() += 1;
    }

    /// `missing` was not put back; whether that is news.
    pub fn failed(
        &mut self,
        kind: ResourceKind,
        missing: &[Resource],
        author: Option<&Author>,
        error: String,
    ) -> News {
        self.faults.missing(kind, missing, author, Why::Failed(error))
    }

    /// Things of `kind` could not be looked at. Of several failures in a row the second is news: one may be a busy machine's.
    pub fn unseen(&mut self, kind: ResourceKind, error: String) -> News {
        let mut told = self.faults.lock();
        *told.failed_looks.entry(kind).or_default() += 1;
        let (times, last) = told.unseen.entry(kind).or_default();
        (*times, *last) = (times.saturating_add(1), error);
        if *times == UNSEEN { News::New } else { News::Known }
    }

    /// Things of `kind` were looked at; whether it was told that they could not be.
    pub fn seen(&mut self, kind: ResourceKind) -> News {
        match self.faults.lock().unseen.remove(&kind) {
            Some((UNSEEN.., _)) => News::New,
            _ => News::Known,
        }
    }

    /// Nothing of `kind` is missing; whether something was.
    pub fn whole(&mut self, kind: ResourceKind) -> News {
        match self.faults.lock().missing.remove(&kind) {
            Some(_) => News::New,
            None => News::Known,
        }
    }

    /// The part of it that is told.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }
}

impl Faults {
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
        counted(&self.lock().repaired)
    }

    /// The number of looks of each kind that failed.
    #[must_use]
    pub fn failed_looks(&self) -> Vec<(&'static str, u64)> {
        counted(&self.lock().failed_looks)
    }

    fn missing(&self, kind: ResourceKind, missing: &[Resource], author: Option<&Author>, why: Why) -> News {
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

fn counted(counts: &BTreeMap<ResourceKind, u64>) -> Vec<(&'static str, u64)> {
    let count = |kind: ResourceKind| counts.get(&kind).copied().unwrap_or_default();
    ResourceKind::REMOVABLE.into_iter().map(|kind| (kind.as_str(), count(kind))).collect()
}

impl Absence {
    fn line(&self) -> String {
        let Self { missing, author, why } = self;
        let by = author.as_ref().map_or_else(String::new, |author| format!(", removed by {author}"));
        let why = match why {
            Why::Failed(error) => format!("could not be put back: {error}"),
            Why::Never => "not put back, since repairing is switched off; cure: spectrum-user reload".to_owned(),
            Why::Resting => {
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

    const KIND: ResourceKind = ResourceKind::Rules;

    fn judged(repairs: &mut Repairs, most: u32, now: Instant) -> Judgement {
        repairs.judge(KIND, &[Resource::Rules(0)], None, most, now)
    }

    #[test]
    fn who_removes_the_same_too_often_is_left_alone_for_a_minute() {
        let mut repairs = Repairs::default();
        let begun = Instant::now();
        for second in 0..3 {
            let now = begun + Duration::from_secs(second);
            assert_eq!(judged(&mut repairs, 3, now), Judgement::PutBack);
            repairs.done(KIND, now);
        }
        let fourth = begun + Duration::from_secs(3);
        assert_eq!(judged(&mut repairs, 3, fourth), Judgement::Leave(News::New));
        assert_eq!(judged(&mut repairs, 3, fourth + Duration::from_secs(59)), Judgement::Leave(News::Known));
        // Another kind is another matter.
        let route = [Resource::Route("192.0.2.0/24".parse().unwrap())];
        assert_eq!(repairs.judge(ResourceKind::Route, &route, None, 3, fourth), Judgement::PutBack);
        let faults = repairs.faults();
        assert!(faults.lines()[0].starts_with("the firewall rules that steer missing (put back too often"));
        let later = fourth + Duration::from_mins(1);
        assert_eq!(judged(&mut repairs, 3, later), Judgement::PutBack);
        repairs.done(KIND, later);
        assert_eq!(faults.lines(), Vec::<String>::new());
        assert_eq!(faults.repaired().into_iter().find(|(what, _)| *what == "rules"), Some(("rules", 4)));
    }

    #[test]
    fn repairs_now_and_then_are_never_too_many() {
        let mut repairs = Repairs::default();
        let begun = Instant::now();
        for turn in 0..100 {
            let now = begun + Duration::from_secs(turn * 21);
            assert_eq!(judged(&mut repairs, 3, now), Judgement::PutBack);
            repairs.done(KIND, now);
        }
    }

    #[test]
    fn where_nothing_is_repaired_what_is_missing_is_told_once_and_shown_for_as_long() {
        let mut repairs = Repairs::default();
        let author = Author::named(4711, "nft");
        let now = Instant::now();
        let judge =
            |repairs: &mut Repairs, author| repairs.judge(KIND, &[Resource::Rules(0)], author, 0, now);
        assert_eq!(judge(&mut repairs, Some(&author)), Judgement::Leave(News::New));
        assert_eq!(judge(&mut repairs, None), Judgement::Leave(News::Known));
        let lines = repairs.faults().lines();
        assert!(lines[0].contains("missing, removed by process 4711 (nft) (not put back"), "{lines:?}");
        assert_eq!(repairs.whole(KIND), News::New);
        assert_eq!(repairs.whole(KIND), News::Known);
        assert!(repairs.faults().lines().is_empty());
    }

    #[test]
    fn clients_do_not_need_the_files_in_the_run_directory() {
        let mut repairs = Repairs::default();
        let now = Instant::now();
        repairs.judge(ResourceKind::Claim, &[Resource::Claim], None, 0, now);
        assert_eq!((repairs.faults().lines().len(), repairs.faults().hindrances().len()), (1, 0));
        judged(&mut repairs, 0, now);
        assert_eq!((repairs.faults().lines().len(), repairs.faults().hindrances().len()), (2, 1));
    }

    #[test]
    fn what_cannot_be_looked_at_is_told_from_the_second_time_on() {
        let mut repairs = Repairs::default();
        let faults = repairs.faults();
        assert_eq!(repairs.unseen(KIND, "it hangs".into()), News::Known);
        assert_eq!((repairs.seen(KIND), faults.unseen().len()), (News::Known, 0));
        let news: Vec<News> = (0..4).map(|_| repairs.unseen(KIND, "it hangs".into())).collect();
        assert_eq!(news, [News::Known, News::New, News::Known, News::Known]);
        assert_eq!(faults.unseen(), ["could not look whether anything is missing of rules: it hangs"]);
        // It may be there, and clients are served.
        assert_eq!(faults.hindrances().len(), 0);
        assert_eq!((repairs.seen(KIND), faults.unseen().len()), (News::New, 0));
        assert_eq!(faults.failed_looks().into_iter().find(|(what, _)| *what == "rules"), Some(("rules", 5)));
    }

    #[test]
    fn many_things_are_counted_and_few_named() {
        let routes: Vec<Resource> =
            (0..5).map(|n| Resource::Route(format!("192.0.{n}.0/24").parse().unwrap())).collect();
        let text = "local route 192.0.0.0/24, local route 192.0.1.0/24, local route 192.0.2.0/24";
        assert_eq!(named(&routes[..3]), text);
        assert_eq!(named(&routes), format!("{text} and 2 more"));
    }
}

//! Whether it is worth putting back what is missing of what an instance has raised: who removes the same again and again is left
//! to it for a while. Looks at nothing, and puts nothing back.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::model::{Resource, ResourceKind};
use crate::view::{Faults, News, Unmended};
use spectrum_steering::netlink::Author;

/// The time in which repairs are counted.
const MINUTE: Duration = Duration::from_mins(1);

/// So long somebody who was quicker is left alone.
const REST: Duration = Duration::from_mins(1);

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
            return Judgement::Leave(self.faults.missing(kind, missing, author, Unmended::Never));
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
            return Judgement::Leave(self.faults.missing(kind, missing, author, Unmended::Resting));
        }
        Judgement::PutBack
    }

    /// Things of `kind` have been put back.
    pub fn done(&mut self, kind: ResourceKind, now: Instant) {
        self.history.entry(kind).or_default().push_back(now);
        self.faults.mended(kind);
    }

    /// `missing` was not put back; whether that is news.
    pub fn failed(
        &mut self,
        kind: ResourceKind,
        missing: &[Resource],
        author: Option<&Author>,
        error: String,
    ) -> News {
        self.faults.missing(kind, missing, author, Unmended::Failed(error))
    }

    /// Things of `kind` could not be looked at. Of several failures in a row the second is news: one may be a busy machine's.
    pub fn unseen(&mut self, kind: ResourceKind, error: String) -> News {
        self.faults.not_looked(kind, error)
    }

    /// Things of `kind` were looked at; whether it was told that they could not be.
    pub fn seen(&mut self, kind: ResourceKind) -> News {
        self.faults.looked(kind)
    }

    /// Nothing of `kind` is missing; whether something was.
    pub fn whole(&mut self, kind: ResourceKind) -> News {
        self.faults.whole(kind)
    }

    /// The part of it that is told.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Book;

    const KIND: ResourceKind = ResourceKind::Rules;

    fn judged(repairs: &mut Repairs, most: u32, now: Instant) -> Judgement {
        repairs.judge(KIND, &[Resource::Rules(0)], None, most, now)
    }

    #[test]
    fn who_removes_the_same_too_often_is_left_alone_for_a_minute() {
        let mut repairs = Repairs::default();
        repairs.faults().enter(&Book::create().unwrap());
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
        faults.enter(&Book::create().unwrap());
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
}

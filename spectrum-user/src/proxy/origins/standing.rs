//! How one address of an origin fares with real connections: failures in a row, ejection, and how many are open. Shared by
//! all workers, and written only where something is not as it should be, or least-connections has them share a count.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::model::Ejection;
use crate::proxy::Counter;

/// How long an address that lost a race despite its head start begins no other (RFC 8305 leaves the time to us).
const SLOW: Duration = Duration::from_mins(1);

/// What became of a dial, should it be more than one success among others or one failure among others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Turn {
    /// It will not be dialled for a time.
    Ejected,
    /// It was ejected, or would have been soon, and is not any more.
    Returned,
}

/// One address of one origin of one service.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) address: IpAddr,
    /// Dials in a row that failed.
    failures: AtomicU32,
    /// Until when it is not dialled, by [`Moment`]; 0: it is.
    ejected_until: AtomicU64,
    /// Until when others are dialled before it.
    slow_until: AtomicU64,
    /// Open connections, where each dial has to know those of all workers.
    shared: AtomicU32,
    /// The same as each worker counts them for itself.
    tallies: Mutex<Vec<Weak<Counter>>>,
}

/// Milliseconds since the process first asked, so that a time fits an atomic number. Never 0.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Moment(u64);

impl Moment {
    pub(super) fn now() -> Self {
        static BEGIN: OnceLock<Instant> = OnceLock::new();
        Self::after(BEGIN.get_or_init(Instant::now).elapsed())
    }

    fn after(elapsed: Duration) -> Self {
        Self(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).saturating_add(1))
    }

    fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Standing {
    pub(super) fn new(address: IpAddr) -> Self {
        Self {
            address,
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            slow_until: AtomicU64::new(0),
            shared: AtomicU32::new(0),
            tallies: Mutex::default(),
        }
    }

    /// Asks the clock only where that matters.
    pub(super) fn is_ejected(&self) -> bool {
        self.ejected_at(Moment::now)
    }

    fn ejected_at(&self, now: impl FnOnce() -> Moment) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until != 0 && until > now().0
    }

    pub(super) fn is_slow(&self) -> bool {
        let until = self.slow_until.load(Ordering::Relaxed);
        until != 0 && until > Moment::now().0
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Open connections as far as [`Counting::Shared`] tallies have them: for who chooses.
    pub(super) fn shared(&self) -> u32 {
        self.shared.load(Ordering::Relaxed)
    }

    /// Open connections: for who asks once in a while.
    pub(super) fn open(&self) -> u64 {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.iter().filter_map(Weak::upgrade).map(|own| own.get()).sum()
    }

    /// It was dialled and answered.
    pub(super) fn succeeded(&self) -> Option<Turn> {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if self.ejected_until.load(Ordering::Relaxed) == 0 {
            return None;
        }
        (self.ejected_until.swap(0, Ordering::Relaxed) != 0).then_some(Turn::Returned)
    }

    /// It was dialled and did not answer. One failure after the time of an ejection is another ejection.
    pub(super) fn failed(&self, ejection: Option<Ejection>, now: Moment) -> Option<Turn> {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let Ejection { failures: allowed, time } = ejection?;
        // Connections that were being dialled when it was ejected tell nothing new.
        let until = self.ejected_until.load(Ordering::Relaxed);
        if failures < u32::from(allowed) || until > now.0 {
            return None;
        }
        let ejected = self.ejected_until.compare_exchange(
            until,
            now.plus(time).0,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        // Only one of several workers that come here at once has ejected it.
        ejected.is_ok().then_some(Turn::Ejected)
    }

    /// It was overtaken by an address that was dialled later.
    pub(super) fn overtaken(&self) {
        self.slow_until.store(Moment::now().plus(SLOW).0, Ordering::Relaxed);
    }
}

/// Who needs to know how many connections are open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Counting {
    /// Who asks for the status: each worker counts for itself, which costs next to nothing.
    Own,
    /// Each dial of every worker as well. The count that all of them write is on a cache line that goes back and forth.
    Shared,
}

/// One worker's count of the open connections of an address. No other worker writes it.
#[derive(Debug)]
pub(super) struct Tally {
    own: Arc<Counter>,
    shared: Option<Arc<Standing>>,
}

impl Tally {
    pub(super) fn of(standing: &Arc<Standing>, counting: Counting) -> Rc<Self> {
        let own = Arc::<Counter>::default();
        let mut tallies = standing.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.retain(|tally| tally.strong_count() > 0);
        tallies.push(Arc::downgrade(&own));
        Rc::new(Self { own, shared: (counting == Counting::Shared).then(|| Arc::clone(standing)) })
    }

    /// One more connection, until the guard is dropped.
    pub(super) fn open(self: &Rc<Self>) -> OpenGuard {
        self.own.add(1);
        if let Some(standing) = &self.shared {
            standing.shared.fetch_add(1, Ordering::Relaxed);
        }
        OpenGuard(Rc::clone(self))
    }
}

/// One open connection in the counts of its address.
#[derive(Debug)]
pub(in crate::proxy) struct OpenGuard(Rc<Tally>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.own.subtract(1);
        if let Some(standing) = &self.0.shared {
            standing.shared.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EJECTION: Option<Ejection> = Some(Ejection { failures: 3, time: Duration::from_secs(30) });

    fn at(seconds: u64) -> Moment {
        Moment::after(Duration::from_secs(seconds))
    }

    fn standing() -> Standing {
        Standing::new("192.0.2.1".parse().unwrap())
    }

    #[test]
    fn failures_in_a_row_eject_for_a_time() {
        let standing = standing();
        assert_eq!([0, 1].map(|second| standing.failed(EJECTION, at(second))), [None, None]);
        assert!(!standing.ejected_at(|| at(1)));
        assert_eq!(standing.failed(EJECTION, at(2)), Some(Turn::Ejected));
        assert_eq!(standing.failed(EJECTION, at(3)), None, "it is ejected already");
        assert!(standing.ejected_at(|| at(31)));
        assert!(!standing.ejected_at(|| at(32)), "the time is not lengthened by late failures");
        assert_eq!(standing.failed(EJECTION, at(33)), Some(Turn::Ejected), "one more failure is enough");
        assert_eq!(standing.succeeded(), Some(Turn::Returned));
        assert_eq!(standing.succeeded(), None);
        assert_eq!(standing.failed(EJECTION, at(64)), None, "it begins anew");
    }

    #[test]
    fn a_success_forgets_the_failures_before_it() {
        let standing = standing();
        for second in 0..9 {
            assert_eq!(standing.failed(EJECTION, at(second)), None);
            assert_eq!(standing.failed(EJECTION, at(second)), None);
            standing.succeeded();
        }
        assert_eq!(standing.failures(), 0);
    }

    #[test]
    fn without_ejection_nothing_is_ejected() {
        let standing = standing();
        assert!((0..99).all(|second| standing.failed(None, at(second)).is_none()));
        assert!(!standing.ejected_at(|| at(100)));
    }

    #[test]
    fn a_connection_counts_while_it_is_open() {
        let standing = Arc::new(standing());
        let tallies = [Counting::Own, Counting::Shared].map(|counting| Tally::of(&standing, counting));
        let guards = [(); 3].map(|()| tallies[0].open());
        let shared = tallies[1].open();
        assert_eq!((standing.open(), standing.shared()), (4, 1));
        drop(guards);
        assert_eq!((standing.open(), standing.shared()), (1, 1));
        // A worker whose roster has changed counts anew, and what it had open goes on.
        drop(tallies);
        let after = Tally::of(&standing, Counting::Shared);
        let more = after.open();
        assert_eq!((standing.open(), standing.shared()), (2, 2));
        drop((shared, more));
        assert_eq!((standing.open(), standing.shared()), (0, 0));
    }

    #[test]
    fn workers_count_for_themselves_and_are_summed() {
        let standing = Arc::new(standing());
        let (counted, done) = (std::sync::Barrier::new(3), std::sync::Barrier::new(3));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let tally = Tally::of(&standing, Counting::Own);
                    let guards: Vec<OpenGuard> = (0..1000).map(|_| tally.open()).collect();
                    counted.wait();
                    done.wait();
                    drop(guards);
                });
            }
            counted.wait();
            assert_eq!(standing.open(), 2000);
            done.wait();
        });
        assert_eq!(standing.open(), 0);
    }
}

//! The current roster of each service, shared by all workers. Connections look at a number; only when it has changed does their
//! worker take the lock to get the roster itself. Does not know how rosters come about.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::roster::{Place, Roster};
use super::tally::{Counting, OpenGuard, Tally};
use crate::model::{Balance, Origins, ServiceName};
use crate::report::DialFailure;

/// A service's origins as configured, and what they are now.
#[derive(Debug)]
pub(crate) struct CurrentRoster {
    pub(super) service: ServiceName,
    pub(super) origins: Origins,
    roster: Mutex<Arc<Roster>>,
    /// The number of rosters so far.
    version: AtomicU64,
}

impl CurrentRoster {
    pub(super) fn new(service: ServiceName, origins: Origins) -> Self {
        let roster = Arc::new(Roster::empty(DialFailure::Unresolved));
        Self { service, origins, roster: Mutex::new(roster), version: AtomicU64::new(0) }
    }

    pub(super) fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.roster.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn renew(&self, mut roster: Roster) {
        let mut place = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        roster.take_over_turns(&place);
        *place = Arc::new(roster);
        self.version.fetch_add(1, Ordering::Release);
    }
}

/// The rosters of all services, as long as anybody has them. Of one service there are several while connections of a former
/// configuration, or one that may not come about, have theirs.
#[derive(Debug, Default)]
pub(super) struct CurrentRosters {
    /// The latest of each service last, each with its number.
    services: HashMap<ServiceName, Vec<(u64, Weak<CurrentRoster>)>>,
    added: u64,
    /// The services that were left when those without a roster were let go last.
    swept: usize,
}

impl CurrentRosters {
    /// The roster of `service` that was added last.
    pub(super) fn latest(&self, service: &ServiceName) -> Option<Arc<CurrentRoster>> {
        self.of(service).next_back()
    }

    /// The rosters of `service`, the latest last.
    pub(super) fn of(&self, service: &ServiceName) -> impl DoubleEndedIterator<Item = Arc<CurrentRoster>> {
        self.services.get(service).into_iter().flatten().filter_map(|(_, current)| current.upgrade())
    }

    /// The rosters of all services, in the order in which they were added: where a circle is cut depends on that.
    pub(super) fn all(&self) -> Vec<Arc<CurrentRoster>> {
        let rosters = self.services.values().flatten();
        let mut alive: Vec<_> =
            rosters.filter_map(|(number, current)| Some((*number, current.upgrade()?))).collect();
        alive.sort_unstable_by_key(|(number, _)| *number);
        alive.into_iter().map(|(_, current)| current).collect()
    }

    /// Makes `current` the latest of its service.
    pub(super) fn add(&mut self, current: &Arc<CurrentRoster>) {
        // Rarely, so that the cost of one more does not grow with how many there are.
        if self.services.len() > self.swept * 2 {
            self.services.retain(|_, rosters| rosters.iter().any(|(_, current)| current.strong_count() > 0));
            self.swept = self.services.len();
        }
        let rosters = self.services.entry(current.service.clone()).or_default();
        rosters.retain(|(_, known)| {
            known.strong_count() > 0 && !std::ptr::eq(known.as_ptr(), Arc::as_ptr(current))
        });
        rosters.push((self.added, Arc::downgrade(current)));
        self.added += 1;
    }
}

/// A roster as one worker holds it. Counted within the worker: the count of the Arc is on a cache line that all share.
#[derive(Debug)]
pub(super) struct HeldRoster {
    roster: Arc<Roster>,
    /// For each of its places.
    tallies: Vec<Rc<Tally>>,
}

impl HeldRoster {
    fn of(current: &CurrentRoster) -> Self {
        let roster = current.roster();
        let counting = match current.origins.balance {
            Balance::LeastConnections => Counting::Shared,
            Balance::RoundRobin | Balance::SourceHash => Counting::Own,
        };
        let tallies = roster.places().map(|place| Tally::of(&place.standing, counting)).collect();
        Self { roster, tallies }
    }

    /// Counts an open connection to `place`, which is one of the roster's.
    pub(super) fn open(&self, place: &Place) -> OpenGuard {
        match self.tallies.get(place.number()) {
            Some(tally) => tally.open(),
            None => Tally::of(&place.standing, Counting::Own).open(),
        }
    }
}

impl Deref for HeldRoster {
    type Target = Roster;

    fn deref(&self) -> &Roster {
        &self.roster
    }
}

/// One worker's view of a current roster.
#[derive(Debug)]
pub(super) struct RosterView {
    pub(super) current: Arc<CurrentRoster>,
    version: Cell<u64>,
    seen: RefCell<Rc<HeldRoster>>,
}

impl RosterView {
    pub(super) fn new(current: Arc<CurrentRoster>) -> Self {
        let version = current.version.load(Ordering::Acquire);
        let seen = RefCell::new(Rc::new(HeldRoster::of(&current)));
        Self { current, version: Cell::new(version), seen }
    }

    /// The roster as it is now.
    pub(super) fn roster(&self) -> Rc<HeldRoster> {
        let version = self.current.version.load(Ordering::Acquire);
        if version != self.version.get() {
            self.version.set(version);
            self.seen.replace(Rc::new(HeldRoster::of(&self.current)));
        }
        Rc::clone(&self.seen.borrow())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current_roster(service: &str) -> Arc<CurrentRoster> {
        Arc::new(CurrentRoster::new(service.parse().unwrap(), Origins::from(Vec::new())))
    }

    #[test]
    fn the_latest_of_a_service_is_the_last_that_anybody_has() {
        let mut rosters = CurrentRosters::default();
        let (former, latest, other) = (current_roster("a"), current_roster("a"), current_roster("b"));
        for current in [&former, &latest, &other] {
            rosters.add(current);
        }
        assert!(Arc::ptr_eq(&rosters.latest(&former.service).unwrap(), &latest));
        rosters.add(&former);
        assert!(Arc::ptr_eq(&rosters.latest(&former.service).unwrap(), &former));
        assert_eq!((rosters.of(&former.service).count(), rosters.all().len()), (2, 3));
        drop(former);
        assert!(Arc::ptr_eq(&rosters.latest(&latest.service).unwrap(), &latest));
    }

    #[test]
    fn services_that_are_gone_are_let_go() {
        let mut rosters = CurrentRosters::default();
        let stays = current_roster("stays");
        rosters.add(&stays);
        for number in 0..1000 {
            rosters.add(&current_roster(&format!("s{number}")));
        }
        assert!(rosters.services.len() < 8, "{}", rosters.services.len());
        assert!(rosters.latest(&stays.service).is_some());
    }
}

//! The current roster of each service, shared by all workers. Connections look at a number; only when it has changed does their
//! worker take the lock to get the roster itself. Does not know how rosters come about.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::fading::Fading;
use super::roster::{Place, Roster};
use super::tally::{Counting, OpenGuard, Tally};
use crate::model::{Balance, OriginHost, Origins, ServiceName};
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
    services: Fading<ServiceName, CurrentRoster>,
    /// Those of each name that has to be looked up.
    hosts: Fading<OriginHost, CurrentRoster>,
    all: Fading<(), CurrentRoster>,
}

impl CurrentRosters {
    /// The roster of `service` that was added last.
    pub(super) fn latest(&self, service: &ServiceName) -> Option<Arc<CurrentRoster>> {
        self.services.last(service)
    }

    /// The rosters of `service`, the latest last.
    pub(super) fn of(&self, service: &ServiceName) -> Vec<Arc<CurrentRoster>> {
        self.services.of(service)
    }

    /// The rosters with an origin that `host` names, the latest last.
    pub(super) fn of_host(&self, host: &OriginHost) -> Vec<Arc<CurrentRoster>> {
        self.hosts.of(host)
    }

    /// The rosters of all services, in the order in which they were added: where a circle is cut depends on that.
    pub(super) fn all(&self) -> Vec<Arc<CurrentRoster>> {
        self.all.of(&())
    }

    /// Makes `current` the latest of its service.
    pub(super) fn add(&mut self, current: &Arc<CurrentRoster>) {
        self.services.add(current.service.clone(), current);
        for origin in &current.origins.list {
            if !matches!(origin.host, OriginHost::Address(_)) {
                self.hosts.add(origin.host.clone(), current);
            }
        }
        self.all.add((), current);
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
        assert_eq!((rosters.of(&former.service).len(), rosters.all().len()), (2, 3));
        drop(former);
        assert!(Arc::ptr_eq(&rosters.latest(&latest.service).unwrap(), &latest));
    }
}

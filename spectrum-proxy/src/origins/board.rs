//! Where a service's roster hangs for all workers to see. Connections look at a number; only when it has changed does
//! their worker take the lock to see what hangs there now. Does not know how rosters come about.

use std::cell::{Cell, RefCell};
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
pub(crate) struct Board {
    pub(super) service: ServiceName,
    pub(super) origins: Origins,
    roster: Mutex<Arc<Roster>>,
    /// The number of rosters so far.
    version: AtomicU64,
}

impl Board {
    pub(super) fn new(service: ServiceName, origins: Origins) -> Self {
        let roster = Arc::new(Roster::empty(DialFailure::Unresolved));
        Self { service, origins, roster: Mutex::new(roster), version: AtomicU64::new(0) }
    }

    /// The one of `service` that was hung last, of `boards` in the order of their hanging.
    pub(super) fn latest(boards: &[Weak<Self>], service: &ServiceName) -> Option<Arc<Self>> {
        boards.iter().rev().filter_map(Weak::upgrade).find(|board| board.service == *service)
    }

    pub(super) fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.roster.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn hang(&self, mut roster: Roster) {
        let mut place = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        roster.take_over_turns(&place);
        *place = Arc::new(roster);
        self.version.fetch_add(1, Ordering::Release);
    }
}

/// A roster as one worker holds it. Counted within the worker: the count of the Arc is on a cache line that all share.
#[derive(Debug)]
pub(super) struct Seen {
    roster: Arc<Roster>,
    /// For each of its places.
    tallies: Vec<Rc<Tally>>,
}

impl Seen {
    fn of(board: &Board) -> Self {
        let roster = board.roster();
        let counting = match board.origins.balance {
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

impl Deref for Seen {
    type Target = Roster;

    fn deref(&self) -> &Roster {
        &self.roster
    }
}

/// One worker's view of a board.
#[derive(Debug)]
pub(super) struct BoardView {
    pub(super) board: Arc<Board>,
    version: Cell<u64>,
    seen: RefCell<Rc<Seen>>,
}

impl BoardView {
    pub(super) fn new(board: Arc<Board>) -> Self {
        let version = board.version.load(Ordering::Acquire);
        let seen = RefCell::new(Rc::new(Seen::of(&board)));
        Self { board, version: Cell::new(version), seen }
    }

    /// The roster that hangs there now.
    pub(super) fn roster(&self) -> Rc<Seen> {
        let version = self.board.version.load(Ordering::Acquire);
        if version != self.version.get() {
            self.version.set(version);
            self.seen.replace(Rc::new(Seen::of(&self.board)));
        }
        Rc::clone(&self.seen.borrow())
    }
}

//! Where a service's roster hangs for all workers to see. Connections look at a number; only when it has changed does
//! their worker take the lock to see what hangs there now. Does not know how rosters come about.

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

/// The boards of all services, as long as anybody has them. Of one service there are several while connections of a former
/// configuration, or one that may not come about, have theirs.
#[derive(Debug, Default)]
pub(super) struct Boards {
    /// The latest of each service last, each with its number.
    services: HashMap<ServiceName, Vec<(u64, Weak<Board>)>>,
    added: u64,
    /// The services that were left when those without a board were let go last.
    swept: usize,
}

impl Boards {
    /// The board of `service` that was added last.
    pub(super) fn latest(&self, service: &ServiceName) -> Option<Arc<Board>> {
        self.of(service).next_back()
    }

    /// The boards of `service`, the latest last.
    pub(super) fn of(&self, service: &ServiceName) -> impl DoubleEndedIterator<Item = Arc<Board>> {
        self.services.get(service).into_iter().flatten().filter_map(|(_, board)| board.upgrade())
    }

    /// The boards of all services, in the order in which they were added: where a circle is cut depends on that.
    pub(super) fn all(&self) -> Vec<Arc<Board>> {
        let boards = self.services.values().flatten();
        let mut alive: Vec<_> =
            boards.filter_map(|(number, board)| Some((*number, board.upgrade()?))).collect();
        alive.sort_unstable_by_key(|(number, _)| *number);
        alive.into_iter().map(|(_, board)| board).collect()
    }

    /// Makes `board` the latest of its service.
    pub(super) fn add(&mut self, board: &Arc<Board>) {
        // Rarely, so that the cost of one more does not grow with how many there are.
        if self.services.len() > self.swept * 2 {
            self.services.retain(|_, boards| boards.iter().any(|(_, board)| board.strong_count() > 0));
            self.swept = self.services.len();
        }
        let boards = self.services.entry(board.service.clone()).or_default();
        boards.retain(|(_, known)| {
            known.strong_count() > 0 && !std::ptr::eq(known.as_ptr(), Arc::as_ptr(board))
        });
        boards.push((self.added, Arc::downgrade(board)));
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

impl Deref for HeldRoster {
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
    seen: RefCell<Rc<HeldRoster>>,
}

impl BoardView {
    pub(super) fn new(board: Arc<Board>) -> Self {
        let version = board.version.load(Ordering::Acquire);
        let seen = RefCell::new(Rc::new(HeldRoster::of(&board)));
        Self { board, version: Cell::new(version), seen }
    }

    /// The roster that hangs there now.
    pub(super) fn roster(&self) -> Rc<HeldRoster> {
        let version = self.board.version.load(Ordering::Acquire);
        if version != self.version.get() {
            self.version.set(version);
            self.seen.replace(Rc::new(HeldRoster::of(&self.board)));
        }
        Rc::clone(&self.seen.borrow())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(service: &str) -> Arc<Board> {
        Arc::new(Board::new(service.parse().unwrap(), Origins::from(Vec::new())))
    }

    #[test]
    fn the_latest_of_a_service_is_the_last_that_anybody_has() {
        let mut boards = Boards::default();
        let (former, latest, other) = (board("a"), board("a"), board("b"));
        for board in [&former, &latest, &other] {
            boards.add(board);
        }
        assert!(Arc::ptr_eq(&boards.latest(&former.service).unwrap(), &latest));
        boards.add(&former);
        assert!(Arc::ptr_eq(&boards.latest(&former.service).unwrap(), &former));
        assert_eq!((boards.of(&former.service).count(), boards.all().len()), (2, 3));
        drop(former);
        assert!(Arc::ptr_eq(&boards.latest(&latest.service).unwrap(), &latest));
    }

    #[test]
    fn services_that_are_gone_are_let_go() {
        let mut boards = Boards::default();
        let stays = board("stays");
        boards.add(&stays);
        for number in 0..1000 {
            boards.add(&board(&format!("s{number}")));
        }
        assert!(boards.services.len() < 8, "{}", boards.services.len());
        assert!(boards.latest(&stays.service).is_some());
    }
}

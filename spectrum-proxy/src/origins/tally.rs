//! What each worker counts of an address for itself: connections that are open, all there were, and their bytes. No worker
//! writes another's numbers, and no lock is taken for one. Knows nothing of what went wrong.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::fault::Fault;
use super::standing::Standing;
use crate::counter::Counter;
use crate::report::{End, Side};

/// The tallies of all workers.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    /// Open connections, where each dial has to know those of all workers.
    shared: AtomicU32,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    own: Vec<Arc<Own>>,
    /// The sums of tallies that are no more.
    past: Sums,
}

/// The sums of tallies.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Sums {
    /// Connections that are open.
    pub(super) open: u64,
    /// All there were.
    pub(super) connections: u64,
    /// Bytes received from their clients.
    pub(super) from_client: u64,
    /// Bytes handed to their clients.
    pub(super) to_client: u64,
}

/// One worker's numbers.
#[derive(Debug, Default)]
struct Own {
    open: Counter,
    connections: Counter,
    from_client: Arc<Counter>,
    to_client: Arc<Counter>,
}

impl Sums {
    fn add(&mut self, own: &Own) {
        self.open += own.open.get();
        self.connections += own.connections.get();
        self.from_client += own.from_client.get();
        self.to_client += own.to_client.get();
    }
}

impl Tallies {
    /// Open connections as far as [`Counting::Shared`] tallies have them: for who chooses.
    pub(super) fn shared(&self) -> u32 {
        self.shared.load(Ordering::Relaxed)
    }

    /// The sums of all: for who asks once in a while.
    pub(super) fn sums(&self) -> Sums {
        self.kept(|kept| {
            let mut sums = kept.past;
            kept.own.iter().for_each(|own| sums.add(own));
            sums
        })
    }

    fn kept<T>(&self, with: impl FnOnce(&mut Kept) -> T) -> T {
        with(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The scope in which open connections are counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Counting {
    /// For the status alone: each worker counts for itself, which costs next to nothing.
    Own,
    /// Each dial of every worker as well. The count that all of them write is on a cache line that goes back and forth.
    Shared,
}

/// One worker's numbers of an address, for as long as its roster has it and connections are open.
#[derive(Debug)]
pub(super) struct Tally {
    own: Arc<Own>,
    standing: Arc<Standing>,
    counting: Counting,
}

impl Tally {
    pub(super) fn of(standing: &Arc<Standing>, counting: Counting) -> Rc<Self> {
        let own = Arc::<Own>::default();
        standing.tallies.kept(|kept| kept.own.push(Arc::clone(&own)));
        Rc::new(Self { own, standing: Arc::clone(standing), counting })
    }

    /// One more connection, until the guard is dropped.
    pub(super) fn open(self: &Rc<Self>) -> OpenGuard {
        self.own.open.add(1);
        self.own.connections.add(1);
        if self.counting == Counting::Shared {
            self.standing.tallies.shared.fetch_add(1, Ordering::Relaxed);
        }
        OpenGuard(Rc::clone(self))
    }
}

impl Drop for Tally {
    /// Keeps what it came to: totals never fall.
    fn drop(&mut self) {
        self.standing.tallies.kept(|kept| {
            kept.own.retain(|own| !Arc::ptr_eq(own, &self.own));
            kept.past.add(&self.own);
        });
    }
}

/// One open connection in the counts of its address.
#[derive(Debug)]
pub(crate) struct OpenGuard(Rc<Tally>);

impl OpenGuard {
    /// One of an address that no roster has.
    pub(super) fn of_nobody(address: IpAddr) -> Self {
        Tally::of(&Arc::new(Standing::new(address)), Counting::Own).open()
    }

    /// The counter of the bytes that its client sends.
    pub(crate) fn counter_from_client(&self) -> Arc<Counter> {
        Arc::clone(&self.0.own.from_client)
    }

    /// The counter of the bytes that its client gets.
    pub(crate) fn counter_to_client(&self) -> Arc<Counter> {
        Arc::clone(&self.0.own.to_client)
    }

    /// The standing of the address.
    pub(super) fn standing(&self) -> &Standing {
        &self.0.standing
    }

    /// Notes how it ended, if that was the origin's doing.
    pub(crate) fn ended(&self, end: End) {
        if let End::Lost(Side::Upstream)
        | End::Reset(Side::Upstream)
        | End::TimedOut(Side::Upstream)
        | End::Unreachable(Side::Upstream) = end
        {
            self.0.standing.broke(Fault::of_end(end));
        }
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.own.open.subtract(1);
        if self.0.counting == Counting::Shared {
            self.0.standing.tallies.shared.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing() -> Arc<Standing> {
        Arc::new(Standing::new("192.0.2.1".parse().unwrap()))
    }

    #[test]
    fn a_connection_counts_while_it_is_open() {
        let standing = standing();
        let open = || (standing.tallies.sums().open, standing.tallies.shared());
        let tallies = [Counting::Own, Counting::Shared].map(|counting| Tally::of(&standing, counting));
        let guards = [(); 3].map(|()| tallies[0].open());
        let shared = tallies[1].open();
        assert_eq!(open(), (4, 1));
        drop(guards);
        assert_eq!(open(), (1, 1));
        // A worker whose roster has changed counts anew, and what it had open goes on.
        drop(tallies);
        let after = Tally::of(&standing, Counting::Shared);
        let more = after.open();
        assert_eq!(open(), (2, 2));
        drop((shared, more));
        assert_eq!(open(), (0, 0));
    }

    #[test]
    fn totals_outlive_the_rosters_in_which_they_were_counted() {
        let standing = standing();
        for _ in 0..3 {
            let tally = Tally::of(&standing, Counting::Own);
            let guard = tally.open();
            drop(tally);
            guard.counter_from_client().add(5);
            guard.counter_to_client().add(7);
        }
        let kept = Tally::of(&standing, Counting::Own);
        let guard = kept.open();
        guard.counter_to_client().add(1);
        let expected = Sums { open: 1, connections: 4, from_client: 15, to_client: 22 };
        assert_eq!(standing.tallies.sums(), expected);
        assert_eq!(standing.tallies.kept(|kept| kept.own.len()), 1, "what is over takes no room");
        drop((guard, kept));
        assert_eq!(standing.tallies.sums(), Sums { open: 0, ..expected });
    }

    #[test]
    fn what_the_origin_breaks_counts_and_what_the_client_breaks_does_not() {
        let standing = standing();
        let guard = Tally::of(&standing, Counting::Own).open();
        for end in End::ALL {
            guard.ended(end);
        }
        assert_eq!(standing.broken(), 4);
        let (fault, _) = standing.last_fault().unwrap();
        assert_eq!(fault.to_string(), "upstream-unreachable");
    }

    #[test]
    fn workers_count_for_themselves_and_are_summed() {
        let standing = standing();
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
            assert_eq!(standing.tallies.sums().open, 2000);
            done.wait();
        });
        assert_eq!(standing.tallies.sums(), Sums { connections: 2000, ..Sums::default() });
    }
}

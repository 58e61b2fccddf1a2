//! How many file descriptors a worker's connections may have, so that what is accepted can also dial, and how much of them is
//! each service's own, so that none takes all from the others. Opens and closes none.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::model::ServiceName;
use crate::report::Limit;

/// The descriptors of the process besides listeners and connections, with room for a reload, for all who may ask at once
/// over the control socket (16 and its own) and the admin socket (24 and its own), and for what a dial tries at once.
const RESERVE: usize = 80;

/// The same for each worker: its runtime, its raw sockets, and the connection that is about to be refused.
const RESERVE_OF_WORKER: usize = 8;

/// Of very many descriptors one part in so many is kept back besides.
const SHARE: usize = 32;

/// The least that a worker's connections may have, so that a process with hardly any serves at all.
const LEAST: usize = 4;

/// One part in so many is divided among the services, the rest is for whoever comes first.
const DIVIDED: usize = 2;

/// The least that a service has of its own: a connection that is proxied.
const LEAST_OF_SERVICE: usize = 2;

/// The descriptors that all workers together may use. Clones are about the same ones.
#[derive(Clone, Debug)]
pub(crate) struct DescriptorPool {
    allowed: usize,
    workers: usize,
    pipes: usize,
    listeners: Arc<AtomicUsize>,
}

impl DescriptorPool {
    /// Of a process that may have `allowed` descriptors, for so many workers, each of which has so many `pipes`.
    pub(crate) fn new(allowed: u64, workers: usize, pipes: usize) -> Self {
        let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
        Self { allowed, workers: workers.max(1), pipes, listeners: Arc::default() }
    }

    /// The number of workers that share them.
    pub(crate) fn workers(&self) -> usize {
        self.workers
    }

    /// The number of descriptors that listeners have has changed.
    pub(crate) fn listeners_added(&self, descriptors: usize) {
        self.listeners.fetch_add(descriptors, Ordering::Relaxed);
    }

    /// The same the other way round.
    pub(crate) fn listeners_removed(&self, descriptors: usize) {
        self.listeners.fetch_sub(descriptors, Ordering::Relaxed);
    }

    /// The descriptors that the connections of all workers may have.
    pub(crate) fn for_connections(&self) -> usize {
        self.share() * self.workers
    }

    /// The part of that which each of so many services has of its own.
    pub(crate) fn for_each_of(&self, services: usize) -> usize {
        Division::of(self.share(), services).each * self.workers
    }

    fn share(&self) -> usize {
        let listeners = self.listeners.load(Ordering::Relaxed);
        let of_workers = self.workers * (RESERVE_OF_WORKER + self.pipes);
        let reserved = RESERVE + of_workers + self.allowed / SHARE + listeners;
        (self.allowed.saturating_sub(reserved) / self.workers).max(LEAST)
    }
}

/// The division of a worker's descriptors.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Division {
    /// All of them.
    whole: usize,
    services: usize,
    /// The number that each service has of its own.
    each: usize,
    /// The number for whoever comes first.
    common: usize,
}

impl Division {
    fn of(whole: usize, services: usize) -> Self {
        let divided = whole / DIVIDED;
        let each = (divided / services.max(1)).max(LEAST_OF_SERVICE).min(divided);
        // Of very many services some have theirs only as long as not all of them want it.
        let common = whole - (each * services).min(divided);
        Self { whole, services, each, common }
    }

    /// The part of what a service uses that is not its own.
    fn beyond(&self, used: usize) -> usize {
        used.saturating_sub(self.each)
    }
}

/// One worker's descriptors. Workers do not lend to each other: the kernel spreads connections evenly enough, and nothing is
/// shared while they serve.
#[derive(Debug)]
pub(crate) struct Descriptors(Rc<Books>);

/// The holders, and their numbers.
#[derive(Debug)]
struct Books {
    pool: DescriptorPool,
    division: Cell<Division>,
    used: Cell<usize>,
    /// The number of these beyond what is their service's own.
    beyond: Cell<usize>,
    services: RefCell<HashMap<ServiceName, Weak<ServiceShare>>>,
}

/// One service's use of a worker's descriptors, for as long as anything of it is there.
#[derive(Debug)]
pub(crate) struct ServiceShare {
    service: ServiceName,
    used: Cell<usize>,
    books: Rc<Books>,
}

/// Descriptors that are kept for one connection, given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    share: Rc<ServiceShare>,
    count: usize,
}

impl Descriptors {
    pub(crate) fn of(pool: DescriptorPool) -> Self {
        Self(Rc::new(Books {
            pool,
            division: Cell::default(),
            used: Cell::new(0),
            beyond: Cell::new(0),
            services: RefCell::default(),
        }))
    }

    /// The share of `service`, the same one for all that is open of it.
    pub(crate) fn share(&self, service: &ServiceName) -> Rc<ServiceShare> {
        let mut services = self.0.services.borrow_mut();
        if let Some(share) = services.get(service).and_then(Weak::upgrade) {
            return share;
        }
        let share =
            Rc::new(ServiceShare { service: service.clone(), used: Cell::new(0), books: Rc::clone(&self.0) });
        services.insert(service.clone(), Rc::downgrade(&share));
        share
    }
}

impl Books {
    /// The division that holds now. What is beyond is counted anew where each has more or less than before.
    fn division(&self) -> Division {
        let (whole, former) = (self.pool.share(), self.division.get());
        let services = self.services.borrow();
        if (former.whole, former.services) == (whole, services.len()) {
            return former;
        }
        let division = Division::of(whole, services.len());
        if division.each != former.each {
            let shares = services.values().filter_map(Weak::upgrade);
            self.beyond.set(shares.map(|share| division.beyond(share.used.get())).sum());
        }
        self.division.set(division);
        division
    }
}

impl ServiceShare {
    /// Takes `count`.
    ///
    /// # Errors
    /// The limit that is reached: there are no more, or the rest is for other services.
    pub(crate) fn take(self: &Rc<Self>, count: usize) -> Result<Held, Limit> {
        let Books { used: all, beyond, .. } = &*self.books;
        let division = self.books.division();
        let used = self.used.get() + count;
        let more = division.beyond(used) - division.beyond(self.used.get());
        if all.get() + count > division.whole {
            return Err(Limit::Descriptors);
        }
        if more > 0 && beyond.get() + more > division.common {
            return Err(Limit::DescriptorShare);
        }
        self.used.set(used);
        all.set(all.get() + count);
        beyond.set(beyond.get() + more);
        Ok(Held { share: Rc::clone(self), count })
    }

    fn give_back(&self, count: usize) {
        let Books { used: all, beyond, division, .. } = &*self.books;
        // As it was counted last.
        let division = division.get();
        let used = self.used.get().saturating_sub(count);
        let less = division.beyond(self.used.get()) - division.beyond(used);
        self.used.set(used);
        all.set(all.get().saturating_sub(count));
        beyond.set(beyond.get().saturating_sub(less));
    }
}

impl Drop for ServiceShare {
    fn drop(&mut self) {
        self.books.services.borrow_mut().remove(&self.service);
    }
}

impl Held {
    /// True if an eighth of its worker's descriptors is free, so that nobody misses what is held for later: it is
    /// given up when a session finds none, and after a second in any case.
    pub(crate) fn has_plenty(&self) -> bool {
        let Books { used, division, .. } = &*self.share.books;
        let whole = division.get().whole;
        used.get() < whole - whole / 8
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.share.give_back(self.count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A worker that has so many for its connections.
    fn descriptors(whole: u64) -> Descriptors {
        let pool = (0..).map(|more| DescriptorPool::new(80 + 8 + whole + more, 1, 0));
        Descriptors::of(pool.into_iter().find(|pool| pool.share() as u64 == whole).unwrap())
    }

    fn service(number: usize) -> ServiceName {
        format!("s{number}").parse().unwrap()
    }

    /// As many as `share` gets.
    fn all_of(share: &Rc<ServiceShare>) -> (Vec<Held>, Limit) {
        let mut held = Vec::new();
        loop {
            match share.take(1) {
                Ok(one) => held.push(one),
                Err(limit) => return (held, limit),
            }
        }
    }

    #[test]
    fn listeners_and_the_rest_of_the_process_come_first() {
        for (allowed, workers, pipes, listeners, share) in [
            (1024, 2, 10, 8, (1024 - 80 - 36 - 32 - 8) / 2),
            (1 << 20, 4, 0, 0, ((1 << 20) - 80 - 32 - (1 << 15)) / 4),
            (96, 2, 0, 4, LEAST),
            (u64::MAX, 1, 0, 0, usize::MAX - 80 - 8 - usize::MAX / 32),
        ] {
            let pool = DescriptorPool::new(allowed, workers, pipes);
            pool.listeners_added(listeners + 3);
            pool.listeners_removed(3);
            assert_eq!(pool.share(), share, "{allowed} for {workers}");
        }
    }

    #[test]
    fn a_service_that_is_alone_has_all_of_them() {
        for whole in [4, 10, 101, 1000] {
            let descriptors = descriptors(whole);
            let (held, limit) = all_of(&descriptors.share(&service(0)));
            assert_eq!((held.len() as u64, limit), (whole, Limit::Descriptors));
        }
    }

    #[test]
    fn what_is_taken_is_not_there_until_it_is_given_back() {
        let descriptors = descriptors(10);
        let share = descriptors.share(&service(0));
        let mut held: Vec<_> = (0..20).filter_map(|_| share.take(2).ok()).collect();
        assert_eq!(held.len(), 5);
        held.pop();
        assert_eq!(share.take(3).err(), Some(Limit::Descriptors));
        assert!(share.take(2).is_ok());
    }

    #[test]
    fn a_flood_of_one_service_leaves_the_others_what_is_their_own() {
        let descriptors = descriptors(1000);
        let shares: Vec<_> = (0..5).map(|number| descriptors.share(&service(number))).collect();
        let (flood, limit) = all_of(&shares[0]);
        assert_eq!((flood.len(), limit), (100 + 500, Limit::DescriptorShare));
        for share in &shares[1..] {
            assert_eq!(all_of(share).0.len(), 100);
        }
        // Where nobody floods, one may have what the others do not use of the common half.
        drop(flood);
        assert_eq!(all_of(&shares[1]).0.len(), 600);
    }

    #[test]
    fn services_that_come_and_go_change_what_is_each_one_s_own() {
        let descriptors = descriptors(1000);
        let first = descriptors.share(&service(0));
        let (flood, _) = all_of(&first);
        assert_eq!(flood.len(), 1000);
        // Nothing that is open is touched; what ends makes room for who has least.
        let second = descriptors.share(&service(1));
        assert_eq!(second.take(1).err(), Some(Limit::Descriptors));
        let mut flood = flood;
        flood.truncate(900);
        assert_eq!(first.take(1).err(), Some(Limit::DescriptorShare));
        assert_eq!(all_of(&second).0.len(), 100);
        drop(flood);
        let (flood, _) = all_of(&first);
        assert_eq!(flood.len(), 750);
        drop(second);
        assert_eq!(all_of(&first).0.len(), 250, "what was the other's own is for it again");
        assert!(Rc::ptr_eq(&first, &descriptors.share(&service(0))));
    }

    #[test]
    fn of_thousands_of_services_each_has_a_connection_as_long_as_there_are_any() {
        let descriptors = descriptors(1000);
        let shares: Vec<_> = (0..4000).map(|number| descriptors.share(&service(number))).collect();
        let (flood, limit) = all_of(&shares[0]);
        assert_eq!((flood.len(), limit), (2 + 500, Limit::DescriptorShare));
        let others: Vec<_> = shares[1..].iter().filter_map(|share| share.take(2).ok()).collect();
        assert_eq!(others.len(), 249);
    }

    proptest! {
        /// Whatever is taken, given back and divided anew, the books are as a count of what is held says.
        #[test]
        fn the_books_are_right(steps in prop::collection::vec((0..6_usize, 0..4_usize), 0..300)) {
            let descriptors = descriptors(60);
            let mut shares = HashMap::new();
            let mut held: Vec<Held> = Vec::new();
            for (number, step) in steps {
                match step {
                    0 => { shares.insert(number, descriptors.share(&service(number))); }
                    1 => { shares.remove(&number); }
                    2 if !held.is_empty() => { held.swap_remove(number % held.len()); }
                    _ => held.extend(shares.get(&number).and_then(|share| share.take(1 + number % 2).ok())),
                }
                let Books { used, beyond, services, .. } = &*descriptors.0;
                let division = descriptors.0.division();
                let counted = |share: &Rc<ServiceShare>| -> usize {
                    held.iter().filter(|one| Rc::ptr_eq(&one.share, share)).map(|one| one.count).sum()
                };
                let all: Vec<_> = services.borrow().values().filter_map(Weak::upgrade).collect();
                prop_assert_eq!(used.get(), held.iter().map(|one| one.count).sum::<usize>());
                prop_assert!(used.get() <= division.whole);
                prop_assert_eq!(beyond.get(), all.iter().map(|share| division.beyond(counted(share))).sum::<usize>());
            }
        }
    }
}

//! How many file descriptors a worker's connections may have, so that what is accepted can also dial. Opens and closes
//! none.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the process has besides listeners and connections, with room for a reload, for all who may ask at once over the
/// control socket (16 and its own) and the admin socket (24 and its own), and for what a dial tries at once.
const RESERVE: usize = 80;

/// The same for each worker: its runtime, its raw sockets, and the connection that is about to be refused.
const RESERVE_OF_WORKER: usize = 8;

/// Of very many descriptors one part in so many is kept back besides.
const SHARE: usize = 32;

/// The least that a worker's connections may have, so that a process with hardly any serves at all.
const LEAST: usize = 4;

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

    /// The number of descriptors that listeners have has changed.
    pub(crate) fn listeners_added(&self, descriptors: usize) {
        self.listeners.fetch_add(descriptors, Ordering::Relaxed);
    }

    /// The same the other way round.
    pub(crate) fn listeners_removed(&self, descriptors: usize) {
        self.listeners.fetch_sub(descriptors, Ordering::Relaxed);
    }

    /// What the connections of all workers may have.
    pub(crate) fn for_connections(&self) -> usize {
        self.share() * self.workers
    }

    fn share(&self) -> usize {
        let listeners = self.listeners.load(Ordering::Relaxed);
        let of_workers = self.workers * (RESERVE_OF_WORKER + self.pipes);
        let reserved = RESERVE + of_workers + self.allowed / SHARE + listeners;
        (self.allowed.saturating_sub(reserved) / self.workers).max(LEAST)
    }
}

/// One worker's share. Workers do not lend to each other: the kernel spreads connections evenly enough, and nothing is
/// shared while they serve.
#[derive(Debug)]
pub(crate) struct Descriptors {
    pool: DescriptorPool,
    used: Cell<usize>,
}

impl Descriptors {
    pub(crate) fn of(pool: DescriptorPool) -> Self {
        Self { pool, used: Cell::new(0) }
    }

    /// Takes `count` if there are so many besides the `others`, to be given back.
    #[must_use]
    pub(crate) fn take(&self, count: usize, others: usize) -> bool {
        let used = self.used.get() + count;
        let fits = used + others <= self.pool.share();
        if fits {
            self.used.set(used);
        }
        fits
    }

    pub(crate) fn give_back(&self, count: usize) {
        self.used.set(self.used.get().saturating_sub(count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_is_taken_is_not_there_until_it_is_given_back() {
        let descriptors = Descriptors::of(DescriptorPool::new(80 + 8 + 10 + 3, 1, 0));
        let taken = (0..20).filter(|_| descriptors.take(2, 0)).count();
        assert_eq!(taken, 5);
        descriptors.give_back(2);
        assert!(!descriptors.take(2, 1));
        assert!(descriptors.take(2, 0));
    }
}

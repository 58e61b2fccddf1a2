//! A number that one thread writes and any reads. Says nothing of what is counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number of things that are, or were. One thread alone may call what changes it: a load and a store do then, without
/// the price of a locked addition. It is an [`AtomicU64`] to the last bit, so that it may stand in memory that processes share.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// So many more.
    pub fn add(&self, count: u64) {
        self.put(self.0.load(Ordering::Relaxed).wrapping_add(count));
    }

    /// So many fewer.
    pub fn subtract(&self, count: u64) {
        self.put(self.0.load(Ordering::Relaxed).wrapping_sub(count));
    }

    /// The count so far. Whoever reads this sees all that was counted before it elsewhere.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn put(&self, count: u64) {
        self.0.store(count, Ordering::Release);
    }
}

//! Who waits for answers from the other process, by the numbers of what was asked. Does not know what is asked, nor how it is answered.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So many may wait. Where more would, those are forgotten that have waited for too long.
const MOST: usize = 4096;
const TOO_LONG: Duration = Duration::from_mins(1);

/// Those who wait, each with what its answer is given to.
pub(super) struct Waiters<W> {
    next: AtomicU64,
    /// `None`: there will be no more answers.
    waiting: Mutex<Option<HashMap<u64, (Instant, W)>>>,
}

/// The reason for which nobody more may wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unwaited {
    /// There will be no more answers.
    Ended,
    /// Too many do.
    TooMany,
}

impl<W> Waiters<W> {
    /// Those who are left of a process that has numbered what it asked up to `next`.
    pub(super) fn after(next: u64, left: impl IntoIterator<Item = (u64, W)>) -> Self {
        let now = Instant::now();
        let waiting = left.into_iter().map(|(number, waiter)| (number, (now, waiter))).collect();
        Self { next: AtomicU64::new(next), waiting: Mutex::new(Some(waiting)) }
    }

    /// The number of what is asked next.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The number that [`Waiters::number`] gives next.
    pub(super) fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Has `waiter` wait for the answer of this number.
    pub(super) fn enter(&self, number: u64, waiter: W) -> Result<(), Unwaited> {
        let (now, mut waiting) = (Instant::now(), self.waiting());
        let waiting = waiting.as_mut().ok_or(Unwaited::Ended)?;
        if waiting.len() >= MOST {
            waiting.retain(|_, (since, _)| now.duration_since(*since) < TOO_LONG);
        }
        if waiting.len() >= MOST {
            return Err(Unwaited::TooMany);
        }
        waiting.insert(number, (now, waiter));
        Ok(())
    }

    /// Whoever waits for the answer of this number, and does no longer.
    pub(super) fn take(&self, number: u64) -> Option<W> {
        self.waiting().as_mut()?.remove(&number).map(|(_, waiter)| waiter)
    }

    /// The numbers of what is to be answered yet.
    pub(super) fn numbers(&self) -> Vec<u64> {
        self.waiting().iter().flat_map(HashMap::keys).copied().collect()
    }

    /// Nobody gets an answer any more: all are dropped.
    pub(super) fn end(&self) {
        let ended = self.waiting().take();
        // Whoever is dropped may ask something else.
        drop(ended);
    }

    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, (Instant, W)>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W> Default for Waiters<W> {
    fn default() -> Self {
        Self::after(0, [])
    }
}

impl<W> fmt::Debug for Waiters<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiters").field("next", &self.next).field("waiting", &self.numbers()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_is_for_one_and_after_the_end_for_nobody() {
        let waiters = Waiters::after(7, [(3, "left")]);
        let number = waiters.number();
        assert_eq!((number, waiters.next()), (7, 8));
        assert_eq!(waiters.enter(number, "new"), Ok(()));
        assert_eq!((waiters.take(3), waiters.take(3), waiters.take(9)), (Some("left"), None, None));
        assert_eq!(waiters.numbers(), [7]);
        waiters.end();
        assert_eq!((waiters.take(7), waiters.enter(8, "late")), (None, Err(Unwaited::Ended)));
    }

    #[test]
    fn of_more_than_may_wait_those_go_who_have_waited_for_too_long() {
        let long_ago = Instant::now().checked_sub(TOO_LONG).unwrap();
        let waiters = Waiters::after(0, (0..MOST as u64).map(|number| (number, ())));
        assert_eq!(waiters.enter(1 << 20, ()), Err(Unwaited::TooMany));
        waiters.waiting().as_mut().unwrap().insert(5, (long_ago, ()));
        assert_eq!(waiters.enter(1 << 20, ()), Ok(()));
        assert_eq!((waiters.take(5), waiters.numbers().len()), (None, MOST));
    }
}

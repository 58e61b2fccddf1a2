//! That the instance was told to stop, for whoever starts, reloads or waits to notice. Catches no signal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::sync::watch;

/// A listener for the order to stop. Clones hear the same.
#[derive(Clone, Debug)]
pub(super) struct Stop {
    asked: watch::Receiver<u32>,
    /// So many orders have been heeded otherwise than by stopping.
    heeded: Arc<AtomicU32>,
    flag: Arc<AtomicBool>,
}

/// The one who gives the order.
#[derive(Debug)]
pub(super) struct Stopper {
    asked: watch::Sender<u32>,
    flag: Arc<AtomicBool>,
}

/// The mark that what was begun has been given up, since we were told to stop.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("given up, being told to stop")]
pub(super) struct Stopped;

impl Stopper {
    pub(super) fn new() -> (Self, Stop) {
        let (sender, receiver) = watch::channel(0);
        let flag = Arc::<AtomicBool>::default();
        (
            Self { asked: sender, flag: Arc::clone(&flag) },
            Stop { asked: receiver, heeded: Arc::default(), flag },
        )
    }

    /// Tells them, once more if they have been told.
    pub(super) fn stop(&self) {
        self.flag.store(true, Ordering::Relaxed);
        self.asked.send_modify(|times| *times += 1);
    }
}

impl Stop {
    /// True if we have been told.
    pub(super) fn is_asked(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// For between two steps.
    pub(super) fn check(&self) -> Result<(), Stopped> {
        if self.is_asked() { Err(Stopped) } else { Ok(()) }
    }

    /// For those who cannot know this type.
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Waits until we are told.
    pub(super) async fn asked(&self) {
        self.beyond(self.heeded.load(Ordering::Relaxed)).await;
    }

    /// Goes on for a while, although we have been told: until we are told once more.
    pub(super) fn heed(&self) {
        let times = self.times();
        self.heeded.store(times, Ordering::Relaxed);
        self.flag.store(false, Ordering::Relaxed);
        if self.times() > times {
            self.flag.store(true, Ordering::Relaxed);
        }
    }

    /// The number of times that we have been told.
    pub(super) fn times(&self) -> u32 {
        *self.asked.borrow()
    }

    /// The result of `doing`, unless we are told before. It must leave nothing behind when it is dropped.
    pub(super) async fn unless<T>(&self, doing: impl Future<Output = T>) -> Result<T, Stopped> {
        tokio::select! {
            biased;
            () = self.asked() => Err(Stopped),
            done = doing => Ok(done),
        }
    }

    /// Waits until we are told more than so many times.
    pub(super) async fn beyond(&self, times: u32) {
        let mut asked = self.asked.clone();
        if asked.wait_for(|now| *now > times).await.is_err() {
            // Nobody is left to tell, which is noticed elsewhere.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn once_told_nothing_goes_on_and_once_more_is_once_more() {
        let (stopper, stop) = Stopper::new();
        assert_eq!(stop.unless(async { 7 }).await.unwrap(), 7);
        stop.check().unwrap();
        let early = stop.beyond(stop.times());
        stopper.stop();
        stop.check().unwrap_err();
        stop.asked().await;
        early.await;
        stop.unless(async { 7 }).await.unwrap_err();
        let again = stop.beyond(stop.times());
        tokio::pin!(again);
        assert!(futures_util::poll!(&mut again).is_pending());
        stopper.stop();
        again.await;
    }

    #[tokio::test]
    async fn who_heeds_the_order_goes_on_until_told_once_more() {
        let (stopper, stop) = Stopper::new();
        stopper.stop();
        stop.heed();
        stop.clone().check().unwrap();
        assert_eq!(stop.unless(async { 7 }).await.unwrap(), 7);
        stopper.stop();
        stop.check().unwrap_err();
        stop.asked().await;
        assert_eq!(stop.times(), 2);
    }
}

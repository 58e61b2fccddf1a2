//! A thread that stands ready for what is to be done beside the rest. Does not wait for what it does.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use anyhow::Context as _;
use tokio::sync::oneshot;

/// The errand to be done: returns what tells how it ended.
type Errand = Box<dyn FnOnce() -> Telling + Send>;

/// Tells whoever waits.
type Telling = Box<dyn FnOnce() + Send>;

/// A thread for errands that lives from the first one on. Where the host is short of memory a *new* thread may end the
/// process, since std panics when it finds none for the stack of a thread's signals.
#[derive(Debug)]
pub(super) struct Standby {
    name: &'static str,
    errands: OnceLock<SyncSender<Errand>>,
    /// True if the thread has nothing to do: set before it tells how its errand ended, so that whoever hears that finds it free.
    free: AtomicBool,
}

impl Standby {
    /// None yet; its threads will have this name.
    pub(super) const fn new(name: &'static str) -> Self {
        Self { name, errands: OnceLock::new(), free: AtomicBool::new(true) }
    }

    /// Has the thread begin before there is an errand, so that none finds the host short of memory or threads.
    pub(super) fn begin(&'static self) {
        let _begun = self.errands.get_or_init(|| self.spawned());
    }

    /// Has `doing` done: by the thread that stands ready, or by one of its own while that is busy. Threads are in the
    /// network namespace of who asks first.
    ///
    /// # Errors
    /// When a thread is needed and the system has none to spare.
    pub(super) fn send<T: Send + 'static>(
        &'static self,
        doing: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<oneshot::Receiver<T>> {
        let (told, outcome) = oneshot::channel();
        let errand: Errand = Box::new(move || {
            let done = doing();
            Box::new(move || drop(told.send(done)))
        });
        let errands = self.errands.get_or_init(|| self.spawned());
        let errand = if self.free.swap(false, Ordering::AcqRel) {
            match errands.try_send(errand) {
                Ok(()) => return Ok(outcome),
                // There never was a thread.
                Err(error) => match error {
                    mpsc::TrySendError::Full(errand) | mpsc::TrySendError::Disconnected(errand) => errand,
                },
            }
        } else {
            errand
        };
        thread::Builder::new().name(self.name.into()).spawn(move || errand()())?;
        Ok(outcome)
    }

    /// Starts the thread. Without it each errand asks for one of its own, and says if there is none.
    fn spawned(&'static self) -> SyncSender<Errand> {
        let (errands, waiting) = mpsc::sync_channel::<Errand>(1);
        let _ = thread::Builder::new().name(self.name.into()).spawn(move || {
            for errand in waiting {
                let telling = errand();
                self.free.store(true, Ordering::Release);
                telling();
            }
        });
        errands
    }
}

/// For what takes long and nobody must wait for.
pub(super) static ASIDE: Standby = Standby::new("aside");

/// Does on another thread what takes long and leaves nothing behind. It goes on where nobody waits for it any more.
pub(super) async fn aside<T: Send + 'static>(
    doing: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    // Not one of the runtime's, which panics where the system has no thread to spare.
    let outcome = ASIDE.send(doing).context("start a thread")?;
    outcome.await.context("wait for a thread of our own, which died")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The thread that does the next errand, and a sender that ends it.
    #[test]
    fn whoever_hears_of_the_end_of_an_errand_finds_the_thread_free() {
        static STANDBY: Standby = Standby::new("standby");
        let id = || STANDBY.send(|| thread::current().id()).unwrap().blocking_recv().unwrap();
        let first = id();
        assert!((0..10_000).all(|_| id() == first));
        let (end, ended) = mpsc::channel::<()>();
        let busy = STANDBY.send(move || ended.recv().is_err()).unwrap();
        assert_ne!(id(), first);
        drop(end);
        assert!(busy.blocking_recv().unwrap());
        assert_eq!(id(), first);
    }
}

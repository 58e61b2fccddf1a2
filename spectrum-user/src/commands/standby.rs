//! A thread that stands ready for what is to be done beside the rest. Does not wait for what it does.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread;

/// What is to be done.
type Errand = Box<dyn FnOnce() + Send>;

/// A thread for errands that lives from the first one on. Where the host is short of memory a *new* thread may end the
/// process, since std panics when it finds none for the stack of a thread's signals.
#[derive(Debug)]
pub(super) struct Standby {
    name: &'static str,
    errands: OnceLock<SyncSender<Errand>>,
}

impl Standby {
    /// None yet; its threads will have this name.
    pub(super) const fn new(name: &'static str) -> Self {
        Self { name, errands: OnceLock::new() }
    }

    /// Has `errand` done: by the thread that stands ready, or by one of its own while that is busy. Threads are in the
    /// network namespace of who asks first.
    ///
    /// # Errors
    /// When a thread is needed and the system has none to spare.
    pub(super) fn send(&self, errand: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let errands = self.errands.get_or_init(|| {
            // Without a place to wait in: an errand is taken at once, or somebody else does it.
            let (errands, waiting) = mpsc::sync_channel::<Errand>(0);
            // Without this thread each errand asks for one of its own, and says if there is none.
            let _ = thread::Builder::new().name(self.name.into()).spawn(move || {
                for errand in waiting {
                    errand();
                }
            });
            errands
        });
        match errands.try_send(Box::new(errand)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(errand) | TrySendError::Disconnected(errand)) => {
                thread::Builder::new().name(self.name.into()).spawn(errand).map(drop)
            }
        }
    }
}

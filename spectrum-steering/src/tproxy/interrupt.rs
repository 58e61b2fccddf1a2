//! Whether what this thread has the firewall's programs do is still wanted: a program that waits for a lock of somebody else's
//! is ended when it is not. Ends nothing itself.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    static UNWANTED: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
}

/// A guard by which the calling thread gives up what it does to the firewall once a flag is set. What undoes is
/// never given up.
#[derive(Debug)]
pub struct InterruptGuard {
    before: Option<Arc<AtomicBool>>,
    /// It is this thread's.
    _thread: PhantomData<*const ()>,
}

impl InterruptGuard {
    /// By `flag`.
    #[must_use]
    pub fn by(flag: Arc<AtomicBool>) -> Self {
        Self::set(Some(flag))
    }

    /// By nothing, whatever was said before.
    #[must_use]
    pub fn off() -> Self {
        Self::set(None)
    }

    /// By the flag by which another thread gives up, whose work this one does.
    #[must_use]
    pub fn like(flag: Option<Arc<AtomicBool>>) -> Self {
        Self::set(flag)
    }

    /// The flag by which the calling thread gives up, for a thread that does its work.
    #[must_use]
    pub fn flag() -> Option<Arc<AtomicBool>> {
        UNWANTED.with_borrow(Clone::clone)
    }

    fn set(flag: Option<Arc<AtomicBool>>) -> Self {
        Self { before: UNWANTED.replace(flag), _thread: PhantomData }
    }
}

impl Drop for InterruptGuard {
    fn drop(&mut self) {
        UNWANTED.replace(self.before.take());
    }
}

/// True if the flag is set.
pub(super) fn is_interrupted() -> bool {
    UNWANTED.with_borrow(|flag| flag.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed)))
}

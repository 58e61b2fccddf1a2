//! The way back to the version before for a program that crashes or hangs while it takes over: prepared beforehand, so that a signal
//! handler can go it, and closed once all is taken over. Where a program goes back by itself is not decided here.

use std::ffi::CString;
use std::io;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use super::sys;

/// The signals by which a crash shows, and the alarm.
const SIGNALS: [Signal; 8] = [
    Signal::SIGABRT,
    Signal::SIGALRM,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGSEGV,
    Signal::SIGSYS,
    Signal::SIGTRAP,
];

/// The time for taking over, and the bindings for which it may take as long again as a second. systemd wants a sign of life every 30 s.
const LIMIT: Duration = Duration::from_secs(25);
const BINDINGS_A_SECOND: usize = 50_000;

/// The way back while it is open.
#[derive(Debug)]
pub(super) struct WayBackGuard(#[expect(dead_code, reason = "held for its end")] sys::Handlers);

impl WayBackGuard {
    /// Opens it, for all threads: from now on each of these signals executes what `called` says, with the reason for it among the
    /// environment. The alarm that was set before may come from now on.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn open(called: Called, told: impl Fn(&str) -> io::Result<CString>) -> io::Result<Self> {
        let reasons = SIGNALS.into_iter().map(|signal| {
            let reason = match signal {
                Signal::SIGALRM => "it has not taken over in time".to_owned(),
                crashed => format!("it crashed ({crashed})"),
            };
            Ok((signal, told(&reason)?))
        });
        let handlers = sys::Handlers::install(called, reasons.collect::<io::Result<_>>()?)?;
        SigSet::from(Signal::SIGALRM).thread_unblock()?;
        Ok(Self(handlers))
    }
}

impl Drop for WayBackGuard {
    fn drop(&mut self) {
        AlarmGuard::cancel();
    }
}

/// The program to go back to, as execve(2) wants it.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) path: CString,
    pub(super) words: Vec<CString>,
    pub(super) environment: Vec<CString>,
    /// The numbers of all descriptors that go over.
    pub(super) files: Vec<i32>,
}

/// An alarm that goes on in the program that is executed, and waits until that opens its way back: dropped, there is none.
#[derive(Debug)]
pub(super) struct AlarmGuard;

impl AlarmGuard {
    /// Sets it to go off when a program that steers by so many `bindings` should long have taken over.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn set(bindings: usize) -> io::Result<Self> {
        SigSet::from(Signal::SIGALRM).thread_block()?;
        let limit = LIMIT + Duration::from_secs((bindings / BINDINGS_A_SECOND) as u64);
        nix::unistd::alarm::set(u32::try_from(limit.as_secs()).unwrap_or(u32::MAX));
        Ok(Self)
    }

    /// There is none any more.
    pub(super) fn cancel() {
        nix::unistd::alarm::cancel();
    }
}

impl Drop for AlarmGuard {
    fn drop(&mut self) {
        Self::cancel();
    }
}

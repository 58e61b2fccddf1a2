//! The signals that a running instance obeys. Until they are caught they wait, and so they do while this process becomes another version of
//! its program: none is lost.

use std::io;

use nix::sys::signal::{SigSet, Signal as Number};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT, SIGTERM, SIGHUP and SIGUSR2, caught from now on.
pub(super) struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
    upgrade: Signal,
}

/// The wish of a signal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Signalled {
    /// SIGHUP.
    Reload,
    /// SIGINT or SIGTERM.
    Stop,
    /// SIGUSR2.
    Upgrade,
}

fn all() -> SigSet {
    [Number::SIGHUP, Number::SIGINT, Number::SIGTERM, Number::SIGUSR2].into_iter().collect()
}

/// Has them wait, for the calling thread and for those that it starts from now on.
pub(crate) fn hold() -> io::Result<()> {
    Ok(all().thread_block()?)
}

impl Signals {
    /// Those that have waited come first.
    pub(super) fn catch() -> io::Result<Self> {
        let signals = Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            upgrade: signal(SignalKind::user_defined2())?,
        };
        release()?;
        Ok(signals)
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Signalled {
        tokio::select! {
            _ = self.hangup.recv() => Signalled::Reload,
            _ = self.interrupt.recv() => Signalled::Stop,
            _ = self.terminate.recv() => Signalled::Stop,
            _ = self.upgrade.recv() => Signalled::Upgrade,
        }
    }
}

/// Has those that wait come to the calling thread.
pub(super) fn release() -> io::Result<()> {
    Ok(all().thread_unblock()?)
}

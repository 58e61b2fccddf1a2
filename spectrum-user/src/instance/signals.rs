//! The signals that a running instance obeys.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT, SIGTERM and SIGHUP, caught from now on.
pub(super) struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

/// The wish of a signal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Signalled {
    /// SIGHUP.
    Reload,
    /// SIGINT or SIGTERM.
    Stop,
}

impl Signals {
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Signalled {
        tokio::select! {
            _ = self.hangup.recv() => Signalled::Reload,
            _ = self.interrupt.recv() => Signalled::Stop,
            _ = self.terminate.recv() => Signalled::Stop,
        }
    }
}

//! A thread that does what it is told until nobody can tell it anything. What it is told, and does, is elsewhere.

use std::fmt;
use std::thread::JoinHandle;

use tokio::sync::mpsc::UnboundedSender;

/// A running thread, which ends when its channel is closed. Dropping this closes it and waits.
pub(super) struct Commanded<Command> {
    /// `None` only while being dropped.
    commands: Option<UnboundedSender<Command>>,
    handle: Option<JoinHandle<()>>,
}

impl<Command> Commanded<Command> {
    /// `handle` is of the thread that receives what `commands` sends.
    pub(super) fn new(commands: UnboundedSender<Command>, handle: JoinHandle<()>) -> Self {
        Self { commands: Some(commands), handle: Some(handle) }
    }

    /// A thread that is gone cannot be told anything, and need not be.
    pub(super) fn tell(&self, command: Command) {
        if let Some(commands) = &self.commands {
            let _ = commands.send(command);
        }
    }

    /// Returns when the thread has ended, which it must not while anybody can tell it something.
    pub(super) async fn ended(&self) {
        if let Some(commands) = &self.commands {
            commands.closed().await;
        }
    }
}

impl<Command> fmt::Debug for Commanded<Command> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commanded").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl<Command> Drop for Commanded<Command> {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(handle) = self.handle.take() {
            // A panic was printed when it happened.
            let _ = handle.join();
        }
    }
}

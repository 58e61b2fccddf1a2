//! Listeners that are not read yet, since another process still does, and how they are left to another one. Listens to nothing.

use tokio::sync::watch;

/// The way in which a listener is left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stopping {
    /// To another process, with what its queue holds.
    Abandoned,
    /// To nobody, once its queue is empty.
    Drained,
}

/// A wait for the moment from which listeners are read.
#[derive(Clone, Debug)]
pub(super) struct Hold(watch::Receiver<bool>);

/// The one who says when that is.
#[derive(Debug)]
pub(super) struct Holder(watch::Sender<bool>);

impl Default for Holder {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Holder {
    /// Has all wait, or no longer.
    pub(super) fn set(&self, is_held: bool) {
        self.0.send_replace(is_held);
    }

    /// A wait for it.
    pub(super) fn hold(&self) -> Hold {
        Hold(self.0.subscribe())
    }
}

impl Hold {
    /// Returns at once where nothing is held.
    pub(super) async fn over(mut self) {
        // Who said so is gone only with whoever reads.
        let _ = self.0.wait_for(|is_held| !is_held).await;
    }
}

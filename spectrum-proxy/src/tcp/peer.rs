//! A connected socket that never pretends: what is dropped unfinished is reset, not closed.

use std::cell::Cell;
use std::ops::Deref;

use super::stream::Stream;

/// One side of a connection. Dropped before [`Peer::finish`], whether by an error, a cut or a panic, it sends a RST, so
/// that a truncated stream never looks complete.
#[derive(Debug)]
pub(crate) struct Peer {
    stream: Stream,
    finished: Cell<bool>,
}

impl Peer {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, finished: Cell::new(false) }
    }

    /// Everything was said: dropping it now is an ordinary close.
    pub(crate) fn finish(&self) {
        self.finished.set(true);
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished.get()
    }
}

impl Deref for Peer {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if !self.is_finished() {
            // Nothing is left to do for a socket that refuses even this: it is closed either way.
            let _ = self.stream.set_zero_linger();
        }
    }
}

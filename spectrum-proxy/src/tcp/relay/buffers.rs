//! A worker's buffers in user space. Moves nothing from a socket to another.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll};

use crate::tcp::stream::Stream;

/// The most that one read takes, and the most that a stalled direction holds.
pub(crate) const CHUNK: usize = 64 * 1024;

/// The number of unused buffers that a worker keeps.
const SPARES: usize = 8;

/// A worker's buffers. A direction holds one only while the receiver has not taken everything, so that idle connections
/// cost none, and moving bytes allocates none.
#[derive(Debug, Default)]
pub(crate) struct Buffers(RefCell<Vec<Box<[u8]>>>);

impl Buffers {
    /// A buffer of [`CHUNK`] bytes, whatever is in it.
    pub(crate) fn take(&self) -> Box<[u8]> {
        self.0.borrow_mut().pop().unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice())
    }

    /// Takes a buffer back.
    pub(crate) fn give(&self, buffer: Box<[u8]>) {
        let mut spares = self.0.borrow_mut();
        if spares.len() < SPARES {
            spares.push(buffer);
        }
    }

    /// Reads once from `stream` and forgets what came: the number of bytes, 0 at the end.
    pub(crate) fn poll_discard(&self, stream: &Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = self.take();
        let polled = stream.poll_recv(&mut buffer, cx);
        self.give(buffer);
        polled
    }
}

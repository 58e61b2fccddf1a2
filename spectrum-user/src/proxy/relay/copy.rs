//! One direction of a relay by read and write through a user-space buffer. Does not know which direction it is.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

/// The most that one read takes, and the most that a stalled direction holds.
const CHUNK: usize = 64 * 1024;

/// How many chunks one direction moves before the other one, and other connections, have their turn. Two operations each:
/// well within the runtime's budget per poll, which the first direction would otherwise use up alone.
const TURN: usize = 16;

/// How many unused buffers a worker keeps.
const SPARES: usize = 8;

/// A worker's buffers. A direction holds one only while the receiver has not taken everything, so that idle connections
/// cost none, and moving bytes allocates none.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Buffers(RefCell<Vec<Box<[u8]>>>);

impl Buffers {
    /// Lets `used` have a buffer that any datagram fits in.
    pub(in crate::proxy) fn lend<T>(&self, used: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut buffer = self.take();
        let result = used(&mut buffer);
        self.give(buffer);
        result
    }

    fn take(&self) -> Box<[u8]> {
        self.0.borrow_mut().pop().unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice())
    }

    fn give(&self, buffer: Box<[u8]>) {
        let mut spares = self.0.borrow_mut();
        if spares.len() < SPARES {
            spares.push(buffer);
        }
    }

    /// Reads once from `stream` and forgets what came: the number of bytes, 0 at the end.
    pub(in crate::proxy) fn poll_discard(
        &self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut buffer = self.take();
        let mut read = ReadBuf::new(&mut buffer);
        let polled = Pin::new(stream).poll_read(cx, &mut read).map_ok(|()| read.filled().len());
        self.give(buffer);
        polled
    }
}

/// Where to count, where it is of interest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts<'a> {
    pub(super) read: Option<&'a Cell<u64>>,
    pub(super) written: Option<&'a Cell<u64>>,
}

/// Which end of a direction failed.
#[derive(Debug)]
pub(super) enum Broken {
    /// Reading from the source.
    Read(io::Error),
    /// Writing to the sink, or passing the FIN on.
    Write(io::Error),
}

/// One direction in progress.
pub(super) struct Copy<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    counts: Counts<'a>,
    buffers: &'a Buffers,
    held: Option<Held>,
    source_ended: bool,
}

/// What was read and not yet written: `buffer[start..end]`, never empty.
struct Held {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<'a> Copy<'a> {
    pub(super) fn new(
        from: ReadHalf<'a>,
        to: WriteHalf<'a>,
        counts: Counts<'a>,
        buffers: &'a Buffers,
    ) -> Self {
        Self { from, to, counts, buffers, held: None, source_ended: false }
    }

    /// The socket that is read from.
    pub(super) fn source(&self) -> &TcpStream {
        self.from.as_ref()
    }

    /// Moves what can be moved now. Ready once the source's FIN was passed on; must not be polled after that.
    ///
    /// A poll that finds the socket half full tells the runtime that it is drained, which spares the system call that
    /// would only answer EAGAIN.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        for _ in 0..TURN {
            ready!(self.poll_flush(cx)).map_err(Broken::Write)?;
            if self.source_ended {
                return Pin::new(&mut self.to).poll_shutdown(cx).map_err(Broken::Write);
            }
            ready!(self.poll_fill(cx)).map_err(Broken::Read)?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(held) = &mut self.held {
            let rest = held.buffer.get(held.start..held.end).unwrap_or_default();
            let written = ready!(Pin::new(&mut self.to).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            count(self.counts.written, written);
            held.start += written;
            if held.start == held.end
                && let Some(held) = self.held.take()
            {
                self.buffers.give(held.buffer);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut buffer = self.buffers.take();
        let mut read = ReadBuf::new(&mut buffer);
        let polled = Pin::new(&mut self.from).poll_read(cx, &mut read).map_ok(|()| read.filled().len());
        match polled {
            Poll::Ready(Ok(end @ 1..)) => {
                count(self.counts.read, end);
                self.held = Some(Held { buffer, start: 0, end });
                Poll::Ready(Ok(()))
            }
            other => {
                self.buffers.give(buffer);
                self.source_ended = matches!(other, Poll::Ready(Ok(0)));
                other.map_ok(|_| ())
            }
        }
    }
}

fn count(counter: Option<&Cell<u64>>, bytes: usize) {
    if let Some(counter) = counter {
        counter.set(counter.get() + bytes as u64);
    }
}

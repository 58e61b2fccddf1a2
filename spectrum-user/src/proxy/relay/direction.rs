//! One direction of a relay: by read and write through a buffer, or through a pipe within the kernel where so much comes
//! that this is cheaper. Does not know which direction it is.

use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::buffers::{Buffers, CHUNK};
use super::pipes::{Pipe, Pipes, Share};
use crate::proxy::traffic::Meter;

/// How many chunks one direction moves before the other one, and other connections, have their turn. Two operations each:
/// well within the runtime's budget per poll, which the first direction would otherwise use up alone.
const TURN: usize = 16;

/// How many bytes it moves at most, or one chunk more than that.
const TURN_BYTES: usize = 4 << 20;

/// After how many full buffers a pipe is tried. A pipe costs as much as a buffer up to the 64 KiB that a buffer holds, a
/// quarter less at 128 KiB, and two fifths less at 256 KiB (Linux 6.18, loopback).
const FULL: u8 = 2;

/// What is little: it sets the count of full buffers back, and a pipe is given up after so many such fillings in a row.
const LITTLE: usize = CHUNK / 4;
const SMALL: u8 = 4;

/// What bytes are moved with.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Means<'a> {
    /// The worker's buffers.
    pub(in crate::proxy) buffers: &'a Buffers,
    /// The worker's pipes.
    pub(in crate::proxy) pipes: &'a Pipes,
    /// When to use which.
    pub(in crate::proxy) strategy: Strategy,
}

/// When to use buffers and when pipes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::proxy) enum Strategy {
    /// Whatever suits what comes.
    #[default]
    Adaptive,
    /// Buffers only.
    #[cfg(test)]
    Copy,
    /// Pipes wherever there is one.
    #[cfg(test)]
    Splice,
}

/// Where to count, where it is of interest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts<'a> {
    pub(super) read: Option<&'a Meter>,
    pub(super) written: Option<&'a Meter>,
}

/// Which end of a direction failed.
#[derive(Debug)]
pub(super) enum Broken {
    /// Reading from the source.
    Read(io::Error),
    /// Writing to the sink, or passing the FIN on.
    Write(io::Error),
}

/// How a FIN is passed on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fin {
    /// By closing the sink, which whoever owns it does next: its other direction is done.
    ByClosing,
    /// By shutting down one direction of the sink.
    ByShutdown,
    /// Not at all: the source has been reset, though an end is what its socket shows by now.
    Withheld,
}

/// One direction in progress.
pub(super) struct Direction<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    counts: Counts<'a>,
    means: Means<'a>,
    held: Held,
    source: Source,
    pace: Pace<'a>,
    /// How often something was read or written.
    pub(super) moves: u64,
    /// How the source's FIN is to be passed on.
    pub(super) fin: Fin,
}

/// What was read and not yet written; never empty.
enum Held {
    /// `buffer[start..end]`.
    Buffer { buffer: Box<[u8]>, start: usize, end: usize },
    /// Nothing, and so neither a buffer nor a pipe.
    Nothing,
    /// So many bytes.
    Pipe { pipe: Pipe, bytes: usize },
}

/// What may still come.
enum Source {
    /// Nothing: a FIN came.
    Ended,
    /// Nothing: this happened after what is held was read.
    Failed(io::Error),
    /// More.
    Open,
}

/// What the last fillings say about the next one.
enum Pace<'a> {
    /// Use a buffer: so many were full since little came.
    Buffers(u8),
    /// Use a pipe: so many fillings in a row were small.
    Pipes { share: Share<'a>, small: u8 },
}

impl<'a> Direction<'a> {
    pub(super) fn new(from: &'a TcpStream, to: &'a TcpStream, counts: Counts<'a>, means: Means<'a>) -> Self {
        let pace = match means.strategy {
            #[cfg(test)]
            Strategy::Splice => Pace::Pipes { share: means.pipes.share(), small: 0 },
            _ => Pace::Buffers(0),
        };
        Self {
            from,
            to,
            counts,
            means,
            held: Held::Nothing,
            source: Source::Open,
            pace,
            moves: 0,
            fin: Fin::ByShutdown,
        }
    }

    /// The socket that is read from.
    pub(super) fn source(&self) -> &'a TcpStream {
        self.from
    }

    /// How many bytes were read and not yet written.
    pub(super) fn holds(&self) -> usize {
        match &self.held {
            Held::Buffer { start, end, .. } => end - start,
            Held::Nothing => 0,
            Held::Pipe { bytes, .. } => *bytes,
        }
    }

    /// Moves what can be moved now. Ready once the source's FIN was passed on; must not be polled after that.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut moved = 0;
        for _ in 0..TURN {
            ready!(self.poll_flush(cx)).map_err(Broken::Write)?;
            if moved >= TURN_BYTES {
                break;
            }
            match std::mem::replace(&mut self.source, Source::Open) {
                Source::Open => {
                    ready!(self.poll_fill(cx)).map_err(Broken::Read)?;
                    moved += self.holds();
                }
                Source::Failed(error) => return Poll::Ready(Err(Broken::Read(error))),
                Source::Ended => {
                    self.source = Source::Ended;
                    return match self.fin {
                        Fin::ByClosing | Fin::Withheld => Poll::Ready(Ok(())),
                        Fin::ByShutdown => Poll::Ready(
                            SockRef::from(self.to).shutdown(Shutdown::Write).map_err(Broken::Write),
                        ),
                    };
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let written = match &mut self.held {
                Held::Nothing => return Poll::Ready(Ok(())),
                Held::Buffer { buffer, start, end } => {
                    let rest = buffer.get(*start..*end).unwrap_or_default();
                    let flags = match self.source {
                        // The FIN follows at once, and goes with the last of the bytes.
                        Source::Ended if self.fin != Fin::Withheld => SendFlags::MORE,
                        _ => SendFlags::empty(),
                    };
                    let written = ready!(poll_send(self.to, rest, flags, cx))?;
                    *start += written;
                    written
                }
                Held::Pipe { pipe, bytes } => {
                    let written = ready!(pipe.poll_drain(self.to, *bytes, cx))?;
                    *bytes -= written;
                    written
                }
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.moves += 1;
            count(self.counts.written, written);
            self.release();
        }
    }

    /// Gives back what holds nothing any more.
    fn release(&mut self) {
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Buffer { buffer, start, end } if start == end => self.means.buffers.give(buffer),
            Held::Pipe { pipe, bytes: 0 } => self.means.pipes.give(pipe),
            held => self.held = held,
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Pace::Pipes { share, .. } = &self.pace {
            if let Some(pipe) = share.take() {
                return self.poll_fill_pipe(pipe, cx);
            }
            self.pace = Pace::Buffers(0);
        }
        self.poll_fill_buffer(cx)
    }

    /// Reads until a buffer is full or nothing is left.
    fn poll_fill_buffer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut buffer = self.means.buffers.take();
        let mut end = 0;
        let mut waiting = Poll::Ready(Ok(()));
        while let Some(room) = buffer.get_mut(end..).filter(|room| !room.is_empty()) {
            match poll_recv(self.from, room, cx) {
                Poll::Ready(Ok(0)) => {
                    self.source = Source::Ended;
                    break;
                }
                Poll::Ready(Ok(bytes)) => end += bytes,
                // An error is told once: were it forgotten, the stream would seem to end in order.
                Poll::Ready(Err(error)) => {
                    self.source = Source::Failed(error);
                    break;
                }
                Poll::Pending => {
                    waiting = Poll::Pending;
                    break;
                }
            }
        }
        if end == 0 {
            self.means.buffers.give(buffer);
            return waiting;
        }
        self.moves += 1;
        count(self.counts.read, end);
        self.pace = match self.pace {
            Pace::Buffers(full) if end == CHUNK && full + 1 < FULL => Pace::Buffers(full + 1),
            Pace::Buffers(_) if end == CHUNK && self.means.strategy == Strategy::Adaptive => {
                Pace::Pipes { share: self.means.pipes.share(), small: 0 }
            }
            Pace::Buffers(full) if end > LITTLE => Pace::Buffers(full),
            _ => Pace::Buffers(0),
        };
        self.held = Held::Buffer { buffer, start: 0, end };
        Poll::Ready(Ok(()))
    }

    fn poll_fill_pipe(&mut self, pipe: Pipe, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = pipe.poll_fill(self.from, cx);
        match polled {
            Poll::Ready(Ok(bytes @ 1..)) => {
                self.moves += 1;
                count(self.counts.read, bytes);
                if let Pace::Pipes { small, .. } = &mut self.pace {
                    *small = if bytes > LITTLE { 0 } else { small.saturating_add(1) };
                    if *small >= SMALL && self.means.strategy == Strategy::Adaptive {
                        self.pace = Pace::Buffers(0);
                    }
                }
                self.held = Held::Pipe { pipe, bytes };
                Poll::Ready(Ok(()))
            }
            other => {
                self.means.pipes.give(pipe);
                if matches!(other, Poll::Ready(Ok(0))) {
                    self.source = Source::Ended;
                }
                other.map_ok(|_| ())
            }
        }
    }
}

impl Drop for Direction<'_> {
    fn drop(&mut self) {
        if let Held::Pipe { pipe, .. } = std::mem::replace(&mut self.held, Held::Nothing) {
            self.means.pipes.discard(pipe);
        }
    }
}

/// Receives once, without the C library, whose every call that may block also prepares for its thread being cancelled: a
/// fiftieth of what passing on a small message costs. A receipt that does not fill the buffer has drained the socket, which is told to the runtime: asking
/// again then costs a system call only where a FIN or a reset has been seen, as in `tokio`'s own `poll_read`.
fn poll_recv(from: &TcpStream, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    loop {
        ready!(from.poll_read_ready(cx))?;
        let mut drained = None;
        let received = from.try_io(Interest::READABLE, || {
            let (bytes, _) = recv(from, &mut *buffer, RecvFlags::DONTWAIT)?;
            if bytes > 0 && bytes < buffer.len() {
                drained = Some(bytes);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(bytes)
        });
        match (received, drained) {
            (Err(_), Some(bytes)) => return Poll::Ready(Ok(bytes)),
            (Err(error), None) if is_transient(&error) => {}
            (received, _) => return Poll::Ready(received),
        }
    }
}

/// Sends once. What does not take everything is full, which is told to the runtime likewise.
fn poll_send(
    to: &TcpStream,
    bytes: &[u8],
    flags: SendFlags,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(to.poll_write_ready(cx))?;
        let mut full = None;
        let sent = to.try_io(Interest::WRITABLE, || {
            let sent = send(to, bytes, flags | SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
            if sent > 0 && sent < bytes.len() {
                full = Some(sent);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(sent)
        });
        match (sent, full) {
            (Err(_), Some(sent)) => return Poll::Ready(Ok(sent)),
            (Err(error), None) if is_transient(&error) => {}
            (sent, _) => return Poll::Ready(sent),
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn count(meter: Option<&Meter>, bytes: usize) {
    if let Some(meter) = meter {
        meter.add(bytes);
    }
}

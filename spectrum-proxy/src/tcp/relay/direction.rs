//! One direction of a relay: by read and write through a buffer, or through a pipe within the kernel where so much comes
//! that this is cheaper. Does not know which direction it is.

use std::io;
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;

use super::buffers::{Buffers, CHUNK};
use super::pipes::{Pipe, PipeShare, Pipes};
use crate::tcp::stream::Stream;
use crate::traffic::Meter;

/// The number of chunks that one direction moves before the other one, and other connections, have their turn. Two
/// operations each: well within the runtime's budget per poll, which the first direction would otherwise use up alone.
const TURN: usize = 16;

/// The number of bytes that it moves at most, or one chunk more than that.
const TURN_BYTES: usize = 4 << 20;

/// After how many full buffers a pipe is tried. A pipe costs as much as a buffer up to the 64 KiB that a buffer holds, a
/// quarter less at 128 KiB, and two fifths less at 256 KiB (Linux 6.18, loopback).
const FULL: u8 = 2;

/// The fewest bytes that are not little: little sets the count of full buffers back, and a pipe is given up after so many
/// such fillings in a row.
const LITTLE: usize = CHUNK / 4;
const SMALL: u8 = 4;

/// The means with which bytes are moved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means<'a> {
    /// The worker's buffers.
    pub(crate) buffers: &'a Buffers,
    /// The worker's pipes.
    pub(crate) pipes: &'a Pipes,
    /// When to use which.
    pub(crate) strategy: Strategy,
}

/// When to use buffers and when pipes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Strategy {
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

/// The counters, where they are of interest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meters<'a> {
    pub(crate) read: Option<&'a Meter>,
    pub(crate) written: Option<&'a Meter>,
}

/// Which end of a direction failed.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Reading from the source.
    Read(io::Error),
    /// Writing to the sink, or passing the FIN on.
    Write(io::Error),
}

/// The way in which a FIN is passed on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fin {
    /// By closing the sink, which whoever owns it does next: its other direction is done.
    ByClosing,
    /// By shutting down one direction of the sink.
    ByShutdown,
    /// Not at all: the source has been reset, though an end is what its socket shows by now.
    Withheld,
}

/// One direction in progress.
pub(crate) struct Direction<'a> {
    from: &'a Stream,
    to: &'a Stream,
    counts: Meters<'a>,
    means: Means<'a>,
    held: Unwritten,
    source: SourceState,
    pace: Pace<'a>,
    /// The number of times that something was read or written.
    pub(crate) moves: u64,
    /// The way in which the source's FIN is to be passed on.
    pub(crate) fin: Fin,
}

/// The bytes read and not yet written; never empty.
enum Unwritten {
    /// `buffer[start..end]`.
    Buffer { buffer: Box<[u8]>, start: usize, end: usize },
    /// Nothing, and so neither a buffer nor a pipe.
    Nothing,
    /// So many bytes.
    Pipe { pipe: Pipe, bytes: usize },
}

/// The state of the side that bytes come from.
enum SourceState {
    /// Nothing: a FIN came.
    Ended,
    /// Nothing: this happened after what is held was read.
    Failed(io::Error),
    /// More.
    Open,
}

/// The forecast of the last fillings for the next one.
enum Pace<'a> {
    /// Use a buffer: so many were full since little came.
    Buffers(u8),
    /// Use a pipe: so many fillings in a row were small.
    Pipes { share: PipeShare<'a>, small: u8 },
}

impl<'a> Direction<'a> {
    pub(crate) fn new(from: &'a Stream, to: &'a Stream, counts: Meters<'a>, means: Means<'a>) -> Self {
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
            held: Unwritten::Nothing,
            source: SourceState::Open,
            pace,
            moves: 0,
            fin: Fin::ByShutdown,
        }
    }

    /// The socket that is read from.
    pub(crate) fn source(&self) -> &'a Stream {
        self.from
    }

    /// The number of bytes read and not yet written.
    pub(crate) fn holds(&self) -> usize {
        match &self.held {
            Unwritten::Buffer { start, end, .. } => end - start,
            Unwritten::Nothing => 0,
            Unwritten::Pipe { bytes, .. } => *bytes,
        }
    }

    /// Moves what can be moved now. Ready once the source's FIN was passed on; must not be polled after that.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut moved = 0;
        for _ in 0..TURN {
            ready!(self.poll_flush(cx)).map_err(Broken::Write)?;
            if moved >= TURN_BYTES {
                break;
            }
            match std::mem::replace(&mut self.source, SourceState::Open) {
                SourceState::Open => {
                    ready!(self.poll_fill(cx)).map_err(Broken::Read)?;
                    moved += self.holds();
                }
                SourceState::Failed(error) => return Poll::Ready(Err(Broken::Read(error))),
                SourceState::Ended => {
                    self.source = SourceState::Ended;
                    return match self.fin {
                        Fin::ByClosing | Fin::Withheld => Poll::Ready(Ok(())),
                        Fin::ByShutdown => Poll::Ready(self.to.shut_down().map_err(Broken::Write)),
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
                Unwritten::Nothing => return Poll::Ready(Ok(())),
                Unwritten::Buffer { buffer, start, end } => {
                    let rest = buffer.get(*start..*end).unwrap_or_default();
                    let flags = match self.source {
                        // The FIN follows at once, and goes with the last of the bytes.
                        SourceState::Ended if self.fin != Fin::Withheld => SendFlags::MORE,
                        _ => SendFlags::empty(),
                    };
                    let written = ready!(self.to.poll_send(rest, flags, cx))?;
                    *start += written;
                    written
                }
                Unwritten::Pipe { pipe, bytes } => {
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
        match std::mem::replace(&mut self.held, Unwritten::Nothing) {
            Unwritten::Buffer { buffer, start, end } if start == end => self.means.buffers.give(buffer),
            Unwritten::Pipe { pipe, bytes: 0 } => self.means.pipes.give(pipe),
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
            match self.from.poll_recv(room, cx) {
                Poll::Ready(Ok(0)) => {
                    self.source = SourceState::Ended;
                    break;
                }
                Poll::Ready(Ok(bytes)) => end += bytes,
                // An error is told once: were it forgotten, the stream would seem to end in order.
                Poll::Ready(Err(error)) => {
                    self.source = SourceState::Failed(error);
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
        if let Pace::Buffers(full) = self.pace {
            self.pace = match end {
                CHUNK if full + 1 < FULL => Pace::Buffers(full + 1),
                CHUNK if self.means.strategy == Strategy::Adaptive => {
                    Pace::Pipes { share: self.means.pipes.share(), small: 0 }
                }
                _ if end > LITTLE => Pace::Buffers(full),
                _ => Pace::Buffers(0),
            };
        }
        self.held = Unwritten::Buffer { buffer, start: 0, end };
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
                self.held = Unwritten::Pipe { pipe, bytes };
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(0)) => {
                self.means.pipes.give(pipe);
                self.poll_fill_buffer(cx)
            }
            other => {
                self.means.pipes.give(pipe);
                other.map_ok(drop)
            }
        }
    }
}

impl Drop for Direction<'_> {
    fn drop(&mut self) {
        if let Unwritten::Pipe { pipe, .. } = std::mem::replace(&mut self.held, Unwritten::Nothing) {
            self.means.pipes.discard(pipe);
        }
    }
}

fn count(meter: Option<&Meter>, bytes: usize) {
    if let Some(meter) = meter {
        meter.add(bytes);
    }
}

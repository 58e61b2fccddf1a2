//! One stream: what waits for it, and how it is given that in pieces without waiting for it. Whatever it says to a piece,
//! the rest waits until it takes more. Does not know what lines mean.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::stat::{SFlag, fstat};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::losses::{LossKind, Losses};

/// The bytes that may wait, of which records leave [`RESERVE`] to the rest.
const BACKLOG: usize = 1 << 20;

/// The bytes that no record may take, so that a flood of them does not keep out what explains it.
const RESERVE: usize = BACKLOG / 4;

/// A pipe takes so much whole or not at all, and where it has room for anything it has room for that (pipe(7)): so lines
/// that are no longer are never torn, and writing does not block.
const PIECE: usize = 4096;

/// The same of a file, which always has room or none.
const PIECE_OF_FILE: usize = 32 * 1024;

/// The time until a stream that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// More memory than this is given back when nothing waits any more.
const KEPT: usize = 64 * 1024;

/// A stream, and what waits for it.
pub(super) struct OutputStream {
    sink: Box<dyn AsFd + Send>,
    is_file: bool,
    losses: Losses,
    /// The lines that wait, one after the other from `begin` on.
    bytes: Vec<u8>,
    begin: usize,
    lines: VecDeque<(usize, LossKind)>,
    /// The bytes of the first line that the stream has already.
    sent: usize,
    /// The file's length in bytes when it took that and then failed, if it is one.
    length: Option<i64>,
    state: StreamState,
    /// The last thing that was in the way.
    obstacle: Option<String>,
}

/// The last word of a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum StreamState {
    /// It fails, and is tried again then.
    Failing { due: Instant },
    /// It takes what comes.
    Open,
    /// It has no room.
    Stalled,
}

impl OutputStream {
    pub(super) fn new(sink: Box<dyn AsFd + Send>, losses: Losses) -> Self {
        Self {
            is_file: file_length(&sink).is_some(),
            sink,
            losses,
            bytes: Vec::new(),
            begin: 0,
            lines: VecDeque::new(),
            sent: 0,
            length: None,
            state: StreamState::Open,
            obstacle: None,
        }
    }

    /// Lets a line wait, or loses it.
    pub(super) fn push(&mut self, kind: LossKind, line: &[u8]) {
        let most = match kind {
            LossKind::Record => BACKLOG - RESERVE,
            LossKind::Answer | LossKind::Line => BACKLOG,
        };
        if self.waiting_bytes() + line.len() > most {
            self.losses.add(kind, 1);
            return;
        }
        // Moved to the front now and then, so that the buffer grows no longer than what waits.
        if self.begin > 0 && self.bytes.len() + line.len() > self.bytes.capacity() {
            self.bytes.drain(..self.begin);
            self.begin = 0;
        }
        self.bytes.extend_from_slice(line);
        self.lines.push_back((line.len(), kind));
    }

    /// The bytes that wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.bytes.len() - self.begin
    }

    /// True if nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// True if it is of no use to wait for room.
    pub(super) fn is_failing(&self) -> bool {
        matches!(self.state, StreamState::Failing { .. })
    }

    /// When it is to be tried again, if it failed and something waits.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            StreamState::Failing { due } if !self.is_empty() => Some(due),
            _ => None,
        }
    }

    /// True if something waits for room.
    pub(super) fn is_stalled(&self) -> bool {
        self.state == StreamState::Stalled && !self.is_empty()
    }

    /// Has it tried at once though it failed.
    pub(super) fn hurry(&mut self) {
        if let StreamState::Failing { due } = &mut self.state {
            *due = Instant::now();
        }
    }

    /// The last thing that was in the way, for who tells of losses.
    pub(super) fn obstacle(&self) -> Option<&str> {
        self.obstacle.as_deref()
    }

    /// The event to wait for.
    pub(super) fn room(&self) -> PollFd<'_> {
        PollFd::from_borrowed_fd(self.sink.as_fd(), PollFlags::OUT)
    }

    /// Writes what it takes.
    pub(super) fn write_out(&mut self) {
        if let StreamState::Failing { due } = self.state {
            if Instant::now() < due {
                return;
            }
            if self.sent > 0
                && let Err(error) = self.mend()
            {
                self.fail(&error);
                return;
            }
        }
        while !self.is_empty() {
            match self.write_piece() {
                Ok(0) => {
                    self.state = StreamState::Stalled;
                    self.obstacle = Some("it was read too slowly".to_owned());
                    return;
                }
                Ok(written) => self.wrote(written),
                Err(error) => {
                    self.length = file_length(&self.sink);
                    self.fail(&error);
                    return;
                }
            }
        }
        self.state = StreamState::Open;
        if self.bytes.capacity() > KEPT {
            self.bytes = Vec::new();
            self.lines.shrink_to(0);
        }
    }

    fn fail(&mut self, error: &io::Error) {
        self.obstacle = Some(error.to_string());
        self.state = StreamState::Failing { due: Instant::now() + RETRY };
    }

    /// After part of a line and a failure: a file that is as it was gets the rest. Whoever else reads on, a new reader of
    /// a FIFO say, gets the whole line, on a line of its own.
    fn mend(&mut self) -> io::Result<()> {
        let now = file_length(&self.sink);
        if now.is_none() || now != self.length {
            if now != Some(0) && self.write(b"\n")? == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.sent = 0;
        }
        self.state = StreamState::Open;
        Ok(())
    }

    /// As many whole lines as make a piece, or part of one that is longer: how many bytes of that were taken.
    fn write_piece(&self) -> io::Result<usize> {
        let most = if self.is_file { PIECE_OF_FILE } else { PIECE };
        let mut length = 0;
        for (line, _) in &self.lines {
            let more = line - if length == 0 { self.sent } else { 0 };
            if length > 0 && length + more > most {
                break;
            }
            length += more;
        }
        let begin = self.begin + self.sent;
        let piece = self.bytes.get(begin..begin + length.min(most)).unwrap_or_default();
        self.write(piece)
    }

    /// The number of bytes that were taken; 0 if there is no room.
    fn write(&self, piece: &[u8]) -> io::Result<usize> {
        // What is written to may be shared, so it is not made nonblocking: that would be for all.
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            if !self.is_file && matches!(poll(&mut [self.room()], Some(&now)), Ok(0)) {
                return Ok(0);
            }
            match rustix::io::write(self.sink.as_fd(), piece) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(0),
                written => return Ok(written?),
            }
        }
    }

    fn wrote(&mut self, written: usize) {
        let mut left = self.sent + written;
        while let Some((line, _)) = self.lines.front().copied()
            && line <= left
        {
            left -= line;
            self.begin += line;
            self.lines.pop_front();
        }
        self.sent = left;
        if self.is_empty() {
            self.bytes.clear();
            self.begin = 0;
        }
    }
}

/// The file's length in bytes, if it is a file.
fn file_length(sink: &impl AsFd) -> Option<i64> {
    let status = fstat(sink.as_fd()).ok()?;
    let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
    (kind == SFlag::S_IFREG).then_some(status.st_size)
}

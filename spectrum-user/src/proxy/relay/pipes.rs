//! A worker's pipes, through which the kernel passes bytes from a socket to another without copying them. Decides nothing
//! about when that pays.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// The most that one pipe holds: four times the kernel's default, for a quarter of the system calls.
pub(super) const CAPACITY: usize = 256 * 1024;

/// How many unused pipes a worker keeps.
const SPARES: usize = 16;

/// A pipe's two ends.
const DESCRIPTORS: usize = 2;

/// Where the kernel tells how many pages of pipes a user may have before it gives less (pipe(7)).
const SOFT_LIMIT: &str = "/proc/sys/fs/pipe-user-pages-soft";

/// How many pages a user may have where the kernel does not tell: its default.
const SOFT_PAGES: usize = 16_384;

/// A worker's pipes: few, as each may hold that much memory, and none for a connection that moves little.
#[derive(Debug)]
pub(in crate::proxy) struct Pipes {
    spares: RefCell<Vec<Pipe>>,
    /// How many there are, the spares among them.
    made: Cell<usize>,
    most: usize,
}

/// A pipe. Empty whenever it is given back.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipes {
    /// As many as one of `workers` may have, so that all of them use no more than half of what one user may: beyond that
    /// the kernel's pipes shrink to a page or two, everybody's. Nor more than an eighth of the `descriptors` of the process:
    /// connections need those more.
    pub(in crate::proxy) fn for_one_of(workers: usize, descriptors: u64) -> Self {
        let told = fs::read_to_string(SOFT_LIMIT).ok().and_then(|pages| pages.trim().parse().ok());
        let pages = match told {
            // No limit; ours is the default one.
            None | Some(0) => SOFT_PAGES,
            Some(pages) => pages,
        };
        let by_memory = pages / 2 * 4096 / CAPACITY;
        let by_descriptors = usize::try_from(descriptors / 8).unwrap_or(usize::MAX) / DESCRIPTORS;
        Self::at_most(by_memory.min(by_descriptors) / workers.max(1))
    }

    /// How many descriptors all that there may be take.
    pub(in crate::proxy) fn descriptors(&self) -> usize {
        self.most * DESCRIPTORS
    }

    /// At most so many.
    pub(super) fn at_most(most: usize) -> Self {
        Self { spares: RefCell::default(), made: Cell::new(0), most }
    }

    /// An empty pipe; `None` where there are as many as there may be, or the system has none to give.
    pub(super) fn take(&self) -> Option<Pipe> {
        if let Some(pipe) = self.spares.borrow_mut().pop() {
            return Some(pipe);
        }
        if self.made.get() >= self.most {
            return None;
        }
        let pipe = Pipe::open().ok()?;
        self.made.set(self.made.get() + 1);
        Some(pipe)
    }

    /// Takes an empty pipe back.
    pub(super) fn give(&self, pipe: Pipe) {
        let mut spares = self.spares.borrow_mut();
        if spares.len() < SPARES {
            spares.push(pipe);
        } else {
            drop(spares);
            self.discard(pipe);
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn made(&self) -> usize {
        self.made.get()
    }

    /// How many are in use.
    #[cfg(test)]
    pub(super) fn lost(&self) -> usize {
        self.made.get() - self.spares.borrow().len()
    }

    /// Closes a pipe, whatever is in it.
    pub(super) fn discard(&self, pipe: Pipe) {
        drop(pipe);
        self.made.set(self.made.get() - 1);
    }
}

impl Pipe {
    fn open() -> Result<Self, Errno> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&write, CAPACITY)?;
        Ok(Self { read, write })
    }

    /// Takes what `from` has, to be called with an empty pipe: the number of bytes, 0 at the end.
    pub(super) fn poll_fill(&self, from: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            let moved = from.try_io(Interest::READABLE, || shift(from.as_fd(), self.write.as_fd(), CAPACITY));
            if !is_blocked(&moved) {
                return Poll::Ready(moved);
            }
        }
    }

    /// Gives `to` what it takes of the pipe's `bytes`: how many those were.
    pub(super) fn poll_drain(
        &self,
        to: &TcpStream,
        bytes: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            let moved = to.try_io(Interest::WRITABLE, || shift(self.read.as_fd(), to.as_fd(), bytes));
            if !is_blocked(&moved) {
                return Poll::Ready(moved);
            }
        }
    }
}

fn is_blocked(moved: &io::Result<usize>) -> bool {
    moved.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

fn shift(from: BorrowedFd<'_>, to: BorrowedFd<'_>, bytes: usize) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        match splice(from, None, to, None, bytes, flags) {
            Err(Errno::INTR) => {}
            other => return other.map_err(Into::into),
        }
    }
}

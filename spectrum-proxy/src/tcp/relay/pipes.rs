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

use crate::tcp::stream::Stream;

/// The bytes that a pipe holds at least: four times the kernel's default, for a quarter of the system calls.
pub(crate) const SMALLEST: usize = 256 * 1024;

/// The bytes that a pipe holds at most: more the kernel does not give to everybody (`pipe-max-size`, pipe(7)).
pub(crate) const LARGEST: usize = 1024 * 1024;

/// The bytes that a worker's directions may have under way in pipes before each has a smaller one. A byte costs less the
/// larger the pipe, and more again when all that is under way no longer fits the CPU's caches.
const TOGETHER: usize = 2 * 1024 * 1024;

/// The number of pipes that a direction takes before they are larger than the smallest: who comes together with many
/// others shall not begin with what is for few, nor shall a short transfer have a pipe resized.
const MANY: u8 = 64;

/// The number of unused pipes that a worker keeps.
const SPARES: usize = 16;

/// A pipe's two ends.
const DESCRIPTORS: usize = 2;

/// The file in which the kernel tells how many pages of pipes a user may have before it gives less (pipe(7)).
const SOFT_LIMIT: &str = "/proc/sys/fs/pipe-user-pages-soft";

/// The number of pages that a user may have where the kernel does not tell: its default.
const SOFT_PAGES: usize = 16_384;

/// A worker's pipes: few, as each may hold that much memory, and none for a connection that moves little.
#[derive(Debug)]
pub(crate) struct Pipes {
    spares: RefCell<Vec<Pipe>>,
    /// The capacities of all there are, the spares among them, in bytes.
    held: Cell<usize>,
    most: usize,
    /// The number of directions that share them.
    shares: Cell<usize>,
    /// The bytes that the kernel lets one hold.
    largest: Cell<usize>,
}

/// The share of a direction in a worker's pipes, for as long as it goes through them. The more there are, the smaller the
/// pipes.
#[derive(Debug)]
pub(crate) struct PipeShare<'a> {
    pipes: &'a Pipes,
    /// The number that it has taken, up to [`MANY`].
    taken: Cell<u8>,
}

/// A pipe. Empty whenever it is given back.
#[derive(Debug)]
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// In bytes.
    capacity: usize,
}

impl Pipes {
    /// As many as one of `workers` may have, so that all of them use no more than half of what one user may: beyond that
    /// the kernel's pipes shrink to a page or two, everybody's. Nor more than an eighth of the `descriptors` of the process:
    /// connections need those more.
    pub(crate) fn for_one_of(workers: usize, descriptors: u64) -> Self {
        let told = fs::read_to_string(SOFT_LIMIT).ok().and_then(|pages| pages.trim().parse().ok());
        let pages = match told {
            // No limit; ours is the default one.
            None | Some(0) => SOFT_PAGES,
            Some(pages) => pages,
        };
        let by_memory = pages / 2 * 4096 / SMALLEST;
        let by_descriptors = usize::try_from(descriptors / 8).unwrap_or(usize::MAX) / DESCRIPTORS;
        Self::at_most(by_memory.min(by_descriptors) / workers.max(1))
    }

    /// The number of descriptors that all pipes together may take.
    pub(crate) fn descriptors(&self) -> usize {
        self.most / SMALLEST * DESCRIPTORS
    }

    /// At most so many of the smallest, or fewer that are larger.
    pub(crate) fn at_most(most: usize) -> Self {
        Self {
            spares: RefCell::default(),
            held: Cell::new(0),
            most: most.saturating_mul(SMALLEST),
            shares: Cell::new(0),
            largest: Cell::new(LARGEST),
        }
    }

    /// Another direction's share.
    pub(crate) fn share(&self) -> PipeShare<'_> {
        self.shares.set(self.shares.get() + 1);
        PipeShare { pipes: self, taken: Cell::new(0) }
    }

    /// An empty pipe for a direction that has `taken` so many.
    fn take(&self, taken: u8) -> Option<Pipe> {
        let spare = self.spares.borrow_mut().pop();
        let mut pipe = match spare {
            Some(pipe) => pipe,
            None => self.open()?,
        };
        let capacity = self.capacity();
        if pipe.capacity > capacity || (taken >= MANY && pipe.capacity < capacity) {
            self.resize(&mut pipe, capacity);
        }
        Some(pipe)
    }

    fn open(&self) -> Option<Pipe> {
        let held = self.held.get() + SMALLEST;
        if held > self.most {
            return None;
        }
        let pipe = Pipe::open().ok()?;
        self.held.set(held);
        Some(pipe)
    }

    /// The bytes that a pipe should hold now: half of what there may be is for those who come later.
    fn capacity(&self) -> usize {
        let each = TOGETHER.min(self.most / 2) / self.shares.get().max(1);
        // Capacities are powers of two (pipe(7)).
        let floor = each.checked_ilog2().map_or(0, |exponent| 1 << exponent);
        floor.min(self.largest.get()).max(SMALLEST)
    }

    fn resize(&self, pipe: &mut Pipe, capacity: usize) {
        let held = self.held.get() - pipe.capacity + capacity;
        if held > self.most {
            return;
        }
        if pipe.resize(capacity).is_ok() {
            self.held.set(held);
        } else {
            // It will not give it to the next one either.
            self.largest.set(pipe.capacity);
        }
    }

    /// Takes an empty pipe back.
    pub(crate) fn give(&self, pipe: Pipe) {
        let mut spares = self.spares.borrow_mut();
        if spares.len() < SPARES {
            spares.push(pipe);
        } else {
            drop(spares);
            self.discard(pipe);
        }
    }

    /// The capacities of all there are, in bytes.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.held.get()
    }

    /// The capacities of those in use, in bytes.
    #[cfg(test)]
    pub(crate) fn lost(&self) -> usize {
        self.held.get() - self.spares.borrow().iter().map(|pipe| pipe.capacity).sum::<usize>()
    }

    /// Closes a pipe, whatever is in it.
    pub(crate) fn discard(&self, pipe: Pipe) {
        self.held.set(self.held.get() - pipe.capacity);
        drop(pipe);
    }
}

impl PipeShare<'_> {
    /// An empty pipe; `None` where there is as much as there may be, or the system has none to give.
    pub(crate) fn take(&self) -> Option<Pipe> {
        let taken = self.taken.get();
        self.taken.set(taken.saturating_add(1).min(MANY));
        self.pipes.take(taken)
    }
}

impl Drop for PipeShare<'_> {
    fn drop(&mut self) {
        self.pipes.shares.set(self.pipes.shares.get() - 1);
    }
}

impl Pipe {
    fn open() -> Result<Self, Errno> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&write, SMALLEST)?;
        Ok(Self { read, write, capacity: SMALLEST })
    }

    fn resize(&mut self, capacity: usize) -> Result<(), Errno> {
        fcntl_setpipe_size(&self.write, capacity)?;
        self.capacity = capacity;
        Ok(())
    }

    /// Takes what `from` has, to be called with an empty pipe: the number of bytes. 0 where it can take none, and receiving
    /// tells why: at the end, and at an urgent byte. There splice(2) says for ever that it would block or, once a FIN has
    /// come, that this is the end, whatever lies behind it.
    pub(crate) fn poll_fill(&self, from: &Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            let moved = from.try_io(Interest::READABLE, || {
                let moved = shift(from.as_fd(), self.write.as_fd(), self.capacity);
                if is_blocked(&moved) && from.may_hold_urgent_byte() { Ok(0) } else { moved }
            });
            if !is_blocked(&moved) {
                return Poll::Ready(moved);
            }
        }
    }

    /// Gives `to` what it takes of the pipe's `bytes`: how many those were.
    pub(crate) fn poll_drain(
        &self,
        to: &Stream,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The capacity of a pipe that is taken while `count` directions have a share, and given back.
    fn taken_among(pipes: &Pipes, count: usize) -> usize {
        let _shares: Vec<_> = (0..count).map(|_| pipes.share()).collect();
        let pipe = pipes.take(MANY).unwrap();
        let capacity = pipe.capacity;
        // What the kernel says it is.
        assert_eq!(rustix::pipe::fcntl_getpipe_size(&pipe.write).unwrap(), capacity);
        pipes.give(pipe);
        assert_eq!((pipes.held(), pipes.lost()), (capacity, 0));
        capacity
    }

    #[test]
    fn the_more_directions_there_are_the_smaller_are_the_pipes() {
        let pipes = Pipes::at_most(64);
        let half = LARGEST / 2;
        for (count, capacity) in
            [(1, LARGEST), (2, LARGEST), (3, half), (4, half), (5, SMALLEST), (200, SMALLEST), (1, LARGEST)]
        {
            assert_eq!(taken_among(&pipes, count), capacity, "{count}");
        }
        assert_eq!(pipes.shares.get(), 0);
    }

    #[test]
    fn a_few_directions_do_not_take_the_pipes_of_those_to_come() {
        assert_eq!(taken_among(&Pipes::at_most(1), 1), SMALLEST);
        let pipes = Pipes::at_most(4);
        let share = pipes.share();
        // Half of all, then what is left.
        let taken: Vec<Pipe> = std::iter::from_fn(|| pipes.take(MANY)).collect();
        let capacities: Vec<usize> = taken.iter().map(|pipe| pipe.capacity).collect();
        assert_eq!(capacities, [2 * SMALLEST, 2 * SMALLEST]);
        assert_eq!(pipes.descriptors(), 8);
        for pipe in taken {
            pipes.discard(pipe);
        }
        assert_eq!(pipes.held(), 0);
        drop(share);
    }

    #[test]
    fn pipes_grow_for_directions_that_take_many() {
        let pipes = Pipes::at_most(64);
        let share = pipes.share();
        for _ in 0..MANY {
            let pipe = share.take().unwrap();
            assert_eq!(pipe.capacity, SMALLEST);
            pipes.give(pipe);
        }
        let pipe = share.take().unwrap();
        assert_eq!(pipe.capacity, LARGEST);
        pipes.give(pipe);
        // Who comes next may have it as it is, unless there are too many by now.
        let next = pipes.share();
        let pipe = next.take().unwrap();
        assert_eq!(pipe.capacity, LARGEST);
        pipes.give(pipe);
        let others: Vec<_> = (0..3).map(|_| pipes.share()).collect();
        let pipe = next.take().unwrap();
        assert_eq!(pipe.capacity, SMALLEST);
        pipes.give(pipe);
        drop((share, others));
    }

    #[test]
    fn what_the_kernel_refuses_is_not_asked_for_again() {
        let pipes = Pipes::at_most(64);
        let share = pipes.share();
        let mut pipe = pipes.open().unwrap();
        // No pipe holds as much.
        pipes.resize(&mut pipe, 1 << 40);
        assert_eq!((pipe.capacity, pipes.held(), pipes.capacity()), (SMALLEST, SMALLEST, LARGEST));
        let endless = Pipes { most: usize::MAX, ..Pipes::at_most(64) };
        let mut pipe = endless.open().unwrap();
        endless.resize(&mut pipe, 1 << 40);
        assert_eq!((pipe.capacity, endless.held(), endless.largest.get()), (SMALLEST, SMALLEST, SMALLEST));
        drop(share);
    }
}

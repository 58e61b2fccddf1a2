//! The sockets of sessions, of which there may be many: one descriptor to wait for all of them, so that a session costs the
//! runtime nothing. Reads none.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::table::SessionId;
use crate::sys::register;

/// The most events that are taken at once.
const EVENTS: usize = 256;

/// Which of a session's sockets has something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ear {
    /// The one that is connected to the client.
    Parted,
    /// The one that is connected to the origin.
    Upstream,
}

/// A socket with something to read, or an error to tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Heard {
    pub(super) id: SessionId,
    pub(super) ear: Ear,
}

/// The highest bit of the half of an id that is a place in a table, which no table is long enough for.
const PARTED: u64 = 1 << 31;

/// The worker's sockets of sessions. One that is closed is gone from here.
#[derive(Debug)]
pub(super) struct Poller(AsyncFd<OwnedFd>);

impl Poller {
    /// To be called within the worker's runtime.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(register(epoll::create(CreateFlags::CLOEXEC)?, Interest::READABLE)?))
    }

    /// Tells of `socket` from now on, once each time that something comes: whoever hears of it reads until nothing is left.
    pub(super) fn add(&self, socket: impl AsFd, id: SessionId, ear: Ear) -> io::Result<()> {
        let mark = if ear == Ear::Parted { PARTED } else { 0 };
        let data = EventData::new_u64(id.to_bits() | mark);
        Ok(epoll::add(self.0.get_ref(), socket, data, EventFlags::IN | EventFlags::ET)?)
    }

    /// The same for the socket to the origin of a session before, of which it tells already.
    pub(super) fn change(&self, socket: impl AsFd, id: SessionId) -> io::Result<()> {
        let data = EventData::new_u64(id.to_bits());
        match epoll::modify(self.0.get_ref(), &socket, data, EventFlags::IN | EventFlags::ET) {
            Err(rustix::io::Errno::NOENT) => self.add(socket, id, Ear::Upstream),
            changed => Ok(changed?),
        }
    }

    /// Tells of `socket` no more: it stays open elsewhere, and so would not go from here by being closed.
    pub(super) fn forget(&self, socket: impl AsFd) {
        // One that was never added is none of ours.
        let _ = epoll::delete(self.0.get_ref(), socket);
    }

    /// Waits until something came.
    pub(super) async fn wait(&self, heard: &mut Vec<Heard>) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let (events, rest) = match epoll::wait(self.0.get_ref(), &mut events, Some(&now)) {
                Err(rustix::io::Errno::INTR) => continue,
                events => events?,
            };
            if !rest.is_empty() {
                ready.clear_ready();
            }
            if events.is_empty() {
                continue;
            }
            // Whoever takes them takes the last one, which is to be the one that has waited longest.
            heard.extend(events.iter().rev().map(|event| {
                let bits = event.data.u64();
                let ear = if bits & PARTED == 0 { Ear::Upstream } else { Ear::Parted };
                Heard { id: SessionId::from_bits(bits & !PARTED), ear }
            }));
            return Ok(());
        }
    }
}

//! One epoll set over the sockets of both ends, and the loop over it. Decides nothing about what is said.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::client::Client;
use crate::origin::Origin;

/// The mark of an event of the listener. The sockets' carry their place, and of the origin's this bit.
const LISTENER: u64 = u64::MAX;
const OF_ORIGIN: u64 = 1 << 32;

/// Both ends.
pub(crate) struct Station {
    set: Set,
    origin: Origin,
    /// Connections that are held and not used.
    pub(crate) held: Vec<Client>,
    events: Vec<EpollEvent>,
}

/// The epoll set.
pub(crate) struct Set(Epoll);

impl Set {
    /// Adds the socket of a client, whose events carry `place`.
    pub(crate) fn add_client(&self, socket: impl AsFd, place: usize) {
        self.0.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, place as u64)).unwrap();
    }

    /// Adds the socket of a connection that the origin accepted.
    pub(crate) fn add_accepted(&self, socket: impl AsFd, place: usize) {
        self.0.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, place as u64 | OF_ORIGIN)).unwrap();
    }

    /// Reports when a connection that the origin accepted can be written to, too.
    pub(crate) fn watch_writing(&self, socket: impl AsFd, place: usize) {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        let mut event = EpollEvent::new(flags, place as u64 | OF_ORIGIN);
        self.0.modify(socket, &mut event).unwrap();
    }
}

impl Station {
    pub(crate) fn open() -> Self {
        let set = Set(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap());
        let origin = Origin::listen();
        set.0.add(origin.listener(), EpollEvent::new(EpollFlags::EPOLLIN, LISTENER)).unwrap();
        Self { set, origin, held: Vec::new(), events: vec![EpollEvent::empty(); 256] }
    }

    pub(crate) fn origin_address(&self) -> SocketAddr {
        self.origin.address()
    }

    pub(crate) fn set(&self) -> &Set {
        &self.set
    }

    /// Handles what has happened, or what happens within `patience`. `of_client` is told which clients have something.
    pub(crate) fn turn(&mut self, patience: Duration, mut of_client: impl FnMut(&Set, usize)) {
        let timeout = EpollTimeout::try_from(patience).unwrap();
        let count = match self.set.0.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(errno) => panic!("wait for events: {errno}"),
        };
        for event in &self.events[..count] {
            match event.data() {
                LISTENER => self.origin.accept(&self.set),
                data if data & OF_ORIGIN != 0 => {
                    self.origin.serve(&self.set, usize::try_from(data & !OF_ORIGIN).unwrap());
                }
                data => of_client(&self.set, usize::try_from(data).unwrap()),
            }
        }
    }

    /// Lets the origin see that everybody has gone.
    pub(crate) fn settle(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.origin.open() > 0 {
            assert!(Instant::now() < deadline, "{} connections to the origin stay open", self.origin.open());
            self.turn(Duration::from_millis(10), |_, _| {});
        }
    }
}

/// A number that is different for sockets that are open at the same time.
pub(crate) fn place_of(socket: &impl AsRawFd) -> usize {
    usize::try_from(socket.as_raw_fd()).unwrap()
}

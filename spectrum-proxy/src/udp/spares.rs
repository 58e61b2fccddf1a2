//! Sockets of sessions that are over, for those that begin: opening and closing one costs as much as what most sessions say. Each
//! lets go of its port before it rests, so that no session has the port of the one before. Knows no session.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::net::{RecvFlags, connect_unspec, recv};
use tokio::time::Instant;

use crate::limits::Held;
use crate::model::Family;

/// The time that a socket rests, so that nothing that was under way when it let go of its port comes after it was emptied.
const REST: Duration = Duration::from_millis(20);

/// The time for which it is kept.
const KEPT: Duration = Duration::from_secs(1);

/// The most that are kept of a family.
const MOST: usize = 1024;

/// What may have come before a socket let go of its port: one in which more waits is closed.
const LEFT: usize = 16;

/// The time after a shortage for which none is kept.
const SHORTAGE: Duration = Duration::from_secs(1);

/// A worker's spare sockets, the one first that rests longest. All have the options of a session's socket, and no address.
#[derive(Debug, Default)]
pub(super) struct Spares {
    v4: RefCell<VecDeque<Spare>>,
    v6: RefCell<VecDeque<Spare>>,
    shortage: Cell<Option<Instant>>,
}

#[derive(Debug)]
struct Spare {
    socket: OwnedFd,
    since: Instant,
    /// Its descriptor is still counted for the service that had it last.
    _held: Option<Held>,
}

impl Spares {
    fn of(&self, family: Family) -> &RefCell<VecDeque<Spare>> {
        match family {
            Family::Ipv4 => &self.v4,
            Family::Ipv6 => &self.v6,
        }
    }

    /// Takes the socket of a session that is over, and what is held for it; closes it where it is not wanted.
    pub(super) fn keep(&self, family: Family, socket: OwnedFd, held: Option<Held>, now: Instant) {
        let mut spares = self.of(family).borrow_mut();
        let is_short = self.shortage.get().is_some_and(|since| now.duration_since(since) < SHORTAGE);
        if is_short || spares.len() >= MOST || held.as_ref().is_some_and(|held| !held.has_plenty()) {
            return;
        }
        if connect_unspec(&socket).is_ok() {
            spares.push_back(Spare { socket, since: now, _held: held });
        }
    }

    /// A socket that has rested, with nothing in it.
    pub(super) fn take(&self, family: Family, now: Instant) -> Option<OwnedFd> {
        let mut spares = self.of(family).borrow_mut();
        while spares.front().is_some_and(|spare| now.duration_since(spare.since) >= REST) {
            let socket = spares.pop_front()?.socket;
            if is_emptied(&socket) {
                return Some(socket);
            }
        }
        None
    }

    /// Closes those that nobody has wanted for long: when to look again, if any are left.
    pub(super) fn trim(&self, now: Instant) -> Option<Instant> {
        let mut next = None::<Instant>;
        for spares in [&self.v4, &self.v6] {
            let mut spares = spares.borrow_mut();
            let old = spares.iter().take_while(|spare| now.duration_since(spare.since) >= KEPT).count();
            spares.drain(..old);
            if let Some(spare) = spares.front() {
                let due = spare.since + KEPT;
                next = Some(next.map_or(due, |next| next.min(due)));
            } else {
                *spares = VecDeque::new();
            }
        }
        next
    }

    /// Closes all, and keeps none for a while: descriptors or ports are short. True if that made room.
    pub(super) fn give_up(&self, now: Instant) -> bool {
        self.shortage.set(Some(now));
        let had_some = !(self.v4.borrow().is_empty() && self.v6.borrow().is_empty());
        self.clear();
        had_some
    }

    /// Closes all.
    pub(super) fn clear(&self) {
        drop((self.v4.take(), self.v6.take()));
    }
}

/// Takes out of `socket` whatever is left, errors too: true if nothing is.
fn is_emptied(socket: &OwnedFd) -> bool {
    (0..LEFT).any(|_| {
        let mut byte = [0_u8; 1];
        matches!(recv(socket.as_fd(), &mut byte, RecvFlags::DONTWAIT), Err(rustix::io::Errno::AGAIN))
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn pair() -> (UdpSocket, UdpSocket) {
        let (origin, socket) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        socket.set_nonblocking(true).unwrap();
        socket.connect(origin.local_addr().unwrap()).unwrap();
        (origin, socket)
    }

    /// A socket that the kernel chose the port of, as a session's is.
    fn unbound(origin: &UdpSocket) -> OwnedFd {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM.nonblocking().cloexec(), None)
                .unwrap();
        socket.connect(&origin.local_addr().unwrap().into()).unwrap();
        socket.into()
    }

    #[test]
    fn what_came_for_a_session_never_reaches_the_next_one() {
        let (spares, (origin, _)) = (Spares::default(), pair());
        let socket = UdpSocket::from(unbound(&origin));
        let former = socket.local_addr().unwrap();
        origin.send_to(b"late", former).unwrap();
        let now = Instant::now();
        spares.keep(Family::Ipv4, socket.into(), None, now);
        // Its port is nobody's any more.
        origin.send_to(b"later", former).unwrap();
        assert!(spares.take(Family::Ipv4, now).is_none(), "has not rested");
        assert!(spares.take(Family::Ipv6, now + REST).is_none());
        let socket = UdpSocket::from(spares.take(Family::Ipv4, now + REST).unwrap());
        socket.connect(origin.local_addr().unwrap()).unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        origin.send_to(b"own", socket.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 3);
    }

    #[test]
    fn a_socket_full_of_what_was_for_another_is_closed() {
        let (spares, (origin, _)) = (Spares::default(), pair());
        let socket = UdpSocket::from(unbound(&origin));
        for _ in 0..=LEFT {
            origin.send_to(b"late", socket.local_addr().unwrap()).unwrap();
        }
        let now = Instant::now();
        spares.keep(Family::Ipv4, socket.into(), None, now);
        assert!(spares.take(Family::Ipv4, now + REST).is_none());
        assert_eq!(spares.trim(now), None);
    }

    #[test]
    fn none_is_kept_for_long_nor_while_there_is_a_shortage() {
        let (spares, (origin, _)) = (Spares::default(), pair());
        let now = Instant::now();
        for later in [Duration::ZERO, KEPT / 2] {
            spares.keep(Family::Ipv4, unbound(&origin), None, now + later);
        }
        assert_eq!(spares.trim(now + REST), Some(now + KEPT));
        assert_eq!(spares.trim(now + KEPT), Some(now + KEPT / 2 + KEPT));
        assert!(spares.give_up(now + KEPT));
        assert!(!spares.give_up(now + KEPT));
        spares.keep(Family::Ipv4, unbound(&origin), None, now + KEPT + REST);
        assert_eq!(spares.trim(now + KEPT + REST), None);
        for _ in 0..MOST + 3 {
            spares.keep(Family::Ipv4, unbound(&origin), None, now + KEPT + SHORTAGE);
        }
        assert_eq!(spares.v4.borrow().len(), MOST);
    }
}

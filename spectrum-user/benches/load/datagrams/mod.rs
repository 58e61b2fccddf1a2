//! Clients and an origin that exchange datagrams: one socket of each end, since a client is an address of the loopback
//! network and takes no socket of its own. Decides nothing about what is said when.

mod exchange;
mod hold;
mod message;
mod origin;
mod pace;
mod sys;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub(crate) use exchange::{exchange, open, trains};
pub(crate) use hold::{Remembered, hold, ports};
pub(crate) use pace::pace;

use message::Message;
use origin::Origin;
use sys::{Batch, Way};

/// The datagrams, or trains, taken from a socket and given to one at a time.
const AT_ONCE: usize = 64;

/// The longest train.
const LONGEST: usize = 65_536;

/// The room for what waits at a socket, so that none is lost there.
const ROOM: i32 = 64 << 20;

/// The length of a datagram that is not part of a train.
const SHORT: usize = 64;

/// The address of the first client, the number of the first that nobody keeps a session of, and the last one's.
const FIRST: u32 = 0x7f01_0000;
const FRESH: u32 = 1 << 17;
const LAST: u32 = 12 << 20;

/// Both ends.
pub(crate) struct Ends {
    origin: Origin,
    came: Batch,
    post: Post,
    remembered: Remembered,
}

/// The way of what clients say.
struct Post {
    socket: UdpSocket,
    outgoing: Batch,
    target: SocketAddrV4,
    /// What cannot be an answer: from another address, or to another client.
    wrong: u64,
    /// The number of the last client that was never heard of before.
    fresh: u32,
}

impl Ends {
    /// An origin at `address`, and clients.
    pub(crate) fn open(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        sys::tell_destinations(&socket);
        sys::take_trains(&socket);
        sys::make_room(&socket, ROOM);
        let target = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        Self {
            origin: Origin::bind(address),
            came: Batch::new(AT_ONCE, LONGEST),
            post: Post { socket, outgoing: Batch::new(AT_ONCE, LONGEST), target, wrong: 0, fresh: FRESH },
            remembered: Remembered::default(),
        }
    }

    /// Has clients dial `target` from now on.
    fn dial(&mut self, target: SocketAddr) {
        let SocketAddr::V4(target) = target else { panic!("{target}: clients have IPv4 addresses") };
        self.post.target = target;
        self.post.wrong = 0;
    }

    /// Sends what was asked, has the origin serve, and hands on what came, or comes within `patience`: each message, with
    /// the length of it or of its part of a train.
    fn turn(&mut self, patience: Duration, mut act: impl FnMut(&mut Post, Message, usize)) {
        self.post.flush();
        let served = self.origin.serve();
        let came = self.came.receive(&self.post.socket);
        for came in self.came.came() {
            for bytes in came.bytes.chunks(came.part) {
                match Message::parse(bytes) {
                    Some(message)
                        if came.peer == self.post.target && came.local == source(message.client) =>
                    {
                        act(&mut self.post, message, bytes.len());
                    }
                    _ => self.post.wrong += 1,
                }
            }
        }
        self.post.flush();
        if served + came == 0 && !patience.is_zero() {
            let timeout = PollTimeout::try_from(patience).unwrap();
            let mut ends = [self.origin.socket().as_fd(), self.post.socket.as_fd()]
                .map(|end| PollFd::new(end, PollFlags::POLLIN));
            match poll(&mut ends, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => panic!("wait for datagrams: {errno}"),
            }
        }
    }
}

impl Post {
    /// Has a client say `message` in `length` bytes, or a train of such.
    fn say(&mut self, message: Message, length: usize) {
        if self.outgoing.is_full() {
            self.flush();
        }
        let way = Way { from: Some(source(message.client)), to: self.target };
        self.outgoing.add(way, length * message.parts, (message.parts > 1).then_some(length), |train| {
            train.chunks_mut(length).for_each(|part| message.write(part));
        });
    }

    /// A client that was never heard of, or not for millions of others.
    fn fresh_client(&mut self) -> u32 {
        self.fresh = if self.fresh < LAST { self.fresh + 1 } else { FRESH };
        self.fresh
    }

    fn flush(&mut self) {
        self.outgoing.send(&self.socket);
    }
}

/// The address of a client.
fn source(client: u32) -> Ipv4Addr {
    Ipv4Addr::from(FIRST + client)
}

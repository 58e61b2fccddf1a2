//! The way from a session to its origin: a socket of its own, which has the same port for as long as the session lasts. Who is
//! chosen is decided elsewhere, and what a failure means for the session.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Socket, Type};

use super::options;
use super::train::{Letter, Train};
use crate::model::{DialSource, Family, Protocol};
use crate::origins::{Chooser, OpenGuard};
use crate::report::DialFailure;
use crate::tcp::dial_source;
use crate::worker::Worker;

/// The most that a session keeps of what its client sent before anybody answered.
const KEPT: usize = 4096;

/// The most datagrams of these.
const KEPT_DATAGRAMS: usize = 8;

/// A session's origin, and the socket that is connected to it.
pub(super) struct Upstream {
    pub(super) socket: OwnedFd,
    pub(super) origin: SocketAddr,
    pub(super) open: OpenGuard,
    /// True once a train had to be taken apart.
    pub(super) singly: Cell<bool>,
    /// True if there are other addresses that may be tried.
    pub(super) has_others: bool,
}

/// Whom an origin is to be found for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) client: SocketAddr,
    /// The dialled port by which steering chose the service.
    pub(super) bound_port: u16,
}

impl Upstream {
    /// A socket that is connected to the origin whose turn it is, but for those that were `tried`.
    pub(super) fn open(
        chooser: &Chooser,
        worker: &Worker,
        caller: Caller,
        tried: &[SocketAddr],
    ) -> Result<Self, DialFailure> {
        let Caller { client, bound_port } = caller;
        let choices = chooser.choices(client.ip());
        let mut failure = choices.absence();
        while let Some(member) = choices.another() {
            let Some(port) = chooser.port(member, bound_port) else { continue };
            for place in choices.places(member) {
                let origin = place.at(port);
                if tried.contains(&origin) {
                    continue;
                }
                if place.bars(port) || worker.listens_on(Protocol::Udp, origin) {
                    failure = DialFailure::Loop;
                    continue;
                }
                if !dial_source::reaches(origin, chooser.source(), client) {
                    failure = DialFailure::OtherFamily;
                    continue;
                }
                match connect(origin, chooser.source(), client) {
                    Ok(socket) => {
                        let open = choices.open(place);
                        let has_others = choices.sole().is_none();
                        return Ok(Self { socket, origin, open, singly: Cell::new(false), has_others });
                    }
                    Err(error) => {
                        tracing::debug!(service = %chooser.service(), %origin, %client, %error, "connect to origin");
                        failure = DialFailure::of(&error);
                        // What we lack ourselves says nothing about the origin, and the next one would need the same.
                        if failure == DialFailure::OutOfResources {
                            return Err(failure);
                        }
                        chooser.failed(place, port, &error);
                    }
                }
            }
        }
        Err(failure)
    }

    /// What `train` becomes on its way to the origin.
    pub(super) fn letter<'a>(&self, train: &Train<'a>) -> Letter<'a> {
        Letter {
            to: None,
            from: None,
            head: &[],
            payload: train.payload,
            segment: (train.count() > 1).then_some(train.segment),
            hops: None,
            class: train.class,
            is_v4: self.origin.is_ipv4(),
        }
    }
}

/// What came before anybody answered, for the next origin should this one refuse.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    pub(super) tried: Vec<SocketAddr>,
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    payload: Box<[u8]>,
    segment: usize,
    class: u8,
}

impl Unanswered {
    /// Keeps a copy of `train`, if there is room for the whole of it.
    pub(super) fn keep(&mut self, train: &Train<'_>) {
        let kept: usize = self.kept.iter().map(|one| one.payload.len()).sum();
        if kept + train.payload.len() <= KEPT && self.kept.len() < KEPT_DATAGRAMS {
            let Train { payload, segment, class, .. } = *train;
            self.kept.push(Kept { payload: payload.into(), segment, class });
        }
    }

    /// What was kept, in its order.
    pub(super) fn trains(&self) -> impl Iterator<Item = Train<'_>> {
        self.kept.iter().map(|Kept { payload, segment, class }| Train {
            sender: None,
            dialled: None,
            hops: 0,
            class: *class,
            payload,
            segment: *segment,
            is_whole: true,
        })
    }
}

/// A socket connected to `origin` from where `source` says. Where another session of the client's has its port already, or the port
/// is not ours to take, the client's address is kept and the kernel chooses the port.
fn connect(origin: SocketAddr, source: DialSource, client: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(origin), Type::DGRAM.nonblocking().cloexec(), None)?;
    if let Some(from) = dial_source::spoken_for(source, client) {
        if from.is_ipv4() {
            socket.set_ip_transparent_v4(true)?;
        } else {
            socket.set_ip_transparent_v6(true)?;
        }
        match socket.bind(&from.into()) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EADDRINUSE)) => {
                socket.bind(&SocketAddr::new(from.ip(), 0).into())?;
            }
            bound => bound?,
        }
    }
    options::ask_for_class(&socket, Family::of(origin.ip()))?;
    socket.connect(&origin.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_answered_is_kept_as_far_as_there_is_room() {
        let mut unanswered = Unanswered::default();
        let payload = [7; 3000];
        let train = |length: usize| Train {
            sender: None,
            dialled: None,
            hops: 64,
            class: 0,
            payload: &payload[..length],
            segment: length,
            is_whole: true,
        };
        for length in [3000, 2000, 1000, 1000, 96, 0, 0, 0, 0, 0, 0] {
            unanswered.keep(&train(length));
        }
        let lengths: Vec<_> = unanswered.trains().map(|train| train.payload.len()).collect();
        assert_eq!(lengths, [3000, 1000, 96, 0, 0, 0, 0, 0]);
    }
}

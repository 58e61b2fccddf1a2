//! The way from a session to its origin: a socket of its own, which has the same port for as long as the session lasts. Who is
//! chosen is decided elsewhere, and what a failure means for the session.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use tokio::time::Instant;

use super::head::Head;
use super::options;
use super::queue_losses::QueueLosses;
use super::spares::Spares;
use super::sys::mtu;
use super::train::{Letter, Train};
use crate::header::{Extensions, Header};
use crate::limits::Held;
use crate::model::{Family, Prefix, Protocol};
use crate::origins::{Chooser, OpenGuard};
use crate::privileged::PrivilegedSocket;
use crate::report::DialFailure;
use crate::tcp::dial_source;
use crate::worker::Worker;

/// The most that a session keeps of what its client sent before anybody answered.
const KEPT: usize = 4096;

/// The most source addresses that one session tries.
const SOURCES: usize = 4;

/// The most datagrams of these.
const KEPT_DATAGRAMS: usize = 8;

/// A session's origin, and the socket that is connected to it.
pub(super) struct Upstream {
    pub(super) socket: OwnedFd,
    pub(super) losses: QueueLosses,
    pub(super) origin: SocketAddr,
    pub(super) open: OpenGuard,
    /// True once a train had to be taken apart.
    pub(super) singly: Cell<bool>,
    /// True if there are other addresses that may be tried.
    pub(super) has_others: bool,
    /// What tells the origin whom it serves.
    pub(super) head: Option<Box<Head>>,
    /// The length of the longest datagram of the client's that gets to the origin in one packet, as far as that was known when the
    /// session began, if a header makes it shorter than the client can know.
    pub(super) room: Option<u16>,
    /// Where its socket goes afterwards, unless it is bound to what the next session cannot use.
    spares: Option<Rc<Spares>>,
    /// True if its socket is that of a session before.
    pub(super) is_spare: bool,
}

/// The way to an origin of a session that goes on in another process, but for the socket.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct MovingUpstream {
    origin: SocketAddr,
    losses: u32,
    singly: bool,
    has_others: bool,
    head: Option<Head>,
    room: Option<u16>,
    is_unbound: bool,
}

/// A socket that is connected to an origin.
struct Connected {
    socket: OwnedFd,
    /// True if only the kernel has chosen its address.
    is_unbound: bool,
    is_spare: bool,
}

/// Whom an origin is to be found for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller<'a> {
    pub(super) client: SocketAddr,
    pub(super) dialled: SocketAddr,
    /// The dialled port by which steering chose the service.
    pub(super) bound_port: u16,
    /// How many were looked for before: each has another source address, where there are several.
    pub(super) turn: usize,
    /// The header by which a trusted proxy named the client, or nothing.
    pub(super) header: &'a [u8],
}

impl Upstream {
    /// A socket that is connected to the origin whose turn it is, but for those that were `tried`.
    pub(super) fn open(
        chooser: &Chooser,
        worker: &Worker,
        spares: &Rc<Spares>,
        caller: Caller<'_>,
        tried: &[SocketAddr],
    ) -> Result<Self, DialFailure> {
        let Caller { client, dialled, bound_port, turn, header } = caller;
        let choices = chooser.choices(Protocol::Udp, client.ip());
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
                match connect(origin, chooser, spares, client, turn) {
                    Ok(Connected { socket, is_unbound, is_spare }) => {
                        let open = choices.open(place);
                        let has_others = choices.sole().is_none();
                        let head = chooser.datagram_header();
                        let head = head.map(|kind| {
                            Box::new(Head::new(kind, client, dialled, &Header::extensions(header)))
                        });
                        let room = head.as_ref().and_then(|head| room(&socket, origin, head.length()));
                        let singly = Cell::new(false);
                        let losses = QueueLosses::default();
                        let spares = is_unbound.then(|| Rc::clone(spares));
                        return Ok(Self {
                            socket,
                            losses,
                            origin,
                            open,
                            singly,
                            has_others,
                            head,
                            room,
                            spares,
                            is_spare,
                        });
                    }
                    Err(error) => {
                        tracing::debug!(service = %chooser.service(), %origin, %client, %error, "connect to origin");
                        failure = DialFailure::of(&error);
                        // What we lack ourselves says nothing about the origin, and the next one would need the same.
                        if failure == DialFailure::OutOfResources {
                            return Err(failure);
                        }
                        chooser.failed(Protocol::Udp, place, port, &error);
                    }
                }
            }
        }
        Err(failure)
    }

    /// Goes on with one that another process had, by its `socket`.
    pub(super) fn resume(
        moving: MovingUpstream,
        socket: OwnedFd,
        chooser: &Chooser,
        spares: &Rc<Spares>,
        bound_port: u16,
    ) -> Self {
        let MovingUpstream { origin, losses, singly, has_others, head, room, is_unbound } = moving;
        Self {
            socket,
            losses: QueueLosses::beyond(losses),
            origin,
            open: chooser.resume(origin, bound_port),
            singly: Cell::new(singly),
            has_others,
            head: head.map(Box::new),
            room,
            spares: is_unbound.then(|| Rc::clone(spares)),
            is_spare: false,
        }
    }

    /// Gives it to another process: what that needs besides the socket.
    pub(super) fn move_away(self) -> (MovingUpstream, OwnedFd) {
        let moving = MovingUpstream {
            origin: self.origin,
            losses: self.losses.known(),
            singly: self.singly.get(),
            has_others: self.has_others,
            head: self.head.map(|head| *head),
            room: self.room,
            is_unbound: self.spares.is_some(),
        };
        (moving, self.socket)
    }

    /// Tells the origin from now on what a trusted proxy says besides, where it is told with every datagram.
    pub(super) fn renew_head(&mut self, client: SocketAddr, dialled: SocketAddr, extensions: &Extensions) {
        let Some(head) = self.head.as_mut().filter(|head| head.repeats_extensions()) else { return };
        let renewed = head.with(client, dialled, extensions);
        let length = |head: &Head| u16::try_from(head.length()).unwrap_or(u16::MAX);
        self.room = self.room.map(|room| room.saturating_add(length(head)).saturating_sub(length(&renewed)));
        **head = renewed;
    }

    /// Ends it. `held` is what its socket was counted by.
    pub(super) fn let_go(self, held: Option<Held>) {
        if let Some(spares) = self.spares.filter(|_| self.losses.is_none()) {
            spares.keep(Family::of(self.origin.ip()), self.socket, held, Instant::now());
        }
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
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) tried: Vec<SocketAddr>,
    kept: Vec<Kept>,
    /// The bytes that all of a worker's sessions may keep besides.
    room: Rc<Cell<usize>>,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.room.set(self.room.get() + self.length());
    }
}

/// The same for another process.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct MovingUnanswered {
    tried: Vec<SocketAddr>,
    kept: Vec<Kept>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Kept {
    payload: Box<[u8]>,
    segment: usize,
    class: u8,
}

impl Unanswered {
    pub(super) fn new(room: &Rc<Cell<usize>>) -> Self {
        Self { tried: Vec::new(), kept: Vec::new(), room: Rc::clone(room) }
    }

    /// What another process goes on with.
    pub(super) fn move_away(mut self) -> MovingUnanswered {
        self.room.set(self.room.get() + self.length());
        MovingUnanswered { tried: std::mem::take(&mut self.tried), kept: std::mem::take(&mut self.kept) }
    }

    /// Goes on with what another process had, as far as there is room.
    pub(super) fn resume(MovingUnanswered { tried, kept }: MovingUnanswered, room: &Rc<Cell<usize>>) -> Self {
        let mut unanswered = Self { tried, kept: Vec::new(), room: Rc::clone(room) };
        for Kept { payload, segment, class } in kept {
            unanswered.keep(&Kept::train(&payload, segment, class));
        }
        unanswered
    }

    fn length(&self) -> usize {
        self.kept.iter().map(|one| one.payload.len()).sum()
    }

    /// Keeps a copy of `train`, if there is room for the whole of it.
    pub(super) fn keep(&mut self, train: &Train<'_>) {
        let (length, room) = (train.payload.len(), self.room.get());
        if length <= room && self.length() + length <= KEPT && self.kept.len() < KEPT_DATAGRAMS {
            self.room.set(room - length);
            let Train { payload, segment, class, .. } = *train;
            self.kept.push(Kept { payload: payload.into(), segment, class });
        }
    }

    /// What was kept, in its order.
    pub(super) fn trains(&self) -> impl Iterator<Item = Train<'_>> {
        self.kept.iter().map(|Kept { payload, segment, class }| Kept::train(payload, *segment, *class))
    }
}

impl Kept {
    fn train(payload: &[u8], segment: usize, class: u8) -> Train<'_> {
        Train { sender: None, dialled: None, hops: 0, class, payload, segment, is_whole: true }
    }
}

/// The longest datagram that gets by `socket` to `origin` in one packet, behind a header of so many bytes. `None` where there is none.
fn room(socket: &OwnedFd, origin: SocketAddr, header: usize) -> Option<u16> {
    let others =
        header_lengths(Family::of(origin.ip())) + u16::try_from(header).ok().filter(|length| *length > 0)?;
    mtu(socket, Family::of(origin.ip())).ok()?.checked_sub(others)
}

/// The bytes that IP and UDP need before a datagram.
pub(super) fn header_lengths(family: Family) -> u16 {
    match family {
        Family::Ipv4 => 20 + 8,
        Family::Ipv6 => 40 + 8,
    }
}

/// A socket connected to `origin` from where the service says. Where another session of the client's has its port already, or the port
/// is not ours to take, the client's address is kept and the kernel chooses the port.
fn connect(
    origin: SocketAddr,
    chooser: &Chooser,
    spares: &Spares,
    client: SocketAddr,
    turn: usize,
) -> io::Result<Connected> {
    let family = Family::of(origin.ip());
    let speaks_for = dial_source::spoken_for(chooser.source(), client);
    let has_sources = chooser.sources().iter().any(|prefix| prefix.address().is_ipv4() == origin.is_ipv4());
    let is_unbound = speaks_for.is_none() && !has_sources;
    if is_unbound && let Some(socket) = spares.take(family, Instant::now()) {
        let socket = Socket::from(socket);
        socket.connect(&origin.into())?;
        return Ok(Connected { socket: socket.into(), is_unbound, is_spare: true });
    }
    let spoken_for = |client| PrivilegedSocket::Client { protocol: Protocol::Udp, client }.make();
    let socket = if let Some(from) = speaks_for {
        let bound = match spoken_for(from) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EADDRINUSE)) => {
                spoken_for(SocketAddr::new(from.ip(), 0))
            }
            bound => bound,
        };
        Socket::from(bound?)
    } else {
        let socket = Socket::new(Domain::for_address(origin), Type::DGRAM.nonblocking().cloexec(), None)?;
        if has_sources {
            bind_to_one(&socket, chooser.sources(), origin, turn)?;
        }
        socket
    };
    options::ask_for_class(&socket, family)?;
    options::make_room(&socket);
    socket.connect(&origin.into())?;
    Ok(Connected { socket: socket.into(), is_unbound, is_spare: false })
}

/// Binds `socket` to the address whose turn it is, or to one of the next, where all ports of that are taken.
fn bind_to_one(socket: &Socket, sources: &[Prefix], origin: SocketAddr, turn: usize) -> io::Result<()> {
    if origin.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_freebind_v6(true)?;
    }
    let mut bound = Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL));
    for turn in (turn..).take(SOURCES) {
        let Some(from) = source_address(sources, origin.is_ipv4(), turn) else { break };
        bound = socket.bind(&SocketAddr::new(from, 0).into());
        match &bound {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {}
            _ => break,
        }
    }
    bound
}

/// The address of this family in `sources` that has this turn.
fn source_address(sources: &[Prefix], is_v4: bool, turn: usize) -> Option<IpAddr> {
    let of_family = || sources.iter().filter(|prefix| prefix.address().is_ipv4() == is_v4);
    let size = |prefix: &Prefix| {
        let bits = if is_v4 { 32 } else { 128 } - u32::from(prefix.length());
        1_u64.checked_shl(bits.min(32)).unwrap_or(1)
    };
    let all: u64 = of_family().map(size).sum();
    let mut place = u64::try_from(turn).unwrap_or_default().checked_rem(all)?;
    for prefix in of_family() {
        if place < size(prefix) {
            return Some(match prefix.address() {
                IpAddr::V4(first) => Ipv4Addr::from_bits(
                    first.to_bits().wrapping_add(u32::try_from(place).unwrap_or_default()),
                )
                .into(),
                IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits().wrapping_add(place.into())).into(),
            });
        }
        place -= size(prefix);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_the_sources_has_its_turn() {
        let sources = ["192.0.2.4/30", "2001:db8::/64", "198.51.100.9"].map(|text| text.parse().unwrap());
        let v4: Vec<String> =
            (0..6).map(|turn| source_address(&sources, true, turn).unwrap().to_string()).collect();
        assert_eq!(v4, ["192.0.2.4", "192.0.2.5", "192.0.2.6", "192.0.2.7", "198.51.100.9", "192.0.2.4"]);
        assert_eq!(source_address(&sources, false, 258), Some("2001:db8::102".parse().unwrap()));
        assert_eq!(source_address(&sources[..1], false, 0), None);
    }

    #[test]
    fn what_nobody_answered_is_kept_as_far_as_there_is_room() {
        let room = Rc::new(Cell::new(10_000));
        let mut unanswered = Unanswered::new(&room);
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
        let mut others = [(); 3].map(|()| Unanswered::new(&room));
        for one in &mut others {
            one.keep(&train(2000));
        }
        let kept = others.each_ref().map(|one| one.trains().count());
        assert_eq!((kept, room.get()), ([1, 1, 0], 1904), "all together have no more");
        drop((unanswered, others));
        assert_eq!(room.get(), 10_000);
    }
}

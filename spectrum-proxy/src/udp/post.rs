//! How datagrams leave: many by one call where they leave through the same socket, trains as trains as long as the way takes them. No
//! failure of one datagram gets past this file but what says that an origin cannot be reached.

use std::borrow::Cow;
use std::io;
use std::os::fd::BorrowedFd;

use super::head::Before;
use super::session::UdpSession;
use super::sys::{Inbox, Outbox};
use super::table::{SessionId, SessionTable};
use super::train::{Letter, Train};
use super::voice::Voice;

/// The hop limit of what leaves by the raw socket where nothing else is asked for: the usual one.
const HOPS: u8 = 64;

/// A worker's memory for datagrams that have come and those that go.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
}

/// Where a train goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// To the client, with this hop limit; `None`: the system's.
    Client(Option<u8>),
    /// To the origin.
    Origin,
}

/// A train of those that came last, which is to go on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) id: SessionId,
    pub(super) train: usize,
    pub(super) way: Way,
}

/// An origin that cannot be reached, as sending to it has told.
pub(super) type Trouble = (SessionId, io::Error);

impl Post {
    pub(super) fn new() -> Self {
        Self { inbox: Inbox::new(), outbox: Outbox::default() }
    }

    /// Sends what is `due`, in this order. What cannot be sent is lost, as datagrams are, and told at the level of debugging.
    pub(super) fn deliver(&mut self, table: &SessionTable<UdpSession>, due: &[Due]) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        let mut rest = due.iter().filter_map(|due| Some((due, table.get(due.id)?))).peekable();
        let (mut letters, mut senders) = (Vec::new(), Vec::new());
        while let Some((due, session)) = rest.next() {
            if let Some(train) = self.inbox.train(due.train) {
                write(&mut letters, session, &train, due.way);
                senders.resize(letters.len(), session);
            }
            let goes_on = rest.peek().is_some_and(|(next, of)| match (due.way, next.way) {
                (Way::Client(_), Way::Client(_)) => of.voice.is_that_of(&session.voice),
                (Way::Origin, Way::Origin) => next.id == due.id,
                _ => false,
            });
            if goes_on {
                continue;
            }
            match due.way {
                Way::Client(_) => speak(&mut self.outbox, &session.voice, &letters, &senders),
                Way::Origin => {
                    troubles.extend(relay(&mut self.outbox, session, &letters).map(|error| (due.id, error)));
                }
            }
            letters.clear();
            senders.clear();
        }
        troubles
    }

    /// Sends `trains` to the origin of `session`.
    pub(super) fn send_on<'a>(
        outbox: &mut Outbox,
        session: &UdpSession,
        trains: impl Iterator<Item = Train<'a>>,
    ) -> Option<io::Error> {
        let mut letters = Vec::new();
        trains.for_each(|train| write(&mut letters, session, &train, Way::Origin));
        relay(outbox, session, &letters)
    }
}

/// Adds the letters that `train` becomes.
fn write<'a>(letters: &mut Vec<Letter<'a>>, session: &'a UdpSession, train: &Train<'a>, way: Way) {
    let mut add = |letter: Letter<'a>, singly: bool| match letter.segment {
        None => letters.push(letter),
        Some(_) if singly => letters.extend(letter.singly()),
        Some(_) => letters.extend(letter.split()),
    };
    let head = session.upstream.as_ref().and_then(|upstream| upstream.head.as_ref());
    match (way, &session.upstream) {
        (Way::Client(hops), _) => {
            let singly = session.singly.get() || matches!(session.voice, Voice::Raw(_));
            let letter = session.letter_to_client(train, hops);
            match head.filter(|head| head.is_on_answers()) {
                None => add(letter, singly),
                Some(head) => {
                    for payload in train.datagrams().filter_map(|answer| head.strip(answer)) {
                        add(Letter { payload, segment: None, ..letter }, singly);
                    }
                }
            }
        }
        (Way::Origin, Some(upstream)) => {
            let (letter, singly) = (upstream.letter(train), upstream.singly.get());
            match head.map_or(Before::None, |head| head.next()) {
                Before::None => add(letter, singly),
                Before::Each(head) => add(Letter { head, ..letter }, singly),
                Before::Alone(payload) => {
                    add(Letter { payload, segment: None, ..letter }, singly);
                    add(letter, singly);
                }
                Before::First(head) => {
                    let (first, rest) = letter.first_apart();
                    add(Letter { head, ..first }, singly);
                    if let Some(rest) = rest {
                        add(rest, singly);
                    }
                }
            }
        }
        (Way::Origin, None) => {}
    }
}

/// Sends `letters` to the origin of `session`: what says that it cannot be reached, if anything did.
fn relay(outbox: &mut Outbox, session: &UdpSession, letters: &[Letter<'_>]) -> Option<io::Error> {
    let upstream = session.upstream.as_ref()?;
    let mut trouble = None;
    send(
        outbox,
        std::os::fd::AsFd::as_fd(&upstream.socket),
        letters,
        |_| upstream.singly.set(true),
        |_, letter, sent| {
            let Err(error) = sent else { return };
            let (client, origin) = (session.account.client.get(), upstream.origin);
            tracing::debug!(%client, %origin, %error, "relay datagram");
            session.lost(letter.count());
            if let Some(head) = &upstream.head {
                head.was_lost(letter.head, letter.payload);
            }
            if is_of_origin(&error) {
                trouble = Some(error);
            }
        },
    );
    trouble
}

/// Sends `letters`, all of which have this voice, each for one of `senders`.
fn speak(outbox: &mut Outbox, voice: &Voice, letters: &[Letter<'_>], senders: &[&UdpSession]) {
    let note = |session: &UdpSession, letter: &Letter<'_>, sent: io::Result<()>| match sent {
        Ok(()) => session.sent(letter),
        Err(error) => {
            let (client, dialled) = (session.account.client.get(), session.dialled());
            tracing::debug!(%client, %dialled, %error, "answer datagram");
            session.lost(letter.count());
        }
    };
    if let Voice::Raw(raw) = voice {
        for (letter, session) in letters.iter().zip(senders) {
            let (from, to) = (session.local(), session.peer());
            let payload = match letter.head {
                [] => Cow::Borrowed(letter.payload),
                head => Cow::Owned([head, letter.payload].concat()),
            };
            let sent = raw.send(from, to, letter.hops.unwrap_or(HOPS), letter.class, &payload);
            note(session, letter, sent);
        }
    }
    let Some((socket, _)) = voice.socket() else { return };
    let of = |index: usize| senders.get(index).copied();
    send(
        outbox,
        socket,
        letters,
        |index| {
            if let Some(session) = of(index) {
                session.singly.set(true);
            }
        },
        |index, letter, sent| {
            if let Some(session) = of(index) {
                note(session, letter, sent);
            }
        },
    );
}

/// Sends `letters` through `socket`, and notes what became of each; `apart` is told of a train that the way does not take as one.
fn send(
    outbox: &mut Outbox,
    socket: BorrowedFd<'_>,
    letters: &[Letter<'_>],
    apart: impl Fn(usize),
    mut note: impl FnMut(usize, &Letter<'_>, io::Result<()>),
) {
    let mut first = 0;
    while let Some(rest) = letters.get(first..).filter(|rest| !rest.is_empty()) {
        let (sent, error) = outbox.send(socket, rest);
        for (index, letter) in letters.iter().enumerate().skip(first).take(sent) {
            note(index, letter, Ok(()));
        }
        first += sent;
        let (Some(error), Some(letter)) = (error, letters.get(first)) else { continue };
        if letter.segment.is_some() && is_of_trains(&error) {
            apart(first);
            for one in letter.singly() {
                let (_, error) = outbox.send(socket, &[one]);
                note(first, &one, error.map_or(Ok(()), Err));
            }
        } else {
            note(first, letter, Err(error));
        }
        first += 1;
    }
}

/// True if the way may take the datagrams of a train one by one: a device without checksums, a way that became narrower.
fn is_of_trains(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE))
}

/// True if `error` says that nobody is there, or that no way leads there.
pub(super) fn is_of_origin(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN | libc::EHOSTDOWN)
    )
}

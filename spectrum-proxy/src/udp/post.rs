//! How answers leave: many by one call where they have the same voice, trains as trains as long as the way takes them. No failure
//! of one datagram gets past this file.

use std::io;

use super::session::UdpSession;
use super::sys::{Inbox, Outbox};
use super::table::{SessionId, Table};
use super::train::Letter;
use super::voice::Voice;

/// The hop limit of what leaves by the raw socket where nothing else is asked for: the usual one.
const HOPS: u8 = 64;

/// A worker's memory for datagrams that have come and those that go.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
}

/// An answer that is due: which of the trains that came last, and to whose client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) id: SessionId,
    pub(super) train: usize,
    /// The hop limit; `None`: the system's.
    pub(super) hops: Option<u8>,
}

impl Post {
    pub(super) fn new() -> Self {
        Self { inbox: Inbox::new(), outbox: Outbox::default() }
    }

    /// Sends what is `due`, in this order. What cannot be sent is lost, as datagrams are, and told at the level of debugging.
    pub(super) fn answer(&mut self, table: &Table<UdpSession>, due: &[Due]) {
        let mut rest = due.iter().filter_map(|due| Some((due, table.get(due.id)?))).peekable();
        let mut letters: Vec<(Letter<'_>, &UdpSession)> = Vec::new();
        while let Some((due, session)) = rest.next() {
            if let Some(train) = self.inbox.train(due.train) {
                let letter = session.letter_to_client(&train, due.hops);
                if session.singly.get() || matches!(session.voice, Voice::Raw(_)) {
                    letters.extend(letter.singly().map(|one| (one, session)));
                } else {
                    letters.extend(letter.split().map(|one| (one, session)));
                }
            }
            let goes_on = rest.peek().is_some_and(|(_, next)| next.voice.is_that_of(&session.voice));
            if !goes_on {
                speak(&mut self.outbox, &session.voice, &letters);
                letters.clear();
            }
        }
    }
}

/// Sends `letters`, all of which have this voice.
fn speak(outbox: &mut Outbox, voice: &Voice, letters: &[(Letter<'_>, &UdpSession)]) {
    let Some((socket, _)) = voice.socket() else {
        if let Voice::Raw(raw) = voice {
            for (letter, session) in letters {
                let (from, to) = (session.dialled(), session.account.client.get());
                let sent = raw.send(from, to, letter.hops.unwrap_or(HOPS), letter.class, letter.payload);
                note(session, letter, sent);
            }
        }
        return;
    };
    let outgoing: Vec<Letter<'_>> = letters.iter().map(|(letter, _)| *letter).collect();
    let mut first = 0;
    while let Some(rest) = outgoing.get(first..).filter(|rest| !rest.is_empty()) {
        let (sent, error) = outbox.send(socket, rest);
        for (letter, session) in letters.iter().skip(first).take(sent) {
            session.sent(letter);
        }
        first += sent;
        let (Some(error), Some((letter, session))) = (error, letters.get(first)) else { continue };
        first += 1;
        if letter.segment.is_some() && is_of_trains(&error) {
            session.singly.set(true);
            for one in letter.singly() {
                let (_, error) = outbox.send(socket, &[one]);
                note(session, &one, error.map_or(Ok(()), Err));
            }
        } else {
            note(session, letter, Err(error));
        }
    }
}

/// True if the way may take the datagrams of a train one by one: a device without checksums, a shorter way than that of before.
pub(super) fn is_of_trains(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE))
}

fn note(session: &UdpSession, letter: &Letter<'_>, sent: io::Result<()>) {
    match sent {
        Ok(()) => session.sent(letter),
        Err(error) => {
            let (client, dialled) = (session.account.client.get(), session.dialled());
            tracing::debug!(%client, %dialled, %error, "answer datagram");
        }
    }
}

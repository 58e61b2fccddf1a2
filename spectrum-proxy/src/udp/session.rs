//! One UDP session: its account, what it speaks through, and its origin if it has one. Does not know of other sessions; when it
//! is over, others decide.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::answer::Answer;
use super::train::{Letter, Train};
use super::upstream::{Unanswered, Upstream};
use super::voice::Voice;
use crate::model::Family;
use crate::report::End;
use crate::session::Session;

/// A client and what it dialled, for as long as datagrams come.
pub(super) struct UdpSession {
    pub(super) account: Session,
    pub(super) answer: Answer,
    pub(super) voice: Voice,
    /// The socket that its client's datagrams come to since no listener is left for them.
    pub(super) parted: Option<Rc<OwnedFd>>,
    /// True once a train for its client had to be taken apart.
    pub(super) singly: Cell<bool>,
    /// Its origin; `None` where we answer ourselves.
    pub(super) upstream: Option<Upstream>,
    /// What came as long as nobody has answered, where another origin may be asked as well.
    pub(super) unanswered: Option<Box<Unanswered>>,
    /// True once the origin has answered.
    pub(super) is_answered: bool,
}

impl UdpSession {
    pub(super) fn new(account: Session, answer: Answer, voice: Voice) -> Self {
        Self {
            account,
            answer,
            voice,
            parted: None,
            singly: Cell::new(false),
            upstream: None,
            unanswered: None,
            is_answered: false,
        }
    }

    pub(super) fn dialled(&self) -> SocketAddr {
        self.account.dialled.get()
    }

    /// Counts what its client sent.
    pub(super) fn received(&self, train: &Train<'_>) {
        self.account.from_client.add(train.payload.len());
        self.account.datagrams_from_client.update(|count| count + train.count() as u64);
    }

    /// Counts what was sent to its client.
    pub(super) fn sent(&self, letter: &Letter<'_>) {
        self.account.to_client.add(letter.payload.len());
        self.account.datagrams_to_client.update(|count| count + letter.count() as u64);
    }

    /// What `train` becomes on its way to the client, with so many hops left; `None`: as many as the system gives.
    pub(super) fn letter_to_client<'a>(&self, train: &Train<'a>, hops: Option<u8>) -> Letter<'a> {
        let from = self.voice.socket().and_then(|(_, from)| from);
        Letter {
            to: (!matches!(self.voice, Voice::Parted(_))).then(|| self.account.client.get()),
            from,
            head: &[],
            payload: train.payload,
            segment: (train.count() > 1).then_some(train.segment),
            hops,
            class: train.class,
            is_v4: Family::of(self.dialled().ip()) == Family::Ipv4,
        }
    }

    /// Ends it. Its sockets are closed before that is told.
    pub(super) fn end(self, end: End) {
        let Self { account, upstream, .. } = self;
        if let Some(upstream) = upstream {
            upstream.open.ended(end);
        }
        account.end(end);
    }
}

//! One UDP session: its account, what it speaks through, and its origin if it has one. Does not know of other sessions; when it
//! is over, others decide.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use tokio::time::Instant;

use super::answer::Answer;
use super::client_path::ClientPath;
use super::connection_book::KnownIds;
use super::proxied::ProxiedBy;
use super::queue_losses::QueueLosses;
use super::train::{Letter, Train};
use super::upstream::{Unanswered, Upstream};
use super::voice::Voice;
use crate::header::Header;
use crate::limits::Held;
use crate::model::Family;
use crate::report::End;
use crate::session::Session;
use crate::traffic::{Traffic, TrafficCount};

/// A client and what it dialled, for as long as datagrams come.
pub(super) struct UdpSession {
    pub(super) account: Session,
    traffic: Traffic,
    pub(super) answer: Answer,
    pub(super) voice: Voice,
    /// The trusted proxy that speaks for its client, if one does.
    pub(super) proxied: Option<Box<ProxiedBy>>,
    /// The socket that its client's datagrams come to since no listener is left for them.
    pub(super) parted: Option<Parted>,
    /// True once a train for its client had to be taken apart.
    pub(super) singly: Cell<bool>,
    /// Its origin; `None` where we answer ourselves.
    pub(super) upstream: Option<Upstream>,
    /// What came as long as nobody has answered, where another origin may be asked as well.
    pub(super) unanswered: Option<Box<Unanswered>>,
    /// True once the origin has answered.
    pub(super) is_answered: bool,
    /// The number of its answers so far.
    pub(super) answers: u32,
    /// The last time that its client was told how much gets through to the origin.
    pub(super) narrowed: Cell<Option<Instant>>,
    /// The ids by which its origin wants to be called, where QUIC's clients are followed.
    pub(super) ids: Option<Box<KnownIds>>,
    /// The judgement that has let its client in; none where that was in another process.
    pub(super) judged: Cell<Option<u64>>,
    /// How far its client is believed, once that has another address than at the beginning.
    pub(super) path: Option<Box<ClientPath>>,
}

/// A socket that is connected to a session's client.
pub(super) struct Parted {
    pub(super) socket: Rc<OwnedFd>,
    pub(super) losses: QueueLosses,
    pub(super) _held: Held,
}

impl UdpSession {
    pub(super) fn new(account: Session, traffic: &Traffic, answer: Answer, voice: Voice) -> Self {
        Self {
            account,
            traffic: traffic.clone(),
            answer,
            voice,
            proxied: None,
            parted: None,
            singly: Cell::new(false),
            upstream: None,
            unanswered: None,
            is_answered: false,
            answers: 0,
            narrowed: Cell::new(None),
            ids: None,
            judged: Cell::new(None),
            path: None,
        }
    }

    pub(super) fn dialled(&self) -> SocketAddr {
        self.account.dialled.get()
    }

    /// Who sends its datagrams, and is answered: the client, or the proxy that speaks for it.
    pub(super) fn peer(&self) -> SocketAddr {
        self.proxied.as_ref().map_or_else(|| self.account.client.get(), |proxied| proxied.via.via.sender)
    }

    /// The address and port that these come to, and answers come from: the dialled ones, or those that the proxy dialled.
    pub(super) fn local(&self) -> SocketAddr {
        self.proxied.as_ref().map_or_else(|| self.dialled(), |proxied| proxied.via.via.dialled)
    }

    /// From now on its datagrams begin with this header. It says the same of whom they are, but perhaps something else besides.
    pub(super) fn renew_header(&mut self, header: Box<[u8]>) {
        let (client, dialled) = (self.account.client.get(), self.dialled());
        if let Some(upstream) = &mut self.upstream {
            upstream.renew_head(client, dialled, &Header::extensions(&header));
        }
        if let Some(proxied) = &mut self.proxied {
            proxied.header = header;
        }
    }

    /// Counts what its client sent.
    pub(super) fn received(&self, train: &Train<'_>, now: Instant) {
        let count = train.count() as u64;
        self.account.from_client.add(train.payload.len());
        self.account.datagrams_from_client.update(|all| all + count);
        self.traffic.add(TrafficCount::DatagramsFromClient, count);
        if let Some(path) = &self.path {
            path.received(count, train.payload.len() as u64, now);
        }
    }

    /// Counts what was sent to its client.
    pub(super) fn sent(&self, letter: &Letter<'_>) {
        let count = letter.count() as u64;
        self.account.to_client.add(letter.payload.len());
        self.account.datagrams_to_client.update(|all| all + count);
        self.traffic.add(TrafficCount::DatagramsToClient, count);
    }

    /// Counts so many datagrams that could not be sent on.
    pub(super) fn lost(&self, datagrams: usize) {
        self.traffic.add(TrafficCount::DatagramsLost, datagrams as u64);
    }

    /// Counts so many of its client's that found a full queue.
    pub(super) fn overflowed_from_client(&self, datagrams: u64) {
        self.traffic.add(TrafficCount::OverflowFromClient, datagrams);
    }

    /// Counts so many of its origin's that found a full queue.
    pub(super) fn overflowed_from_origin(&self, datagrams: u64) {
        self.traffic.add(TrafficCount::OverflowFromOrigin, datagrams);
    }

    /// What `train` becomes on its way to the client, with so many hops left; `None`: as many as the system gives.
    pub(super) fn letter_to_client<'a>(&'a self, train: &Train<'a>, hops: Option<u8>) -> Letter<'a> {
        let from = self.voice.socket().and_then(|(_, from)| from);
        Letter {
            to: (!matches!(self.voice, Voice::Parted(_))).then(|| self.peer()),
            from,
            head: self.proxied.as_ref().map_or(&[], |proxied| proxied.before_answers()),
            payload: train.payload,
            segment: (train.count() > 1).then_some(train.segment),
            hops,
            class: train.class,
            is_v4: Family::of(self.local().ip()) == Family::Ipv4,
        }
    }

    /// Ends it. Its sockets are closed before that is told.
    pub(super) fn end(self, end: End) {
        if let Some(parted) = &self.parted {
            self.overflowed_from_client(parted.losses.end(&parted.socket));
        }
        if let Some(upstream) = &self.upstream {
            self.overflowed_from_origin(upstream.losses.end(&upstream.socket));
        }
        let Self { account, upstream, proxied, .. } = self;
        let fault = proxied.and_then(|proxied| proxied.fault);
        if let Some(upstream) = upstream {
            upstream.open.ended(end);
            upstream.let_go(account.give_descriptors());
        }
        account.end(fault.map_or(end, End::Headless));
    }
}

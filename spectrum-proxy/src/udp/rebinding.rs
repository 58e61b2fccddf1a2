//! Clients of QUIC whose address changes on the way: their sessions go on, with the origin and the port there that they have. What
//! becomes of a datagram of a client that is known is decided elsewhere; a client that itself changes to an id which nobody has seen is
//! a new one.

use std::rc::{Rc, Weak};

use tokio::task::yield_now;
use tokio::time::Instant;

use super::client_path::ClientPath;
use super::connection_book::{Mailbox, Owner, Passed};
use super::connection_id::ConnectionId;
use super::post::{Post, Way};
use super::session::UdpSession;
use super::sessions::{Sessions, end, expiry};
use super::table::{Key, SessionId, SessionTable};
use super::train::Train;
use super::voice::Voice;
use crate::assignment::Assignment;
use crate::header::Header;
use crate::model::{DialSource, Family, Quic};
use crate::traffic::TrafficCount;

/// The most trains of other workers that are taken before others have their turn.
const BATCH: usize = 64;

/// A session whose client is not where it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Moved {
    /// It is another worker's, which has got what came.
    Elsewhere,
    /// It is this worker's.
    Here(SessionId),
}

/// True if sessions of `assignment` follow their clients. Where an origin sees the client's own address, it follows itself.
pub(super) fn follows(assignment: &Assignment) -> bool {
    let source = assignment.dialler.as_ref().map(|dialler| dialler.chooser().source());
    assignment.served().policy.udp.quic == Quic::Followed && source == Some(DialSource::Host)
}

impl Sessions {
    /// Has a session that begins be known by the ids that its origin will choose, if it is to follow its client.
    pub(super) fn begin_to_learn(
        &self,
        table: &mut SessionTable<UdpSession>,
        assignment: &Assignment,
        id: SessionId,
    ) {
        if let Some(session) = table.get_mut(id).filter(|_| follows(assignment)) {
            let owner = Owner { worker: self.worker, session: id };
            session.ids = Some(Box::new(self.connections.ids_of(session.dialled(), owner)));
        }
    }

    /// Notes by which ids the origin of a session wants to be called, if `train` of that says so. True if it may go to where the client
    /// is now; lost, if not.
    pub(super) fn heed(table: &mut SessionTable<UdpSession>, id: SessionId, train: &Train<'_>) -> bool {
        let Some(session) = table.get_mut(id) else { return false };
        let UdpSession { ids: Some(ids), upstream: Some(upstream), .. } = session else { return true };
        let bare = |answer| upstream.head.as_ref().map_or(Some(answer), |head| head.strip(answer));
        for chosen in train.datagrams().filter_map(bare).filter_map(ConnectionId::of_sender) {
            ids.learn(chosen);
        }
        let takes = session.path.as_ref().is_none_or(|path| path.takes(train.payload.len() as u64));
        if !takes {
            session.lost(train.count());
        }
        takes
    }

    /// The session of which `train`, from a client that has none with what it dialled, says that it belongs to it.
    pub(super) fn moved(
        &self,
        table: &mut SessionTable<UdpSession>,
        assignment: &Assignment,
        key: &Key,
        train: &Train<'_>,
        now: Instant,
    ) -> Option<Moved> {
        if !follows(assignment) {
            return None;
        }
        let Owner { worker, session } = self.connections.owner(key.dialled, train.first())?;
        if worker == self.worker {
            return self.follow(table, assignment, session, key, now).then_some(Moved::Here(session));
        }
        let ends = [key.client, key.dialled];
        let passed = || Passed::new(session, &assignment.served().service, ends, train);
        if !train.is_whole || !self.connections.pass(worker, passed()) {
            assignment.traffic().add(TrafficCount::DatagramsLost, train.count() as u64);
        }
        Some(Moved::Elsewhere)
    }

    /// The same of a client that a trusted proxy speaks for, and that the proxy says is elsewhere now. Its sessions are this worker's, since
    /// the proxy itself has not moved, and is answered where it was.
    pub(super) fn moved_behind(
        &self,
        table: &mut SessionTable<UdpSession>,
        assignment: &Assignment,
        key: &Key,
        datagram: &[u8],
        now: Instant,
    ) -> Option<SessionId> {
        if key.via.is_none() || !follows(assignment) {
            return None;
        }
        let Owner { worker, session } = self.connections.owner(key.dialled, datagram)?;
        (worker == self.worker && self.follow(table, assignment, session, key, now)).then_some(session)
    }

    /// Has a session go on with the client of `key`. False if it cannot, and then it is as it was, or over.
    fn follow(
        &self,
        table: &mut SessionTable<UdpSession>,
        assignment: &Assignment,
        id: SessionId,
        key: &Key,
        now: Instant,
    ) -> bool {
        if let Some(known) = table.find(key) {
            return known == id;
        }
        let group = table.group_of(id);
        // Nobody who is not let in takes a session with it.
        if assignment.turns_away(key.client.ip(), key.via.is_some()).is_some() {
            return false;
        }
        let Some(session) = table.get_mut(id) else { return false };
        let via = session.proxied.as_ref().map(|proxied| proxied.via.id);
        if group != Some(key.group) || session.dialled() != key.dialled || via != key.via {
            return false;
        }
        if let Some(how) = expiry(session, &assignment.served().policy) {
            end(table, id, how);
            return false;
        }
        let former = session.account.client.get();
        // One that speaks to its former address alone gets another voice.
        let voice = match session.voice {
            Voice::Parted(_) if via.is_none() => match self.voices.of(key.dialled, assignment.share()) {
                Ok(Some(voice)) => Some(voice),
                Ok(None) | Err(_) => return false,
            },
            _ => None,
        };
        if let Err(limit) = session.account.follow(&assignment.gate, key.client) {
            assignment.complain(&session.account, limit);
            return false;
        }
        if via.is_none() {
            session.parted = None;
            let path = session.path.get_or_insert_with(|| Box::new(ClientPath::from(former.ip())));
            path.moved(key.client.ip(), now);
        }
        if let Some(voice) = voice {
            session.voice = voice;
        }
        if let Some(head) = session.upstream.as_mut().and_then(|upstream| upstream.head.as_mut()) {
            let header = session.proxied.as_ref().map_or(&[][..], |proxied| &proxied.header);
            head.follow(key.client, key.dialled, &Header::extensions(header));
        }
        table.rekey(id, *key);
        assignment.traffic().add(TrafficCount::Followed, 1);
        tracing::debug!(client = %key.client, %former, dialled = %key.dialled, "the client of a session has another address");
        true
    }

    /// Takes what a client that has moved sent to another worker.
    fn take_passed(self: &Rc<Self>, passed: &Passed) {
        let (mut table, mut post) = (self.table.borrow_mut(), self.post.borrow_mut());
        let (train, now) = (passed.train(), Instant::now());
        let group = self.group_of(&passed.service, Family::of(passed.dialled.ip()));
        let Some((group, assignment)) = group.and_then(|group| Some((group, self.assignment(group)?))) else {
            return;
        };
        let key = Key { group, client: passed.client, dialled: passed.dialled, via: None };
        if !follows(&assignment) || !self.follow(&mut table, &assignment, passed.session, &key, now) {
            // It may have ended a moment ago.
            assignment.traffic().add(TrafficCount::DatagramsLost, train.count() as u64);
            return;
        }
        if Self::account_for(&mut table, passed.session, &train, now) != Some(Way::Origin) {
            return;
        }
        self.tell_room(&table, passed.session, &train);
        let Some(session) = table.get(passed.session) else { return };
        if let Some(error) = Post::send_on(&mut post.outbox, session, std::iter::once(train)) {
            self.refused(&mut table, &mut post, passed.session, &error);
        }
    }
}

/// Takes what other workers pass on, for as long as there are `sessions`.
pub(super) async fn take_passed(sessions: Weak<Sessions>, Mailbox(mut waiting): Mailbox) {
    let mut passed = Vec::new();
    while waiting.recv_many(&mut passed, BATCH).await > 0 {
        let Some(sessions) = sessions.upgrade() else { return };
        passed.drain(..).for_each(|one| sessions.take_passed(&one));
        drop(sessions);
        yield_now().await;
    }
}

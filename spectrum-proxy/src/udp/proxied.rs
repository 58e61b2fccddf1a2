//! Sessions whose clients a trusted proxy speaks for: their datagrams, of which each says whose it is. A session is the proxy's socket
//! and ours, the client that it names and what that dialled, so that one socket of its may serve many. Opens none.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::time::Instant;

use super::incoming_header::{HeaderFormat, IncomingHeader, Run, runs};
use super::post::{Due, Post};
use super::session::UdpSession;
use super::sessions::{Sessions, expired};
use super::table::{GroupId, Key, SessionId, SessionTable};
use super::train::Train;
use super::via::{HeldVia, Via};
use crate::assignment::Assignment;
use crate::header::Header;
use crate::report::HeaderFault;
use crate::session::Session;
use crate::unique_id::shown;

/// What a session has of the proxy that speaks for its client.
pub(super) struct ProxiedBy {
    pub(super) via: Rc<HeldVia>,
    /// The header that came last: its extensions may be others each time.
    pub(super) header: Box<[u8]>,
    /// Set where datagrams come without one: they go no further, and the session is the account of them.
    pub(super) fault: Option<HeaderFault>,
}

impl ProxiedBy {
    /// What stands before each answer.
    pub(super) fn before_answers(&self) -> &[u8] {
        match self.via.via.format {
            HeaderFormat::Spp => &self.header,
            HeaderFormat::None | HeaderFormat::V2 => &[],
        }
    }

    /// Notes in `account` what the header says.
    pub(super) fn name(&self, account: &Session) {
        if let Ok(IncomingHeader { named: Some((client, dialled)), .. }) = IncomingHeader::read(&self.header)
        {
            account.set_client(client, dialled);
        }
        if let Some(id) = Header::extensions(&self.header).unique_id() {
            // It has none yet.
            let _ = account.unique_id.set(shown(id));
        }
    }
}

/// A session that a proxy's datagram belongs to, and would begin.
pub(super) struct Proxied<'a> {
    pub(super) key: Key,
    pub(super) via: Via,
    /// The header, or nothing where it is not one.
    pub(super) header: &'a [u8],
    pub(super) fault: Option<HeaderFault>,
}

impl Proxied<'_> {
    /// What the session has of it once it is there.
    pub(super) fn by(&self, via: Rc<HeldVia>) -> ProxiedBy {
        ProxiedBy { via, header: self.header.into(), fault: self.fault }
    }
}

/// Where datagrams of a proxy come: to which service, from where, and to what.
#[derive(Clone, Copy)]
pub(super) struct ProxyEnds<'a> {
    pub(super) group: GroupId,
    pub(super) assignment: &'a Assignment,
    pub(super) sender: SocketAddr,
    pub(super) dialled: SocketAddr,
    pub(super) now: Instant,
}

impl Sessions {
    /// Takes a train of a trusted proxy apart, by the header of each datagram. `open` opens a session where there is none. What is
    /// behind headers is due as if it had come from the clients.
    pub(super) fn take_proxied(
        self: &Rc<Self>,
        table: &mut SessionTable<UdpSession>,
        post: &mut Post,
        index: usize,
        ends: &ProxyEnds<'_>,
        due: &mut Vec<Due>,
        mut open: impl FnMut(&mut SessionTable<UdpSession>, Proxied<'_>, &[u8]) -> Option<SessionId>,
    ) {
        let policy = &ends.assignment.served().policy;
        let Some(train) = post.inbox.train(index) else { return };
        let found = runs(&train, |header, datagram| {
            let proxied = self.proxied(ends, header, datagram);
            let known = proxied.key.via.and_then(|_| table.find(&proxied.key));
            let known = known.filter(|id| !expired(table, *id, policy));
            let content = datagram.get(proxied.header.len()..).unwrap_or_default();
            let moved = |table: &mut SessionTable<UdpSession>| {
                self.moved_behind(table, ends.assignment, &proxied.key, content, ends.now)
            };
            let id = match known.or_else(|| moved(table)) {
                // Who speaks for it hears nothing.
                Some(id) if Self::turns_away(table, id, ends.assignment).is_some() => return None,
                Some(id) => id,
                None => open(table, proxied, datagram)?,
            };
            if header.is_err() {
                table.touch(id, ends.now);
                if let Some(session) = table.get(id) {
                    let datagram = Train { payload: datagram, segment: datagram.len(), ..train };
                    session.received(&datagram, ends.now);
                    session.lost(1);
                }
                return None;
            }
            Some(id)
        });
        for run in found {
            self.take_run(table, post, index, &run, ends.now, due);
        }
    }

    /// The session of a datagram that begins with `header`.
    fn proxied<'a>(
        &self,
        ends: &ProxyEnds<'_>,
        header: Result<IncomingHeader, HeaderFault>,
        datagram: &'a [u8],
    ) -> Proxied<'a> {
        let ProxyEnds { group, sender, dialled, .. } = *ends;
        let format = header.map_or(HeaderFormat::None, |header| header.format);
        let via = Via { sender, dialled, format };
        let named = header.ok().and_then(|header| header.named);
        let (client, dialled) = named.unwrap_or((sender, dialled));
        let key = Key { group, client, dialled, via: self.vias.find(&via) };
        let length = header.map_or(0, |header| header.length);
        Proxied { key, via, header: datagram.get(..length).unwrap_or_default(), fault: header.err() }
    }

    /// Takes datagrams that belong to one session. Where its origin is told what the proxy says besides and that is something else now,
    /// what is due already goes first.
    fn take_run(
        self: &Rc<Self>,
        table: &mut SessionTable<UdpSession>,
        post: &mut Post,
        index: usize,
        run: &Run,
        now: Instant,
        due: &mut Vec<Due>,
    ) {
        let is_new = |table: &SessionTable<UdpSession>, post: &Post| {
            let proxied = table.get(run.id)?.proxied.as_ref()?;
            let train = post.inbox.train(index)?;
            let header = train.payload.get(run.header.clone())?;
            (*proxied.header != *header).then(|| Box::from(header))
        };
        if let Some(header) = is_new(table, post) {
            self.deliver(table, post, due);
            due.clear();
            if let Some(session) = table.get_mut(run.id) {
                session.renew_header(header);
            }
        }
        let Some(cut) = post.inbox.cut(index, &run.parts) else { return };
        if let Some(train) = post.inbox.train(cut) {
            Self::take(table, run.id, cut, &train, now, due);
        }
    }
}

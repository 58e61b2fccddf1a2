//! Sessions that go on in another process, with their sockets: what that has to know of each, how one is given away, and how it goes on
//! there. Brings none from here to there.

use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Sender;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::answer::Answer;
use super::client_path::{ClientPath, MovingPath};
use super::connection_id::ConnectionId;
use super::poller::Ear;
use super::proxied::ProxiedBy;
use super::queue_losses::QueueLosses;
use super::receiver::{AbandonedListener, Queue};
use super::session::{Parted, UdpSession};
use super::sessions::{Sessions, end};
use super::table::{Key, Rank, SessionId, SessionTable};
use super::upstream::{MovingUnanswered, MovingUpstream, Unanswered, Upstream};
use super::via::Via;
use super::voice::Voice;
use crate::report::{DialFailure, End, Side};
use crate::session::{MovingAccount, Session};

/// So many sessions are given away at once: no more than a message has room for their sockets.
const BATCH: usize = 64;

/// A UDP session on its way to another process: all that is known of it. Its sockets travel beside it.
#[derive(Debug, Deserialize, Serialize)]
pub struct MovingSession {
    /// The kernel's number of the listener that its datagrams come to.
    listener: u64,
    account: MovingAccount,
    /// The time since it was used last.
    idle: Duration,
    answer: Answer,
    is_answered: bool,
    answers: u32,
    proxied: Option<MovingProxy>,
    upstream: Option<MovingUpstream>,
    unanswered: Option<MovingUnanswered>,
    parted: Option<MovingParted>,
    ids: Vec<Vec<u8>>,
    path: Option<MovingPath>,
}

/// The trusted proxy that speaks for its client.
#[derive(Debug, Deserialize, Serialize)]
struct MovingProxy {
    via: Via,
    header: Vec<u8>,
}

/// The socket that its client's datagrams come to by themselves.
#[derive(Debug, Deserialize, Serialize)]
struct MovingParted {
    losses: u32,
    /// True if it is answered through it.
    speaks: bool,
}

/// Some sessions on their way to another process, and what it has to know of listeners. The sockets travel beside it, in their order.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Moving {
    /// What the queues of listeners have lost, as far as that was told, by the kernel's numbers of these.
    pub(crate) listeners: Vec<(u64, u32)>,
    pub(crate) sessions: Vec<MovingSession>,
    /// Listeners of which these were the last, by the same numbers.
    pub(crate) whole: Vec<u64>,
}

impl Moving {
    /// The number of sessions.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sessions.len()
    }
}

impl MovingSession {
    /// The number of its sockets.
    pub(crate) fn sockets(&self) -> usize {
        usize::from(self.upstream.is_some()) + usize::from(self.parted.is_some())
    }

    /// The kernel's number of the listener that its datagrams come to.
    pub(crate) fn listener(&self) -> u64 {
        self.listener
    }
}

/// The sessions that are to go next, and the way that they go.
pub(crate) struct Giving {
    to: Sender<(Moving, Vec<OwnedFd>)>,
    moving: Moving,
    sockets: Vec<OwnedFd>,
}

impl Giving {
    /// The way `to` whoever takes them.
    pub(crate) fn new(to: Sender<(Moving, Vec<OwnedFd>)>) -> Self {
        Self { to, moving: Moving::default(), sockets: Vec::new() }
    }

    /// Has them go. False if nobody takes them any more.
    pub(crate) async fn flush(&mut self) -> bool {
        let some = (std::mem::take(&mut self.moving), std::mem::take(&mut self.sockets));
        self.to.send(some).await.is_ok()
    }
}

impl Sessions {
    /// Returns once nothing waits that other workers have passed on before they left their listeners.
    pub(crate) async fn passed(&self) {
        while !self.has_taken_all() {
            yield_now().await;
        }
    }

    /// Adds the sessions of a listener, which another process reads from now on, to those that are to go next, and has these go whenever
    /// they are many. False if nobody takes them any more.
    pub(crate) async fn give(&self, listener: AbandonedListener, next: &mut Giving) -> bool {
        let AbandonedListener { cookie, group, losses } = listener;
        next.moving.listeners.push((cookie, losses));
        let ids = self.table.borrow().ids_of(group);
        for ids in ids.chunks(BATCH) {
            if next.moving.sessions.len() + ids.len() > BATCH && !next.flush().await {
                return false;
            }
            self.give_some(ids, cookie, next);
        }
        next.moving.whole.push(cookie);
        next.moving.whole.len() < BATCH || next.flush().await
    }

    /// Adds those of `ids` that are there still, whose datagrams come to the listener of this number.
    fn give_some(&self, ids: &[SessionId], listener: u64, next: &mut Giving) {
        let (mut table, now) = (self.table.borrow_mut(), Instant::now());
        for id in ids {
            // Nobody waits for what goes no further.
            let by = table.get(*id).and_then(|session| session.proxied.as_ref());
            if let Some(fault) = by.and_then(|by| by.fault) {
                end(&mut table, *id, End::Headless(fault));
            }
            let Some(used) = table.used(*id) else { continue };
            if let Some((_, session)) = table.remove(*id) {
                let (session, its) = self.move_away(session, listener, now, used);
                next.moving.sessions.push(session);
                next.sockets.extend(its);
            }
        }
    }

    fn move_away(
        &self,
        session: UdpSession,
        listener: u64,
        now: Instant,
        used: Instant,
    ) -> (MovingSession, Vec<OwnedFd>) {
        let UdpSession { account, answer, voice, proxied, parted, upstream, .. } = session;
        let mut sockets = Vec::new();
        let upstream = upstream.map(|upstream| {
            let (moving, socket) = upstream.move_away();
            sockets.push(socket);
            moving
        });
        let speaks = matches!(voice, Voice::Parted(_));
        drop(voice);
        let parted = parted.and_then(|Parted { socket, losses, .. }| {
            sockets.push(Rc::try_unwrap(socket).ok()?);
            Some(MovingParted { losses: losses.known(), speaks })
        });
        for socket in &sockets {
            self.forget(socket);
        }
        let moving = MovingSession {
            listener,
            account: account.move_away(),
            idle: now.duration_since(used),
            answer,
            is_answered: session.is_answered,
            answers: session.answers,
            proxied: proxied.map(|by| MovingProxy { via: by.via.via, header: by.header.into_vec() }),
            upstream,
            unanswered: session.unanswered.map(|unanswered| unanswered.move_away()),
            parted,
            ids: session.ids.iter().flat_map(|ids| ids.all()).map(|id| id.as_bytes().to_vec()).collect(),
            path: session.path.map(|path| path.move_away(now)),
        };
        (moving, sockets)
    }
}

impl Queue {
    /// Goes on with a session that another process had. False if it cannot.
    pub(super) fn adopt(&self, moving: MovingSession, sockets: Vec<OwnedFd>) -> bool {
        let (now, assignment) = (Instant::now(), self.assignment.get());
        self.sessions.assign(self.group, &assignment);
        let mut table = self.sessions.table.borrow_mut();
        self.sessions.make_room(&mut table, self.group);
        let MovingSession { account, idle, answer, parted, ids, .. } = moving;
        let used = now.checked_sub(idle).unwrap_or(now);
        let account = Session::resume(Rc::clone(&self.worker), account, assignment.traffic());
        account.readmit(&assignment.gate);
        let (mut sockets, bound_port) = (sockets.into_iter(), account.bound_port);
        let upstream = match (moving.upstream, &assignment.dialler) {
            (Some(upstream), Some(dialler)) => {
                let share = assignment.share();
                let (Ok(()), Some(socket)) = (account.take_descriptors(share, 1), sockets.next()) else {
                    account.end(End::Evicted);
                    return false;
                };
                let spares = &self.sessions.spares;
                let upstream = Upstream::resume(upstream, socket, dialler.chooser(), spares, bound_port);
                account.count_on_for(&upstream.open);
                Some(upstream)
            }
            (None, _) => None,
            (Some(_), None) => {
                account.end(End::Cut);
                return false;
            }
        };
        let parted = parted.and_then(|MovingParted { losses, speaks }| {
            let held = assignment.share().take(1).ok()?;
            let socket = Rc::new(sockets.next()?);
            Some((Parted { socket, losses: QueueLosses::beyond(losses), _held: held }, speaks))
        });
        let proxied = moving.proxied.map(|MovingProxy { via, header }| {
            Box::new(ProxiedBy { via: self.sessions.vias.hold(via), header: header.into(), fault: None })
        });
        let (client, dialled) = (account.client.get(), account.dialled.get());
        let key = Key { group: self.group, client, dialled, via: proxied.as_ref().map(|by| by.via.id) };
        if table.find(&key).is_some() {
            // Its client has begun anew meanwhile.
            account.end(End::Evicted);
            return false;
        }
        let local = proxied.as_ref().map_or(dialled, |by| by.via.via.dialled);
        let voice = match &parted {
            _ if answer == Answer::Discard => Ok(Some(Voice::Silent)),
            Some((parted, true)) => Ok(Some(Voice::Parted(Rc::clone(&parted.socket)))),
            _ => self.voice(&mut table, &assignment, local),
        };
        let voice = match voice {
            Ok(Some(voice)) => voice,
            Ok(None) => {
                account.end(End::Lost(Side::Downstream));
                return false;
            }
            Err(limit) => {
                account.end(End::Denied(limit));
                return false;
            }
        };
        let mut session = UdpSession::new(account, assignment.traffic(), answer, voice);
        session.proxied = proxied;
        session.upstream = upstream;
        session.parted = parted.map(|(parted, _)| parted);
        session.unanswered = moving.unanswered.map(|unanswered| Box::new(self.sessions.resume(unanswered)));
        (session.is_answered, session.answers) = (moving.is_answered, moving.answers);
        session.path = moving.path.map(|path| Box::new(ClientPath::resume(path, now)));
        let rank = if session.is_answered { Rank::Answered } else { Rank::Unanswered };
        let id = table.insert(key, rank, used, session);
        self.sessions.begin_to_learn(&mut table, &assignment, id);
        if let Some(known) = table.get_mut(id).and_then(|session| session.ids.as_mut()) {
            ids.iter().filter_map(|id| ConnectionId::new(id)).for_each(|id| known.learn(id));
        }
        self.sessions.begin_reaping();
        self.listen_on(&mut table, id)
    }

    /// Hears the sockets of a session that was adopted, of which something may wait already.
    fn listen_on(&self, table: &mut SessionTable<UdpSession>, id: SessionId) -> bool {
        let Some(session) = table.get(id) else { return false };
        let upstream = session.upstream.as_ref().map(|upstream| upstream.socket.as_fd());
        let parted = session.parted.as_ref().map(|parted| parted.socket.as_fd());
        let heard = [(upstream, Ear::Upstream), (parted, Ear::Parted)]
            .into_iter()
            .filter_map(|(socket, ear)| Some((socket?, ear)))
            .try_for_each(|(socket, ear)| self.sessions.hear(socket, id, ear));
        if let Err(error) = &heard {
            tracing::warn!(%error, "listen to the socket of a session of another process");
            end(table, id, End::Undialled(DialFailure::OutOfResources));
        }
        heard.is_ok()
    }
}

impl Sessions {
    fn resume(&self, moving: MovingUnanswered) -> Unanswered {
        Unanswered::resume(moving, self.room())
    }
}

//! A worker's UDP sessions: what becomes of datagrams that belong to one, which session must go, and when. Opens none.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local, yield_now};
use tokio::time::{Instant, sleep_until};

use super::answer::{Answer, hops_of_answer};
use super::complaints::Complaints;
use super::connection_book::{ConnectionBook, Mailbox};
use super::parting;
use super::poller::{Ear, Heard, Poller};
use super::post::{Due, Post, Way, is_of_origin};
use super::proxied::ProxyEnds;
use super::queue_losses::QueueLosses;
use super::rebinding::take_passed;
use super::session::{Parted, UdpSession};
use super::spares::Spares;
use super::sys::BATCH;
use super::table::{GroupId, Rank, SessionId, SessionTable};
use super::train::Train;
use super::upstream::{Caller, Unanswered, Upstream, header_lengths};
use super::via::Vias;
use super::voice::{Voice, Voices};
use crate::assignment::Assignment;
use crate::model::{Family, Policy, ServiceName};
use crate::privileged::PrivilegedSocket;
use crate::report::{DialFailure, End, Expiry, Limit, Side};
use crate::session::Session;
use crate::source_judge::TurnedAway;
use crate::traffic::{Traffic, TrafficCount};

/// The time without datagrams that a session lasts which we answer ourselves, while the program is on its way out.
const IDLE_WHEN_DRAINING: Duration = Duration::from_secs(1);

/// The most sessions of a worker: some 40 MB.
const MOST: usize = 65_536;

/// The bytes that sessions which nobody answered keep at most, all of a worker's together.
const KEPT: usize = 8 << 20;

/// Idle sessions are looked for no more often.
const LOOK: Duration = Duration::from_millis(50);

/// The most idle sessions that are ended before others have their turn.
const ENDED: usize = 1024;

/// Trains that fill buffers are taken in smaller batches, which stay in the processor's cache.
const LONG: usize = 16 * 1024;
const BATCH_OF_LONG: usize = 8;

/// Of what waits the first few are sent on before the others are read, which would keep them waiting for no gain.
pub(super) const FIRST_BATCH: usize = 2;

/// The most that is taken of one session before others have their turn.
const BATCH_OF_SESSION: usize = 8;

/// A session's client is told no more often how much gets through.
const NARROWING: Duration = Duration::from_secs(1);

/// The number of sessions that a worker may have. Descriptors for what they speak through are counted elsewhere.
pub(crate) fn capacity() -> usize {
    MOST
}

/// What is known of a service's sessions as a whole.
struct Group {
    /// The latest.
    assignment: Option<Rc<Assignment>>,
    /// The number of listeners from which its datagrams come.
    listeners: usize,
    transparent: bool,
}

/// The sessions. Full, the worker ends the one that the service with most of them can best do without.
pub(crate) struct Sessions {
    pub(super) table: RefCell<SessionTable<UdpSession>>,
    pub(super) voices: Voices,
    pub(super) vias: Vias,
    pub(super) spares: Rc<Spares>,
    pub(super) post: RefCell<Post>,
    groups: RefCell<Groups>,
    capacity: usize,
    draining: Cell<bool>,
    reaping: Cell<bool>,
    hurried: Notify,
    /// True if what came last filled buffers.
    is_long: Cell<bool>,
    ears: RefCell<Option<Ears>>,
    /// The number of ways to origins that were looked for.
    turns: Cell<usize>,
    /// The bytes that sessions which nobody answered may keep besides those that they do.
    room: Rc<Cell<usize>>,
    complaints: Complaints,
    /// The number of the worker.
    pub(super) worker: usize,
    /// The sessions by QUIC's connection ids, those of the other workers among them.
    pub(super) connections: ConnectionBook,
}

#[derive(Default)]
struct Groups {
    ids: HashMap<(ServiceName, Family), GroupId>,
    known: Vec<Group>,
}

impl Groups {
    fn of(&mut self, group: GroupId) -> Option<&mut Group> {
        self.known.get_mut(group.0 as usize)
    }
}

/// Whoever listens to the sockets of sessions.
struct Ears {
    poller: Rc<Poller>,
    task: JoinHandle<()>,
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sessions {
    pub(crate) fn new(capacity: usize, worker: usize, connections: ConnectionBook) -> Self {
        Self {
            table: RefCell::new(SessionTable::new()),
            voices: Voices::default(),
            vias: Vias::default(),
            spares: Rc::default(),
            post: RefCell::new(Post::new()),
            groups: RefCell::default(),
            capacity,
            draining: Cell::new(false),
            reaping: Cell::new(false),
            hurried: Notify::new(),
            is_long: Cell::new(false),
            ears: RefCell::default(),
            turns: Cell::new(0),
            room: Rc::new(Cell::new(KEPT)),
            complaints: Complaints::new(),
            worker,
            connections,
        }
    }

    /// Takes what other workers pass on from now on. To be called within the worker's runtime.
    pub(crate) fn open(self: &Rc<Self>, mailbox: Mailbox) {
        spawn_local(take_passed(Rc::downgrade(self), mailbox));
    }

    /// From now on a short silence ends a session that we answer ourselves.
    pub(crate) fn hurry(&self) {
        self.draining.set(true);
        let mut table = self.table.borrow_mut();
        for id in table.peopled().into_iter().flat_map(|group| table.ids_of(group)).collect::<Vec<_>>() {
            // Nobody waits for these.
            let by = table.get(id).and_then(|session| session.proxied.as_ref());
            if let Some(fault) = by.and_then(|by| by.fault) {
                end(&mut table, id, End::Headless(fault));
            }
        }
        self.hurried.notify_one();
    }

    /// Lets go of all sessions, which report themselves as cut, and of what holds on to them: without this they might outlast the
    /// runtime.
    pub(crate) fn clear(&self) {
        let sessions = self.table.borrow_mut().drain();
        drop(sessions);
        self.ears.take();
        self.spares.clear();
        self.voices.rest();
        for group in &mut self.groups.borrow_mut().known {
            group.assignment = None;
        }
    }

    /// True if `service`, which has no listener any more, has any of this family.
    pub(crate) fn any_left_of(&self, service: &ServiceName, family: Family) -> bool {
        self.orphaned(service, family).is_some_and(|group| self.table.borrow().count(group) > 0)
    }

    /// Cuts those of a service that has no listener any more: how many there were.
    pub(crate) fn cut(&self, service: &ServiceName, family: Family) -> usize {
        let Some(group) = self.orphaned(service, family) else { return 0 };
        let mut table = self.table.borrow_mut();
        let ids = table.ids_of(group);
        for id in &ids {
            end(&mut table, *id, End::Cut);
        }
        if let Some(group) = self.groups.borrow_mut().of(group) {
            group.assignment = None;
        }
        ids.len()
    }

    /// The sessions of a service, if nothing listens for it.
    fn orphaned(&self, service: &ServiceName, family: Family) -> Option<GroupId> {
        let mut groups = self.groups.borrow_mut();
        let group = groups.ids.get(&(service.clone(), family)).copied()?;
        groups.of(group).is_some_and(|group| group.listeners == 0).then_some(group)
    }

    /// One more listener of a service, whose sessions may be older than it.
    pub(super) fn listener_opened(
        &self,
        service: &ServiceName,
        family: Family,
        transparent: bool,
    ) -> GroupId {
        let mut groups = self.groups.borrow_mut();
        let Groups { ids, known } = &mut *groups;
        let group = *ids.entry((service.clone(), family)).or_insert_with(|| {
            known.push(Group { assignment: None, listeners: 0, transparent });
            self.table.borrow_mut().add_group()
        });
        if let Some(group) = groups.of(group) {
            group.listeners += 1;
            group.transparent = transparent;
        }
        group
    }

    /// One listener less.
    pub(super) fn listener_closed(&self, group: GroupId) {
        if let Some(group) = self.groups.borrow_mut().of(group) {
            group.listeners = group.listeners.saturating_sub(1);
        }
    }

    /// Has the sessions of `group` go by `assignment` from now on, but for the origins that they have.
    pub(super) fn assign(&self, group: GroupId, assignment: &Rc<Assignment>) {
        if let Some(group) = self.groups.borrow_mut().of(group)
            && !group.assignment.as_ref().is_some_and(|known| Rc::ptr_eq(known, assignment))
        {
            group.assignment = Some(Rc::clone(assignment));
        }
    }

    /// What is known as the sessions of a service.
    pub(super) fn group_of(&self, service: &ServiceName, family: Family) -> Option<GroupId> {
        self.groups.borrow().ids.get(&(service.clone(), family)).copied()
    }

    pub(super) fn assignment(&self, group: GroupId) -> Option<Rc<Assignment>> {
        self.groups.borrow_mut().of(group)?.assignment.clone()
    }

    /// Ends what must make room for one more of `group`.
    pub(super) fn make_room(&self, table: &mut SessionTable<UdpSession>, group: GroupId) {
        while table.len() >= self.capacity {
            let Some(id) = table.dispensable(group) else { return };
            end(table, id, End::Evicted);
        }
    }

    pub(super) fn begin_reaping(self: &Rc<Self>) {
        if !self.reaping.replace(true) {
            spawn_local(reap(Rc::clone(self)));
        }
    }

    /// Receives from a listener's `socket` into the post, no more than so many: which trains, and whether there may be more.
    pub(super) fn receive(
        &self,
        post: &mut Post,
        socket: BorrowedFd<'_>,
        most: usize,
    ) -> io::Result<(Range<usize>, bool)> {
        post.inbox.clear();
        let most = most.min(if self.is_long.get() { BATCH_OF_LONG } else { BATCH });
        let received = post.inbox.receive(socket, most)?;
        let trains = received.clone().filter_map(|index| post.inbox.train(index));
        let bytes: usize = trains.map(|train| train.payload.len()).sum();
        self.is_long.set(!received.is_empty() && bytes / received.len() >= LONG);
        let more = received.len() == most;
        Ok((received, more))
    }

    /// Takes a train of a session's client. How it goes on is added to `due`.
    pub(super) fn take(
        table: &mut SessionTable<UdpSession>,
        id: SessionId,
        index: usize,
        train: &Train<'_>,
        now: Instant,
        due: &mut Vec<Due>,
    ) {
        if let Some(way) = Self::account_for(table, id, train, now) {
            due.push(Due { id, train: index, way });
        }
    }

    /// Counts a train of a session's client: how it goes on, if it does.
    pub(super) fn account_for(
        table: &mut SessionTable<UdpSession>,
        id: SessionId,
        train: &Train<'_>,
        now: Instant,
    ) -> Option<Way> {
        table.touch(id, now);
        let session = table.get_mut(id)?;
        session.received(train, now);
        let (client, dialled) = (session.account.client.get(), session.dialled());
        if !train.is_whole {
            tracing::debug!(%client, %dialled, "a datagram is longer than any may be, and goes no further");
            session.lost(1);
            return None;
        }
        match session.answer {
            Answer::Discard => None,
            Answer::Echo => {
                let hops = hops_of_answer(train.hops);
                if hops.is_none() {
                    tracing::debug!(%client, %dialled, "a datagram without hops left is not answered");
                }
                hops.map(|hops| Way::Client(Some(hops)))
            }
            Answer::Relay => {
                if let Some(unanswered) = &mut session.unanswered {
                    unanswered.keep(train);
                }
                Some(Way::Origin)
            }
        }
    }

    /// Sends what is `due`, and sees to sessions whose origin turns out to be unreachable.
    pub(super) fn deliver(
        self: &Rc<Self>,
        table: &mut SessionTable<UdpSession>,
        post: &mut Post,
        due: &[Due],
    ) {
        for due in due.iter().filter(|due| due.way == Way::Origin) {
            let upstream = table.get(due.id).and_then(|session| session.upstream.as_ref());
            if upstream.is_some_and(|upstream| upstream.room.is_some())
                && let Some(train) = post.inbox.train(due.train)
            {
                self.tell_room(table, due.id, &train);
            }
        }
        for (id, error) in post.deliver(table, due) {
            self.refused(table, post, id, &error);
        }
    }

    /// Tells a session's client how much gets through, where `train` is of more.
    pub(super) fn tell_room(&self, table: &SessionTable<UdpSession>, id: SessionId, train: &Train<'_>) {
        if let Some(session) = table.get(id)
            && let Some(room) = session.upstream.as_ref().and_then(|upstream| upstream.room)
            && train.first().len() > usize::from(room)
            && let Some(group) = table.group_of(id)
        {
            self.narrow(group, session, room, train.first());
        }
    }

    /// Whom an origin is to be found for, and the header by which a trusted proxy named it, or nothing.
    pub(super) fn caller<'a>(&self, account: &Session, header: &'a [u8]) -> Caller<'a> {
        let turn = self.turns.replace(self.turns.get().wrapping_add(1));
        let (client, dialled) = (account.client.get(), account.dialled.get());
        Caller { client, dialled, bound_port: account.bound_port, turn, header }
    }

    /// Where a session keeps what nobody has answered.
    pub(super) fn unanswered(&self) -> Unanswered {
        Unanswered::new(&self.room)
    }

    /// The bytes that sessions which nobody answered may keep besides.
    pub(super) fn room(&self) -> &Rc<Cell<usize>> {
        &self.room
    }

    /// Tells of one of the sockets of a session that is not a new one.
    pub(super) fn hear(self: &Rc<Self>, socket: BorrowedFd<'_>, id: SessionId, ear: Ear) -> io::Result<()> {
        self.ears()?.add(socket, id, ear)
    }

    /// Tells no more of a socket that another process has from now on.
    pub(super) fn forget(&self, socket: &OwnedFd) {
        if let Some(ears) = &*self.ears.borrow() {
            ears.poller.forget(socket);
        }
    }

    /// True if nothing waits that other workers have passed on.
    pub(super) fn has_taken_all(&self) -> bool {
        self.connections.has_passed_all(self.worker)
    }

    /// Tells of the socket to the origin of a new session.
    pub(super) fn listen_to(self: &Rc<Self>, upstream: &Upstream, id: SessionId) -> io::Result<()> {
        let ears = self.ears()?;
        if upstream.is_spare {
            ears.change(&upstream.socket, id)
        } else {
            ears.add(&upstream.socket, id, Ear::Upstream)
        }
    }

    /// Gives the sessions of a service sockets of their own if nothing listens for it any more.
    pub(crate) fn part_orphans(self: &Rc<Self>, service: &ServiceName, family: Family) {
        if self.orphaned(service, family).is_some() {
            self.part(service, family);
        }
    }

    /// Gives the sessions of a service sockets of their own, since nothing will be steered to them any more: those that are missed
    /// most first.
    pub(crate) fn part(self: &Rc<Self>, service: &ServiceName, family: Family) {
        let Some(group) = self.group_of(service, family) else { return };
        let transparent = self.groups.borrow_mut().of(group).is_some_and(|group| group.transparent);
        let Some(assignment) = self.assignment(group) else { return };
        let mut table = self.table.borrow_mut();
        let ids = table.ids_of(group);
        for id in ids.into_iter().rev().take(parting::MOST) {
            if !self.part_one(&mut table, id, &assignment, transparent) {
                return;
            }
        }
    }

    /// Gives a session that has just begun a socket of its own, since nothing will be steered to its listener any more.
    pub(super) fn part_at_once(
        self: &Rc<Self>,
        table: &mut SessionTable<UdpSession>,
        id: SessionId,
        group: GroupId,
        assignment: &Assignment,
    ) {
        let transparent = self.groups.borrow_mut().of(group).is_some_and(|group| group.transparent);
        self.part_one(table, id, assignment, transparent);
    }

    /// False if there cannot be such a socket for others either.
    fn part_one(
        self: &Rc<Self>,
        table: &mut SessionTable<UdpSession>,
        id: SessionId,
        assignment: &Assignment,
        transparent: bool,
    ) -> bool {
        let Some(session) = table.get_mut(id).filter(|session| session.parted.is_none()) else { return true };
        let (client, dialled) = (session.peer(), session.local());
        // What is left is for those who go on.
        let Ok(held) = assignment.share().take(1) else { return false };
        let parted = PrivilegedSocket::Parted { dialled, client, transparent }.make().and_then(|socket| {
            self.ears()?.add(&socket, id, Ear::Parted)?;
            Ok(Rc::new(socket))
        });
        match parted {
            Ok(socket) => {
                if matches!(session.voice, Voice::Listener(..)) {
                    session.voice = Voice::Parted(Rc::clone(&socket));
                }
                session.parted = Some(Parted { socket, losses: QueueLosses::default(), _held: held });
                true
            }
            Err(error) => {
                tracing::debug!(%client, %dialled, %error, "give a session a socket of its own");
                false
            }
        }
    }

    /// What tells of the sockets of sessions. To be called within the worker's runtime.
    fn ears(self: &Rc<Self>) -> io::Result<Rc<Poller>> {
        let mut ears = self.ears.borrow_mut();
        if let Some(ears) = &*ears {
            return Ok(Rc::clone(&ears.poller));
        }
        let poller = Rc::new(Poller::new()?);
        let task = spawn_local(hear(Rc::downgrade(self), Rc::clone(&poller)));
        ears.replace(Ears { poller: Rc::clone(&poller), task });
        Ok(poller)
    }

    /// Reads sockets that have something, as many as there is room for. Those that may have more stay in `heard`.
    fn hear_some(self: &Rc<Self>, heard: &mut Vec<Heard>, due: &mut Vec<Due>, most: usize) {
        let (mut table, mut post) = (self.table.borrow_mut(), self.post.borrow_mut());
        let now = Instant::now();
        let (mut more, mut over) = (Vec::new(), Vec::new());
        post.inbox.clear();
        due.clear();
        let room = BATCH.saturating_sub(most);
        while post.inbox.room() > room
            && let Some(one @ Heard { id, ear }) = heard.pop()
        {
            let Some(session) = table.get(id) else { continue };
            let socket = match ear {
                Ear::Parted => session.parted.as_ref().map(|parted| &*parted.socket),
                Ear::Upstream => session.upstream.as_ref().map(|upstream| &upstream.socket),
            };
            let Some(socket) = socket else { continue };
            let most = BATCH_OF_SESSION.min(post.inbox.room());
            let received = match post.inbox.receive(socket.as_fd(), most) {
                Ok(received) => received,
                Err(error) => {
                    match error.raw_os_error() {
                        Some(libc::EAGAIN) => {}
                        Some(libc::EINTR) => more.push(one),
                        _ => self.failed(&mut table, &mut post, one, &error),
                    }
                    continue;
                }
            };
            let (is_full, mut bytes) = (received.len() == most, 0);
            if is_full {
                more.push(one);
            }
            match ear {
                Ear::Parted if session.proxied.is_some() => {
                    let (sender, dialled) = (session.peer(), session.local());
                    self.take_parted(&mut table, &mut post, id, received, (sender, dialled), due);
                }
                Ear::Parted => {
                    for index in received {
                        if let Some(train) = post.inbox.train(index) {
                            bytes += train.payload.len();
                            Self::take(&mut table, id, index, &train, now, due);
                        }
                    }
                }
                Ear::Upstream => {
                    let mut answers = 0;
                    for index in received {
                        let Some(train) = post.inbox.train(index) else { continue };
                        bytes += train.payload.len();
                        let good = self.count_for_client(&table, id, &train);
                        if Self::heed(&mut table, id, &train) && good > 0 {
                            due.push(Due { id, train: index, way: Way::Client(None) });
                        }
                        answers += good;
                    }
                    if answers > 0
                        && let Some(end) = self.origin_answered(&mut table, id, answers, now)
                    {
                        over.push((id, end));
                    }
                }
            }
            note_losses(&table, one, is_full, bytes, now);
        }
        self.deliver(&mut table, &mut post, due);
        for (id, how) in over {
            end(&mut table, id, how);
        }
        if !more.is_empty() {
            // Those that waited come first.
            more.append(heard);
            std::mem::swap(heard, &mut more);
        }
    }

    /// Takes what a trusted proxy sent to the socket of one of its sessions, which may be for others of them: sockets of the same
    /// two ends are one to the kernel.
    fn take_parted(
        self: &Rc<Self>,
        table: &mut SessionTable<UdpSession>,
        post: &mut Post,
        id: SessionId,
        received: Range<usize>,
        (sender, dialled): (SocketAddr, SocketAddr),
        due: &mut Vec<Due>,
    ) {
        let Some(group) = table.group_of(id) else { return };
        let Some(assignment) = self.assignment(group) else { return };
        let assignment = &*assignment;
        let ends = ProxyEnds { group, assignment, sender, dialled, now: Instant::now() };
        for index in received {
            self.take_proxied(table, post, index, &ends, due, |table, _, _| {
                // Nothing listens for new ones any more.
                if let Some(session) = table.get(id) {
                    session.lost(1);
                }
                None
            });
        }
    }

    /// How many of the datagrams of `train`, which came from a session's origin, are for its client. The others are noted.
    fn count_for_client(&self, table: &SessionTable<UdpSession>, id: SessionId, train: &Train<'_>) -> usize {
        let head = table.get(id).and_then(|session| session.upstream.as_ref()?.head.as_ref());
        let Some(head) = head.filter(|head| head.is_on_answers()) else { return train.count() };
        let (count, mut good) = (train.count(), 0);
        train.datagrams().for_each(|answer| good += usize::from(head.strip(answer).is_some()));
        if good < count {
            tracing::debug!("an answer without the header of its session goes no further");
            if let Some(assignment) = table.group_of(id).and_then(|group| self.assignment(group)) {
                assignment.traffic().add(TrafficCount::HeaderlessAnswers, (count - good) as u64);
            }
        }
        good
    }

    /// Notes that the origin of a session said something, in so many datagrams: the end of the session, if that was all.
    fn origin_answered(
        &self,
        table: &mut SessionTable<UdpSession>,
        id: SessionId,
        answers: usize,
        now: Instant,
    ) -> Option<End> {
        table.answered(id, now);
        let group = table.group_of(id)?;
        let session = table.get_mut(id)?;
        let is_first = !std::mem::replace(&mut session.is_answered, true);
        session.unanswered = None;
        let assignment = self.assignment(group)?;
        if is_first && let (Some(dialler), Some(upstream)) = (&assignment.dialler, &session.upstream) {
            dialler.chooser().answered(&upstream.open, upstream.origin);
        }
        session.answers = session.answers.saturating_add(u32::try_from(answers).unwrap_or(u32::MAX));
        let policy = &assignment.served().policy;
        if policy.udp.responses.is_some_and(|most| session.answers >= most.get()) {
            return Some(End::Closed);
        }
        expiry(session, policy)
    }

    /// The number of sessions of a service, of both families.
    pub(super) fn count_of(&self, table: &SessionTable<UdpSession>, service: &ServiceName) -> usize {
        let groups = self.groups.borrow();
        let of = |family| groups.ids.get(&(service.clone(), family)).map_or(0, |group| table.count(*group));
        of(Family::Ipv4) + of(Family::Ipv6)
    }

    /// A socket of a session has an error to tell.
    fn failed(
        self: &Rc<Self>,
        table: &mut SessionTable<UdpSession>,
        post: &mut Post,
        Heard { id, ear }: Heard,
        error: &io::Error,
    ) {
        match ear {
            Ear::Upstream if is_of_origin(error) => self.refused(table, post, id, error),
            // About one datagram, perhaps one that was sent. That a client is gone is not believed: everybody who knows both addresses
            // and ports can say so, and voices, which are not connected, do not even hear it.
            Ear::Parted | Ear::Upstream => tracing::debug!(%error, "receive datagrams of a session"),
        }
    }

    /// The origin of a session cannot be reached. Where nobody has answered yet the next one is asked, otherwise the session is over.
    pub(super) fn refused(
        self: &Rc<Self>,
        table: &mut SessionTable<UdpSession>,
        post: &mut Post,
        id: SessionId,
        error: &io::Error,
    ) {
        let Some(group) = table.group_of(id) else { return };
        let Some(session) = table.get_mut(id) else { return };
        let assignment = self.assignment(group);
        let chooser = assignment.as_ref().and_then(|one| Some(one.dialler.as_ref()?.chooser()));
        let Some(upstream) = &session.upstream else { return };
        if let Some(chooser) = chooser {
            chooser.refused(&upstream.open, upstream.origin, error);
        }
        let (client, former) = (session.account.client.get(), upstream.origin);
        tracing::debug!(%client, origin = %former, %error, "origin is not there");
        if let (Some(chooser), Some(mut unanswered)) = (chooser, session.unanswered.take()) {
            unanswered.tried.push(former);
            let header = session.proxied.as_ref().map_or(&[][..], |proxied| &proxied.header);
            let caller = self.caller(&session.account, header);
            let opened =
                Upstream::open(chooser, session.account.worker(), &self.spares, caller, &unanswered.tried);
            if let Ok(next) = opened
                && self.listen_to(&next, id).is_ok()
            {
                session.account.origin.set(Some(next.origin));
                session.upstream = Some(next);
                let trouble = Post::send_on(&mut post.outbox, session, unanswered.trains());
                session.unanswered = Some(unanswered);
                if let Some(error) = trouble {
                    // Each time one of the origins is tried less.
                    self.refused(table, post, id, &error);
                }
                return;
            }
        }
        let how = if session.is_answered {
            End::Reset(Side::Upstream)
        } else {
            End::Undialled(DialFailure::of(error))
        };
        if let Some(assignment) = &assignment {
            self.refuse(session.local(), session.peer(), &[], assignment.traffic());
        }
        end(table, id, how);
    }

    /// Tells the client of `session` that `datagram` would have got to its origin whole with so many bytes at most. It gets there in
    /// fragments, since many take no notice.
    fn narrow(&self, group: GroupId, session: &UdpSession, room: u16, datagram: &[u8]) {
        let now = Instant::now();
        if session.narrowed.get().is_some_and(|last| now - last < NARROWING) {
            return;
        }
        session.narrowed.set(Some(now));
        let Some(assignment) = self.assignment(group) else { return };
        let (client, dialled) = (session.peer(), session.local());
        // A proxy has its header before it, which is not known any more here.
        let (header, datagram) = match &session.proxied {
            Some(proxied) => (u16::try_from(proxied.header.len()).unwrap_or(u16::MAX), &[][..]),
            None => (0, datagram),
        };
        let others = header_lengths(Family::of(dialled.ip())).saturating_add(header);
        let mtu = room.saturating_add(others);
        let is_told = self.complaints.too_big(dialled, client, mtu, datagram);
        let count = if is_told { TrafficCount::ToldTooBig } else { TrafficCount::Withheld };
        assignment.traffic().add(count, 1);
    }

    /// What turns away the client of a session that sends one more datagram, as far as that is judged here. Where it is not the rate, which
    /// may let the next one in, the session is over; otherwise there is an account of this one.
    pub(super) fn turns_away(
        table: &mut SessionTable<UdpSession>,
        id: SessionId,
        assignment: &Assignment,
    ) -> Option<TurnedAway> {
        let (judges, session) = (assignment.judge_view(), table.get(id)?);
        let version = judges.version();
        if session.judged.get() == Some(version) && !judges.has_rates() {
            return None;
        }
        let (client, is_named) = (session.account.client.get(), session.account.via.get().is_some());
        let turned_away = assignment.turns_away(client.ip(), is_named);
        match turned_away {
            None => session.judged.set(Some(version)),
            Some(TurnedAway { limit: limit @ Limit::PolicyRate, .. }) => {
                assignment.deny(client, session.dialled(), limit);
            }
            Some(TurnedAway { limit, .. }) => end(table, id, End::Denied(limit)),
        }
        turned_away
    }

    /// Tells `client` that nobody is behind what it `dialled`. `datagram` is the one that it sent there, or nothing where it is gone.
    pub(super) fn refuse(&self, dialled: SocketAddr, client: SocketAddr, datagram: &[u8], traffic: &Traffic) {
        let is_told = self.complaints.refuse(dialled, client, datagram);
        traffic.add(if is_told { TrafficCount::ToldUnreachable } else { TrafficCount::Withheld }, 1);
    }

    /// How long the sessions of `group` may be silent.
    fn idle_of(&self, group: GroupId) -> Option<Duration> {
        let assignment = self.assignment(group)?;
        let idle = assignment.served().policy.udp.idle;
        let is_ours = assignment.dialler.is_none();
        Some(if is_ours && self.draining.get() { idle.min(IDLE_WHEN_DRAINING) } else { idle })
    }

    /// Ends what has been idle for long enough, or as much of it as is done at once. When to look again; `None` when nothing is left.
    fn expire(&self) -> Option<Instant> {
        let (now, mut ended, mut next) = (Instant::now(), 0, None::<Instant>);
        let mut table = self.table.borrow_mut();
        for group in table.peopled() {
            let Some(idle) = self.idle_of(group) else { continue };
            for rank in [Rank::Unanswered, Rank::Answered] {
                while let Some((id, used)) = table.oldest_of(group, rank) {
                    let due = used + idle;
                    if due > now {
                        next = Some(next.map_or(due, |next| next.min(due)));
                        break;
                    }
                    if ended == ENDED {
                        return Some(now);
                    }
                    end(&mut table, id, End::Idle);
                    ended += 1;
                }
            }
        }
        if table.len() == 0 {
            self.voices.rest();
        }
        let next = next.into_iter().chain(self.spares.trim(now)).min();
        next.map(|next| next.max(now + LOOK))
    }
}

/// True if a session has had its time; it is ended then.
pub(super) fn expired(table: &mut SessionTable<UdpSession>, id: SessionId, policy: &Policy) -> bool {
    let how = table.get(id).and_then(|session| expiry(session, policy));
    if let Some(how) = how {
        end(table, id, how);
    }
    how.is_some()
}

/// The size of the batch after one of `most` that was full.
pub(super) fn next_batch(most: usize) -> usize {
    (most * 4).min(BATCH)
}

/// The end of a session that has had its time.
pub(super) fn expiry(session: &UdpSession, policy: &Policy) -> Option<End> {
    let lifetime = policy.udp.lifetime?;
    (session.account.age() >= lifetime).then_some(End::Expired(Expiry::Lifetime))
}

/// Ends a session of `table`.
pub(super) fn end(table: &mut SessionTable<UdpSession>, id: SessionId, end: End) {
    if let Some((_, session)) = table.remove(id) {
        session.end(end);
    }
}

/// Counts what the queue of a session's socket has lost, of which so much was read at once.
fn note_losses(
    table: &SessionTable<UdpSession>,
    Heard { id, ear }: Heard,
    is_full: bool,
    bytes: usize,
    now: Instant,
) {
    let Some(session) = table.get(id) else { return };
    match (ear, &session.parted, &session.upstream) {
        (Ear::Parted, Some(Parted { socket, losses, .. }), _) => {
            session.overflowed_from_client(losses.read(is_full, bytes, now, socket));
        }
        (Ear::Upstream, _, Some(Upstream { socket, losses, .. })) => {
            session.overflowed_from_origin(losses.read(is_full, bytes, now, socket));
        }
        (Ear::Parted | Ear::Upstream, ..) => {}
    }
}

/// Ends idle sessions for as long as there are any.
async fn reap(sessions: Rc<Sessions>) {
    while let Some(deadline) = sessions.expire() {
        tokio::select! {
            () = sleep_until(deadline) => yield_now().await,
            () = sessions.hurried.notified() => {}
        }
    }
    sessions.reaping.set(false);
}

/// Reads the sockets of sessions.
async fn hear(sessions: Weak<Sessions>, poller: Rc<Poller>) {
    let (mut heard, mut due, mut most) = (Vec::new(), Vec::new(), FIRST_BATCH);
    loop {
        if heard.is_empty() {
            if let Err(error) = poller.wait(&mut heard).await {
                tracing::error!(%error, "wait for the sockets of UDP sessions");
                return;
            }
            most = FIRST_BATCH;
        }
        let Some(sessions) = sessions.upgrade() else { return };
        sessions.hear_some(&mut heard, &mut due, most);
        drop(sessions);
        // Waiting lets others have their turn as well, and does not ask the kernel for events once more.
        if !heard.is_empty() && most == BATCH {
            yield_now().await;
        }
        most = next_batch(most);
    }
}

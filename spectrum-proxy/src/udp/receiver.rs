//! What comes to a UDP listener, and the sessions that begin with it. No failure of one datagram gets past this file.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::net::sockopt::socket_cookie;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local, yield_now};
use tokio::time::{Instant, sleep};

use super::answer::Answer;
use super::moving::MovingSession;
use super::options;
use super::parting;
use super::post::{Due, Post};
use super::proxied::{Proxied, ProxyEnds};
use super::queue_losses::{LOOK, QueueLosses};
use super::rebinding::{Moved, follows};
use super::session::UdpSession;
use super::sessions::{FIRST_BATCH, Sessions, end, expired, next_batch};
use super::sys::BATCH;
use super::table::{GroupId, Key, Rank, SessionId, SessionTable};
use super::upstream::Upstream;
use super::voice::Voice;
use crate::assignment::{Assignment, CurrentAssignment};
use crate::hold::{Hold, Holder, Stopping};
use crate::model::{Destination, Family};
use crate::origins::Chooser;
use crate::report::{DialFailure, End, HeaderFault, Limit, Side};
use crate::session::Session;
use crate::source_judge::TurnedAway;
use crate::traffic::TrafficCount;
use crate::worker::Worker;

/// The time to wait while the host is out of memory.
const PAUSE: Duration = Duration::from_millis(10);

/// The longest time from the beginning of a change of steering until nothing comes to the listeners from before it: what runs programs of
/// the firewall may take some seconds, and the listeners are kept for some more.
const PARTING: Duration = Duration::from_secs(15);

/// The shortest time between two tellings of a shortage.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// A running receive loop.
pub(crate) struct Receiver {
    queue: Rc<Queue>,
    holder: Holder,
    stop: oneshot::Sender<Stopping>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Starts receiving from `listener`, at once or, if it is held, from [`Receiver::begin`] on. Must be called within the worker's runtime.
    pub(crate) fn start(
        worker: Rc<Worker>,
        sessions: Rc<Sessions>,
        destination: Destination,
        listener: std::net::UdpSocket,
        assignment: CurrentAssignment,
        is_held: bool,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        options::ask_for_dialled(&listener, destination.family)?;
        options::ask_for_circumstances(&listener, destination.family)?;
        let socket = socket2::SockRef::from(&listener);
        let transparent = match destination.family {
            Family::Ipv4 => socket.ip_transparent_v4()?,
            Family::Ipv6 => socket.ip_transparent_v6()?,
        };
        let bound = listener.local_addr()?;
        let listener = Rc::new(UdpSocket::from_std(listener)?);
        let group = sessions.listener_opened(&destination.service, destination.family, transparent);
        worker.listener_opened(destination.protocol, bound);
        if Answer::of(&assignment.get().served().target).is_some_and(|answer| answer != Answer::Discard) {
            sessions.voices.be_ready(destination.family);
        }
        let losses = QueueLosses::since_now(&listener);
        let cookie = socket_cookie(&listener)?;
        let queue = Rc::new(Queue {
            worker,
            sessions,
            destination,
            assignment,
            listener,
            cookie,
            bound,
            group,
            due: RefCell::default(),
            losses,
            is_looked_at: Cell::new(false),
            told: Cell::new(None),
            told_of_proxies: Cell::new(None),
            parting: Cell::new(None),
        });
        let (stop, stopped) = oneshot::channel();
        let holder = Holder::default();
        holder.set(is_held);
        let task = spawn_local(Rc::clone(&queue).receive(holder.hold(), stopped));
        Ok(Self { queue, holder, stop, task })
    }

    /// Takes what sits in the listener's queue.
    pub(crate) fn take_waiting(&self) {
        while self.queue.take_some().is_ok_and(|more| more) {}
    }

    /// From now on, for as long as it takes until nothing is steered here any more, whoever begins a session gets a socket of
    /// its own at once: what it sends next may come when everything is steered elsewhere.
    pub(crate) fn part(&self) {
        self.queue.parting.set(Some((Instant::now() + PARTING, parting::MOST)));
    }

    /// Takes what sits in the listener's queue, then closes it. Sessions go on.
    pub(crate) async fn stop(self) {
        // Fails where the loop has ended by itself, and that was reported then.
        let _ = self.stop.send(Stopping::Drained);
        let _ = self.task.await;
    }

    /// Takes nothing more out of the listener's queue, which another process reads from now on. Sessions go on.
    pub(crate) async fn abandon(self) -> AbandonedListener {
        let _ = self.stop.send(Stopping::Abandoned);
        let _ = self.task.await;
        let Queue { cookie, group, losses, .. } = &*self.queue;
        AbandonedListener { cookie: *cookie, group: *group, losses: losses.known() }
    }

    /// The kernel's number of the listener.
    pub(crate) fn cookie(&self) -> u64 {
        self.queue.cookie
    }

    /// Of what its queue has lost, another process has told so much.
    pub(crate) fn tell_beyond(&self, losses: u32) {
        self.queue.losses.tell_beyond(losses);
    }

    /// Receives from now on, if it was held.
    pub(crate) fn begin(&self) {
        self.holder.set(false);
    }

    /// True if its clients may turn up at listeners of other workers, which must know their sessions then.
    pub(crate) fn follows(&self) -> bool {
        follows(&self.queue.assignment.get())
    }

    /// Goes on with a session that another process had. False if it cannot.
    pub(crate) fn adopt(&self, session: MovingSession, sockets: Vec<OwnedFd>) -> bool {
        self.queue.adopt(session, sockets)
    }
}

/// A listener that is left to another process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AbandonedListener {
    /// The kernel's number of it.
    pub(super) cookie: u64,
    /// The sessions of its service.
    pub(super) group: GroupId,
    /// What its queue has lost, as far as that was told.
    pub(super) losses: u32,
}

/// The queue of datagrams, and what becomes of them.
pub(super) struct Queue {
    pub(super) worker: Rc<Worker>,
    pub(super) sessions: Rc<Sessions>,
    destination: Destination,
    pub(super) assignment: CurrentAssignment,
    listener: Rc<UdpSocket>,
    cookie: u64,
    bound: SocketAddr,
    pub(super) group: GroupId,
    /// Memory for what one batch is answered with.
    due: RefCell<Vec<Due>>,
    losses: QueueLosses,
    /// True if somebody will look what has been lost.
    is_looked_at: Cell<bool>,
    /// When a shortage was told last.
    told: Cell<Option<Instant>>,
    /// When a proxy was told of last.
    told_of_proxies: Cell<Option<Instant>>,
    /// Until when, and for how many, sessions that begin get sockets of their own.
    parting: Cell<Option<(Instant, usize)>>,
}

impl Queue {
    async fn receive(self: Rc<Self>, hold: Hold, mut stopped: oneshot::Receiver<Stopping>) {
        let mut early = tokio::select! {
            biased;
            stopping = &mut stopped => Some(stopping),
            () = hold.over() => None,
        };
        let stopping = loop {
            if let Some(stopping) = early.take() {
                break stopping;
            }
            let ready = tokio::select! {
                biased;
                stopping = &mut stopped => break stopping,
                ready = self.listener.readable() => ready,
            };
            let taken = ready.and_then(|()| {
                self.listener.try_io(Interest::READABLE, || match self.take_some() {
                    // Nothing is left, and the runtime need not find that out by one more call.
                    Ok(false) => Err(io::ErrorKind::WouldBlock.into()),
                    other => other,
                })
            });
            match taken {
                Ok(_) => yield_now().await,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::ENOBUFS | libc::ENOMEM) => sleep(PAUSE).await,
                    _ if error.kind() == io::ErrorKind::WouldBlock => {}
                    _ => {
                        self.worker.listener_failed(self.destination.clone(), error);
                        return;
                    }
                },
            }
        };
        if stopping != Ok(Stopping::Abandoned) {
            // The runtime's idea of readiness may lag behind the kernel's, so the kernel is asked.
            while self.take_some().is_ok_and(|more| more) {}
        }
        self.note_losses();
    }

    /// Counts what has been lost. Within a second of what comes: so that a queue that is too short is seen however busy it is, and
    /// nobody looks at one to which nothing comes.
    fn note_losses(&self) {
        let lost = self.losses.more(&self.listener);
        if lost > 0 {
            self.assignment.get().traffic().add(TrafficCount::OverflowFromClient, lost);
        }
    }

    fn look_at_losses(self: &Rc<Self>) {
        if self.is_looked_at.replace(true) {
            return;
        }
        let queue = Rc::downgrade(self);
        spawn_local(async move {
            sleep(LOOK).await;
            if let Some(queue) = queue.upgrade() {
                queue.is_looked_at.set(false);
                queue.note_losses();
            }
        });
    }

    /// Takes a few, and as long as there are more a larger batch, up to the largest: whether there may be more.
    fn take_some(self: &Rc<Self>) -> io::Result<bool> {
        let mut post = self.sessions.post.borrow_mut();
        let mut most = FIRST_BATCH;
        loop {
            let (received, more) = match self.sessions.receive(&mut post, self.listener.as_fd(), most) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && most > FIRST_BATCH => {
                    return Ok(false);
                }
                received => received?,
            };
            if !received.is_empty() {
                self.look_at_losses();
            }
            self.take(&mut post, received);
            if !more || most == BATCH {
                return Ok(more);
            }
            most = next_batch(most);
        }
    }

    fn take(&self, post: &mut Post, received: Range<usize>) {
        let (now, assignment) = (Instant::now(), self.assignment.get());
        self.sessions.assign(self.group, &assignment);
        let mut table = self.sessions.table.borrow_mut();
        let mut due = self.due.borrow_mut();
        due.clear();
        let trusted = &assignment.served().policy.trusted_proxies;
        for index in received {
            let Some(train) = post.inbox.train(index) else { continue };
            let (Some(client), Some(dialled)) = (train.sender, train.dialled) else {
                tracing::debug!(destination = %self.destination, "a datagram without its dialled address");
                continue;
            };
            let policy = &assignment.served().policy;
            let key = Key { group: self.group, client, dialled, via: None };
            if trusted.trusts(client.ip()) {
                let assignment = &*assignment;
                // It is itself somebody who may come in, or not.
                if let Some(turned_away) = assignment.turns_away(client.ip(), false) {
                    assignment.deny(client, dialled, turned_away.limit);
                    self.tell(turned_away, assignment, key, train.first());
                    continue;
                }
                let ends = ProxyEnds { group: self.group, assignment, sender: client, dialled, now };
                let open = |table: &mut SessionTable<UdpSession>, proxied: Proxied<'_>, datagram: &[u8]| {
                    self.open(table, assignment, proxied.key, Some(&proxied), datagram, now)
                };
                self.sessions.take_proxied(&mut table, post, index, &ends, &mut due, open);
                continue;
            }
            let mut known = table.find(&key).filter(|id| !expired(&mut table, *id, policy));
            if known.is_none() {
                match self.sessions.moved(&mut table, &assignment, &key, &train, now) {
                    Some(Moved::Elsewhere) => continue,
                    Some(Moved::Here(id)) => known = Some(id),
                    None => {}
                }
            }
            if let Some(id) = known
                && let Some(turned_away) = Sessions::turns_away(&mut table, id, &assignment)
            {
                self.tell(turned_away, &assignment, key, train.first());
                continue;
            }
            let open = |table: &mut SessionTable<UdpSession>| {
                self.open(table, &assignment, key, None, train.first(), now)
            };
            if let Some(id) = known.or_else(|| open(&mut table)) {
                Sessions::take(&mut table, id, index, &train, now, &mut due);
            }
        }
        self.sessions.deliver(&mut table, post, &due);
    }

    fn open(
        &self,
        table: &mut SessionTable<UdpSession>,
        assignment: &Assignment,
        mut key: Key,
        proxied: Option<&Proxied<'_>>,
        datagram: &[u8],
        now: Instant,
    ) -> Option<SessionId> {
        let served = assignment.served();
        let fault = proxied.and_then(|proxied| proxied.fault);
        let answer = if fault.is_some() { Answer::Discard } else { Answer::of(&served.target)? };
        // Of who sends it, and of whom that speaks for.
        let (peer, local) =
            proxied.map_or((key.client, key.dialled), |proxied| (proxied.via.sender, proxied.via.dialled));
        if !answer.accepts(peer) || !answer.accepts(key.client) {
            tracing::debug!(client = %key.client, dialled = %local, "a datagram from a service's port is not answered");
            return None;
        }
        let account = assignment.account(peer, local);
        let by = proxied.map(|proxied| Box::new(proxied.by(self.sessions.vias.hold(proxied.via))));
        if let Some(by) = &by {
            by.name(&account);
            key.via = Some(by.via.id);
        }
        // Before anybody makes room for it.
        let judged = assignment.judge_view().version();
        if fault.is_none()
            && let Err(limit) = self.judge(assignment, &account, key, datagram)
        {
            account.end(End::Denied(limit));
            return None;
        }
        self.sessions.make_room(table, self.group);
        if let Some(most) = served.policy.udp.sessions {
            let workers = self.worker.common.descriptors.workers();
            let most = usize::try_from(most.get()).unwrap_or(usize::MAX).div_ceil(workers);
            while self.sessions.count_of(table, &served.service) >= most && self.give_up_one(table) {}
        }
        if let Some(fault) = fault {
            account.ends_as(End::Headless(fault));
            self.complain_of(peer, local, fault);
        }
        let voice = match self.admit(table, assignment, &account, answer, local) {
            Ok(Some(voice)) => voice,
            // From any other address an answer would be none.
            Ok(None) => {
                account.end(End::Lost(Side::Downstream));
                return None;
            }
            Err(limit) => {
                assignment.complain(&account, limit);
                account.end(End::Denied(limit));
                return None;
            }
        };
        let mut session = UdpSession::new(account, assignment.traffic(), answer, voice);
        session.judged.set(Some(judged));
        session.proxied = by;
        if let (Answer::Relay, Some(dialler)) = (answer, &assignment.dialler) {
            let header = proxied.map_or(&[][..], |proxied| proxied.header);
            match self.reach(table, dialler.chooser(), &session.account, header) {
                Ok(upstream) => {
                    session.account.count_for(&upstream.open);
                    session.account.origin.set(Some(upstream.origin));
                    session.unanswered = upstream.has_others.then(|| Box::new(self.sessions.unanswered()));
                    session.upstream = Some(upstream);
                }
                Err(failure) => {
                    session.end(End::Undialled(failure));
                    // What we lack ourselves may be there in a moment.
                    if failure != DialFailure::OutOfResources {
                        self.sessions.refuse(local, peer, datagram, assignment.traffic());
                    }
                    return None;
                }
            }
        }
        if fault.is_none() {
            session.account.established();
        }
        let id = table.insert(key, Rank::Unanswered, now, session);
        self.sessions.begin_to_learn(table, assignment, id);
        self.sessions.begin_reaping();
        if let Some(upstream) = table.get(id).and_then(|session| session.upstream.as_ref())
            && let Err(error) = self.sessions.listen_to(upstream, id)
        {
            tracing::warn!(destination = %self.destination, %error, "listen to the socket of a session");
            end(table, id, End::Undialled(DialFailure::OutOfResources));
            return None;
        }
        if let Some((until, left)) = self.parting.get().filter(|(until, left)| now < *until && *left > 0) {
            self.parting.set(Some((until, left - 1)));
            self.sessions.part_at_once(table, id, self.group, assignment);
        }
        Some(id)
    }

    /// Tells the log of a trusted proxy that does not say for whom it speaks, or of many at once.
    fn complain_of(&self, proxy: SocketAddr, dialled: SocketAddr, fault: HeaderFault) {
        let now = Instant::now();
        if self.told_of_proxies.get().is_none_or(|told| now.duration_since(told) >= LOG_INTERVAL) {
            self.told_of_proxies.set(Some(now));
            let service = &self.destination.service;
            tracing::warn!(
                %service, %proxy, %dialled, end = %End::Headless(fault),
                "a trusted proxy sends datagrams without a whole PROXY header of version 2, or of SPP, before each: they go no further"
            );
        }
    }

    /// The word of the source policy on who begins a session with `datagram`.
    fn judge(
        &self,
        assignment: &Assignment,
        account: &Session,
        key: Key,
        datagram: &[u8],
    ) -> Result<(), Limit> {
        let (client, is_named) = (account.client.get(), account.via.get().is_some());
        // A proxy that speaks for itself has been judged.
        let is_proxy = !is_named && key.via.is_some();
        let turned_away = if is_proxy { None } else { assignment.turns_away(client.ip(), is_named) };
        let Some(turned_away) = turned_away else { return Ok(()) };
        assignment.complain(account, turned_away.limit);
        self.tell(turned_away, assignment, key, datagram);
        Err(turned_away.limit)
    }

    /// Tells a client that it is turned away, if it is to be told. One whom a trusted proxy names is not: that would hear it, of all whom it
    /// speaks for.
    fn tell(&self, turned_away: TurnedAway, assignment: &Assignment, key: Key, datagram: &[u8]) {
        if turned_away.is_told && key.via.is_none() {
            self.sessions.refuse(key.dialled, key.client, datagram, assignment.traffic());
        }
    }

    /// What a session may speak through, as far as limits allow one more. Where those of its service are reached, another session
    /// of the service makes room.
    fn admit(
        &self,
        table: &mut SessionTable<UdpSession>,
        assignment: &Assignment,
        account: &Session,
        answer: Answer,
        local: SocketAddr,
    ) -> Result<Option<Voice>, Limit> {
        match account.admit(&assignment.gate) {
            Err(Limit::Service) if self.give_up_one(table) => account.admit(&assignment.gate)?,
            admitted => admitted?,
        }
        if answer == Answer::Relay {
            let take = || account.take_descriptors(assignment.share(), 1);
            let taken = take().or_else(|limit| {
                let has_room = self.sessions.spares.give_up(Instant::now());
                if has_room { take() } else { Err(limit) }
            });
            match taken {
                Err(_) if self.give_up_one(table) => take()?,
                taken => taken?,
            }
        }
        if answer == Answer::Discard {
            return Ok(Some(Voice::Silent));
        }
        self.voice(table, assignment, local)
    }

    /// The way to an origin. Where this host has no port or descriptor left, another session of the service makes room.
    fn reach(
        &self,
        table: &mut SessionTable<UdpSession>,
        chooser: &Chooser,
        account: &Session,
        header: &[u8],
    ) -> Result<Upstream, DialFailure> {
        let caller = self.sessions.caller(account, header);
        let open = || Upstream::open(chooser, &self.worker, &self.sessions.spares, caller, &[]);
        match open() {
            Err(DialFailure::OutOfResources) => {
                let now = Instant::now();
                if self.sessions.spares.give_up(now) {
                    match open() {
                        Err(DialFailure::OutOfResources) => {}
                        opened => return opened,
                    }
                }
                if self.told.get().is_none_or(|told| now.duration_since(told) >= LOG_INTERVAL) {
                    self.told.set(Some(now));
                    tracing::warn!(
                        service = %chooser.service(),
                        "no port or descriptor is left for one more UDP session with an origin: each takes the place of another; \
                         give the service more source addresses (udp.source), or the program more open files"
                    );
                }
                if self.give_up_one(table) { open() } else { Err(DialFailure::OutOfResources) }
            }
            opened => opened,
        }
    }

    /// Ends the session that the service can best do without, if it has any.
    fn give_up_one(&self, table: &mut SessionTable<UdpSession>) -> bool {
        let least = table.least_of(self.group);
        least.inspect(|least| end(table, *least, End::Evicted)).is_some()
    }

    /// What speaks for `dialled`: the listener itself where it is what was dialled.
    pub(super) fn voice(
        &self,
        table: &mut SessionTable<UdpSession>,
        assignment: &Assignment,
        dialled: SocketAddr,
    ) -> Result<Option<Voice>, Limit> {
        let (bound, all) = (self.bound, self.bound.ip().is_unspecified());
        if bound.port() == dialled.port() && (all || bound.ip() == dialled.ip()) {
            return Ok(Some(Voice::Listener(Rc::clone(&self.listener), all.then_some(dialled.ip()))));
        }
        let share = assignment.share();
        match self.sessions.voices.of(dialled, share) {
            Err(_) if self.give_up_one(table) => self.sessions.voices.of(dialled, share),
            voice => voice,
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // The runtime keeps a panic to the task, and nobody would notice a listener that is never read.
        if std::thread::panicking() {
            self.worker.died();
        }
        self.sessions.listener_closed(self.group);
        self.worker.listener_closed(self.destination.protocol, self.bound);
    }
}

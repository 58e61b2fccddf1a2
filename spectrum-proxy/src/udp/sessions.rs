//! A worker's UDP sessions: what becomes of datagrams that belong to one, which session must go, and when. Opens none.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local, yield_now};
use tokio::time::{Instant, sleep_until};

use super::answer::{Answer, hops_of_answer};
use super::parting;
use super::poller::{Ear, Heard, Poller};
use super::post::{Due, Post};
use super::session::UdpSession;
use super::sys::BATCH;
use super::table::{GroupId, Rank, SessionId, Table};
use super::train::Train;
use super::voice::{Voice, Voices};
use crate::model::{Family, ServiceName};
use crate::report::{End, Side};

/// The time that a session without datagrams lasts.
const IDLE: Duration = Duration::from_secs(30);

/// The same of those that we answer ourselves while the program is on its way out.
const IDLE_WHEN_DRAINING: Duration = Duration::from_secs(1);

/// The most sessions of a worker: some 40 MB.
const MOST: usize = 65_536;

/// Idle sessions are looked for no more often.
const LOOK: Duration = Duration::from_millis(50);

/// The most idle sessions that are ended before others have their turn.
const ENDED: usize = 1024;

/// Trains that fill buffers are taken in smaller batches, which stay in the processor's cache.
const LONG: usize = 16 * 1024;
const BATCH_OF_LONG: usize = 8;

/// The number of sessions that a worker may have. They need no descriptors but for what they speak through, and those are counted
/// elsewhere.
pub(crate) fn capacity() -> usize {
    MOST
}

/// What is known of a service's sessions as a whole.
#[derive(Clone, Copy, Debug)]
struct Group {
    idle: Option<Duration>,
    /// The number of listeners from which its datagrams come.
    listeners: usize,
    transparent: bool,
}

/// The sessions. Full, the worker ends the one that the service with most of them can best do without.
pub(crate) struct Sessions {
    pub(super) table: RefCell<Table<UdpSession>>,
    pub(super) voices: Voices,
    pub(super) post: RefCell<Post>,
    groups: RefCell<Groups>,
    capacity: usize,
    draining: Cell<bool>,
    reaping: Cell<bool>,
    hurried: Notify,
    /// The length of what came last, on average.
    long: Cell<bool>,
    ears: RefCell<Option<Rc<Ears>>>,
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
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            table: RefCell::new(Table::new()),
            voices: Voices::default(),
            post: RefCell::new(Post::new()),
            groups: RefCell::default(),
            capacity,
            draining: Cell::new(false),
            reaping: Cell::new(false),
            hurried: Notify::new(),
            long: Cell::new(false),
            ears: RefCell::default(),
        }
    }

    /// From now on a short silence ends a session.
    pub(crate) fn hurry(&self) {
        self.draining.set(true);
        self.hurried.notify_one();
    }

    /// Lets go of all sessions, which report themselves as cut, and of what holds on to them: without this they might outlast the
    /// runtime.
    pub(crate) fn clear(&self) {
        let sessions = self.table.borrow_mut().drain();
        drop(sessions);
        self.ears.take();
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
            known.push(Group { idle: Some(IDLE), listeners: 0, transparent });
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

    /// Ends what must make room for one more of `group`.
    pub(super) fn make_room(&self, table: &mut Table<UdpSession>, group: GroupId) {
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

    /// Receives from `socket` into the post: how many trains, and whether there may be more.
    pub(super) fn receive(&self, post: &mut Post, socket: BorrowedFd<'_>) -> std::io::Result<(usize, bool)> {
        let most = if self.long.get() { BATCH_OF_LONG } else { BATCH };
        let count = post.inbox.receive(socket, most)?;
        let bytes: usize =
            (0..count).filter_map(|index| post.inbox.train(index)).map(|train| train.payload.len()).sum();
        self.long.set(count > 0 && bytes / count >= LONG);
        Ok((count, count == most))
    }

    /// Takes a train of a session's client. What is to be sent back is added to `due`.
    pub(super) fn take(
        table: &mut Table<UdpSession>,
        id: SessionId,
        index: usize,
        train: &Train<'_>,
        now: Instant,
        due: &mut Vec<Due>,
    ) {
        table.touch(id, now);
        let Some(session) = table.get(id) else { return };
        session.received(train);
        let (client, dialled) = (session.account.client.get(), session.dialled());
        if !train.is_whole {
            tracing::debug!(%client, %dialled, "a datagram that is longer than any may be is not answered");
            return;
        }
        match session.answer {
            Answer::Discard => {}
            Answer::Echo => match hops_of_answer(train.hops) {
                Some(hops) => due.push(Due { id, train: index, hops: Some(hops) }),
                None => tracing::debug!(%client, %dialled, "a datagram without hops left is not answered"),
            },
        }
    }

    /// Gives the sessions of a service that nothing listens for any more sockets of their own: those that are missed most first.
    pub(crate) fn part(self: &Rc<Self>, service: &ServiceName, family: Family) {
        let Some(group) = self.orphaned(service, family) else { return };
        let Some(Group { transparent, .. }) = self.groups.borrow_mut().of(group).copied() else { return };
        let mut table = self.table.borrow_mut();
        let ids = table.ids_of(group);
        for id in ids.into_iter().rev().take(parting::MOST) {
            let Some(session) = table.get_mut(id).filter(|session| session.parted.is_none()) else {
                continue;
            };
            let (client, dialled) = (session.account.client.get(), session.dialled());
            let parted = parting::open(dialled, client, transparent).and_then(|socket| {
                self.ears()?.add(socket.as_fd(), id, Ear::Parted)?;
                Ok(Rc::new(socket))
            });
            match parted {
                Ok(socket) => {
                    if matches!(session.voice, Voice::Listener(..)) {
                        session.voice = Voice::Parted(Rc::clone(&socket));
                    }
                    session.parted = Some(socket);
                }
                Err(error) => {
                    tracing::debug!(%client, %dialled, %error, "give a session a socket of its own");
                    return;
                }
            }
        }
    }

    /// What tells of the sockets of sessions. To be called within the worker's runtime.
    fn ears(self: &Rc<Self>) -> std::io::Result<Rc<Poller>> {
        let mut ears = self.ears.borrow_mut();
        if let Some(ears) = &*ears {
            return Ok(Rc::clone(&ears.poller));
        }
        let poller = Rc::new(Poller::new()?);
        let task = spawn_local(hear(Rc::downgrade(self), Rc::clone(&poller)));
        ears.replace(Rc::new(Ears { poller: Rc::clone(&poller), task }));
        Ok(poller)
    }

    /// Reads a socket that has something: whether it may have more.
    fn heard(&self, Heard { id, ear }: Heard) -> bool {
        let (mut table, mut post) = (self.table.borrow_mut(), self.post.borrow_mut());
        let Some(session) = table.get(id) else { return false };
        let socket = match ear {
            Ear::Parted => session.parted.clone(),
            Ear::Upstream => None,
        };
        let Some(socket) = socket else { return false };
        let (count, more) = match self.receive(&mut post, socket.as_fd()) {
            Ok(received) => received,
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => return false,
                Some(libc::ECONNREFUSED) => {
                    // Nobody has the client's port open any more: the nearest that UDP has to a reset.
                    end(&mut table, id, End::Reset(Side::Downstream));
                    return false;
                }
                // About one datagram, perhaps one that was sent.
                _ => return true,
            },
        };
        let (now, mut due) = (Instant::now(), Vec::new());
        for index in 0..count {
            if let Some(train) = post.inbox.train(index) {
                Self::take(&mut table, id, index, &train, now, &mut due);
            }
        }
        post.answer(&table, &due);
        more
    }

    fn idle_of(&self, group: GroupId) -> Option<Duration> {
        let idle = self.groups.borrow_mut().of(group)?.idle?;
        Some(if self.draining.get() { idle.min(IDLE_WHEN_DRAINING) } else { idle })
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
        match next {
            Some(next) => Some(next.max(now + LOOK)),
            // Some that never are, but others may come.
            None => (table.len() > 0).then(|| now + IDLE),
        }
    }
}

/// Ends a session of `table`.
pub(super) fn end(table: &mut Table<UdpSession>, id: SessionId, end: End) {
    if let Some((_, session)) = table.remove(id) {
        session.end(end);
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
async fn hear(sessions: std::rc::Weak<Sessions>, poller: Rc<Poller>) {
    let mut heard = Vec::new();
    loop {
        if heard.is_empty()
            && let Err(error) = poller.wait(&mut heard).await
        {
            tracing::error!(%error, "wait for the sockets of UDP sessions");
            return;
        }
        let Some(sessions) = sessions.upgrade() else { return };
        heard.retain(|one| sessions.heard(*one));
        drop(sessions);
        yield_now().await;
    }
}

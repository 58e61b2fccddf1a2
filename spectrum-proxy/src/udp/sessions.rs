//! A worker's UDP sessions: which there are, which must go, and when. Receives and sends nothing.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep_until};

use super::by_listener::{ByListener, OfListener};
use super::raw::RawSender;
use super::session::UdpSession;
use crate::limits::Held;
use crate::model::Family;
use crate::report::End;

/// The time that a session without datagrams lasts.
const IDLE: Duration = Duration::from_secs(30);

/// The same while the program is on its way out.
const IDLE_WHEN_DRAINING: Duration = Duration::from_secs(1);

/// The most sessions of a worker, where descriptors are plenty.
const MOST: usize = 4096;

/// The share of the descriptors that the sessions of all workers may have: one part in so many. Connections need the
/// rest.
const SHARE: usize = 2;

/// The number of sessions that each of `workers` may have in a process that is allowed so many descriptors.
pub(crate) fn capacity(descriptors: u64, workers: usize) -> usize {
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    (descriptors / SHARE / workers.max(1)).clamp(1, MOST)
}

/// The key that tells sessions apart.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Key {
    /// Whose listener: two services may have the same addresses, one after the other.
    pub(super) receiver: u64,
    pub(super) client: SocketAddr,
    pub(super) dialled: SocketAddr,
}

impl OfListener for Key {
    fn listener(&self) -> u64 {
        self.receiver
    }
}

/// A session, and what is kept for it until it ends.
struct Open {
    session: Rc<UdpSession>,
    _held: Option<Held>,
}

/// The sessions, and the raw sockets that those without a socket share. Full, it ends the one used least recently of
/// the listener that has most.
pub(crate) struct Sessions {
    open: RefCell<ByListener<Key, Open>>,
    capacity: usize,
    idle: Cell<Duration>,
    reaping: Cell<bool>,
    hurried: Notify,
    receivers: Cell<u64>,
    raw: [OnceCell<Option<Rc<RawSender>>>; 2],
}

impl Sessions {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            open: RefCell::new(ByListener::new(|open: &Open| open.session.used())),
            capacity,
            idle: Cell::new(IDLE),
            reaping: Cell::new(false),
            hurried: Notify::new(),
            receivers: Cell::new(0),
            raw: Default::default(),
        }
    }

    /// From now on a short silence ends a session.
    pub(crate) fn hurry(&self) {
        self.idle.set(IDLE_WHEN_DRAINING);
        self.hurried.notify_one();
    }

    /// Lets go of all sessions, which report themselves as cut. Who reaps
    /// them holds on to them, so without this they might outlast the runtime.
    pub(crate) fn clear(&self) {
        let sessions = self.open.borrow_mut().drain();
        drop(sessions);
    }

    /// True if there are any of `receivers`.
    pub(crate) fn any_of(&self, receivers: &[u64]) -> bool {
        self.open.borrow().any_of(receivers)
    }

    /// Cuts those of `receivers`: how many there were.
    pub(crate) async fn cut(&self, receivers: &[u64]) -> usize {
        let doomed = self.open.borrow().keys_of(receivers);
        for session in doomed.iter().filter_map(|key| self.get(key)) {
            session.stop_reading();
        }
        // Only then does dropping a session close its socket at once, after the last datagram was taken: what comes next
        // is steered, and answered by whoever serves the address now.
        yield_now().await;
        for key in &doomed {
            self.end(key, End::Cut);
        }
        doomed.len()
    }

    /// A number for one more receiver.
    pub(super) fn receiver(&self) -> u64 {
        self.receivers.replace(self.receivers.get() + 1)
    }

    pub(super) fn get(&self, key: &Key) -> Option<Rc<UdpSession>> {
        self.open.borrow().get(key).map(|open| Rc::clone(&open.session))
    }

    /// Ends what must make room for one more of `receiver`.
    pub(super) fn make_room(&self, receiver: u64) {
        while self.open.borrow().len() >= self.capacity {
            let dispensable = self.open.borrow_mut().dispensable(receiver);
            let Some(key) = dispensable else { return };
            self.end(&key, End::Evicted);
        }
    }

    /// Ends the session that `receiver` has used least recently, if it has any.
    pub(super) fn give_up_one(&self, receiver: u64) -> bool {
        let oldest = self.open.borrow_mut().oldest_of(receiver);
        oldest.inspect(|key| self.end(key, End::Evicted)).is_some()
    }

    pub(super) fn insert(self: &Rc<Self>, key: Key, session: Rc<UdpSession>, held: Option<Held>) {
        self.open.borrow_mut().insert(key, Open { session, _held: held });
        if !self.reaping.replace(true) {
            spawn_local(reap(Rc::clone(self)));
        }
    }

    pub(super) fn end(&self, key: &Key, end: End) {
        let ended = self.open.borrow_mut().remove(key);
        if let Some(Open { session, .. }) = ended {
            session.end(end);
        }
    }

    /// The worker's raw socket, opened when it is first asked for; `None` where that is not allowed.
    pub(super) fn raw(&self, family: Family) -> Option<Rc<RawSender>> {
        let [v4, v6] = &self.raw;
        let raw = match family {
            Family::Ipv4 => v4,
            Family::Ipv6 => v6,
        };
        let opened = raw.get_or_init(|| match RawSender::open(family) {
            Ok(raw) => Some(Rc::new(raw)),
            Err(error) => {
                tracing::warn!(%family, %error, "open raw socket; addresses and ports that others have bound stay unanswered");
                None
            }
        });
        opened.clone()
    }

    /// Ends what has been idle for long enough. When to look again; `None` when nothing is left.
    fn expire(&self) -> Option<Instant> {
        loop {
            let idle = self.idle.get();
            // What comes into being meanwhile is younger.
            let overdue = Instant::now().checked_sub(idle);
            let (overdue, next) = self.open.borrow_mut().overdue(overdue?);
            if overdue.is_empty() {
                return Some(next? + idle);
            }
            for key in overdue {
                self.end(&key, End::Idle);
            }
        }
    }
}

/// Ends idle sessions for as long as there are any.
async fn reap(sessions: Rc<Sessions>) {
    while let Some(deadline) = sessions.expire() {
        tokio::select! {
            () = sleep_until(deadline) => {}
            () = sessions.hurried.notified() => {}
        }
    }
    sessions.reaping.set(false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_take_half_of_the_descriptors_at_most() {
        for (descriptors, workers, each) in
            [(1024, 2, 256), (20_000, 2, 4096), (20_000, 64, 156), (u64::MAX, 1, 4096), (8, 64, 1)]
        {
            assert_eq!(capacity(descriptors, workers), each, "{descriptors} for {workers}");
        }
    }
}

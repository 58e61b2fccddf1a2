//! What comes to a UDP listener, and the sessions that begin with it. No failure of one datagram gets past this file.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local, yield_now};
use tokio::time::{Instant, sleep};

use super::answer::Answer;
use super::options;
use super::post::{Due, Post};
use super::session::UdpSession;
use super::sessions::{Sessions, end};
use super::table::{GroupId, Key, Rank, SessionId, Table};
use super::voice::Voice;
use crate::assignment::{Assignment, CurrentAssignment};
use crate::model::{Destination, Family};
use crate::report::{End, Limit};
use crate::session::Session;
use crate::worker::Worker;

/// The time to wait while the host is out of memory.
const PAUSE: Duration = Duration::from_millis(10);

/// A running receive loop.
pub(crate) struct Receiver {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Starts receiving from `listener`. Must be called within the worker's runtime.
    pub(crate) fn start(
        worker: Rc<Worker>,
        sessions: Rc<Sessions>,
        destination: Destination,
        listener: std::net::UdpSocket,
        assignment: CurrentAssignment,
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
        let queue = Queue {
            worker,
            sessions,
            destination,
            assignment,
            listener,
            bound,
            group,
            due: RefCell::default(),
        };
        let (stop, stopped) = oneshot::channel();
        Ok(Self { stop, task: spawn_local(queue.receive(stopped)) })
    }

    /// Takes what sits in the listener's queue, then closes it. Sessions go on.
    pub(crate) async fn stop(self) {
        // Fails where the loop has ended by itself, and that was reported then.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// The queue of datagrams, and what becomes of them.
struct Queue {
    worker: Rc<Worker>,
    sessions: Rc<Sessions>,
    destination: Destination,
    assignment: CurrentAssignment,
    listener: Rc<UdpSocket>,
    bound: SocketAddr,
    group: GroupId,
    /// Memory for what one batch is answered with.
    due: RefCell<Vec<Due>>,
}

impl Queue {
    async fn receive(self, mut stopped: oneshot::Receiver<()>) {
        loop {
            let ready = tokio::select! {
                biased;
                _ = &mut stopped => break,
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
        }
        // The runtime's idea of readiness may lag behind the kernel's, so the kernel is asked.
        while self.take_some().is_ok_and(|more| more) {}
    }

    /// Takes a batch: whether there may be more.
    fn take_some(&self) -> io::Result<bool> {
        let mut post = self.sessions.post.borrow_mut();
        let (count, more) = self.sessions.receive(&mut post, self.listener.as_fd())?;
        self.take(&mut post, count);
        Ok(more)
    }

    fn take(&self, post: &mut Post, count: usize) {
        let (now, assignment) = (Instant::now(), self.assignment.get());
        let mut table = self.sessions.table.borrow_mut();
        let mut due = self.due.borrow_mut();
        due.clear();
        for index in 0..count {
            let Some(train) = post.inbox.train(index) else { continue };
            let (Some(client), Some(dialled)) = (train.sender, train.dialled) else {
                tracing::debug!(destination = %self.destination, "a datagram without its dialled address");
                continue;
            };
            let key = Key { group: self.group, client, dialled };
            let known = table.find(&key);
            if let Some(id) = known.or_else(|| self.open(&mut table, &assignment, key, now)) {
                Sessions::take(&mut table, id, index, &train, now, &mut due);
            }
        }
        post.answer(&table, &due);
    }

    fn open(
        &self,
        table: &mut Table<UdpSession>,
        assignment: &Assignment,
        key: Key,
        now: Instant,
    ) -> Option<SessionId> {
        let Key { client, dialled, .. } = key;
        let served = assignment.served();
        let answer = Answer::of(&served.target)?;
        if !answer.accepts(client) {
            tracing::debug!(%client, %dialled, "a datagram from a service's port is not answered");
            return None;
        }
        self.sessions.make_room(table, self.group);
        let voice = match answer {
            Answer::Discard => Ok(Voice::Silent),
            Answer::Echo => self.voice(table, assignment, dialled).transpose()?,
        };
        let account = Session::open(
            Rc::clone(&self.worker),
            served.service.clone(),
            self.destination.protocol,
            client,
            dialled,
            assignment.traffic(),
        );
        let admitted = voice.and_then(|voice| account.admit(&assignment.gate).map(|()| voice));
        let voice = match admitted {
            Ok(voice) => voice,
            Err(limit) => {
                assignment.complain(&account, limit);
                account.end(End::Denied(limit));
                return None;
            }
        };
        account.established();
        let id = table.insert(key, Rank::Unanswered, now, UdpSession::new(account, answer, voice));
        self.sessions.begin_reaping();
        Some(id)
    }

    /// What speaks for `dialled`: the listener itself where it is what was dialled.
    fn voice(
        &self,
        table: &mut Table<UdpSession>,
        assignment: &Assignment,
        dialled: SocketAddr,
    ) -> Result<Option<Voice>, Limit> {
        let (bound, all) = (self.bound, self.bound.ip().is_unspecified());
        if bound.port() == dialled.port() && (all || bound.ip() == dialled.ip()) {
            return Ok(Some(Voice::Listener(Rc::clone(&self.listener), all.then_some(dialled.ip()))));
        }
        let share = assignment.share();
        match self.sessions.voices.of(dialled, share) {
            Err(limit) => match table.least_of(self.group) {
                Some(least) => {
                    end(table, least, End::Evicted);
                    self.sessions.voices.of(dialled, share)
                }
                None => Err(limit),
            },
            voice => voice,
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // The runtime keeps a panic to the task, and nobody would notice a listener that is never read.
        if std::thread::panicking() {
            self.worker.died();
        } else {
            self.sessions.listener_closed(self.group);
        }
    }
}

//! What comes to a UDP listener: the first datagrams of sessions, and those of sessions without a socket. No failure of
//! one datagram gets past this file.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, spawn_local, yield_now};
use tokio::time::sleep;

use super::answer::Answer;
use super::datagram::{self, Envelope};
use super::session::{Connected, UdpSession, Voice};
use super::sessions::{Key, Sessions};
use crate::assignment::CurrentAssignment;
use crate::limits::{Held, ServiceShare};
use crate::model::{Destination, Family};
use crate::report::{End, Limit};
use crate::session::Session;
use crate::worker::Worker;

/// The number of datagrams taken before others have their turn.
const TURN: usize = 64;

/// After so many datagrams a new session reads its own socket though the listener was never found empty: more than a
/// queue of the usual size holds, so that what had come before is answered.
const QUEUE: usize = 4096;

/// The time to wait while the host is out of memory.
const PAUSE: Duration = Duration::from_millis(10);

/// A running receive loop.
pub(crate) struct Receiver {
    number: u64,
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
        datagram::ask_for_dialled(&listener, destination.family)?;
        datagram::ask_for_hops(&listener, destination.family)?;
        let socket = socket2::SockRef::from(&listener);
        let transparent = match destination.family {
            Family::Ipv4 => socket.ip_transparent_v4()?,
            Family::Ipv6 => socket.ip_transparent_v6()?,
        };
        let listener = UdpSocket::from_std(listener)?;
        let number = sessions.receiver();
        let queue = Rc::new(Queue {
            number,
            worker,
            sessions,
            destination,
            assignment,
            transparent,
            young: RefCell::default(),
            since_empty: Cell::new(0),
            stray_taken: Notify::new(),
            complained: Cell::new(false),
        });
        let (stop, stopped) = oneshot::channel();
        Ok(Self { number, stop, task: spawn_local(queue.receive(listener, stopped)) })
    }

    /// The number by which its sessions know it.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Answers what sits in the listener's queue, then closes it. Sessions go on.
    pub(crate) async fn stop(self) {
        // Fails where the loop has ended by itself, and that was reported then.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// The queue of datagrams, and what becomes of them.
struct Queue {
    number: u64,
    worker: Rc<Worker>,
    sessions: Rc<Sessions>,
    destination: Destination,
    assignment: CurrentAssignment,
    transparent: bool,
    /// Sessions that do not read their sockets yet, because older datagrams of theirs may wait here.
    young: RefCell<Vec<(Key, Rc<UdpSession>)>>,
    /// The number of datagrams that came since the queue was empty or the young were let go.
    since_empty: Cell<usize>,
    stray_taken: Notify,
    complained: Cell<bool>,
}

impl Queue {
    async fn receive(self: Rc<Self>, listener: UdpSocket, mut stopped: oneshot::Receiver<()>) {
        loop {
            let ready = tokio::select! {
                biased;
                _ = &mut stopped => break,
                ready = listener.readable() => ready,
                // Its session is young, and nothing else might come that ends that.
                () = self.stray_taken.notified() => Ok(()),
            };
            let taken = ready.and_then(|()| {
                self.take_some(|buffer| {
                    listener.try_io(Interest::READABLE, || datagram::receive(&listener, buffer))
                })
            });
            match taken {
                Ok(()) => yield_now().await,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => self.emptied(),
                    Some(libc::ENOBUFS | libc::ENOMEM) => sleep(PAUSE).await,
                    _ if error.kind() == io::ErrorKind::WouldBlock => self.emptied(),
                    _ => {
                        self.worker.listener_failed(self.destination.clone(), error);
                        return;
                    }
                },
            }
        }
        // The runtime's idea of readiness may lag behind the kernel's, so the kernel is asked.
        while self.take_some(|buffer| datagram::receive(&listener, buffer)).is_ok() {}
        self.emptied();
    }

    /// Takes up to a turn's worth of datagrams, or until `receive` fails.
    fn take_some(self: &Rc<Self>, receive: impl Fn(&mut [u8]) -> io::Result<Envelope>) -> io::Result<()> {
        for _ in 0..TURN {
            self.worker.buffers.lend(|buffer| {
                match receive(buffer) {
                    Ok(envelope) => {
                        self.take(&envelope, buffer.get(..envelope.length).unwrap_or_default());
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn take(self: &Rc<Self>, envelope: &Envelope, payload: &[u8]) {
        let Envelope { client, dialled: Some(dialled), hops, .. } = *envelope else {
            tracing::debug!(destination = %self.destination, "a datagram without its dialled address");
            return;
        };
        let key = Key { receiver: self.number, client, dialled };
        if let Some(session) = self.sessions.get(&key).or_else(|| self.open(key)) {
            session.take(hops, payload);
        }
        self.since_empty.set(self.since_empty.get() + 1);
        if self.since_empty.get() >= QUEUE {
            self.emptied();
        }
    }

    fn open(&self, key: Key) -> Option<Rc<UdpSession>> {
        let Key { client, dialled, .. } = key;
        let assignment = self.assignment.get();
        let served = assignment.served();
        let answer = Answer::of(&served.target)?;
        if !answer.accepts(client) {
            tracing::debug!(%client, %dialled, "a datagram from a service's port is not answered");
            return None;
        }
        self.sessions.make_room(self.number);
        let voice = match answer {
            Answer::Discard => Ok((Voice::Silent, None)),
            Answer::Echo => self.voice(key, assignment.share()).transpose()?,
        };
        let account = Session::open(
            Rc::clone(&self.worker),
            served.service.clone(),
            self.destination.protocol,
            client,
            dialled,
            assignment.traffic(),
        );
        let (voice, held) = match voice {
            Ok(voice) => voice,
            Err(limit) => {
                assignment.complain(&account, limit);
                account.end(End::Denied(limit));
                return None;
            }
        };
        account.established();
        let session = Rc::new(UdpSession::new(account, answer, voice));
        self.sessions.insert(key, Rc::clone(&session), held);
        if session.is_connected() {
            self.young.borrow_mut().push((key, Rc::clone(&session)));
        }
        Some(session)
    }

    /// A socket of the session's own, or else the raw one, which takes no descriptor of its service. Without either nothing can
    /// be sent from the dialled address and port, and an answer from anywhere else would be none.
    fn voice(&self, key: Key, share: &Rc<ServiceShare>) -> Result<Option<(Voice, Option<Held>)>, Limit> {
        let Key { client, dialled, .. } = key;
        let sessions = &self.sessions;
        let raw = || sessions.raw(self.destination.family).map(|raw| (Voice::Raw(raw), None));
        let held = match share.take(1) {
            Ok(held) => held,
            Err(limit) => match raw() {
                Some(voice) => return Ok(Some(voice)),
                None if sessions.give_up_one(self.number) => share.take(1)?,
                None => return Err(limit),
            },
        };
        let error = match Connected::open(dialled, client, self.transparent) {
            Ok(connected) => return Ok(Some((Voice::Connected(connected), Some(held)))),
            Err(error) => error,
        };
        let raw = raw();
        if self.complained.replace(true) {
            tracing::debug!(%dialled, %client, %error, "open session socket");
        } else {
            let consequence = if raw.is_some() { "answering by raw socket" } else { "not answering" };
            tracing::warn!(%dialled, %client, %error, "open session socket; {consequence}, and not telling again");
        }
        Ok(raw)
    }

    /// Lets the young sessions read for themselves: what came before them has been taken.
    fn emptied(self: &Rc<Self>) {
        self.since_empty.set(0);
        for (key, session) in self.young.take() {
            // It may have been ended by newer ones.
            if !self.sessions.get(&key).is_some_and(|open| Rc::ptr_eq(&open, &session)) {
                continue;
            }
            let queue = Rc::clone(self);
            let reading = Rc::clone(&session);
            let reader = spawn_local(async move {
                let stray = |envelope, payload: &[u8]| {
                    queue.take(&envelope, payload);
                    queue.stray_taken.notify_one();
                };
                let end = reading.read(stray).await;
                queue.sessions.end(&key, end);
            });
            session.read_by(reader.abort_handle());
        }
    }
}

impl Drop for Queue {
    /// The runtime keeps a panic to the task, and nobody would notice a listener that is never read.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.worker.died();
        }
    }
}

//! One worker's thread: it obeys commands and serves listeners until it is told to stop. Shares nothing with other workers
//! while connections are served.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::runtime::LocalRuntime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::assignment::{Assignment, CurrentAssignment};
use crate::hold::Holder;
use crate::model::{Destination, Protocol};
use crate::service::{Listener, Serving};
use crate::tcp::accept::Acceptor;
use crate::tcp::connections::Connections;
use crate::udp::{AbandonedListener, Giving, Mailbox, Moving, Receiver, Sessions};
use crate::worker::Worker;

/// The end of a drain.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct DrainOutcome {
    /// Connections that ended by themselves while we waited.
    pub finished: usize,
    /// Connections that were cut.
    pub cut: usize,
}

/// A command to a worker.
pub(super) enum WorkerCommand {
    /// Serve a destination from one more socket.
    Listen {
        destination: Destination,
        listener: Listener,
        serving: Serving,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Serve what the listeners of some destinations accept from now on as other ones, all at once.
    HandOver { handovers: Vec<ServingHandover>, done: oneshot::Sender<()> },
    /// Close a destination's listeners.
    Remove { destination: Destination, done: oneshot::Sender<()> },
    /// Have what is open of a UDP destination go on by itself, since nothing will be steered to it any more.
    Part { destination: Destination, done: oneshot::Sender<()> },
    /// Cut what is open of a destination that was removed, whatever its revision: how much that was.
    Cut { destination: Destination, done: oneshot::Sender<usize> },
    /// Close all listeners, wait for the connections to end, and end.
    Drain { timeout: Duration, done: oneshot::Sender<DrainOutcome> },
    /// End now; if draining, with the outcome as it is.
    Abort,
    /// Do not read listeners that come from now on before [`WorkerCommand::Begin`].
    Hold,
    /// Read those of this protocol.
    Begin(Protocol),
    /// Leave all listeners to another process, with what waits there.
    Leave { done: oneshot::Sender<()> },
    /// Give the sessions of these to it.
    Give { to: mpsc::Sender<(Moving, Vec<OwnedFd>)> },
    /// Go on with what another process had: how many sessions that are.
    Adopt { moving: Moving, sockets: Vec<OwnedFd>, done: oneshot::Sender<usize> },
}

/// The listeners of one destination become those of another one, or of itself.
#[derive(Clone, Debug)]
pub(super) struct ServingHandover {
    pub(super) from: Destination,
    pub(super) to: Destination,
    pub(super) serving: Serving,
}

/// A worker's thread, from start to end.
pub(super) fn run(
    runtime: LocalRuntime,
    worker: Worker,
    capacity: usize,
    mailbox: Mailbox,
    commands: mpsc::UnboundedReceiver<WorkerCommand>,
) {
    let worker = Rc::new(worker);
    let sessions = Rc::new(Sessions::new(capacity, worker.index, worker.common.connections.clone()));
    let task = WorkerTask {
        worker: Rc::clone(&worker),
        sessions: Rc::clone(&sessions),
        listeners: HashMap::new(),
        retired: Vec::new(),
        commands,
        holder: Holder::default(),
        is_held: false,
        last: Vec::new(),
        abandoned: Vec::new(),
    };
    let drained = runtime.block_on(async {
        sessions.open(mailbox);
        task.run().await
    });
    let (finished, cut) = (worker.ended_so_far(), worker.open_now());
    // What is still open ends here: dropped sessions report themselves as cut, dropped peers send a RST.
    runtime.shutdown_background();
    sessions.clear();
    if let Some((before, done)) = drained {
        let _ = done.send(DrainOutcome { finished: finished - before, cut });
    }
}

/// The task that obeys the commands.
struct WorkerTask {
    worker: Rc<Worker>,
    sessions: Rc<Sessions>,
    listeners: HashMap<Destination, Listeners>,
    /// Destinations that were removed and may still have something open.
    retired: Vec<Retired>,
    commands: mpsc::UnboundedReceiver<WorkerCommand>,
    /// The wait of listeners of TCP.
    holder: Holder,
    /// True if those of UDP that come wait.
    is_held: bool,
    /// Those of UDP that are read for as long as their sessions are here, while all others are left to another process.
    last: Vec<Receiver>,
    /// Those that are not read any more, and whose sessions are here still.
    abandoned: Vec<AbandonedListener>,
}

/// A destination's loops of this worker, and what they accepted.
struct Listeners {
    assignment: CurrentAssignment,
    connections: Rc<Connections>,
    loops: Vec<ListenerTask>,
}

/// The remains of a destination.
struct Retired {
    destination: Destination,
    connections: Rc<Connections>,
}

/// A loop that serves one listener.
enum ListenerTask {
    Accept(Acceptor),
    Receive(Receiver),
}

impl WorkerTask {
    /// Until all is over. If that was by draining: how many connections had ended before, and who asked.
    async fn run(mut self) -> Option<(usize, oneshot::Sender<DrainOutcome>)> {
        loop {
            match self.commands.recv().await {
                None | Some(WorkerCommand::Abort) => return None,
                Some(WorkerCommand::Drain { timeout, done }) => {
                    let before = self.worker.ended_so_far();
                    self.drain(timeout).await;
                    return Some((before, done));
                }
                Some(WorkerCommand::Listen { destination, listener, serving, done }) => {
                    let _ = done.send(self.listen(destination, listener, serving));
                }
                Some(WorkerCommand::Remove { destination, done }) => {
                    if let Some(listeners) = self.listeners.remove(&destination) {
                        self.retire(destination, listeners).await;
                    }
                    let _ = done.send(());
                }
                Some(WorkerCommand::Part { destination, done }) => {
                    self.part(&destination);
                    let _ = done.send(());
                }
                Some(WorkerCommand::Cut { destination, done }) => {
                    let _ = done.send(self.cut(&destination));
                }
                Some(WorkerCommand::HandOver { handovers, done }) => {
                    self.hand_over(handovers);
                    let _ = done.send(());
                }
                Some(WorkerCommand::Hold) => {
                    self.holder.set(true);
                    self.is_held = true;
                }
                Some(WorkerCommand::Begin(Protocol::Tcp)) => self.holder.set(false),
                Some(WorkerCommand::Begin(Protocol::Udp)) => {
                    self.is_held = false;
                    self.receivers().for_each(Receiver::begin);
                }
                Some(WorkerCommand::Leave { done }) => {
                    self.leave().await;
                    let _ = done.send(());
                }
                Some(WorkerCommand::Give { to }) => self.give(to).await,
                Some(WorkerCommand::Adopt { moving, sockets, done }) => {
                    let _ = done.send(self.adopt(moving, sockets));
                }
            }
        }
    }

    /// Nothing is accepted meanwhile, so that all change together.
    fn hand_over(&mut self, handovers: Vec<ServingHandover>) {
        // Destinations may take each other's places.
        let handed: Vec<_> = handovers
            .into_iter()
            .filter_map(|handover| Some((self.listeners.remove(&handover.from)?, handover)))
            .collect();
        for (mut listeners, ServingHandover { from, to, serving }) in handed {
            if from.service != to.service {
                // What it has open is of a service that may be cut.
                let connections = std::mem::take(&mut listeners.connections);
                self.retired.push(Retired { destination: from, connections });
            }
            listeners.assignment.replace(Assignment::new(serving, &to, &listeners.connections, &self.worker));
            self.listeners.insert(to, listeners);
        }
        self.forget_retired();
    }

    fn listen(&mut self, destination: Destination, listener: Listener, serving: Serving) -> io::Result<()> {
        let assignment = |connections| Assignment::new(serving, &destination, connections, &self.worker);
        let listeners = match self.listeners.entry(destination.clone()) {
            Entry::Occupied(listeners) => {
                let listeners = listeners.into_mut();
                listeners.assignment.replace(assignment(&listeners.connections));
                listeners
            }
            Entry::Vacant(place) => {
                let connections = Rc::default();
                let assignment = CurrentAssignment::new(assignment(&connections));
                place.insert(Listeners { assignment, connections, loops: Vec::new() })
            }
        };
        let current = listeners.assignment.clone();
        let worker = Rc::clone(&self.worker);
        listeners.loops.push(match listener {
            Listener::Tcp(listener) => {
                ListenerTask::Accept(Acceptor::start(worker, listener, current, self.holder.hold())?)
            }
            Listener::Udp(listener) => ListenerTask::Receive(Receiver::start(
                worker,
                Rc::clone(&self.sessions),
                destination,
                listener,
                current,
                self.is_held,
            )?),
        });
        self.worker.common.descriptors.listeners_added(1);
        Ok(())
    }

    fn receivers(&self) -> impl Iterator<Item = &Receiver> {
        self.listeners.values().flat_map(|listeners| &listeners.loops).filter_map(|one| match one {
            ListenerTask::Receive(receiver) => Some(receiver),
            ListenerTask::Accept(_) => None,
        })
    }

    /// Nothing of what waits in the queues is taken: another process does. But of UDP that can wait until its sessions go, unless
    /// these may turn up at any worker: a queue is not to grow while those of others go.
    async fn leave(&mut self) {
        for (destination, listeners) in std::mem::take(&mut self.listeners) {
            let connections = listeners.connections;
            self.worker.common.descriptors.listeners_removed(listeners.loops.len());
            for one in listeners.loops {
                match one {
                    ListenerTask::Accept(acceptor) => acceptor.abandon().await,
                    ListenerTask::Receive(receiver) if receiver.follows() => {
                        self.abandoned.push(receiver.abandon().await);
                    }
                    ListenerTask::Receive(receiver) => self.last.push(receiver),
                }
            }
            self.retired.push(Retired { destination, connections });
        }
        self.forget_retired();
    }

    async fn give(&mut self, to: mpsc::Sender<(Moving, Vec<OwnedFd>)>) {
        self.sessions.passed().await;
        let (mut next, mut is_taken) = (Giving::new(to), true);
        for listener in std::mem::take(&mut self.abandoned) {
            is_taken = is_taken && self.sessions.give(listener, &mut next).await;
        }
        for receiver in std::mem::take(&mut self.last) {
            // Whoever is gone has a successor, which reads it.
            let listener = receiver.abandon().await;
            is_taken = is_taken && self.sessions.give(listener, &mut next).await;
        }
        next.flush().await;
    }

    fn adopt(&self, moving: Moving, sockets: Vec<OwnedFd>) -> usize {
        let receivers = self.receivers().map(|receiver| (receiver.cookie(), receiver));
        let receivers: HashMap<u64, &Receiver> = receivers.collect();
        for (cookie, losses) in moving.listeners {
            receivers.get(&cookie).inspect(|receiver| receiver.tell_beyond(losses));
        }
        let (mut sockets, mut count) = (sockets.into_iter(), 0);
        for session in moving.sessions {
            let its = sockets.by_ref().take(session.sockets()).collect();
            let receiver = receivers.get(&session.listener());
            count += usize::from(receiver.is_some_and(|receiver| receiver.adopt(session, its)));
        }
        let whole = moving.whole.iter().filter_map(|cookie| receivers.get(cookie));
        whole.filter(|receiver| !receiver.follows()).for_each(|receiver| receiver.begin());
        count
    }

    async fn retire(&mut self, destination: Destination, listeners: Listeners) {
        let connections = Rc::clone(&listeners.connections);
        let sockets = listeners.loops.len();
        stop(listeners).await;
        if destination.protocol == Protocol::Udp {
            self.sessions.part_orphans(&destination.service, destination.family);
        }
        self.worker.common.descriptors.listeners_removed(sockets);
        self.retired.push(Retired { destination, connections });
        self.forget_retired();
    }

    fn forget_retired(&mut self) {
        let sessions = &self.sessions;
        self.retired.retain(|Retired { destination, connections }| {
            let Destination { service, family, protocol, .. } = destination;
            let has_sessions = *protocol == Protocol::Udp && sessions.any_left_of(service, *family);
            has_sessions || !connections.is_empty()
        });
    }

    fn part(&self, destination: &Destination) {
        self.sessions.part(&destination.service, destination.family);
        // What came before goes before what comes to the new sockets.
        for one in self.listeners.get(destination).iter().flat_map(|listeners| &listeners.loops) {
            if let ListenerTask::Receive(receiver) = one {
                receiver.part();
                receiver.take_waiting();
            }
        }
    }

    fn cut(&mut self, destination: &Destination) -> usize {
        let Destination { service, revision: _, family, protocol } = destination;
        let is_doomed = |Retired { destination: retired, .. }: &mut Retired| {
            retired.service == *service && retired.family == *family && retired.protocol == *protocol
        };
        let doomed: Vec<Retired> = self.retired.extract_if(.., is_doomed).collect();
        let mut cut = doomed.iter().map(|retired| retired.connections.cut()).sum();
        if !doomed.is_empty() && *protocol == Protocol::Udp {
            cut += self.sessions.cut(service, *family);
        }
        cut
    }

    async fn drain(&mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        for (destination, listeners) in self.listeners.drain() {
            stop(listeners).await;
            if destination.protocol == Protocol::Udp {
                self.sessions.part_orphans(&destination.service, destination.family);
            }
        }
        for receiver in std::mem::take(&mut self.last) {
            // Nobody wanted their sessions.
            receiver.abandon().await;
        }
        // UDP has no end of its own to wait for.
        self.sessions.hurry();
        tokio::select! {
            () = self.worker.idle() => {}
            () = sleep_until(deadline) => {}
            // Only an abort, or nobody left to send one, is of interest now.
            () = async { while !matches!(self.commands.recv().await, None | Some(WorkerCommand::Abort)) {} } => {}
        }
    }
}

async fn stop(listeners: Listeners) {
    for one in listeners.loops {
        match one {
            ListenerTask::Accept(acceptor) => acceptor.stop().await,
            ListenerTask::Receive(receiver) => receiver.stop().await,
        }
    }
}

//! One worker: a thread with a runtime of its own, that serves its listeners until it is told to stop. Shares nothing
//! with other workers while connections are served.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::runtime::LocalRuntime;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::accept::{Acceptor, Assignment, CurrentAssignment};
use super::connections::Connections;
use super::high_water::HighWater;
use super::limits::{DescriptorPool, Descriptors, Ledger};
use super::relay::{Buffers, Means, Pipes, Strategy};
use super::report::Event;
use super::sys;
use super::traffic::Traffic;
use super::udp::{Receiver, Sessions};
use super::unique_id::UniqueIds;
use super::workers::{DrainOutcome, Listener, Serving, WorkersError};
use crate::model::{Destination, Protocol, ServiceName, reached};

/// An observer that is told of every connection, on the worker's own thread.
pub(super) type Observer = Box<dyn Fn(Event<'_>) + Send>;

/// A command to a worker.
pub(super) enum Command {
    /// Serve a destination from one more socket.
    Listen {
        destination: Destination,
        listener: Listener,
        serving: Serving,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Serve a destination's future connections so.
    Replace { destination: Destination, serving: Serving },
    /// Close a destination's listeners.
    Remove { destination: Destination, done: oneshot::Sender<()> },
    /// Cut what is open of a destination that was removed, whatever its revision: how much that was.
    Cut { destination: Destination, done: oneshot::Sender<usize> },
    /// Close all listeners, wait for the connections to end, and end.
    Drain { timeout: Duration, done: oneshot::Sender<DrainOutcome> },
    /// End now; if draining, with the outcome as it is.
    Abort,
}

/// The common ground of all workers: they agree on it while connections come and go, where there are limits to agree on.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) ledger: Ledger,
    pub(super) descriptors: DescriptorPool,
}

/// The common ground of a worker's connections.
pub(super) struct Worker {
    pub(super) index: usize,
    pub(super) buffers: Buffers,
    pipes: Pipes,
    pub(super) sessions: Sessions,
    pub(super) descriptors: Descriptors,
    pub(super) common: Common,
    pub(super) unique_ids: UniqueIds,
    /// The addresses at which it listens itself, whatever steers connections there.
    listening: RefCell<HashSet<SocketAddr>>,
    observer: Observer,
    /// The bytes that it has carried, of services that are gone too: they may come back, and a counter must not fall.
    traffic: RefCell<HashMap<(ServiceName, Protocol), Traffic>>,
    failures: mpsc::UnboundedSender<WorkersError>,
    open: Cell<usize>,
    ended: Cell<usize>,
    high_water: HighWater,
    idle: Notify,
}

impl Worker {
    pub(super) fn new(
        index: usize,
        pipes: Pipes,
        sessions: Sessions,
        common: Common,
        observer: Observer,
        failures: mpsc::UnboundedSender<WorkersError>,
    ) -> Self {
        Self {
            index,
            buffers: Buffers::default(),
            pipes,
            sessions,
            descriptors: Descriptors::of(common.descriptors.clone()),
            common,
            unique_ids: UniqueIds::start(),
            listening: RefCell::default(),
            observer,
            traffic: RefCell::default(),
            failures,
            open: Cell::new(0),
            ended: Cell::new(0),
            high_water: HighWater::default(),
            idle: Notify::new(),
        }
    }

    /// The means with which relays move bytes.
    pub(super) fn means(&self) -> Means<'_> {
        Means { buffers: &self.buffers, pipes: &self.pipes, strategy: Strategy::default() }
    }

    /// True if dialling `address` ends at a listener of its own, which all workers' are: nothing steers such a connection, and
    /// it would be dialled again and again.
    pub(super) fn listens_on(&self, address: SocketAddr) -> bool {
        self.listening.borrow().contains(&SocketAddr::new(reached(address.ip()), address.port()))
    }

    pub(super) fn listener_opened(&self, address: SocketAddr) {
        self.listening.borrow_mut().insert(address);
    }

    pub(super) fn listener_closed(&self, address: SocketAddr) {
        self.listening.borrow_mut().remove(&address);
    }

    /// The counters of the bytes of its sessions of a service.
    pub(super) fn traffic(&self, service: &ServiceName, protocol: Protocol) -> Traffic {
        let mut all = self.traffic.borrow_mut();
        let traffic = all.entry((service.clone(), protocol)).or_insert_with(|| {
            let traffic = Traffic::default();
            (self.observer)(Event::Serving { service, protocol, traffic: &traffic });
            traffic
        });
        traffic.clone()
    }

    pub(super) fn opened(&self, service: &ServiceName, protocol: Protocol) {
        self.open.set(self.open.get() + 1);
        (self.observer)(Event::Opened { service, protocol });
    }

    pub(super) fn observe(&self, event: Event<'_>) {
        (self.observer)(event);
    }

    pub(super) fn ended(&self, event: Event<'_>) {
        (self.observer)(event);
        if self.high_water.has_ebbed(self.open.get()) {
            sys::give_memory_back();
        }
        self.ended.set(self.ended.get() + 1);
        self.open.set(self.open.get() - 1);
        if self.open.get() == 0 {
            self.idle.notify_waiters();
        }
    }

    pub(super) fn listener_failed(&self, destination: Destination, source: io::Error) {
        // Nobody listens any more when the process is on its way out.
        let _ = self.failures.send(WorkersError::Accept { destination, source });
    }

    pub(super) fn died(&self) {
        let _ = self.failures.send(WorkersError::Died { worker: self.index });
    }

    async fn idle(&self) {
        while self.open.get() > 0 {
            self.idle.notified().await;
        }
    }
}

/// A worker's thread, from start to end.
pub(super) fn run(runtime: LocalRuntime, worker: Worker, commands: mpsc::UnboundedReceiver<Command>) {
    let worker = Rc::new(worker);
    let lead = Lead { worker: Rc::clone(&worker), listeners: HashMap::new(), retired: Vec::new(), commands };
    let drained = runtime.block_on(lead.run());
    let (finished, cut) = (worker.ended.get(), worker.open.get());
    // What is still open ends here: dropped sessions report themselves as cut, dropped peers send a RST.
    runtime.shutdown_background();
    worker.sessions.clear();
    if let Some((before, done)) = drained {
        let _ = done.send(DrainOutcome { finished: finished - before, cut });
    }
}

/// The task that obeys the commands.
struct Lead {
    worker: Rc<Worker>,
    listeners: HashMap<Destination, Listeners>,
    /// Destinations that were removed and may still have something open.
    retired: Vec<Retired>,
    commands: mpsc::UnboundedReceiver<Command>,
}

/// A destination's loops of this worker, and what they accepted.
struct Listeners {
    assignment: CurrentAssignment,
    connections: Rc<Connections>,
    loops: Vec<Loop>,
}

/// The remains of a destination.
struct Retired {
    destination: Destination,
    connections: Rc<Connections>,
    /// Whose UDP sessions.
    receivers: Vec<u64>,
}

/// A loop that serves one listener.
enum Loop {
    Accept(Acceptor),
    Receive(Receiver),
}

impl Loop {
    /// The number by which UDP sessions know it.
    fn receiver(&self) -> Option<u64> {
        match self {
            Self::Accept(_) => None,
            Self::Receive(receiver) => Some(receiver.number()),
        }
    }
}

impl Lead {
    /// Until all is over. If that was by draining: how many connections had ended before, and who asked.
    async fn run(mut self) -> Option<(usize, oneshot::Sender<DrainOutcome>)> {
        loop {
            match self.commands.recv().await {
                None | Some(Command::Abort) => return None,
                Some(Command::Drain { timeout, done }) => {
                    let before = self.worker.ended.get();
                    self.drain(timeout).await;
                    return Some((before, done));
                }
                Some(Command::Listen { destination, listener, serving, done }) => {
                    let _ = done.send(self.listen(destination, listener, serving));
                }
                Some(Command::Remove { destination, done }) => {
                    if let Some(listeners) = self.listeners.remove(&destination) {
                        self.retire(destination, listeners).await;
                    }
                    let _ = done.send(());
                }
                Some(Command::Cut { destination, done }) => {
                    let _ = done.send(self.cut(&destination).await);
                }
                Some(Command::Replace { destination, serving }) => {
                    if let Some(listeners) = self.listeners.get(&destination) {
                        listeners.assignment.replace(Assignment::new(
                            serving,
                            destination.protocol,
                            &self.worker,
                        ));
                    }
                }
            }
        }
    }

    fn listen(&mut self, destination: Destination, listener: Listener, serving: Serving) -> io::Result<()> {
        let assignment = Assignment::new(serving, destination.protocol, &self.worker);
        let listeners = match self.listeners.entry(destination.clone()) {
            Entry::Occupied(listeners) => {
                let listeners = listeners.into_mut();
                listeners.assignment.replace(assignment);
                listeners
            }
            Entry::Vacant(place) => place.insert(Listeners {
                assignment: CurrentAssignment::new(assignment),
                connections: Rc::default(),
                loops: Vec::new(),
            }),
        };
        let current = listeners.assignment.clone();
        let worker = Rc::clone(&self.worker);
        listeners.loops.push(match listener {
            Listener::Tcp(listener) => {
                let connections = Rc::clone(&listeners.connections);
                Loop::Accept(Acceptor::start(worker, destination, listener, current, connections)?)
            }
            Listener::Udp(listener) => {
                Loop::Receive(Receiver::start(worker, destination, listener, current)?)
            }
        });
        self.worker.common.descriptors.listeners_added(1);
        Ok(())
    }

    async fn retire(&mut self, destination: Destination, listeners: Listeners) {
        let connections = Rc::clone(&listeners.connections);
        let receivers: Vec<u64> = listeners.loops.iter().filter_map(Loop::receiver).collect();
        let sockets = listeners.loops.len();
        stop(listeners).await;
        self.worker.common.descriptors.listeners_removed(sockets);
        self.retired.push(Retired { destination, connections, receivers });
        let sessions = &self.worker.sessions;
        self.retired.retain(|retired| !retired.connections.is_empty() || sessions.any_of(&retired.receivers));
    }

    async fn cut(&mut self, destination: &Destination) -> usize {
        let Destination { service, revision: _, family, protocol } = destination;
        let is_doomed = |Retired { destination: retired, .. }: &mut Retired| {
            retired.service == *service && retired.family == *family && retired.protocol == *protocol
        };
        let doomed: Vec<Retired> = self.retired.extract_if(.., is_doomed).collect();
        let mut cut = 0;
        for Retired { connections, receivers, .. } in doomed {
            cut += connections.cut() + self.worker.sessions.cut(&receivers).await;
        }
        cut
    }

    async fn drain(&mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        for (_, listeners) in self.listeners.drain() {
            stop(listeners).await;
        }
        // UDP has no end of its own to wait for.
        self.worker.sessions.hurry();
        tokio::select! {
            () = self.worker.idle() => {}
            () = sleep_until(deadline) => {}
            // Only an abort, or nobody left to send one, is of interest now.
            () = async { while !matches!(self.commands.recv().await, None | Some(Command::Abort)) {} } => {}
        }
    }
}

async fn stop(listeners: Listeners) {
    for one in listeners.loops {
        match one {
            Loop::Accept(acceptor) => acceptor.stop().await,
            Loop::Receive(receiver) => receiver.stop().await,
        }
    }
}

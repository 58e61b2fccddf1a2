//! The threads that serve connections, seen from outside. Makes no sockets: listeners come from elsewhere, ready.

mod task;

use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::thread;
use std::time::Duration;

use futures_util::future::try_join_all;
use nix::sys::resource::{Resource, getrlimit};
use rustix::net::sockopt::socket_cookie;
use tokio::runtime::{self, LocalOptions, LocalRuntime};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::commanded::Commanded;
use crate::error::WorkersError;
use crate::limits::{DescriptorPool, LimitBook};
use crate::model::{Destination, Protocol, Target};
use crate::origins::{OriginWatch, WatchError};
use crate::report::Event;
use crate::service::{Listener, Served, Serving};
use crate::source_judge::{CurrentJudges, JudgeChange};
use crate::sys;
use crate::tcp::relay::Pipes;
use crate::udp::{self, Answer, ConnectionBook, Mailbox, Moving};
use crate::worker::{self, Common, Worker};
pub use task::DrainOutcome;
use task::{ServingHandover, WorkerCommand};

/// Deep enough for everything that runs here. Only touched pages count as memory.
const STACK: usize = 512 * 1024;

/// In which portions a worker wants its CPU time: the shortest there are. What it does for one connection takes a tenth of
/// that, and whoever shares the CPU, another worker perhaps, begins portions of milliseconds.
const SLICE: Duration = Duration::from_micros(100);

/// So many portions of sessions wait for another process at most.
const BATCHES: usize = 4;

/// The listeners of one destination are to serve something else from now on.
#[derive(Clone, Debug)]
pub struct Handover {
    /// The destination whose listeners they are.
    pub from: Destination,
    /// The destination whose listeners they become, of the same family and protocol; perhaps the same.
    pub to: Destination,
    /// What they serve then.
    pub served: Arc<Served>,
}

/// Listeners that can begin to serve something else at any moment.
#[derive(Debug)]
pub struct PreparedHandovers(Vec<ServingHandover>);

/// The worker threads. Dropping it cuts every connection and waits for the threads.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Thread>,
    common: Common,
    origins: OriginWatch,
    failures: Mutex<mpsc::UnboundedReceiver<WorkersError>>,
    /// The number of listeners given to them.
    next: AtomicUsize,
    /// True while listeners wait to be read.
    is_held: AtomicBool,
    /// The workers that have these listeners, by the kernel's numbers of them.
    places: StdMutex<HashMap<u64, usize>>,
}

impl Workers {
    /// Starts `count` threads. They live in the network namespace that the calling thread is in now. `observer` makes what
    /// each of them, by its index, tells of its connections; it is called on that worker's thread and must not block.
    /// `origins` says what their connections can go to.
    ///
    /// # Errors
    /// [`WorkersError::Start`], when the system has no thread or descriptor to spare.
    pub fn start<O>(
        count: NonZeroUsize,
        origins: OriginWatch,
        mut observer: impl FnMut(usize) -> O,
    ) -> Result<Self, WorkersError>
    where
        O: Fn(Event<'_>) + Send + 'static,
    {
        let (failed, failures) = mpsc::unbounded_channel();
        let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE)
            .map_err(|errno| WorkersError::Start { worker: 0, source: errno.into() })?;
        let capacity = udp::capacity();
        let pipes = || Pipes::for_one_of(count.get(), descriptors);
        let (connections, mailboxes) = ConnectionBook::of(count.get());
        let common = Common {
            connections,
            judges: CurrentJudges::default(),
            ledger: LimitBook::default(),
            descriptors: DescriptorPool::new(descriptors, count.get(), pipes().descriptors()),
        };
        let mut workers = Self {
            threads: Vec::new(),
            common: common.clone(),
            origins,
            failures: Mutex::new(failures),
            next: AtomicUsize::default(),
            is_held: AtomicBool::default(),
            places: StdMutex::default(),
        };
        for (index, mailbox) in mailboxes.into_iter().enumerate() {
            let (pipes, observer) = (pipes(), Box::new(observer(index)));
            let room = (capacity, mailbox);
            let thread = Thread::start(index, pipes, room, common.clone(), observer, failed.clone())
                .map_err(|source| WorkersError::Start { worker: index, source })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// The number of workers, and so of sockets that a destination should have at most.
    #[must_use]
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    #[doc(hidden)]
    /// Has clients judged otherwise from now on, after accept. Before the first change none are. What is open stays.
    pub fn judge(&self, change: JudgeChange) {
        self.common.judges.change(change);
    }

    #[doc(hidden)]
    /// The number of descriptors that all connections together may have: two for one that is proxied, one for one that is
    /// answered here, and those of the UDP sessions that are open. What is over is reset.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.common.descriptors.for_connections()
    }

    #[doc(hidden)]
    /// The number of these that each of so many services has of its own, whatever the others take.
    #[must_use]
    pub fn descriptors_of_each(&self, services: usize) -> usize {
        self.common.descriptors.for_each_of(services)
    }

    /// Accepts `destination`'s connections or receives its datagrams from `listeners`, one for each worker in turn, and
    /// serves them as `served` says.
    ///
    /// # Errors
    /// [`WorkersError::Unanswerable`] and [`WorkersError::Origins`] at once; [`WorkersError::Listen`], after which the listeners handed over before it
    /// stay until [`Workers::remove`].
    pub async fn listen<L: Into<Listener>>(
        &self,
        destination: &Destination,
        listeners: Vec<L>,
        served: Arc<Served>,
    ) -> Result<(), WorkersError> {
        let serving = self.serving(destination, served).await?;
        // Where there are fewer listeners than workers, the next destination's go to others.
        let first = self.next.fetch_add(listeners.len(), Ordering::Relaxed) % self.threads.len().max(1);
        for (listener, thread) in listeners.into_iter().zip(self.threads.iter().cycle().skip(first)) {
            let (done, listening) = oneshot::channel();
            let listener = listener.into();
            // Of those that are held sessions may come from another process.
            let cookie = match &listener {
                Listener::Udp(socket) if self.is_held.load(Ordering::Relaxed) => socket_cookie(socket).ok(),
                _ => None,
            };
            thread.tell(WorkerCommand::Listen {
                destination: destination.clone(),
                listener,
                serving: serving.clone(),
                done,
            });
            if let Some(cookie) = cookie {
                let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
                places.insert(cookie, thread.index);
            }
            match listening.await {
                Ok(Ok(())) => {}
                Ok(Err(source)) => {
                    return Err(WorkersError::Listen { destination: destination.clone(), source });
                }
                Err(oneshot::error::RecvError { .. }) => {
                    return Err(WorkersError::Died { worker: thread.index });
                }
            }
        }
        Ok(())
    }

    /// Serves what `destination` accepts from now on as `served` says, as [`Workers::hand_over`] does.
    ///
    /// # Errors
    /// As for [`Workers::prepare`], and nothing has changed.
    pub async fn replace(&self, destination: &Destination, served: Arc<Served>) -> Result<(), WorkersError> {
        let (from, to) = (destination.clone(), destination.clone());
        self.hand_over(self.prepare(vec![Handover { from, to, served }]).await?).await;
        Ok(())
    }

    #[doc(hidden)]
    /// Prepares everything that listeners need to serve something else. Changes nothing that is served.
    ///
    /// # Errors
    /// [`WorkersError::Unanswerable`], [`WorkersError::Moved`] and [`WorkersError::Origins`].
    pub async fn prepare(&self, handovers: Vec<Handover>) -> Result<PreparedHandovers, WorkersError> {
        // All at once: there may be thousands.
        let prepared = handovers.into_iter().map(async |Handover { from, to, served }| {
            if from.protocol == Protocol::Udp && from.service != to.service {
                return Err(WorkersError::Moved { from, to: to.service });
            }
            Ok::<_, WorkersError>(ServingHandover { from, serving: self.serving(&to, served).await?, to })
        });
        Ok(PreparedHandovers(try_join_all(prepared).await?))
    }

    #[doc(hidden)]
    /// Serves what listeners accept from now on as was prepared, on each worker all of them at once, and returns when every
    /// worker does. No listener is closed, no queue and no handshake lost. Open connections and UDP sessions go on as they are;
    /// connections of a destination that was handed on to another service are from now on those of one that was removed. Datagrams
    /// are not handed on so: their sessions are told apart by service.
    pub async fn hand_over(&self, PreparedHandovers(handovers): PreparedHandovers) {
        let mut handed = Vec::new();
        for thread in &self.threads {
            let (done, one) = oneshot::channel();
            thread.tell(WorkerCommand::HandOver { handovers: handovers.clone(), done });
            handed.push(one);
        }
        for one in handed {
            // A worker that is gone serves nothing, and is noticed elsewhere.
            let _ = one.await;
        }
    }

    #[doc(hidden)]
    /// Returns when every worker has attended to it. One that hangs never does.
    pub async fn attend(&self) {
        self.hand_over(PreparedHandovers(Vec::new())).await;
    }

    async fn serving(&self, destination: &Destination, served: Arc<Served>) -> Result<Serving, WorkersError> {
        if destination.protocol == Protocol::Udp && Answer::of(&served.target).is_none() {
            return Err(WorkersError::Unanswerable { destination: destination.clone() });
        }
        let current = match &served.target {
            Target::Origins(origins) => Some(self.origins.current_roster(&served.service, origins).await?),
            Target::Registered | Target::Respond(_) => None,
        };
        Ok(Serving { served, current })
    }

    /// Closes `destination`'s listeners, after accepting what waits in their queues. Steer nothing to them any more
    /// before: a handshake that completes in between is reset. Open connections are not touched, nor are UDP sessions, which
    /// last until their clients fall silent.
    pub async fn remove(&self, destination: &Destination) {
        let mut removals = Vec::new();
        for thread in &self.threads {
            let (done, removed) = oneshot::channel();
            thread.tell(WorkerCommand::Remove { destination: destination.clone(), done });
            removals.push(removed);
        }
        for removed in removals {
            // A worker that is gone has no listeners.
            let _ = removed.await;
        }
    }

    #[doc(hidden)]
    /// Has the UDP sessions of `destinations`, to which nothing will be steered any more, go on with sockets of their own: as many as a kernel
    /// finds among without effort, and as descriptors last. Datagrams that come between the end of steering and this are lost.
    pub async fn part(&self, destinations: impl IntoIterator<Item = &Destination>) {
        let mut partings = Vec::new();
        for destination in destinations.into_iter().filter(|one| one.protocol == Protocol::Udp) {
            for thread in &self.threads {
                let (done, parted) = oneshot::channel();
                thread.tell(WorkerCommand::Part { destination: destination.clone(), done });
                partings.push(parted);
            }
        }
        for parted in partings {
            // A worker that is gone has no sessions.
            let _ = parted.await;
        }
    }

    /// Cuts the connections and UDP sessions that are open of destinations of `destination`'s service, family and protocol
    /// that were removed, of whatever revision: how many there were.
    pub async fn cut(&self, destination: &Destination) -> usize {
        let mut cuts = Vec::new();
        for thread in &self.threads {
            let (done, cut) = oneshot::channel();
            thread.tell(WorkerCommand::Cut { destination: destination.clone(), done });
            cuts.push(cut);
        }
        let mut count = 0;
        for cut in cuts {
            // A worker that is gone has nothing open.
            count += cut.await.unwrap_or(0);
        }
        count
    }

    /// Closes all listeners as [`Workers::remove`] does, lets open connections end by themselves for up to `timeout`, and
    /// cuts the rest. A UDP session ends by itself when its client was silent for a second. The workers are gone afterwards.
    pub async fn drain(&self, timeout: Duration) -> DrainOutcome {
        let mut drains = Vec::new();
        for thread in &self.threads {
            let (done, drained) = oneshot::channel();
            thread.tell(WorkerCommand::Drain { timeout, done });
            drains.push(drained);
        }
        let mut outcome = DrainOutcome::default();
        for drained in drains {
            if let Ok(one) = drained.await {
                outcome.finished += one.finished;
                outcome.cut += one.cut;
            }
        }
        outcome
    }

    #[doc(hidden)]
    /// Has listeners that come from now on not be read before [`Workers::begin`]: another process does still.
    pub fn hold(&self) {
        self.is_held.store(true, Ordering::Relaxed);
        self.threads.iter().for_each(|thread| thread.tell(WorkerCommand::Hold));
    }

    #[doc(hidden)]
    /// Has those of `protocol` be read.
    pub fn begin(&self, protocol: Protocol) {
        if protocol == Protocol::Udp {
            self.is_held.store(false, Ordering::Relaxed);
            self.places.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        self.threads.iter().for_each(|thread| thread.tell(WorkerCommand::Begin(protocol)));
    }

    #[doc(hidden)]
    /// Leaves all listeners to another process, with what waits there: none of it is taken. What is open goes on. Of UDP they are read
    /// until [`Workers::give`] comes to them, but for those whose clients are followed.
    pub async fn leave(&self) {
        let left = self.threads.iter().map(|thread| {
            let (done, left) = oneshot::channel();
            thread.tell(WorkerCommand::Leave { done });
            left
        });
        for left in left.collect::<Vec<_>>() {
            // A worker that is gone has no listeners.
            let _ = left.await;
        }
    }

    #[doc(hidden)]
    /// Gives the UDP sessions of the listeners that were left to whoever receives them, a few at a time, until it receives no more.
    #[must_use]
    pub fn give(&self) -> mpsc::Receiver<(Moving, Vec<OwnedFd>)> {
        let (to, given) = mpsc::channel(BATCHES);
        self.threads.iter().for_each(|thread| thread.tell(WorkerCommand::Give { to: to.clone() }));
        given
    }

    #[doc(hidden)]
    /// Goes on with what another process gave: how many sessions that are.
    pub async fn adopt(&self, moving: Moving, sockets: Vec<OwnedFd>) -> usize {
        let mut adopting = Vec::new();
        for (index, moving, sockets) in self.by_worker(moving, sockets) {
            let Some(thread) = self.threads.get(index) else { continue };
            let (done, adopted) = oneshot::channel();
            thread.tell(WorkerCommand::Adopt { moving, sockets, done });
            adopting.push(adopted);
        }
        let mut count = 0;
        for adopted in adopting {
            // A worker that is gone has none.
            count += adopted.await.unwrap_or(0);
        }
        count
    }

    /// The parts of what another process gave, by the workers that read the listeners.
    fn by_worker(&self, moving: Moving, sockets: Vec<OwnedFd>) -> Vec<(usize, Moving, Vec<OwnedFd>)> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = |cookie: u64| places.get(&cookie).copied().unwrap_or(0);
        let mut parts = HashMap::<usize, (Moving, Vec<OwnedFd>)>::new();
        for one in moving.listeners {
            parts.entry(place(one.0)).or_default().0.listeners.push(one);
        }
        for cookie in moving.whole {
            parts.entry(place(cookie)).or_default().0.whole.push(cookie);
        }
        let mut sockets = sockets.into_iter();
        for session in moving.sessions {
            let (part, its) = parts.entry(place(session.listener())).or_default();
            its.extend(sockets.by_ref().take(session.sockets()));
            part.sessions.push(session);
        }
        parts.into_iter().map(|(index, (moving, sockets))| (index, moving, sockets)).collect()
    }

    /// Cuts everything at once. A [`Workers::drain`] that is waited for returns without further delay.
    pub fn abort(&self) {
        for thread in &self.threads {
            thread.tell(WorkerCommand::Abort);
        }
    }

    /// Waits for something that must not happen: a listener that can accept no more, a worker that died. `None` once every
    /// worker has ended.
    pub async fn failure(&self) -> Option<WorkersError> {
        let mut failures = self.failures.lock().await;
        tokio::select! {
            failure = failures.recv() => failure,
            () = self.origins.died() => Some(WatchError::Died.into()),
        }
    }
}

/// One worker's thread.
#[derive(Debug)]
struct Thread {
    index: usize,
    thread: Commanded<WorkerCommand>,
}

impl Thread {
    fn start(
        index: usize,
        pipes: Pipes,
        (sessions, mailbox): (usize, Mailbox),
        common: Common,
        observer: worker::Observer,
        failures: mpsc::UnboundedSender<WorkersError>,
    ) -> io::Result<Self> {
        let (commands, inbox) = mpsc::unbounded_channel();
        // The runtime belongs to the thread that it runs on, and is made there.
        let (made, making) = std::sync::mpsc::sync_channel(1);
        let handle =
            thread::Builder::new().name(format!("worker-{index}")).stack_size(STACK).spawn(move || {
                let _guard = DeathGuard { worker: index, failures: failures.clone() };
                let runtime = match runtime() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(made.send(Err(error))),
                };
                let _ = made.send(Ok(()));
                if let Err(error) = sys::ask_for_slice(SLICE) {
                    tracing::debug!(worker = index, %error, "ask for short time slices");
                }
                task::run(
                    runtime,
                    Worker::new(index, pipes, common, observer, failures),
                    sessions,
                    mailbox,
                    inbox,
                );
            })?;
        // A thread that sends nothing has panicked, and its guard says so.
        making.recv().unwrap_or(Ok(()))?;
        Ok(Self { index, thread: Commanded::new(commands, handle) })
    }

    fn tell(&self, command: WorkerCommand) {
        self.thread.tell(command);
    }
}

/// Not a `LocalSet` in a runtime: that one would be woken by a system call whenever sockets have something for its tasks.
fn runtime() -> io::Result<LocalRuntime> {
    runtime::Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default())
}

/// Reports a worker's panic.
struct DeathGuard {
    worker: usize,
    failures: mpsc::UnboundedSender<WorkersError>,
}

impl Drop for DeathGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.failures.send(WorkersError::Died { worker: self.worker });
        }
    }
}

//! The thread that keeps an eye on all origins, for all workers: it resolves their names anew when answers expire, and
//! checks their health. Seen from outside; what it does is in `thread`, and no connection ever waits for it.

mod check;
mod datagram_check;
mod probe;
mod route;
mod selection;
mod settings;
mod state;
mod thread;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use super::current_roster::{CurrentRoster, CurrentRosters};
use super::own_bindings::OwnBindings;
use crate::commanded::Commanded;
use crate::model::{LocalOrigins, Origin, OriginSetting, Origins, ResolverOptions, ServiceName};
pub use state::{CheckOutcome, OriginCondition, OriginState, RecordState};
use thread::{WatchCommand, WatchThread};

/// An origin that cannot be used because its name has no address.
#[derive(Debug, thiserror::Error)]
#[error("resolve origin {origin}: {reason}; {cure}")]
pub struct ResolveError {
    /// Which of those given.
    pub index: usize,
    /// The origin, as configured.
    pub origin: Origin,
    /// The reason that was found.
    pub reason: String,
    /// The cure.
    pub cure: &'static str,
}

/// The error of watching origins.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The thread ended unasked.
    #[error("the thread that watches origins ended unexpectedly")]
    Died,
    /// The thread or its runtime could not be made.
    #[error("start the thread that watches origins")]
    Start(#[source] io::Error),
}

/// The origins that were set.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct SetOrigin {
    /// The origin, as configured.
    pub origin: String,
    /// Which of its addresses, as [`OriginState::address`] has them. Empty: the whole of it.
    pub addresses: Vec<String>,
}

/// The reason for which nothing was set.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error, serde::Deserialize, serde::Serialize)]
pub enum SetOriginError {
    /// The thread ended unasked.
    #[error("the thread that watches origins ended unexpectedly")]
    Died,
    /// As many are set as can be.
    #[error("so many origins have a weight by hand that no other can; make some ready")]
    Full,
    /// The service has no origins.
    #[error("it has no origins")]
    Originless,
    /// Several origins are meant.
    #[error("several are meant: {}", .0.join(", "))]
    Several(Vec<String>),
    /// An address of a name was to get a share of its own.
    #[error(
        "the addresses of {origin} share its weight: one of them can be drained or ready, and {origin} have a weight"
    )]
    Share {
        /// The name, as configured.
        origin: String,
    },
    /// No origin is meant.
    #[error("it has none like that")]
    Unknown(
        /// Those that there are.
        Vec<String>,
    ),
}

/// Names that are being looked up.
#[derive(Debug)]
pub struct Lookups(oneshot::Receiver<Vec<ResolveError>>);

impl Lookups {
    /// Waits until all are looked up, or the time for it is over: every origin that has no address, in the order given.
    ///
    /// # Errors
    /// [`WatchError::Died`].
    pub async fn unresolved(self) -> Result<Vec<ResolveError>, WatchError> {
        self.0.await.map_err(|_closed| WatchError::Died)
    }
}

/// The thread, and what it knows. Clones are the same; the thread ends with the last of them.
#[derive(Clone, Debug)]
pub struct OriginWatch(Arc<Watching>);

#[derive(Debug)]
struct Watching {
    thread: Commanded<WatchCommand>,
    rosters: Mutex<CurrentRosters>,
}

impl OriginWatch {
    /// Starts the thread, in the network namespace that the calling thread is in now.
    ///
    /// # Errors
    /// [`WatchError::Start`], when the system has no thread or descriptor to spare.
    pub fn start(options: ResolverOptions) -> Result<Self, WatchError> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(WatchError::Start)?;
        let (commands, inbox) = mpsc::unbounded_channel();
        // Handed over once the thread exists, for the reason that `workers` gives.
        let (hand_over, handed) = std::sync::mpsc::sync_channel::<runtime::Runtime>(1);
        let spawned = std::thread::Builder::new().name("origins".to_owned()).spawn(move || {
            if let Ok(runtime) = handed.recv() {
                LocalSet::new().block_on(&runtime, WatchThread::run(options, inbox));
                runtime.shutdown_background();
            }
        });
        match spawned {
            Ok(handle) => {
                // The thread waits for nothing else, so it takes it.
                let _ = hand_over.send(runtime);
                let thread = Commanded::new(commands, handle);
                Ok(Self(Arc::new(Watching { thread, rosters: Mutex::default() })))
            }
            Err(error) => {
                runtime.shutdown_background();
                Err(WatchError::Start(error))
            }
        }
    }

    /// Looks names up as `options` say from now on.
    pub fn configure(&self, options: ResolverOptions) {
        self.0.thread.tell(WatchCommand::Configure(options));
    }

    #[doc(hidden)]
    /// Dials nothing from now on that would come back through `own`, and again what no longer would.
    ///
    /// # Errors
    /// [`WatchError::Died`].
    pub async fn avoid(&self, own: OwnBindings) -> Result<(), WatchError> {
        self.ask(|done| WatchCommand::Avoid { own, done }).await
    }

    #[doc(hidden)]
    /// Says of each service's origins, in their order, where they were typed, for the log.
    pub fn place(&self, places: HashMap<ServiceName, Vec<String>>) {
        self.0.thread.tell(WatchCommand::Places(places));
    }

    #[doc(hidden)]
    /// Begins to look up the names of `origins`, all at once, so that what is found out is there when the origins are used.
    /// After `patience` nobody waits any more, and what has not been answered by then goes on to be looked up.
    /// Each comes with whether it may be local, since one that means nothing else counts as one without an address.
    pub fn look_up<'a>(
        &self,
        origins: impl IntoIterator<Item = (&'a Origin, LocalOrigins)>,
        patience: Duration,
    ) -> Lookups {
        let origins = origins.into_iter().map(|(origin, local)| (origin.clone(), local)).collect();
        let (done, answer) = oneshot::channel();
        self.0.thread.tell(WatchCommand::Resolve { origins, by: Instant::now() + patience, done });
        Lookups(answer)
    }

    #[doc(hidden)]
    /// Has one of the origins of `service`, as `typed`, or one of its addresses, get no more connections, or another share of
    /// them, from now on and over reloads, until it is made ready.
    ///
    /// # Errors
    /// [`SetOriginError`], and nothing has changed.
    pub async fn set(
        &self,
        service: &ServiceName,
        typed: &str,
        setting: OriginSetting,
    ) -> Result<SetOrigin, SetOriginError> {
        let (service, typed) = (service.clone(), typed.to_owned());
        let set = self.ask(|done| WatchCommand::Set { service, typed, setting, done }).await;
        set.map_err(|_died| SetOriginError::Died)?
    }

    #[doc(hidden)]
    /// Forgets what is set of others than these origins of services.
    pub fn keep<'a>(&self, origins: impl IntoIterator<Item = (&'a ServiceName, &'a Origin)>) {
        let origins = origins.into_iter().map(|(service, origin)| (service.clone(), origin.identity()));
        self.0.thread.tell(WatchCommand::Keep(origins.collect()));
    }

    #[doc(hidden)]
    /// The states of the addresses of a service's origins, in the order configured.
    #[must_use]
    pub fn states(&self, service: &ServiceName) -> Vec<OriginState> {
        let rosters = self.0.rosters.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = |service: &ServiceName| rosters.latest(service);
        latest(service).map_or_else(Vec::new, |current| state::states(&current, latest))
    }

    /// Keeps the roster of `service` up to date from now on, for as long as anybody has what is returned.
    pub(crate) async fn current_roster(
        &self,
        service: &ServiceName,
        origins: &Origins,
    ) -> Result<Arc<CurrentRoster>, WatchError> {
        let (service, origins) = (service.clone(), origins.clone());
        let current = self.ask(|done| WatchCommand::Roster { service, origins, done }).await?;
        let mut rosters = self.0.rosters.lock().unwrap_or_else(PoisonError::into_inner);
        rosters.add(&current);
        Ok(current)
    }

    /// Returns when the thread has ended, which it must not while anybody can ask.
    pub(crate) async fn died(&self) {
        self.0.thread.ended().await;
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> WatchCommand,
    ) -> Result<T, WatchError> {
        let (done, answer) = oneshot::channel();
        // A thread that is gone is noticed here, and by `died`.
        self.0.thread.tell(command(done));
        answer.await.map_err(|_closed| WatchError::Died)
    }
}

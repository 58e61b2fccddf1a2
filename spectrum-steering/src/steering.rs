//! Steering as one value, for programs that embed it: raised for a plan, over whichever path the host allows, and lowered again.
//! Reloads nothing, puts nothing back that others remove, and keeps no account of who else steers in the namespace.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::SocketAddr;
use std::num::NonZeroUsize;

use socket2::Socket;

use crate::dispatcher::{Dispatcher, DispatcherError};
use crate::host::{
    ListenerAddresses, ListenerGroup, ListenerOptions, LocalRoutes, NetError, Transparency, silent_listener,
};
use crate::model::{Destination, DestinationId};
use crate::plan::firewall::{Chain, Firewall, Rule};
use crate::plan::table::{Table, TableError};
use crate::plan::{Plan, RunTimeSources};
use crate::tproxy::{Backend, Tproxy, TproxyError};

/// The way of packets into a listener.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SteeringPath {
    /// An eBPF program in the socket lookup. Needs Linux 5.10 and `CAP_BPF`, `CAP_NET_ADMIN` and `CAP_PERFMON`.
    SkLookup,
    /// Firewall rules, by nftables where these can be and else by iptables. Needs `CAP_NET_ADMIN`, and one of the programs.
    Tproxy,
}

/// The options of what is raised.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SteeringOptions {
    /// The path that is insisted on; `None` is `sk_lookup`, or TPROXY where the kernel will not have that.
    pub path: Option<SteeringPath>,
    /// The number of sockets of each destination, among which the kernel spreads its clients. One by default.
    pub sockets: NonZeroUsize,
}

impl Default for SteeringOptions {
    fn default() -> Self {
        Self { path: None, sockets: NonZeroUsize::MIN }
    }
}

/// A failure of raising or lowering. What it says names the operation, what it was about, and the likely cure.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SteeringError(#[from] Failure);

#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The kernel would not have the program, or what is in it.
    #[error(transparent)]
    Dispatcher(#[from] DispatcherError),
    /// The firewall would not have the rules.
    #[error(transparent)]
    Tproxy(#[from] TproxyError),
    /// A listener, a route or a namespace could not be had.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The bindings are too many for one table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Raising failed, and what had been raised by then was not wholly lowered.
    #[error("{source}; then {}", .undo.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Undo {
        /// The failure.
        source: Box<Failure>,
        /// The errors of undoing.
        undo: Vec<SteeringError>,
    },
}

/// The prefixes of a plan, steered to listeners of this process: what is raised in the network namespace of the thread that raises
/// it. It stays until [`lower`](Self::lower). A drop, and the end of the process, however that comes, take the eBPF program away,
/// and leave local routes and firewall rules: an instance of `spectrum-user` that starts in the same namespace takes these for
/// leftovers and removes them.
#[must_use = "dropping it leaves routes and firewall rules behind"]
pub struct Steering {
    by: By,
    sockets: Vec<(Destination, Socket)>,
    /// Those that never answer.
    silent: Vec<Socket>,
    routes: LocalRoutes,
}

/// The part that gives packets to listeners.
enum By {
    SkLookup(Box<Dispatcher>),
    Tproxy(Option<Tproxy>),
}

impl Steering {
    /// Has whatever is dialled of `plan`'s bindings come to listeners of this process. Traffic is turned on last, and what a failure
    /// leaves is undone. Blocks the calling thread while programs of the firewall run, and must not be dropped while it waits.
    ///
    /// # Errors
    /// The first operation that failed, with its likely cure.
    pub async fn raise(plan: &Plan, options: &SteeringOptions) -> Result<Self, SteeringError> {
        let mut steering = Self::begin(plan, options.path)?;
        match steering.complete(plan, options.sockets).await {
            Ok(()) => Ok(steering),
            Err(source) => {
                let undo = steering.lower().await;
                let source =
                    if undo.is_empty() { source } else { Failure::Undo { source: Box::new(source), undo } };
                Err(source.into())
            }
        }
    }

    /// Nothing is steered yet, but the path is known.
    fn begin(plan: &Plan, path: Option<SteeringPath>) -> Result<Self, Failure> {
        let by = match path {
            Some(SteeringPath::SkLookup) => By::SkLookup(Box::new(attached(plan)?)),
            Some(SteeringPath::Tproxy) => By::Tproxy(None),
            None => match attached(plan) {
                Ok(dispatcher) => By::SkLookup(Box::new(dispatcher)),
                Err(error) => {
                    tracing::info!(%error, "steering by tproxy, since sk_lookup is not possible");
                    By::Tproxy(None)
                }
            },
        };
        Ok(Self { by, sockets: Vec::new(), silent: Vec::new(), routes: LocalRoutes::open()? })
    }

    async fn complete(&mut self, plan: &Plan, sockets: NonZeroUsize) -> Result<(), Failure> {
        let mut addresses = ListenerAddresses::default();
        let mut addresses_of: BTreeMap<DestinationId, SocketAddr> = BTreeMap::new();
        for (id, destination) in &plan.destinations {
            let Destination { family, protocol, .. } = *destination;
            let transparency = match self.path() {
                SteeringPath::SkLookup => Transparency::Opaque,
                SteeringPath::Tproxy => Transparency::Transparent,
            };
            let options =
                ListenerOptions { family, protocol, sockets, transparency, are_cookies_about: false };
            let group = ListenerGroup::bind(&options, &mut addresses, addresses_of.len())?;
            if let By::SkLookup(dispatcher) = &mut self.by {
                dispatcher.register(*id, group.first())?;
            }
            addresses_of.insert(*id, group.address());
            let taken = group.into_sockets().into_iter();
            self.sockets.extend(taken.map(|socket| (destination.clone(), socket)));
        }
        self.routes.add(&plan.routes).await?;
        match &mut self.by {
            By::SkLookup(dispatcher) => {
                for (protocol, family) in plan.silent() {
                    let socket = silent_listener(protocol, family)?;
                    dispatcher.register_silent(protocol, family, &socket)?;
                    self.silent.push(socket);
                }
                dispatcher.publish(
                    Table::on(plan, &RunTimeSources::default(), &crate::host::interface_index)?.nodes(),
                )?;
            }
            By::Tproxy(tproxy) => {
                let rules = plan.bindings.iter().filter_map(|planned| {
                    let listener = *addresses_of.get(&planned.destination)?;
                    Some(Rule { binding: planned.binding, listener })
                });
                let listener = |one: &Destination| {
                    let of = |(_, other): &(&DestinationId, &Destination)| *other == one;
                    let (id, _) = plan.destinations.iter().find(of)?;
                    addresses_of.get(id).copied()
                };
                let firewall =
                    Firewall::of(rules.collect()).denying(plan.denials(&RunTimeSources::default(), listener));
                *tproxy = Some(Tproxy::apply(&Backend::PREFERENCE, &chain(), &firewall)?);
            }
        }
        Ok(())
    }

    /// The path that was taken.
    #[must_use]
    pub fn path(&self) -> SteeringPath {
        match self.by {
            By::SkLookup(_) => SteeringPath::SkLookup,
            By::Tproxy(_) => SteeringPath::Tproxy,
        }
    }

    /// The listeners, each with what comes to it: listening TCP sockets, or bound UDP ones, none of which blocks. The second time
    /// none. Who closes them has what is dialled refused.
    #[must_use]
    pub fn take_sockets(&mut self) -> Vec<(Destination, Socket)> {
        std::mem::take(&mut self.sockets)
    }

    /// Turns traffic off and removes the routes; what goes wrong stops nothing. Open connections lose their addresses, so they are
    /// to be ended before. To be called in the network namespace in which it was raised.
    pub async fn lower(mut self) -> Vec<SteeringError> {
        let mut errors: Vec<Failure> = match self.by {
            By::SkLookup(mut dispatcher) => dispatcher.detach().err().into_iter().map(Into::into).collect(),
            By::Tproxy(tproxy) => tproxy.into_iter().flat_map(Tproxy::undo).map(Into::into).collect(),
        };
        drop((self.sockets, self.silent));
        errors.extend(self.routes.undo().await.into_iter().map(Failure::from));
        errors.into_iter().map(Into::into).collect()
    }
}

/// A dispatcher that steers nothing yet, in the network namespace of the calling thread.
fn attached(plan: &Plan) -> Result<Dispatcher, DispatcherError> {
    let mut dispatcher = Dispatcher::load(false, plan.ids())?;
    let namespace = File::open("/proc/thread-self/ns/net")
        .map_err(|source| DispatcherError::Attach { source: Box::new(source) })?;
    dispatcher.attach(namespace)?;
    Ok(dispatcher)
}

/// A chain that nobody else has: instances of `spectrum-user` have shorter ids.
fn chain() -> Chain {
    let drawn = RandomState::new().build_hasher().finish();
    Chain::of(format_args!("{:08x}", drawn >> 32))
}

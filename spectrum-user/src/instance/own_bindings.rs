//! What the proxy must know of the bindings, so that no connection is dialled back to this instance. The plan decides where an
//! address leads; the proxy, what it makes of that.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Config;
use crate::model::{Hop, Protocol};
use crate::plan::{self, Plan, ReplyNeeds};
use crate::worker_process::{Answering, DialPlace, Told, WorkerQuestion};
use spectrum_proxy::{OwnBindings, PrivilegedSocket};
use spectrum_steering::host;

/// The bindings of some plans, all of them while one follows another, on a host whose interfaces have addresses.
#[derive(Debug, Default)]
struct Bindings {
    plans: Vec<Arc<Plan>>,
    interfaces: BTreeSet<IpAddr>,
    /// Services whose origins are dialled from clients' addresses.
    speaking: Speaking,
}

/// Whether clients are spoken for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Speaking {
    /// By services that are configured so.
    ForClients,
    /// They are not.
    #[default]
    ForNobody,
}

impl Speaking {
    /// As services of one of `configs` do.
    pub(super) fn of(configs: &[&Config]) -> Self {
        let speaks = |config: &&Config| !ReplyNeeds::of(&config.services).families.is_empty();
        if configs.iter().any(speaks) { Self::ForClients } else { Self::ForNobody }
    }
}

impl Bindings {
    fn of(plans: Vec<Arc<Plan>>) -> anyhow::Result<Self> {
        Ok(Self { plans, interfaces: interface_addresses()?, speaking: Speaking::default() })
    }

    fn hops(&self, DialPlace { service, address, port, record }: &DialPlace) -> Vec<Hop> {
        let hops = |plan: &Arc<Plan>| plan::hops(plan, service, *address, *port, *record, &self.interfaces);
        self.plans.iter().flat_map(hops).collect()
    }

    /// Makes `socket` for a worker process, which gets none that it has no use for.
    fn socket(&self, socket: PrivilegedSocket) -> io::Result<OwnedFd> {
        let binds_udp =
            |plan: &Arc<Plan>| plan.destinations.values().any(|one| one.protocol == Protocol::Udp);
        let is_bound = |dialled: SocketAddr| {
            self.plans.iter().any(|plan| plan.is_bound(Protocol::Udp, dialled.ip(), dialled.port()))
        };
        let is_of_use = match socket {
            PrivilegedSocket::Client { .. } => self.speaking == Speaking::ForClients,
            PrivilegedSocket::Icmp(_) | PrivilegedSocket::Raw(_) => self.plans.iter().any(binds_udp),
            PrivilegedSocket::Parted { dialled, .. } | PrivilegedSocket::Voice(dialled) => is_bound(dialled),
        };
        if is_of_use { socket.open() } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
    }

    /// The addresses now.
    fn interfaces(&self) -> BTreeSet<IpAddr> {
        interface_addresses().unwrap_or_else(|error| {
            tracing::debug!("{error:#}");
            self.interfaces.clone()
        })
    }
}

/// The bindings of `plans`, as the origins' thread asks them.
pub(crate) fn own_bindings(plans: Vec<Arc<Plan>>) -> anyhow::Result<OwnBindings> {
    let bindings = Arc::new(Bindings::of(plans)?);
    let known = Arc::clone(&bindings);
    Ok(OwnBindings::new(
        move |service, address, port, record| {
            bindings.hops(&DialPlace { service: service.clone(), address, port, record })
        },
        move || known.interfaces(),
    ))
}

/// The bindings that hold now, for a worker process that asks. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct CurrentBindings(Arc<Mutex<Arc<Bindings>>>);

impl CurrentBindings {
    /// From now on those of `plans` hold.
    pub(super) fn are(&self, plans: Vec<Arc<Plan>>, speaking: Speaking) -> anyhow::Result<()> {
        let bindings = Bindings { speaking, ..Bindings::of(plans)? };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(bindings);
        Ok(())
    }

    /// Answers questions about them.
    pub(super) fn answering(&self) -> Arc<Answering> {
        let current = self.clone();
        Arc::new(move |question| {
            let now = Arc::clone(&current.0.lock().unwrap_or_else(PoisonError::into_inner));
            match question {
                WorkerQuestion::Interfaces => (Told::Interfaces(now.interfaces()), None),
                WorkerQuestion::Hops(bound) => (Told::Hops(now.hops(bound)), None),
                WorkerQuestion::File(file) => opened(file.open().map(OwnedFd::from)),
                WorkerQuestion::Socket(socket) => opened(now.socket(*socket).inspect_err(|error| {
                    tracing::debug!(%error, "make {socket} for the worker process");
                })),
            }
        })
    }
}

fn opened(outcome: io::Result<OwnedFd>) -> (Told, Option<OwnedFd>) {
    match outcome {
        Ok(file) => (Told::Opened(Ok(())), Some(file)),
        Err(error) => (Told::Opened(Err(error.raw_os_error().unwrap_or(libc::EIO))), None),
    }
}

fn interface_addresses() -> anyhow::Result<BTreeSet<IpAddr>> {
    Ok(host::interface_addresses()?.into_iter().map(|interface| interface.address).collect())
}

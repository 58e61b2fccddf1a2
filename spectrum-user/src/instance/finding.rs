//! The finding of sockets that a service says it wants (`sockets` in its table): whenever one of them is not registered, the processes that may have
//! it are looked at, and what fits is registered as if somebody had asked. Takes nothing away that is listed: what is closed the kernel forgets.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::registering::{Offer, places};
use super::running::Running;
use super::standby::aside;
use crate::control::{MOST_FILES, OfferedSocket};
use crate::model::{
    Destination, DestinationId, Protocol, RegisteredSocket, ServiceName, SocketHolder, SocketSource, Weight,
};
use crate::registry::Mode;
use spectrum_steering::host::{
    ForeignSocket, NamespaceId, ProcessSockets, descendants_of, processes_called, processes_of_unit,
    sockets_of_process,
};

/// The time between two looks: a server that is started again is to be found as soon as it listens.
const GLANCE: Duration = Duration::from_millis(100);

/// The same over TPROXY, where a look has all sockets of the namespace listed.
const LONG_GLANCE: Duration = Duration::from_secs(1);

/// The looks for sockets.
#[derive(Debug, Default)]
pub(super) struct SocketSearch {
    due: Option<Instant>,
    /// The reasons for which nothing was found the last time, each of which is said once.
    told: BTreeMap<(ServiceName, SocketSource), String>,
}

/// A socket that was found, with what is to be said of it.
type Found = (OfferedSocket, ForeignSocket);

/// A socket that is looked for.
#[derive(Debug)]
struct Sought {
    service: ServiceName,
    source: SocketSource,
    /// Its weight, where several share the clients; `None`: it takes the place of what there is.
    weight: Option<Weight>,
    /// The destinations that lack it.
    wanted: Vec<(DestinationId, Destination)>,
}

impl Running {
    /// The moment of the next look, while any service wants one.
    pub(super) fn next_finding(&self) -> Option<Instant> {
        let wants_any = !self.config.socket_sources.is_empty();
        wants_any.then(|| self.finding.due.unwrap_or_else(Instant::now))
    }

    /// Registers what is found of the sockets that services say they want.
    pub(super) async fn find_sockets(&mut self) {
        let glance = if self.path == Some(Mode::Tproxy) { LONG_GLANCE } else { GLANCE };
        self.look_at_sockets().await;
        for sought in self.sought() {
            let Ok(namespace) = NamespaceId::current() else { continue };
            let source = sought.source.clone();
            // Files may keep whoever reads them waiting.
            let looked = aside(move || found_of(&source, namespace)).await;
            let outcome = match looked {
                Ok(Ok(found)) => self.register_found(&sought, found).await,
                Ok(Err(why)) => Err(why),
                Err(error) => Err(format!("{error:#}")),
            };
            let Sought { service, source, .. } = sought;
            let told = &mut self.finding.told;
            match outcome {
                Ok(()) => drop(told.remove(&(service, source))),
                Err(why) if told.get(&(service.clone(), source.clone())) == Some(&why) => {}
                Err(why) => {
                    tracing::warn!(%service, "no socket is found to be registered: {source}: {why}");
                    told.insert((service, source), why);
                }
            }
        }
        self.follow_sources().await;
        self.finding.due = Some(Instant::now() + glance);
    }

    /// The sockets that are wanted and not there.
    fn sought(&self) -> Vec<Sought> {
        let mut all = Vec::new();
        for (service, sources) in &self.config.socket_sources {
            for source in sources {
                let weight = SocketSource::weight_among(source, sources);
                let lacks = |destination: &Destination| {
                    let mut sockets = self.others.of(destination).iter();
                    match weight {
                        Some(_) => !sockets.any(|socket| is_found_by(socket, source)),
                        None => sockets.all(|socket| is_left_over(socket, sources)),
                    }
                };
                let own = self.plan.destinations.iter().filter(|(_, one)| {
                    one.service == *service && one.protocol == source.protocol && lacks(one)
                });
                let wanted: Vec<_> = own.map(|(id, one)| (*id, one.clone())).collect();
                if !wanted.is_empty() {
                    let (service, source) = (service.clone(), source.clone());
                    all.push(Sought { service, source, weight, wanted });
                }
            }
        }
        all
    }

    async fn register_found(&mut self, sought: &Sought, mut found: Vec<Found>) -> Result<(), String> {
        let Sought { service, source, weight, wanted } = sought;
        let listed = self.config.socket_sources.get(service).cloned().unwrap_or_default();
        let mut taken = None;
        found.retain(|(_, socket)| {
            let registered = wanted.iter().flat_map(|(_, one)| self.others.of(one));
            let mut same = registered.filter(|one| one.group().any(|one| one.cookie == socket.cookie()));
            let other = same
                .find(|one| !is_found_by(one, source) && one.source.is_some() && !is_left_over(one, &listed));
            taken = other.map(|one| format!("{one} is registered by other words already")).or(taken.take());
            other.is_none()
        });
        if let (true, Some(taken)) = (found.is_empty(), taken) {
            return Err(taken);
        }
        let told = |error: anyhow::Error| format!("{error:#}");
        let offered = self.offered(found).map_err(told)?;
        let offer = Offer { weight: *weight, source: Some(source) };
        self.register_offered(service, wanted, &offered, offer).await.map(drop).map_err(told)
    }

    /// Gives what was found the weight that the configuration has by now, and lets go of what it names no more, where it has others.
    async fn follow_sources(&mut self) {
        let config = Arc::clone(&self.config);
        let destinations: Vec<Destination> = self.others.sockets.keys().cloned().collect();
        let mut is_changed = false;
        for destination in destinations {
            let Some(sources) = config.socket_sources.get(&destination.service) else { continue };
            let before = self.others.of(&destination).to_vec();
            let mut after: Vec<RegisteredSocket> =
                before.iter().map(|socket| followed(socket.clone(), sources)).collect();
            let left = if after.iter().all(|socket| is_left_over(socket, sources)) {
                Vec::new()
            } else {
                after.extract_if(.., |socket| is_left_over(socket, sources)).collect()
            };
            if after == before {
                continue;
            }
            is_changed = true;
            if let Err(error) = self.divide(&destination, after) {
                tracing::warn!(%destination, "divide the clients as the configuration says: {error:#}");
                continue;
            }
            for socket in left {
                tracing::info!(%destination, %socket, "unregistered: the configuration has it no more");
                self.dismiss(places(&socket));
            }
        }
        if is_changed {
            if let Err(error) = self.steer_to_sockets().await {
                tracing::warn!("divide the clients as the configuration says: {error:#}");
            }
            self.publish();
        }
    }

    /// Registers what a server has at the address of a registered socket that is closed, or that others have joined: the rest of its
    /// group. A server of one socket may have taken leave of its clients.
    pub(super) async fn regroup(&mut self, destination: &Destination, socket: &RegisteredSocket) {
        let is_open = self.others.of(destination).iter().any(|one| one.cookie == socket.cookie);
        let Some((id, _)) = self.plan.destinations.iter().find(|(_, one)| *one == destination) else {
            return;
        };
        let wanted = [(*id, destination.clone())];
        let listed = self.config.socket_sources.get(&destination.service);
        let source = listed.and_then(|all| all.iter().find(|source| is_found_by(socket, source))).cloned();
        if (socket.beside.is_empty() || source.is_some()) && !is_open {
            return;
        }
        let Ok(namespace) = NamespaceId::current() else { return };
        let (pid, protocol, address) = (socket.pid, destination.protocol, socket.address);
        let looked = aside(move || {
            let processes = source.as_ref().map_or_else(|| Ok(with_descendants(pid)), holders);
            let is_of = |of: Protocol, at: SocketAddr| (of, at) == (protocol, address);
            processes.and_then(|processes| sockets_among(processes, namespace, is_of))
        });
        let outcome = match looked.await {
            Ok(Ok(found)) => self.offered(found),
            Ok(Err(why)) => return tracing::debug!(%destination, "look for others of a group: {why}"),
            Err(error) => return tracing::debug!(%destination, "look for others of a group: {error:#}"),
        };
        let outcome = match outcome {
            Ok(offered) => {
                let offer = Offer { weight: Some(socket.weight), source: socket.source.as_ref() };
                self.register_offered(&destination.service, &wanted, &offered, offer).await.map(drop)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            tracing::warn!(%destination, "register others of a group: {error:#}");
        }
    }
}

fn is_found_by(socket: &RegisteredSocket, source: &SocketSource) -> bool {
    socket.source.as_ref().is_some_and(|found| found.is_same_server(source))
}

/// True of a socket that was found by words which are not among `sources`.
fn is_left_over(socket: &RegisteredSocket, sources: &[SocketSource]) -> bool {
    socket.source.is_some() && !sources.iter().any(|source| is_found_by(socket, source))
}

/// The socket with the weight that `sources` say, if they say another one than before. What somebody else has set since stays otherwise.
fn followed(socket: RegisteredSocket, sources: &[SocketSource]) -> RegisteredSocket {
    match sources.iter().find(|source| is_found_by(&socket, source)) {
        Some(source) if socket.source.as_ref() != Some(source) => {
            let weight = SocketSource::weight_among(source, sources).unwrap_or(Weight::ONE);
            RegisteredSocket { weight, source: Some(source.clone()), ..socket }
        }
        _ => socket,
    }
}

fn found_of(source: &SocketSource, namespace: NamespaceId) -> Result<Vec<Found>, String> {
    sockets_among(holders(source)?, namespace, |protocol, address| source.is_of(protocol, address))
}

/// The processes that may have what is looked for.
fn holders(source: &SocketSource) -> Result<Vec<u32>, String> {
    match &source.holder {
        SocketHolder::Command(name) => Ok(processes_called(name)),
        SocketHolder::PidFile(path) => {
            let text =
                fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
            let pid = text.split_whitespace().next().and_then(|word| word.parse().ok());
            let pid = pid.ok_or_else(|| format!("read {}: it has no id of a process", path.display()))?;
            Ok(with_descendants(pid))
        }
        SocketHolder::Unit(unit) => processes_of_unit(unit).map_err(shown),
    }
}

/// A process and those that it has started: it may have left the sockets to them.
fn with_descendants(pid: u32) -> Vec<u32> {
    std::iter::once(pid).chain(descendants_of(pid)).collect()
}

/// The sockets for which `is_of` holds of the first of `processes` that has any.
fn sockets_among(
    processes: Vec<u32>,
    namespace: NamespaceId,
    is_of: impl Fn(Protocol, SocketAddr) -> bool,
) -> Result<Vec<Found>, String> {
    let mut found: Vec<Found> = Vec::new();
    let mut failure = None;
    for pid in processes {
        // Of those that have it together the first is named.
        match sockets_of_process(pid, namespace) {
            Ok(ProcessSockets { pid, command, fit, .. }) => {
                let fit = fit.into_iter().filter(|(_, one)| is_of(one.protocol(), one.address()));
                let named = |descriptor| OfferedSocket { pid, command: command.clone(), descriptor };
                found.extend(fit.map(|(descriptor, socket)| (named(descriptor), socket)));
            }
            // It may be over by now.
            Err(error) => failure = Some(shown(error)),
        }
        if !found.is_empty() {
            found.truncate(MOST_FILES);
            return Ok(found);
        }
    }
    Err(failure.unwrap_or_else(|| "no process has such a socket".to_owned()))
}

fn shown(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

//! The finding of sockets that a service says it wants (`sockets` in its table): whenever a destination of it has none, the processes that may have
//! one are looked at, and what fits is registered as if somebody had asked. Takes nothing away: what is closed the kernel forgets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd as _;
use std::time::Duration;

use tokio::time::Instant;

use super::running::Running;
use super::standby::aside;
use crate::control::{Asker, MOST_FILES, OfferedSocket, RegisterQuery};
use crate::model::{ServiceName, SocketHolder, SocketSource};
use crate::registry::Mode;
use spectrum_steering::host::{
    ForeignSocket, NamespaceId, ProcessSockets, processes_called, processes_of_unit, sockets_of_process,
};

/// The time between two looks: a server that is started again is to be found as soon as it listens.
const GLANCE: Duration = Duration::from_millis(100);

/// The same over TPROXY, where a look has all sockets of the namespace listed.
const LONG_GLANCE: Duration = Duration::from_secs(1);

/// The looks for sockets.
#[derive(Debug, Default)]
pub(super) struct SocketSearch {
    due: Option<Instant>,
    /// Why nothing was found for a service the last time, which is said once.
    told: BTreeMap<ServiceName, String>,
}

/// A socket that was found, with what is to be said of it.
type Found = (OfferedSocket, ForeignSocket);

impl Running {
    /// The moment of the next look, while any service wants one.
    pub(super) fn next_finding(&self) -> Option<Instant> {
        let wants_any = !self.config.socket_sources.is_empty();
        wants_any.then(|| self.finding.due.unwrap_or_else(Instant::now))
    }

    /// Registers what is found for destinations that have no socket.
    pub(super) async fn find_sockets(&mut self) {
        let glance = if self.path == Some(Mode::Tproxy) { LONG_GLANCE } else { GLANCE };
        self.look_at_sockets().await;
        for (service, sources) in self.wanting() {
            let Ok(namespace) = NamespaceId::current() else { continue };
            // Files may keep whoever reads them waiting.
            let looked = aside(move || found(&sources, namespace)).await;
            let outcome = match looked {
                Ok(Ok(found)) => self.register_found(&service, found).await,
                Ok(Err(why)) => Err(why),
                Err(error) => Err(format!("{error:#}")),
            };
            match outcome {
                Ok(()) => drop(self.finding.told.remove(&service)),
                Err(why) if self.finding.told.get(&service) == Some(&why) => {}
                Err(why) => {
                    tracing::warn!(%service, "no socket is found to be registered: {why}");
                    self.finding.told.insert(service, why);
                }
            }
        }
        self.finding.due = Some(Instant::now() + glance);
    }

    /// The services of which a destination has no socket, with what is looked for.
    fn wanting(&self) -> Vec<(ServiceName, Vec<SocketSource>)> {
        let lacks = |service: &ServiceName, source: &SocketSource| {
            self.plan.destinations.values().any(|one| {
                one.service == *service
                    && one.protocol == source.protocol
                    && !self.others.sockets.contains_key(one)
            })
        };
        let all = self.config.socket_sources.iter().map(|(service, sources)| {
            let lacking = sources.iter().filter(|source| lacks(service, source)).cloned();
            (service.clone(), lacking.collect::<Vec<_>>())
        });
        all.filter(|(_, sources)| !sources.is_empty()).collect()
    }

    async fn register_found(&mut self, service: &ServiceName, found: Vec<Found>) -> Result<(), String> {
        let known: BTreeSet<u64> = self.others.all().map(|(_, socket)| socket.cookie).collect();
        let found: Vec<Found> =
            found.into_iter().filter(|(_, socket)| !known.contains(&socket.cookie())).collect();
        if found.is_empty() {
            let lacking = self
                .plan
                .destinations
                .values()
                .filter(|one| one.service == *service && !self.others.sockets.contains_key(one));
            let lacking: Vec<String> = lacking.map(ToString::to_string).collect();
            return Err(format!(
                "what there is serves other families; nothing is for {}",
                lacking.join(", ")
            ));
        }
        let sockets = found.iter().map(|(offered, _)| offered.clone()).collect();
        let query = RegisterQuery { service: service.to_string(), sockets, weight: None };
        let files = found.iter().map(|(_, socket)| socket.as_fd().try_clone_to_owned());
        let files = files.collect::<std::io::Result<_>>().map_err(|error| error.to_string())?;
        drop(found);
        // The configuration says so, and who may write that may do more.
        let own = Asker { pid: None, uid: 0 };
        self.register_sockets(&query, files, Some(own)).await.map(drop).map_err(|error| format!("{error:#}"))
    }
}

/// The sockets that fit `sources`, or why there are none.
fn found(sources: &[SocketSource], namespace: NamespaceId) -> Result<Vec<Found>, String> {
    let mut all = Vec::new();
    let mut lacking = Vec::new();
    for source in sources {
        match found_of(source, namespace) {
            Ok(found) => all.extend(found),
            Err(why) => lacking.push(format!("{source}: {why}")),
        }
    }
    if all.is_empty() { Err(lacking.join("; ")) } else { Ok(all) }
}

fn found_of(source: &SocketSource, namespace: NamespaceId) -> Result<Vec<Found>, String> {
    let processes = match &source.holder {
        SocketHolder::Command(name) => processes_called(name),
        SocketHolder::PidFile(path) => {
            let text =
                fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
            let pid = text.split_whitespace().next().and_then(|word| word.parse().ok());
            vec![pid.ok_or_else(|| format!("read {}: it has no id of a process", path.display()))?]
        }
        SocketHolder::Unit(unit) => processes_of_unit(unit).map_err(shown)?,
    };
    let mut found: Vec<Found> = Vec::new();
    let mut failure = None;
    for pid in processes {
        // Of those that have it together the first is named.
        match sockets_of_process(pid, namespace) {
            Ok(ProcessSockets { pid, command, fit, .. }) => {
                let fit = fit.into_iter().filter(|(_, one)| source.is_of(one.protocol(), one.address()));
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

//! What an instance tells who scrapes its metrics, on a thread that must not wait for the one that starts and reloads.
//! Serves nothing itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spectrum_common::Refusal;

use super::running::Running;
use crate::instance::Faults;
use crate::model::{Destination, DestinationId, ServiceName};
use crate::observe::{InstanceFacts, NameFacts, OriginFacts, Packets, TableFacts};
use spectrum_proxy::{OriginCondition, OriginState, OriginWatch, Workers};
use spectrum_steering::dispatcher::{CounterReader, Dispatcher};

/// So many origins are named with what keeps a service from being ready.
const REASONS: usize = 16;

/// The facts that were last told. Clones share them.
#[derive(Clone, Default)]
pub(super) struct ToldFacts(Arc<Mutex<Told>>);

#[derive(Clone, Default)]
struct Told {
    /// All but packets and origins, which change by themselves.
    facts: InstanceFacts,
    destinations: Vec<(DestinationId, Destination)>,
    packets: Option<CounterReader>,
    origins: Option<OriginWatch>,
    faults: Faults,
}

impl ToldFacts {
    /// The facts now.
    pub(super) fn now(&self) -> InstanceFacts {
        let Told { mut facts, destinations, packets, origins, faults } = self.lock().clone();
        facts.repairs = faults.repaired();
        if let Some(origins) = origins {
            for (service, _) in &facts.services {
                let (addresses, names) = told(service, &origins.states(service));
                facts.origins.extend(addresses);
                facts.names.push(names);
            }
        }
        if let Some(reader) = packets {
            facts.packets = destinations
                .into_iter()
                .filter_map(|(id, destination)| counted(&reader, id, destination))
                .collect();
        }
        facts
    }

    /// `Ok` if connections to `service` come to an origin or are answered here, or why they do not; `None`: there is no such
    /// service.
    pub(super) fn readiness(&self, service: &str) -> Option<Result<(), String>> {
        let Told { facts, origins, .. } = self.lock().clone();
        let (service, _) = facts.services.iter().find(|(name, _)| name.as_str() == service)?;
        let states = origins.map_or_else(Vec::new, |origins| origins.states(service));
        if states.is_empty() || states.iter().any(|state| state.condition == OriginCondition::Up) {
            return Some(Ok(()));
        }
        let reasons =
            states.iter().take(REASONS).map(|OriginState { origin, address, condition, reason, .. }| {
                let address = address.as_ref().filter(|address| *address != origin);
                let address = address.map_or_else(String::new, |address| format!(" ({address})"));
                let reason = reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
                format!("origin {origin}{address} is {condition}{reason}")
            });
        Some(Err(reasons.collect::<Vec<_>>().join("\n")))
    }

    /// Lets go of what is asked whenever somebody scrapes.
    pub(super) fn forget(&self) {
        *self.lock() = Told::default();
    }

    /// A reload has ended.
    pub(super) fn reloaded(&self, done: bool) {
        let facts = &mut self.lock().facts;
        let count = if done { &mut facts.reloads_done } else { &mut facts.reloads_refused };
        *count += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The facts about the addresses of one service's origins, and about their names.
fn told(service: &ServiceName, states: &[OriginState]) -> (Vec<OriginFacts>, NameFacts) {
    let mut names = NameFacts { service: service.clone(), unresolved: 0, refused: 0 };
    let mut facts: Vec<OriginFacts> = Vec::new();
    // Rows of one origin stand together.
    for rows in states.chunk_by(|one, other| one.origin == other.origin) {
        let is_nothing = |state: &&OriginState| {
            use OriginCondition::{Refused, Unresolved, Unused};
            matches!(state.condition, Refused | Unresolved | Unused)
        };
        let fact = |state: &OriginState| OriginFacts {
            service: service.clone(),
            origin: state.origin.clone(),
            address: state.address.clone().unwrap_or_default(),
            usable: state.condition == OriginCondition::Up,
            weight: state.weight,
            open: state.open,
            connections: state.connections,
            failed_dials: state.failed_dials,
            broken: state.broken,
            bytes_to: state.bytes_to,
            bytes_from: state.bytes_from,
        };
        names.refused += rows.iter().filter(|state| state.condition == OriginCondition::Refused).count();
        // Whoever says what is refused may say something else each time, and series would become ever more.
        facts.extend(rows.iter().filter(|state| !is_nothing(state)).map(fact));
        if let Some(first) = rows.first().filter(|_| rows.iter().all(|state| is_nothing(&state))) {
            names.unresolved += 1;
            facts.push(OriginFacts { address: String::new(), ..fact(first) });
        }
    }
    (facts, names)
}

fn counted(reader: &CounterReader, id: DestinationId, destination: Destination) -> Option<Packets> {
    let counts = reader.counts(id).inspect_err(|error| tracing::debug!(%error, "count packets")).ok()?;
    let Destination { service, family, protocol, revision: _ } = destination;
    let refused =
        Refusal::ALL.into_iter().zip(counts.refused).map(|(refusal, count)| (refusal.errno(), count));
    Some(Packets {
        service,
        protocol,
        family,
        steered: counts.steered,
        missed: counts.missed,
        refused: refused.collect(),
    })
}

impl Running {
    /// Tells what holds from now on: after the start, and after each reload.
    pub(super) fn tell_facts(&self) {
        let dispatcher: Option<&Dispatcher> = self.dispatcher.as_deref();
        let services =
            self.config.services.iter().map(|service| (service.name.clone(), service.bindings.len()));
        let mut told = self.facts.lock();
        told.facts = InstanceFacts {
            mode: self.mode().map_or_else(String::new, |mode| mode.to_string()),
            services: services.collect(),
            packets: Vec::new(),
            origins: Vec::new(),
            names: Vec::new(),
            table: dispatcher.map(|dispatcher| TableFacts {
                generation: dispatcher.generation(),
                nodes: dispatcher.nodes(),
                bytes: dispatcher.table_bytes(),
            }),
            revision: self.revision,
            reloads_done: told.facts.reloads_done,
            reloads_refused: told.facts.reloads_refused,
            descriptors: self.workers.as_ref().map_or(0, Workers::descriptors),
            descriptors_of_each: self
                .workers
                .as_ref()
                .map_or(0, |workers| workers.descriptors_of_each(self.config.services.len())),
            repairs: Vec::new(),
        };
        told.destinations =
            self.plan.destinations.iter().map(|(id, destination)| (*id, destination.clone())).collect();
        told.origins.clone_from(&self.origins);
        told.faults = self.repairs.faults();
        told.packets = dispatcher.map(Dispatcher::counter_reader);
    }
}

//! What an instance tells who scrapes its metrics, on a thread that must not wait for the one that starts and reloads.
//! Serves nothing itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spectrum_common::Refusal;

use super::running::{Running, Steering};
use crate::dispatcher::{CounterReader, Dispatcher};
use crate::model::{Destination, DestinationId, ServiceName};
use crate::observe::{Facts, OriginFacts, Packets, TableFacts};
use crate::proxy::{OriginCondition, OriginWatch, Workers};

/// What was last told. Clones share it.
#[derive(Clone, Default)]
pub(super) struct ToldFacts(Arc<Mutex<Told>>);

#[derive(Clone, Default)]
struct Told {
    /// All but packets and origins, which change by themselves.
    facts: Facts,
    destinations: Vec<(DestinationId, Destination)>,
    packets: Option<CounterReader>,
    origins: Option<OriginWatch>,
}

impl ToldFacts {
    /// What holds now.
    pub(super) fn now(&self) -> Facts {
        let Told { mut facts, destinations, packets, origins } = self.lock().clone();
        if let Some(origins) = origins {
            let services = facts.services.iter().map(|(service, _)| service);
            facts.origins = services.flat_map(|service| states(&origins, service)).collect();
        }
        if let Some(reader) = packets {
            facts.packets = destinations
                .into_iter()
                .filter_map(|(id, destination)| counted(&reader, id, destination))
                .collect();
        }
        facts
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

fn states(origins: &OriginWatch, service: &ServiceName) -> Vec<OriginFacts> {
    let states = origins.states(service).into_iter().map(|state| OriginFacts {
        service: service.clone(),
        origin: state.origin,
        address: state.address.unwrap_or_default(),
        usable: state.condition == OriginCondition::Up,
        weight: state.weight,
        open: state.open,
        connections: state.connections,
        failed_dials: state.failed_dials,
        broken: state.broken,
        bytes_to: state.bytes_to,
        bytes_from: state.bytes_from,
    });
    states.collect()
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
        let dispatcher: Option<&Dispatcher> = match &self.steering {
            Some(Steering::SkLookup(dispatcher)) => Some(dispatcher),
            _ => None,
        };
        let services =
            self.config.services.iter().map(|service| (service.name.clone(), service.bindings.len()));
        let mut told = self.facts.lock();
        told.facts = Facts {
            mode: self.mode().map_or_else(String::new, |mode| mode.to_string()),
            services: services.collect(),
            packets: Vec::new(),
            origins: Vec::new(),
            table: dispatcher.map(|dispatcher| TableFacts {
                generation: dispatcher.generation(),
                nodes: dispatcher.nodes(),
                bytes: dispatcher.table_bytes(),
            }),
            revision: self.revision,
            reloads_done: told.facts.reloads_done,
            reloads_refused: told.facts.reloads_refused,
            descriptors: self.workers.as_ref().map_or(0, Workers::descriptors),
        };
        told.destinations =
            self.plan.destinations.iter().map(|(id, destination)| (*id, destination.clone())).collect();
        told.origins.clone_from(&self.origins);
        told.packets = dispatcher.map(Dispatcher::counter_reader);
    }
}

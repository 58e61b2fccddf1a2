//! The compiled form of all bindings. How it is read is said by `spectrum_common::steer`; here it is made.

mod buckets;
mod gates;
mod lengths;
pub(super) mod ports;
pub(super) mod prefixes;
mod run_time;
mod sources;

use std::collections::BTreeMap;
use std::net::IpAddr;

use spectrum_common::{
    Address, Bucket4, Bucket6, Domain, NO_NODE, Node, Nodes, Packet, Page, Source, Step, Value, Verdict,
    steer,
};

use super::{Plan, PlannedBinding, Policies, RunTimeSources};
pub use crate::model::domain_of;
use crate::model::{Destination, DestinationId, Family, InterfaceName};
use buckets::Hashed;
use gates::Gates;
use lengths::{Entry, SearchTree};
use ports::PortMaps;
use prefixes::BoundPrefix;
pub use run_time::RunTimeLists;
pub use sources::SourceTable;

/// One generation of the steering table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Table {
    nodes: Vec<Node>,
    run_time: RunTimeLists,
}

impl Default for Table {
    /// The table without bindings: everything passes.
    fn default() -> Self {
        Self { nodes: vec![Node::default(); Domain::ALL.len()], run_time: RunTimeLists::default() }
    }
}

impl Table {
    /// Compiles the bindings of `plan`, and whom its services let in: by none of the interfaces that they name, if they do, since nobody
    /// says which these are.
    ///
    /// # Errors
    /// As for [`on`](Self::on).
    pub fn of(plan: &Plan) -> Result<Self, TableError> {
        Self::on(plan, &RunTimeSources::default(), &|_name| None)
    }

    /// Compiles the bindings of `plan`, and whom its services let in, by `run_time` as well; `index_of` says the index of an interface.
    ///
    /// Linear in the number of bindings and of source prefixes after sorting them; [`TableError::Nodes`] when nodes outgrow their
    /// indexes, far beyond the memory of present machines.
    ///
    /// # Errors
    /// [`TableError`]: nodes outgrow their indexes, or too many services have policies of their own.
    pub fn on(
        plan: &Plan,
        run_time: &RunTimeSources,
        index_of: &dyn Fn(&InterfaceName) -> Option<u32>,
    ) -> Result<Self, TableError> {
        let run_time = RunTimeLists::of(run_time)?;
        Self::behind_gates(&plan.bindings, &plan.destinations, &plan.policies, run_time, index_of)
    }

    /// Compiles bindings that do not tie, in any order; everybody is let in.
    ///
    /// # Errors
    /// As for [`of`](Self::of).
    pub fn compile(bindings: &[PlannedBinding]) -> Result<Self, TableError> {
        let run_time = RunTimeLists::default();
        Self::behind_gates(bindings, &BTreeMap::new(), &Policies::default(), run_time, &|_name| None)
    }

    fn behind_gates(
        bindings: &[PlannedBinding],
        destinations: &BTreeMap<DestinationId, Destination>,
        policies: &Policies,
        run_time: RunTimeLists,
        index_of: &dyn Fn(&InterfaceName) -> Option<u32>,
    ) -> Result<Self, TableError> {
        // Steps first, since the kernel program looks for them in the first page alone.
        let lengths = Domain::ALL.map(|domain| distinct_lengths(of_domain(bindings, domain)));
        let steps = lengths.iter().map(|count| (*count).max(1)).sum();
        let gates = Gates::of(destinations, policies, &run_time, steps)?;
        let first_ports = steps + gates.nodes();
        let mut maps = PortMaps::from_node(first_ports);
        let prefixes = Domain::ALL
            .map(|domain| prefixes::resolve(of_domain(bindings, domain), &mut maps, |id| gates.value(id)));
        let mut table = Self { nodes: vec![Node::default(); first_ports], run_time };
        table.nodes.extend(maps.into_nodes());
        let mut further = Domain::ALL.len()..;
        for (domain, prefixes) in Domain::ALL.into_iter().zip(&prefixes) {
            let family = if domain.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
            table.add_prefixes(family, prefixes, domain.first_step(), &mut further)?;
        }
        gates.place(&mut table, index_of)?;
        // Values use one bit of an index for themselves.
        if table.nodes.len() < (u32::MAX >> 1) as usize {
            Ok(table)
        } else {
            Err(TableError::Nodes { nodes: table.nodes.len() })
        }
    }

    /// The nodes, as the kernel reads them.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The lists of what was said at run time.
    #[must_use]
    pub fn run_time(&self) -> &RunTimeLists {
        &self.run_time
    }

    /// The decision that the kernel takes with this table on a packet from `source` that comes by an unknown interface and not too often.
    #[must_use]
    pub fn steer(&self, packet: &Packet, source: IpAddr) -> Verdict {
        steer(packet, &Source::from(source), self)
    }

    /// Bytes of kernel memory: whole pages.
    #[must_use]
    pub fn bytes(&self) -> usize {
        Page::bytes_of(self.nodes.len()) + self.run_time.bytes()
    }

    /// Puts the steps of a search for `prefixes` into their places, the first into `first` and the others into `further` ones, and
    /// appends their hash tables.
    fn add_prefixes(
        &mut self,
        family: Family,
        prefixes: &[BoundPrefix],
        first: u32,
        further: &mut impl Iterator<Item = usize>,
    ) -> Result<(), TableError> {
        let tree = SearchTree::over(prefixes);
        let mut entries = tree.entries(prefixes);
        let places: Vec<u32> = std::iter::once(Ok(first))
            .chain(further.take(tree.steps().len().saturating_sub(1)).map(index))
            .collect::<Result<_, _>>()?;
        let place = |step: Option<usize>| step.and_then(|at| places.get(at).copied()).unwrap_or(NO_NODE);
        for (step, at) in tree.steps().iter().zip(&places) {
            let entries = entries.remove(&step.length).unwrap_or_default();
            let hashed = if family == Family::Ipv4 {
                Hashed::append::<Bucket4>(&mut self.nodes, &entries)?
            } else {
                Hashed::append::<Bucket6>(&mut self.nodes, &entries)?
            };
            let mask = Address::mask(step.length);
            if let Some(node) = self.nodes.get_mut(*at as usize) {
                *node = Step {
                    mask_hi: mask.hi,
                    mask_lo: mask.lo,
                    seed: hashed.seed,
                    first_bucket: hashed.first,
                    buckets: hashed.count,
                    shorter: place(step.shorter),
                    longer: place(step.longer),
                    usual: usual(&entries),
                    usual_again: usual(&entries),
                    ..Step::default()
                }
                .into();
            }
        }
        Ok(())
    }
}

impl Nodes for Table {
    fn node(&self, index: u32) -> Option<&Node> {
        self.nodes.node(index)
    }

    fn step(&self, index: u32) -> Option<&Node> {
        self.nodes.step(index)
    }

    fn said_at_run_time(&self, list: u32, source: Source) -> Value {
        self.run_time.said_of(list, source)
    }
}

/// The value of more than half of the entries; any if there is no such value (Boyer and Moore's majority vote).
fn usual(entries: &[Entry]) -> Value {
    let mut usual = (Value::PASS, 0_usize);
    for (_, value) in entries {
        usual = match usual {
            (_, 0) => (*value, 1),
            (same, count) if same == *value => (same, count + 1),
            (other, count) => (other, count - 1),
        };
    }
    usual.0
}

/// The index of the node at `place`.
fn index(place: usize) -> Result<u32, TableError> {
    u32::try_from(place).map_err(|_error| TableError::Nodes { nodes: place })
}

/// A table too large for its indexes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TableError {
    /// Of gates.
    #[error(
        "{count} source policies, one for each service and family that has its own, are more than the steering table holds; \
         have services share that of [policy]"
    )]
    Gates {
        /// The number that there would be.
        count: usize,
    },
    /// Of nodes.
    #[error("a steering table of {nodes} nodes is too large; bind fewer prefixes")]
    Nodes {
        /// The number that there would be.
        nodes: usize,
    },
}

fn distinct_lengths<'a>(bindings: impl Iterator<Item = &'a PlannedBinding>) -> usize {
    let mut lengths = [false; 129];
    for planned in bindings {
        if let Some(length) = lengths.get_mut(usize::from(planned.binding.prefix.length())) {
            *length = true;
        }
    }
    lengths.iter().filter(|occurs| **occurs).count()
}

fn of_domain(bindings: &[PlannedBinding], domain: Domain) -> impl Iterator<Item = &PlannedBinding> {
    bindings
        .iter()
        .filter(move |planned| domain_of(planned.binding.protocol, planned.binding.family()) == domain)
}

#[cfg(test)]
mod tests;

//! What each prefix says of every port once shorter prefixes are accounted for.

use std::cmp::Reverse;

use spectrum_common::{Address, Value};

use super::ports::{PortMapId, PortMaps};
use crate::model::DestinationId;
use crate::plan::PlannedBinding;

/// A prefix with bindings.
#[derive(Clone, Copy, Debug)]
pub(in crate::plan) struct BoundPrefix {
    /// Its lowest address.
    pub(in crate::plan) address: Address,
    /// Its length.
    pub(in crate::plan) length: u8,
    /// Its value for every port, shorter prefixes included.
    pub(in crate::plan) value: Value,
}

impl BoundPrefix {
    /// True if `address` lies within.
    pub(in crate::plan) fn contains(&self, address: Address) -> bool {
        address.masked(self.length) == self.address
    }
}

/// The prefixes that bindings of one domain have, whose destinations have the values of `value`, each once, in the order of their addresses; of two that begin at one
/// address the shorter comes first, so every prefix follows those that contain it.
pub(in crate::plan) fn resolve<'a>(
    bindings: impl Iterator<Item = &'a PlannedBinding>,
    maps: &mut PortMaps,
    value: impl Fn(DestinationId) -> Value,
) -> Vec<BoundPrefix> {
    let mut bindings: Vec<(Address, u8, &PlannedBinding)> = bindings
        .map(|planned| (planned.binding.prefix.address().into(), planned.binding.prefix.length(), planned))
        .collect();
    bindings.sort_unstable_by_key(|(address, length, planned)| {
        // Wider ranges first: narrower ones are laid over them.
        (*address, *length, Reverse(planned.binding.ports.width()))
    });
    let mut resolved = Vec::with_capacity(bindings.len());
    let mut containing: Vec<(BoundPrefix, PortMapId)> = Vec::new();
    for run in bindings
        .chunk_by(|(address, length, _), (next, next_length, _)| address == next && length == next_length)
    {
        let Some((address, length, _)) = run.first() else { continue };
        while containing.last().is_some_and(|(outer, _)| !outer.contains(*address)) {
            containing.pop();
        }
        let inherited = containing.last().map_or(PortMapId::NONE, |(_, map)| *map);
        let map = maps.overlaid(
            inherited,
            run.iter().map(|(_, _, planned)| (planned.binding.ports, value(planned.destination))),
        );
        let prefix = BoundPrefix { address: *address, length: *length, value: maps.value(map) };
        containing.push((prefix, map));
        resolved.push(prefix);
    }
    resolved
}

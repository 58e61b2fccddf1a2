//! What prefixes say of every port: maps from intervals of ports to destinations, equal ones stored once.

use std::collections::HashMap;

use spectrum_common::{Node, Ports, Value};

use crate::model::PortRange;

/// A port map: intervals that begin at ascending ports, the first at 0, each with a value unlike the one before. Port 0
/// is never asked for; it belongs to whatever port 1 belongs to, so that "all ports" is one interval.
type Intervals = Vec<(u16, Value)>;

/// Refers to a port map in [`PortMaps`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct PortMapId(usize);

impl PortMapId {
    /// The map in which no port is bound.
    pub(super) const NONE: Self = Self(0);
}

/// The distinct port maps of a table, and the nodes that the kernel reads them from.
#[derive(Debug)]
pub(in crate::plan) struct PortMaps {
    /// Each map, and the value that leads to it.
    maps: Vec<(Intervals, Value)>,
    known: HashMap<Intervals, PortMapId>,
    first_node: usize,
    nodes: Vec<Node>,
}

impl PortMaps {
    /// No maps but [`PortMapId::NONE`]; their nodes will stand in the table from `first_node` on.
    pub(in crate::plan) fn from_node(first_node: usize) -> Self {
        let none = vec![(0, Value::PASS)];
        Self {
            maps: vec![(none.clone(), Value::PASS)],
            known: HashMap::from([(none, PortMapId::NONE)]),
            first_node,
            nodes: Vec::new(),
        }
    }

    /// The map that says what `under` says, but for the ports of `ranges`; of those the later ones cover the earlier.
    pub(super) fn overlaid(
        &mut self,
        under: PortMapId,
        ranges: impl Iterator<Item = (PortRange, Value)>,
    ) -> PortMapId {
        let mut intervals =
            self.maps.get(under.0).map(|(intervals, _)| intervals.clone()).unwrap_or_default();
        for (range, value) in ranges {
            cover(&mut intervals, range, value);
        }
        intervals.dedup_by_key(|(_, value)| *value);
        if let Some(known) = self.known.get(&intervals) {
            return *known;
        }
        let id = PortMapId(self.maps.len());
        let value = self.stored(intervals.clone());
        self.maps.push((intervals.clone(), value));
        self.known.insert(intervals, id);
        id
    }

    /// The value of a prefix with this map.
    pub(super) fn value(&self, map: PortMapId) -> Value {
        self.maps.get(map.0).map_or(Value::PASS, |(_, value)| *value)
    }

    /// Every map, with the value that stands for it: no two have the same.
    pub(in crate::plan) fn iter(&self) -> impl Iterator<Item = (Value, &[(u16, Value)])> {
        self.maps.iter().map(|(intervals, value)| (*value, intervals.as_slice()))
    }

    /// The nodes of all maps.
    pub(super) fn into_nodes(self) -> Vec<Node> {
        self.nodes
    }

    /// Stores intervals as a tree of nodes, the leaves first, and returns what leads to its root.
    fn stored(&mut self, mut level: Intervals) -> Value {
        while level.len() > 1 {
            level = level
                .chunks(Ports::INTERVALS)
                .map(|intervals| {
                    let first = intervals.first().map_or(0, |(first, _)| *first);
                    (first, self.push(intervals))
                })
                .collect();
        }
        level.first().map_or(Value::PASS, |(_, value)| *value)
    }

    fn push(&mut self, intervals: &[(u16, Value)]) -> Value {
        let last = intervals.last().map_or(Value::PASS, |(_, value)| *value);
        let mut node = Ports {
            firsts: [u16::MAX; Ports::INTERVALS],
            values: [last; Ports::INTERVALS],
            ..Ports::default()
        };
        for ((first, value), (at_first, at_value)) in
            intervals.iter().zip(node.firsts.iter_mut().zip(&mut node.values))
        {
            *at_first = *first;
            *at_value = *value;
        }
        // Table::compile refuses tables whose indexes do not fit.
        let index = u32::try_from(self.first_node + self.nodes.len()).unwrap_or(u32::MAX >> 1);
        self.nodes.push(node.into());
        Value::ports(index)
    }
}

/// Gives the ports of `range` the value `value`. Neighbours may be equal afterwards.
fn cover(intervals: &mut Intervals, range: PortRange, value: Value) {
    let first = if range.first() == 1 { 0 } else { range.first() };
    let begin = intervals.partition_point(|(at, _)| *at < first);
    let end = intervals.partition_point(|(at, _)| *at <= range.last());
    // The interval in which the range ends goes on behind it, unless it ends there as well.
    let after = range.last().checked_add(1).and_then(|next| {
        let continues = intervals.get(end).is_none_or(|(at, _)| *at > next);
        let (_, beneath) = intervals.get(end.checked_sub(1)?)?;
        continues.then_some((next, *beneath))
    });
    intervals.splice(begin..end, std::iter::once((first, value)).chain(after));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intervals(ranges: &[(&str, u32)]) -> Vec<(u16, Option<u32>)> {
        let mut maps = PortMaps::from_node(4);
        let id = maps.overlaid(
            PortMapId::NONE,
            ranges.iter().map(|(range, id)| (range.parse().unwrap(), Value::destination(*id))),
        );
        maps.maps[id.0].0.iter().map(|(first, value)| (*first, value.as_destination())).collect()
    }

    #[test]
    fn later_ranges_cover_earlier_ones() {
        assert_eq!(intervals(&[("1-65535", 7)]), [(0, Some(7))]);
        assert_eq!(intervals(&[("80", 7)]), [(0, None), (80, Some(7)), (81, None)]);
        assert_eq!(intervals(&[("65535", 7)]), [(0, None), (65535, Some(7))]);
        assert_eq!(
            intervals(&[("1-100", 1), ("50-60", 2), ("50", 3)]),
            [(0, Some(1)), (50, Some(3)), (51, Some(2)), (61, Some(1)), (101, None)]
        );
        assert_eq!(intervals(&[("1-100", 1), ("101-200", 1)]), [(0, Some(1)), (201, None)]);
    }

    #[test]
    fn equal_maps_are_stored_once() {
        let mut maps = PortMaps::from_node(4);
        let ranges = || [("80".parse().unwrap(), Value::destination(1))].into_iter();
        assert_eq!(maps.overlaid(PortMapId::NONE, ranges()), maps.overlaid(PortMapId::NONE, ranges()));
        assert_eq!(maps.into_nodes().len(), 1);
    }
}

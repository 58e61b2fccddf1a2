//! The sets of bindings that are measured: how many, how spread, with how many port ranges. The same in every run.
//! Measures nothing.
#![allow(dead_code, reason = "each benchmark uses its own part")]

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use spectrum_steering::model::{Binding, DestinationId, Family, PortRange, Prefix, Protocol};
use spectrum_steering::plan::PlannedBinding;

/// Prefixes that somebody served for real, as a JSON array.
const EDGE: &str = include_str!("../data/prefixes.json");

/// A set of host bindings.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// The family whose addresses are dialled.
    pub(crate) family: Family,
    /// The protocol that is bound.
    pub(crate) protocol: Protocol,
    shape: Shape,
    count: usize,
    ranges: &'static [&'static str],
}

/// The lie of the addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Shape {
    /// Consecutive.
    Dense,
    /// Each address of [`EDGE`] by itself.
    Edge,
    /// Anywhere.
    Random,
}

impl Case {
    /// `count` addresses with every port; of [`Shape::Edge`] as many as it has.
    pub(crate) fn of_hosts(family: Family, shape: Shape, count: usize) -> Self {
        Self { family, protocol: Protocol::Tcp, shape, count, ranges: &["1-65535"] }
    }

    /// `count` addresses with four port ranges each.
    pub(crate) fn of_ranges(family: Family, shape: Shape, count: usize) -> Self {
        Self {
            family,
            protocol: Protocol::Tcp,
            shape,
            count,
            ranges: &["80", "443", "8000-8010", "27000-27100"],
        }
    }

    /// The same of `protocol`.
    pub(crate) fn over(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    /// `FAMILY/SHAPE/ADDRESSES`, and `xRANGES` if an address has several.
    pub(crate) fn name(&self, addresses: usize) -> String {
        let shape = format!("{:?}", self.shape).to_lowercase();
        let ranges = if self.ranges.len() == 1 { String::new() } else { format!("x{}", self.ranges.len()) };
        format!("{}/{shape}/{addresses}{ranges}", self.family)
    }

    /// The ports of each address.
    pub(crate) fn ports(&self) -> Vec<PortRange> {
        self.ranges.iter().map(|range| range.parse().unwrap()).collect()
    }

    /// Every address, each once; of [`Shape::Edge`] those of the other family as well.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let dense = |nth: usize| match self.family {
            Family::Ipv4 => Ipv4Addr::from_bits(10 << 24 | u32::try_from(nth).unwrap()).into(),
            Family::Ipv6 => Ipv6Addr::from_bits(0x2001_0db8 << 96 | nth as u128).into(),
        };
        match self.shape {
            Shape::Dense => (0..self.count).map(dense).collect(),
            Shape::Edge => edge(),
            Shape::Random => anywhere(self.family, self.count),
        }
    }

    /// The bindings of `addresses`, all of one destination.
    pub(crate) fn bindings(&self, addresses: &[IpAddr]) -> Vec<PlannedBinding> {
        let ports = self.ports();
        let binding = |address: IpAddr, ports: PortRange| PlannedBinding {
            binding: Binding { protocol: self.protocol, prefix: Prefix::host(address), ports },
            destination: DestinationId(0),
        };
        addresses.iter().flat_map(|address| ports.iter().map(|ports| binding(*address, *ports))).collect()
    }
}

fn anywhere(family: Family, count: usize) -> Vec<IpAddr> {
    let mut random = Random::new(1);
    let mut known = HashSet::with_capacity(count);
    let mut addresses = Vec::with_capacity(count);
    while addresses.len() < count {
        let address: IpAddr = match family {
            Family::Ipv4 => Ipv4Addr::from_bits(u32::try_from(random.number() >> 32).unwrap()).into(),
            Family::Ipv6 => {
                let bits = u128::from(random.number()) << 64 | u128::from(random.number());
                // 2000::/3, where addresses are given out.
                Ipv6Addr::from_bits(bits >> 3 | 1 << 125).into()
            }
        };
        if known.insert(address) {
            addresses.push(address);
        }
    }
    addresses
}

fn edge() -> Vec<IpAddr> {
    let prefixes: Vec<String> = serde_json::from_str(EDGE).unwrap();
    prefixes.iter().flat_map(|prefix| hosts(prefix.parse().unwrap())).collect()
}

/// Every address of `prefix`.
fn hosts(prefix: Prefix) -> Vec<IpAddr> {
    match prefix.address() {
        IpAddr::V4(first) => (0..1 << (32 - prefix.length()))
            .map(|host| Ipv4Addr::from_bits(first.to_bits() | host).into())
            .collect(),
        IpAddr::V6(first) => (0..1 << (128 - prefix.length()))
            .map(|host| Ipv6Addr::from_bits(first.to_bits() | host).into())
            .collect(),
    }
}

/// xorshift64: numbers that are the same in every run.
pub(crate) struct Random(u64);

impl Random {
    /// Another `seed`, other numbers.
    pub(crate) fn new(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ seed)
    }

    /// The next number.
    pub(crate) fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next number, below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.number() % limit as u64).unwrap()
    }
}

//! Where a connection goes that a service of this instance dials: the one place that says whether it comes back to a binding
//! of our own. Addresses only; where names lead is for who asks to know.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use super::{Plan, PlannedBinding};
use crate::model::{DestinationId, Family, Hop, PortRange, Prefix, Protocol, ServiceName, reached};

#[doc(hidden)]
impl Plan {
    /// The services that connections by `protocol` come to which this host dials at some of `ports` of `address`. Sorted, and
    /// sharing no port; empty where none of them can come back to us.
    ///
    /// `interfaces` are the addresses of the host's interfaces, which are local whatever is bound.
    #[must_use]
    pub fn hops(
        &self,
        protocol: Protocol,
        address: IpAddr,
        ports: Vec<PortRange>,
        interfaces: &BTreeSet<IpAddr>,
    ) -> Vec<Hop> {
        let address = reached(address);
        if !self.is_local(address) && !interfaces.contains(&address) {
            return Vec::new();
        }
        let mut bound = self.bound(protocol, address).peekable();
        if bound.peek().is_none() {
            return Vec::new();
        }
        let mut left = PortSet::of(ports);
        let mut hops = Vec::new();
        for planned in bound {
            let service =
                self.destination(planned.destination).map(|destination| destination.service.clone());
            let taken = left.take(planned.binding.ports);
            hops.extend(taken.into_iter().map(|ports| Hop { ports, service: service.clone() }));
        }
        if hops.is_empty() {
            return Vec::new();
        }
        hops.extend(left.ranges().map(|ports| Hop { ports, service: None }));
        hops.sort_unstable_by_key(|hop| hop.ports);
        hops
    }

    /// True if packets by `protocol` to `port` of `address` are for a service of ours.
    #[must_use]
    pub fn is_bound(&self, protocol: Protocol, address: IpAddr, port: u16) -> bool {
        self.bound(protocol, address).any(|planned| planned.binding.ports.contains(port))
    }

    /// True if the bindings themselves make `address` the host's own, or it is anyway.
    fn is_local(&self, address: IpAddr) -> bool {
        // Of a prefix of length 0 nothing becomes local. All others share no address.
        let before = self.routes.partition_point(|route| route.address() <= address);
        let nearest = self.routes.get(..before).and_then(|routes| routes.last());
        address.is_loopback() || nearest.is_some_and(|route| route.length() > 0 && route.contains(address))
    }

    /// The bindings whose prefixes contain `address`, in the order of precedence: what a scan would find, by a search for
    /// each length that occurs.
    fn bound(&self, protocol: Protocol, address: IpAddr) -> impl Iterator<Item = &PlannedBinding> {
        let family = Family::of(address);
        let domain = |planned: &PlannedBinding| (planned.binding.protocol, planned.binding.family());
        let first = self.bindings.partition_point(|planned| domain(planned) < (protocol, family));
        let mut rest = self.bindings.get(first..).unwrap_or_default();
        let end = rest.partition_point(|planned| domain(planned) == (protocol, family));
        rest = rest.get(..end).unwrap_or_default();
        std::iter::from_fn(move || {
            let length = rest.first()?.binding.prefix.length();
            let end = rest.partition_point(|planned| planned.binding.prefix.length() == length);
            let (of_length, shorter) = rest.split_at(end);
            rest = shorter;
            let prefix = Prefix::containing(address, length).ok()?;
            let network = |planned: &PlannedBinding| planned.binding.prefix.address();
            let first = of_length.partition_point(|planned| network(planned) < prefix.address());
            let end = of_length.partition_point(|planned| network(planned) <= prefix.address());
            of_length.get(first..end)
        })
        .flatten()
    }

    /// The ports that clients of `service` can have dialled by `protocol`; empty where it binds none.
    #[must_use]
    pub fn dialled_ports(&self, protocol: Protocol, service: &ServiceName) -> Vec<PortRange> {
        let own: HashSet<DestinationId> = self
            .destinations
            .iter()
            .filter(|(_, one)| one.protocol == protocol && one.service == *service)
            .map(|(id, _)| *id)
            .collect();
        let bindings = self.bindings.iter().filter(|planned| own.contains(&planned.destination));
        bindings.map(|planned| planned.binding.ports).collect()
    }
}

/// A set of ports: the last port of each run by its first.
struct PortSet(BTreeMap<u16, u16>);

impl PortSet {
    fn of(mut ranges: Vec<PortRange>) -> Self {
        ranges.sort_unstable();
        let mut runs: Vec<(u16, u16)> = Vec::new();
        for range in ranges {
            match runs.last_mut() {
                Some((_, last)) if range.first() <= *last => *last = range.last().max(*last),
                _ => runs.push((range.first(), range.last())),
            }
        }
        Self(runs.into_iter().collect())
    }

    /// Removes `ports`; which of them there were.
    fn take(&mut self, ports: PortRange) -> Vec<PortRange> {
        let mut taken = Vec::new();
        while let Some((first, last)) =
            self.0.range(..=ports.last()).next_back().map(|(first, last)| (*first, *last))
            && last >= ports.first()
        {
            self.0.remove(&first);
            if first < ports.first() {
                self.0.insert(first, ports.first() - 1);
            }
            if last > ports.last() {
                self.0.insert(ports.last() + 1, last);
            }
            taken.extend(range(first.max(ports.first()), last.min(ports.last())));
        }
        taken
    }

    fn ranges(&self) -> impl Iterator<Item = PortRange> {
        self.0.iter().filter_map(|(first, last)| range(*first, *last))
    }
}

fn range(first: u16, last: u16) -> Option<PortRange> {
    PortRange::new(first.try_into().ok()?, last.try_into().ok()?)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::model::Binding;
    use crate::plan::Bound;
    use crate::plan::tests::answering;

    fn plan() -> Plan {
        Plan::of(&[
            answering("a", &["tcp 192.0.2.0/24 80,443,1000-1010", "tcp 2001:db8::/64 80"]),
            answering("b", &["tcp 192.0.2.80 8080", "tcp 192.0.2.80 443", "udp 198.51.100.0/24 1-65535"]),
            answering("c", &["tcp 0.0.0.0/0 9000", "tcp ::/0 9000"]),
        ])
        .unwrap()
    }

    const INTERFACE: &str = "203.0.113.1";

    /// The services that connections of a come to at `place`: an address, with its ports where they are not those that are bound. A service
    /// for each run of ports.
    fn shown_hops(place: &str) -> String {
        let plan = plan();
        let (address, ports) = if let Ok(address) = place.parse::<IpAddr>() {
            (address, plan.dialled_ports(Protocol::Tcp, &"a".parse().unwrap()))
        } else {
            let (address, ports) = place.rsplit_once(':').unwrap();
            (address.trim_matches(['[', ']']).parse().unwrap(), vec![ports.parse().unwrap()])
        };
        let hops = plan.hops(Protocol::Tcp, address, ports, &BTreeSet::from([INTERFACE.parse().unwrap()]));
        let shown = hops.iter().map(|hop| {
            let service = hop.service.as_ref().map_or("elsewhere".to_owned(), ToString::to_string);
            format!("{} {service}", hop.ports)
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn ports_that_bindings_take_lead_to_their_services() {
        for (place, expected) in [
            ("192.0.2.7", "80 a, 443 a, 1000-1010 a"),
            ("192.0.2.80", "80 a, 443 b, 1000-1010 a"),
            ("192.0.2.80:8080", "8080 b"),
            ("192.0.2.80:8081", ""),
            ("192.0.2.7:1005-1015", "1005-1010 a, 1011-1015 elsewhere"),
            ("192.0.2.7:8990-9010", "8990-8999 elsewhere, 9000 c, 9001-9010 elsewhere"),
            ("192.0.2.7:443", "443 a"),
            ("192.0.2.7:22", ""),
            ("198.51.100.7", ""),
            ("2001:db8::1", "80 a, 443 elsewhere, 1000-1010 elsewhere"),
            ("198.18.0.1", ""),
        ] {
            assert_eq!(shown_hops(place), expected, "{place}");
        }
    }

    #[test]
    fn a_prefix_of_length_0_brings_back_only_what_is_local_anyway() {
        for (place, expected) in [
            ("198.51.100.7:9000", "9000 c"),
            ("198.18.0.1:9000", ""),
            ("127.0.0.1:9000", "9000 c"),
            ("203.0.113.1:9000", "9000 c"),
            ("203.0.113.2:9000", ""),
            ("[::1]:9000", "9000 c"),
            ("[2001:db8:1::1]:9000", ""),
        ] {
            assert_eq!(shown_hops(place), expected, "{place}");
        }
    }

    #[test]
    fn an_address_is_what_the_kernel_dials() {
        let to = |address: &str| {
            plan()
                .hops(
                    Protocol::Tcp,
                    address.parse().unwrap(),
                    vec![range(9000, 9000).unwrap()],
                    &BTreeSet::new(),
                )
                .len()
        };
        for address in ["::ffff:192.0.2.7", "0.0.0.0", "::", "::ffff:0.0.0.0"] {
            assert_eq!(to(address), 1, "{address}");
        }
        assert_eq!(to("::ffff:198.18.0.1"), 0);
    }

    proptest! {
        /// The search finds what the scan finds, and ports go where the scan says.
        #[test]
        fn it_is_what_the_winner_is(
            texts in proptest::collection::vec((0..3u8, 20..33u8, 1..9u16, 0..4u16), 0..20),
            address in 0..16u8,
        ) {
            let mut bindings: Vec<Binding> = Vec::new();
            for (host, length, first, width) in texts {
                let prefix = Prefix::containing(Ipv4Addr::new(192, 0, 2, host * 5).into(), length).unwrap();
                let ports = range(first, first + width).unwrap();
                let binding = Binding { protocol: Protocol::Tcp, prefix, ports };
                if bindings.iter().all(|other| !other.ties(&binding)) {
                    bindings.push(binding);
                }
            }
            let half = bindings.split_off(bindings.len() / 2);
            let services = [("a", bindings), ("b", half)].map(|(name, bindings)| Bound { name: name.parse().unwrap(), bindings, policy: None });
            let plan = Plan::of(&services).unwrap();
            let address = IpAddr::from(Ipv4Addr::new(192, 0, 2, address));
            let scanned: Vec<&PlannedBinding> =
                plan.bindings.iter().filter(|planned| planned.binding.prefix.contains(address)).collect();
            prop_assert_eq!(plan.bound(Protocol::Tcp, address).collect::<Vec<_>>(), scanned);

            let hops = plan.hops(Protocol::Tcp, address, vec![range(1, 15).unwrap()], &BTreeSet::new());
            for port in 1..=15 {
                let found: Vec<_> = hops.iter().filter(|hop| hop.ports.contains(port)).collect();
                prop_assert!(found.len() == 1 || hops.is_empty(), "{:?}", hops);
                let service = found.first().and_then(|hop| hop.service.clone());
                let winner = plan.winner(Protocol::Tcp, address, port);
                let winner = winner.and_then(|winner| plan.destination(winner.destination));
                prop_assert_eq!(service, winner.map(|destination| destination.service.clone()));
            }
        }
    }
}

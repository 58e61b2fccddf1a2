//! Exempting what is bound from rules that give connections another destination, as text for nft. Finds none of them.
//!
//! ```text
//! table inet spectrum-nat-4711 {
//!     chain prerouting {
//!         type nat hook prerouting priority -199
//!         ip daddr 192.0.2.0/24 tcp dport 8080 dnat ip to ip daddr
//!     }
//!     chain output { type nat hook output priority -199; … }
//! }
//! ```
//!
//! Once a rule has given a connection its destination, here the one that it has, the kernel asks no later chain of NAT, of
//! iptables or nftables (`nf_nat_inet_fn`). To accept would not do: it ends the one chain. Nor is it `notrack`, with which
//! rules that accept by the state of a connection, as stateful firewalls have, would not know these connections any more.

use std::collections::{BTreeMap, BTreeSet};

use super::firewall::Chain;
use crate::model::{Binding, Family, PortRange, Prefix, Protocol};

/// The earliest that the kernel allows, so that whatever takes connections comes later.
const PRIORITY: i32 = -199;

/// More port ranges than this are not told apart: then each range is exempted at each of the addresses.
const MOST_RANGES: usize = 256;

/// Prefixes, none of which contains another, by the first and last port that is bound there.
type ByPorts = BTreeMap<(u16, u16), BTreeSet<Prefix>>;

/// The bindings that are exempted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Exemption {
    bound: BTreeMap<(Family, Protocol), ByPorts>,
}

impl Exemption {
    /// The exemption of `bindings`.
    pub fn of<'a>(bindings: impl IntoIterator<Item = &'a Binding>) -> Self {
        let mut bound: BTreeMap<_, ByPorts> = BTreeMap::new();
        for binding in bindings {
            let by_ports = bound.entry((binding.family(), binding.protocol)).or_default();
            let ports = (binding.ports.first(), binding.ports.last());
            by_ports.entry(ports).or_default().insert(binding.prefix);
        }
        bound.values_mut().flat_map(BTreeMap::values_mut).for_each(keep_outermost);
        Self { bound }
    }

    /// Exempts what `other` does as well.
    pub fn add(&mut self, other: Self) {
        for (of, by_ports) in other.bound {
            let own = self.bound.entry(of).or_default();
            for (ports, prefixes) in by_ports {
                own.entry(ports).or_default().extend(prefixes);
            }
        }
        self.bound.values_mut().flat_map(BTreeMap::values_mut).for_each(keep_outermost);
    }

    /// True if nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bound.is_empty()
    }

    /// The transaction that makes the table of `chain`'s instance, in place of any of the same name.
    #[must_use]
    pub fn creation(&self, chain: &Chain) -> String {
        let table = format!("table inet {}", chain.exempting_table());
        format!("{table}\ndelete {table}\n{table} {}\n", self.chains())
    }

    /// The command by which an administrator does the same.
    #[must_use]
    pub fn command(&self) -> String {
        format!("nft 'table inet exempt {}'", self.chains())
    }

    fn chains(&self) -> String {
        let rules = self.rules().join("; ");
        let chain =
            |hook: &str| format!("chain {hook} {{ type nat hook {hook} priority {PRIORITY}; {rules}; }}");
        format!("{{ {}; {}; }}", chain("prerouting"), chain("output"))
    }

    fn rules(&self) -> Vec<String> {
        let mut rules = Vec::new();
        for ((family, protocol), by_ports) in &self.bound {
            let ip = keyword(*family);
            if by_ports.len() > MOST_RANGES {
                let prefixes: BTreeSet<Prefix> = by_ports.values().flatten().copied().collect();
                let merged = Self::of(
                    prefixes
                        .iter()
                        .map(|prefix| Binding { protocol: *protocol, prefix: *prefix, ports: PortRange::ALL })
                        .collect::<Vec<_>>()
                        .iter(),
                );
                rules.extend(merged.rules());
                continue;
            }
            for ((first, last), prefixes) in by_ports {
                let ports = ports(*protocol, *first, *last);
                let listed: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
                let addresses = match &listed[..] {
                    // What is bound there is the host's own: other addresses are left to whoever has them.
                    _ if prefixes.iter().any(|prefix| prefix.length() == 0) => {
                        format!("meta nfproto {family} fib daddr type local")
                    }
                    [only] => format!("{ip} daddr {only}"),
                    _ => format!("{ip} daddr {{ {} }}", listed.join(", ")),
                };
                rules.push(format!("{addresses} {ports} dnat {ip} to {ip} daddr"));
            }
        }
        rules
    }
}

fn keep_outermost(prefixes: &mut BTreeSet<Prefix>) {
    let mut last: Option<Prefix> = None;
    // A prefix sorts before those it contains, and they follow it without a gap.
    prefixes.retain(|prefix| {
        let is_within = last.is_some_and(|last| last.overlaps(prefix));
        if !is_within {
            last = Some(*prefix);
        }
        !is_within
    });
}

/// The condition by which nft knows packets to `binding`.
pub(in crate::plan) fn condition(binding: &Binding) -> String {
    let Binding { protocol, prefix, ports: range } = binding;
    let ports = ports(*protocol, range.first(), range.last());
    format!("{} daddr {prefix} {ports}", keyword(binding.family()))
}

fn ports(protocol: Protocol, first: u16, last: u16) -> String {
    if (first, last) == (PortRange::ALL.first(), PortRange::ALL.last()) {
        format!("meta l4proto {protocol}")
    } else if first == last {
        format!("{protocol} dport {first}")
    } else {
        format!("{protocol} dport {first}-{last}")
    }
}

fn keyword(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ip6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exemption(bindings: &[&str]) -> Exemption {
        let bindings: Vec<Binding> =
            crate::plan::tests::plan(bindings).bindings.iter().map(|planned| planned.binding).collect();
        Exemption::of(&bindings)
    }

    #[test]
    fn what_is_exempted_keeps_the_destination_that_it_has() {
        let exemption = exemption(&[
            "tcp 192.0.2.0/24 8080",
            "tcp 192.0.2.7 8080",
            "tcp 198.51.100.0/24 8080",
            "udp 192.0.2.0/24 53-60",
            "tcp 2001:db8::/64 1-65535",
            "tcp 0.0.0.0/0 22",
        ]);
        assert_eq!(
            exemption.rules(),
            [
                "meta nfproto ipv4 fib daddr type local tcp dport 22 dnat ip to ip daddr",
                "ip daddr { 192.0.2.0/24, 198.51.100.0/24 } tcp dport 8080 dnat ip to ip daddr",
                "ip daddr 192.0.2.0/24 udp dport 53-60 dnat ip to ip daddr",
                "ip6 daddr 2001:db8::/64 meta l4proto tcp dnat ip6 to ip6 daddr",
            ]
        );
        let text = exemption.creation(&Chain::of(7));
        assert!(text.starts_with("table inet spectrum-nat-7\ndelete table inet spectrum-nat-7\n"), "{text}");
        for hook in ["prerouting", "output"] {
            assert!(text.contains(&format!("type nat hook {hook} priority -199; meta nfproto")), "{text}");
        }
        assert!(exemption.command().starts_with("nft 'table inet exempt { chain prerouting { type nat"));
    }

    #[test]
    fn with_too_many_port_ranges_all_ports_of_their_prefixes_are_exempted() {
        let bindings: Vec<String> = (1..=300).map(|port| format!("tcp 192.0.2.0/24 {port}")).collect();
        let bindings: Vec<&str> = bindings.iter().map(String::as_str).collect();
        let rules = exemption(&bindings).rules();
        assert_eq!(rules, ["ip daddr 192.0.2.0/24 meta l4proto tcp dnat ip to ip daddr"]);
    }
}

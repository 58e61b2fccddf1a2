//! Which listeners of other programs bindings hide: they listen, and connections do not reach them. Finds no listener.

use std::net::{IpAddr, SocketAddr};

use super::{Plan, PlannedBinding};
use crate::model::{Binding, Family, Prefix, Protocol};

/// So many prefixes are named; of the others there is a number.
const NAMED: usize = 4;

/// A listener that a binding hides, whole or in part.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hidden<'a> {
    /// Which of the listeners that were given.
    pub index: usize,
    /// How much of it.
    pub extent: Extent<'a>,
}

/// How much of a listener is hidden.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Extent<'a> {
    /// It listens on every address, and does not hear those of these prefixes.
    Partly {
        /// The first few.
        prefixes: Vec<Prefix>,
        /// How many bindings hide it; more than one may be of one prefix.
        bindings: usize,
    },
    /// It hears nothing new.
    Wholly {
        /// The binding that wins.
        binding: &'a PlannedBinding,
    },
}

impl Plan {
    /// Those of `listeners` that bindings hide. One that listens on `::` is taken to listen on IPv4 too, unless a socket
    /// says otherwise nowhere that all may read it.
    #[must_use]
    pub fn hidden(&self, listeners: &[(Protocol, SocketAddr)]) -> Vec<Hidden<'_>> {
        listeners
            .iter()
            .enumerate()
            .filter_map(|(index, (protocol, address))| {
                let extent = if address.ip().is_unspecified() {
                    self.hidden_everywhere(*protocol, *address)?
                } else {
                    // A socket of IPv6 with an IPv4 address takes IPv4 packets.
                    let ip = address.ip().to_canonical();
                    Extent::Wholly { binding: self.winner(*protocol, ip, address.port())? }
                };
                Some(Hidden { index, extent })
            })
            .collect()
    }

    fn hidden_everywhere(&self, protocol: Protocol, address: SocketAddr) -> Option<Extent<'static>> {
        let hears =
            |family: Family| family == Family::of(address.ip()) || matches!(address.ip(), IpAddr::V6(_));
        let hides = |binding: &Binding| {
            binding.protocol == protocol && hears(binding.family()) && binding.ports.contains(address.port())
        };
        let mut prefixes: Vec<Prefix> = Vec::new();
        let mut bindings = 0;
        for planned in self.bindings.iter().filter(|planned| hides(&planned.binding)) {
            bindings += 1;
            // Bindings of one prefix follow each other.
            if prefixes.len() < NAMED && prefixes.last() != Some(&planned.binding.prefix) {
                prefixes.push(planned.binding.prefix);
            }
        }
        (bindings > 0).then_some(Extent::Partly { prefixes, bindings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    fn hidden(listener: &str) -> Option<String> {
        let plan = plan(&["tcp 192.0.2.0/24 1-1000", "tcp 192.0.2.7 22", "tcp 2001:db8::/64 22"]);
        let hidden = plan.hidden(&[(Protocol::Tcp, listener.parse().unwrap())]);
        Some(match &hidden.first()?.extent {
            Extent::Partly { prefixes, bindings } => {
                let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
                format!("{bindings} on {}", prefixes.join(" "))
            }
            Extent::Wholly { binding } => format!("by {}", binding.binding),
        })
    }

    #[test]
    fn a_listener_on_one_address_is_hidden_by_the_binding_that_wins_there() {
        assert_eq!(hidden("192.0.2.7:22").unwrap(), "by tcp 192.0.2.7/32 22");
        assert_eq!(hidden("192.0.2.8:22").unwrap(), "by tcp 192.0.2.0/24 1-1000");
        assert_eq!(hidden("[::ffff:192.0.2.8]:22").unwrap(), "by tcp 192.0.2.0/24 1-1000");
        assert_eq!(hidden("192.0.2.8:1001"), None);
        assert_eq!(hidden("127.0.0.1:22"), None);
    }

    #[test]
    fn a_listener_on_every_address_is_hidden_on_the_prefixes_that_bind_its_port() {
        assert_eq!(hidden("0.0.0.0:22").unwrap(), "2 on 192.0.2.7/32 192.0.2.0/24");
        assert_eq!(hidden("[::]:22").unwrap(), "3 on 192.0.2.7/32 192.0.2.0/24 2001:db8::/64");
        assert_eq!(hidden("0.0.0.0:2222"), None);
    }
}

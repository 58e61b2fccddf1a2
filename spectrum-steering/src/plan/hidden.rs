//! Which listeners that are not for steering bindings hide, those of other programs and our own for metrics: they listen, and
//! connections do not reach them. Finds no listener.

use std::net::{IpAddr, SocketAddr};

use super::{Plan, PlannedBinding};
use crate::model::{Binding, Family, Prefix, Protocol};

/// So many prefixes are named; of the others there is a number.
const NAMED: usize = 4;

/// A listener that a binding hides, whole or in part.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hidden<'a> {
    /// The number of the listener among those given.
    pub index: usize,
    /// The part of it that is hidden.
    pub extent: Extent<'a>,
}

/// The part of a listener that is hidden.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Extent<'a> {
    /// It listens on every address, and does not hear those of these prefixes.
    Partly {
        /// The first few.
        prefixes: Vec<Prefix>,
        /// The number of bindings that hide it; more than one may be of one prefix.
        bindings: usize,
    },
    /// It hears nothing new.
    Wholly {
        /// The binding that wins.
        binding: &'a PlannedBinding,
    },
}

#[doc(hidden)]
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

    /// The bindings that hide the listener at `address`, in words: to go behind "hidden" or "hidden in part".
    #[must_use]
    pub fn hiding(&self, address: SocketAddr, extent: &Extent<'_>) -> String {
        match extent {
            Extent::Wholly { binding } => {
                let service = self.destination(binding.destination).map(|destination| &destination.service);
                let service = service.map_or_else(String::new, |service| format!(" (service {service})"));
                format!("by {}{service}", binding.binding)
            }
            Extent::Partly { prefixes, bindings } => {
                let mut text =
                    format!("on {}", prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
                if *bindings > prefixes.len() {
                    text = format!("{text} and others, {bindings} bindings");
                }
                // Whether a socket on :: takes IPv4 as well is not in proc(5).
                if address.is_ipv6() && prefixes.iter().any(|prefix| prefix.family() == Family::Ipv4) {
                    text.push_str(" (those of IPv4 unless the socket is IPv6-only)");
                }
                text
            }
        }
    }

    /// The bindings that hide the whole address of metrics and health, in words.
    #[must_use]
    pub fn hiding_admin(&self, admin: SocketAddr) -> Option<String> {
        let hidden = self.hidden(&[(Protocol::Tcp, admin)]).pop()?;
        matches!(hidden.extent, Extent::Wholly { .. }).then(|| self.hiding(admin, &hidden.extent))
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

    #[test]
    fn metrics_are_hidden_where_nobody_reaches_them() {
        let plan = plan(&["tcp 127.0.0.0/8 1-65535", "udp ::1 9180", "tcp 192.0.2.0/24 9180"]);
        let hiding = |admin: &str| plan.hiding_admin(admin.parse().unwrap());
        let by = "by tcp 127.0.0.0/8 1-65535 (service s)";
        assert_eq!(hiding("127.0.0.1:9180").as_deref(), Some(by));
        assert_eq!(hiding("[::ffff:127.0.0.1]:9180").as_deref(), Some(by));
        assert_eq!(hiding("192.0.2.1:9181"), None);
        assert_eq!(hiding("[::1]:9180"), None, "UDP is another matter");
        assert_eq!(hiding("0.0.0.0:9180"), None, "it is reached by other addresses");
    }
}

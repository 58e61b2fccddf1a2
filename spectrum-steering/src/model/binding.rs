//! What is steered, and how two bindings compare.

use std::cmp::{Ordering, Reverse};
use std::fmt;
use std::net::IpAddr;

use super::{Family, PortRange, Prefix, Protocol};

/// Protocol + prefix + port range. Which service it leads to is said by the service that holds it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Binding {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The addresses.
    pub prefix: Prefix,
    /// The ports.
    pub ports: PortRange,
}

impl Binding {
    /// The address family.
    #[must_use]
    pub fn family(&self) -> Family {
        self.prefix.family()
    }

    /// True if a packet to this protocol, address and port is one of the binding's, other bindings aside.
    #[must_use]
    pub fn matches(&self, protocol: Protocol, address: IpAddr, port: u16) -> bool {
        self.protocol == protocol && self.prefix.contains(address) && self.ports.contains(port)
    }

    /// The order of precedence: of the bindings that match a packet, the first in this order wins. Protocols and
    /// families come one after the other; within them longer prefixes first, within one prefix narrower ranges.
    #[must_use]
    pub fn precedence(&self, other: &Self) -> Ordering {
        let key = |binding: &Self| {
            (
                binding.protocol,
                binding.family(),
                Reverse(binding.prefix.length()),
                binding.prefix.address(),
                binding.ports.width(),
                binding.ports.first(),
            )
        };
        key(self).cmp(&key(other))
    }

    /// True if neither of the two would win for a packet that both match: one prefix, and ranges that are equal or
    /// overlap without nesting. Such a pair is a configuration error.
    #[must_use]
    pub fn ties(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.prefix == other.prefix
            && self.ports.overlaps(&other.ports)
            && (self.ports == other.ports
                || !(self.ports.encloses(&other.ports) || other.ports.encloses(&self.ports)))
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.protocol, self.prefix, self.ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(prefix: &str, ports: &str) -> Binding {
        Binding { protocol: Protocol::Tcp, prefix: prefix.parse().unwrap(), ports: ports.parse().unwrap() }
    }

    #[test]
    fn longer_prefix_precedes_narrower_port_range() {
        assert_eq!(tcp("192.0.2.0/25", "1-65535").precedence(&tcp("192.0.2.0/24", "80")), Ordering::Less);
    }

    #[test]
    fn narrower_port_range_precedes_within_one_prefix() {
        assert_eq!(tcp("192.0.2.0/24", "80").precedence(&tcp("192.0.2.0/24", "1-100")), Ordering::Less);
    }

    #[test]
    fn only_ranges_that_do_not_nest_tie() {
        let a = tcp("192.0.2.0/24", "10-20");
        assert!(a.ties(&tcp("192.0.2.0/24", "10-20")));
        assert!(a.ties(&tcp("192.0.2.0/24", "15-25")));
        assert!(!a.ties(&tcp("192.0.2.0/24", "10-15")));
        assert!(!a.ties(&tcp("192.0.2.0/24", "21-30")));
        assert!(!a.ties(&tcp("192.0.2.0/25", "10-20")));
        assert!(!a.ties(&Binding { protocol: Protocol::Udp, ..a }));
    }
}

//! Why a packet goes where it goes: the binding that wins, what it hides, and what comes closest when none matches. Asks
//! neither the kernel nor the steering table: it is the scan that defines what they must say.

use std::fmt;
use std::net::SocketAddr;

use super::{Plan, PlannedBinding};
use crate::model::{PortRange, Prefix, Protocol};

/// The decision of the bindings on a packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Explained<'a> {
    /// A binding matches.
    Bound {
        /// The one that wins.
        winner: &'a PlannedBinding,
        /// Why.
        why: Precedence,
        /// The others that match, in the order of precedence.
        hides: Vec<&'a PlannedBinding>,
    },
    /// None does.
    Unbound {
        /// Why not.
        why: Miss,
        /// The binding that comes closest.
        nearest: Option<&'a PlannedBinding>,
    },
}

/// The reason for which a binding wins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Precedence {
    /// Others match too, with shorter prefixes.
    LongestPrefix,
    /// Others of the same prefix match too, and perhaps some with shorter prefixes.
    NarrowestRange {
        /// The prefix.
        within: Prefix,
        /// True if shorter prefixes have matching bindings.
        longest: bool,
    },
    /// No other matches.
    OnlyOne,
}

impl fmt::Display for Precedence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LongestPrefix => f.write_str("longest prefix that binds the port"),
            Self::NarrowestRange { within, longest: false } => write!(f, "narrowest range within {within}"),
            Self::NarrowestRange { within, longest: true } => {
                write!(f, "narrowest range within {within}, the longest prefix that binds the port")
            }
            Self::OnlyOne => f.write_str("only binding that matches"),
        }
    }
}

/// A reason for which no binding matches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Miss {
    /// No prefix of any binding contains the address.
    Address,
    /// The port is 0, which no binding can have.
    PortZero,
    /// Prefixes contain the address, and bind other ports of it.
    Ports {
        /// The longest of them.
        prefix: Prefix,
    },
    /// Prefixes contain the address, and bind only the other protocol.
    Protocol {
        /// The longest of them.
        prefix: Prefix,
        /// The other protocol.
        bound: Protocol,
    },
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("no prefix contains the address"),
            Self::PortZero => f.write_str("port 0 is in no range"),
            Self::Ports { prefix } => write!(f, "{prefix} contains the address and binds other ports only"),
            Self::Protocol { prefix, bound } => {
                write!(f, "{prefix} contains the address and binds {bound} only")
            }
        }
    }
}

#[doc(hidden)]
impl Plan {
    /// The decision of the bindings on a packet to `dialled`, and its reason.
    #[must_use]
    pub fn explain(&self, protocol: Protocol, dialled: SocketAddr) -> Explained<'_> {
        let (address, port) = (dialled.ip(), dialled.port());
        let mut matching =
            self.bindings.iter().filter(|planned| planned.binding.matches(protocol, address, port));
        let Some(winner) = matching.next() else { return self.miss(protocol, dialled) };
        let hides: Vec<&PlannedBinding> = matching.collect();
        let within = winner.binding.prefix;
        let of_same_prefix = hides.iter().any(|hidden| hidden.binding.prefix == within);
        let longest = hides.iter().any(|hidden| hidden.binding.prefix != within);
        let why = match (of_same_prefix, longest) {
            (false, false) => Precedence::OnlyOne,
            (false, true) => Precedence::LongestPrefix,
            (true, longest) => Precedence::NarrowestRange { within, longest },
        };
        Explained::Bound { winner, why, hides }
    }

    fn miss(&self, protocol: Protocol, dialled: SocketAddr) -> Explained<'_> {
        let (address, port) = (dialled.ip(), dialled.port());
        if port == 0 {
            return Explained::Unbound { why: Miss::PortZero, nearest: None };
        }
        // The first of equally near ones, which is the one with the longest prefix.
        let nearest = |same: bool| {
            self.bindings
                .iter()
                .filter(|planned| {
                    (planned.binding.protocol == protocol) == same && planned.binding.prefix.contains(address)
                })
                .min_by_key(|planned| distance(planned.binding.ports, port))
        };
        let longest = |same: bool| {
            self.bindings
                .iter()
                .filter(|planned| (planned.binding.protocol == protocol) == same)
                .map(|planned| planned.binding)
                .find(|binding| binding.prefix.contains(address))
        };
        let why = match (longest(true), longest(false)) {
            (Some(binding), _) => Miss::Ports { prefix: binding.prefix },
            (None, Some(other)) => Miss::Protocol { prefix: other.prefix, bound: other.protocol },
            (None, None) => Miss::Address,
        };
        let nearest = match why {
            Miss::Ports { .. } => nearest(true),
            Miss::Protocol { .. } => nearest(false),
            Miss::Address | Miss::PortZero => None,
        };
        Explained::Unbound { why, nearest }
    }
}

/// The distance of `port` from the range.
fn distance(ports: PortRange, port: u16) -> u16 {
    if port < ports.first() { ports.first() - port } else { port.saturating_sub(ports.last()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    /// The winner, why, and what it hides; or why not, and what is nearest.
    fn explain(bindings: &[&str], protocol: Protocol, dialled: &str) -> String {
        match plan(bindings).explain(protocol, dialled.parse().unwrap()) {
            Explained::Bound { winner, why, hides } => {
                let hides: Vec<String> = hides.iter().map(|hidden| hidden.binding.to_string()).collect();
                format!("{}: {why}; hides [{}]", winner.binding, hides.join(", "))
            }
            Explained::Unbound { why, nearest } => match nearest {
                Some(nearest) => format!("{why}; nearest {}", nearest.binding),
                None => why.to_string(),
            },
        }
    }

    const BINDINGS: &[&str] = &[
        "tcp 192.0.2.0/24 1-65535",
        "tcp 192.0.2.0/24 8000-9000",
        "tcp 192.0.2.7 22",
        "tcp 192.0.2.7 8443",
        "tcp 198.51.100.0/24 80",
        "tcp 198.51.100.0/24 1000-2000",
        "udp 203.0.113.0/24 53",
        "tcp ::/0 1-65535",
    ];

    #[test]
    fn the_winner_says_why_and_what_it_hides() {
        for (dialled, expected) in [
            (
                "192.0.2.7:8443",
                "tcp 192.0.2.7/32 8443: longest prefix that binds the port; \
                 hides [tcp 192.0.2.0/24 8000-9000, tcp 192.0.2.0/24 1-65535]",
            ),
            (
                "192.0.2.8:8443",
                "tcp 192.0.2.0/24 8000-9000: narrowest range within 192.0.2.0/24; \
                 hides [tcp 192.0.2.0/24 1-65535]",
            ),
            ("192.0.2.8:80", "tcp 192.0.2.0/24 1-65535: only binding that matches; hides []"),
            ("[2001:db8::1]:80", "tcp ::/0 1-65535: only binding that matches; hides []"),
        ] {
            assert_eq!(explain(BINDINGS, Protocol::Tcp, dialled), expected, "{dialled}");
        }
        assert_eq!(
            explain(
                &["tcp 192.0.2.0/24 1-65535", "tcp 192.0.2.0/25 1-100", "tcp 192.0.2.0/25 80"],
                Protocol::Tcp,
                "192.0.2.1:80"
            ),
            "tcp 192.0.2.0/25 80: narrowest range within 192.0.2.0/25, the longest prefix that binds the port; \
             hides [tcp 192.0.2.0/25 1-100, tcp 192.0.2.0/24 1-65535]"
        );
    }

    #[test]
    fn a_miss_says_what_comes_closest() {
        for (protocol, dialled, expected) in [
            (
                Protocol::Tcp,
                "198.51.100.1:900",
                "198.51.100.0/24 contains the address and binds other ports only; \
                 nearest tcp 198.51.100.0/24 1000-2000",
            ),
            (
                Protocol::Tcp,
                "203.0.113.1:53",
                "203.0.113.0/24 contains the address and binds udp only; nearest udp 203.0.113.0/24 53",
            ),
            (
                Protocol::Udp,
                "[2001:db8::1]:53",
                "::/0 contains the address and binds tcp only; nearest tcp ::/0 1-65535",
            ),
            (Protocol::Tcp, "10.0.0.1:80", "no prefix contains the address"),
            (Protocol::Tcp, "192.0.2.7:0", "port 0 is in no range"),
        ] {
            assert_eq!(explain(BINDINGS, protocol, dialled), expected, "{dialled}");
        }
    }
}

//! Which bindings have something to do with a protocol, a prefix and ports that somebody asks about. Parses nothing.

use super::{Plan, PlannedBinding};
use crate::model::{Binding, PortRange, Prefix, Protocol};

/// The protocol, prefix and ports that bindings must overlap; what is not given, all do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Overlap {
    /// This protocol.
    pub protocol: Option<Protocol>,
    /// An address of this prefix.
    pub prefix: Option<Prefix>,
    /// A port of one of these ranges; none given, any port.
    pub ports: Vec<PortRange>,
}

impl Overlap {
    /// True if `binding` shares a packet with it.
    #[must_use]
    pub fn is_with(&self, binding: &Binding) -> bool {
        self.protocol.is_none_or(|protocol| protocol == binding.protocol)
            && self.prefix.is_none_or(|prefix| prefix.overlaps(&binding.prefix))
            && (self.ports.is_empty() || self.ports.iter().any(|ports| ports.overlaps(&binding.ports)))
    }
}

#[doc(hidden)]
impl Plan {
    /// The bindings that overlap, in the order of precedence.
    pub fn overlapping(&self, overlap: &Overlap) -> impl Iterator<Item = &PlannedBinding> {
        self.bindings.iter().filter(|planned| overlap.is_with(&planned.binding))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parse_port_ranges;
    use crate::plan::tests::plan;

    fn overlapping(protocol: Option<Protocol>, prefix: &str, ports: &str) -> Vec<String> {
        let overlap = Overlap {
            protocol,
            prefix: prefix.parse().ok(),
            ports: parse_port_ranges(ports).unwrap_or_default(),
        };
        let plan = plan(&[
            "tcp 192.0.2.0/24 1-65535",
            "tcp 192.0.2.7 22",
            "udp 192.0.2.0/25 53",
            "tcp 2001:db8::/64 22,443",
        ]);
        plan.overlapping(&overlap).map(|planned| planned.binding.to_string()).collect()
    }

    #[test]
    fn what_is_not_given_excludes_nothing() {
        assert_eq!(
            overlapping(None, "", ""),
            [
                "tcp 192.0.2.7/32 22",
                "tcp 192.0.2.0/24 1-65535",
                "tcp 2001:db8::/64 22",
                "tcp 2001:db8::/64 443",
                "udp 192.0.2.0/25 53",
            ]
        );
    }

    #[test]
    fn prefixes_overlap_both_ways() {
        assert_eq!(
            overlapping(None, "192.0.2.7", ""),
            ["tcp 192.0.2.7/32 22", "tcp 192.0.2.0/24 1-65535", "udp 192.0.2.0/25 53"]
        );
        assert_eq!(
            overlapping(Some(Protocol::Tcp), "192.0.0.0/16", ""),
            ["tcp 192.0.2.7/32 22", "tcp 192.0.2.0/24 1-65535"]
        );
        assert_eq!(overlapping(None, "198.51.100.0/24", ""), [""; 0]);
    }

    #[test]
    fn one_of_several_ranges_is_enough() {
        assert_eq!(overlapping(None, "", "1-21,50-60"), ["tcp 192.0.2.0/24 1-65535", "udp 192.0.2.0/25 53"]);
    }
}

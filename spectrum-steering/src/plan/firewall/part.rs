//! The parts of a chain, by the names under which the firewall's own programs show them. Looks for none.

use std::fmt;

use super::{Chain, marking};
use crate::model::Family;

/// A part of what an instance has in the firewall.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize)]
pub struct ChainPart {
    /// Whose it is.
    pub chain: Chain,
    /// Its place.
    pub place: ChainPlace,
}

/// The place of a part of a chain.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize)]
pub enum ChainPlace {
    /// The table of nftables that exempts what is bound from NAT.
    Exemption,
    /// In the mangle table that this program shows: `ip6tables (legacy)`.
    Mangle(String),
    /// A table of nftables.
    Table(TableFamily),
}

/// The family of one of our tables of nftables.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize)]
pub enum TableFamily {
    /// Both: the mark on origins' answers.
    Inet,
    /// IPv4: what steers.
    Ip,
    /// IPv6: what steers.
    Ip6,
}

impl TableFamily {
    /// The family that nft calls so, if a table of ours can be of it.
    #[must_use]
    pub(crate) fn of_keyword(keyword: &str) -> Option<Self> {
        [Self::Inet, Self::Ip, Self::Ip6].into_iter().find(|family| family.keyword() == keyword)
    }

    /// Its name for nft.
    #[must_use]
    pub fn keyword(self) -> &'static str {
        match self {
            Self::Inet => marking::FAMILY,
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }
}

impl From<Family> for TableFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::Ipv4 => Self::Ip,
            Family::Ipv6 => Self::Ip6,
        }
    }
}

impl fmt::Display for ChainPart {
    /// `chain SPECTRUM-4711 of iptables (nft)`, `table inet spectrum-4711`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            ChainPlace::Exemption => {
                write!(f, "table {} {}", TableFamily::Inet.keyword(), self.chain.exempting_table())
            }
            ChainPlace::Mangle(program) => write!(f, "chain {} of {program}", self.chain),
            ChainPlace::Table(family) => write!(f, "table {} {}", family.keyword(), self.chain.table()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_called_as_the_firewall_shows_them() {
        let part = |place| ChainPart { chain: Chain::of(4711), place }.to_string();
        assert_eq!(
            part(ChainPlace::Mangle("ip6tables (legacy)".into())),
            "chain SPECTRUM-4711 of ip6tables (legacy)"
        );
        for family in ["inet", "ip", "ip6"] {
            let place = ChainPlace::Table(TableFamily::of_keyword(family).unwrap());
            assert_eq!(part(place), format!("table {family} spectrum-4711"));
        }
        assert_eq!(part(ChainPlace::Exemption), "table inet spectrum-nat-4711");
        assert_eq!(TableFamily::of_keyword("bridge"), None);
    }
}

//! What dead instances left in the kernel: of all that bears our marks, what no live instance claims. Does not remove
//! it.

use std::collections::{BTreeSet, HashSet};

use super::Instance;
use crate::model::Prefix;
use crate::plan::firewall::{Chain, ChainPart};
use crate::plan::reply_table::ReplyTable;

/// The leftovers of dead instances in a network namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Leftovers {
    /// Prefixes of local routes with our protocol number.
    pub routes: Vec<Prefix>,
    /// Parts of firewall chains of ours.
    pub chains: BTreeSet<ChainPart>,
    /// Routing tables of ours, with the rules that lead to them.
    pub tables: BTreeSet<ReplyTable>,
}

impl Leftovers {
    /// Picks what none of `live` claims from the `routes`, `chains` and `tables` that were found and bear our marks.
    #[must_use]
    pub fn among(
        routes: impl IntoIterator<Item = Prefix>,
        chains: impl IntoIterator<Item = ChainPart>,
        tables: impl IntoIterator<Item = ReplyTable>,
        live: &[Instance],
    ) -> Self {
        let claimed: HashSet<Prefix> =
            live.iter().flat_map(|instance| instance.prefixes.iter().copied()).collect();
        let used: HashSet<&Chain> = live.iter().map(|instance| &instance.chain).collect();
        let replied: HashSet<ReplyTable> =
            live.iter().map(|instance| ReplyTable::of(&instance.chain)).collect();
        Self {
            routes: routes.into_iter().filter(|prefix| !claimed.contains(prefix)).collect(),
            chains: chains.into_iter().filter(|part| !used.contains(&part.chain)).collect(),
            tables: tables.into_iter().filter(|table| !replied.contains(table)).collect(),
        }
    }

    /// Each in words.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let chains = self.chains.iter().map(|chain| format!("firewall {chain}"));
        let routes = self.routes.iter().map(|prefix| format!("local route {prefix}"));
        let tables = self.tables.iter().map(|table| format!("reply routes in table {table}"));
        chains.chain(routes).chain(tables).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::firewall::{ChainPlace, TableFamily};

    #[test]
    fn what_a_live_instance_claims_is_no_leftover() {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let part = |id: u32| ChainPart { chain: Chain::of(id), place: ChainPlace::Table(TableFamily::Ip) };
        let live = Instance {
            pid: 7,
            keeper: crate::registry::Keeper::Process,
            started: 0,
            mode: None,
            prefixes: vec![prefix("192.0.2.0/24")],
            chain: Chain::of(7),
        };
        let leftovers = Leftovers::among(
            [prefix("192.0.2.0/24"), prefix("192.0.2.0/25"), prefix("2001:db8::/64")],
            [part(7), part(8)],
            [7, 9].map(|id| ReplyTable::of(&Chain::of(id))),
            std::slice::from_ref(&live),
        );
        assert_eq!(leftovers.routes, [prefix("192.0.2.0/25"), prefix("2001:db8::/64")]);
        assert_eq!(leftovers.chains, BTreeSet::from([part(8)]));
        assert_eq!(leftovers.tables, BTreeSet::from([ReplyTable::of(&Chain::of(9))]));
        assert_eq!(leftovers.lines()[0], "firewall table ip spectrum-8");
        assert!(Leftovers::among([prefix("192.0.2.0/24")], [part(7)], [], &[live]).lines().is_empty());
    }
}

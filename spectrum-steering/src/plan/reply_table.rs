//! What brings back to this host what origins answer to clients' addresses, for services whose origins are dialled from
//! those: by which numbers it goes. Carries nothing out.

use super::firewall::Chain;

/// The mark of packets that belong to a connection of ours with an origin, in the bits of [`MARK_MASK`]. The same for all
/// instances, since all want it for the same: that the packet is delivered here.
pub(crate) const MARK: u32 = (b'S' as u32) << 24;

/// The bits of a packet's mark that [`MARK`] takes. The others stay whoever's they are.
pub(crate) const MARK_MASK: u32 = 0xff << 24;

/// An instance's routing table: its number, which nobody else uses.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ReplyTable(u32);

impl ReplyTable {
    /// The table of the instance that has `chain`: whoever knows the one knows the other, so the claim of a chain is one of
    /// the table as well.
    #[must_use]
    pub fn of(chain: &Chain) -> Self {
        let id = chain.as_str().split_once('-').map_or("", |(_, id)| id);
        // An id has as many bits as the mark leaves.
        Self(MARK | u32::from_str_radix(id, 16).unwrap_or_default() & !MARK_MASK)
    }

    /// The table with this number, if it is one of ours.
    #[must_use]
    pub fn numbered(number: u32) -> Option<Self> {
        (number & MARK_MASK == MARK).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

impl std::fmt::Display for ReplyTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_instance_has_a_table_of_its_own() {
        let tables: BTreeSet<ReplyTable> =
            ["00000a", "04711a", "04711b", "ffffff"].map(|id| ReplyTable::of(&Chain::of(id))).into();
        assert_eq!(tables.len(), 4);
        for table in tables {
            assert_eq!(ReplyTable::numbered(table.number()), Some(table));
        }
        assert_eq!(ReplyTable::numbered(254), None);
    }
}

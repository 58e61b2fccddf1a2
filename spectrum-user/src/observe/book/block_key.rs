//! What a block counts: its kind and a name, and how these stand in words. Counts nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::{KIND_AT, NAME_AT, NAME_LENGTH_AT};
use crate::model::{Protocol, ServiceName};

/// The subject of a block. Several blocks have the same one, if several workers or processes count it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(in crate::observe) struct BlockKey {
    pub(in crate::observe) kind: BlockKind,
    /// The service, or what is counted; what may stand in the one may in the other.
    pub(in crate::observe) name: ServiceName,
}

/// The kind of what a block counts.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(in crate::observe) enum BlockKind {
    /// The sessions of a service.
    Sessions(Protocol),
    /// A single number.
    Single,
}

impl BlockKind {
    fn word(self) -> u64 {
        match self {
            Self::Sessions(Protocol::Tcp) => 1,
            Self::Sessions(Protocol::Udp) => 2,
            Self::Single => 3,
        }
    }

    fn of(word: u64) -> Option<Self> {
        [Self::Sessions(Protocol::Tcp), Self::Sessions(Protocol::Udp), Self::Single]
            .into_iter()
            .find(|kind| kind.word() == word)
    }
}

impl BlockKey {
    /// Writes it to the head of `block`, which nobody reads yet.
    pub(super) fn write(&self, block: &[AtomicU64]) {
        let name = self.name.as_str().as_bytes();
        let put = |at: usize, word: u64| {
            if let Some(place) = block.get(at) {
                place.store(word, Ordering::Relaxed);
            }
        };
        put(KIND_AT, self.kind.word());
        put(NAME_LENGTH_AT, name.len() as u64);
        for (at, bytes) in NAME_AT.zip(name.chunks(8)) {
            let mut word = [0; 8];
            word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            put(at, u64::from_le_bytes(word));
        }
    }

    /// What stands in the head of `block`, if that makes sense.
    pub(super) fn read(block: &[AtomicU64]) -> Option<Self> {
        let word = |at: usize| Some(block.get(at)?.load(Ordering::Relaxed));
        let kind = BlockKind::of(word(KIND_AT)?)?;
        let length = usize::try_from(word(NAME_LENGTH_AT)?).ok()?;
        let mut bytes = Vec::with_capacity(NAME_AT.len() * 8);
        for at in NAME_AT {
            bytes.extend(word(at)?.to_le_bytes());
        }
        let name = std::str::from_utf8(bytes.get(..length)?).ok()?.parse().ok()?;
        Some(Self { kind, name })
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::CELLS_AT;
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written_and_nothing_else_is() {
        let block = [const { AtomicU64::new(0) }; CELLS_AT];
        assert_eq!(BlockKey::read(&block), None);
        for name in ["a", "12345678", "123456789", &"x".repeat(64)] {
            for kind in
                [BlockKind::Sessions(Protocol::Tcp), BlockKind::Sessions(Protocol::Udp), BlockKind::Single]
            {
                let key = BlockKey { kind, name: name.parse().unwrap() };
                key.write(&block);
                assert_eq!(BlockKey::read(&block), Some(key));
            }
        }
        for (at, word) in [
            (NAME_LENGTH_AT, 65),
            (NAME_LENGTH_AT, u64::MAX),
            (NAME_LENGTH_AT, 0),
            (KIND_AT, 9),
            (5, u64::MAX),
        ] {
            let before = block[at].swap(word, Ordering::Relaxed);
            assert_eq!(BlockKey::read(&block), None, "{word} at {at}");
            block[at].store(before, Ordering::Relaxed);
        }
    }
}

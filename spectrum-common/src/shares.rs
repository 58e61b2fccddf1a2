//! How the clients of a destination are divided among several registered sockets: by slots, each of which says whose its clients are.
//! Knows neither sockets nor maps.

#[cfg(feature = "std")]
mod division;
mod memory;

#[cfg(feature = "std")]
pub use division::{SocketShare, slots_of};
pub use memory::{MEMORY_WORDS, Remembered};

const SLOT_BITS: u32 = 12;

/// The slots of a destination. A client falls into one by the hash of its address and port, so that the first packet of a handshake, the
/// same once more, and the one that completes it by a SYN cookie fall into the same.
pub const SLOTS: u32 = 1 << SLOT_BITS;

/// The place of a registered socket in the sockmap, behind those of the destinations' own listeners.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(feature = "std", derive(serde::Deserialize, serde::Serialize))]
pub struct RegisteredId(pub u32);

/// The number of the slot of a client with this hash.
#[must_use]
#[inline(always)]
pub const fn slot_of(hash: u64) -> u32 {
    (hash >> (u64::BITS - SLOT_BITS)) as u32
}

/// The socket that a slot's clients go to, and the one that they go to where the first is gone.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(transparent)]
pub struct Slot(u64);

impl Slot {
    /// No map has so many places.
    const NOBODY: u32 = u32::MAX;

    /// The slot whose clients go to `first`, and where that is gone to `next`.
    #[must_use]
    pub const fn of(first: RegisteredId, next: Option<RegisteredId>) -> Self {
        let next = match next {
            Some(RegisteredId(next)) => next,
            None => Self::NOBODY,
        };
        Self((next as u64) << 32 | first.0 as u64)
    }

    /// The number that stands for it.
    #[must_use]
    #[inline(always)]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The slot that `bits` stand for.
    #[must_use]
    #[inline(always)]
    pub const fn of_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The socket of its clients.
    #[must_use]
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub const fn first(self) -> RegisteredId {
        RegisteredId(self.0 as u32)
    }

    /// The socket of its clients where the first is gone; a place that no map has where there is none.
    #[must_use]
    #[inline(always)]
    pub const fn next(self) -> RegisteredId {
        RegisteredId((self.0 >> 32) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_says_what_it_was_made_of() {
        let [one, other] = [4_096, 8_191].map(RegisteredId);
        let slot = Slot::of_bits(Slot::of(one, Some(other)).bits());
        assert_eq!((slot.first(), slot.next()), (one, other));
        assert_eq!(Slot::of(one, None).next(), RegisteredId(u32::MAX));
    }

    #[test]
    fn every_hash_has_a_slot() {
        assert_eq!((slot_of(0), slot_of(u64::MAX)), (0, SLOTS - 1));
    }
}

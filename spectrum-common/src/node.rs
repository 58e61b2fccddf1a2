//! The steering table's elements, all of one size: a cache line. The kernel keeps them by the page.
//!
//! What a table means is said by [`steer`](crate::steer); how one is made, by the loader's `plan`.

use crate::Address;

/// An element of the table: a [`Step`], a [`Bucket4`], a [`Bucket6`], [`Ports`], a [`SourceGate`] or [`Interfaces`]. Which one follows
/// from how it was reached.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(C, align(64))]
pub struct Node {
    words: [u64; 8],
}

/// Nodes in a [`Page`].
pub const PAGE_NODES: u32 = 4096;

/// An element of the kernel's map. The kernel program asks for the first page once and has, without another
/// call of the kernel's, every step and whatever else fits into it: all of a small table.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Page {
    /// Consecutive nodes.
    pub nodes: [Node; PAGE_NODES as usize],
}

impl Page {
    /// The number of pages that hold `nodes` nodes.
    #[must_use]
    pub const fn count_of(nodes: usize) -> usize {
        nodes.div_ceil(PAGE_NODES as usize)
    }

    /// The bytes of as many pages as hold `nodes` nodes.
    #[must_use]
    pub const fn bytes_of(nodes: usize) -> usize {
        Self::count_of(nodes) * size_of::<Self>()
    }
}

/// In place of a node's index: there is none. Index 0 is a domain's first step, to which nothing ever points.
pub const NO_NODE: u32 = 0;

/// One prefix length of a domain: a hash table of the prefixes of this length, and of the markers that say "there
/// are longer prefixes below this one". The steps of a domain form a binary search tree over its lengths.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(C, align(64))]
pub struct Step {
    /// As many leading ones as the length, upper half.
    pub mask_hi: u64,
    /// As many leading ones as the length, lower half.
    pub mask_lo: u64,
    /// Makes another hash function of the same one, for the rare set of prefixes that the first one spreads badly.
    pub seed: u64,
    /// The first of the hash table's consecutive buckets.
    pub first_bucket: u32,
    /// The number of buckets; 0 says that the domain has no bindings.
    pub buckets: u32,
    /// The step to go on with when the address is not found: shorter prefixes.
    pub shorter: u32,
    /// The step to go on with when it is found: longer prefixes.
    pub longer: u32,
    /// The value of most of its prefixes, if most have one.
    pub usual: Value,
    /// The same once more, for a CPU that cannot wait for the bucket: see [`steer`](crate::steer).
    pub usual_again: Value,
    /// Of the first of all, where the table has gates: where the kernel finds it while it is used, whatever the current one is by
    /// then. Whoever publishes it chooses; until then any number but 0.
    pub slot: u32,
    /// Of the first of all: 1 if a gate has a rate.
    pub has_rates: u32,
    /// Zero.
    pub reserved: [u32; 2],
}

/// Some of the IPv6 prefixes of one length: those whose hash leads here, and others for which there was no room where
/// theirs leads to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(C, align(64))]
pub struct Bucket6 {
    /// The masked addresses.
    pub keys: [Address; Self::SLOTS],
    /// The value of each key; slots are filled from the first on, the others are zero and [`EMPTY`].
    pub values: [Value; Self::SLOTS],
    /// The bucket to go on with where a prefix whose hash leads here is not among these, or [`NO_NODE`].
    pub next: u32,
}

impl Bucket6 {
    /// Keys in one bucket.
    pub const SLOTS: usize = 3;

    /// As [`Bucket4::value_of`].
    #[must_use]
    #[inline(always)]
    pub fn value_of(&self, key: Address) -> Value {
        let slots = self.keys.iter().zip(&self.values);
        slots.fold(EMPTY, |found, (slot, value)| {
            let difference = slot.hi ^ key.hi | slot.lo ^ key.lo;
            found.or(value.if_zero(difference >> 1 | difference & 1))
        })
    }
}

impl Default for Bucket6 {
    fn default() -> Self {
        Self { keys: [Address { hi: 0, lo: 0 }; Self::SLOTS], values: [EMPTY; Self::SLOTS], next: NO_NODE }
    }
}

/// As [`Bucket6`], of IPv4 prefixes: shorter keys, so more of them in a cache line.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(C, align(64))]
pub struct Bucket4 {
    /// The masked addresses as numbers: the upper halves of [`Address::hi`].
    pub keys: [u32; Self::SLOTS],
    /// The value of each key; slots are filled from the first on, the others are zero and [`EMPTY`].
    pub values: [Value; Self::SLOTS],
    /// The bucket to go on with where a prefix whose hash leads here is not among these, or [`NO_NODE`].
    pub next: u32,
    /// Zero.
    pub reserved: u32,
}

impl Bucket4 {
    /// Keys in one bucket.
    pub const SLOTS: usize = 7;

    /// The value of the masked address `key`, or [`EMPTY`].
    ///
    /// All slots are looked at, and none is jumped over: which one has the key no CPU can predict, and a wrong guess
    /// costs more than all of them.
    #[must_use]
    #[inline(always)]
    pub fn value_of(&self, key: Address) -> Value {
        let key = key.hi >> 32;
        let slots = self.keys.iter().zip(&self.values);
        slots.fold(EMPTY, |found, (slot, value)| found.or(value.if_zero(u64::from(*slot) ^ key)))
    }
}

impl Default for Bucket4 {
    fn default() -> Self {
        Self { keys: [0; Self::SLOTS], values: [EMPTY; Self::SLOTS], next: NO_NODE, reserved: 0 }
    }
}

/// Intervals of ports: interval `i` begins at `firsts[i]` and ends before `firsts[i + 1]`. Unused ones at the end
/// repeat the last interval's value and begin at 65535, so that they change nothing.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(C, align(64))]
pub struct Ports {
    /// The first port of each interval, ascending; `firsts[0]` is the first port this node is asked for.
    pub firsts: [u16; Self::INTERVALS],
    /// Zero.
    pub reserved: u32,
    /// The value of each interval; another node where one is not enough.
    pub values: [Value; Self::INTERVALS],
}

impl Ports {
    /// Intervals in one node.
    pub const INTERVALS: usize = 10;
}

/// The value of a prefix or of an interval of ports in a table.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(transparent)]
pub struct Value(u32);

/// What packets to some destinations pass before they are given to a listener: the interfaces by which they may come, the lists in which
/// their sources are looked for, how often these may come, and what is done with those that are turned away.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(C, align(64))]
pub struct SourceGate {
    /// The part of a source that is counted, upper half.
    pub mask_hi: u64,
    /// The part of a source that is counted, lower half.
    pub mask_lo: u64,
    /// The first steps of the lists, of sources of one family: of the service's own and of the one that all services share;
    /// [`NO_NODE`] for one that there is not.
    pub lists: [u32; 2],
    /// [`SourceGate::REFUSE`] or [`SourceGate::SILENCE`].
    pub on_deny: u32,
    /// The [`Interfaces`], or [`NO_NODE`]: any.
    pub interfaces: u32,
    /// The rate: its number, and [`Pace::cost`](crate::Pace) and [`Pace::window`](crate::Pace). A cost of 0: there is none.
    pub rate: u32,
    /// See [`rate`](Self::rate).
    pub cost: u32,
    /// See [`rate`](Self::rate).
    pub window: u32,
    /// As `lists`, of what was said at run time: indexes of the table of these lists, which stands beside this one.
    pub run_time: [u32; 2],
    /// Zero.
    pub reserved: [u32; 3],
}

/// The interfaces by which packets may come.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(C, align(64))]
pub struct Interfaces {
    /// Their indexes; unused ones are 0, which no interface has.
    pub indexes: [u32; Self::MOST],
}

impl Interfaces {
    /// The most that a policy may name.
    pub const MOST: usize = 16;
}

impl SourceGate {
    /// Of `on_deny`: the kernel answers that nobody is there.
    pub const REFUSE: u32 = 0;
    /// Of `on_deny`: nobody answers.
    pub const SILENCE: u32 = 1;
    /// Gates stand before this index.
    pub const END: u32 = 1 << (31 - Value::DESTINATION_BITS);
}

/// The value of an unused slot: all zeros, so that it adds nothing to what other slots say.
pub const EMPTY: Value = Value(0);

impl Value {
    /// The number that stands for it.
    #[must_use]
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The value that `bits` stand for.
    #[must_use]
    #[inline(always)]
    pub const fn of_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Nothing is bound; of a source: nothing is said of it.
    pub const PASS: Self = Self(1);

    const FIRST_DESTINATION: u32 = 2;
    const DESTINATION_BITS: u32 = 18;
    const DESTINATION: u32 = (1 << Self::DESTINATION_BITS) - 1;

    const PORTS: u32 = 1 << 31;

    /// Every port leads to the destination `id`, whoever the packet is from. Ids must be below 2^18 - 2.
    #[must_use]
    pub const fn destination(id: u32) -> Self {
        Self(id + Self::FIRST_DESTINATION)
    }

    /// The same, past the [`SourceGate`] at the index `gate`, which is below [`SourceGate::END`].
    #[must_use]
    pub const fn behind(gate: u32, id: u32) -> Self {
        Self(gate << Self::DESTINATION_BITS | (id + Self::FIRST_DESTINATION))
    }

    /// Of a source: the prefix of `length` bits that contains it is denied, or allowed.
    #[must_use]
    pub const fn source(length: u8, is_denied: bool) -> Self {
        Self((length as u32) << 2 | (is_denied as u32) << 1 | 1 << 30)
    }

    /// The [`Ports`] at `index` say which port leads where. Indexes must be below 2^31.
    #[must_use]
    pub const fn ports(index: u32) -> Self {
        Self(index | Self::PORTS)
    }

    /// The index of the [`Ports`] to ask, if this is not the answer itself.
    #[must_use]
    #[inline(always)]
    pub const fn as_ports(self) -> Option<u32> {
        if self.0 & Self::PORTS == 0 { None } else { Some(self.0 & !Self::PORTS) }
    }

    /// The destination's id, if this is one.
    #[must_use]
    #[inline(always)]
    pub const fn as_destination(self) -> Option<u32> {
        if self.0 & Self::PORTS != 0 {
            return None;
        }
        (self.0 & Self::DESTINATION).checked_sub(Self::FIRST_DESTINATION)
    }

    /// The index of the [`SourceGate`] before the destination, or [`NO_NODE`].
    #[must_use]
    #[inline(always)]
    pub const fn gate(self) -> u32 {
        self.0 >> Self::DESTINATION_BITS
    }

    /// Of a source: what the longer of two prefixes says, or this where neither is longer.
    #[must_use]
    #[inline(always)]
    pub const fn or_longer(self, other: Self) -> Self {
        if other.0 >> 2 > self.0 >> 2 { other } else { self }
    }

    /// Of a source: true if it is denied.
    #[must_use]
    #[inline(always)]
    pub const fn is_denied(self) -> bool {
        self.0 & 2 != 0
    }

    /// This value if `difference`, which must be below 2^63, is zero, else [`EMPTY`]; without a branch, see
    /// [`Bucket4::value_of`].
    #[inline(always)]
    const fn if_zero(self, difference: u64) -> Self {
        let mask = difference.wrapping_sub(1).cast_signed() >> 63;
        #[expect(clippy::cast_possible_truncation, reason = "all of its bits are equal")]
        Self(self.0 & mask.cast_unsigned() as u32)
    }

    /// The one of both that is not [`EMPTY`].
    #[inline(always)]
    const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The number of the bucket, of `buckets` consecutive ones, that holds the masked address `key`: 0 to `buckets - 1`.
///
/// Two multiplications: prefixes are configured by the operator, so the hash needs to spread addresses that differ in
/// few bits, not to withstand an adversary.
#[must_use]
#[inline(always)]
pub const fn bucket_of(key: Address, seed: u64, buckets: u32) -> u32 {
    let mut hash = (key.hi ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ key.lo;
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    // The upper half scaled to 0..buckets: a multiplication instead of a division (Lemire, arXiv:1805.10941).
    (((hash >> 32) * (buckets as u64)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_is_a_cache_line() {
        assert_eq!(size_of::<Node>(), 64);
        assert_eq!(size_of::<Step>(), 64);
        assert_eq!(size_of::<Bucket4>(), 64);
        assert_eq!(size_of::<Bucket6>(), 64);
        assert_eq!(size_of::<Ports>(), 64);
        assert_eq!(size_of::<SourceGate>(), 64);
        assert_eq!(size_of::<Interfaces>(), 64);
        assert_eq!(size_of::<Page>(), 64 * PAGE_NODES as usize);
    }

    #[test]
    fn values_are_what_they_were_made_of() {
        assert_eq!(Value::PASS.as_destination(), None);
        assert_eq!(Value::PASS.as_ports(), None);
        assert_eq!(Value::destination(0).as_destination(), Some(0));
        assert_eq!(Value::destination(4095).as_ports(), None);
        assert_eq!(Value::ports(7).as_ports(), Some(7));
        assert_eq!(Value::ports(7).as_destination(), None);
        assert_eq!(EMPTY.as_destination(), None);
        assert_eq!(EMPTY.as_ports(), None);
        let highest = (1 << Value::DESTINATION_BITS) - 3;
        assert_eq!(Value::destination(highest).gate(), NO_NODE);
        let gated = Value::behind(SourceGate::END - 1, highest);
        assert_eq!((gated.gate(), gated.as_destination()), (SourceGate::END - 1, Some(highest)));
        assert_eq!(gated.as_ports(), None);
    }

    #[test]
    fn what_is_said_of_a_source_is_what_its_longest_prefix_says() {
        for length in 0..=128 {
            for is_denied in [false, true] {
                let said = Value::source(length, is_denied);
                assert_ne!(said, EMPTY);
                assert_eq!(said.is_denied(), is_denied);
                assert_eq!(Value::PASS.or_longer(said), said);
                assert_eq!(said.or_longer(Value::PASS), said);
                assert_eq!(
                    said.or_longer(Value::source(length, !is_denied)),
                    said,
                    "the first of equal ones"
                );
                let longer = Value::source(length + 1, !is_denied);
                assert_eq!((said.or_longer(longer), longer.or_longer(said)), (longer, longer));
            }
        }
        assert!(!Value::PASS.is_denied() && !EMPTY.is_denied());
    }

    #[test]
    fn a_bucket_says_what_stands_for_a_key_and_no_other() {
        let mut four = Bucket4::default();
        let mut six = Bucket6::default();
        let key = |number: u32| Address { hi: u64::from(number) << 32, lo: 0 };
        let numbers = [0, 1, 1 << 31, u32::MAX];
        for ((slot, value), (id, number)) in
            four.keys.iter_mut().zip(&mut four.values).zip((0..).zip(numbers))
        {
            (*slot, *value) = (number, Value::destination(id));
        }
        let keys = [key(0), key(1), Address { hi: 0, lo: 1 }];
        six.keys = keys;
        six.values = [0, 1, 2].map(Value::destination);
        for (id, number) in (0..).zip(numbers) {
            assert_eq!(four.value_of(key(number)), Value::destination(id));
        }
        assert_eq!(four.value_of(key(2)), EMPTY);
        for (id, key) in (0..).zip(keys) {
            assert_eq!(six.value_of(key), Value::destination(id));
        }
        for hi in [1, u64::MAX, 1 << 63] {
            for lo in [0, 1, 1 << 32, 1 << 63] {
                assert_eq!(six.value_of(Address { hi, lo }), EMPTY);
            }
        }
        assert_eq!(Bucket4::default().value_of(key(0)), EMPTY);
        assert_eq!(Bucket6::default().value_of(key(0)), EMPTY);
    }

    #[test]
    fn dense_addresses_spread_over_the_buckets() {
        let mut counts = [0_u32; 4096];
        for host in 0..8192_u64 {
            counts[bucket_of(Address { hi: (0xc000_0200 + host) << 32, lo: 0 }, 0, 4096) as usize] += 1;
        }
        assert!(counts.iter().all(|count| *count < 12), "{counts:?}");
    }
}

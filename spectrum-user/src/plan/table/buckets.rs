//! The hash table of one prefix length.

use spectrum_common::{Address, Bucket4, Bucket6, EMPTY, MAX_BUCKETS, NO_NODE, Node, Value, bucket_of};

use super::lengths::Entry;
use super::{TableError, index};

/// Nodes in one page of memory, as the CPU translates addresses.
const MEMORY_PAGE_NODES: usize = 64;

/// Where a hash table stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Hashed {
    /// The first of its buckets.
    pub(super) first: u32,
    /// How many hashes lead to.
    pub(super) count: u32,
    pub(super) seed: u64,
}

/// A bucket of either family.
pub(super) trait Slots: Copy + Default + Into<Node> {
    /// Keys that a bucket holds on average, times a hundred.
    const MEAN_PERCENT: usize;

    /// The bucket at a node.
    fn of(node: &Node) -> Self;
    /// Puts an entry into the first free slot, or returns `false`.
    fn put(&mut self, key: Address, value: Value) -> bool;
    /// Whether a slot is free.
    fn has_room(&self) -> bool;
    /// The bucket to go on with.
    fn next(&mut self) -> &mut u32;
}

impl Slots for Bucket4 {
    const MEAN_PERCENT: usize = 500;

    fn of(node: &Node) -> Self {
        *node.as_bucket4()
    }

    fn put(&mut self, key: Address, value: Value) -> bool {
        place(&mut self.keys, &mut self.values, (key.hi >> 32) as u32, value)
    }

    fn has_room(&self) -> bool {
        self.values.last() == Some(&EMPTY)
    }

    fn next(&mut self) -> &mut u32 {
        &mut self.next
    }
}

impl Slots for Bucket6 {
    const MEAN_PERCENT: usize = 220;

    fn of(node: &Node) -> Self {
        *node.as_bucket6()
    }

    fn put(&mut self, key: Address, value: Value) -> bool {
        place(&mut self.keys, &mut self.values, key, value)
    }

    fn has_room(&self) -> bool {
        self.values.last() == Some(&EMPTY)
    }

    fn next(&mut self) -> &mut u32 {
        &mut self.next
    }
}

/// `false` when every slot is taken.
fn place<K>(keys: &mut [K], values: &mut [Value], key: K, value: Value) -> bool {
    let free = keys.iter_mut().zip(values).find(|(_, value)| **value == EMPTY);
    match free {
        Some((free_key, free_value)) => {
            *free_key = key;
            *free_value = value;
            true
        }
        None => false,
    }
}

impl Hashed {
    /// Appends the hash table of `entries`, whose keys are distinct, to `nodes`.
    ///
    /// An entry for which there is no room where its hash leads goes into a bucket nearby, within the same page of memory:
    /// the address of such a one is translated already, and it may be in the cache. Where none is free, or the chain of
    /// buckets grows longer than the kernel program follows, another seed and more buckets cure it.
    pub(super) fn append<S: Slots>(nodes: &mut Vec<Node>, entries: &[Entry]) -> Result<Self, TableError> {
        let start = nodes.len();
        let mut count = (entries.len() * 100).div_ceil(S::MEAN_PERCENT).max(1);
        for attempt in 0_u64.. {
            let hashed = Self {
                first: index(start)?,
                count: index(count)?,
                // Any odd multiplier spreads small numbers over all bits.
                seed: attempt.wrapping_mul(0xa076_1d64_78bd_642f),
            };
            nodes.truncate(start);
            nodes.resize(start + count, S::default().into());
            let lodgers: Vec<&Entry> =
                entries.iter().filter(|(key, value)| !put::<S>(nodes, hashed.home(*key), *key, *value)).collect();
            // Only when every bucket has its own, or lodgers would drive those out in their turn.
            if lodgers.into_iter().all(|(key, value)| hashed.lodge::<S>(nodes, *key, *value)) {
                return Ok(hashed);
            }
            count += count / 8 + 1;
        }
        Err(TableError { nodes: nodes.len() })
    }

    /// Where the hash of `key` leads.
    fn home(&self, key: Address) -> usize {
        (self.first + bucket_of(key, self.seed, self.count)) as usize
    }

    /// Puts an entry into a bucket near its own, which is full; `false` when that cannot be.
    fn lodge<S: Slots>(&self, nodes: &mut [Node], key: Address, value: Value) -> bool {
        let mut at = self.home(key);
        for _ in 1..MAX_BUCKETS {
            let Some(mut bucket) = nodes.get(at).map(S::of) else { return false };
            if *bucket.next() == NO_NODE {
                let Some(free) = self.free_near::<S>(nodes, at) else { return false };
                *bucket.next() = free;
                set(nodes, at, bucket);
            }
            at = *bucket.next() as usize;
            if put::<S>(nodes, at, key, value) {
                return true;
            }
        }
        false
    }

    /// The nearest bucket of the same page of memory that has a free slot, the other one of a pair first.
    fn free_near<S: Slots>(&self, nodes: &[Node], at: usize) -> Option<u32> {
        let own = self.first as usize..self.first as usize + self.count as usize;
        let page = at - at % MEMORY_PAGE_NODES;
        (1..MEMORY_PAGE_NODES)
            // Neighbours differ in the last bits.
            .map(|distance| page + (at % MEMORY_PAGE_NODES ^ distance))
            .filter(|near| own.contains(near))
            .find(|near| nodes.get(*near).is_some_and(|node| S::of(node).has_room()))
            .and_then(|near| index(near).ok())
    }
}

fn put<S: Slots>(nodes: &mut [Node], at: usize, key: Address, value: Value) -> bool {
    let Some(mut bucket) = nodes.get(at).map(S::of) else { return false };
    let placed = bucket.put(key, value);
    if placed {
        set(nodes, at, bucket);
    }
    placed
}

fn set(nodes: &mut [Node], at: usize, bucket: impl Into<Node>) {
    if let Some(node) = nodes.get_mut(at) {
        *node = bucket.into();
    }
}

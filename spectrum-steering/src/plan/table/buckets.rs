//! The hash table of one prefix length.

use std::cmp::Reverse;

use spectrum_common::{Address, Bucket4, Bucket6, EMPTY, MAX_BUCKETS, Node, Value, bucket_of};

use super::lengths::Entry;
use super::{TableError, index};

/// Nodes in one page of memory, as the CPU translates addresses.
const MEMORY_PAGE_NODES: usize = 64;

/// The place of a hash table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Hashed {
    /// The first of its buckets.
    pub(super) first: u32,
    /// The number of buckets that hashes lead to.
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
    /// The number of free slots.
    fn room(&self) -> usize;
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

    fn room(&self) -> usize {
        self.values.iter().filter(|value| **value == EMPTY).count()
    }

    fn next(&mut self) -> &mut u32 {
        &mut self.next
    }
}

impl Slots for Bucket6 {
    const MEAN_PERCENT: usize = 230;

    fn of(node: &Node) -> Self {
        *node.as_bucket6()
    }

    fn put(&mut self, key: Address, value: Value) -> bool {
        place(&mut self.keys, &mut self.values, key, value)
    }

    fn room(&self) -> usize {
        self.values.iter().filter(|value| **value == EMPTY).count()
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
    /// Appends the hash table of `entries`, whose keys are distinct, to `nodes`: about 13 bytes for each entry of IPv4, 28
    /// of IPv6.
    ///
    /// An entry for which there is no room where its hash leads goes into a bucket of the same page of memory, whose
    /// address the CPU has translated by then. Where the chain of buckets grows longer than the kernel program follows,
    /// another seed and more buckets cure it.
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
            let lodgers: Vec<&Entry> = entries
                .iter()
                .filter(|(key, value)| !put::<S>(nodes, hashed.home(*key), *key, *value))
                .collect();
            if hashed.lodge::<S>(nodes, lodgers) {
                return Ok(hashed);
            }
            count += count / 8 + 1;
        }
        Err(TableError::Nodes { nodes: nodes.len() })
    }

    /// The bucket that the hash of `key` leads to.
    fn home(&self, key: Address) -> usize {
        (self.first + bucket_of(key, self.seed, self.count)) as usize
    }

    /// Puts entries for which there is no room where their hashes lead elsewhere; `false` when a chain of buckets would
    /// be too long.
    ///
    /// To be called when every bucket has its own, or lodgers would drive those out in their turn. Those of one bucket
    /// stay together, and where there are many go first: so hardly any chain is longer than two buckets.
    fn lodge<S: Slots>(&self, nodes: &mut [Node], mut lodgers: Vec<&Entry>) -> bool {
        lodgers.sort_by_key(|(key, _)| self.home(*key));
        let mut parties: Vec<&[&Entry]> =
            lodgers.chunk_by(|(key, _), (other, _)| self.home(*key) == self.home(*other)).collect();
        parties.sort_by_key(|party| Reverse(party.len()));
        parties.into_iter().all(|party| self.lodge_party::<S>(nodes, party))
    }

    fn lodge_party<S: Slots>(&self, nodes: &mut [Node], party: &[&Entry]) -> bool {
        let mut party = party.iter().peekable();
        let Some((key, _)) = party.peek() else { return true };
        let mut last = self.home(*key);
        for _ in 1..MAX_BUCKETS {
            let Some((host, free)) = self.host_near::<S>(nodes, last) else { return false };
            if let Some(mut bucket) = nodes.get(last).map(S::of) {
                // Full, and nobody lodges with a full one: this is the end of its chain.
                *bucket.next() = free;
                set(nodes, last, bucket);
            }
            while party.next_if(|(key, value)| put::<S>(nodes, host, *key, *value)).is_some() {}
            if party.peek().is_none() {
                return true;
            }
            last = host;
        }
        false
    }

    /// The bucket with most room of the same page of memory, or any with room where that page is full, and its index.
    fn host_near<S: Slots>(&self, nodes: &[Node], at: usize) -> Option<(usize, u32)> {
        let room = |at: &usize| nodes.get(*at).map_or(0, |node| S::of(node).room());
        let page = at - at % MEMORY_PAGE_NODES;
        let own = self.first as usize..nodes.len();
        let near = own.start.max(page)..own.end.min(page + MEMORY_PAGE_NODES);
        let roomiest = near.max_by_key(room).filter(|at| room(at) > 0);
        let host = roomiest.or_else(|| own.clone().find(|at| room(at) > 0))?;
        Some((host, index(host).ok()?))
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

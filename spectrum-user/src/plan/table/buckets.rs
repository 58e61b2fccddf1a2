//! The hash table of one prefix length.

use spectrum_common::{Address, Bucket4, Bucket6, EMPTY, MAX_BUCKETS, NO_NODE, Node, Value, bucket_of};

use super::lengths::Entry;
use super::{TableError, index};

/// Where a hash table stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Hashed {
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) seed: u64,
}

/// A bucket of either family.
pub(super) trait Slots: Copy + Default + Into<Node> {
    /// Keys that a bucket holds on average, times ten. So many slots stay free that few lookups read a second bucket.
    const MEAN_TENTHS: usize;

    /// The bucket at a node.
    fn of(node: &Node) -> Self;
    /// Puts an entry into the first free slot, or returns `false`.
    fn put(&mut self, key: Address, value: Value) -> bool;
    /// The bucket to go on with.
    fn next(&mut self) -> &mut u32;
}

impl Slots for Bucket4 {
    const MEAN_TENTHS: usize = 42;

    fn of(node: &Node) -> Self {
        *node.as_bucket4()
    }

    fn put(&mut self, key: Address, value: Value) -> bool {
        place(&mut self.keys, &mut self.values, (key.hi >> 32) as u32, value)
    }

    fn next(&mut self) -> &mut u32 {
        &mut self.next
    }
}

impl Slots for Bucket6 {
    const MEAN_TENTHS: usize = 16;

    fn of(node: &Node) -> Self {
        *node.as_bucket6()
    }

    fn put(&mut self, key: Address, value: Value) -> bool {
        place(&mut self.keys, &mut self.values, key, value)
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

/// Appends the hash table of `entries`, whose keys are distinct, to `nodes`: about 16 bytes for each entry of IPv4, 43
/// of IPv6. Where a chain is longer than the kernel program follows, another seed or more buckets cure it.
pub(super) fn append<S: Slots>(nodes: &mut Vec<Node>, entries: &[Entry]) -> Result<Hashed, TableError> {
    let first = index(nodes)?;
    let start = nodes.len();
    let mut count = (entries.len() * 10).div_ceil(S::MEAN_TENTHS).max(1);
    for seed in 0_u64.. {
        let hashed = Hashed {
            first,
            count: u32::try_from(count).map_err(|_error| TableError { nodes: start + count })?,
            // Any odd multiplier spreads small numbers over all bits.
            seed: seed.wrapping_mul(0xa076_1d64_78bd_642f),
        };
        nodes.truncate(start);
        nodes.resize(start + count, S::default().into());
        let mut fits = true;
        for entry in entries {
            fits = insert::<S>(nodes, &hashed, *entry)?;
            if !fits {
                break;
            }
        }
        if fits {
            return Ok(hashed);
        }
        count += count / 8 + 1;
    }
    Err(TableError { nodes: nodes.len() })
}

/// `false` when the chain would grow too long.
fn insert<S: Slots>(nodes: &mut Vec<Node>, hashed: &Hashed, (key, value): Entry) -> Result<bool, TableError> {
    let mut at = (hashed.first + bucket_of(key, hashed.seed, hashed.count)) as usize;
    for _ in 0..MAX_BUCKETS {
        let Some(node) = nodes.get(at) else { return Ok(false) };
        let mut bucket = S::of(node);
        if bucket.put(key, value) {
            set(nodes, at, bucket);
            return Ok(true);
        }
        if *bucket.next() == NO_NODE {
            *bucket.next() = index(nodes)?;
            set(nodes, at, bucket);
            nodes.push(S::default().into());
        }
        at = *bucket.next() as usize;
    }
    Ok(false)
}

fn set(nodes: &mut [Node], at: usize, bucket: impl Into<Node>) {
    if let Some(node) = nodes.get_mut(at) {
        *node = bucket.into();
    }
}

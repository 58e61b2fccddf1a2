//! The hash table of one prefix length.

use spectrum_common::{Address, Bucket, EMPTY, MAX_BUCKETS, NO_NODE, Node, SLOTS, bucket_of};

use super::lengths::Entry;
use super::{TableError, index};

/// Where a hash table stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Hashed {
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) seed: u64,
}

/// Appends the hash table of `entries`, whose keys are distinct, to `nodes`.
///
/// Half of the slots stay free, so that only one bucket in fifteen is full and few lookups read a second one: 45 bytes
/// for each entry. Where a chain is longer than the kernel program follows, another seed or more buckets cure it.
pub(super) fn append(nodes: &mut Vec<Node>, entries: &[Entry]) -> Result<Hashed, TableError> {
    let first = index(nodes)?;
    let start = nodes.len();
    let mut count = (entries.len() * 2).div_ceil(SLOTS).max(1);
    for seed in 0_u64.. {
        let hashed = Hashed {
            first,
            count: u32::try_from(count).map_err(|_error| TableError { nodes: start + count })?,
            // Any odd multiplier spreads small numbers over all bits.
            seed: seed.wrapping_mul(0xa076_1d64_78bd_642f),
        };
        nodes.truncate(start);
        nodes.resize(start + count, Bucket::default().into());
        let mut fits = true;
        for entry in entries {
            fits = insert(nodes, &hashed, *entry)?;
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
fn insert(nodes: &mut Vec<Node>, hashed: &Hashed, (key, value): Entry) -> Result<bool, TableError> {
    let mut at = (hashed.first + bucket_of(key, hashed.seed, hashed.count)) as usize;
    for _ in 0..MAX_BUCKETS {
        let Some(node) = nodes.get(at) else { return Ok(false) };
        let mut bucket = *node.as_bucket();
        if let Some(slot) = bucket.values.iter().position(|taken| *taken == EMPTY) {
            put(&mut bucket, slot, key, value);
            set(nodes, at, bucket);
            return Ok(true);
        }
        if bucket.next == NO_NODE {
            bucket.next = index(nodes)?;
            set(nodes, at, bucket);
            nodes.push(Bucket::default().into());
        }
        at = bucket.next as usize;
    }
    Ok(false)
}

fn put(bucket: &mut Bucket, slot: usize, key: Address, value: spectrum_common::Value) {
    if let (Some(keys), Some(values)) = (bucket.keys.get_mut(slot), bucket.values.get_mut(slot)) {
        *keys = key;
        *values = value;
    }
}

fn set(nodes: &mut [Node], at: usize, bucket: Bucket) {
    if let Some(node) = nodes.get_mut(at) {
        *node = bucket.into();
    }
}

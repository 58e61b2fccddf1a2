//! The walk of a database: that it ends, whatever the database is. What becomes of networks is tested where they are configured.

use std::collections::BTreeSet;

use self::mmdb::{Field, Mmdb};
use super::walk;
use crate::model::SourceGroup;

#[path = "../../../../../tests/src/mmdb.rs"]
#[allow(dead_code, unreachable_pub, reason = "others write more of them")]
mod mmdb;

fn wanted() -> BTreeSet<SourceGroup> {
    BTreeSet::from(["country:KP".parse().unwrap()])
}

/// `sound`, with a tree in which both sides of each node lead to the next one: more networks than anybody can count.
fn endless(sound: &[u8]) -> Vec<u8> {
    let next = (1..=128_u32).flat_map(|number| [number.to_be_bytes(); 2]);
    let mut bytes: Vec<u8> = next.flat_map(|record| record[1..].to_vec()).collect();
    bytes.extend([0; 16]);
    let after = |text: &[u8], of: &[u8]| of.windows(text.len()).position(|window| window == text).unwrap();
    let tail = &sound[after(b"\xab\xcd\xefMaxMind.com", sound)..];
    // The number of nodes is the last value.
    let end = after(b"node_count", tail) + b"node_count".len();
    bytes.extend(&tail[..end]);
    bytes.extend([6 << 5 | 1, 128]);
    bytes
}

#[test]
fn a_tree_with_more_networks_than_there_may_be_is_left() {
    let sound = Mmdb::new("GeoLite2-Country", 24).with("175.45.176.0/22", &Field::country("KP")).bytes();
    assert_eq!(walk(&sound, &wanted(), 1_000).unwrap().networks.len(), 1);
    let error = walk(&endless(&sound), &wanted(), 1_000).unwrap_err().to_string();
    assert_eq!(error, "invalid database: its tree has more than 1000 networks");
}

#[test]
fn no_damage_to_a_database_is_too_much() {
    let sound = Mmdb::new("GeoLite2-Country", 28)
        .with("175.45.176.0/22", &Field::country("KP"))
        .with("2001:db8::/32", &Field::country("DE"))
        .bytes();
    for at in 0..sound.len() {
        for byte in [0, 0x7f, 0xff, sound[at] ^ 1, sound[at] ^ 0x40] {
            let mut damaged = sound.clone();
            damaged[at] = byte;
            // Right or wrong, it ends.
            let _ = walk(&damaged, &wanted(), 10_000);
        }
        let _ = walk(&sound[..at], &wanted(), 10_000);
    }
}

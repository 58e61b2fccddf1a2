//! Sessions that are opened and kept, and the ports by which the origin sees them. Ends none: that is time's affair.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::message::{Kind, Message};
use super::{AT_ONCE, Ends, SHORT};

/// The time in which another one must have come.
const PATIENCE: Duration = Duration::from_secs(2);

/// The time after which one is asked again.
const LOOK: Duration = Duration::from_millis(50);

/// The peers by which clients were heard, by their number.
pub(crate) type Remembered = HashMap<u32, SocketAddrV4>;

/// Opens `count` sessions, answered once each or, if `kind` is `silent`, never. The number of them that reached the
/// origin.
pub(crate) fn hold(ends: &mut Ends, target: SocketAddr, count: u32, kind: &str) -> Value {
    let kind = if kind == "silent" { Kind::Silent } else { Kind::Known };
    json!({ "count": hear(ends, target, 1 << 16..(1 << 16) + count, kind), "failed": ends.post.wrong })
}

/// Has `count` clients heard by the origin. Of those that were heard before, the number whose port is still the same.
pub(crate) fn ports(ends: &mut Ends, target: SocketAddr, count: u32) -> Value {
    let heard = hear(ends, target, 0..count, Kind::Known);
    let kept =
        ends.origin.peers.iter().filter(|(client, peer)| ends.remembered.get(client) == Some(peer)).count();
    ends.remembered.clone_from(&ends.origin.peers);
    json!({ "count": heard, "kept": kept, "failed": ends.post.wrong })
}

/// Has each of `clients` say something until the origin has heard it. The number of those that it has.
fn hear(ends: &mut Ends, target: SocketAddr, clients: std::ops::Range<u32>, kind: Kind) -> usize {
    ends.dial(target);
    ends.origin.peers.clear();
    let mut waiting: Vec<u32> = clients.rev().collect();
    let mut last = Instant::now();
    while !waiting.is_empty() && last.elapsed() < PATIENCE {
        let some = waiting.split_off(waiting.len().saturating_sub(AT_ONCE));
        for client in &some {
            ends.post.say(Message { kind, parts: 1, client: *client, number: 0 }, SHORT);
        }
        let asked = Instant::now();
        while some.iter().any(|client| !ends.origin.peers.contains_key(client)) && asked.elapsed() < LOOK {
            ends.turn(LOOK, |_, _, _| {});
        }
        let before = waiting.len();
        waiting.extend(some.iter().filter(|client| !ends.origin.peers.contains_key(client)));
        if waiting.len() < before + some.len() {
            last = Instant::now();
        }
    }
    // The last answers are under way.
    let asked = Instant::now();
    while asked.elapsed() < LOOK {
        ends.turn(LOOK, |_, _, _| {});
    }
    ends.origin.peers.len()
}

//! Requests at a given rate, whatever becomes of those before, and how long each takes from the moment it was due: a
//! proxy that stalls is charged for everybody who had to wait.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Came;
use crate::exchange::warmed;
use crate::latency::Latencies;
use crate::origin::{KEPT, MESSAGE};
use crate::station::Station;

/// Sends a request every `interval` for `length`, over whichever of `width` connections is free.
pub(crate) fn pace(
    station: &mut Station,
    address: SocketAddr,
    length: Duration,
    width: usize,
    interval: Duration,
) -> Value {
    let mut clients = warmed(station, address, width);
    let mut free: VecDeque<usize> = clients.places().into();
    let mut due_at = vec![Instant::now(); free.iter().max().map_or(0, |place| place + 1)];
    let mut latencies = Latencies::default();
    let began = Instant::now();
    let mut due = began;
    let mut failed = 0_u64;
    loop {
        let now = Instant::now();
        if now.duration_since(began) >= length {
            break;
        }
        // Everything due is sent in order of dueness; without a free connection it waits, and its clock runs.
        while due <= now
            && let Some(place) = free.pop_front()
        {
            if let Some(client) = clients.at(place) {
                client.ask(KEPT);
                due_at[place] = due;
            }
            due += interval;
        }
        // Never sleeps: waking up would take longer than what is measured.
        station.turn(Duration::ZERO, |_, place| {
            let Some(client) = clients.at(place) else { return };
            match client.read() {
                Came::Bytes(bytes) => {
                    client.answered += bytes;
                    if client.answered >= MESSAGE {
                        client.answered -= MESSAGE;
                        latencies.add(due_at[place].elapsed());
                        free.push_back(place);
                    }
                }
                Came::End(_) => {
                    failed += 1;
                    clients.close(place);
                }
                Came::Nothing => {}
            }
        });
    }
    drop(clients);
    station.settle();
    json!({
        "count": latencies.count(),
        "failed": failed,
        "seconds": length.as_secs_f64(),
        "p50": latencies.permille(500),
        "p99": latencies.permille(990),
        "p99.9": latencies.permille(999),
    })
}

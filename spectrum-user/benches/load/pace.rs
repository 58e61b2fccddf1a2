//! Requests at a given rate, whatever becomes of those before, and how long each takes from the moment it was due: a
//! proxy that stalls is charged for everybody who had to wait. When it is us whom the scheduler made wait, nobody is.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

use crate::client::Came;
use crate::exchange::warmed;
use crate::latency::Latencies;
use crate::origin::{KEPT, MESSAGE};
use crate::station::Station;

/// The time that one turn may take by itself.
const TURN: Duration = Duration::from_micros(100);

/// Notices when this thread, which never sleeps, had to leave its CPU to another.
pub(crate) struct Vigil {
    last: Instant,
    preempted: i64,
}

impl Vigil {
    pub(crate) fn begin() -> Self {
        Self { last: Instant::now(), preempted: preempted() }
    }

    /// True if it did since it was asked last. `now` is when it is asked.
    pub(crate) fn was_disturbed(&mut self, now: Instant) -> bool {
        let took = now.duration_since(self.last);
        self.last = now;
        if took <= TURN {
            return false;
        }
        let before = self.preempted;
        self.preempted = preempted();
        self.preempted != before
    }
}

fn preempted() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).unwrap().involuntary_context_switches()
}

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
    let mut vigil = Vigil::begin();
    let began = Instant::now();
    let (mut due, mut undisturbed) = (began, began);
    let mut failed = 0_u64;
    loop {
        let now = Instant::now();
        if now.duration_since(began) >= length {
            break;
        }
        if vigil.was_disturbed(now) {
            // What should have been sent meanwhile was not, and what is under way has waited for us.
            (due, undisturbed) = (now, now);
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
                        if due_at[place] >= undisturbed {
                            latencies.add(due_at[place].elapsed());
                        }
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

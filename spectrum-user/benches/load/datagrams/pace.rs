//! Datagrams at a given rate, whatever becomes of those before, and how long each pair takes from the moment it was due.
//! When it is us whom the scheduler made wait, nobody is charged.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::latency::Latencies;
use crate::pace::Vigil;

use super::message::{Kind, Message};
use super::{Ends, SHORT};

/// The time after which an answer is lost.
const PATIENCE: Duration = Duration::from_millis(100);

/// One that may have something under way.
#[derive(Clone, Copy)]
struct Asker {
    number: u32,
    due: Option<Instant>,
}

/// Says something every `interval` for `length`, by whichever of `width` clients is free.
pub(crate) fn pace(
    ends: &mut Ends,
    target: SocketAddr,
    length: Duration,
    width: u32,
    interval: Duration,
) -> Value {
    ends.dial(target);
    let mut askers = vec![Asker { number: 0, due: None }; width as usize];
    let mut free: VecDeque<u32> = (0..width).collect();
    let mut latencies = Latencies::default();
    let mut lost = 0_u64;
    let mut vigil = Vigil::begin();
    let began = Instant::now();
    let (mut due, mut undisturbed) = (began, began);
    loop {
        let now = Instant::now();
        if now.duration_since(began) >= length {
            break;
        }
        if vigil.was_disturbed(now) {
            // What should have been sent meanwhile was not, and what is under way has waited for us.
            (due, undisturbed) = (now, now);
        }
        if free.is_empty() {
            for (client, asker) in (0..).zip(&mut askers) {
                if asker.due.is_some_and(|due| now.duration_since(due) > PATIENCE) {
                    asker.due = None;
                    free.push_back(client);
                    lost += 1;
                }
            }
        }
        while due <= now
            && let Some(client) = free.pop_front()
        {
            let asker = &mut askers[client as usize];
            asker.number += 1;
            asker.due = Some(due);
            let message = Message { kind: Kind::Echo, parts: 1, client, number: asker.number };
            ends.post.say(message, SHORT);
            due += interval;
        }
        // Never sleeps: waking up would take longer than what is measured.
        ends.turn(Duration::ZERO, |_, message, _| {
            let Some(asker) = askers.get_mut(message.client as usize) else { return };
            if asker.number != message.number {
                return;
            }
            if let Some(due) = asker.due.take() {
                if due >= undisturbed {
                    latencies.add(due.elapsed());
                }
                free.push_back(message.client);
            }
        });
    }
    let ended = Instant::now();
    while free.len() < askers.len() && ended.elapsed() < PATIENCE {
        ends.turn(Duration::ZERO, |_, message, _| {
            if let Some(asker) = askers.get_mut(message.client as usize)
                && asker.number == message.number
                && asker.due.take().is_some()
            {
                free.push_back(message.client);
            }
        });
    }
    json!({
        "count": latencies.count(),
        "failed": ends.post.wrong,
        "lost": lost,
        "seconds": length.as_secs_f64(),
        "p50": latencies.permille(500),
        "p99": latencies.permille(990),
        "p99.9": latencies.permille(999),
    })
}

//! What is exchanged as fast as it goes, so many at once: datagrams, trains of them, and sessions that are opened for one
//! pair each. Who is not answered in time asks again, and the loss is counted.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::message::{Kind, Message};
use super::{Ends, Post, SHORT};

/// The time that an answer may take.
const PATIENCE: Duration = Duration::from_millis(100);

/// The time between looks for what was lost, and of a wait for whatever comes.
const LOOK: Duration = Duration::from_millis(20);

/// The parts of a train, and their length.
const PARTS: usize = 32;
const PART: usize = 1200;

/// One of those who ask.
struct Asker {
    message: Message,
    asked: Instant,
    answered: usize,
}

/// The manner of an exchange.
#[derive(Clone, Copy)]
struct Manner {
    kind: Kind,
    parts: usize,
    length: usize,
    /// True if each asks once, and then another.
    once: bool,
}

/// The exchange under way.
struct Exchange {
    manner: Manner,
    askers: Vec<Asker>,
    done: u64,
    lost: u64,
}

/// Pairs of short datagrams for `length`, by `width` clients at once.
pub(crate) fn exchange(ends: &mut Ends, target: SocketAddr, length: Duration, width: u32) -> Value {
    run(ends, target, length, width, Manner { kind: Kind::Echo, parts: 1, length: SHORT, once: false })
}

/// The same, each by a client that was never heard of.
pub(crate) fn open(ends: &mut Ends, target: SocketAddr, length: Duration, width: u32) -> Value {
    run(ends, target, length, width, Manner { kind: Kind::Echo, parts: 1, length: SHORT, once: true })
}

/// Trains there and back for `length`, by `width` clients at once.
pub(crate) fn trains(ends: &mut Ends, target: SocketAddr, length: Duration, width: u32) -> Value {
    run(ends, target, length, width, Manner { kind: Kind::Train, parts: PARTS, length: PART, once: false })
}

fn run(ends: &mut Ends, target: SocketAddr, length: Duration, width: u32, manner: Manner) -> Value {
    ends.dial(target);
    let before = cpu();
    let began = Instant::now();
    let mut exchange = Exchange { manner, askers: Vec::new(), done: 0, lost: 0 };
    for number in 0..width {
        // The number of who asks is in that of the message, so that an answer finds it.
        let client = if manner.once { ends.post.fresh_client() } else { number };
        let message = Message { kind: manner.kind, parts: manner.parts, client, number };
        exchange.askers.push(Asker { message, asked: began, answered: 0 });
        ends.post.say(message, manner.length);
    }
    let mut look = began + LOOK;
    let mut now = began;
    while now.duration_since(began) < length {
        exchange.turn(ends, now);
        now = Instant::now();
        if now >= look {
            look = now + LOOK;
            exchange.ask_again(ends, now);
        }
    }
    let (done, seconds) = (exchange.done, began.elapsed().as_secs_f64());
    let used = cpu().saturating_sub(before);
    // What is under way must not be taken for the next one's.
    let last = Instant::now() + PATIENCE;
    while exchange.done < done + u64::from(width) && Instant::now() < last {
        exchange.settle(ends);
    }
    json!({
        "count": done,
        "bytes": done * (manner.parts * manner.length) as u64,
        "failed": ends.post.wrong,
        "lost": exchange.lost,
        "seconds": seconds,
        "cpu": used.as_secs_f64(),
    })
}

impl Exchange {
    /// Takes what came, and asks again whoever was answered.
    fn turn(&mut self, ends: &mut Ends, now: Instant) {
        let once = self.manner.once;
        ends.turn(LOOK, |post, message, length| {
            if let Some(asker) = self.answered(message, length) {
                asker.message.number = asker.message.number.wrapping_add(1 << 8);
                if once {
                    asker.message.client = post.fresh_client();
                }
                self.ask(post, place(message), now);
            }
        });
    }

    /// Takes what came, and asks nobody.
    fn settle(&mut self, ends: &mut Ends) {
        ends.turn(LOOK, |_, message, length| {
            self.answered(message, length);
        });
    }

    /// Counts an answer. Whom it has answered wholly.
    fn answered(&mut self, message: Message, length: usize) -> Option<&mut Asker> {
        let Self { manner, askers, done, .. } = self;
        let asker = askers.get_mut(place(message)).filter(|asker| asker.message == message)?;
        asker.answered += length;
        if asker.answered < manner.parts * manner.length {
            return None;
        }
        *done += 1;
        Some(asker)
    }

    fn ask(&mut self, post: &mut Post, place: usize, now: Instant) {
        let asker = &mut self.askers[place];
        (asker.asked, asker.answered) = (now, 0);
        post.say(asker.message, self.manner.length);
    }

    /// Has those ask again who were not answered in time.
    fn ask_again(&mut self, ends: &mut Ends, now: Instant) {
        for place in 0..self.askers.len() {
            if now.duration_since(self.askers[place].asked) > PATIENCE {
                self.lost += 1;
                let message = &mut self.askers[place].message;
                message.number = message.number.wrapping_add(1 << 8);
                self.ask(&mut ends.post, place, now);
            }
        }
    }
}

/// The place of who asked.
fn place(message: Message) -> usize {
    usize::from(message.number.to_le_bytes()[0])
}

fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

//! Has a resilient group of next hops on a router be what its daemon has learned, as whoever uses such groups must do: BIRD makes routes
//! with several next hops, and those are hashed anew with every change. Decides nothing.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{SERVERS, address, servers_of};
use crate::netns::Netns;
use crate::path::Family;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// What follows; it ends when dropped.
#[derive(Debug)]
pub struct Follower {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Begins to follow what `router` learns of `prefix`.
    pub fn start(router: &Netns, family: Family, prefix: &'static str) -> Self {
        for number in 0..SERVERS {
            let via = address(family, number, false);
            router.ip(&format!("nexthop add id {} via {via} dev server{number}", number + 1));
        }
        let is_over = Arc::<AtomicBool>::default();
        let ends = Arc::clone(&is_over);
        let thread = router.spawn(move || {
            let mut before = String::new();
            while !ends.load(Ordering::Relaxed) {
                let learned = servers_of(&said(&format!("birdc show route {prefix}")));
                let members: Vec<String> = learned.iter().map(|number| (number + 1).to_string()).collect();
                let members = members.join("/");
                if !members.is_empty() && members != before {
                    said(&format!(
                        "ip nexthop replace id 83 group {members} type resilient buckets 128 idle_timer 60"
                    ));
                    if before.is_empty() {
                        said(&format!("ip {} route add {prefix} nhid 83", family.pick("-4", "-6")));
                    }
                    before = members;
                }
                thread::sleep(PAUSE);
            }
        });
        Self { is_over, thread: Some(thread) }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a command line (split at spaces) of this namespace says. That BIRD knows no such route is an error to it.
fn said(line: &str) -> String {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap_or_default()).args(words).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

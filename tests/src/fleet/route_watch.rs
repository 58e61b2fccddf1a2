//! What a router's kernel tells of its routes to a prefix, with the time. Reads nothing but that.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use crate::deadline::{PATIENCE, eventually};
use crate::netns::Netns;

/// A watcher of routes; it ends when dropped.
#[derive(Debug)]
pub struct RouteWatch {
    child: Child,
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl RouteWatch {
    /// Watches those of `netns`, from when this returns on.
    pub fn of(netns: &Netns) -> Self {
        let mut child = netns.run(|| {
            let mut command = Command::new("ip");
            command.args(["-o", "monitor", "route", "nexthop"]).stdin(Stdio::null()).stdout(Stdio::piped());
            command.spawn().expect("start ip monitor")
        });
        let lines = Arc::<Mutex<Vec<(Instant, String)>>>::default();
        let (sink, stdout) = (Arc::clone(&lines), child.stdout.take().expect("its output"));
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                sink.lock().unwrap().push((Instant::now(), line));
            }
        });
        let watch = Self { child, lines };
        // It watches when it tells of what is done here; a route that is there already is not told of again.
        let mut metric = 0;
        eventually("ip monitor", PATIENCE, || {
            metric += 1;
            netns.ip(&format!("route add blackhole 192.0.0.83 metric {metric}"));
            watch.of_prefix("192.0.0.83").first().map(|_| ())
        });
        watch
    }

    /// What was told of `prefix` so far.
    pub fn of_prefix(&self, prefix: &str) -> Vec<(Instant, String)> {
        let lines = self.lines.lock().unwrap();
        lines
            .iter()
            .filter(|(_, line)| line.contains(prefix) || line.contains("id 83 group"))
            .cloned()
            .collect()
    }
}

impl Drop for RouteWatch {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! A million bindings: how long they take and how much they hold, and that all of it is given back. What is measured here
//! is recorded, not judged; the benchmarks judge.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, reload};
use spectrum_tests::deadline::eventually;
use spectrum_tests::dial::{assert_refused, dial_all};
use spectrum_tests::holdings::memory;
use spectrum_tests::maps::table;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::require::{self, Need};
use spectrum_tests::state::{BpfObjects, State};

/// Half of them neighbours, a quarter anywhere in an IPv4 network, a quarter anywhere in an IPv6 one.
const BINDINGS: usize = 1_000_000;

/// The share of [`BINDINGS`] that is bound: `SPECTRUM_TEST_SCALE`, else all.
fn scale() -> usize {
    let share = std::env::var("SPECTRUM_TEST_SCALE").ok().and_then(|share| share.parse::<f64>().ok());
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a share"
    )]
    let scaled = (BINDINGS as f64 * share.unwrap_or(1.0)) as usize;
    scaled.max(4_000)
}

/// Hosts that are bound.
struct Hosts {
    neighbours: Vec<IpAddr>,
    scattered: Vec<IpAddr>,
}

impl Hosts {
    fn draw(case: &mut Case, count: usize) -> Self {
        let first = Ipv4Addr::new(10, 0, 0, 0).to_bits();
        let neighbours =
            (0..count / 2).map(|host| Ipv4Addr::from_bits(first + u32::try_from(host).unwrap()).into());
        let mut scattered = HashSet::new();
        for (network, length) in [("11.0.0.0", 8), ("2001:db8::", 32)] {
            let all = scattered.len() + count / 4;
            while scattered.len() < all {
                scattered.insert(case.random.address(network.parse().unwrap(), length));
            }
        }
        let mut scattered: Vec<IpAddr> = scattered.into_iter().collect();
        scattered.sort_unstable();
        Self { neighbours: neighbours.collect(), scattered }
    }

    /// The file that binds port 80 of each host, the neighbours' to the service `neighbours`, and port 1 of everything.
    fn configuration(&self, neighbours: &str) -> String {
        let mut text = String::new();
        for (service, hosts) in [(neighbours, &self.neighbours), ("scattered", &self.scattered)] {
            let _ = write!(
                text,
                "[[service]]\nname = \"{service}\"\nrespond = \"hello\"\nbindings = [{{ ports = 80, prefix = ["
            );
            for host in hosts {
                let _ = write!(text, "\"{host}\",");
            }
            text.push_str("] }]\n");
        }
        text + SMALL
    }

    /// Some of either, with the service that should answer.
    fn sample<'a>(&self, case: &mut Case, neighbours: &'a str) -> Vec<(SocketAddr, &'a str)> {
        let mut sample = Vec::new();
        for (service, hosts) in [(neighbours, &self.neighbours), ("scattered", &self.scattered)] {
            for _ in 0..150 {
                let host = hosts[case.random.below::<usize>(hosts.len() as u64)];
                sample.push((SocketAddr::new(host, 80), service));
                sample.push((SocketAddr::new(host, 1), "everything"));
            }
        }
        sample
    }

    /// Addresses in the same networks, or ports of the same hosts, that are not bound.
    fn unbound(&self, case: &mut Case) -> Vec<SocketAddr> {
        let bound: HashSet<&IpAddr> = self.scattered.iter().collect();
        let strangers = (0..200)
            .map(|number| if number % 2 == 0 { ("11.0.0.0", 8) } else { ("2001:db8::", 32) })
            .map(|(network, length)| case.random.address(network.parse().unwrap(), length))
            .filter(|address| !bound.contains(address))
            .map(|address| SocketAddr::new(address, 80));
        let mut targets: Vec<SocketAddr> = strangers.collect();
        targets.extend(self.neighbours.iter().step_by(997).map(|host| SocketAddr::new(*host, 81)).take(100));
        targets
    }
}

/// A service that covers all hosts, so that a handful of routes makes them local.
const SMALL: &str = "[[service]]\nname = \"everything\"\nrespond = \"hello\"\nbindings = [{ ports = 1, prefix = [\"10.0.0.0/12\", \"11.0.0.0/8\", \"2001:db8::/32\"] }]\n";

fn assert_serves(case: &mut Case, hosts: &Hosts, neighbours: &str) {
    let sample = hosts.sample(case, neighbours);
    let services: HashMap<SocketAddr, &str> = sample.iter().copied().collect();
    let targets: Vec<SocketAddr> = sample.into_iter().map(|(target, _)| target).collect();
    for (target, heard) in dial_all(&case.server, &targets) {
        let heard = heard.unwrap_or_else(|error| panic!("{target}: {error}"));
        let service = services[&target];
        assert!(heard.text.contains(&format!("service={service} ")), "{target}: {heard:?}");
    }
    let unbound = hosts.unbound(case);
    assert_refused(&case.server, &unbound);
}

/// Waits until the kernel has freed the table.
fn await_end(case: &Case, table: u32) {
    eventually("the end of a table that was replaced", Duration::from_secs(20), || {
        (!case.server.output(&format!("bpftool map show id {table}")).status.success()).then_some(())
    });
}

fn record(text: &str) {
    // Not `println!`: the record is wanted of runs that pass.
    let mut stdout = io::stdout();
    writeln!(stdout, "RECORD scale: {text}").unwrap();
}

#[test]
fn million_bindings_load_answer_reload_and_unload() {
    let test = "million_bindings_load_answer_reload_and_unload";
    if !require::met(test, Path::SkLookup.needs()) || !require::met(test, &[Need::Bpftool]) {
        return;
    }
    let mut case = Case::new(Path::SkLookup, Family::V4);
    let before = State::of(&case.server);
    let count = scale();
    let hosts = Hosts::draw(&mut case, count);
    configure(&case.server, &hosts.configuration("one"));

    let begun = Instant::now();
    let instance = case.start(CONFIG);
    let started = begun.elapsed();
    let bound = count + 3;
    assert_eq!(instance.ready().bindings, bound);
    let (first, large) = table(&case.server, &instance);
    record(&format!(
        "{bound} bindings ready in {started:.2?}, {large} bytes in the kernel ({} a binding), peak {} KiB resident",
        large / bound as u64,
        memory(&instance, "VmHWM")
    ));
    assert!(case.server.ip("route show table local proto 83").lines().count() < 16);
    assert_serves(&mut case, &hosts, "one");

    configure(&case.server, &hosts.configuration("other"));
    let begun = Instant::now();
    reload(&case.server, &instance).unwrap();
    record(&format!("reloaded in {:.2?}, peak {} KiB resident", begun.elapsed(), memory(&instance, "VmHWM")));
    assert_serves(&mut case, &hosts, "other");
    await_end(&case, first);
    let (second, _) = table(&case.server, &instance);

    configure(&case.server, SMALL);
    let begun = Instant::now();
    reload(&case.server, &instance).unwrap();
    record(&format!(
        "reloaded to 3 bindings in {:.2?}, {} KiB resident",
        begun.elapsed(),
        memory(&instance, "VmRSS")
    ));
    await_end(&case, second);
    let (_, small) = table(&case.server, &instance);
    // Of pages of 256 KiB there is one at least.
    assert!(small < 512 << 10, "{small} bytes for three bindings");
    let unbound = hosts.unbound(&mut case);
    assert_refused(&case.server, &unbound);

    configure(&case.server, &hosts.configuration("one"));
    reload(&case.server, &instance).unwrap();
    assert_serves(&mut case, &hosts, "one");
    let held = BpfObjects::of_process(instance.pid());
    let begun = Instant::now();
    instance.stop();
    record(&format!("stopped in {:.2?}", begun.elapsed()));
    held.assert_freed();
    before.assert_restored(&case.server, "all that");
}

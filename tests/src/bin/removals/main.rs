//! Random removals of what an instance has raised, on every path at once and under connections at a steady rate. A connection
//! may fail only while something was missing. `removals COUNT SEED` prints the times to repair; it is no test of its own,
//! since what it finds depends on how long it looks.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "this is test code: it panics where a test would"
)]

use std::fs;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, count_logged};
use spectrum_tests::deadline::perhaps;
use spectrum_tests::dial::call;
use spectrum_tests::instance::Instance;
use spectrum_tests::maps::forget_listener;
use spectrum_tests::netns::Netns;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::random::Random;
use spectrum_tests::require;
use spectrum_tests::state::BpfObjects;
use spectrum_tests::veth::client_of;

/// The connections in a second, all paths together.
const RATE: u32 = 500;

/// The threads that dial on one path, so that one that waits for a retransmission holds nobody up.
const DIALLERS: u32 = 16;

/// Longer than any repair may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The words of the log for a repair.
const PUT_BACK: &str = "put back what was removed";

const PREFIXES: [&str; 2] = ["192.0.2.0/24", "2001:db8::/64"];

/// One path's run.
#[derive(Debug, Default)]
struct Report {
    /// The time from each removal until all of it was there again.
    repairs: Vec<Duration>,
    served: usize,
    /// Connections that failed while something was missing.
    excused: usize,
    /// Connections that failed otherwise, and removals that nobody repaired.
    errors: Vec<String>,
}

/// What happened, and when.
#[derive(Debug, Default)]
struct Journal {
    /// From just before a removal until just after its repair.
    outages: Mutex<Vec<(Instant, Instant)>>,
    failures: Mutex<Vec<(Instant, Instant, String)>>,
    served: AtomicUsize,
    is_over: AtomicBool,
}

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u64>().expect("a number"));
    let (Some(count), Some(seed)) = (numbers.next(), numbers.next()) else {
        eprintln!("usage: removals COUNT SEED");
        return ExitCode::from(2);
    };
    let mut seeds = Random::from_seed(seed);
    let paths: Vec<(Path, u64)> = Path::ALL.into_iter().map(|path| (path, seeds.bits())).collect();
    let paths: Vec<(Path, u64)> = paths
        .into_iter()
        .filter(|(path, _)| require::met(&format!("removals over {path}"), path.needs()))
        .collect();
    let share = count.div_ceil(paths.len().max(1) as u64);
    let rate = RATE / u32::try_from(paths.len().max(1)).unwrap();
    let running: Vec<_> = paths
        .into_iter()
        .map(|(path, seed)| (path, thread::spawn(move || run(path, seed, share, rate))))
        .collect();
    let mut failed = running.is_empty();
    let mut all = Vec::new();
    for (path, running) in running {
        let Report { repairs, served, excused, errors } = running.join().expect("a report");
        println!(
            "{path}: {}; {served} connections served, {excused} failed while something was missing, {} errors",
            times(repairs.clone()),
            errors.len()
        );
        for error in errors.iter().take(10) {
            println!("  {error}");
        }
        failed |= !errors.is_empty();
        all.extend(repairs);
    }
    println!("all paths: {}, seed {seed}", times(all));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn times(mut repairs: Vec<Duration>) -> String {
    repairs.sort_unstable();
    let at = |part: usize| repairs.get(repairs.len() * part / 100).copied().unwrap_or_default().as_millis();
    let longest = repairs.last().copied().unwrap_or_default().as_millis();
    format!(
        "{} removals, time to repair p50 {} ms, p99 {} ms, max {longest} ms",
        repairs.len(),
        at(50),
        at(99)
    )
}

fn run(path: Path, seed: u64, count: u64, rate: u32) -> Report {
    let case = Case::new(path, Family::V4);
    let client = client_of(&case.server);
    let mut random = Random::from_seed(seed);
    let [v4, v6] = PREFIXES;
    configure(
        &case.server,
        &format!(
            "[dispatcher]\nrepairs-per-minute = 6000\n[[service]]\nname = \"default\"\nrespond = \"hello\"\nbindings = [{{ prefix = \
             [\"{v4}\", \"{v6}\"], ports = 80 }}]\n"
        ),
    );
    let instance = case.start(CONFIG);
    let journal = Journal::default();
    let mut report = Report::default();
    thread::scope(|scope| {
        for number in 0..DIALLERS {
            let (client, journal) = (&client, &journal);
            let pause = Duration::from_secs(1) * DIALLERS / rate;
            scope.spawn(move || dial(client, journal, number, pause));
        }
        for _ in 0..count {
            let begun = Instant::now();
            let logged = count_logged(&instance, PUT_BACK);
            let (what, repairs) = remove(&case, &instance, &mut random);
            let repaired =
                perhaps(PATIENCE, || (count_logged(&instance, PUT_BACK) >= logged + repairs).then_some(()));
            let ended = Instant::now();
            journal.outages.lock().unwrap().push((begun, ended));
            match repaired {
                Some(()) => report.repairs.push(ended - begun),
                None => report.errors.push(format!("{what}: not put back within {PATIENCE:?}")),
            }
            // Connections that all of it serves come between.
            thread::sleep(Duration::from_millis(random.bits() % 200));
        }
        journal.is_over.store(true, Ordering::Relaxed);
    });
    let outages = journal.outages.into_inner().unwrap();
    for (begun, ended, error) in journal.failures.into_inner().unwrap() {
        if outages.iter().any(|(from, until)| *from <= ended && begun <= *until) {
            report.excused += 1;
        } else {
            report.errors.push(format!("lost: {error}"));
        }
    }
    report.served = journal.served.into_inner();
    instance.stop();
    report
}

/// Takes something away; what it was, and how many repairs that makes.
fn remove(case: &Case, instance: &Instance, random: &mut Random) -> (String, usize) {
    let server = &case.server;
    let (ip, prefix, iptables) = match random.bits() % 2 {
        0 => ("", PREFIXES[0], "iptables"),
        _ => ("-6 ", PREFIXES[1], "ip6tables"),
    };
    let line = match random.bits() % 6 {
        0 => format!("ip {ip}route del local {prefix} dev lo table local"),
        1 => format!("ip {ip}route flush table local proto 83"),
        2 => {
            let directory = format!("/run/spectrum/{}", server.inode());
            server.run(|| fs::remove_dir_all(&directory)).expect("remove the directory");
            return (format!("rm -r {directory}"), 2);
        }
        drawn => match case.path {
            Path::SkLookup if drawn == 3 => {
                forget_listener(server, instance, u32::from(!ip.is_empty()));
                return ("bpftool map delete".to_owned(), 1);
            }
            Path::SkLookup => {
                let link = BpfObjects::of_process(instance.pid()).ids("link").next().expect("a link");
                format!("bpftool link detach id {link}")
            }
            Path::TproxyNftables => "nft flush ruleset".to_owned(),
            Path::TproxyIptablesLegacy | Path::TproxyIptablesNft => {
                let line = format!("{iptables} -t mangle -F");
                let status = server.run(|| case.path.command(&line).status());
                assert!(status.expect("run iptables").success());
                return (line, 1);
            }
        },
    };
    server.command(&line);
    (line, 1)
}

/// Dials again and again, with so long a pause between beginnings.
fn dial(client: &Netns, journal: &Journal, number: u32, pause: Duration) {
    let mut targets =
        ["192.0.2.9:80", "[2001:db8::9]:80"].map(|target| target.parse().unwrap()).into_iter().cycle();
    let mut next = Instant::now() + pause * number / DIALLERS;
    client.run(|| {
        while !journal.is_over.load(Ordering::Relaxed) {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next = (next + pause).max(Instant::now());
            let target: SocketAddr = targets.next().expect("a cycle");
            let begun = Instant::now();
            match exchange(client, target) {
                Ok(text) if text.contains("service=default") => {
                    journal.served.fetch_add(1, Ordering::Relaxed);
                }
                outcome => {
                    let error = format!("{target}: {outcome:?}");
                    journal.failures.lock().unwrap().push((begun, Instant::now(), error));
                }
            }
        }
    });
}

fn exchange(client: &Netns, target: SocketAddr) -> io::Result<String> {
    let mut stream = call(client, target)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

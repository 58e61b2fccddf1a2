//! A long run: random configurations, reloaded under mixed traffic on every path at once, with instances killed and
//! started again. Every answer is compared with the slow scan. `cargo xtask soak` builds and runs it; it is no test of its
//! own, since what it finds depends on how long it looks.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "this is test code: it panics where a test would"
)]

mod arena;
mod disturbance;
mod drawn;
mod lives;
mod siege;
mod tally;
mod traffic;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use spectrum_tests::path::Path;
use spectrum_tests::random::Random;
use spectrum_tests::require;

use disturbance::Sink;
use lives::Soak;
use siege::Siege;
use tally::Report;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u64>().expect("a number"));
    let (Some(seconds), Some(seed)) = (numbers.next(), numbers.next()) else {
        eprintln!("usage: soak SECONDS SEED");
        return ExitCode::from(2);
    };
    let mut seeds = Random::from_seed(seed);
    let paths: Vec<(Path, u64)> = Path::ALL.into_iter().map(|path| (path, seeds.bits())).collect();
    let running: Vec<_> = paths
        .into_iter()
        .filter(|(path, _)| require::met(&format!("soak over {path}"), path.needs()))
        .map(|(path, seed)| {
            let soaked = move || Soak::over(path, seed, Duration::from_secs(seconds)).run();
            (path, thread::Builder::new().name(path.to_string()).spawn(soaked).expect("a thread"))
        })
        .collect();
    let besieged: Vec<_> = [(Path::SkLookup, Sink::Reader), (Path::TproxyNftables, Sink::Disk)]
        .into_iter()
        .filter(|(path, _)| require::met(&format!("siege over {path}"), path.needs()))
        .map(|(path, sink)| {
            let seed = seeds.bits();
            let besieged = move || Siege::over(path, sink, seed).run(Duration::from_secs(seconds));
            (
                path,
                sink,
                thread::Builder::new().name(format!("siege-{path}")).spawn(besieged).expect("a thread"),
            )
        })
        .collect();
    println!(
        "soak: {} paths for {seconds} s and what it takes to look for leaks, seed {seed}",
        running.len()
    );

    let mut failed = running.is_empty();
    for (path, soaked) in running {
        let report: Report = soaked.join().unwrap_or_else(|panic| Report::of_a_panic(panic.as_ref()));
        println!("{path}: {report}");
        failed |= !report.errors.is_empty();
    }
    for (path, sink, besieged) in besieged {
        let report: Report = besieged.join().unwrap_or_else(|panic| Report::of_a_panic(panic.as_ref()));
        println!("siege over {path}, log to {sink}: {report}");
        failed |= !report.errors.is_empty();
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

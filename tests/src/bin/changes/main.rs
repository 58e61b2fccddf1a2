//! Changes of an instance under traffic: reloads that change every service, upgrades, and deaths of its worker process, over sk_lookup
//! and TPROXY, IPv4 and IPv6, with SYN cookies for who overflows a queue and for everybody. Nobody may be refused, reset or kept
//! waiting, but for what a process that was killed had open. `changes SECONDS SEED [RATE]`, where the rate is that of connections a
//! second on each path; it is no test of its own, since what it finds depends on how long it looks.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "this is test code: it panics where a test would"
)]

mod losses;
mod services;
mod traffic;

use std::fs;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, reload};
use spectrum_tests::datagram_origin::DatagramOrigin;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::instance::{Instance, Launch, workers_of};
use spectrum_tests::origin::Origin;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::random::Random;
use spectrum_tests::require::{self, Need};
use spectrum_tests::state::State;
use spectrum_tests::veth::client_of;

use losses::Losses;
use services::Services;
use traffic::Traffic;

/// The pause between deaths of a worker process: more often than four times a minute the next one is made to wait.
const BETWEEN_DEATHS: Duration = Duration::from_secs(16);

/// The pause between upgrades. The worker processes of before drain for as long as their connections are there.
const BETWEEN_UPGRADES: Duration = Duration::from_secs(9);

/// The connections a second on each path, where nothing else is asked for.
const RATE: u64 = 500;

/// The longest pause between two changes. Some come while the last one's listeners are still there, some do not.
const PAUSE_MS: u64 = 900;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u64>().expect("a number"));
    let (Some(seconds), Some(seed)) = (numbers.next(), numbers.next()) else {
        eprintln!("usage: changes SECONDS SEED [RATE]");
        return ExitCode::from(2);
    };
    let rate = numbers.next().unwrap_or(RATE).max(1);
    let mut seeds = Random::from_seed(seed);
    let variants = [Path::SkLookup, Path::TproxyNftables]
        .into_iter()
        .flat_map(|path| [Family::V4, Family::V6].map(|family| (path, family)));
    let running: Vec<_> = variants
        .filter(|(path, family)| {
            let name = format!("changes over {path}");
            require::met(&name, path.needs()) && (*family == Family::V4 || require::met(&name, &[Need::Ipv6]))
        })
        .map(|(path, family)| {
            let seed = seeds.bits();
            let name = format!("{path} {family:?}");
            let changed = move || change(path, family, seed, rate, Duration::from_secs(seconds));
            (name.clone(), thread::Builder::new().name(name).spawn(changed).expect("a thread"))
        })
        .collect();
    println!("changes: {} variants for {seconds} s, {rate} connections/s each, seed {seed}", running.len());
    let mut failed = running.is_empty();
    for (name, changed) in running {
        if let Ok(losses) = changed.join() {
            println!("{name}: {losses}");
            failed |= losses.are_any();
        } else {
            println!("{name}: gave up");
            failed = true;
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Changes an instance again and again under traffic, half of the time with cookies for everybody: what was lost.
fn change(path: Path, family: Family, seed: u64, rate: u64, time: Duration) -> Losses {
    let case = Case::new(path, family);
    let client = client_of(&case.server);
    case.server.sysctl("net/ipv4/tcp_migrate_req", "0");
    let mut random = Random::from_seed(seed);
    let echoes = [(); 2].map(|()| Origin::echo(&case.server, case.loopback()).address());
    let tellers = [(); 2].map(|()| DatagramOrigin::observer(&case.server, (case.loopback(), 0).into()));
    let origins = tellers.each_ref().map(DatagramOrigin::address);
    let mut services = Services::first(case.prefix(), echoes, origins);
    configure(&case.server, &services.text());
    let before = State::of(&case.server);
    let instance = case.start(&format!("{CONFIG} --drain 1d"));
    let losses = Losses::default();
    let traffic = Traffic::new(&client, case.address(9), rate, &losses);
    thread::scope(|scope| {
        traffic.flow(scope);
        for cookies in ["1", "2"] {
            case.server.sysctl("net/ipv4/tcp_syncookies", cookies);
            let until = Instant::now() + time / 2;
            let (mut last_death, mut last_upgrade) = (Instant::now(), Instant::now());
            while Instant::now() < until {
                if last_death.elapsed() > BETWEEN_DEATHS {
                    last_death = Instant::now();
                    losses.during_death(|| kill(&instance));
                } else if last_upgrade.elapsed() > BETWEEN_UPGRADES {
                    last_upgrade = Instant::now();
                    losses.upgraded(&Launch::new(&case.server).arguments("upgrade").finish());
                } else {
                    services.change(&mut random);
                    configure(&case.server, &services.text());
                    let done = reload(&case.server, &instance);
                    losses.changed(&services.last_change, done.map(drop));
                }
                thread::sleep(Duration::from_millis(random.below::<u64>(PAUSE_MS)));
            }
        }
        traffic.end();
    });
    losses.say_of(&instance);
    instance.stop();
    before.assert_restored(&case.server, "changes and a stop");
    losses
}

/// Kills the worker process that serves, and waits until it has done the last thing that it does.
fn kill(instance: &Instance) {
    let Some(worker) = workers_of(instance.pid()).pop() else { return };
    let _ = signal(Pid::from_raw(worker.cast_signed()), Signal::SIGKILL);
    eventually("the end of a worker process", PATIENCE, || {
        let stat = fs::read_to_string(format!("/proc/{worker}/stat")).unwrap_or_default();
        // Behind the name, which may have any characters in it.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        // Its first thread may be gone while others still read datagrams, and have sockets that datagrams come to.
        let others = fs::read_dir(format!("/proc/{worker}/task"))
            .map_or(0, |threads| threads.count().saturating_sub(1));
        (others == 0 && matches!(state, None | Some('Z' | 'X'))).then_some(())
    });
}

//! Start, stop, death and company: what is left behind, and what an instance does to another. Does not test steering.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use spectrum_tests::case::{BOTH_PREFIXES, Case};
use spectrum_tests::control::{CONFIG, configure};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_answered, assert_refused, call, dial};
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::on_each_path;
use spectrum_tests::origin::Origin;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::require::{self, Need, find_in_path};
use spectrum_tests::share;
use spectrum_tests::state::{BpfObjects, State};

on_each_path!(
    sigterm_leaves_nothing,
    sigint_leaves_nothing,
    sigkill_then_clean_leaves_nothing,
    sigkill_then_another_start_takes_over,
    clean_without_leftovers_changes_nothing,
    clean_touches_nothing_of_others,
    fifty_cycles_leak_nothing,
    instances_with_different_prefixes_do_not_disturb_each_other,
    same_prefix_twice_names_the_pid_of_the_other,
    route_that_was_there_before_stays,
    open_connection_finishes_during_the_drain,
    drain_ends_after_its_time,
    second_signal_ends_the_drain_at_once,
    signal_during_the_start_leaves_nothing,
    file_descriptors_may_run_out,
);

fn assert_serves(case: &Case) {
    assert_answered(&case.server, &case.targets_of_both());
}

fn sigterm_leaves_nothing(case: &mut Case) {
    ends_cleanly_after(case, Signal::SIGTERM);
}

fn sigint_leaves_nothing(case: &mut Case) {
    ends_cleanly_after(case, Signal::SIGINT);
}

fn ends_cleanly_after(case: &Case, signal: Signal) {
    let before = State::of(&case.server);
    let instance = case.start_on_both("");
    assert_serves(case);
    let held = BpfObjects::of_process(instance.pid());
    assert_eq!(held.is_complete(), case.path == Path::SkLookup, "{held:?}");
    assert_ne!(State::of(&case.server), before, "a running instance is not seen in the state");
    instance.signal(signal);
    let finished = instance.finish(PATIENCE);
    assert_eq!(finished.code(), 0, "{finished}");
    assert_eq!(finished.stdout.lines().count(), 1, "{finished}");
    before.assert_restored(&case.server, signal.as_ref());
    held.assert_freed();
}

/// Cleans, and returns what was removed. It is said once.
fn clean(case: &Case) -> Vec<String> {
    let finished = Launch::new(&case.server).arguments("clean").finish();
    assert_eq!((finished.code(), finished.stderr.as_str()), (0, ""), "{finished}");
    let removed = finished.stdout.lines().map(|line| line.strip_prefix("removed ").unwrap().to_owned());
    removed.collect()
}

fn sigkill_then_clean_leaves_nothing(case: &mut Case) {
    let before = State::of(&case.server);
    let instance = case.start_on_both("");
    let (held, id) = (BpfObjects::of_process(instance.pid()), instance.id(&case.server));
    instance.kill();
    // The kernel detaches by itself, before anybody cleans.
    held.assert_freed();
    let mut left: Vec<String> = match case.path {
        Path::SkLookup => Vec::new(),
        Path::TproxyNftables => vec![format!("table ip spectrum-{id}"), format!("table ip6 spectrum-{id}")],
        Path::TproxyIptablesLegacy | Path::TproxyIptablesNft => {
            let variant = if case.path == Path::TproxyIptablesNft { "nft" } else { "legacy" };
            let chain = |tool| format!("chain SPECTRUM-{id} of {tool} ({variant})");
            vec![chain("ip6tables"), chain("iptables")]
        }
    };
    for part in &mut left {
        part.insert_str(0, "firewall ");
    }
    left.extend(["local route 192.0.2.0/24", "local route 2001:db8::/64"].map(str::to_owned));
    assert_eq!(clean(case), left);
    before.assert_restored(&case.server, "SIGKILL and clean");
    clean(case);
    before.assert_restored(&case.server, "a second clean");
}

fn sigkill_then_another_start_takes_over(case: &mut Case) {
    let before = State::of(&case.server);
    case.start_on_both("").kill();
    let instance = case.start_on_both("");
    assert_serves(case);
    instance.kill();
    // A start on other prefixes sweeps the dead instance's too.
    let instance = case.start("--prefix 203.0.113.0/24");
    assert_answered(&case.server, &["203.0.113.7:7".parse().unwrap()]);
    let routes = State::of(&case.server).section("ip route show").join("\n");
    assert!(!routes.contains("192.0.2.0/24"), "a dead instance's route is still there:\n{routes}");
    instance.stop();
    before.assert_restored(&case.server, "SIGKILL, start, SIGKILL, start and stop");
}

fn clean_without_leftovers_changes_nothing(case: &mut Case) {
    let before = State::of(&case.server);
    clean(case);
    before.assert_restored(&case.server, "clean");
    let instance = case.start_on_both("");
    let during = State::of(&case.server);
    clean(case);
    during.assert_restored(&case.server, "clean beside a live instance");
    assert_serves(case);
    instance.stop();
    before.assert_restored(&case.server, "stop");
}

fn clean_touches_nothing_of_others(case: &mut Case) {
    case.server.ip("route add local 198.18.0.0/15 dev lo");
    case.server.ip("-6 route add local 2001:2::/48 dev lo");
    if case.path == Path::TproxyNftables {
        // One of the names differs from ours by a letter, the other by not ending in a number.
        for table in ["ip spectral-1", "inet spectrum-theirs"] {
            let mut command = case.path.command(&format!("nft add table {table}"));
            assert!(case.server.run(|| command.status().unwrap().success()));
            let mut command = case.path.command(&format!("nft add chain {table} theirs"));
            assert!(case.server.run(|| command.status().unwrap().success()));
        }
    } else if case.path != Path::SkLookup {
        for tool in ["iptables", "ip6tables"] {
            for rule in ["-N THEIRS", "-A THEIRS -p tcp --dport 80 -j ACCEPT", "-A PREROUTING -j THEIRS"] {
                let mut command = case.path.command(&format!("{tool} -t mangle {rule}"));
                assert!(case.server.run(|| command.status().unwrap().success()));
            }
        }
    }
    let before = State::of(&case.server);
    case.start_on_both("").kill();
    clean(case);
    before.assert_restored(&case.server, "SIGKILL and clean");
    case.start_on_both("").stop();
    before.assert_restored(&case.server, "start and stop");
}

fn fifty_cycles_leak_nothing(case: &mut Case) {
    let before = State::of(&case.server);
    let mut held = Vec::new();
    for _ in 0..share::of(50).max(2) {
        let instance = case.start_on_both("");
        assert_answered(&case.server, &case.targets_of_both()[..1]);
        held.push(BpfObjects::of_process(instance.pid()));
        instance.stop();
    }
    before.assert_restored(&case.server, "50 cycles");
    for held in held {
        held.assert_freed();
    }
}

fn instances_with_different_prefixes_do_not_disturb_each_other(case: &mut Case) {
    let before = State::of(&case.server);
    let others: [SocketAddr; 2] =
        ["198.51.100.9:4443", "[2001:db8:1::9]:4443"].map(|target| target.parse().unwrap());
    let start_other = || case.start("--prefix 198.51.100.0/24 --prefix 2001:db8:1::/64");

    let first = case.start_on_both("");
    let alone = State::of(&case.server);
    let second = start_other();
    assert_serves(case);
    assert_answered(&case.server, &others);

    second.stop();
    alone.assert_restored(&case.server, "the stop of the other instance");
    assert_serves(case);

    start_other().kill();
    clean(case);
    alone.assert_restored(&case.server, "SIGKILL of the other instance and clean");
    assert_serves(case);

    let second = start_other();
    first.kill();
    assert_answered(&case.server, &others);
    clean(case);
    assert_answered(&case.server, &others);
    second.stop();
    before.assert_restored(&case.server, "the end of both");
}

fn same_prefix_twice_names_the_pid_of_the_other(case: &mut Case) {
    let before = State::of(&case.server);
    let first = case.start_on_both("");
    let during = State::of(&case.server);
    for prefixes in [BOTH_PREFIXES, "--prefix 192.0.2.0/24", "--prefix 203.0.113.0/24 --prefix 2001:db8::/64"]
    {
        let finished = case.launch(prefixes).finish();
        assert_eq!(finished.code(), 1, "{finished}");
        assert!(finished.stderr.contains(&first.pid().to_string()), "no pid: {finished}");
        assert!(
            finished.stderr.contains("192.0.2.0/24") || finished.stderr.contains("2001:db8::/64"),
            "no prefix: {finished}"
        );
        during.assert_restored(&case.server, "a refused second instance");
        assert_serves(case);
    }
    first.stop();
    before.assert_restored(&case.server, "stop");
    // The claim ends with the instance, and with its death.
    case.start_on_both("").kill();
    case.start_on_both("").stop();
    before.assert_restored(&case.server, "another start and stop");
}

fn route_that_was_there_before_stays(case: &mut Case) {
    case.server.ip("route add local 192.0.2.0/24 dev lo src 127.0.0.1");
    case.server.ip("-6 route add local 2001:db8::/64 dev lo");
    let before = State::of(&case.server);
    let instance = case.start_on_both("");
    assert_serves(case);
    instance.stop();
    before.assert_restored(&case.server, "start and stop");
    case.start_on_both("").kill();
    clean(case);
    before.assert_restored(&case.server, "SIGKILL and clean");
}

/// The program relaying to an echo server, and a connection through it that is open; and the state before them, with
/// the echo server.
fn with_open_connection(case: &Case, arguments: &str) -> (State, Instance, std::net::TcpStream) {
    let origin = Origin::echo(&case.server, case.loopback());
    let before = State::of(&case.server);
    let instance = case.start_on_both(&format!("--origin {} {arguments}", origin.address()));
    let mut stream = call(&case.server, case.targets_of_both()[0]).unwrap();
    assert_echoes(&mut stream);
    (before, instance, stream)
}

fn assert_echoes(stream: &mut std::net::TcpStream) {
    stream.write_all(b"still there").unwrap();
    let mut echoed = [0; 11];
    stream.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"still there");
}

fn await_refusal(case: &Case) {
    eventually("refusal of new connections", PATIENCE, || {
        // One that still got in is relayed, and would hear nothing for long.
        call(&case.server, case.targets_of_both()[0]).is_err().then_some(())
    });
}

fn open_connection_finishes_during_the_drain(case: &mut Case) {
    let (before, mut instance, mut stream) = with_open_connection(case, "--drain 60s");
    instance.signal(Signal::SIGTERM);
    await_refusal(case);
    assert_echoes(&mut stream);
    assert!(instance.is_running());
    let asked = Launch::new(&case.server).arguments("status").finish();
    assert_eq!(asked.code(), 0, "{asked}");
    let (id, pid) = (instance.id(&case.server), instance.pid());
    assert!(asked.stdout.starts_with(&format!("instance {id} (process {pid}): draining")), "{asked}");
    drop(stream);
    let started = Instant::now();
    let finished = instance.finish(PATIENCE);
    assert!(started.elapsed() < Duration::from_secs(30), "nothing was left to drain");
    assert_eq!(finished.code(), 0, "{finished}");
    before.assert_restored(&case.server, "drain");
}

fn drain_ends_after_its_time(case: &mut Case) {
    let (before, instance, mut stream) = with_open_connection(case, "--drain 1s");
    let started = Instant::now();
    instance.signal(Signal::SIGTERM);
    let finished = instance.finish(PATIENCE);
    assert!(started.elapsed() >= Duration::from_millis(900), "ended before the time was over: {finished}");
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    before.assert_restored(&case.server, "drain");
}

fn second_signal_ends_the_drain_at_once(case: &mut Case) {
    let (before, mut instance, mut stream) = with_open_connection(case, "--drain 600s");
    instance.signal(Signal::SIGTERM);
    await_refusal(case);
    assert_echoes(&mut stream);
    assert!(instance.is_running());
    instance.signal(Signal::SIGTERM);
    instance.finish(PATIENCE);
    before.assert_restored(&case.server, "a second signal");
}

fn signal_during_the_start_leaves_nothing(case: &mut Case) {
    let before = State::of(&case.server);
    for microseconds in [0, 300, 1000, 3000, 5000, 8000, 12_000, 20_000, 30_000, 50_000, 80_000] {
        let instance = case.launch(BOTH_PREFIXES).spawn();
        let started = Instant::now();
        eventually("the moment", PATIENCE, || {
            (started.elapsed() >= Duration::from_micros(microseconds)).then_some(())
        });
        instance.signal(Signal::SIGTERM);
        instance.finish(PATIENCE);
        before.assert_restored(&case.server, &format!("SIGTERM {microseconds} µs after the start"));
    }
}

fn file_descriptors_may_run_out(case: &mut Case) {
    const LIMIT: usize = 100;
    let origin = Origin::echo(&case.server, case.loopback());
    let before = State::of(&case.server);
    let prlimit = find_in_path("prlimit").unwrap();
    let instance = case
        .launch(&format!("{BOTH_PREFIXES} --origin {}", origin.address()))
        .through(&format!("{} --nofile={LIMIT}:{LIMIT}", prlimit.display()))
        .start();
    let target = case.targets_of_both()[0];
    // More than can be served: what is over is reset.
    let mut first = call(&case.server, target).unwrap();
    assert_echoes(&mut first);
    let streams: Vec<_> = (0..LIMIT * 2).filter_map(|_| call(&case.server, target).ok()).collect();
    eventually("a word about it", PATIENCE, || {
        instance.stderr().contains("out of descriptors").then_some(())
    });
    // What is open goes on.
    assert_echoes(&mut first);
    drop((first, streams));
    // By every worker: each gives its descriptors back in its own time.
    eventually("service again", PATIENCE, || {
        (0..20).try_for_each(|_| {
            let mut stream = call(&case.server, target).ok()?;
            stream.write_all(b"x").ok()?;
            stream.read_exact(&mut [0]).ok()
        })
    });
    let finished = instance.stop();
    let complaints = finished.stderr.lines().filter(|line| line.contains("out of descriptors:")).count();
    // One a second and worker, perhaps, and not one a connection.
    assert!((1..=LIMIT).contains(&complaints), "{complaints} complaints: {finished}");
    // Nothing was accepted that could not be served.
    assert!(!finished.stderr.contains("Too many open files"), "{finished}");
    before.assert_restored(&case.server, "running out of descriptors");
    assert_refused(&case.server, &[SocketAddr::new(case.loopback(), target.port())]);
}

#[test]
fn the_example_runs_as_it_is() {
    let test = "the_example_runs_as_it_is";
    // Its transparent service takes nft, whatever steers.
    if !require::met(test, Path::SkLookup.needs()) || !require::met(test, &[Need::Nftables]) {
        return;
    }
    let case = Case::new(Path::SkLookup, Family::V4);
    let before = State::of(&case.server);
    // The sources need not be where the tests run.
    configure(&case.server, include_str!("../../config/spectrum.toml"));
    let instance = case.start(CONFIG);
    let heard = dial(&case.server, "192.0.2.5:22".parse().unwrap()).unwrap();
    assert!(heard.text.contains("service=catch-all "), "{heard:?}");
    let status = Launch::new(&case.server).arguments("status").finish();
    assert_eq!(status.code(), 0, "{status}");
    assert!(
        status.stdout.contains(&format!("\nfirewall: table inet spectrum-{}\n", instance.id(&case.server))),
        "{status}"
    );
    let longest = status.stdout.lines().map(|line| line.chars().count()).max().unwrap();
    // An origin's row has what it was dialled for, what failed, and its bytes.
    assert!(longest <= 180, "{longest} columns:\n{status}");
    instance.stop();
    before.assert_restored(&case.server, "the example");
}

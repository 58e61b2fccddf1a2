//! The worker process dies at a moment when nobody expects it: its listeners, its counters and what was set by hand stay, and
//! another one serves. What the processes may do is tested elsewhere.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use spectrum_tests::admin::{await_value, get};
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, await_logged, configure, connect, count_logged, reload};
use spectrum_tests::datagram::assert_echoes;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{call, dial};
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::origin::Origin;
use spectrum_tests::state::State;
use spectrum_tests::{on_every_path, on_one_path};

on_every_path!(who_waits_in_a_queue_is_served_by_the_next, nothing_is_left_of_either);

on_one_path!(
    what_is_counted_and_set_by_hand_outlives_it,
    a_reload_right_after_its_end_takes_effect,
    one_that_ends_again_and_again_is_started_ever_more_slowly,
    a_reload_brings_the_next_one_no_sooner,
    one_that_is_stopped_is_missed_and_another_takes_its_place,
    one_process_alone_serves_as_well,
    a_steerer_that_is_stopped_leaves_no_datagram_unanswered,
);

/// What is said when the next one has to wait.
const BRAKE: &str = "worker processes end again and again";

/// Kills the worker process of `instance`: the process id that it had.
fn kill_worker(instance: &Instance) -> u32 {
    instance.signal_worker(Signal::SIGKILL)
}

fn await_another(instance: &Instance, before: u32) {
    eventually("another worker process", PATIENCE, || (instance.worker() != before).then_some(()));
}

fn service(case: &Case, keys: &str) -> String {
    format!(
        "[[service]]\nname = \"web\"\nbindings = [{{ prefix = \"{}\", ports = 80 }}]\n{keys}\n",
        case.prefix()
    )
}

fn status(case: &Case) -> Value {
    let finished = Launch::new(&case.server).arguments("status --json").finish();
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"))
}

/// The text that a connection gets which is open already, to its end.
fn heard(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_to_string(&mut text).unwrap_or_else(|error| panic!("{error} behind {text:?}"));
    text
}

fn who_waits_in_a_queue_is_served_by_the_next(case: &mut Case) {
    let instance = case.start_on_prefix();
    let targets: Vec<SocketAddr> = (0..50).map(|_| case.any_target()).collect();
    for life in 1..=3 {
        kill_worker(&instance);
        // Some of these find nobody who would accept, and all of them wait.
        let waiting: Vec<TcpStream> =
            targets.iter().map(|target| call(&case.server, *target).unwrap()).collect();
        for stream in waiting {
            assert!(heard(stream).starts_with("hello world"), "{}", instance.stderr());
        }
        // One that is killed before it serves has not ended, but not begun.
        await_logged(&instance, "another worker process serves", life);
    }
    await_logged(&instance, "the worker process has ended before its time", 3);
    assert!(status(case).get("missing").is_none(), "{}", status(case));
    instance.stop();
}

fn nothing_is_left_of_either(case: &mut Case) {
    let before = State::of(&case.server);
    let instance = case.start_on_prefix();
    kill_worker(&instance);
    let target = case.any_target();
    assert!(dial(&case.server, target).is_ok());
    instance.stop();
    before.assert_restored(&case.server, "a death of the worker process");
    // Who has nobody to tell it anything ends as well.
    let instance = case.start_on_prefix();
    let worker = Pid::from_raw(i32::try_from(instance.worker()).unwrap());
    instance.kill();
    eventually("the end of the worker process", PATIENCE, || kill(worker, None).is_err().then_some(()));
    assert_eq!(Launch::new(&case.server).arguments("clean").finish().code(), 0);
    before.assert_restored(&case.server, "SIGKILL and clean");
}

fn what_is_counted_and_set_by_hand_outlives_it(case: &mut Case) {
    let admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9180);
    let (one, two) = (
        Origin::saying(&case.server, (case.loopback(), 0).into(), "one"),
        Origin::saying(&case.server, (case.loopback(), 0).into(), "two"),
    );
    let origins = format!("origins = [\"{}\", \"{}\"]", one.address(), two.address());
    configure(&case.server, &service(case, &origins));
    let instance = case.start(&format!("{CONFIG} --workers 2 --admin {admin}"));
    let words = format!("origin web {} drain", one.address());
    assert_eq!(Launch::new(&case.server).arguments(&words).finish().code(), 0);
    let target = SocketAddr::new(case.any_address(), 80);
    for life in 1..=3_u32 {
        for _ in 0..5 {
            assert_eq!(dial(&case.server, target).unwrap().text, "two");
        }
        let sample = "opened_sessions_total{service=\"web\",protocol=\"tcp\"}";
        await_value(&case.server, admin, sample, f64::from(5 * life));
        let before = kill_worker(&instance);
        await_another(&instance, before);
        await_value(&case.server, admin, "repairs_total{what=\"workers\"}", f64::from(life));
    }
    assert_eq!(dial(&case.server, target).unwrap().text, "two");
    instance.stop();
}

fn a_reload_right_after_its_end_takes_effect(case: &mut Case) {
    configure(&case.server, &service(case, "respond = \"hello\""));
    let instance = case.start(CONFIG);
    let target = SocketAddr::new(case.any_address(), 80);
    for answer in ["echo", "hello", "echo"] {
        configure(&case.server, &service(case, &format!("respond = \"{answer}\"")));
        kill_worker(&instance);
        reload(&case.server, &instance).unwrap_or_else(|refused| panic!("{refused:?}"));
        let mut stream = call(&case.server, target).unwrap();
        if answer == "echo" {
            stream.write_all(b"once").unwrap();
            stream.read_exact(&mut [0; 4]).unwrap();
        } else {
            assert!(heard(stream).starts_with("hello world"));
        }
    }
    instance.stop();
}

fn one_that_ends_again_and_again_is_started_ever_more_slowly(case: &mut Case) {
    let admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9181);
    configure(&case.server, &service(case, "respond = \"hello\""));
    let instance = case.start(&format!("{CONFIG} --admin {admin}"));
    let mut before = 0;
    // Whoever asks comes too late where the wait is short.
    let said = (0..12).find_map(|_| {
        await_another(&instance, before);
        let waits = count_logged(&instance, BRAKE);
        before = kill_worker(&instance);
        eventually("the end", PATIENCE, || {
            (count_logged(&instance, BRAKE) > waits || instance.worker() != before).then_some(())
        });
        let (code, text) = get(&case.server, admin, "/readyz").unwrap();
        let missing = status(case)["missing"][0].as_str().map(str::to_owned);
        (code == 503).then_some((text, missing?))
    });
    let (text, missing) = said.unwrap_or_else(|| panic!("{}", instance.stderr()));
    assert!(text.contains("the workers missing") && missing.contains("the workers"), "{text} {missing}");
    // It is heard all the same, and whoever comes meanwhile waits.
    assert!(connect(&case.server, &instance).ask("status").is_ok());
    let target = SocketAddr::new(case.any_address(), 80);
    let stream = call(&case.server, target).unwrap();
    assert!(heard(stream).starts_with("hello world"));
    eventually("readiness", PATIENCE, || (get(&case.server, admin, "/readyz").ok()?.0 == 200).then_some(()));
    instance.stop();
}

fn a_reload_brings_the_next_one_no_sooner(case: &mut Case) {
    configure(&case.server, &service(case, "respond = \"hello\""));
    let instance = case.start(CONFIG);
    let mut before = 0;
    let waited = (0..12).find_map(|_| {
        await_another(&instance, before);
        let waits = count_logged(&instance, BRAKE);
        let killed = Instant::now();
        before = kill_worker(&instance);
        reload(&case.server, &instance).unwrap_or_else(|refused| panic!("{refused:?}"));
        let took = killed.elapsed();
        assert_ne!(instance.worker(), before);
        (count_logged(&instance, BRAKE) > waits).then(|| {
            let log = instance.stderr();
            let (_, said) = log.rsplit_once("the next one is started in ").unwrap();
            (took, said.lines().next().unwrap().to_owned())
        })
    });
    let (took, said) = waited.unwrap_or_else(|| panic!("{}", instance.stderr()));
    let wait = match said.strip_suffix("ms") {
        Some(milliseconds) => Duration::from_millis(milliseconds.parse().unwrap()),
        None => Duration::from_secs(said.trim_end_matches('s').parse().unwrap()),
    };
    assert!(took >= wait, "{took:?} instead of {wait:?}");
    instance.stop();
}

fn one_that_is_stopped_is_missed_and_another_takes_its_place(case: &mut Case) {
    let instance = case.start_on_prefix();
    let target = case.any_target();
    let stopped = Instant::now();
    let before = instance.signal_worker(Signal::SIGSTOP);
    // Nobody asks anything of it meanwhile.
    await_logged(&instance, "it has not answered within 30 s", 1);
    assert!(stopped.elapsed() >= Duration::from_secs(25), "{:?}", stopped.elapsed());
    await_another(&instance, before);
    assert!(heard(call(&case.server, target).unwrap()).starts_with("hello world"));
    instance.stop();
}

fn one_process_alone_serves_as_well(case: &mut Case) {
    configure(&case.server, &service(case, "respond = \"hello\""));
    let instance = case.start(&format!("{CONFIG} --single-process"));
    assert_eq!(instance.processes().len(), 1);
    let target = SocketAddr::new(case.any_address(), 80);
    let stream = call(&case.server, target).unwrap();
    assert!(heard(stream).starts_with("hello world"));
    instance.stop();
}

/// Of ports below 1024 the worker process cannot have a socket but from the steerer.
fn a_steerer_that_is_stopped_leaves_no_datagram_unanswered(case: &mut Case) {
    let echo = "[[service]]\nname = \"echo\"\nrespond = \"echo\"\nbindings = [{ protocol = \"udp\", prefix = \"192.0.2.0/24\", ports = \"1-1000\" }, \
                { protocol = \"udp\", prefix = \"2001:db8::/64\", ports = \"1-1000\" }]\n";
    configure(&case.server, echo);
    let instance = case.start(CONFIG);
    let targets = |port: u16| {
        ["192.0.2.7", "2001:db8::7"].map(|address| SocketAddr::new(address.parse().unwrap(), port))
    };
    assert_echoes(&case.server, &targets(7));
    instance.signal(Signal::SIGSTOP);
    for port in [19, 53, 123] {
        assert_echoes(&case.server, &targets(port));
    }
    instance.signal(Signal::SIGCONT);
    assert_echoes(&case.server, &targets(161));
    instance.stop();
}

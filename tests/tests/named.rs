//! Clients whom a trusted proxy names, judged by their own addresses: on every path, by TCP and UDP, over reloads, renewals and the death
//! of the worker process. Whom the packets' own addresses let in is tested with policies.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, await_logged, configure, connect, reload};
use spectrum_tests::datagram::{client_from, hear};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::instance::{Instance, Launch, worker_of};
use spectrum_tests::judged::{
    Told, await_denied, client, connected, denied, own_clients, prefix_of, services_with, talks, told,
};
use spectrum_tests::naming::{v1, v2, v2_of_datagram};
use spectrum_tests::on_every_path;
use spectrum_tests::share;

on_every_path!(
    whom_a_trusted_proxy_names_is_judged_by_its_own_address,
    whom_a_proxy_names_is_judged_by_what_is_said_at_run_time_until_that_ends,
    a_reload_changes_who_may_be_named_and_touches_nothing_open,
    whoever_takes_the_place_of_a_worker_process_judges_alike,
    whom_a_proxy_names_comes_no_oftener_than_its_rate,
    of_two_policies_that_take_turns_one_judges_and_no_mixture,
);

/// The number of the first of four clients that are trusted proxies.
const PROXY: u8 = 200;

/// The number of reloads from one policy to another.
const SWAPS: usize = 12;

/// The time to wait for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(500);

/// A configuration whose service `web` trusts the proxy.
fn services(case: &Case, common: &str, policy: &str) -> String {
    let own = format!("trusted-proxies = \"{}\"\n{policy}", prefix_of(case, PROXY, 2));
    services_with(case, common, &own)
}

fn serve(case: &Case, text: &str) -> Instance {
    own_clients(case);
    configure(&case.server, text);
    case.start(CONFIG)
}

fn go_over(case: &Case, instance: &Instance, text: &str) {
    configure(&case.server, text);
    reload(&case.server, instance).unwrap_or_else(|error| panic!("{error:?}\n{}", instance.stderr()));
}

fn say(case: &Case, instance: &Instance, words: &str) -> String {
    let said = Launch::new(&case.server).arguments(words).finish();
    assert_eq!(said.code(), 0, "{said}\n{}", instance.stderr());
    said.stdout
}

fn web(case: &Case) -> SocketAddr {
    SocketAddr::new(case.address(7), 80)
}

/// A way in which a proxy names a client.
#[derive(Clone, Copy, Debug)]
enum Naming {
    V1,
    V2,
    Datagram,
}

/// True if `client` is answered, whom the proxy of this number names.
fn is_answered(case: &Case, proxy: u8, naming: Naming, client: IpAddr, expected: bool) -> bool {
    let (client, dialled) = (SocketAddr::new(client, 4711), web(case));
    // Of one header all addresses are of one family.
    let named = if client.is_ipv4() == dialled.is_ipv4() { dialled } else { client };
    if matches!(naming, Naming::Datagram) {
        let socket = client_from(&case.server, SocketAddr::new(self::client(case, proxy), 0), dialled);
        let header = v2_of_datagram(client, named);
        socket.send(&[&header[..], b"hello"].concat()).unwrap();
        socket.set_read_timeout(Some(if expected { PATIENCE } else { SILENCE })).unwrap();
        return hear(&socket).is_ok_and(|heard| heard == b"hello");
    }
    let mut stream = connected(case, proxy, dialled);
    let header = if matches!(naming, Naming::V1) { v1(client, named) } else { v2(client, named) };
    stream.write_all(&header).unwrap();
    talks(&mut stream)
}

/// True if a connection is, that the first proxy makes for `client`.
fn is_let_in(case: &Case, client: IpAddr) -> bool {
    is_answered(case, PROXY, Naming::V1, client, true)
}

/// Each client that the proxy names, and whether it is let in.
#[track_caller]
fn assert_named(case: &Case, expected: &[(IpAddr, bool)]) {
    for (client, expected) in expected {
        for naming in [Naming::V1, Naming::V2, Naming::Datagram] {
            let answered = is_answered(case, PROXY, naming, *client, *expected);
            assert_eq!(answered, *expected, "{client} by {naming:?}");
        }
    }
}

fn whom_a_trusted_proxy_names_is_judged_by_its_own_address(case: &mut Case) {
    // Of the other family than what is dialled.
    let [stranger, friend]: [IpAddr; 2] = case
        .family
        .pick(["2001:db8:99::1", "2001:db8:98::1"], ["203.0.113.1", "203.0.113.129"])
        .map(|text| text.parse().unwrap());
    let common = format!("[policy]\ndeny = [\"{}\", \"{stranger}\"]", prefix_of(case, 0, 4));
    let own = format!("policy = {{ allow = \"{}\", on-deny = \"silent\" }}", prefix_of(case, 8, 2));
    let instance = serve(case, &services(case, &common, &own));
    let named = |number| client(case, number);
    let expected = [
        (named(1), false),
        (named(8), true),
        (named(12), false),
        (named(16), true),
        (stranger, false),
        (friend, true),
    ];
    assert_named(case, &expected);
    // Three times each.
    await_denied(case, &instance, "denied", 9);
    await_logged(&instance, "end=denied-policy", 3);
    assert!(
        instance.stderr().contains(&format!("via={}", SocketAddr::new(named(PROXY), 0)).replace(":0", ":"))
    );
    // Where they dial themselves it is the same.
    assert_eq!(told(case, named(1), web(case), Told::Nothing), Told::Nothing);
    assert_eq!(told(case, named(8), web(case), Told::LetIn), Told::LetIn);
    let explain = |number| {
        let from = SocketAddr::new(named(number), 999);
        say(case, &instance, &format!("explain tcp {} --from {from}", web(case)))
    };
    let (denied, let_in, proxy) = (explain(1), explain(8), explain(PROXY));
    let by = "judged by the worker process, after the PROXY header";
    assert!(denied.contains(&format!("named by a trusted proxy, {} is denied by ", named(1))), "{denied}");
    assert!(denied.contains(by) && let_in.contains(by), "{denied}{let_in}");
    assert!(let_in.contains(&format!("named by a trusted proxy, {} is let in", named(8))), "{let_in}");
    assert!(proxy.contains("is a trusted proxy: each client that it names is judged as well"), "{proxy}");
    let status = say(case, &instance, "status");
    assert!(status.contains("judged after accept, by the worker process: "), "{status}");
    let checked = say(case, &instance, &format!("check {CONFIG}"));
    assert!(checked.contains("of clients that trusted proxies name: by the worker process"), "{checked}");
}

fn whom_a_proxy_names_is_judged_by_what_is_said_at_run_time_until_that_ends(case: &mut Case) {
    let policy = format!("policy = {{ deny = \"{}\" }}", prefix_of(case, 16, 2));
    let instance = serve(case, &services(case, "", &policy));
    let named = |number| client(case, number);
    assert_named(case, &[(named(1), true), (named(17), false)]);
    say(case, &instance, &format!("deny {}", prefix_of(case, 1, 0)));
    say(case, &instance, &format!("deny web {}", prefix_of(case, 2, 0)));
    say(case, &instance, &format!("allow --except web {}", prefix_of(case, 17, 0)));
    assert_named(case, &[(named(1), false), (named(2), false), (named(3), true), (named(17), true)]);
    let begun = Instant::now();
    say(case, &instance, &format!("deny --for 3s {}", prefix_of(case, 3, 0)));
    if begun.elapsed() < Duration::from_secs(2) {
        assert!(!is_let_in(case, named(3)) || begun.elapsed() > Duration::from_secs(2));
    }
    eventually("the end of a denial", PATIENCE, || is_let_in(case, named(3)).then_some(()));
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    say(case, &instance, &format!("allow {}", prefix_of(case, 1, 0)));
    say(case, &instance, &format!("allow --undo web {}", prefix_of(case, 17, 0)));
    assert_named(case, &[(named(1), true), (named(2), false), (named(3), true), (named(17), false)]);
}

fn a_reload_changes_who_may_be_named_and_touches_nothing_open(case: &mut Case) {
    let text = |number| services(case, &format!("[policy]\ndeny = \"{}\"", prefix_of(case, number, 0)), "");
    let instance = serve(case, &services(case, "", ""));
    let named = |number| client(case, number);
    assert_named(case, &[(named(1), true), (named(2), true)]);
    let mut open = connected(case, PROXY, web(case));
    open.write_all(&v1(SocketAddr::new(named(2), 99), web(case))).unwrap();
    assert!(talks(&mut open));
    let socket = client_from(&case.server, SocketAddr::new(named(PROXY), 0), web(case));
    let hears = |number: u8| {
        let header = v2_of_datagram(SocketAddr::new(named(number), 4711), web(case));
        socket.send(&[&header[..], b"hello"].concat()).unwrap();
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        hear(&socket).is_ok_and(|heard| heard == b"hello")
    };
    eventually("a session of UDP", PATIENCE, || (hears(1) && hears(2)).then_some(()));
    for round in 0..4_u8 {
        let number = 1 + round % 2;
        go_over(case, &instance, &text(number));
        assert_named(case, &[(named(number), false), (named(3 - number), true)]);
        assert!(talks(&mut open), "an open connection was touched in round {round}");
        // What one proxy says by one socket is of many clients.
        assert!(!hears(number), "round {round}");
        eventually("the session of the other", PATIENCE, || hears(3 - number).then_some(()));
    }
    go_over(case, &instance, &services(case, "", ""));
    assert_named(case, &[(named(1), true), (named(2), true)]);
}

fn whoever_takes_the_place_of_a_worker_process_judges_alike(case: &mut Case) {
    let policy = format!("policy = {{ deny = \"{}\" }}", prefix_of(case, 1, 0));
    let instance = serve(case, &services(case, "", &policy));
    let named = |number| client(case, number);
    say(case, &instance, &format!("deny {}", prefix_of(case, 2, 0)));
    let expected = [(named(1), false), (named(2), false), (named(3), true)];
    assert_named(case, &expected);
    let worker = worker_of(instance.pid()).unwrap();
    kill(Pid::from_raw(worker.cast_signed()), Signal::SIGKILL).unwrap();
    let next = || worker_of(instance.pid()).filter(|next| *next != worker);
    eventually("another worker process", PATIENCE, || next().map(drop));
    assert_named(case, &expected);
    connect(&case.server, &instance).ask("renew").unwrap_or_else(|error| panic!("{error:?}"));
    assert_named(case, &expected);
    say(case, &instance, "upgrade");
    assert_named(case, &expected);
    // What is said next stands beside what was said before.
    say(case, &instance, &format!("deny {}", prefix_of(case, 3, 0)));
    say(case, &instance, &format!("allow {}", prefix_of(case, 2, 0)));
    assert_named(case, &[(named(1), false), (named(2), true), (named(3), false)]);
}

fn whom_a_proxy_names_comes_no_oftener_than_its_rate(case: &mut Case) {
    let policy = "policy = { rate = \"4/h burst 4 per /32 /64\" }";
    let instance = serve(case, &services(case, "", policy));
    let named = |number| client(case, number);
    for naming in [Naming::V2, Naming::Datagram] {
        // The proxies come by the same rate themselves, so each brings few.
        for (turn, proxy) in (0..8).zip((PROXY..PROXY + 4).cycle()) {
            let expected = turn < 4;
            let answered = is_answered(case, proxy, naming, named(1), expected);
            assert_eq!(answered, expected, "turn {turn} by {naming:?}\n{}", instance.stderr());
        }
        assert!(is_answered(case, PROXY, naming, named(2), true), "another client by {naming:?}");
    }
    await_denied(case, &instance, "rate", 8);
    await_logged(&instance, "end=denied-policy-rate", 8);
    assert_eq!(denied(case, &instance, "denied"), 0);
}

fn of_two_policies_that_take_turns_one_judges_and_no_mixture(case: &mut Case) {
    // Either lets the first in and denies the second. The list for all of the one beside the own list of the other does not.
    let one = services(
        case,
        &format!("[policy]\ndeny = \"{}\"", prefix_of(case, 0, 3)),
        &format!("policy = {{ allow = \"{}\" }}", prefix_of(case, 1, 0)),
    );
    let other = services(
        case,
        &format!("[policy]\ndeny = \"{}\"", prefix_of(case, 64, 3)),
        &format!("policy = {{ deny = \"{}\" }}", prefix_of(case, 2, 0)),
    );
    let instance = serve(case, &one);
    let (is_over, case) = (AtomicBool::new(false), &*case);
    let judged: Vec<usize> = std::thread::scope(|scope| {
        let judges = [(1, true), (2, false)].map(|(number, expected)| {
            let is_over = &is_over;
            scope.spawn(move || {
                let mut judged = 0;
                while !is_over.load(Ordering::Relaxed) {
                    if is_let_in(case, client(case, number)) != expected {
                        return Err(format!("client {number} after {judged}: let in is {}", !expected));
                    }
                    judged += 1;
                }
                Ok(judged)
            })
        });
        for round in 0..share::of(SWAPS).max(6) {
            go_over(case, &instance, if round % 2 == 0 { &other } else { &one });
        }
        is_over.store(true, Ordering::Relaxed);
        judges
            .into_iter()
            .map(|judge| judge.join().unwrap().unwrap_or_else(|error| panic!("{error}")))
            .collect()
    });
    assert!(judged.iter().all(|judged| *judged > 5), "{judged:?} connections were judged meanwhile");
}

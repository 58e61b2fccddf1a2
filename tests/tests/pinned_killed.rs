//! A verb on what is pinned killed in the middle of what it does, at each of its system calls that change anything. The next command works,
//! nothing is half bound, and nothing is left when it is unloaded.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::cell::RefCell;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;

use serde_json::Value;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::dial;
use spectrum_tests::foreign_server::ForeignServer;
use spectrum_tests::instance::Launch;
use spectrum_tests::netns::Netns;
use spectrum_tests::random::Random;
use spectrum_tests::require::{self, Need, find_in_path};
use spectrum_tests::state::State;
use spectrum_tests::verbs::{done, verb};

const NEEDS: [Need; 6] = [Need::Netns, Need::Program, Need::Bpf, Need::Bpftool, Need::Ipv6, Need::Strace];

/// The calls by which a verb gets on: what it does to the kernel, to routes, and to files.
const CALLS: [&str; 8] = ["bpf", "sendto", "rename", "unlink", "mkdir", "chmod", "flock", "rmdir"];

/// Moments beyond the last one of any verb.
const MOST: usize = 400;

/// Runs the verb that is killed by its call number `nth` of this name; whether that took place.
fn killed(netns: &Netns, line: &str, call: &str, nth: usize) -> bool {
    let through = format!(
        "{} -f -o /run/strace -e trace={call} -e inject={call}:signal=SIGKILL:when={nth}",
        find_in_path("strace").unwrap().display()
    );
    let finished = Launch::new(netns).arguments(line).through(&through).finish();
    let happened = finished.status.signal() == Some(9) || finished.status.code() == Some(137);
    assert!(happened || finished.status.code() == Some(0), "{call} {nth} of {line}: {finished}");
    happened
}

fn bindings(netns: &Netns) -> Vec<String> {
    let listed: Value = serde_json::from_str(&done(netns, "bindings --json")).unwrap();
    let line = |binding: &Value| {
        format!("{} {}", binding["service"].as_str().unwrap(), binding["prefix"].as_str().unwrap())
    };
    listed.as_array().unwrap().iter().map(line).collect()
}

/// The prefixes of local routes of ours, and what is claimed for what is pinned.
fn routes_and_claim(netns: &Netns) -> (Vec<String>, Vec<String>) {
    let routes = netns.ip("route show table local proto 83");
    let mut routes: Vec<String> =
        routes.lines().filter_map(|line| Some(line.split(' ').nth(1)?.to_owned())).collect();
    let path = format!("/run/spectrum/{}/pinned.claim", netns.inode());
    let claim = netns.run(|| fs::read_to_string(path)).unwrap_or_else(|_| "{\"prefixes\":[]}".to_owned());
    let claim: Value = serde_json::from_str(&claim).unwrap();
    let mut claimed: Vec<String> = claim["prefixes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|prefix| prefix.as_str().unwrap().to_owned())
        .collect();
    routes.sort();
    claimed.sort();
    (routes, claimed)
}

/// Kills `line` at each moment, each time in a namespace that `prepare` has prepared; then has `judge` look, and takes all away.
fn at_each_moment(test: &str, line: &str, prepare: impl Fn(&Netns), judge: impl Fn(&Netns, &str)) {
    if !require::met(test, &NEEDS) {
        return;
    }
    let mut random = Random::seeded();
    let netns = Netns::create().unwrap();
    let before = State::of(&netns);
    let mut deaths = 0;
    for call in CALLS {
        let mut nth = 1;
        while nth < MOST {
            prepare(&netns);
            let what = format!("SIGKILL by {call} number {nth} of {line}");
            let happened = killed(&netns, line, call, nth);
            judge(&netns, &what);
            done(&netns, "unload");
            before.assert_restored(&netns, &format!("{what} and unload"));
            if !happened {
                break;
            }
            deaths += 1;
            // Each of the first, then ever fewer, and others in each run.
            nth += 1 + random.below::<usize>(1 + nth as u64 / 8);
        }
    }
    assert!(deaths > 10, "{deaths} deaths");
}

/// Loaded or not: the next load works, and is whole.
#[test]
fn amid_a_load() {
    at_each_moment(
        "amid_a_load",
        "load",
        |_| {},
        |netns, what| {
            // Until the next command nothing is there, or all of it.
            let status = verb(netns, "status --instance pinned --json");
            match status.code() {
                0 => assert!(status.stdout.contains("\"state\":\"ready\""), "after {what}: {status}"),
                _ => assert!(
                    status.stderr.contains("spectrum-user load")
                        || status.stderr.contains("spectrum-user clean"),
                    "after {what}: {status}"
                ),
            }
            done(netns, "load");
            done(netns, "bind web tcp 192.0.2.0/24");
            assert_eq!(bindings(netns), ["web 192.0.2.0/24"], "after {what}");
        },
    );
}

/// Everything that was bound still is, and what was to be bound is or is not; the next command mends the rest.
#[test]
fn amid_a_bind() {
    at_each_moment(
        "amid_a_bind",
        "bind web tcp 198.51.100.0/24",
        |netns| {
            done(netns, "load");
            done(netns, "bind mail tcp 192.0.2.0/24");
        },
        |netns, what| {
            let bound = bindings(netns);
            let is_whole =
                bound == ["mail 192.0.2.0/24"] || bound == ["mail 192.0.2.0/24", "web 198.51.100.0/24"];
            assert!(is_whole, "after {what}: {bound:?}");
            done(netns, "clean");
            let prefixes: Vec<String> =
                bound.iter().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect();
            assert_eq!(routes_and_claim(netns), (prefixes.clone(), prefixes), "after {what}");
            done(netns, "bind web tcp 198.51.100.0/24");
            assert_eq!(bindings(netns), ["mail 192.0.2.0/24", "web 198.51.100.0/24"], "after {what}");
        },
    );
}

#[test]
fn amid_an_unbind() {
    at_each_moment(
        "amid_an_unbind",
        "unbind web tcp 198.51.100.0/24",
        |netns| {
            done(netns, "load");
            done(netns, "bind mail tcp 192.0.2.0/24");
            done(netns, "bind web tcp 198.51.100.0/24");
        },
        |netns, what| {
            let bound = bindings(netns);
            if bound.len() == 2 {
                done(netns, "unbind web tcp 198.51.100.0/24");
            } else {
                // A verb that has no part in it mends what is left of the other.
                done(netns, "bind mail tcp 192.0.2.0/24 25");
            }
            assert_eq!(bindings(netns)[0], "mail 192.0.2.0/24", "after {what}");
            done(netns, "clean");
            let only = vec!["192.0.2.0/24".to_owned()];
            assert_eq!(routes_and_claim(netns), (only.clone(), only), "after {what}");
        },
    );
}

#[test]
fn amid_an_unload() {
    at_each_moment(
        "amid_an_unload",
        "unload",
        |netns| {
            done(netns, "load");
            done(netns, "bind web tcp 192.0.2.0/24");
        },
        |netns, what| {
            let listed = verb(netns, "bindings --instance pinned");
            match listed.code() {
                0 => assert!(listed.stdout.contains("192.0.2.0/24"), "after {what}: {listed}"),
                _ => assert!(listed.stderr.contains("spectrum-user "), "after {what}: {listed}"),
            }
            done(netns, "load");
        },
    );
}

fn is_answered(netns: &Netns, target: &str) -> bool {
    // A process that another test forks has a copy of every socket of this one until it executes something.
    eventually("an answer or a refusal", PATIENCE, || match dial(netns, target.parse().unwrap()) {
        Ok(heard) => {
            assert!(heard.text.starts_with(&format!("web {target} ")), "{heard:?}");
            Some(true)
        }
        Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{target}: {error}");
            Some(false)
        }
    })
}

/// A server, and the words by which its socket is registered for the service web.
fn server(netns: &Netns) -> (ForeignServer, String) {
    let server = ForeignServer::tcp(netns, "127.0.0.1:0".parse().unwrap(), "web");
    let line = format!("register web --pid {} {}", std::process::id(), server.address());
    (server, line)
}

#[test]
fn amid_a_register() {
    let running = RefCell::new(None);
    // The port is drawn by the kernel, so the verb is known when the server is there; another one has its place each time.
    let port = 40_000 + std::process::id() % 20_000;
    let line = format!("register web --pid {} 127.0.0.1:{port}", std::process::id());
    at_each_moment(
        "amid_a_register",
        &line,
        |netns| {
            done(netns, "load");
            done(netns, "bind web tcp 192.0.2.0/24");
            let address = format!("127.0.0.1:{port}").parse().unwrap();
            running.replace(Some(ForeignServer::tcp(netns, address, "web")));
        },
        |netns, what| {
            is_answered(netns, "192.0.2.9:80");
            done(netns, &line);
            assert!(is_answered(netns, "192.0.2.9:80"), "after {what}");
            let status = done(netns, "status");
            assert!(status.contains(&format!("127.0.0.1:{port}")), "after {what}: {status}");
            // Its end is seen at once.
            drop(running.take());
            assert!(!is_answered(netns, "192.0.2.9:80"), "after {what}");
            let status = done(netns, "status");
            assert!(status.contains("gone: it was closed"), "after {what}: {status}");
        },
    );
}

#[test]
fn amid_an_upgrade() {
    let running = RefCell::new(None);
    at_each_moment(
        "amid_an_upgrade",
        "upgrade",
        |netns| {
            done(netns, "load");
            done(netns, "bind web tcp 192.0.2.0/24");
            let (server, line) = server(netns);
            done(netns, &line);
            running.replace(Some(server));
        },
        |netns, what| {
            // Before the next command as well.
            assert!(is_answered(netns, "192.0.2.9:80"), "after {what}");
            done(netns, "upgrade");
            assert!(is_answered(netns, "192.0.2.9:80"), "after {what}");
            done(netns, "bind web tcp 198.51.100.0/24");
            assert!(is_answered(netns, "198.51.100.9:80"), "after {what}");
            drop(running.take());
        },
    );
}

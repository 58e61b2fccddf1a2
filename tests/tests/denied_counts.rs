//! What is told of who is denied at run time: how many packets each prefix turned away, and by whom `check` says it is in force. Whom it denies
//! is tested with denials.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use spectrum_steering::model::Prefix;
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, reload};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::instance::{Finished, Launch};
use spectrum_tests::judged::{Told, client, own_clients, prefix_of, services_with, told, told_by_datagram};
use spectrum_tests::on_every_path;
use spectrum_tests::path::Path;

on_every_path!(the_packets_that_a_prefix_turned_away_are_told, what_holds_at_run_time_is_named_by_check,);

fn run(case: &Case, words: &str) -> Finished {
    Launch::new(&case.server).arguments(words).finish()
}

/// Has somebody say `words`.
#[track_caller]
fn say(case: &Case, words: &str) {
    let finished = run(case, words);
    assert_eq!(finished.code(), 0, "{finished}");
}

fn shown(prefix: &str) -> String {
    prefix.parse::<Prefix>().unwrap().to_string()
}

/// The packets of each prefix that `denied` lists, in its order.
fn packets(case: &Case) -> Vec<Option<u64>> {
    let answer: Value = serde_json::from_str(&run(case, "denied --json").stdout).unwrap();
    answer["entries"].as_array().unwrap().iter().map(|entry| entry["packets"].as_u64()).collect()
}

fn the_packets_that_a_prefix_turned_away_are_told(case: &mut Case) {
    own_clients(case);
    configure(&case.server, &services_with(case, "", ""));
    let instance = case.start(CONFIG);
    let (all, own) = (prefix_of(case, 16, 3), prefix_of(case, 18, 0));
    say(case, &format!("deny {all}"));
    say(case, &format!("deny web {own}"));
    say(case, &format!("allow --except {}", prefix_of(case, 23, 0)));
    let web = SocketAddr::new(case.address(7), 80);
    let open = SocketAddr::new(case.address(7), 81);
    // Of those that come within a tick one is told for all.
    let dial = |number: u8, target: SocketAddr, expected: Told| {
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(told(case, client(case, number), target, expected), expected, "{number}");
    };
    dial(16, web, Told::Refused);
    dial(17, open, Told::Refused);
    dial(18, web, Told::Refused);
    dial(18, web, Told::Refused);
    // Of the wider one: the longer is the other service's own.
    dial(18, open, Told::Refused);
    dial(23, web, Told::LetIn);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(told_by_datagram(case, client(case, 16), web, Told::Refused), Told::Refused);
    let expected = match case.path {
        Path::SkLookup => [Some(4), None, Some(2)],
        _ => [None; 3],
    };
    eventually(&format!("{expected:?}"), PATIENCE, || (packets(case) == expected).then_some(()));
    let shown = run(case, "denied").stdout;
    assert_eq!(shown.contains("PACKETS are sampled"), case.path == Path::SkLookup, "{shown}");
    reload(&case.server, &instance).unwrap();
    assert_eq!(packets(case), expected, "after a reload");
    assert_eq!(run(case, "upgrade").code(), 0, "{}", instance.stderr());
    assert_eq!(packets(case), expected, "after an upgrade");
    dial(18, web, Told::Refused);
    let expected = expected.map(|count| if count == Some(2) { Some(3) } else { count });
    eventually(&format!("{expected:?}"), PATIENCE, || (packets(case) == expected).then_some(()));
    instance.stop();
}

fn what_holds_at_run_time_is_named_by_check(case: &mut Case) {
    own_clients(case);
    let text = services_with(case, "", "");
    configure(&case.server, &text);
    let check = "check --config /run/spectrum.toml";
    let before = run(case, check).stdout;
    assert!(!before.contains("at run time"), "{before}");
    let instance = case.start(CONFIG);
    let (all, own) = (prefix_of(case, 1, 0), prefix_of(case, 2, 0));
    say(case, &format!("deny {all}"));
    say(case, &format!("deny web {own} --for 1h"));
    let [all, own] = [all, own].map(|prefix| shown(&prefix));
    let checked = run(case, check).stdout;
    for line in [
        "said at run time, and in force with this too: 2\n".to_owned(),
        format!("  deny {all} of all\n"),
        format!("  deny {own} of web until 20"),
    ] {
        assert!(checked.contains(&line), "{line}: {checked}");
    }
    // A candidate in which the service has another name.
    configure(&case.server, &text.replace("\"web\"", "\"edge\""));
    let differs = run(case, "check --diff --config /run/spectrum.toml");
    assert_eq!(differs.code(), 1, "{differs}");
    for line in [
        format!("said at run time, and in force with this too: 1\n  deny {all} of all\n"),
        format!("said at run time of services that this does not have: 1\n  deny {own} of web until 20"),
    ] {
        assert!(differs.stdout.contains(&line), "{line}: {differs}");
    }
    let json: Value = serde_json::from_str(&run(case, &format!("{check} --json")).stdout).unwrap();
    assert_eq!(json["at_run_time"]["in_force"][0]["prefix"], Value::from(all));
    instance.stop();
}

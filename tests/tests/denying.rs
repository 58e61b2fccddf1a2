//! Clients denied at run time: by whom it is said, until when, over reloads, upgrades and restarts, and on every path. How the longest
//! prefix decides is tested with policies.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use spectrum_steering::model::Prefix;
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, reload};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::instance::{Finished, Instance, Launch, program};
use spectrum_tests::judged::{
    Told, await_denied, client, connected, own_clients, prefix_of, services_with, talks, told,
    told_by_datagram,
};
use spectrum_tests::path::TOOLS;
use spectrum_tests::{on_every_path, on_one_path};

on_every_path!(
    whom_somebody_denies_is_denied_at_once_and_what_is_open_stays,
    what_is_said_at_run_time_goes_before_the_configuration,
    a_denial_ends_in_time_and_leaves_nothing,
    what_was_said_holds_after_reload_upgrade_and_restart,
    whom_somebody_denies_without_a_word_hears_nothing,
    thousands_from_a_script_are_denied_within_seconds,
);

on_one_path!(what_cannot_be_kept_holds_and_is_told, more_than_there_may_be_are_refused);

/// The directory of what outlives an instance.
const STATE: &str = "/run/state";

fn serve(case: &Case, text: &str) -> Instance {
    own_clients(case);
    configure(&case.server, text);
    start(case)
}

fn start(case: &Case) -> Instance {
    case.server.run(|| std::fs::create_dir_all(STATE).unwrap());
    case.launch(CONFIG).environment("STATE_DIRECTORY", STATE).start()
}

fn run(case: &Case, words: &str) -> Finished {
    Launch::new(&case.server).arguments(words).finish()
}

#[track_caller]
fn say(case: &Case, instance: &Instance, words: &str) -> String {
    let finished = run(case, words);
    assert_eq!(finished.code(), 0, "{finished}\n{}", instance.stderr());
    finished.stdout
}

/// The entries that `denied` lists, as `word service prefix`.
fn listed(case: &Case) -> Vec<String> {
    let finished = run(case, "denied --json");
    let answer: Value =
        serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"));
    let shown = |entry: &Value| {
        let word = |key: &str| entry[key].as_str().unwrap_or("all").to_owned();
        format!("{} {} {}", word("word"), word("service"), word("prefix"))
    };
    answer["entries"].as_array().unwrap().iter().map(shown).collect()
}

/// A prefix as it is shown.
fn shown(prefix: &str) -> String {
    prefix.parse::<Prefix>().unwrap().to_string()
}

fn web(case: &Case) -> SocketAddr {
    SocketAddr::new(case.address(7), 80)
}

fn open(case: &Case) -> SocketAddr {
    SocketAddr::new(case.address(7), 81)
}

#[track_caller]
fn assert_told(case: &Case, number: u8, target: SocketAddr, expected: Told) {
    assert_eq!(told(case, client(case, number), target, expected), expected, "client {number} by TCP");
    let datagram = told_by_datagram(case, client(case, number), target, expected);
    assert_eq!(datagram, expected, "client {number} by UDP");
}

fn whom_somebody_denies_is_denied_at_once_and_what_is_open_stays(case: &mut Case) {
    let instance = serve(case, &services_with(case, "", ""));
    let mut kept = connected(case, 1, web(case));
    let prefix = prefix_of(case, 0, 2);
    say(case, &instance, &format!("deny {prefix}"));
    assert_told(case, 1, web(case), Told::Refused);
    assert_told(case, 2, open(case), Told::Refused);
    assert_told(case, 4, web(case), Told::LetIn);
    assert!(talks(&mut kept), "an open connection was touched");
    let explained = say(case, &instance, &format!("explain tcp {} --from {}", web(case), from(case, 1)));
    let shown = shown(&prefix);
    assert!(explained.contains(&format!("is denied at run time by `deny {shown}`")), "{explained}");
    await_denied(case, &instance, "denied", 4);
    let status = say(case, &instance, "status");
    assert!(status.contains("at run time: 1 prefixes denied, 0 excepted"), "{status}");

    let own = prefix_of(case, 9, 0);
    say(case, &instance, &format!("deny web {own}"));
    assert_told(case, 9, web(case), Told::Refused);
    assert_told(case, 9, open(case), Told::LetIn);
    assert_eq!(listed(case), [format!("deny all {shown}"), format!("deny web {}", self::shown(&own))]);
    let only = say(case, &instance, "denied open");
    assert!(only.contains(&shown) && !only.contains("web"), "{only}");

    assert!(say(case, &instance, &format!("allow {prefix}")).starts_with("1 denied no more;"));
    assert_told(case, 1, web(case), Told::LetIn);
    assert!(say(case, &instance, &format!("allow {own}")).starts_with("0 denied no more, 1 were not;"));
    assert_told(case, 9, web(case), Told::Refused);
    say(case, &instance, &format!("allow web {own}"));
    assert_told(case, 9, web(case), Told::LetIn);
    assert_eq!(listed(case), Vec::<String>::new());
    let unknown = run(case, &format!("deny wed {own}"));
    assert!(unknown.stderr.contains("did you mean web?"), "{unknown}");
    assert_eq!(unknown.code(), 2);
}

fn from(case: &Case, number: u8) -> SocketAddr {
    SocketAddr::new(client(case, number), 999)
}

fn what_is_said_at_run_time_goes_before_the_configuration(case: &mut Case) {
    let common = format!("[policy]\ndeny = \"{}\"", prefix_of(case, 16, 4));
    let own = format!("policy = {{ allow = \"{}\" }}", prefix_of(case, 16, 0));
    let instance = serve(case, &services_with(case, &common, &own));
    assert_told(case, 16, web(case), Told::LetIn);
    assert_told(case, 17, web(case), Told::Refused);
    // Of two prefixes as long, what was said at run time.
    say(case, &instance, &format!("deny {}", prefix_of(case, 16, 0)));
    assert_told(case, 16, web(case), Told::Refused);
    say(case, &instance, &format!("allow --except web {}", prefix_of(case, 17, 0)));
    assert_told(case, 17, web(case), Told::LetIn);
    assert_told(case, 17, open(case), Told::Refused);
    // A longer one goes before, whoever says it.
    say(case, &instance, &format!("deny {}", prefix_of(case, 16, 3)));
    assert_told(case, 17, web(case), Told::LetIn);
    assert_told(case, 18, web(case), Told::Refused);
    say(case, &instance, &format!("allow --undo web {}", prefix_of(case, 17, 0)));
    assert_told(case, 17, web(case), Told::Refused);
    say(case, &instance, &format!("allow {} {}", prefix_of(case, 16, 0), prefix_of(case, 16, 3)));
    assert_told(case, 16, web(case), Told::LetIn);
    assert_told(case, 17, web(case), Told::Refused);
}

fn a_denial_ends_in_time_and_leaves_nothing(case: &mut Case) {
    let instance = serve(case, &services_with(case, "", ""));
    let begun = Instant::now();
    say(case, &instance, &format!("deny --for 3s {}", prefix_of(case, 1, 0)));
    say(case, &instance, &format!("deny --for 600 web {}", prefix_of(case, 2, 0)));
    if begun.elapsed() < Duration::from_secs(2) {
        let told = told(case, client(case, 1), web(case), Told::Refused);
        assert!(told == Told::Refused || begun.elapsed() > Duration::from_secs(2), "{told:?}");
    }
    let explained = say(case, &instance, &format!("explain tcp {} --from {}", web(case), from(case, 2)));
    assert!(explained.contains("is denied at run time until 20"), "{explained}");
    let still = format!("deny web {}", shown(&prefix_of(case, 2, 0)));
    eventually("the end of a denial", PATIENCE, || (listed(case) == [still.clone()]).then_some(()));
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_told(case, 1, web(case), Told::LetIn);
    assert_told(case, 2, web(case), Told::Refused);
}

fn what_was_said_holds_after_reload_upgrade_and_restart(case: &mut Case) {
    let text = services_with(case, "", "");
    let instance = serve(case, &text);
    say(case, &instance, &format!("deny {}", prefix_of(case, 1, 0)));
    say(case, &instance, &format!("deny web {} --for 1h", prefix_of(case, 2, 0)));
    say(case, &instance, &format!("allow --except open {}", prefix_of(case, 1, 0)));
    let before = listed(case);
    let assert_holds = |what: &str, case: &Case| {
        assert_eq!(listed(case), before, "{what}");
        assert_told(case, 1, web(case), Told::Refused);
        assert_told(case, 1, open(case), Told::LetIn);
        assert_told(case, 2, web(case), Told::Refused);
        assert_told(case, 2, open(case), Told::LetIn);
    };
    assert_holds("at first", case);
    configure(&case.server, &text.replace("echo", "echo\"\nlimits = { connections = 1000 }\n#"));
    reload(&case.server, &instance).unwrap();
    assert_holds("after a reload", case);
    let upgraded = run(case, "upgrade");
    assert_eq!(upgraded.code(), 0, "{upgraded}\n{}", instance.stderr());
    assert_holds("after an upgrade", case);
    say(case, &instance, &format!("deny {}", prefix_of(case, 3, 0)));
    assert_told(case, 3, web(case), Told::Refused);
    instance.kill();
    let instance = start(case);
    assert_told(case, 3, web(case), Told::Refused);
    say(case, &instance, &format!("allow {}", prefix_of(case, 3, 0)));
    assert_holds("after a restart", case);
    instance.stop();
    let instance = start(case);
    assert_holds("after another one", case);
    say(case, &instance, &format!("allow {}", prefix_of(case, 1, 0)));
    say(case, &instance, &format!("allow web {}", prefix_of(case, 2, 0)));
    say(case, &instance, &format!("allow --undo open {}", prefix_of(case, 1, 0)));
    let kept = case.server.run(|| std::fs::exists(format!("{STATE}/denied")).unwrap());
    assert!(!kept, "nothing is left to be kept");
}

fn whom_somebody_denies_without_a_word_hears_nothing(case: &mut Case) {
    let instance = serve(case, &services_with(case, "[policy]\non-deny = \"silent\"", ""));
    say(case, &instance, &format!("deny {}", prefix_of(case, 1, 0)));
    assert_told(case, 1, web(case), Told::Nothing);
    assert_told(case, 2, web(case), Told::LetIn);
}

/// Runs the program with `lines` for its standard input.
fn read(case: &Case, words: &str, lines: &str) -> (i32, String, String) {
    let mut command = Command::new(program().unwrap());
    command.args(words.split(' ')).env_clear().env("PATH", TOOLS);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = case.server.run(|| command.spawn()).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines = lines.to_owned();
    let writing = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// So many come from a script, with no two of them neighbours.
const MANY: usize = 5_000;

fn thousands_from_a_script_are_denied_within_seconds(case: &mut Case) {
    let instance = serve(case, &services_with(case, "", ""));
    let line = |number: usize| {
        let (upper, lower) = (number / 100, 2 * (number % 100));
        case.family.pick(format!("10.7.{upper}.{lower}\n"), format!("2001:db8:9:{upper:x}::{lower:x}\n"))
    };
    let many: String = (0..MANY).map(line).collect();
    let own = prefix_of(case, 1, 0);
    let begun = Instant::now();
    let (code, stdout, stderr) = read(case, "deny -", &format!("# a list\n{many}{own} ; and one more\n"));
    let took = begun.elapsed();
    assert_eq!(code, 0, "{stdout}{stderr}\n{}", instance.stderr());
    assert!(stdout.starts_with(&format!("{} denied;", MANY + 1)), "{stdout}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_told(case, 1, web(case), Told::Refused);
    assert_eq!(listed(case).len(), MANY + 1);
    let (code, stdout, stderr) = read(case, "allow -", &format!("{own}\nnobody\n{own}/7\n"));
    assert_eq!(code, 1, "{stdout}{stderr}");
    assert!(stdout.starts_with("1 denied no more;"), "{stdout}");
    assert!(stderr.contains("standard input:2: \"nobody\"") && stderr.contains("2 lines"), "{stderr}");
    assert_told(case, 1, web(case), Told::LetIn);
    assert_eq!(listed(case).len(), MANY);
}

fn what_cannot_be_kept_holds_and_is_told(case: &mut Case) {
    own_clients(case);
    configure(&case.server, &services_with(case, "", ""));
    case.server.run(|| {
        std::fs::create_dir_all(STATE).unwrap();
        let none: Option<&str> = None;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(none, STATE, Some("tmpfs"), flags, Some("size=64k")).unwrap();
    });
    let instance = start(case);
    case.server.run(|| {
        let mut all = File::create(format!("{STATE}/full")).unwrap();
        while all.write_all(&[0; 4096]).is_ok() {}
    });
    let said = say(case, &instance, &format!("deny {}", prefix_of(case, 1, 0)));
    assert!(said.contains("it holds until this process ends"), "{said}");
    assert_told(case, 1, web(case), Told::Refused);
    let status = say(case, &instance, "status");
    assert!(status.contains("No space left on device"), "{status}");
    case.server.run(|| std::fs::remove_file(format!("{STATE}/full")).unwrap());
    let said = say(case, &instance, &format!("deny {}", prefix_of(case, 2, 0)));
    assert!(!said.contains("it holds until"), "{said}");
    instance.stop();
    let _again = start(case);
    assert_told(case, 1, web(case), Told::Refused);
}

fn more_than_there_may_be_are_refused(case: &mut Case) {
    let instance = serve(case, &services_with(case, "", ""));
    let many: String = (0..100_000_u32)
        .map(|number| {
            let v4 = std::net::Ipv4Addr::from_bits(0x0a00_0000 + 2 * number);
            case.family
                .pick(format!("{v4}\n"), format!("2001:db8:9:{:x}::{:x}\n", number / 1000, number % 1000))
        })
        .collect();
    let begun = Instant::now();
    let (code, stdout, stderr) = read(case, "deny -", &many);
    assert_eq!(code, 0, "{stdout}{stderr}\n{}", instance.stderr());
    assert!(begun.elapsed() < Duration::from_mins(2), "{:?}", begun.elapsed());
    let more = run(case, &format!("deny {}", prefix_of(case, 1, 0)));
    assert!(more.stderr.contains("100000 are the most"), "{more}");
    assert_ne!(more.code(), 0);
    assert_told(case, 1, web(case), Told::LetIn);
}

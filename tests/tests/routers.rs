//! Announced prefixes behind a real router, with BIRD or FRR on the servers, under load: what happens to one server is noticed by nobody
//! who comes, as far as that is in its hands. Figures are `fleet`'s, beside this in `src/bin`.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::fleet::daemon::{Daemon, Speaker};
use spectrum_tests::fleet::event::{Aftermath, Event, Trial};
use spectrum_tests::fleet::load::LoadSize;
use spectrum_tests::fleet::{Fleet, Server, Spreading};
use spectrum_tests::instance::Launch;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::require::{Need, met};
use spectrum_tests::share;

/// Makes four tests of each event: each daemon with each path and each family, though not each three together.
macro_rules! with_routers {
    ($($case:ident: $event:ident),+ $(,)?) => {$(
        mod $case {
            with_routers!(@test bird_sk_lookup_ipv4, $case, $event, Bird, SkLookup, V4);
            with_routers!(@test bird_tproxy_ipv6, $case, $event, Bird, TproxyNftables, V6);
            with_routers!(@test frr_sk_lookup_ipv6, $case, $event, Frr, SkLookup, V6);
            with_routers!(@test frr_tproxy_ipv4, $case, $event, Frr, TproxyNftables, V4);
        }
    )+};
    (@test $test:ident, $case:ident, $event:ident, $speaker:ident, $path:ident, $family:ident) => {
        #[test]
        fn $test() {
            let name = concat!(stringify!($case), "::", stringify!($test));
            let (speaker, path, family) =
                (super::Speaker::$speaker, super::Path::$path, super::Family::$family);
            if let Some(aftermath) = super::tried(name, super::Event::$event, speaker, path, family) {
                super::$case(&aftermath);
            }
        }
    };
}

with_routers!(
    a_steerer_that_is_killed_is_withdrawn_at_once: Killed,
    an_end_with_a_lame_duck_loses_nobody_who_comes: Ended,
    neither_a_reload_nor_an_upgrade_nor_a_death_of_the_worker_process_withdraws: Changed,
    a_daemon_that_is_killed_and_restarts_gracefully_loses_nobody: DaemonRestarted,
    a_service_without_origins_is_withdrawn_and_comes_back: OriginsGone,
    a_route_that_somebody_removes_is_announced_again: RouteRemoved,
    a_reload_that_removes_a_prefix_withdraws_it_first: PrefixRemoved,
    behind_a_resilient_group_nobody_elses_connection_breaks: Resilient,
);

const SIZE: LoadSize = LoadSize { long: 240, rate: 100 };

/// New connections after an event.
const COUNT: usize = 400;

/// What came of `event`, if the machine can do it and it is its turn.
fn tried(name: &str, event: Event, speaker: Speaker, path: Path, family: Family) -> Option<Aftermath> {
    let mut needs = path.needs().to_vec();
    needs.extend(family.pick(&[][..], &[Need::Ipv6]));
    needs.extend([Need::Tun, Need::Bird, speaker.need()]);
    if event == Event::Resilient {
        needs.push(Need::Resilient);
    }
    let variant = [(Speaker::Bird, Path::SkLookup), (Speaker::Bird, Path::TproxyNftables)];
    let variant = variant.iter().position(|one| *one == (speaker, path));
    let variant = variant.unwrap_or(2 + usize::from(path == Path::TproxyNftables));
    let index = Event::ALL.iter().position(|one| *one == event).unwrap() + Event::ALL.len() * variant;
    let is_possible = met(name, &needs) && share::takes_one(name, index, Event::ALL.len() * 4);
    is_possible.then(|| Trial { path, family, speaker, size: SIZE, count: COUNT }.run(event))
}

/// Nobody was lost but for what was on its way while the router changed its routes, or in a process that was killed.
fn assert_nobody_lost(aftermath: &Aftermath) {
    let lost = aftermath.lost_undisturbed();
    let all = aftermath.tally.attempts.len();
    assert!(lost.is_empty(), "{} of {all} new connections: {lost:#?}\n{:#?}", lost.len(), aftermath.changes);
    assert!(all >= COUNT, "{all} new connections");
}

/// A loss that goes on while the router sends a third of all to who serves nothing is no disturbance.
fn assert_few_excused(aftermath: &Aftermath) {
    let (excused, all) = (aftermath.tally.lost().count(), aftermath.tally.attempts.len());
    assert!(excused * 8 <= all, "{excused} of {all} new connections: {:#?}", aftermath.changes);
}

/// `status` or `doctor` of a server, with the programs of the host.
fn said(server: &Server, words: &str) -> String {
    let finished = Launch::new(&server.case.server)
        .environment("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .arguments(words)
        .finish();
    finished.stdout
}

fn what_daemons_do_is_told(name: &str, speaker: Speaker) {
    let needs = [Path::SkLookup.needs(), &[Need::Tun, Need::Bird, speaker.need()]].concat();
    if !met(name, &needs) || !share::takes_one(name, usize::from(speaker == Speaker::Frr), 2) {
        return;
    }
    let mut fleet = Fleet::start(Path::SkLookup, Family::V4, speaker, Spreading::Hashed);
    let doctor = said(&fleet.servers[0], "doctor");
    assert!(doctor.contains("BFD on 0 of 1 established"), "{doctor}");
    assert!(doctor.contains("until the hold time is over, "), "{doctor}");
    fleet.servers[0].watch_by_bfd(speaker);
    eventually("BFD", PATIENCE, || {
        said(&fleet.servers[0], "doctor").contains("BFD on 1 of 1 established").then_some(())
    });
    let (server, prefix) = (&fleet.servers[0], fleet.prefix());
    let passed_on = format!("{speaker}: {prefix} learned, and passed on to 1 of 1 established sessions");
    eventually(&passed_on, PATIENCE, || said(server, "status").contains(&passed_on).then_some(()));
    let doctor = said(server, "doctor");
    for part in ["tun device", "tcp_mtu_probing 0", &format!("BGP daemon {speaker}"), "1 of 1 sessions"] {
        assert!(doctor.contains(part), "{part}: {doctor}");
    }
    assert!(!doctor.contains("way back"), "{doctor}");
    said(server, &format!("withdraw {prefix}"));
    let withdrawn = format!("{speaker}: {prefix} not passed on");
    eventually(&withdrawn, PATIENCE, || said(server, "status").contains(&withdrawn).then_some(()));
    let json: serde_json::Value = serde_json::from_str(&said(server, "status --json")).unwrap();
    assert_eq!(json["bgp_daemons"][0]["name"], speaker.to_string(), "{json}");
}

#[test]
fn what_bird_does_is_told() {
    what_daemons_do_is_told("what_bird_does_is_told", Speaker::Bird);
}

#[test]
fn what_frr_does_is_told() {
    what_daemons_do_is_told("what_frr_does_is_told", Speaker::Frr);
}

#[test]
fn a_daemon_that_does_not_learn_is_told_of_with_the_cure() {
    let name = "a_daemon_that_does_not_learn_is_told_of_with_the_cure";
    if !met(name, &[Path::SkLookup.needs(), &[Need::Tun, Need::Bird]].concat()) {
        return;
    }
    let case = Case::new(Path::SkLookup, Family::V4);
    let status = || Launch::new(&case.server).arguments("status").finish().stdout;
    let instance = case.start(&format!("--prefix {}", case.prefix()));
    assert!(!status().contains("BGP"), "nothing is announced");
    instance.stop();
    let text = "[[service]]\nname = \"s\"\nrespond = \"hello\"\nannounce = true\nbindings = [{ prefix = \"192.0.2.0/24\" }]\n";
    configure(&case.server, text);
    let _instance = case.start(CONFIG);
    assert!(status().contains("no BGP daemon runs here that could be asked"), "{}", status());
    let printed = Launch::new(&case.server).arguments(&format!("announce --bird {CONFIG}")).finish().stdout;
    let daemon =
        Daemon::start(&case.server, Speaker::Bird, &printed.replace("krt_source = 83", "krt_source = 84"));
    let told = status();
    assert!(
        told.contains("bird: 192.0.2.0/24 not learned; cure: have it learn routes of protocol 83"),
        "{told}"
    );
    drop(daemon);
    let _daemon = Daemon::start(&case.server, Speaker::Bird, &printed);
    let learned = "bird: 192.0.2.0/24 learned, but none of 1 sessions is established";
    eventually(learned, PATIENCE, || status().contains(learned).then_some(()));
}

/// The router never sent less to the victim than to the others.
fn assert_never_withdrawn(aftermath: &Aftermath) {
    assert_eq!(aftermath.changes, [""; 0]);
}

fn a_steerer_that_is_killed_is_withdrawn_at_once(aftermath: &Aftermath) {
    assert!(aftermath.withdrawn.is_some());
    assert_nobody_lost(aftermath);
}

fn an_end_with_a_lame_duck_loses_nobody_who_comes(aftermath: &Aftermath) {
    assert_few_excused(aftermath);
    assert!(aftermath.withdrawn.is_some());
    assert_nobody_lost(aftermath);
}

fn neither_a_reload_nor_an_upgrade_nor_a_death_of_the_worker_process_withdraws(aftermath: &Aftermath) {
    assert_never_withdrawn(aftermath);
    assert_nobody_lost(aftermath);
    assert_eq!(aftermath.long(true).1, 0, "long connections of other servers");
}

fn a_daemon_that_is_killed_and_restarts_gracefully_loses_nobody(aftermath: &Aftermath) {
    assert_nobody_lost(aftermath);
    assert_eq!(aftermath.tally.long.iter().filter(|long| long.broken.is_some()).count(), 0);
}

fn a_service_without_origins_is_withdrawn_and_comes_back(aftermath: &Aftermath) {
    assert!(aftermath.withdrawn.is_some());
    // Gone and back, without flapping: a change of one IPv6 route is told as two.
    assert!(aftermath.changes.len() <= 4, "{:#?}", aftermath.changes);
}

fn a_route_that_somebody_removes_is_announced_again(aftermath: &Aftermath) {
    assert_nobody_lost(aftermath);
}

fn a_reload_that_removes_a_prefix_withdraws_it_first(aftermath: &Aftermath) {
    assert_few_excused(aftermath);
    assert!(aftermath.withdrawn.is_some());
    assert_nobody_lost(aftermath);
}

fn behind_a_resilient_group_nobody_elses_connection_breaks(aftermath: &Aftermath) {
    assert!(aftermath.withdrawn.is_some());
    assert_nobody_lost(aftermath);
    let (others, broken) = aftermath.long(true);
    assert!(others > 0 && broken == 0, "{broken} of {others} long connections: {:#?}", aftermath.changes);
}

//! What stands behind the listener, with real origins: which one a connection gets, how names become addresses, and what
//! becomes of a connection when an origin is dead, silent or unknown. What bytes do on their way is tested in `relay.rs`.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::SockRef;
use spectrum_tests::admin::{get, metrics, value};
use spectrum_tests::case::Case;
use spectrum_tests::control::{
    CONFIG, assert_logged, await_logged, configure, connect, count_logged, reload,
};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{call, dial, dial_from};
use spectrum_tests::holdings::descriptors;
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::name_server::{Manner, NameServer};
use spectrum_tests::netns::Netns;
use spectrum_tests::origin::Origin;
use spectrum_tests::record::records;
use spectrum_tests::require::find_in_path;
use spectrum_tests::state::State;
use spectrum_tests::veth;
use spectrum_tests::{on_every_path, on_one_path};

on_every_path!(
    an_origin_that_dies_is_passed_over_and_taken_again_when_it_lives,
    all_origins_down_refuse_at_once,
    health_survives_a_reload,
    a_silent_origin_is_followed_by_another,
    on_the_first_byte_an_origin_hears_of_nobody_who_says_nothing,
    a_range_of_ports_keeps_the_offset,
    source_hash_keeps_clients_together,
    services_are_found_by_their_records,
    a_name_that_comes_to_lead_back_is_not_dialled,
    only_the_ports_that_lead_back_are_not_dialled,
    two_services_whose_names_lead_to_each_other_make_no_circle,
    a_reload_that_binds_an_origins_address_takes_it_out,
    a_listener_of_our_own_is_not_dialled,
    a_silent_address_costs_no_more_than_its_head_start,
    running_out_of_descriptors_is_not_the_origins_fault,
);

// What becomes of names is decided before any packet comes.
on_one_path!(
    names_follow_dns,
    a_failing_name_server_changes_nothing,
    failed_dials_eject_an_origin,
    a_name_that_does_not_resolve_keeps_nothing_else_from_being_served,
    an_origin_of_the_command_line_that_does_not_resolve_is_said_as_such,
    a_silent_name_server_holds_up_neither_a_start_nor_a_reload_nor_a_stop,
    a_name_leads_to_nothing_that_only_this_host_reaches,
    an_order_that_rotates_is_no_change_and_a_name_that_vanishes_is_a_warning,
    of_very_many_addresses_few_are_used_and_fewer_dialled,
    families_of_a_name_take_turns_among_connections,
);

/// A service on the case's prefix with these keys.
fn service(case: &Case, ports: &str, keys: &str) -> String {
    format!(
        "[[service]]\nname = \"web\"\nbindings = [{{ prefix = \"{}\", ports = \"{ports}\" }}]\n{keys}\n",
        case.prefix()
    )
}

fn serve(case: &Case, text: &str) -> Instance {
    configure(&case.server, text);
    case.start(CONFIG)
}

/// An address of the host on which origins can be, one for each `last`.
fn place(case: &Case, last: u8) -> IpAddr {
    let address = case.family.parse(&format!("127.1.0.{last}"), &format!("fd00::{last:x}"));
    if address.is_ipv6() {
        case.server.output(&format!("ip -6 addr add {address}/128 dev lo nodad"));
    }
    address
}

fn saying(case: &Case, last: u8, word: &'static str) -> Origin {
    Origin::saying(&case.server, SocketAddr::new(place(case, last), 0), word)
}

/// A port at which nobody listens.
fn dead(case: &Case, last: u8) -> SocketAddr {
    SocketAddr::new(place(case, last), 9)
}

/// Drops every SYN to `address`, so that it never answers.
fn blackhole(netns: &Netns, address: IpAddr) {
    let family = if address.is_ipv4() { "ip" } else { "ip6" };
    for command in [
        format!("add table {family} hole"),
        format!("add chain {family} hole in {{ type filter hook input priority -400 ; }}"),
        format!("add rule {family} hole in {family} daddr {address} tcp flags & (syn|ack) == syn drop"),
    ] {
        netns.command(&format!("nft {command}"));
    }
}

/// The answer at any address of the prefix.
fn heard(case: &mut Case, port: u16) -> Result<String, ErrorKind> {
    let target = SocketAddr::new(case.any_address(), port);
    dial(&case.server, target).map(|heard| heard.text).map_err(|error| error.kind())
}

/// All the words that are heard in `count` connections.
fn words(case: &mut Case, count: usize) -> BTreeSet<String> {
    (0..count).map(|_| heard(case, 80).unwrap()).collect()
}

/// The conditions of the origins' addresses, as `status` shows them.
fn conditions(case: &Case, instance: &Instance) -> BTreeMap<String, String> {
    let status = connect(&case.server, instance).ask("status").unwrap();
    let origins = status["services"][0]["origins"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
    origins.iter().map(|origin| (text(&origin["address"]), text(&origin["condition"]))).collect()
}

fn await_condition(case: &Case, instance: &Instance, address: &str, condition: &str) {
    eventually(&format!("{address} {condition}"), PATIENCE, || {
        let conditions = conditions(case, instance);
        (conditions.get(address).is_some_and(|one| one == condition)).then_some(())
    });
}

/// The ends and the status codes of the connections that are told so far.
fn ends(instance: &Instance) -> Vec<(String, String)> {
    let log = instance.stderr();
    let records = records(&log);
    records.iter().map(|record| (record["end"].to_owned(), record["status"].to_owned())).collect()
}

/// The end and the status code of the connection that is told as number `count`, from 1.
fn last_end(instance: &Instance, count: usize) -> (String, String) {
    eventually("a record", PATIENCE, || ends(instance).into_iter().nth(count.checked_sub(1)?))
}

/// Waits until a connection has come to `end`.
fn await_end(instance: &Instance, end: &(String, String)) {
    eventually(&format!("a connection with {end:?}"), PATIENCE, || {
        ends(instance).contains(end).then_some(())
    });
}

fn end(word: &str, status: &str) -> (String, String) {
    (word.to_owned(), status.to_owned())
}

const OFTEN: &str = "health = { interval = \"100ms\", timeout = \"1s\", rise = 2, fall = 2 }";

fn an_origin_that_dies_is_passed_over_and_taken_again_when_it_lives(case: &mut Case) {
    let (dead, alive) = (dead(case, 1), saying(case, 2, "alive"));
    let keys = format!("origins = [\"{dead}\", \"{}\"]\n{OFTEN}", alive.address());
    let instance = serve(case, &service(case, "80", &keys));
    await_condition(case, &instance, &dead.to_string(), "down");
    assert_eq!(words(case, 10), BTreeSet::from(["alive".to_owned()]));
    assert_eq!(count_logged(&instance, "dial origin"), 0, "nobody was sent to the dead one");
    let _risen = Origin::saying(&case.server, dead, "risen");
    await_condition(case, &instance, &dead.to_string(), "up");
    assert_eq!(words(case, 10), BTreeSet::from(["alive".to_owned(), "risen".to_owned()]));
    for line in ["origin is down", "origin is up"] {
        assert_logged(&instance, line, 1);
    }
    let log = instance.stderr();
    assert!(log.contains(&format!("origin={dead} services=\"web\" reason=\"Connection refused")), "{log}");
}

fn all_origins_down_refuse_at_once(case: &mut Case) {
    let (one, two) = (dead(case, 1), place(case, 2));
    blackhole(&case.server, two);
    let keys = format!("origins = [\"{one}\", \"{}\"]\n{OFTEN}", SocketAddr::new(two, 9));
    let instance = serve(case, &service(case, "80", &keys));
    await_condition(case, &instance, &one.to_string(), "down");
    await_condition(case, &instance, &SocketAddr::new(two, 9).to_string(), "down");
    let began = Instant::now();
    for count in 1..=20 {
        assert_eq!(heard(case, 80), Err(ErrorKind::ConnectionReset));
        assert_eq!(last_end(&instance, count), end("dial-down", "521"));
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?} for 20", began.elapsed());
}

fn health_survives_a_reload(case: &mut Case) {
    let (dead, alive) = (dead(case, 1), saying(case, 2, "alive"));
    let keys = |interval| {
        format!(
            "origins = [\"{dead}\", \"{}\"]\nhealth = {{ interval = \"{interval}\", timeout = \"1s\" }}",
            alive.address()
        )
    };
    let instance = serve(case, &service(case, "80", &keys("100ms")));
    await_condition(case, &instance, &dead.to_string(), "down");
    // With an interval of an hour nothing would be found out anew.
    configure(&case.server, &service(case, "80", &keys("1h")));
    reload(&case.server, &instance).unwrap();
    assert_eq!(conditions(case, &instance)[&dead.to_string()], "down");
    assert_eq!(words(case, 10), BTreeSet::from(["alive".to_owned()]));
    assert_eq!(count_logged(&instance, "dial origin"), 0, "{}", instance.stderr());
}

fn a_silent_origin_is_followed_by_another(case: &mut Case) {
    let (silent, alive) = (place(case, 1), saying(case, 2, "alive"));
    blackhole(&case.server, silent);
    let keys = |origins: &str| format!("origins = [{origins}]\ntimeouts = {{ connect = \"1s\" }}");
    let silent = SocketAddr::new(silent, 80);
    let instance =
        serve(case, &service(case, "80", &keys(&format!("\"{silent}\", \"{}\"", alive.address()))));
    let began = Instant::now();
    assert_eq!(words(case, 4), BTreeSet::from(["alive".to_owned()]));
    assert!(began.elapsed() < Duration::from_secs(12), "{:?} for 4", began.elapsed());
    configure(&case.server, &service(case, "80", &keys(&format!("\"{silent}\""))));
    reload(&case.server, &instance).unwrap();
    assert_eq!(heard(case, 80), Err(ErrorKind::ConnectionReset));
    await_end(&instance, &end("dial-timed-out", "522"));
}

fn on_the_first_byte_an_origin_hears_of_nobody_who_says_nothing(case: &mut Case) {
    let origin = Origin::echo(&case.server, place(case, 1));
    let keys = format!("origins = [\"{}\"]\ndial-on = \"first-byte\"", origin.address());
    let instance = serve(case, &service(case, "80", &keys));
    let target = SocketAddr::new(case.any_address(), 80);
    let silent = call(&case.server, target).unwrap();
    for _ in 0..20 {
        let check = call(&case.server, target).unwrap();
        SockRef::from(&check).set_linger(Some(Duration::ZERO)).unwrap();
        drop(check);
        let check = call(&case.server, target).unwrap();
        check.shutdown(Shutdown::Write).unwrap();
        assert_eq!((&check).read(&mut [0]).unwrap(), 0, "a FIN is answered by a FIN");
    }
    let speaking = call(&case.server, target).unwrap();
    (&speaking).write_all(b"first").unwrap();
    let mut heard = [0; 5];
    (&speaking).read_exact(&mut heard).unwrap();
    assert_eq!(heard, *b"first");
    drop((silent, speaking));
    let dialled = || {
        let status = connect(&case.server, &instance).ask("status").unwrap();
        let service = &status["services"][0];
        (service["open"] == 0).then(|| service["origins"][0]["connections"].clone())
    };
    assert_eq!(eventually("all to be over", PATIENCE, dialled), 1);
    // The checks that closed in order were empty, those that reset were never dialled for.
    let log = instance.stop().stderr;
    let resets = records(&log).iter().filter(|record| record["end"] == "downstream-reset").count();
    assert_eq!(resets, 0, "{log}");
}

fn failed_dials_eject_an_origin(case: &mut Case) {
    let dead = dead(case, 1);
    let keys = format!("origins = [\"{dead}\"]\nejection = {{ failures = 3, time = \"5s\" }}");
    let instance = serve(case, &service(case, "80", &keys));
    for count in 1..=4 {
        assert_eq!(heard(case, 80), Err(ErrorKind::ConnectionReset));
        let expected = if count < 4 { end("dial-refused", "521") } else { end("dial-down", "521") };
        assert_eq!(last_end(&instance, count), expected);
    }
    assert_eq!(conditions(case, &instance)[&dead.to_string()], "ejected");
    let _risen = Origin::saying(&case.server, dead, "risen");
    eventually("the end of the ejection", PATIENCE, || heard(case, 80).ok());
    assert_eq!(conditions(case, &instance)[&dead.to_string()], "up");
}

fn a_range_of_ports_keeps_the_offset(case: &mut Case) {
    let address = place(case, 1);
    let _first = Origin::saying(&case.server, SocketAddr::new(address, 3000), "first");
    let _sixth = Origin::saying(&case.server, SocketAddr::new(address, 3005), "sixth");
    let shown = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
    let keys = format!("origins = \"{shown}:3000-3010\"");
    let _instance = serve(case, &service(case, "1000-1010", &keys));
    assert_eq!(heard(case, 1000).as_deref(), Ok("first"));
    assert_eq!(heard(case, 1005).as_deref(), Ok("sixth"));
    assert_eq!(heard(case, 1001), Err(ErrorKind::ConnectionReset), "nobody listens on 3001");
}

fn source_hash_keeps_clients_together(case: &mut Case) {
    let origins = [saying(case, 1, "a"), saying(case, 2, "b"), saying(case, 3, "c"), saying(case, 4, "d")];
    let list = |origins: &[&Origin]| {
        origins.iter().map(|origin| format!("\"{}\"", origin.address())).collect::<Vec<_>>().join(", ")
    };
    let keys = |list: String| format!("origins = [{list}]\nbalance = \"source-hash\"");
    let instance = serve(case, &service(case, "80", &keys(list(&origins.each_ref()))));
    let clients: Vec<IpAddr> = (10..=69).map(|last| place(case, last)).collect();
    let choices = |case: &mut Case| -> BTreeMap<IpAddr, String> {
        let target = SocketAddr::new(case.any_address(), 80);
        clients
            .iter()
            .map(|client| (*client, dial_from(&case.server, *client, target).unwrap().text))
            .collect()
    };
    let before = choices(case);
    assert_eq!(before, choices(case));
    configure(&case.server, &service(case, "80", &keys(list(&[&origins[3], &origins[0], &origins[1]]))));
    reload(&case.server, &instance).unwrap();
    let after = choices(case);
    let moved = before.iter().filter(|(client, word)| after[*client] != **word);
    let gone = before.values().filter(|word| *word == "c").count();
    assert_eq!(moved.count(), gone, "only the clients of the origin that went have another");
    assert!((4..=28).contains(&gone), "{gone} of 60, 15 expected");
}

const NAME: &str = "origin.test";

fn named(case: &Case, server: &NameServer, origin: &str, keys: &str) -> String {
    let keys = format!("origins = \"{origin}\"\nlocal-origins = true\n{keys}");
    format!("{}\n{}", server.section(Duration::from_millis(300)), service(case, "80", &keys))
}

fn names_follow_dns(case: &mut Case) {
    let server = NameServer::start(&case.server, case.loopback());
    let (one, two) =
        (saying(case, 1, "one"), Origin::saying(&case.server, SocketAddr::new(place(case, 2), 0), "two"));
    let port = one.address().port();
    let _second = Origin::saying(&case.server, SocketAddr::new(place(case, 2), port), "two");
    server.set(NAME, &[one.address().ip()]);
    let instance = serve(case, &named(case, &server, &format!("{NAME}:{port}"), ""));
    assert_eq!(words(case, 4), BTreeSet::from(["one".to_owned()]));
    server.set(NAME, &[two.address().ip()]);
    eventually("the other address", PATIENCE, || (heard(case, 80).as_deref() == Ok("two")).then_some(()));
    assert_eq!(words(case, 4), BTreeSet::from(["two".to_owned()]));
    server.set(NAME, &[one.address().ip(), two.address().ip()]);
    await_logged(&instance, "origin has other addresses", 2);
    assert_eq!(words(case, 8), BTreeSet::from(["one".to_owned(), "two".to_owned()]));
    // The name is gone, and an authority says so.
    server.set(NAME, &[]);
    await_logged(&instance, "resolve origin", 1);
    assert_eq!(heard(case, 80), Err(ErrorKind::ConnectionReset));
    await_end(&instance, &end("dial-unresolved", "531"));
    // Nobody says so any more, nor anything else.
    server.behave(Manner::Fail);
    eventually("a dial for which no name server answered", PATIENCE, || {
        assert_eq!(heard(case, 80), Err(ErrorKind::ConnectionReset));
        ends(&instance).contains(&end("dial-resolver-failed", "530")).then_some(())
    });
}

fn a_failing_name_server_changes_nothing(case: &mut Case) {
    let server = NameServer::start(&case.server, case.loopback());
    let one = saying(case, 1, "one");
    server.set(NAME, &[one.address().ip()]);
    let port = one.address().port();
    let instance = serve(case, &named(case, &server, &format!("{NAME}:{port}"), ""));
    for (manner, times) in [(Manner::Silence, 1), (Manner::Fail, 1)] {
        server.behave(manner);
        await_logged(&instance, "resolve origin", times);
        let asked = server.queries();
        eventually("another attempt", PATIENCE, || (server.queries() > asked + 1).then_some(()));
        let began = Instant::now();
        assert_eq!(words(case, 10), BTreeSet::from(["one".to_owned()]));
        assert!(began.elapsed() < Duration::from_secs(2), "nobody waits: {:?}", began.elapsed());
    }
    server.behave(Manner::Answer);
    await_logged(&instance, "origin resolves again", 1);
}

/// The answer of `/readyz` about a service, or the instance.
fn ready(case: &Case, admin: SocketAddr, service: &str) -> (u16, String) {
    get(&case.server, admin, &format!("/readyz{service}")).unwrap()
}

fn a_name_that_does_not_resolve_keeps_nothing_else_from_being_served(case: &mut Case) {
    let server = NameServer::start(&case.server, case.loopback());
    let one = saying(case, 1, "one");
    let port = one.address().port();
    let text = format!(
        "[admin]\nlisten = \"{}\"\n{}\n{}[[service]]\nname = \"good\"\nbindings = [{{ prefix = \"{}\", ports = 81 }}]\n\
         origins = \"{}\"\n",
        SocketAddr::new(case.loopback(), 0),
        server.section(Duration::from_millis(300)),
        service(case, "80", &format!("origins = \"{NAME}:{port}\"\nlocal-origins = true")),
        case.prefix(),
        one.address(),
    );
    configure(&case.server, &text);
    let line = 1 + text.lines().position(|line| line.starts_with("origins = ")).unwrap();
    let at = format!("/run/spectrum.toml:{line}:11");
    let place = format!("{at}: service \"web\" origins: \"{NAME}:{port}\": ");
    for (manner, reason, cure) in [
        (
            Manner::Answer,
            "the name does not exist, or has no address",
            "correct the name, or give the server's address",
        ),
        (
            Manner::Silence,
            "no name server answered usefully: ",
            "see whether the name servers can be reached, or",
        ),
    ] {
        server.behave(manner);
        let finished = Launch::new(&case.server).arguments("check --resolve").arguments(CONFIG).finish();
        // The network may be at fault, so that trying again may help: not the code of a bad file.
        assert_eq!(finished.code(), 1, "{finished}");
        assert!(finished.stderr.contains(&format!("error: {place}{reason}")), "{finished}");
        assert!(finished.stderr.contains(cure), "{finished}");
        assert_eq!(finished.stderr.matches(NAME).count(), 1, "{finished}");

        let instance = case.start(CONFIG);
        assert_eq!(heard(case, 81).as_deref(), Ok("one"));
        assert_eq!(heard(case, 80), Err(ErrorKind::ConnectionReset));
        eventually("its record", PATIENCE, || {
            let log = instance.stderr();
            let records = records(&log);
            let refused = records.iter().find(|record| record["service"] == "web")?;
            assert_eq!((refused["end"], refused["status"]), ("dial-unresolved", "531"));
            Some(())
        });
        await_logged(&instance, "resolve origin: the service is unresolved", 1);
        let log = instance.stderr();
        let line = log.lines().find(|line| line.contains("resolve origin: ")).unwrap();
        for part in
            ["WARN", "service=web", &format!("origin={NAME}:{port}"), &format!("at=\"{at}\""), reason, cure]
        {
            assert!(line.contains(part), "{part:?} is missing: {line}");
        }
        let status = connect(&case.server, &instance).ask("status").unwrap();
        let row = &status["services"][0]["origins"][0];
        assert_eq!((&row["condition"], &row["address"]), (&"unresolved".into(), &Value::Null), "{status}");
        assert!(row["reason"].as_str().unwrap().contains(reason), "{row}");
        let admin = status["admin"].as_str().unwrap().parse().unwrap();
        let (code, said) = ready(case, admin, "?service=web");
        assert!(code == 503 && said.contains(NAME) && said.contains(reason), "{code} {said}");
        assert_eq!(ready(case, admin, "?service=good"), (200, "ready\n".to_owned()));
        assert_eq!(ready(case, admin, "?service=nobody").0, 404);
        assert_eq!(ready(case, admin, "").0, 200);
        let counted = |case: &Case, service: &str| {
            value(&metrics(&case.server, admin), &format!("unresolved_origins{{service=\"{service}\"}}"))
        };
        assert_eq!((counted(case, "web"), counted(case, "good")), (Some(1.0), Some(0.0)));
        // It is asked again, and is served from then on.
        server.behave(Manner::Answer);
        server.set(NAME, &[one.address().ip()]);
        eventually("the name", PATIENCE, || (heard(case, 80).as_deref() == Ok("one")).then_some(()));
        assert_eq!(ready(case, admin, "?service=web").0, 200);
        await_logged(&instance, "origin resolves again", 1);
        assert_eq!(counted(case, "web"), Some(0.0));
        server.set(NAME, &[]);
        instance.stop();
    }
    // A reload goes on likewise.
    server.behave(Manner::Answer);
    let instance = case.start(CONFIG);
    configure(&case.server, &text.replace(NAME, "nowhere.test").replace("ports = 81", "ports = 82"));
    reload(&case.server, &instance).unwrap();
    assert_eq!(heard(case, 82).as_deref(), Ok("one"));
    await_logged(&instance, "origin=nowhere.test", 1);
    assert_eq!(heard(case, 80), Err(ErrorKind::ConnectionReset));
}

fn an_origin_of_the_command_line_that_does_not_resolve_is_said_as_such(case: &mut Case) {
    let before = State::of(&case.server);
    for origin in ["no-such-host.invalid:80", "no-such-host.invalid"] {
        let instance = case.start(&format!("--prefix {} --origin {origin}", case.prefix()));
        await_logged(&instance, &format!("origin={origin} at=\"--origin\""), 1);
        assert_eq!(heard(case, 80), Err(ErrorKind::ConnectionReset));
        instance.stop();
    }
    before.assert_restored(&case.server, "starts and stops");
}

/// 1,000 targets, none of whose names is answered, and time enough for each that they would take minutes one by one.
fn a_silent_name_server_holds_up_neither_a_start_nor_a_reload_nor_a_stop(case: &mut Case) {
    let server = NameServer::start(&case.server, case.loopback());
    let one = saying(case, 1, "one");
    let targets: Vec<String> = (0..1000).map(|number| format!("h{number}.test")).collect();
    let records: Vec<_> = targets.iter().map(|target| (10, 1, 80, target.as_str())).collect();
    server.set_service("_web._tcp.test", &records);
    server.silence_but("_web._tcp.test");
    let text = |more: &str| {
        format!(
            "{}\n{}[[service]]\nname = \"good\"\nbindings = [{{ prefix = \"{}\", ports = \"81{more}\" }}]\n\
             origins = \"{}\"\n",
            server.section(Duration::from_secs(5)),
            service(case, "80", "origins = \"_web._tcp.test\""),
            case.prefix(),
            one.address(),
        )
    };
    let began = Instant::now();
    let (first, second) = (text(""), text(",82"));
    let instance = serve(case, &first);
    assert!(began.elapsed() < Duration::from_secs(8), "a start took {:?}", began.elapsed());
    assert_eq!(heard(case, 81).as_deref(), Ok("one"));
    let began = Instant::now();
    configure(&case.server, &second);
    reload(&case.server, &instance).unwrap();
    assert!(began.elapsed() < Duration::from_secs(8), "a reload took {:?}", began.elapsed());
    assert_eq!(heard(case, 82).as_deref(), Ok("one"));
    assert_eq!(conditions(case, &instance)["none"], "unresolved");
    assert!(server.queries() <= 512, "{} queries", server.queries());
    let peak = instance.peak_memory();
    assert!(peak < 128 << 20, "{peak} bytes of memory");
    let began = Instant::now();
    instance.stop();
    assert!(began.elapsed() < Duration::from_secs(4), "a stop took {:?}", began.elapsed());
}

fn a_name_leads_to_nothing_that_only_this_host_reaches(case: &mut Case) {
    let server = NameServer::start(&case.server, case.loopback());
    let far = veth::origin_of(&case.server);
    let outside = Origin::saying(&far, SocketAddr::new(veth::origin_address(case.family), 0), "outside");
    let port = outside.address().port();
    let own = case.family.parse("203.0.113.1", "2001:db8:eeee::1");
    let secret = Origin::saying(&case.server, SocketAddr::new(case.loopback(), port), "secret");
    let _own = Origin::saying(&case.server, SocketAddr::new(own, port), "own");
    // Many hosts have localhost in IPv4 only.
    let _localhost = case
        .loopback()
        .is_ipv6()
        .then(|| Origin::saying(&case.server, SocketAddr::new("127.0.0.1".parse().unwrap(), port), "secret"));
    let text = named(case, &server, &format!("{NAME}:{port}"), "");
    let refusing = text.replace("local-origins = true", "");
    // From the start on, and not first when the name is looked up again.
    server.set(NAME, &[own]);
    server.keep_for(300);
    let instance = serve(case, &refusing);
    assert_eq!(heard(case, 80), Err(ErrorKind::ConnectionReset));
    assert_eq!(conditions(case, &instance)[&SocketAddr::new(own, port).to_string()], "refused");
    instance.stop();
    server.set(NAME, &[outside.address().ip()]);
    server.keep_for(1);
    let instance = serve(case, &refusing);
    assert_eq!(heard(case, 80).as_deref(), Ok("outside"));
    let others: &[(&str, &str)] = case.family.pick(
        &[
            ("169.254.169.254", "a link-local address"),
            ("0.0.0.0", "the unspecified address"),
            ("224.0.0.1", "a multicast address"),
        ],
        &[
            ("fe80::1", "a link-local address"),
            ("::", "the unspecified address"),
            ("::ffff:127.0.0.1", "a loopback address"),
        ],
    );
    let mut refused = vec![(secret.address().ip(), "a loopback address"), (own, "an address of this host")];
    refused.extend(others.iter().map(|(address, kind)| (address.parse().unwrap(), *kind)));
    for (address, kind) in refused {
        server.set(NAME, &[address]);
        eventually(kind, PATIENCE, || match heard(case, 80).as_deref() {
            Ok("outside") => None,
            Err(ErrorKind::ConnectionReset) => Some(()),
            other => panic!("{address}: {other:?}"),
        });
        eventually("its record", PATIENCE, || {
            let log = instance.stderr();
            (records(&log).last()?["end"] == "dial-unresolved").then_some(())
        });
        let line = format!("address={address} ");
        await_logged(&instance, &line, 1);
        let log = instance.stderr();
        let line = log.lines().find(|one| one.contains(&line)).unwrap();
        assert!(line.contains("WARN") && line.contains("service=web") && line.contains(kind), "{line}");
        let shown = SocketAddr::new(address, port).to_string();
        await_condition(case, &instance, &shown, "refused");
        // Among others it is left out.
        server.set(NAME, &[address, outside.address().ip()]);
        eventually("the other", PATIENCE, || (heard(case, 80).as_deref() == Ok("outside")).then_some(()));
        assert_eq!(words(case, 4), BTreeSet::from(["outside".to_owned()]));
        server.set(NAME, &[outside.address().ip()]);
        eventually("none refused", PATIENCE, || (conditions(case, &instance).len() == 1).then_some(()));
    }
    let check = |text: &str, address: IpAddr| {
        server.set(NAME, &[address]);
        configure(&case.server, text);
        Launch::new(&case.server).arguments("check --resolve").arguments(CONFIG).finish()
    };
    let finished = check(&refusing, secret.address().ip());
    assert_eq!(finished.code(), 1, "{finished}");
    assert!(
        finished.stderr.contains("a loopback address") && finished.stderr.contains("local-origins"),
        "{finished}"
    );
    assert_eq!(check(&text, secret.address().ip()).code(), 0);
    assert_eq!(check(&refusing, outside.address().ip()).code(), 0);
    // The service may say otherwise, an address may be typed, and localhost means what it says.
    server.set(NAME, &[secret.address().ip()]);
    configure(&case.server, &text);
    reload(&case.server, &instance).unwrap();
    eventually("the local one", PATIENCE, || (heard(case, 80).as_deref() == Ok("secret")).then_some(()));
    for origin in [secret.address().to_string(), format!("localhost:{port}")] {
        configure(&case.server, &refusing.replace(&format!("{NAME}:{port}"), &origin));
        reload(&case.server, &instance).unwrap();
        assert_eq!(heard(case, 80).as_deref(), Ok("secret"), "{origin}");
    }
}

fn an_order_that_rotates_is_no_change_and_a_name_that_vanishes_is_a_warning(case: &mut Case) {
    let server = NameServer::start(&case.server, case.loopback());
    let one = saying(case, 1, "one");
    let mut addresses: Vec<IpAddr> = [1, 2, 3].map(|last| place(case, last)).to_vec();
    // At least a second, so that this is no storm of queries.
    server.keep_for(0);
    server.set(NAME, &addresses);
    let port = one.address().port();
    let instance = serve(case, &named(case, &server, &format!("{NAME}:{port}"), ""));
    let began = Instant::now();
    let first = server.queries();
    for _ in 0..3 {
        addresses.rotate_left(1);
        server.set(NAME, &addresses);
        let asked = server.queries();
        eventually("another look", PATIENCE, || (server.queries() >= asked + 2).then_some(()));
    }
    let most = 4 * (2 + began.elapsed().as_secs());
    assert!((server.queries() - first) as u64 <= most, "{} queries", server.queries() - first);
    assert_eq!(count_logged(&instance, "origin has other addresses"), 0, "{}", instance.stderr());
    assert_eq!(count_logged(&instance, "WARN"), 0, "{}", instance.stderr());
    server.set(NAME, &[]);
    await_logged(&instance, "resolve origin: the service is unresolved", 1);
    assert_logged(&instance, "WARN", 1);
}

/// One service has a name with 300 addresses, another one with as many SRV records.
fn of_very_many_addresses_few_are_used_and_fewer_dialled(case: &mut Case) {
    let server = NameServer::start(&case.server, case.loopback());
    let nobody: Vec<IpAddr> = (0..300_u16)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            case.family.parse(&format!("127.9.{high}.{low}"), &format!("fd09::{high:x}:{low:x}"))
        })
        .collect();
    // Nobody is there, and who dials is told so at once.
    server.set(NAME, &nobody);
    let targets: Vec<String> = (0..300).map(|number| format!("h{number}.test")).collect();
    for target in &targets {
        server.set(target, &nobody[..2]);
    }
    let records: Vec<_> = targets.iter().map(|target| (10, 1, 9, target.as_str())).collect();
    server.set_service("_web._tcp.test", &records);
    server.keep_for(300);
    let keys = |origin: &str| format!("origins = \"{origin}\"\nlocal-origins = true");
    let text = format!(
        "{}addresses = 32\ntargets = 16\n{}{}",
        server.section(Duration::from_secs(1)),
        service(case, "80", &keys(&format!("{NAME}:9"))),
        service(case, "81", &keys("_web._tcp.test")).replace("\"web\"", "\"many\""),
    );
    let instance = serve(case, &text);
    await_logged(&instance, "more than [resolver] targets and addresses allow", 2);
    let status = connect(&case.server, &instance).ask("status").unwrap();
    let rows = |service: usize, condition: &str| {
        let rows = status["services"][service]["origins"].as_array().unwrap();
        rows.iter().filter(|row| row["condition"] == condition).cloned().collect::<Vec<_>>()
    };
    assert_eq!((rows(0, "up").len(), rows(0, "unused").len()), (32, 1), "{status}");
    assert_eq!(rows(0, "unused")[0]["reason"], "0 SRV records and 268 addresses more than are used");
    assert_eq!((rows(1, "up").len(), rows(1, "unused").len()), (32, 1), "{status}");
    assert_eq!(rows(1, "unused")[0]["reason"], "284 SRV records and 0 addresses more than are used");
    for (port, most) in [(80, 8), (81, 16)] {
        assert_eq!(heard(case, port), Err(ErrorKind::ConnectionReset));
        let status = connect(&case.server, &instance).ask("status").unwrap();
        let rows = status["services"][usize::from(port) - 80]["origins"].as_array().unwrap();
        // Rows of one address tell the same of it.
        let dialled: BTreeMap<&str, u64> = rows
            .iter()
            .filter_map(|row| Some((row["address"].as_str()?, row["failures"].as_u64()?)))
            .collect();
        let dialled: u64 = dialled.values().sum();
        assert!((2..=most).contains(&dialled), "{dialled} addresses were dialled for one connection");
    }
}

fn families_of_a_name_take_turns_among_connections(case: &mut Case) {
    let server = NameServer::start(&case.server, case.loopback());
    case.server.ip("-6 addr add fd00::99/128 dev lo nodad");
    let six = Origin::saying(&case.server, "[fd00::99]:0".parse().unwrap(), "six");
    let port = six.address().port();
    let fours = ["a", "b", "c"].map(|word| {
        let address = SocketAddr::new(format!("127.1.9.{}", word.as_bytes()[0]).parse().unwrap(), port);
        Origin::saying(&case.server, address, word).address().ip()
    });
    let all = [fours[0], six.address().ip(), fours[1], fours[2]];
    server.set(NAME, &all);
    let instance = serve(case, &named(case, &server, &format!("{NAME}:{port}"), ""));
    let mut counts = BTreeMap::new();
    for _ in 0..30 {
        *counts.entry(heard(case, 80).unwrap()).or_insert(0) += 1;
    }
    let expected = [("a", 5), ("b", 5), ("c", 5), ("six", 15)];
    assert_eq!(counts, expected.map(|(word, count)| (word.to_owned(), count)).into());
    // Without a route the family comes last, and nobody is sent there in vain.
    case.server.ip("-6 addr del fd00::99/128 dev lo");
    server.set(NAME, &all[1..]);
    await_logged(&instance, "origin has other addresses", 1);
    let before = count_logged(&instance, "dial origin");
    assert_eq!(words(case, 6), BTreeSet::from(["b".to_owned(), "c".to_owned()]));
    assert_eq!(count_logged(&instance, "dial origin"), before, "{}", instance.stderr());
}

fn services_are_found_by_their_records(case: &mut Case) {
    let server = NameServer::start(&case.server, case.loopback());
    let (main, spare) = (saying(case, 1, "main"), saying(case, 2, "spare"));
    let (one, two) = (main.address(), spare.address());
    server.set("main.test", &[one.ip()]);
    server.set("spare.test", &[two.ip()]);
    let dead = dead(case, 3);
    server.set("dead.test", &[dead.ip()]);
    let records = [(10, 5, one.port(), "main.test"), (20, 5, two.port(), "spare.test")];
    server.set_service("_web._tcp.test", &records);
    let instance = serve(case, &named(case, &server, "_web._tcp.test", OFTEN));
    // A start waits for names only so long.
    eventually("the first answer", PATIENCE, || heard(case, 80).ok());
    assert_eq!(words(case, 6), BTreeSet::from(["main".to_owned()]));
    server.set_service("_web._tcp.test", &[(10, 5, dead.port(), "dead.test"), records[1]]);
    await_condition(case, &instance, &dead.to_string(), "down");
    assert_eq!(words(case, 6), BTreeSet::from(["spare".to_owned()]));
    // Three of four to the one with three of four parts of the weight, whichever worker takes a connection.
    server
        .set_service("_web._tcp.test", &[(1, 3, one.port(), "main.test"), (1, 1, two.port(), "spare.test")]);
    eventually("both", PATIENCE, || (words(case, 8).len() == 2).then_some(()));
    let taken = (0..40).filter(|_| heard(case, 80).as_deref() == Ok("main")).count();
    assert!((26..=34).contains(&taken), "{taken} of 40");
    // Rows of one address are told apart by their records.
    server.set("alias.test", &[one.ip()]);
    server
        .set_service("_web._tcp.test", &[(1, 3, one.port(), "main.test"), (2, 7, one.port(), "alias.test")]);
    let rows = eventually("the alias", PATIENCE, || {
        let status = connect(&case.server, &instance).ask("status").unwrap();
        let rows = status["services"][0]["origins"].as_array().unwrap().clone();
        (rows.len() == 2 && rows[1]["record"]["target"] == "alias.test").then_some(rows)
    });
    assert_eq!(rows[0]["address"], rows[1]["address"]);
    assert_eq!(
        rows[0]["record"],
        serde_json::json!({ "priority": 1, "weight": 3, "port": one.port(), "target": "main.test" })
    );
    let shown = Launch::new(&case.server).arguments("status").finish().stdout;
    let row = |record: &str| shown.lines().find(|line| line.contains(record)).unwrap().to_owned();
    assert!(!row(&format!("_web._tcp.test 1 3 {} main.test", one.port())).contains("as above"), "{shown}");
    assert!(
        row(&format!(" 2 7 {} alias.test", one.port())).contains(&format!("{one} (as above)")),
        "{shown}"
    );
}

/// There are `count` records, and no more: a connection that led back would be there many times over.
fn assert_last_is_a_loop(instance: &Instance, count: usize) {
    assert_eq!(last_end(instance, count), end("dial-loop", "523"));
    let log = instance.stderr();
    assert_eq!(records(&log).len(), count, "{log}");
}

fn a_name_that_comes_to_lead_back_is_not_dialled(case: &mut Case) {
    let server = NameServer::start(&case.server, case.loopback());
    let one = saying(case, 1, "one");
    let port = one.address().port();
    server.set(NAME, &[case.address(7)]);
    // At the start already, though other services are to go on.
    let keys = format!("origins = \"{NAME}:{port}\"\nlocal-origins = true");
    let with = |keys: &str| {
        let service = service(case, &format!("80,{port}"), keys);
        format!("{}\n{service}", server.section(Duration::from_millis(300)))
    };
    let (names, records_of_service) =
        (with(&keys), with("origins = \"_web._tcp.test\"\nlocal-origins = true"));
    let instance = serve(case, &names);
    await_logged(&instance, "origin leads back to this service and is not dialled there", 1);
    assert_eq!(heard(case, 80), Err(ErrorKind::ConnectionReset));
    assert_last_is_a_loop(&instance, 1);
    let shown = SocketAddr::new(case.address(7), port).to_string();
    assert_eq!(conditions(case, &instance)[&shown], "loop");
    server.set(NAME, &[one.address().ip(), case.address(7)]);
    let mut dials = 1;
    eventually("the other address", PATIENCE, || {
        dials += 1;
        (heard(case, 80).as_deref() == Ok("one")).then_some(())
    });
    assert_eq!(words(case, 6), BTreeSet::from(["one".to_owned()]));
    dials += 6;
    server.set(NAME, &[case.address(9)]);
    await_logged(&instance, "origin leads back to this service and is not dialled there", 2);
    assert_eq!(heard(case, 80), Err(ErrorKind::ConnectionReset));
    dials += 1;
    // No connection has led to another.
    eventually("a record of each dial", PATIENCE, || {
        (records(&instance.stderr()).len() == dials).then_some(())
    });
    assert_last_is_a_loop(&instance, dials);
    // By SRV records likewise, where the port comes from there.
    server.set_service("_web._tcp.test", &[(10, 5, port, NAME), (20, 5, port, "main.test")]);
    server.set("main.test", &[one.address().ip()]);
    configure(&case.server, &records_of_service);
    reload(&case.server, &instance).unwrap();
    assert_eq!(words(case, 4), BTreeSet::from(["one".to_owned()]));
    let status = connect(&case.server, &instance).ask("status").unwrap();
    let rows = status["services"][0]["origins"].as_array().unwrap();
    let left_out = rows.iter().find(|row| row["condition"] == "loop").unwrap_or_else(|| panic!("{status}"));
    assert_eq!(
        left_out["record"],
        serde_json::json!({ "priority": 10, "weight": 5, "port": port, "target": NAME }),
        "{left_out}"
    );
    assert_eq!(left_out["way"], serde_json::json!(["web", "web"]), "{left_out}");
}

/// If the dialled port is kept, a client can choose the one that the listener has itself.
fn a_listener_of_our_own_is_not_dialled(case: &mut Case) {
    let origin = Origin::saying(&case.server, SocketAddr::new(case.loopback(), 0), "origin");
    let instance = serve(case, &service(case, "1-65535", &format!("origins = \"{}\"", case.loopback())));
    let status = connect(&case.server, &instance).ask("status").unwrap();
    let listener = status["destinations"][0]["listener"]["address"].as_str().unwrap().to_owned();
    let listener: SocketAddr = listener.parse().unwrap();
    assert_eq!(heard(case, listener.port()), Err(ErrorKind::ConnectionReset));
    assert_last_is_a_loop(&instance, 1);
    await_logged(&instance, "a listener of our own is there", 1);
    assert_eq!(heard(case, origin.address().port()).as_deref(), Ok("origin"));
    // One connection each, and no more.
    assert_eq!(last_end(&instance, 2), end("closed", "200"));
    assert_eq!(records(&instance.stderr()).len(), 2);
}

fn only_the_ports_that_lead_back_are_not_dialled(case: &mut Case) {
    let server = NameServer::start(&case.server, case.loopback());
    let address = place(case, 1);
    let _real = Origin::saying(&case.server, SocketAddr::new(address, 3001), "real");
    server.set(NAME, &[address]);
    // One of the two ports belongs to another service, which dials the first one.
    let text = format!(
        "{}\n[[service]]\nname = \"other\"\nbindings = [{{ prefix = \"{address}\", ports = \"3000\" }}]\norigins = \"{}\"\n{}",
        server.section(Duration::from_millis(300)),
        SocketAddr::new(case.address(9), 80),
        service(case, "80-81", &format!("origins = \"{NAME}:3000-3001\"\nlocal-origins = true"))
    );
    let instance = serve(case, &text);
    await_logged(&instance, "is not dialled there", 1);
    let log = instance.stderr();
    assert!(log.contains("service=web") && log.contains("ports=\"3000\" bound_by=\"other\""), "{log}");
    assert_eq!(heard(case, 80), Err(ErrorKind::ConnectionReset));
    assert_last_is_a_loop(&instance, 1);
    assert_eq!(heard(case, 81).as_deref(), Ok("real"));
}

fn two_services_whose_names_lead_to_each_other_make_no_circle(case: &mut Case) {
    let server = NameServer::start(&case.server, case.loopback());
    let real = saying(case, 1, "real");
    let port = real.address().port();
    let (a, b) = (case.address(10), case.address(20));
    let text = format!(
        "{}\n[[service]]\nname = \"a\"\nbindings = [{{ prefix = \"{a}\", ports = \"{port}\" }}]\norigins = \"b.test:{port}\"\nlocal-origins = true\n\
         [[service]]\nname = \"b\"\nbindings = [{{ prefix = \"{b}\", ports = \"{port}\" }}]\norigins = \"a.test:{port}\"\nlocal-origins = true\n",
        server.section(Duration::from_millis(300))
    );
    let said = |case: &Case, address| {
        dial(&case.server, SocketAddr::new(address, port))
            .map(|heard| heard.text)
            .map_err(|error| error.kind())
    };
    server.set("b.test", &[b]);
    server.set("a.test", &[real.address().ip()]);
    // A chain of two services that ends is allowed.
    let instance = serve(case, &text);
    assert_eq!(said(case, a).as_deref(), Ok("real"));
    let row = |name: &str| {
        let status = connect(&case.server, &instance).ask("status").unwrap();
        let services = status["services"].as_array().unwrap();
        services.iter().find(|service| service["name"] == name).unwrap()["origins"][0].clone()
    };
    assert_eq!((&row("a")["condition"], row("a").get("way")), (&"up".into(), None));
    // It becomes a circle, and is cut where it was closed.
    server.set("a.test", &[a]);
    let warned = "origin leads to service a and from there back to this service, and is not dialled there";
    await_logged(&instance, warned, 1);
    let log = instance.stderr();
    assert!(log.contains("service=b origin=a.test"), "{log}");
    assert!(log.contains("bound_by=\"a\" way=\"b -> a -> b\""), "{log}");
    // Of both neither is of use, whichever of them is cut.
    for (name, way) in [("a", ["a", "b", "a"]), ("b", ["b", "a", "b"])] {
        let row = row(name);
        assert_eq!(row["condition"], "loop", "{row}");
        assert_eq!(row["way"], serde_json::json!(way), "{row}");
    }
    let await_records = |count| {
        eventually("records", PATIENCE, || (records(&instance.stderr()).len() == count).then_some(()));
    };
    await_records(2);
    assert_eq!(said(case, a), Err(ErrorKind::ConnectionReset));
    // One of each service: b's connection went no further.
    await_records(4);
    // It is open again elsewhere: what was cut is dialled again.
    server.set("b.test", &[real.address().ip()]);
    eventually("a chain the other way", PATIENCE, || (said(case, b).as_deref() == Ok("real")).then_some(()));
    assert_eq!(said(case, a).as_deref(), Ok("real"));
    assert_eq!((&row("a")["condition"], &row("b")["condition"]), (&"up".into(), &"up".into()));
}

fn a_reload_that_binds_an_origins_address_takes_it_out(case: &mut Case) {
    let server = NameServer::start(&case.server, case.loopback());
    let one = saying(case, 1, "one");
    let (address, port) = (one.address().ip(), one.address().port());
    server.set(NAME, &[address]);
    let text = |more: &str| {
        let keys = format!("origins = \"{NAME}:{port}\"\nlocal-origins = true");
        let bound = service(case, "80", &keys).replace("}]", &format!("}}{more}]"));
        format!("{}\n{bound}", server.section(Duration::from_millis(300)))
    };
    let (without, with) = (text(""), text(&format!(", {{ prefix = \"{address}\", ports = \"{port}\" }}")));
    let instance = serve(case, &without);
    assert_eq!(heard(case, 80).as_deref(), Ok("one"));
    configure(&case.server, &with);
    reload(&case.server, &instance).unwrap();
    assert_logged(&instance, "is not dialled there", 1);
    assert_eq!(heard(case, 80), Err(ErrorKind::ConnectionReset));
    assert_eq!(conditions(case, &instance)[&one.address().to_string()], "loop");
    configure(&case.server, &without);
    reload(&case.server, &instance).unwrap();
    assert_eq!(heard(case, 80).as_deref(), Ok("one"));
}

fn a_silent_address_costs_no_more_than_its_head_start(case: &mut Case) {
    let server = NameServer::start(&case.server, case.loopback());
    // The families of an origin need not be the client's. IPv6 goes first, and says nothing.
    let silent: IpAddr = "fd00::99".parse().unwrap();
    case.server.ip("-6 addr add fd00::99/128 dev lo nodad");
    blackhole(&case.server, silent);
    let alive = Origin::saying(&case.server, "127.1.0.9:0".parse().unwrap(), "alive");
    server.set(NAME, &[alive.address().ip(), silent]);
    let port = alive.address().port();
    let instance = serve(case, &named(case, &server, &format!("{NAME}:{port}"), ""));
    let mut times = Vec::new();
    for _ in 0..8 {
        let began = Instant::now();
        assert_eq!(heard(case, 80).as_deref(), Ok("alive"));
        times.push(began.elapsed());
    }
    assert!(times.iter().all(|time| *time < Duration::from_secs(2)), "{times:?}");
    // Who was overtaken is not given another head start, whichever worker finds out.
    assert!(times.iter().filter(|time| **time >= Duration::from_millis(200)).count() <= 2, "{times:?}");
    // A client that gives up takes the attempts with it.
    assert_eq!(count_logged(&instance, "dial origin"), 0, "{}", instance.stderr());
}

fn running_out_of_descriptors_is_not_the_origins_fault(case: &mut Case) {
    let origin = Origin::serve(&case.server, SocketAddr::new(place(case, 1), 0), |mut stream| {
        // Until the client is done.
        stream.read(&mut [0]).map(drop)
    });
    let address = origin.address();
    let keys = format!("origins = [\"{address}\"]\n{OFTEN}\nejection = {{ failures = 1, time = \"1h\" }}");
    configure(&case.server, &service(case, "80", &keys));
    // Who lowers the limit of another user's process takes CAP_SYS_RESOURCE.
    let instance = case.start(&format!("{CONFIG} --user root"));
    // Afterwards: an instance that knows its limit refuses connections before it comes to that.
    let pid = instance.worker();
    let limit = descriptors(pid) + 15;
    let lowered = std::process::Command::new(find_in_path("prlimit").unwrap())
        .args([format!("--pid={pid}"), format!("--nofile={limit}:{limit}")])
        .status();
    assert!(lowered.unwrap().success());
    let mut open = Vec::new();
    for _ in 0..90 {
        let target = SocketAddr::new(case.any_address(), 80);
        open.extend(call(&case.server, target));
    }
    await_logged(&instance, "Too many open files", 1);
    assert_eq!(count_logged(&instance, "origin is"), 0, "{}", instance.stderr());
    drop(open);
    eventually("room for a connection", PATIENCE, || {
        let target = SocketAddr::new(case.any_address(), 80);
        let stream = call(&case.server, target).ok()?;
        stream.shutdown(std::net::Shutdown::Write).ok()?;
        let mut text = String::new();
        (&stream).read_to_string(&mut text).ok()
    });
    // Who has no descriptor to spare cannot be asked before.
    assert_eq!(conditions(case, &instance)[&address.to_string()], "up", "{}", instance.stderr());
    assert_eq!(count_logged(&instance, "origin is"), 0, "{}", instance.stderr());
}

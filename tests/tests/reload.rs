//! From one configuration to the next: what packets, open connections, the kernel and other instances see of it. Does not
//! test what a configuration means; that is in `precedence.rs`.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::sys::signal::Signal;
use serde_json::Value;
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, Refused, await_logged, configure, connect, count_logged, reload};
use spectrum_tests::datagram::{self, assert_echo};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{Heard, assert_refused, call, dial, dial_until};
use spectrum_tests::fault::Fault;
use spectrum_tests::holdings::Holdings;
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::maps::counts;
use spectrum_tests::on_each_path;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::random::Random;
use spectrum_tests::record::records;
use spectrum_tests::require::{self, Need};
use spectrum_tests::scan::{Protocol, Service, configuration, winner};
use spectrum_tests::share;
use spectrum_tests::state::{BpfObjects, State};

on_each_path!(
    every_answer_is_of_one_generation,
    invalid_file_changes_nothing_and_says_why,
    five_thousand_open_connections_are_not_touched,
    removed_service_stops_at_once_and_its_connections_finish,
    what_comes_back_at_once_is_served,
    service_with_another_answer_keeps_what_is_open,
    handshake_that_a_cookie_answered_before_a_reload_is_served_after,
    handshake_that_a_cookie_answered_goes_on_with_who_takes_over,
    added_prefix_is_local_at_once,
    removed_prefix_is_given_up_after_the_drain,
    two_requests_at_once_are_both_done,
    storm_of_signals_ends_with_the_last_file,
    stop_right_after_a_reload_leaves_nothing,
    killed_amid_a_reload_leaves_nothing_after_clean,
    prefix_of_another_instance_is_refused,
    any_system_call_may_fail,
    sessions_and_counters_of_datagrams_survive,
    hundreds_of_reloads_leak_nothing,
    reload_without_a_file_is_refused,
    mode_stays_what_it_is,
);

/// Tests that hold thousands of connections take turns, since all of them share one limit of open files.
static MANY: Mutex<()> = Mutex::new(());

const SAID: &str = "is it you?";

fn serve(case: &Case, services: &[Service], arguments: &str) -> Instance {
    configure(&case.server, &configuration(services));
    case.start(&format!("{CONFIG} {arguments}"))
}

/// Goes over to `services`, which must succeed.
fn go_over(case: &Case, instance: &Instance, services: &[Service]) -> Value {
    configure(&case.server, &configuration(services));
    reload(&case.server, instance).unwrap_or_else(|refused| panic!("{refused:?}\n{}", instance.stderr()))
}

fn target(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn assert_answered_by(case: &Case, target: SocketAddr, service: &str) {
    let heard = dial(&case.server, target).unwrap_or_else(|error| panic!("{target}: {error}"));
    assert!(heard.text.contains(&format!("\nservice={service} ")), "{target}: {heard:?}");
}

/// The answer to [`SAID`] from `target`.
fn answer(service: Option<&Service>, target: SocketAddr, heard: &io::Result<Heard>) -> bool {
    match (service.map(|service| (service.respond, &service.name)), heard) {
        (None, Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        (Some(("hello", name)), Ok(Heard { client, text })) => {
            *text == format!("hello world\nservice={name} protocol=tcp dialled={target} client={client}\n")
        }
        (Some(("echo", _)), Ok(Heard { text, .. })) => text == SAID,
        _ => false,
    }
}

/// A service that is in both generations, and what has different owners or answers in them; one prefix is in one only.
fn generation(random: &mut Random, name: &str, revised: &'static str) -> Vec<Service> {
    let networks = [("192.0.2.0".parse().unwrap(), 25, 6), ("2001:db8::".parse().unwrap(), 65, 6)];
    let mut services = Service::draw(random, name, 4, 8, &networks);
    // The drawn bindings keep to halves of these, so that routes of the prefixes are there all the time.
    services.push(Service::new("same", "hello", &["tcp 192.0.2.0/24 80", "tcp 2001:db8::/64 80"]));
    services.push(Service::new("revised", revised, &["tcp 192.0.2.0/24 81", "tcp 2001:db8::/64 81"]));
    let moved = format!("{name}-moved");
    services.push(Service::new(&moved, "hello", &["tcp 198.51.100.0/24 82", "tcp 2001:db8:7::/64 82"]));
    services.push(Service::new("echo", "echo", &["tcp 198.51.100.0/24 85", "tcp 2001:db8:7::/64 85"]));
    services.push(Service::new("dgram", "echo", &["udp 198.51.100.0/24 83", "udp 2001:db8:7::/64 83"]));
    let moved = format!("{name}-dgram");
    services.push(Service::new(&moved, "echo", &["udp 198.51.100.0/24 84", "udp 2001:db8:7::/64 84"]));
    services
}

/// Targets at which a mixture of the two would show: in and around every binding of either.
fn targets(random: &mut Random, generations: &[Vec<Service>; 2]) -> Vec<SocketAddr> {
    let is_local = |target: &SocketAddr| match target.ip() {
        IpAddr::V4(v4) => {
            [192, 198].contains(&v4.octets()[0])
                && [[0, 2], [51, 100]].contains(&[v4.octets()[1], v4.octets()[2]])
        }
        IpAddr::V6(v6) => {
            [[0, 0], [7, 0]].contains(&[v6.segments()[2], v6.segments()[3]]) && v6.segments()[1] == 0xdb8
        }
    };
    let bindings = generations.iter().flatten().flat_map(|service| &service.bindings);
    let mut targets: Vec<SocketAddr> =
        bindings.flat_map(|binding| [0; 6].map(|_| binding.target_near(random))).filter(is_local).collect();
    for address in ["192.0.2.9", "2001:db8::9", "192.0.2.200", "2001:db8::ffff:ffff:9"] {
        targets.extend([80, 81].map(|port| SocketAddr::new(address.parse().unwrap(), port)));
    }
    for address in ["198.51.100.9", "2001:db8:7::9"] {
        targets.push(SocketAddr::new(address.parse().unwrap(), 82));
    }
    targets
}

fn every_answer_is_of_one_generation(case: &mut Case) {
    let swaps = if case.path == Path::SkLookup { 1_000 } else { 300 };
    let before = State::of(&case.server);
    let mut generations =
        [generation(&mut case.random, "a", "hello"), generation(&mut case.random, "b", "echo")];
    generations[1].push(Service::new("extra", "hello", &["tcp 203.0.113.0/24 1-65535"]));
    let targets = targets(&mut case.random, &generations);
    // What a removed service has open is not to be cut meanwhile: it would be in the middle of an exchange.
    let instance = serve(case, &generations[0], "--drain 10m");
    let mut lasting =
        ["198.51.100.9:85", "[2001:db8:7::9]:85"].map(|text| call(&case.server, target(text)).unwrap());
    lasting.iter_mut().for_each(assert_talks);
    let is_over = AtomicBool::new(false);
    let random = Random::from_seed(case.random.bits());
    let server = &case.server;
    let (heard, echoed) = thread::scope(|scope| {
        let dialling = scope
            .spawn(|| dial_until(server, &targets, 16, SAID, random, || is_over.load(Ordering::Relaxed)));
        let sending = scope.spawn(|| echo_until(server, &is_over));
        // However this ends, the others must.
        let guard = OverGuard(&is_over);
        for swap in 1..=swaps {
            let done = go_over(case, &instance, &generations[swap % 2]);
            assert_eq!(done["revision"], swap);
            lasting.iter_mut().for_each(assert_talks);
        }
        drop(guard);
        (dialling.join().unwrap(), sending.join().unwrap())
    });
    let [a, b] = &generations;
    let mut wrong = Vec::new();
    let mut tally = [0; 3];
    for (target, heard) in &heard {
        let expected = [a, b].map(|services| winner(services, Protocol::Tcp, *target));
        let of = expected.map(|service| answer(service, *target, heard));
        match of {
            [false, false] => wrong.push(format!(
                "{target}: {heard:?} instead of {:?}",
                expected.map(|service| service.map(|service| &service.name))
            )),
            [true, true] => tally[0] += 1,
            [true, false] => tally[1] += 1,
            [false, true] => tally[2] += 1,
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        heard.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    assert!(tally.iter().all(|count| *count > 50), "a one-sided draw: {tally:?}");
    assert!(echoed > 100, "{echoed} echoes");
    // Not `println!`: the record is wanted of runs that pass.
    let mut stdout = io::stdout();
    writeln!(
        stdout,
        "RECORD reload {}: {swaps} swaps under {} connections and {echoed} datagrams",
        case.path,
        heard.len()
    )
    .unwrap();
    drop(lasting);
    instance.stop();
    before.assert_restored(&case.server, "all that");
}

/// Ends the clients however the test ends.
struct OverGuard<'a>(&'a AtomicBool);

impl Drop for OverGuard<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends datagrams to what is bound in both generations, and expects each back; says how many.
fn echo_until(server: &spectrum_tests::netns::Netns, is_over: &AtomicBool) -> usize {
    let targets = ["198.51.100.9:83", "[2001:db8:7::9]:83", "198.51.100.9:84", "[2001:db8:7::9]:84"];
    let lasting = targets.map(|text| datagram::client(server, target(text)));
    let mut echoed = 0;
    while !is_over.load(Ordering::Relaxed) {
        for (client, text) in lasting.iter().zip(targets) {
            assert_echo(client, b"again");
            // Each session of its own takes a descriptor of the program's for half a minute.
            if echoed < 3_000 {
                assert_echo(&datagram::client(server, target(text)), b"once");
            }
            echoed += 2;
        }
    }
    echoed
}

fn two(one: &str, other: &str) -> [Vec<Service>; 2] {
    [one, other].map(|name| {
        vec![
            Service::new("stays", "hello", &["tcp 192.0.2.0/24 80", "tcp 2001:db8::/64 80"]),
            Service::new(name, "hello", &["tcp 192.0.2.0/24 443", "tcp 2001:db8::/64 443"]),
        ]
    })
}

const PORTS: [(&str, u16); 2] = [("192.0.2.9", 443), ("2001:db8::9", 443)];

fn assert_all_answered_by(case: &Case, service: &str) {
    for (address, port) in PORTS {
        let address: IpAddr = address.parse().unwrap();
        assert_answered_by(case, SocketAddr::new(address, port), service);
        assert_answered_by(case, SocketAddr::new(address, 80), "stays");
    }
}

fn invalid_file_changes_nothing_and_says_why(case: &mut Case) {
    let [one, _] = two("one", "other");
    let instance = serve(case, &one, "");
    let during = State::of(&case.server);
    let tie = "[[service]]\nname = \"x\"\nrespond = \"hello\"\nbindings = [\n  { prefix = \"192.0.2.0/24\", ports = \"1-100\" },\n  { prefix = \"192.0.2.0/24\", ports = \"50-200\" },\n]\n";
    let bad = [
        ("[[service]\n", "spectrum.toml:1:"),
        ("[dispatcher]\nmood = \"auto\"\n", "mood"),
        ("", "service"),
        (tie, "overlaps with ports 1-100"),
    ];
    for (count, (text, word)) in bad.iter().enumerate() {
        configure(&case.server, text);
        let Refused { message, code } = reload(&case.server, &instance).unwrap_err();
        assert!(message.contains(word), "{word:?} is missing: {message}");
        assert_eq!(code, 78, "{message}");
        instance.signal(Signal::SIGHUP);
        await_logged(&instance, "not reloaded, nothing has changed", 2 * (count + 1));
        assert!(instance.stderr().contains(word), "{word:?} is missing: {}", instance.stderr());
        during.assert_restored(&case.server, word);
        assert_all_answered_by(case, "one");
    }
    case.server.run(|| fs::remove_file("/run/spectrum.toml").unwrap());
    let refused = reload(&case.server, &instance).unwrap_err();
    assert!(refused.message.contains("/run/spectrum.toml"), "{refused:?}");
    assert_all_answered_by(case, "one");
    let [_, other] = two("one", "other");
    go_over(case, &instance, &other);
    assert_all_answered_by(case, "other");
    instance.stop();
}

fn five_thousand_open_connections_are_not_touched(case: &mut Case) {
    let _turn = MANY.lock().unwrap_or_else(PoisonError::into_inner);
    let generations = two("one", "other").map(|mut services| {
        services.push(Service::new(
            "echo",
            "echo",
            &["tcp 198.51.100.0/24 1-65535", "tcp 2001:db8:7::/64 1-65535"],
        ));
        services
    });
    let instance = serve(case, &generations[0], "");
    let mut open: Vec<TcpStream> = (0..5_000)
        .map(|number| {
            let (network, length) = [("198.51.100.0", 24), ("2001:db8:7::", 64)][number % 2];
            let address = case.random.address(network.parse().unwrap(), length);
            call(&case.server, SocketAddr::new(address, case.random.port())).unwrap()
        })
        .collect();
    let mut heard = [0];
    for swap in 1..=20 {
        go_over(case, &instance, &generations[swap % 2]);
        for stream in open.iter_mut().skip(swap).step_by(20) {
            stream.write_all(&[7]).unwrap();
            stream.read_exact(&mut heard).unwrap();
        }
    }
    for (number, stream) in open.iter_mut().enumerate() {
        let said = [u8::try_from(number % 256).unwrap()];
        stream.write_all(&said).unwrap();
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard, said);
    }
    drop(open);
    let finished = instance.stop();
    let records = records(&finished.stderr);
    let closed =
        records.iter().filter(|record| record["service"] == "echo" && record["end"] == "closed").count();
    assert_eq!(closed, 5_000, "{:?}", records.first());
}

/// Says something and expects it back.
fn assert_talks(stream: &mut TcpStream) {
    let mut heard = [0; 5];
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
}

fn what_comes_back_at_once_is_served(case: &mut Case) {
    let all = [Service::new(
        "s",
        "echo",
        &["tcp 192.0.2.0/24 80", "tcp 2001:db8::/64 80", "udp 192.0.2.0/24 53", "udp 2001:db8::/64 53"],
    )];
    let less = [Service::new("s", "echo", &["tcp 192.0.2.0/24 80"])];
    let listening = |case: &Case| State::of(&case.server).section("listening sockets").len();
    let instance = serve(case, &all, "");
    let before = listening(case);
    go_over(case, &instance, &less);
    go_over(case, &instance, &all);
    // The former listeners have gone, and only they.
    eventually("the end of retiring listeners", PATIENCE, || (listening(case) == before).then_some(()));
    for text in ["192.0.2.9:80", "[2001:db8::9]:80"] {
        assert_talks(&mut call(&case.server, target(text)).unwrap());
    }
    for text in ["192.0.2.9:53", "[2001:db8::9]:53"] {
        assert_echo(&datagram::client(&case.server, target(text)), b"still there?");
    }
    instance.stop();
}

fn removed_service_stops_at_once_and_its_connections_finish(case: &mut Case) {
    let stays = || Service::new("stays", "hello", &["tcp 192.0.2.0/24 80", "tcp 2001:db8::/64 80"]);
    let goes = Service::new("goes", "echo", &["tcp 192.0.2.0/24 443", "tcp 2001:db8::/64 443"]);
    let listening = |case: &Case| State::of(&case.server).section("listening sockets").len();
    let instance = serve(case, &[stays()], "--drain 1m");
    let fewer = listening(case);
    go_over(case, &instance, &[stays(), goes]);
    let targets = [target("192.0.2.9:443"), target("[2001:db8::9]:443")];
    let mut open = targets.map(|target| call(&case.server, target).unwrap());
    open.iter_mut().for_each(assert_talks);
    let done = go_over(case, &instance, &[stays()]);
    assert_eq!((&done["services"], &done["removed"]), (&Value::from(1), &Value::from(2)));
    assert_refused(&case.server, &targets);
    open.iter_mut().for_each(assert_talks);
    eventually("the end of the removed listeners", PATIENCE, || (listening(case) == fewer).then_some(()));
    open.iter_mut().for_each(assert_talks);
    assert_refused(&case.server, &targets);
    drop(open);
    eventually("the records of what was open", PATIENCE, || {
        (count_logged(&instance, "connection service=goes") == 2).then_some(())
    });
    assert_answered_by(case, target("192.0.2.9:80"), "stays");
    instance.stop();
}

fn service_with_another_answer_keeps_what_is_open(case: &mut Case) {
    let bindings = ["tcp 192.0.2.0/24 80", "tcp 2001:db8::/64 80"];
    let instance = serve(case, &[Service::new("web", "echo", &bindings)], "");
    let targets = [target("192.0.2.9:80"), target("[2001:db8::9]:80")];
    let mut open = targets.map(|target| call(&case.server, target).unwrap());
    open.iter_mut().for_each(assert_talks);
    let done = go_over(case, &instance, &[Service::new("web", "hello", &bindings)]);
    assert_eq!(
        (&done["added"], &done["removed"], &done["switched"]),
        (&Value::from(0), &Value::from(0), &Value::from(2))
    );
    for target in targets {
        assert_answered_by(case, target, "web");
    }
    open.iter_mut().for_each(assert_talks);
    // More bindings for the same answer are no new answer.
    let more = ["tcp 192.0.2.0/24 80", "tcp 2001:db8::/64 80-90"];
    let done = go_over(case, &instance, &[Service::new("web", "hello", &more)]);
    assert_eq!((&done["added"], &done["removed"]), (&Value::from(0), &Value::from(0)));
    assert_answered_by(case, target("[2001:db8::9]:90"), "web");
    open.iter_mut().for_each(assert_talks);
    drop(open);
    instance.stop();
}

/// The last packet of such a handshake is all that the server ever learns of it, and a listener believes only cookies of its own.
/// What answers is another answer, or another service.
fn handshake_that_a_cookie_answered_before_a_reload_is_served_after(case: &mut Case) {
    case.server.sysctl("net/ipv4/tcp_syncookies", "2");
    let bindings = ["tcp 192.0.2.0/24 80", "tcp 2001:db8::/64 80"];
    let instance = serve(case, &[Service::new("web", "hello", &bindings)], "--drain 0s");
    for (name, answer, next) in [("web", "hello", "web"), ("web", "hello", "other")] {
        go_over(case, &instance, &[Service::new(name, answer, &bindings)]);
        hold_last_acks(case);
        let mut open =
            ["192.0.2.9:80", "[2001:db8::9]:80"].map(|text| call(&case.server, target(text)).unwrap());
        let done = go_over(case, &instance, &[Service::new(next, "echo", &bindings)]);
        assert_eq!(done["switched"], 2, "{done}");
        case.server.command("nft delete table inet held");
        open.iter_mut().for_each(assert_talks);
        // What one that is gone has open is cut, and what was switched is not.
        go_over(case, &instance, &[Service::new("third", "hello", &bindings)]);
        for (text, mut open) in ["192.0.2.9:80", "[2001:db8::9]:80"].into_iter().zip(open) {
            assert_answered_by(case, target(text), "third");
            let cut = open.read(&mut [0; 9]);
            assert!(cut.is_err() || cut.is_ok_and(|read| read == 0), "{text} of {next} goes on");
        }
    }
    instance.stop();
}

/// As above, and a service that was not there before takes over a part of what is dialled, whose listener has never sent a cookie.
fn handshake_that_a_cookie_answered_goes_on_with_who_takes_over(case: &mut Case) {
    case.server.sysctl("net/ipv4/tcp_syncookies", "2");
    let web = Service::new("web", "hello", &["tcp 192.0.2.0/24 80", "tcp 2001:db8::/64 80"]);
    let instance = serve(case, std::slice::from_ref(&web), "--drain 0s");
    hold_last_acks(case);
    let mut open = ["192.0.2.9:80", "[2001:db8::9]:80"].map(|text| call(&case.server, target(text)).unwrap());
    let instead = Service::new("instead", "echo", &["tcp 192.0.2.0/25 80", "tcp 2001:db8::/65 80"]);
    go_over(case, &instance, &[web, instead]);
    case.server.command("nft delete table inet held");
    open.iter_mut().for_each(assert_talks);
    instance.stop();
}

/// The last packets of handshakes are lost until the table is gone.
fn hold_last_acks(case: &Case) {
    for command in [
        "add table inet held",
        "add chain inet held out { type filter hook output priority -400 ; }",
        "add rule inet held out tcp dport 80 tcp flags & (syn|ack|rst) == ack drop",
    ] {
        case.server.command(&format!("nft {command}"));
    }
}

/// True if the namespace has a local route of the prefix.
fn is_local(case: &Case, prefix: &str) -> bool {
    let family = if prefix.contains(':') { "-6 " } else { "" };
    case.server.ip(&format!("{family}route show table local proto 83")).contains(prefix)
}

fn added_prefix_is_local_at_once(case: &mut Case) {
    let before = State::of(&case.server);
    let bindings =
        ["tcp 192.0.2.0/24 80", "tcp 2001:db8::/64 80", "tcp 203.0.113.0/24 80", "tcp 2001:db8:9::/64 80"];
    let instance = serve(case, &[Service::new("web", "hello", &bindings[..2])], "");
    let added = [target("203.0.113.9:80"), target("[2001:db8:9::9]:80")];
    for target in added {
        assert_eq!(dial(&case.server, target).unwrap_err().kind(), io::ErrorKind::NetworkUnreachable);
    }
    go_over(case, &instance, &[Service::new("web", "hello", &bindings)]);
    for target in added {
        assert_answered_by(case, target, "web");
    }
    assert!(is_local(case, "203.0.113.0/24") && is_local(case, "2001:db8:9::/64"));
    instance.stop();
    before.assert_restored(&case.server, "start, reload and stop");
}

fn removed_prefix_is_given_up_after_the_drain(case: &mut Case) {
    let before = State::of(&case.server);
    let bindings = ["tcp 192.0.2.0/24 80", "tcp 203.0.113.0/24 80", "tcp 2001:db8:9::/64 80"];
    let instance = serve(case, &[Service::new("web", "echo", &bindings)], "--drain 5s");
    let gone = [target("203.0.113.9:80"), target("[2001:db8:9::9]:80")];
    let mut open = gone.map(|target| call(&case.server, target).unwrap());
    open.iter_mut().for_each(assert_talks);
    go_over(case, &instance, &[Service::new("web", "echo", &bindings[..1])]);
    // Refused, not unreachable: the addresses are still ours, as are the connections.
    assert_refused(&case.server, &gone);
    open.iter_mut().for_each(assert_talks);
    let other =
        || case.launch("--prefix 203.0.113.0/24 --prefix 2001:db8:9::/64").spawn().await_ready_or_end();
    let refused = other().map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), 1, "{refused}");
    assert!(refused.stderr.contains(&instance.pid().to_string()), "{refused}");
    assert!(is_local(case, "203.0.113.0/24") && is_local(case, "2001:db8:9::/64"));
    drop(open);
    eventually("the end of the routes", PATIENCE, || {
        (!is_local(case, "203.0.113.0/24") && !is_local(case, "2001:db8:9::/64")).then_some(())
    });
    // The claim is amended right after.
    let other = eventually("another instance on the prefix", PATIENCE, || other().ok());
    for target in gone {
        assert_answered_by(case, target, "default");
    }
    instance.stop();
    for target in gone {
        assert_answered_by(case, target, "default");
    }
    other.stop();
    before.assert_restored(&case.server, "all that");
}

fn two_requests_at_once_are_both_done(case: &mut Case) {
    let generations = two("one", "other");
    let instance = serve(case, &generations[0], "");
    let mut last = 0;
    for round in 1..=30 {
        configure(&case.server, &configuration(&generations[round % 2]));
        let mut asking = [(); 2].map(|()| connect(&case.server, &instance));
        for control in &mut asking {
            control.send("reload");
        }
        let mut revisions = asking.map(|control| control.answer().unwrap()["revision"].as_u64().unwrap());
        revisions.sort_unstable();
        assert_eq!(revisions, [last + 1, last + 2]);
        last += 2;
    }
    assert_all_answered_by(case, "one");
    instance.stop();
}

fn storm_of_signals_ends_with_the_last_file(case: &mut Case) {
    let before = State::of(&case.server);
    let generations = two("one", "other");
    let instance = serve(case, &generations[0], "");
    for storm in 1..=100 {
        configure(&case.server, &configuration(&generations[storm % 2]));
        instance.signal(Signal::SIGHUP);
    }
    // Signals that come while one is pending are one; the last is not lost.
    configure(&case.server, &configuration(&generations[1]));
    instance.signal(Signal::SIGHUP);
    eventually("an answer of the last configuration", PATIENCE, || {
        let heard = dial(&case.server, target("192.0.2.9:443")).unwrap();
        heard.text.contains("service=other ").then_some(())
    });
    assert_eq!(count_logged(&instance, "not reloaded"), 0, "{}", instance.stderr());
    // What the signals have begun is over when a request behind them is.
    reload(&case.server, &instance).unwrap();
    await_logged(&instance, "reloaded", 2);
    assert_all_answered_by(case, "other");
    instance.stop();
    before.assert_restored(&case.server, "a storm and a stop");
}

fn stop_right_after_a_reload_leaves_nothing(case: &mut Case) {
    let before = State::of(&case.server);
    let [one, mut other] = two("one", "other");
    other.push(Service::new("extra", "hello", &["tcp 203.0.113.0/24 80", "tcp 2001:db8:9::/64 80"]));
    for _ in 0..10 {
        let instance = serve(case, &one, "");
        configure(&case.server, &configuration(&other));
        let mut control = connect(&case.server, &instance);
        control.send("reload");
        instance.stop();
        before.assert_restored(&case.server, "a reload and a stop");
    }
}

/// System calls by which a reload changes something, or prepares to.
fn effects(case: &Case) -> Vec<(&'static str, &'static str)> {
    let mut effects = vec![
        ("socket", "EMFILE"),
        ("bind", "EADDRINUSE"),
        ("listen", "EADDRINUSE"),
        ("setsockopt", "EPERM"),
        ("fcntl", "EMFILE"),
        ("sendto", "ENOBUFS"),
        ("sendmsg", "ENOBUFS"),
        ("rename", "ENOSPC"),
        ("flock", "EINTR"),
        ("openat", "EMFILE"),
    ];
    if case.path == Path::SkLookup {
        effects.extend([("bpf", "EPERM"), ("bpf", "ENOMEM"), ("mmap", "ENOMEM")]);
    } else {
        effects.extend([("clone3", "EAGAIN"), ("pipe2", "EMFILE")]);
    }
    effects
}

fn killed_amid_a_reload_leaves_nothing_after_clean(case: &mut Case) {
    if !require::met("killed_amid_a_reload_leaves_nothing_after_clean", &[Need::Strace]) {
        return;
    }
    let before = State::of(&case.server);
    let [one, mut other] = two("one", "other");
    other.push(Service::new("extra", "hello", &["tcp 203.0.113.0/24 80", "tcp 2001:db8:9::/64 80"]));
    let calls: &[&str] = if case.path == Path::SkLookup {
        &["bpf", "sendto", "rename", "listen"]
    } else {
        &["clone3", "sendto", "rename", "listen"]
    };
    let mut killed = 0;
    for call in calls {
        for nth in 1..=30 {
            let mut instance = serve(case, &one, "");
            configure(&case.server, &configuration(&other));
            let held = BpfObjects::of_process(instance.pid());
            let fault =
                Fault::inject(&case.server, instance.pid(), call, &format!("signal=SIGKILL:when={nth}"));
            let mut control = connect(&case.server, &instance);
            control.send("reload");
            let survived = eventually("death or a reload", PATIENCE, || {
                if instance.is_running() {
                    (count_logged(&instance, "reloaded") > 0).then_some(true)
                } else {
                    Some(false)
                }
            });
            drop(fault);
            // It may have been killed after it said how the reload had gone.
            if survived && instance.is_running() {
                instance.stop();
                before.assert_restored(&case.server, "a reload and a stop");
                break;
            }
            killed += 1;
            held.assert_freed();
            if nth % 2 == 0 {
                // The next start takes over instead.
                let next = serve(case, &other, "");
                assert_all_answered_by(case, "other");
                next.stop();
            } else {
                let cleaned = Launch::new(&case.server).arguments("clean").finish();
                assert_eq!(cleaned.code(), 0, "{cleaned}");
            }
            before.assert_restored(&case.server, &format!("death by {call} number {nth} and what follows"));
        }
    }
    assert!(killed > 3, "{killed} deaths");
}

fn prefix_of_another_instance_is_refused(case: &mut Case) {
    let [one, mut greedy] = two("one", "one");
    let instance = serve(case, &one, "");
    let neighbour = case.start("--prefix 203.0.113.0/25 --prefix 2001:db8:9::/64");
    let during = State::of(&case.server);
    for prefix in ["203.0.113.0/24", "203.0.113.7/32", "2001:db8:9::/64", "2001:db8:8::/46"] {
        greedy.push(Service::new("greedy", "hello", &[&format!("tcp {prefix} 80")]));
        configure(&case.server, &configuration(&greedy));
        let refused = reload(&case.server, &instance).unwrap_err();
        assert!(refused.message.contains(&neighbour.pid().to_string()), "{refused:?}");
        during.assert_restored(&case.server, "a refused reload");
        greedy.pop();
        // Nor does a failed attempt claim anything.
        let third = case.start("--prefix 203.0.113.128/25");
        third.stop();
    }
    assert_all_answered_by(case, "one");
    assert_answered_by(case, target("203.0.113.7:80"), "default");
    neighbour.stop();
    greedy.push(Service::new("greedy", "hello", &["tcp 203.0.113.0/24 80"]));
    go_over(case, &instance, &greedy);
    assert_answered_by(case, target("203.0.113.7:80"), "greedy");
    instance.stop();
}

fn any_system_call_may_fail(case: &mut Case) {
    if !require::met("any_system_call_may_fail", &[Need::Strace]) {
        return;
    }
    let before = State::of(&case.server);
    let [one, mut other] = two("one", "other");
    other.push(Service::new("extra", "hello", &["tcp 203.0.113.0/24 80", "tcp 2001:db8:9::/64 80"]));
    let instance = serve(case, &one, "--drain 0s");
    let mut during = State::of(&case.server);
    let mut failed = 0;
    // Each takes a second where programs carry the rules: some of them every time, others with each turn, all of them when
    // asked to. Whatever is not sk_lookup has every third turn.
    let (first, step) = match (std::env::var_os("SPECTRUM_TEST_THOROUGH"), case.path) {
        (Some(_), _) => (1, 1),
        (None, Path::SkLookup) => (1 + share::turn() % 6, 6),
        (None, _) => (1 + share::turn() / 3 % 6, 60),
    };
    for (call, error) in effects(case) {
        for nth in (first..=60).step_by(step) {
            let about = format!("failure of {call} number {nth} with {error}");
            let fault =
                Fault::inject(&case.server, instance.pid(), call, &format!("error={error}:when={nth}"));
            configure(&case.server, &configuration(&other));
            let said = instance.stderr().len();
            // Not by a signal, whose wake-up the fault may hit; nor is the answer waited for, which it may hit as well.
            let mut control = connect(&case.server, &instance);
            control.send("reload");
            let log = eventually(&format!("the end of a reload after {about}"), PATIENCE, || {
                let log = instance.stderr().split_off(said);
                log.lines().any(|line| line.contains("reloaded")).then_some(log)
            });
            let happened = fault.happened();
            if log.contains("not reloaded, nothing has changed") {
                assert!(happened, "without {about}: {log}");
                failed += 1;
                assert_all_answered_by(case, "one");
                during.assert_restored(&case.server, &format!("{about}: {log}"));
                continue;
            }
            assert_all_answered_by(case, "other");
            assert_answered_by(case, target("203.0.113.7:80"), "extra");
            go_over(case, &instance, &one);
            // What answers again has new listeners.
            during = during.await_amounts(&case.server, &format!("{about} and a return"));
            if !happened {
                break;
            }
        }
    }
    assert!(failed > 0, "nothing failed");
    instance.stop();
    before.assert_restored(&case.server, "all that");
}

fn sessions_and_counters_of_datagrams_survive(case: &mut Case) {
    let echo = || Service::new("echo", "echo", &["udp 192.0.2.0/24 53", "udp 2001:db8::/64 53"]);
    let generations = [
        [echo(), Service::new("one", "hello", &["tcp 192.0.2.0/24 80"])],
        [echo(), Service::new("other", "discard", &["udp 192.0.2.0/24 54"])],
    ];
    let instance = serve(case, &generations[0], "");
    let targets = [target("192.0.2.9:53"), target("[2001:db8::9]:53")];
    let lasting = targets.map(|target| datagram::client(&case.server, target));
    let mut counted = 0;
    for swap in 1..=20 {
        for client in &lasting {
            assert_echo(client, b"one session");
        }
        assert_echo(&datagram::client(&case.server, targets[0]), b"a new one");
        go_over(case, &instance, &generations[swap % 2]);
        if case.path == Path::SkLookup && require::met("counters survive", &[Need::Bpftool]) {
            let steered = counts(&case.server, &instance, 0).steered;
            assert!(steered > counted, "{steered} steered after {counted}");
            counted = steered;
        }
    }
    drop(lasting);
    let finished = instance.stop();
    let records = records(&finished.stderr);
    let mut lasting = records.iter().filter(|record| record["bytes_from_client"] == (20 * 11).to_string());
    assert!(lasting.next().is_some() && lasting.next().is_some(), "{finished}");
    assert!(records.iter().all(|record| record["service"] == "echo"), "{finished}");
    assert_eq!(records.len(), 22, "{finished}");
}

fn hundreds_of_reloads_leak_nothing(case: &mut Case) {
    let reloads = if case.path == Path::SkLookup { 1_000 } else { 200 };
    let [one, mut other] = two("one", "other");
    other.push(Service::new("extra", "hello", &["tcp 203.0.113.0/24 80", "tcp 2001:db8:9::/64 80"]));
    let generations = [one, other];
    let instance = serve(case, &generations[0], "--drain 0s");
    let settled = |what: &str, most: usize| {
        eventually(what, PATIENCE, || {
            let held = Holdings::of(&instance);
            (held.descriptors <= most).then_some(held.resident)
        })
    };
    let Holdings { descriptors, .. } = Holdings::of(&instance);
    let during = State::of(&case.server);
    for warming in 1..=20 {
        go_over(case, &instance, &generations[warming % 2]);
    }
    let resident = settled("as few descriptors as before", descriptors);
    let held = BpfObjects::of_process(instance.pid());
    for number in 1..=reloads {
        go_over(case, &instance, &generations[number % 2]);
    }
    let after = settled("as few descriptors as before all reloads", descriptors);
    let _settled = during.await_amounts(&case.server, "all reloads");
    assert!(after < resident + 8_192, "{after} KiB in use, {resident} KiB before {reloads} reloads");
    let now = BpfObjects::of_process(instance.pid());
    assert_eq!(held.ids("map").count(), now.ids("map").count());
    instance.stop();
    now.assert_freed();
}

fn reload_without_a_file_is_refused(case: &mut Case) {
    let instance = case.start_on_both("");
    let refused = reload(&case.server, &instance).unwrap_err();
    assert!(refused.message.contains("--config"), "{refused:?}");
    instance.signal(Signal::SIGHUP);
    await_logged(&instance, "not reloaded, nothing has changed", 2);
    assert_answered_by(case, case.targets_of_both()[0], "default");
    instance.stop();
}

#[test]
fn file_from_a_pipe_is_not_read_again() {
    let test = "file_from_a_pipe_is_not_read_again";
    spectrum_tests::case::check(test, Path::TproxyNftables, Family::V4, |case| {
        let (reader, mut writer) = io::pipe().unwrap();
        let services = configuration(&two("one", "other")[0]);
        writer.write_all(services.as_bytes()).unwrap();
        drop(writer);
        let path = format!("/proc/{}/fd/{}", std::process::id(), reader.as_raw_fd());
        let instance = case.start(&format!("--config {path}"));
        let refused = reload(&case.server, &instance).unwrap_err();
        let expected = format!(
            "reload: the configuration came through a pipe, {path}, which cannot be read again; start with a file that is \
             kept: --config FILE"
        );
        assert_eq!(refused.message, expected);
        assert_all_answered_by(case, "one");
        instance.stop();
    });
}

fn mode_stays_what_it_is(case: &mut Case) {
    let services = &configuration(&two("one", "other")[0]);
    let with_mode =
        |mode: &str| configure(&case.server, &format!("[dispatcher]\nmode = \"{mode}\"\n{services}"));
    let own = case.path.mode();
    let other = if own == "tproxy" { "sk-lookup" } else { "tproxy" };
    with_mode(own);
    // No flag, since a flag overrides the file.
    let instance = Launch::new(&case.server).arguments(CONFIG).start();
    for (mode, is_taken) in
        [("auto", true), (own, true), (other, false), ("auto", true), (other, false), (own, true)]
    {
        with_mode(mode);
        let outcome = reload(&case.server, &instance);
        assert_eq!(outcome.is_ok(), is_taken, "{mode}: {outcome:?}");
        assert!(is_taken || outcome.unwrap_err().message.contains("dispatcher.mode"));
        assert_all_answered_by(case, "one");
    }
    instance.stop();
}

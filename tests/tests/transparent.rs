//! Origins that are dialled from the client's own address and port, and what brings their answers back. Whom a PROXY
//! header names is tested in `proxy_header.rs`.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, reload};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{call, dial};
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::nft_fault::NftFault;
use spectrum_tests::on_every_path;
use spectrum_tests::origin::{Origin, receive_sequence, send_sequence};
use spectrum_tests::require::{Need, find_in_path, met};
use spectrum_tests::scene::{Scene, assert_sees_the_client, call_from, say_who, transparent_service};
use spectrum_tests::state::State;
use spectrum_tests::veth::{client_address, origin_address};

on_every_path!(
    an_origin_sees_the_clients_address_and_port,
    an_origin_on_this_host_sees_the_clients_address_and_port,
    a_megabyte_each_way_passes,
    a_port_that_is_taken_is_replaced_by_another_one,
    the_origins_own_connections_pass_through_this_host,
    nothing_is_left_after_the_end,
    a_reload_adds_and_removes_what_is_needed,
    a_reload_that_fails_leaves_what_was,
    instances_do_not_take_each_others,
    an_origin_of_the_other_family_is_not_dialled,
    an_origin_that_is_this_host_is_refused,
    what_the_mark_lacks_is_named,
    a_mark_that_nft_made_before_it_failed_is_removed,
);

/// A service whose one origin is dialled from this host's address.
fn opaque(name: &str, prefix: &str, origin: SocketAddr) -> String {
    transparent_service(name, prefix, origin).replace("transparent = true\n", "")
}

fn transparent(case: &Case, origin: SocketAddr) -> String {
    transparent_service("games", case.prefix(), origin)
}

fn start(case: &Case, configuration: &str) -> Instance {
    configure(&case.server, configuration);
    case.start(CONFIG)
}

fn an_origin_sees_the_clients_address_and_port(case: &mut Case) {
    let scene = Scene::of(case);
    let origin = scene.observer(case);
    let _instance = start(case, &transparent(case, origin.address()));
    for _ in 0..20 {
        assert_sees_the_client(&scene.client, case.any_target());
    }
}

fn an_origin_on_this_host_sees_the_clients_address_and_port(case: &mut Case) {
    let scene = Scene::of(case);
    let origin = Origin::serve(&case.server, SocketAddr::new(case.loopback(), 0), say_who);
    let before = nft_tables(case);
    let _instance = start(case, &transparent(case, origin.address()));
    for _ in 0..20 {
        assert_sees_the_client(&scene.client, case.any_target());
    }
    let ours = nft_tables(case).lines().filter(|table| table.starts_with("table inet spectrum-")).count();
    assert_eq!(ours, 0, "a rule for nothing, where there was {before:?}");
}

fn nft_tables(case: &Case) -> String {
    if find_in_path("nft").is_some() { case.server.command("nft list tables") } else { String::new() }
}

fn a_megabyte_each_way_passes(case: &mut Case) {
    const MEGABYTE: u64 = 1 << 20;
    let scene = Scene::of(case);
    let [question, answer] = [case.random.bits(), case.random.bits()];
    let address = SocketAddr::new(origin_address(case.family), 0);
    let origin = Origin::serve(&scene.origins, address, move |stream| {
        std::thread::scope(|scope| {
            scope.spawn(|| send_sequence(&stream, answer, MEGABYTE));
            receive_sequence(&stream, question, MEGABYTE)
        })
    });
    let _instance = start(case, &transparent(case, origin.address()));
    let stream = call(&scene.client, case.any_target()).unwrap();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send_sequence(&stream, question, MEGABYTE));
        receive_sequence(&stream, answer, MEGABYTE).unwrap();
        sender.join().unwrap().unwrap();
    });
}

/// From one port of the client's to two dialled addresses: the origin cannot have two connections from that port.
fn a_port_that_is_taken_is_replaced_by_another_one(case: &mut Case) {
    let scene = Scene::of(case);
    let address = SocketAddr::new(origin_address(case.family), 0);
    let origin = Origin::serve(&scene.origins, address, |mut stream| {
        let client = stream.peer_addr()?;
        writeln!(stream, "{client}")?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    let _instance = start(case, &transparent(case, origin.address()));
    let client = client_address(case.family);
    let first = call_from(&scene.client, SocketAddr::new(client, 0), (case.address(1), 443).into());
    let from = first.local_addr().unwrap();
    assert_eq!(seen(&first), from);
    let second = call_from(&scene.client, from, (case.address(2), 443).into());
    let other = seen(&second);
    assert_eq!(other.ip(), client);
    assert_ne!(other.port(), from.port());
}

/// The line in which the origin says whom it sees.
fn seen(stream: &TcpStream) -> SocketAddr {
    let mut line = String::new();
    io::BufRead::read_line(&mut io::BufReader::new(stream), &mut line).unwrap();
    line.trim().parse().unwrap()
}

/// The origin dials a server beside the client, through this host, from the very port that it serves on.
fn the_origins_own_connections_pass_through_this_host(case: &mut Case) {
    let scene = Scene::of(case);
    let origin = scene.observer(case);
    let _instance = start(case, &transparent(case, origin.address()));
    let server = Origin::serve(&scene.client, SocketAddr::new(client_address(case.family), 0), say_who);
    assert_sees_the_client(&scene.client, case.any_target());
    for _ in 0..5 {
        let heard = dial(&scene.origins, server.address()).unwrap();
        assert_eq!(heard.text, heard.client.to_string());
        assert_eq!(heard.client.ip(), origin_address(case.family));
    }
    // And the client reaches the origin without the program.
    let heard = dial(&scene.client, origin.address()).unwrap();
    assert_eq!(heard.text, heard.client.to_string());
}

fn nothing_is_left_after_the_end(case: &mut Case) {
    let scene = Scene::of(case);
    let origin = scene.observer(case);
    let before = State::of(&case.server);
    let instance = start(case, &transparent(case, origin.address()));
    let running = State::of(&case.server);
    let difference = before.difference(&running);
    assert!(difference.contains("fwmark 0x53000000/0xff000000"), "{difference}");
    assert_sees_the_client(&scene.client, case.any_target());
    instance.stop();
    before.assert_restored(&case.server, "SIGTERM");

    let instance = start(case, &transparent(case, origin.address()));
    instance.kill();
    let finished = Launch::new(&case.server).arguments("clean").finish();
    assert_eq!(finished.code(), 0, "{finished}");
    // The table has the number of the instance.
    let (_, named) = finished.stdout.split_once("spectrum-").unwrap();
    let table = 0x5300_0000 | u32::from_str_radix(&named[..6], 16).unwrap();
    assert!(finished.stdout.contains(&format!("removed reply routes in table {table}")), "{finished}");
    before.assert_restored(&case.server, "SIGKILL and clean");

    start(case, &transparent(case, origin.address())).kill();
    let instance = start(case, &transparent(case, origin.address()));
    assert_sees_the_client(&scene.client, case.any_target());
    instance.stop();
    before.assert_restored(&case.server, "SIGKILL, a start that swept, and SIGTERM");
}

fn a_reload_adds_and_removes_what_is_needed(case: &mut Case) {
    let scene = Scene::of(case);
    let origin = scene.observer(case);
    let opaque = opaque("games", case.prefix(), origin.address());
    configure(&case.server, &opaque);
    let instance = case.start(&format!("{CONFIG} --drain 1s"));
    let before = State::of(&case.server);
    let target = case.any_target();
    assert_ne!(dial(&scene.client, target).unwrap().text, "");
    for _ in 0..2 {
        configure(&case.server, &transparent(case, origin.address()));
        reload(&case.server, &instance).unwrap();
        assert_sees_the_client(&scene.client, target);
        configure(&case.server, &opaque);
        reload(&case.server, &instance).unwrap();
        // From now on by this host's address, while what open connections need stays for a while.
        let heard = dial(&scene.client, target).unwrap();
        assert_ne!(heard.text, heard.client.to_string());
        eventually("rules and routes as before", PATIENCE, || {
            // A service that answers otherwise has other listeners; what else there is must be as before.
            let difference = before.difference(&State::of(&case.server));
            let others = difference
                .lines()
                .filter(|line| line.contains("0x53000000") || line.contains("proto 83 scope host"));
            (others.count() == 0 && !difference.contains("ip rule")).then_some(())
        });
    }
    instance.stop();
}

fn a_reload_that_fails_leaves_what_was(case: &mut Case) {
    let scene = Scene::of(case);
    let origin = scene.observer(case);
    let opaque = opaque("games", case.prefix(), origin.address());
    let instance = start(case, &opaque);
    let before = State::of(&case.server);
    // A route of another kind for a prefix of the next configuration, so that the reload fails in the middle.
    let foreign = case.family.pick("192.168.7.0/24", "2001:db8:7::/64");
    let ip = case.family.pick("route", "-6 route");
    case.server.ip(&format!("{ip} add unreachable {foreign} table local"));
    let other = transparent_service("other", foreign, origin.address());
    configure(&case.server, &(transparent(case, origin.address()) + &other));
    let refused = reload(&case.server, &instance).unwrap_err();
    assert!(refused.message.contains("add local route"), "{refused:?}");
    case.server.ip(&format!("{ip} del unreachable {foreign} table local"));
    before.assert_restored(&case.server, "a reload that failed");
    instance.stop();
}

fn instances_do_not_take_each_others(case: &mut Case) {
    let scene = Scene::of(case);
    let origin = scene.observer(case);
    let first = start(case, &transparent(case, origin.address()));
    let alone = State::of(&case.server);
    let other = case.family.pick("192.168.7.0/24", "2001:db8:7::/64");
    let target = SocketAddr::new(case.family.parse("192.168.7.1", "2001:db8:7::1"), 443);
    configure(&case.server, &transparent_service("other", other, origin.address()));
    let second = case.launch(CONFIG).start();
    assert_sees_the_client(&scene.client, target);
    assert_sees_the_client(&scene.client, case.any_target());
    second.stop();
    alone.assert_restored(&case.server, "the end of the second instance");
    assert_sees_the_client(&scene.client, case.any_target());
    let second = case.launch(CONFIG).start();
    first.stop();
    assert_sees_the_client(&scene.client, target);
    second.stop();
}

fn an_origin_of_the_other_family_is_not_dialled(case: &mut Case) {
    let scene = Scene::of(case);
    let other = case.family.parse("2001:db8:eeee::2", "203.0.113.2");
    let other = case.family.pick(IpAddr::from([0x2001, 0xdb8, 0xeeee, 0, 0, 0, 0, 2]), other);
    let listener = scene.origins.run(|| TcpListener::bind(SocketAddr::new(other, 0)).unwrap());
    // Clients of that family there are, or it would be refused.
    let prefixes = format!("{}\", \"{}", case.prefix(), case.family.pick("2001:db8::/64", "192.0.2.0/24"));
    let configuration = transparent_service("games", &prefixes, listener.local_addr().unwrap());
    let configuration = configuration.replace(&format!("\"{prefixes}\""), &format!("[\"{prefixes}\"]"));
    let instance = start(case, &configuration);
    let nothing = dial(&scene.client, case.any_target()).map(|heard| heard.text);
    assert!(matches!(nothing.as_deref(), Err(_) | Ok("")), "{nothing:?}");
    spectrum_tests::control::await_logged(&instance, "dial-other-family", 1);
    // It was not dialled, so that there is nothing to warn of.
    assert!(!instance.stderr().contains(" WARN "), "{}", instance.stderr());
}

fn an_origin_that_is_this_host_is_refused(case: &mut Case) {
    let scene = Scene::of(case);
    let before = State::of(&case.server);
    let own = spectrum_tests::veth::server_address(case.family);
    configure(&case.server, &transparent(case, SocketAddr::new(own, 80)));
    let finished = case.launch(CONFIG).finish();
    assert_eq!(finished.code(), 1, "{finished}");
    assert!(finished.stderr.contains("use a loopback address, or leave transparent out"), "{finished}");
    before.assert_restored(&case.server, "a refusal");
    drop(scene);
}

fn what_the_mark_lacks_is_named(case: &mut Case) {
    if !met("what_the_mark_lacks_is_named", &[Need::Nftables]) {
        return;
    }
    let before = State::of(&case.server);
    configure(&case.server, &transparent(case, SocketAddr::new(origin_address(case.family), 80)));
    let absent: fn(_) -> _ = NftFault::absent;
    for (fault, cure) in
        [(absent, "apt install nftables"), (NftFault::refusing, "modprobe -a nft_socket nft_fib_inet")]
    {
        let without = fault(&case.server);
        let finished = case.launch(CONFIG).finish();
        drop(without);
        assert_eq!(finished.code(), 1, "{finished}");
        for words in [cure, "for transparent = true"] {
            assert!(finished.stderr.contains(words), "{words:?} is missing: {finished}");
        }
        assert!(!finished.stderr.contains("nft_tproxy"), "{finished}");
        before.assert_restored(&case.server, cure);
    }
}

fn a_mark_that_nft_made_before_it_failed_is_removed(case: &mut Case) {
    if !met("a_mark_that_nft_made_before_it_failed_is_removed", &[Need::Nftables]) {
        return;
    }
    let before = State::of(&case.server);
    configure(&case.server, &transparent(case, SocketAddr::new(origin_address(case.family), 80)));
    let fault = NftFault::late(&case.server);
    let finished = case.launch(CONFIG).finish();
    drop(fault);
    assert_eq!(finished.code(), 1, "{finished}");
    assert!(finished.stderr.contains("No buffer space available"), "{finished}");
    before.assert_restored(&case.server, "a failure after the fact");
}

//! Datagrams: which reach the service, and that the answers come from the address and port that was dialled. The same
//! cases on every path, over IPv4 and IPv6. Does not test connections.

#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use spectrum_tests::case::Case;
use spectrum_tests::datagram::{
    assert_echo, assert_echoes, assert_refused, assert_silence, bound, client, client_from, hear, unspecified,
};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::instance::Instance;
use spectrum_tests::path::Path;
use spectrum_tests::record::records;
use spectrum_tests::{on_each_path, on_every_path, share, veth};

on_every_path!(
    any_port_of_any_address_echoes,
    any_port_echoes_to_a_client_over_a_link_with_rp_filter,
    one_client_socket_hears_every_port_by_its_own_name,
    datagrams_of_every_size_come_back,
    datagrams_larger_than_the_link_come_back_whole,
    datagrams_of_a_session_keep_their_order,
    thousand_sessions_at_once_are_answered,
    thousand_clients_of_one_port_are_answered,
    a_dialled_port_has_a_socket_for_each_worker_however_many_clients,
    clients_hear_from_what_they_dialled_that_an_origin_is_not_there,
    ports_outside_are_refused,
    addresses_just_outside_are_refused,
    binding_beats_a_socket_on_the_same_address_and_port,
    binding_beats_a_socket_on_every_address,
    client_whose_own_address_lies_in_the_prefix_is_answered_except_by_iptables,
    echoes_that_talk_to_each_other_fall_silent,
    service_ports_are_not_answered,
    discard_reads_and_says_nothing,
    sessions_end_with_the_program,
);

on_each_path!(idle_sessions_end_after_half_a_minute);

const NOTABLE_PORTS: [u16; 6] = [1, 22, 53, 443, 32_768, 65_535];

fn echo(case: &Case) -> Instance {
    case.start(&format!("--prefix {} --protocol udp --respond echo", case.prefix()))
}

/// The notable ports and 300 random ones, each on an address of its own.
fn sample(case: &mut Case) -> Vec<SocketAddr> {
    let notable: Vec<SocketAddr> =
        NOTABLE_PORTS.iter().map(|port| SocketAddr::new(case.any_address(), *port)).collect();
    let edges = [case.address(0), case.address(255)].map(|address| SocketAddr::new(address, 80));
    let drawn: Vec<SocketAddr> = (0..share::of(300)).map(|_| case.any_target()).collect();
    notable.into_iter().chain(edges).chain(drawn).collect()
}

fn any_port_of_any_address_echoes(case: &mut Case) {
    let _instance = echo(case);
    let targets = sample(case);
    assert_echoes(&case.server, &targets);
}

fn any_port_echoes_to_a_client_over_a_link_with_rp_filter(case: &mut Case) {
    let client = veth::client_of(&case.server);
    let _instance = echo(case);
    let targets = sample(case);
    assert_echoes(&client, &targets);
}

fn one_client_socket_hears_every_port_by_its_own_name(case: &mut Case) {
    let _instance = echo(case);
    let targets = sample(case);
    let client = bound(&case.server, SocketAddr::new(unspecified(targets[0]), 0));
    let mut heard = [0; 64];
    for target in targets {
        client.send_to(b"x", target).unwrap();
        assert_eq!(client.recv_from(&mut heard).unwrap(), (1, target));
    }
}

fn datagrams_of_every_size_come_back(case: &mut Case) {
    let _instance = echo(case);
    let target = case.any_target();
    let client = client(&case.server, target);
    for length in [0, 1, 1_472, 1_473, 9_000, 65_000, case.family.pick(65_507, 65_527)] {
        let mut said = vec![0; length];
        case.random.fill(&mut said);
        // Once through the listener if it is the first, once through the session's socket.
        assert_echo(&client, &said);
        assert_echo(&client, &said);
        // And once as the first of a session.
        assert_echo(&spectrum_tests::datagram::client(&case.server, target), &said);
    }
}

fn datagrams_larger_than_the_link_come_back_whole(case: &mut Case) {
    let netns = veth::client_of(&case.server);
    let _instance = echo(case);
    for length in [1_452, 1_453, 1_472, 1_473, 20_000, case.family.pick(65_507, 65_527)] {
        let mut said = vec![0; length];
        case.random.fill(&mut said);
        let target = case.any_target();
        let client = client(&netns, target);
        assert_echo(&client, &said);
        assert_echo(&client, &said);
    }
}

fn datagrams_of_a_session_keep_their_order(case: &mut Case) {
    let _instance = echo(case);
    for _ in 0..20 {
        let target = case.any_target();
        let client = client(&case.server, target);
        // Some come to the listener, and from some moment on the rest to the session's socket.
        for number in 0..100_u8 {
            client.send(&[number]).unwrap();
        }
        for number in 0..100 {
            assert_eq!(hear(&client).unwrap(), [number]);
        }
    }
}

/// Every client says something and hears it. No more at once than a processor may have before it while it does other
/// things (net.core.netdev_max_backlog, for all namespaces together): what is beyond that the kernel drops.
fn assert_all_answered(clients: &[UdpSocket]) {
    const AT_ONCE: usize = 100;
    for (first, some) in clients.chunks(AT_ONCE).enumerate() {
        let number = |index: usize| (first * AT_ONCE + index).to_le_bytes();
        for (index, client) in some.iter().enumerate() {
            client.send(&number(index)).unwrap();
        }
        for (index, client) in some.iter().enumerate() {
            assert_eq!(hear(client).unwrap(), number(index));
        }
    }
}

fn thousand_sessions_at_once_are_answered(case: &mut Case) {
    let _instance = echo(case);
    let targets: Vec<_> = (0..share::of(1_000)).map(|_| case.any_target()).collect();
    let clients: Vec<_> = targets.into_iter().map(|target| client(&case.server, target)).collect();
    assert_all_answered(&clients);
    assert_all_answered(&clients);
}

fn thousand_clients_of_one_port_are_answered(case: &mut Case) {
    let _instance = echo(case);
    let target = case.any_target();
    let clients: Vec<_> = (0..share::of(1_000)).map(|_| client(&case.server, target)).collect();
    assert_all_answered(&clients);
    assert_all_answered(&clients);
}

/// What an unknown client costs the kernel is a walk past the sockets that are bound to what it dials.
fn a_dialled_port_has_a_socket_for_each_worker_however_many_clients(case: &mut Case) {
    let instance =
        case.start(&format!("--prefix {} --protocol udp --respond echo --workers 2", case.prefix()));
    let target = case.any_target();
    let clients: Vec<_> = (0..500).map(|_| client(&case.server, target)).collect();
    assert_all_answered(&clients);
    let table = case.family.pick("/proc/thread-self/net/udp", "/proc/thread-self/net/udp6");
    let listed = case.server.run(|| std::fs::read_to_string(table)).unwrap();
    let port = format!(":{:04X}", target.port());
    let local = |line: &&str| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&port));
    let bound = listed.lines().filter(local).count();
    assert!((1..=2).contains(&bound), "{bound} sockets\n{listed}");
    // They go with the sessions.
    instance.stop();
}

fn clients_hear_from_what_they_dialled_that_an_origin_is_not_there(case: &mut Case) {
    let _instance = case.start(&format!("--prefix {} --protocol udp --origin 127.0.0.1:9", case.prefix()));
    let target = case.any_target();
    // The second time the origin is known to be missing, or is asked again: the client hears the same.
    assert_refused(&case.server, &[target, target]);
    let client = veth::client_of(&case.server);
    assert_refused(&client, &[case.any_target()]);
}

fn ports_outside_are_refused(case: &mut Case) {
    let _instance =
        case.start(&format!("--prefix {} --ports 1000-2000 --protocol udp --respond echo", case.prefix()));
    let address = case.any_address();
    assert_refused(&case.server, &[1, 999, 2001, 65_535].map(|port| SocketAddr::new(address, port)));
    assert_echoes(&case.server, &[1000, 2000].map(|port| SocketAddr::new(address, port)));
}

fn addresses_just_outside_are_refused(case: &mut Case) {
    case.own_surroundings();
    let _instance = echo(case);
    assert_refused(&case.server, &case.just_outside().map(|address| SocketAddr::new(address, 4000)));
}

fn binding_beats_a_socket_on_the_same_address_and_port(case: &mut Case) {
    let target = SocketAddr::new(case.any_address(), 5353);
    let earlier = {
        case.own_surroundings();
        bound(&case.server, target)
    };
    let _instance = echo(case);
    let client = client(&case.server, target);
    for _ in 0..3 {
        assert_echo(&client, b"not for the other one");
    }
    assert_silence(&earlier);
}

fn binding_beats_a_socket_on_every_address(case: &mut Case) {
    let target = SocketAddr::new(case.any_address(), 123);
    let other = bound(&case.server, SocketAddr::new(unspecified(target), target.port()));
    let instance = echo(case);
    let client = client(&case.server, target);
    for length in [0, 1, 7, 65_000] {
        let mut said = vec![0; length];
        case.random.fill(&mut said);
        assert_echo(&client, &said);
    }
    assert_silence(&other);
    let finished = instance.stop();
    assert!(finished.stderr.contains("answering by raw socket"), "{finished}");
}

fn client_whose_own_address_lies_in_the_prefix_is_answered_except_by_iptables(case: &mut Case) {
    let _instance = echo(case);
    let (own, target) = (SocketAddr::new(case.address(5), 4000), SocketAddr::new(case.address(6), 5000));
    let client = client_from(&case.server, own, target);
    if matches!(case.path, Path::TproxyIptablesLegacy | Path::TproxyIptablesNft) {
        // The one known difference: these rules cannot tell a connected socket from one that is bound and has to lose.
        client.send(b"one").unwrap();
        assert_silence(&client);
    } else {
        assert_echo(&client, b"one");
        assert_echo(&client, b"two");
    }
}

fn echoes_that_talk_to_each_other_fall_silent(case: &mut Case) {
    let instance = echo(case);
    let (own, target) = (SocketAddr::new(case.address(5), 4000), SocketAddr::new(case.address(6), 5000));
    let client = client_from(&case.server, own, target);
    // Whoever forges a datagram gives it as many hops as there are.
    let socket = socket2::SockRef::from(&client);
    case.family.pick(socket.set_ttl_v4(255), socket.set_unicast_hops_v6(255)).unwrap();
    client.send(b"x").unwrap();
    // The echo goes to nobody, and so to the binding, which makes it another echo's.
    drop(client);
    let finished = instance.stop();
    let received: u64 = records(&finished.stderr)
        .iter()
        .map(|record| record["bytes_from_client"].parse::<u64>().unwrap())
        .sum();
    assert!((1..=64).contains(&received), "{received} datagrams\n{finished}");
}

fn service_ports_are_not_answered(case: &mut Case) {
    let _instance = echo(case);
    let target = case.any_target();
    let service = client_from(&case.server, SocketAddr::new(case.loopback(), 7), target);
    service.send(b"a loop?").unwrap();
    assert_silence(&service);
    assert_echo(&client(&case.server, target), b"others are");
}

fn discard_reads_and_says_nothing(case: &mut Case) {
    let instance = case.start(&format!("--prefix {} --protocol udp --respond discard", case.prefix()));
    let target = case.any_target();
    let client = client(&case.server, target);
    for _ in 0..10 {
        client.send(b"forget").unwrap();
    }
    assert_silence(&client);
    let finished = instance.stop();
    let records = records(&finished.stderr);
    assert_eq!(records.len(), 1, "{finished}");
    assert_eq!((records[0]["bytes_from_client"], records[0]["bytes_to_client"]), ("60", "0"));
}

fn sessions_end_with_the_program(case: &mut Case) {
    let instance = echo(case);
    let target = case.any_target();
    let client = client(&case.server, target);
    assert_echo(&client, b"12345");
    assert_echo(&client, b"678");
    let local = client.local_addr().unwrap().to_string();
    let finished = instance.stop();
    let records = records(&finished.stderr);
    assert_eq!(records.len(), 1, "{finished}");
    for (field, value) in [
        ("service", "default"),
        ("protocol", "udp"),
        ("client", &local),
        ("dialled", &target.to_string()),
        ("bytes_from_client", "8"),
        ("bytes_to_client", "8"),
        ("end", "idle"),
    ] {
        assert_eq!(records[0][field], value, "{field}: {finished}");
    }
}

fn idle_sessions_end_after_half_a_minute(case: &mut Case) {
    let instance = echo(case);
    let target = case.any_target();
    let client = client(&case.server, target);
    assert_echo(&client, b"hello");
    let ended = eventually("the end of the session", Duration::from_mins(1), || {
        instance.stderr().lines().find(|line| line.contains("end=idle")).map(str::to_owned)
    });
    let duration: f64 =
        ended.split(' ').find_map(|field| field.strip_prefix("duration_ms=")?.parse().ok()).unwrap();
    // Timers go off by the millisecond.
    assert!((29_990.0..45_000.0).contains(&duration), "{ended}");
    // The record may come before the session's socket is closed, which takes a last datagram with it.
    client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let heard = eventually("an echo in a new session", PATIENCE, || {
        client.send(b"and again").unwrap();
        hear(&client).ok()
    });
    assert_eq!(heard, b"and again");
}

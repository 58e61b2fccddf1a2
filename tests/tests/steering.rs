//! Which connections reach the service and which do not: the same cases on every path, over IPv4 and IPv6. Does not
//! test what happens around them (start, stop, refusals).

#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::net::{Shutdown, SocketAddr, TcpListener};

use socket2::SockRef;
use spectrum_tests::case::Case;
use spectrum_tests::dial::{
    assert_answered, assert_answers, assert_refused, call, dial, dial_from, dial_together,
};
use spectrum_tests::origin::Origin;
use spectrum_tests::{answer, on_every_path, share, veth};

on_every_path!(
    any_port_of_any_address_answers,
    any_port_answers_a_client_over_a_link_with_rp_filter,
    every_port_of_one_address_answers,
    both_families_answer_at_once,
    host_prefix_is_one_address,
    addresses_just_outside_are_refused,
    ports_outside_are_refused,
    several_port_ranges_are_bound,
    unrelated_listener_is_untouched,
    addresses_just_outside_reach_other_listeners,
    binding_beats_an_earlier_listener_on_the_same_address_and_port,
    binding_beats_a_later_listener_on_the_same_address_and_port,
    listener_keeps_the_ports_that_are_not_bound,
    client_whose_own_address_lies_in_the_prefix_is_answered,
    thousand_connections_at_once_are_answered,
    handshakes_completed_by_cookies_are_answered,
    connections_out_of_the_host_are_untouched,
    a_port_that_clients_have_dialled_can_be_bound_by_others,
);

const NOTABLE_PORTS: [u16; 6] = [1, 22, 80, 443, 32_768, 65_535];

/// The notable ports and 500 random ones, each on an address of its own.
fn sample(case: &mut Case) -> Vec<SocketAddr> {
    let notable: Vec<SocketAddr> =
        NOTABLE_PORTS.iter().map(|port| SocketAddr::new(case.any_address(), *port)).collect();
    let edges = [case.address(0), case.address(255)].map(|address| SocketAddr::new(address, 80));
    let drawn: Vec<SocketAddr> = (0..share::of(500)).map(|_| case.any_target()).collect();
    notable.into_iter().chain(edges).chain(drawn).collect()
}

fn any_port_of_any_address_answers(case: &mut Case) {
    let instance = case.start_on_prefix();
    assert_eq!((instance.ready().services, instance.ready().bindings), (1, 1));
    let targets = sample(case);
    assert_answered(&case.server, &targets);
}

fn any_port_answers_a_client_over_a_link_with_rp_filter(case: &mut Case) {
    let client = veth::client_of(&case.server);
    let _instance = case.start_on_prefix();
    let targets = sample(case);
    assert_answered(&client, &targets);
}

fn every_port_of_one_address_answers(case: &mut Case) {
    // Not a local client: an accepted connection takes its port from those that connect(2) chooses from, in the whole
    // namespace and until TIME_WAIT is over, so that dialling all of them leaves a local client none.
    let client = veth::client_of(&case.server);
    let _instance = case.start_on_prefix();
    let address = case.any_address();
    let ports = (1..=u16::MAX).step_by(share::step());
    let targets: Vec<SocketAddr> = ports.map(|port| SocketAddr::new(address, port)).collect();
    assert_answered(&client, &targets);
}

fn both_families_answer_at_once(case: &mut Case) {
    let instance = case.start("--prefix 192.0.2.0/24 --prefix 2001:db8::/64 --prefix 203.0.113.7");
    assert_eq!(instance.ready().bindings, 3);
    let targets =
        ["192.0.2.9:443", "[2001:db8::9]:443", "203.0.113.7:9"].map(|target| target.parse().unwrap());
    assert_answered(&case.server, &targets);
}

fn host_prefix_is_one_address(case: &mut Case) {
    case.own_surroundings();
    let address = case.address(7);
    let _instance = case.start(&format!("--prefix {address}"));
    assert_answered(&case.server, &NOTABLE_PORTS.map(|port| SocketAddr::new(address, port)));
    for neighbour in [case.address(6), case.address(8)] {
        assert_refused(&case.server, &NOTABLE_PORTS.map(|port| SocketAddr::new(neighbour, port)));
    }
}

fn addresses_just_outside_are_refused(case: &mut Case) {
    case.own_surroundings();
    let client = veth::client_of(&case.server);
    let _instance = case.start_on_prefix();
    for outside in case.just_outside() {
        let targets = NOTABLE_PORTS.map(|port| SocketAddr::new(outside, port));
        assert_refused(&case.server, &targets);
        assert_refused(&client, &targets);
    }
}

fn ports_outside_are_refused(case: &mut Case) {
    let client = veth::client_of(&case.server);
    let _instance = case.start(&format!("--prefix {} --ports 1000-2000", case.prefix()));
    let address = case.any_address();
    for from in [&case.server, &client] {
        assert_answered(from, &[1000, 1001, 1500, 2000].map(|port| SocketAddr::new(address, port)));
        assert_refused(from, &[1, 999, 2001, 65_535].map(|port| SocketAddr::new(address, port)));
    }
}

fn several_port_ranges_are_bound(case: &mut Case) {
    let _instance = case.start(&format!("--prefix {} --ports 1-3,80,8000-8003,65535", case.prefix()));
    let address = case.any_address();
    let bound = [1, 2, 3, 80, 8000, 8001, 8002, 8003, 65_535];
    assert_answered(&case.server, &bound.map(|port| SocketAddr::new(address, port)));
    let free = [4, 79, 81, 7999, 8004, 65_534];
    assert_refused(&case.server, &free.map(|port| SocketAddr::new(address, port)));
}

fn unrelated_listener_is_untouched(case: &mut Case) {
    let client = veth::client_of(&case.server);
    let unrelated = veth::server_address(case.family);
    let early = Origin::saying(&case.server, SocketAddr::new(unrelated, 0), "early");
    let _instance = case.start_on_prefix();
    let late = Origin::saying(&case.server, SocketAddr::new(case.loopback(), 0), "late");
    assert_eq!(dial(&client, early.address()).unwrap().text, "early");
    assert_eq!(dial(&case.server, early.address()).unwrap().text, "early");
    assert_eq!(dial(&case.server, late.address()).unwrap().text, "late");
}

fn addresses_just_outside_reach_other_listeners(case: &mut Case) {
    case.own_surroundings();
    let any = case.family.parse("0.0.0.0", "::");
    let other = Origin::saying(&case.server, SocketAddr::new(any, 0), "other");
    let port = other.address().port();
    let _instance = case.start_on_prefix();
    for outside in case.just_outside() {
        assert_eq!(dial(&case.server, SocketAddr::new(outside, port)).unwrap().text, "other");
    }
    // The same port of a bound address is the service's, although the other one listens on every address.
    let inside = case.any_address();
    assert_answered(&case.server, &[SocketAddr::new(inside, port)]);
}

fn binding_beats_an_earlier_listener_on_the_same_address_and_port(case: &mut Case) {
    let client = veth::client_of(&case.server);
    let squatter = Origin::saying(&case.server, SocketAddr::new(case.address(7), 8080), "squatter");
    let _instance = case.start_on_prefix();
    assert_answered(&case.server, &[squatter.address()]);
    assert_answered(&client, &[squatter.address()]);
}

fn binding_beats_a_later_listener_on_the_same_address_and_port(case: &mut Case) {
    let client = veth::client_of(&case.server);
    let _instance = case.start_on_prefix();
    let squatter = Origin::saying(&case.server, SocketAddr::new(case.address(7), 8080), "squatter");
    assert_answered(&case.server, &[squatter.address()]);
    assert_answered(&client, &[squatter.address()]);
}

fn listener_keeps_the_ports_that_are_not_bound(case: &mut Case) {
    let neighbour = Origin::saying(&case.server, SocketAddr::new(case.address(7), 9090), "neighbour");
    let _instance = case.start(&format!("--prefix {} --ports 1-9089,9091-65535", case.prefix()));
    assert_eq!(dial(&case.server, neighbour.address()).unwrap().text, "neighbour");
    let around = [9089, 9091].map(|port| SocketAddr::new(case.address(7), port));
    assert_answered(&case.server, &around);
}

fn client_whose_own_address_lies_in_the_prefix_is_answered(case: &mut Case) {
    let _instance = case.start_on_prefix();
    let target = SocketAddr::new(case.address(1), 4443);
    for client in [case.address(9), case.address(1)] {
        let heard = dial_from(&case.server, client, target).unwrap();
        assert_eq!(heard.client.ip(), client);
        assert_eq!(heard.text, answer::expected(target, heard.client));
    }
}

fn thousand_connections_at_once_are_answered(case: &mut Case) {
    let _instance = case.start_on_prefix();
    let targets: Vec<SocketAddr> = (0..share::of(1000)).map(|_| case.any_target()).collect();
    assert_answers(dial_together(&case.server, &targets), targets.len());
}

fn handshakes_completed_by_cookies_are_answered(case: &mut Case) {
    // 2: always. The last packet of such a handshake is looked up again, as if it were the first.
    case.server.sysctl("net/ipv4/tcp_syncookies", "2");
    let client = veth::client_of(&case.server);
    let _instance = case.start_on_prefix();
    let targets: Vec<SocketAddr> = (0..share::of(200)).map(|_| case.any_target()).collect();
    assert_answered(&case.server, &targets);
    assert_answered(&client, &targets);
}

fn connections_out_of_the_host_are_untouched(case: &mut Case) {
    let elsewhere = veth::client_of(&case.server);
    let address = case.family.parse(veth::CLIENT_V4, veth::CLIENT_V6);
    let far = Origin::saying(&elsewhere, SocketAddr::new(address, 0), "far");
    let _instance = case.start_on_prefix();
    assert_eq!(dial(&case.server, far.address()).unwrap().text, "far");
    // From an address that the program serves, too.
    let client = case.address(77);
    let back = case.family.pick("route", "-6 route");
    let server = veth::server_address(case.family);
    elsewhere.ip(&format!("{back} replace {} via {server}", case.prefix()));
    assert_eq!(dial_from(&case.server, client, far.address()).unwrap().text, "far");
}

/// A server that is started again, as sshd is by every update, must not find its port taken by a connection to ours.
fn a_port_that_clients_have_dialled_can_be_bound_by_others(case: &mut Case) {
    let _instance = case.start(&format!("--prefix {} --respond echo", case.prefix()));
    let dialled = case.any_target();
    let open = call(&case.server, dialled).unwrap();
    let everywhere = SocketAddr::new(case.family.parse("0.0.0.0", "::"), dialled.port());
    let listen_and_stop = || {
        // The standard library sets SO_REUSEADDR, as servers do.
        let listener = case.server.run(|| TcpListener::bind(everywhere)).unwrap();
        // Closing is not enough: a process that another test's thread is just forking has the descriptor until it execs.
        SockRef::from(&listener).shutdown(Shutdown::Both).unwrap();
    };
    listen_and_stop();
    // We close first, and what is left waits for stray packets for a minute.
    open.shutdown(Shutdown::Write).unwrap();
    drop(open);
    listen_and_stop();
}

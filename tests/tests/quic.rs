//! QUIC's clients behind a NAT that gives them another port or address: their sessions go on, on every path. What is spoken here looks
//! like QUIC and has no keys; a real peer is among those of UDP.

#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::net::{IpAddr, SocketAddr, UdpSocket};

use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, reload};
use spectrum_tests::datagram::{bound, client_from, exchange};
use spectrum_tests::instance::Finished;
use spectrum_tests::netns::Netns;
use spectrum_tests::on_every_path;
use spectrum_tests::record::records;
use spectrum_tests::veth::{client_address, client_of};

on_every_path!(a_client_keeps_its_session_wherever_it_is, a_client_that_is_not_to_be_followed_is_a_new_one,);

/// The id that the origin chooses, and that its client writes into what it sends.
const CHOSEN: &[u8] = b"an origin's id";

fn long(destination: &[u8], source: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0xc0, 0, 0, 0, 1];
    for id in [destination, source] {
        datagram.push(u8::try_from(id.len()).unwrap());
        datagram.extend_from_slice(id);
    }
    datagram.extend_from_slice(&[0; 1000]);
    datagram
}

fn short(id: &[u8], said: &[u8]) -> Vec<u8> {
    [&[0x41], id, said].concat()
}

fn origin(case: &Case) -> UdpSocket {
    bound(&case.server, SocketAddr::new(case.loopback(), 0))
}

fn service(case: &Case, ports: &str, origins: &[&UdpSocket], more: &str) -> String {
    let typed: Vec<String> =
        origins.iter().map(|origin| format!("\"{}\"", origin.local_addr().unwrap())).collect();
    format!(
        "[[service]]\nname = \"web\"\nbindings = [{{ protocol = \"udp\", prefix = \"{}\", ports = \"{ports}\" }}]\norigins = \
         [{}]\n{more}\n",
        case.prefix(),
        typed.join(", ")
    )
}

fn handshake(client: &UdpSocket, origin: &UdpSocket) -> SocketAddr {
    exchange(client, origin, &long(b"made up by it", b"client"), &long(b"client", CHOSEN))
}

/// One more address of the client's on its link.
fn another_address(netns: &Netns, case: &Case) -> IpAddr {
    let address = case.family.parse("198.51.100.3", "2001:db8:ffff::3");
    netns.ip(&format!(
        "addr add {address}/{}",
        case.family.pick("24 dev to-server", "64 dev to-server nodad")
    ));
    address
}

fn sessions(finished: &Finished) -> Vec<(String, String)> {
    let of = |record: &spectrum_tests::record::Record<'_>| {
        (record["client"].to_owned(), record["datagrams_from_client"].to_owned())
    };
    records(&finished.stderr).iter().map(of).collect()
}

fn a_client_keeps_its_session_wherever_it_is(case: &mut Case) {
    const PORTS: usize = 12;
    let netns = client_of(&case.server);
    let (origin, other) = (origin(case), origin(case));
    let quic = "udp = { quic = true }";
    configure(&case.server, &service(case, "1-65535", &[&origin], quic));
    let instance = case.start(&format!("{CONFIG} --workers 2"));
    let target = case.any_target();
    let home = client_address(case.family);
    let port_of = |address| client_from(&netns, SocketAddr::new(address, 0), target);
    let first = port_of(home);
    let at = handshake(&first, &origin);
    // So many ports that both workers hear of some.
    let moved: Vec<UdpSocket> = (0..PORTS).map(|_| port_of(home)).collect();
    for client in &moved {
        for _ in 0..3 {
            assert_eq!(exchange(client, &origin, &short(CHOSEN, b"from another port"), b"answer"), at);
        }
    }
    let elsewhere = port_of(another_address(&netns, case));
    assert_eq!(exchange(&elsewhere, &origin, &short(CHOSEN, b"from another address"), b"answer"), at);
    // A reload that gives others another origin takes nobody's session, nor what is known of it.
    configure(&case.server, &service(case, "1-65535", &[&other], quic));
    reload(&case.server, &instance).unwrap();
    let last = port_of(home);
    for client in [&moved[0], &first, &last] {
        assert_eq!(exchange(client, &origin, &short(CHOSEN, b"after a reload"), b"answer"), at);
    }
    assert_ne!(exchange(&port_of(home), &other, &short(b"nobody's own id", b"who am I?"), b"new"), at);
    let finished = instance.stop();
    let mut sessions = sessions(&finished);
    sessions.retain(|(_, datagrams)| datagrams != "1");
    let datagrams = (1 + PORTS * 3 + 1 + 3).to_string();
    assert_eq!(sessions, [(last.local_addr().unwrap().to_string(), datagrams)], "{finished}");
}

fn a_client_that_is_not_to_be_followed_is_a_new_one(case: &mut Case) {
    let netns = client_of(&case.server);
    let origin = origin(case);
    configure(&case.server, &service(case, "443", &[&origin], ""));
    let instance = case.start(&format!("{CONFIG} --workers 2"));
    let target = SocketAddr::new(case.any_address(), 443);
    let port = || client_from(&netns, SocketAddr::new(client_address(case.family), 0), target);
    let at = handshake(&port(), &origin);
    assert_ne!(exchange(&port(), &origin, &short(CHOSEN, b"from another port"), b"answer"), at);
    assert_eq!(sessions(&instance.stop()).len(), 2);
}

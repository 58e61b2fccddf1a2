//! Datagrams that go on to origins: what the origin sees, and that answers come from what was dialled. The same cases on every
//! path, over IPv4 and IPv6. What a worker makes of datagrams by itself is tested without steering.

#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, reload};
use spectrum_tests::datagram::{self, bound, client, client_from};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::record::records;
use spectrum_tests::scene::Scene;
use spectrum_tests::veth::origin_address;
use spectrum_tests::{on_every_path, on_one_path};

on_one_path!(explain_says_who_answers_a_datagram);

on_every_path!(
    any_port_of_any_address_reaches_an_origin,
    sessions_keep_their_port_at_the_origin_over_reloads,
    a_dialled_port_becomes_the_origin_s_by_an_offset,
    an_origin_that_is_not_there_is_passed_over,
    sessions_go_on_while_the_program_is_on_its_way_out,
    sessions_of_a_service_that_is_removed_go_on_for_the_time_of_a_drain,
    sessions_outlast_the_name_of_their_service_and_then_its_removal,
    a_flood_of_forged_clients_takes_no_session_of_those_who_were_answered,
    origins_see_the_client_s_own_address_and_port_where_they_are_to,
);

fn origin(case: &Case) -> UdpSocket {
    bound(&case.server, SocketAddr::new(case.loopback(), 0))
}

fn address(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().unwrap()
}

/// A service of UDP named so, with these ports, and more of its keys.
fn service(case: &Case, name: &str, ports: &str, more: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nbindings = [{{ protocol = \"udp\", prefix = \"{}\", ports = \"{ports}\" }}]\n{more}\n",
        case.prefix()
    )
}

fn origins(origins: &[&UdpSocket]) -> String {
    let typed: Vec<String> = origins.iter().map(|origin| format!("\"{}\"", address(origin))).collect();
    format!("origins = [{}]", typed.join(", "))
}

fn serve(case: &Case, config: &str, flags: &str) -> Instance {
    configure(&case.server, config);
    case.start(&format!("{CONFIG} {flags}"))
}

/// `client` says something, and `origin` answers: where the origin has heard it from.
fn exchange(client: &UdpSocket, origin: &UdpSocket, said: &[u8]) -> SocketAddr {
    datagram::exchange(client, origin, said, &[b"re: ", said].concat())
}

fn explain_says_who_answers_a_datagram(case: &mut Case) {
    let origin = origin(case);
    let more = format!("{}\nbalance = \"least-sessions\"\nudp = {{ sessions = 9 }}", origins(&[&origin]));
    let _instance = serve(case, &service(case, "games", "5000", &more), "");
    let target = SocketAddr::new(case.any_address(), 5000);
    let said = Launch::new(&case.server).arguments(&format!("explain udp {target}")).finish().stdout;
    for fact in [
        format!("answers   origins {}\n", address(&origin)),
        "          least-connections\n".to_owned(),
        "          udp: sessions 9\n".to_owned(),
        format!("origins   {} up\n", address(&origin)),
    ] {
        assert!(said.contains(&fact), "{fact}{said}");
    }
}

fn any_port_of_any_address_reaches_an_origin(case: &mut Case) {
    let origin = origin(case);
    let instance = serve(case, &service(case, "games", "1-65535", &origins(&[&origin])), "");
    let targets: Vec<SocketAddr> = (0..20).map(|_| case.any_target()).collect();
    for target in &targets {
        let client = client(&case.server, *target);
        exchange(&client, &origin, b"hello");
        exchange(&client, &origin, &vec![7; 30_000]);
    }
    let finished = instance.stop();
    let records = records(&finished.stderr);
    assert_eq!(records.len(), targets.len(), "{finished}");
    for record in records {
        assert_eq!(record["origin"], address(&origin).to_string());
        assert_eq!((record["bytes_from_client"], record["bytes_to_client"]), ("30005", "30013"));
        assert_eq!((record["datagrams_from_client"], record["datagrams_to_client"]), ("2", "2"));
    }
}

fn sessions_keep_their_port_at_the_origin_over_reloads(case: &mut Case) {
    let (first, other) = (origin(case), origin(case));
    let instance = serve(case, &service(case, "games", "5000", &origins(&[&first])), "");
    let target = SocketAddr::new(case.any_address(), 5000);
    let clients: Vec<UdpSocket> = (0..64).map(|_| client(&case.server, target)).collect();
    let before: Vec<SocketAddr> = clients.iter().map(|client| exchange(client, &first, b"before")).collect();
    // The service's origins change, then its bindings, then another service comes.
    for config in [
        service(case, "games", "5000", &origins(&[&other])),
        service(case, "games", "5000-5010", &origins(&[&other])),
        service(case, "games", "5000-5010", &origins(&[&other]))
            + &service(case, "more", "6000", &origins(&[&first])),
    ] {
        configure(&case.server, &config);
        reload(&case.server, &instance).unwrap();
        let after: Vec<SocketAddr> =
            clients.iter().map(|client| exchange(client, &first, b"after")).collect();
        assert_eq!(before, after);
    }
    exchange(&client(&case.server, target), &other, b"a new one");
}

fn a_dialled_port_becomes_the_origin_s_by_an_offset(case: &mut Case) {
    let origin = origin(case);
    let port = address(&origin).port();
    let first = port.saturating_sub(7);
    let host = case.family.pick(format!("{}", case.loopback()), format!("[{}]", case.loopback()));
    let keys = format!("origins = [\"{host}:{first}-{}\"]", first + 20);
    let _instance = serve(case, &service(case, "media", "1000-1020", &keys), "");
    let target = SocketAddr::new(case.any_address(), 1000 + port - first);
    exchange(&client(&case.server, target), &origin, b"RTP");
}

fn an_origin_that_is_not_there_is_passed_over(case: &mut Case) {
    let (there, gone) = (origin(case), origin(case));
    let config = service(case, "games", "5000", &origins(&[&gone, &there]));
    drop(gone);
    let _instance = serve(case, &config, "--workers 1");
    let target = SocketAddr::new(case.any_address(), 5000);
    for _ in 0..6 {
        exchange(&client(&case.server, target), &there, b"the first is not lost");
    }
}

fn sessions_go_on_while_the_program_is_on_its_way_out(case: &mut Case) {
    let origin = origin(case);
    let config = service(case, "games", "5000", &origins(&[&origin]));
    let instance = serve(case, &config, "--drain 10m");
    let target = SocketAddr::new(case.any_address(), 5000);
    let clients: Vec<UdpSocket> = (0..20).map(|_| client(&case.server, target)).collect();
    let before: Vec<SocketAddr> = clients.iter().map(|client| exchange(client, &origin, b"before")).collect();
    instance.signal(nix::sys::signal::Signal::SIGTERM);
    eventually("the end of steering", PATIENCE, || {
        let late = client(&case.server, target);
        late.send(b"late").unwrap();
        origin.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        origin.recv_from(&mut [0; 64]).is_err().then_some(())
    });
    for _ in 0..3 {
        let after: Vec<SocketAddr> =
            clients.iter().map(|client| exchange(client, &origin, b"after")).collect();
        assert_eq!(before, after);
    }
}

fn sessions_of_a_service_that_is_removed_go_on_for_the_time_of_a_drain(case: &mut Case) {
    let origin = origin(case);
    let rest = service(case, "rest", "6000", &origins(&[&origin]));
    let config = service(case, "games", "5000", &origins(&[&origin])) + &rest;
    let instance = serve(case, &config, "--drain 10m");
    let target = SocketAddr::new(case.any_address(), 5000);
    let lasting = client(&case.server, target);
    let before = exchange(&lasting, &origin, b"before");
    configure(&case.server, &rest);
    reload(&case.server, &instance).unwrap();
    let begun = Instant::now();
    // Also while the listener that nothing leads to is still there, and after.
    while begun.elapsed() < Duration::from_secs(5) {
        assert_eq!(exchange(&lasting, &origin, b"after"), before);
    }
}

fn sessions_outlast_the_name_of_their_service_and_then_its_removal(case: &mut Case) {
    let origin = origin(case);
    let rest = service(case, "rest", "6000", &origins(&[&origin]));
    let named = |case: &Case, name: &str| service(case, name, "5000", &origins(&[&origin])) + &rest;
    let instance = serve(case, &named(case, "games"), "--drain 10m");
    let target = SocketAddr::new(case.any_address(), 5000);
    let older = client(&case.server, target);
    let former = exchange(&older, &origin, b"by its former name");
    configure(&case.server, &named(case, "play"));
    reload(&case.server, &instance).unwrap();
    let younger = client(&case.server, target);
    let before = [former, exchange(&younger, &origin, b"by its name")];
    assert_eq!(exchange(&older, &origin, b"and still"), former);
    configure(&case.server, &rest);
    reload(&case.server, &instance).unwrap();
    for _ in 0..3 {
        let after = [&older, &younger].map(|client| exchange(client, &origin, b"after all"));
        assert_eq!(after, before);
    }
}

fn a_flood_of_forged_clients_takes_no_session_of_those_who_were_answered(case: &mut Case) {
    let origin = origin(case);
    let more = format!("{}\nudp = {{ sessions = 200 }}", origins(&[&origin]));
    let instance = serve(case, &service(case, "games", "5000", &more), "--workers 1");
    let target = SocketAddr::new(case.any_address(), 5000);
    let honest: Vec<UdpSocket> = (0..50).map(|_| client(&case.server, target)).collect();
    let before: Vec<SocketAddr> = honest.iter().map(|client| exchange(client, &origin, b"play")).collect();
    for port in 20_000..22_000 {
        let forged = client_from(&case.server, SocketAddr::new(case.loopback(), port), target);
        forged.send(b"flood").unwrap();
        if port % 100 == 0 {
            // Who says nothing to them hears them all the same.
            origin.set_nonblocking(true).unwrap();
            while origin.recv_from(&mut [0; 64]).is_ok() {}
            origin.set_nonblocking(false).unwrap();
        }
    }
    eventually("the end of the flood", PATIENCE, || {
        origin.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        origin.recv_from(&mut [0; 64]).is_err().then_some(())
    });
    let after: Vec<SocketAddr> = honest.iter().map(|client| exchange(client, &origin, b"play on")).collect();
    assert_eq!(before, after);
    let finished = instance.stop();
    let records = records(&finished.stderr);
    assert!(records.iter().any(|record| record["end"] == "evicted"), "{finished}");
}

/// A client elsewhere, and an origin elsewhere or on this host.
fn origins_see_the_client_s_own_address_and_port_where_they_are_to(case: &mut Case) {
    let scene = Scene::of(case);
    let elsewhere = bound(&scene.origins, SocketAddr::new(origin_address(case.family), 0));
    let here = origin(case);
    let config = service(case, "far", "5000", &format!("{}\ntransparent = true", origins(&[&elsewhere])))
        + &service(case, "near", "6000", &format!("{}\ntransparent = true", origins(&[&here])));
    let _instance = serve(case, &config, "");
    for (origin, port) in [(&elsewhere, 5000), (&here, 6000)] {
        for _ in 0..5 {
            let target = SocketAddr::new(case.any_address(), port);
            let client = client(&scene.client, target);
            assert_eq!(exchange(&client, origin, b"who am I?"), address(&client));
        }
    }
}

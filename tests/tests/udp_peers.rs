//! Servers of UDP that everybody uses, behind the program: DNS, TURN, QUIC, WireGuard, SIP with its media, iperf3. What the origin hears and answers is looked at by its own tools. Tests no fault.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::io;
use std::net::SocketAddr;

use serde_json::Value;
use spectrum_tests::case::Case;
use spectrum_tests::control::connect;
use spectrum_tests::control::{CONFIG, configure};
use spectrum_tests::datagram::{assert_echo, client_from, dropped_by_backlog};
use spectrum_tests::datagram_server::{KNOT, ask, at, client, knot, service, start};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::call;
use spectrum_tests::instance::Instance;
use spectrum_tests::netns::Netns;
use spectrum_tests::origin::{Origin, receive_sequence, send_sequence};
use spectrum_tests::peer::{Peer, converse, file, read};
use spectrum_tests::record::records;
use spectrum_tests::require::{Need, met};
use spectrum_tests::veth::{client_address, client_of};
use spectrum_tests::{on_every_path, on_one_path};

on_every_path!(
    a_dns_server_answers,
    a_turn_server_knows_who_asks_if_that_is_transparent,
    quic_of_ngtcp2_passes_and_survives_another_port,
);

on_one_path!(
    a_turn_server_relays,
    iperf3_has_its_control_and_its_datagrams_on_one_port,
    sip_and_its_media_keep_their_offset,
    wireguard_carries_connections,
);

/// A certificate and its key, in the namespace's /run.
fn certify(netns: &Netns) {
    netns.command(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=spectrum.test -keyout \
         /run/key.pem -out /run/certificate.pem",
    );
}

fn a_dns_server_answers(case: &mut Case) {
    if !met("a_dns_server_answers", &[Need::Kdig, Need::Knot]) {
        return;
    }
    let dialled = case.any_address();
    let netns = client_of(&case.server);
    let _knot = knot(case);
    let instance = start(case, &service(case, "53", "udp", at(case, KNOT), "udp = { responses = 1 }"));
    for _ in 0..3 {
        // Its answer is the address of who asks, which is this host.
        let heard = ask(&netns, client(case), SocketAddr::new(dialled, 53), case.family.pick("A", "AAAA"));
        assert_eq!(heard, case.loopback().to_string());
    }
    let finished = instance.stop();
    // Each of them came from the same port, and a session ends with its answer.
    assert_eq!(records(&finished.stderr).len(), 3, "{finished}");
}

/// A TURN server, which knows no way to others than its own loopback.
fn turn(case: &Case) -> Peer<'_> {
    let address = at(case, 3478);
    let line = format!(
        "turnserver -n --no-cli --no-tls --no-dtls --no-rfc5780 --listening-ip {0} --relay-ip {0} --listening-port 3478 \
         --allow-loopback-peers --lt-cred-mech --user name:word --realm test --log-file stdout --simple-log --userdb \
         /run/turn.db --pidfile /run/turn.pid --min-port 20000 --max-port 20199",
        address.ip()
    );
    Peer::hearing(&case.server, &line, address)
}

fn a_turn_server_knows_who_asks_if_that_is_transparent(case: &mut Case) {
    if !met("a_turn_server_knows_who_asks_if_that_is_transparent", &[Need::Coturn]) {
        return;
    }
    let address = case.any_address();
    let netns = client_of(&case.server);
    let _turn = turn(case);
    // A session that is over is not waited for at the end.
    let over = "udp = { responses = 1 }";
    let transparent = service(case, "2000", "udp", at(case, 3478), &format!("transparent = true\n{over}"));
    let opaque = service(case, "1000", "udp", at(case, 3478), over).replace("to-3478", "opaque");
    let instance = start(case, &(transparent + &opaque));
    // Who is seen, with its port.
    let seen = |port: u16| {
        let said = converse(&netns, &format!("turnutils_stunclient -p {port} {address}"), b"");
        let said = String::from_utf8(said).unwrap();
        let seen = said.lines().find_map(|line| line.split("UDP reflexive addr: ").nth(1)).map(str::trim);
        // Of IPv6 it says no brackets.
        let (ip, port) = seen.and_then(|seen| seen.rsplit_once(':')).unwrap_or_else(|| panic!("{said}"));
        SocketAddr::new(ip.parse().unwrap_or_else(|_| panic!("{said}")), port.parse().unwrap())
    };
    assert_eq!(seen(1000).ip(), case.loopback());
    let client = seen(2000);
    assert_eq!(client.ip(), client_address(case.family));
    let finished = instance.stop();
    let records = records(&finished.stderr);
    assert!(records.iter().any(|record| record["client"] == client.to_string()), "{client}: {finished}");
}

fn a_turn_server_relays(case: &mut Case) {
    if !met("a_turn_server_relays", &[Need::Coturn]) {
        return;
    }
    let target = case.any_target();
    let netns = client_of(&case.server);
    let _turn = turn(case);
    let _instance = start(case, &service(case, "1-65535", "udp", at(case, 3478), ""));
    // Two clients who speak to each other by their relays, and count what is lost.
    let line = format!(
        "turnutils_uclient -u name -w word -y -c{} -m 1 -n 5 -p {} {}",
        case.family.pick("", " -x"),
        target.port(),
        target.ip()
    );
    let said = String::from_utf8(converse(&netns, &line, b"")).unwrap();
    assert!(said.contains("Total lost packets 0 "), "{said}");
    assert!(said.contains("tot_send_msgs=10, tot_recv_msgs=10"), "{said}");
}

fn quic_of_ngtcp2_passes_and_survives_another_port(case: &mut Case) {
    const FILE: usize = 300_000;
    if !met("quic_of_ngtcp2_passes_and_survives_another_port", &[Need::Ngtcp2, Need::Openssl]) {
        return;
    }
    let target = case.any_target();
    let netns = client_of(&case.server);
    certify(&case.server);
    let mut sent = vec![0; FILE];
    case.random.fill(&mut sent);
    case.server
        .run(|| fs::create_dir("/run/pages").and_then(|()| fs::write("/run/pages/file", &sent)))
        .unwrap();
    netns.run(|| fs::create_dir("/run/pages")).unwrap();
    let origin = at(case, 4433);
    // Two of them, neither of which knows the other's connections.
    let others = at(case, 4434);
    let _servers = [origin, others].map(|address| {
        let (ip, port) = (address.ip(), address.port());
        let line = format!("gtlsserver -q -d /run/pages {ip} {port} /run/key.pem /run/certificate.pem");
        Peer::hearing(&case.server, &line, address)
    });
    let both = format!("[\"{origin}\", \"{others}\"]");
    let configuration = service(case, "1-65535", "udp", origin, "udp = { quic = true }")
        .replace(&format!("[\"{origin}\"]"), &both);
    configure(&case.server, &configuration);
    let instance = case.start(&format!("{CONFIG} --workers 2"));
    // With the second it has another port before it asks, as a NAT would give it one, and does not know.
    let rebinding = "--change-local-addr=100ms --nat-rebinding --delay-stream=300ms";
    for (options, downloads) in [("", 1), (rebinding, 4)] {
        for _ in 0..downloads {
            let line = format!(
                "gtlsclient -q --exit-on-all-streams-close --download /run/pages {options} {} {} https://spectrum.test/file",
                target.ip(),
                target.port()
            );
            converse(&netns, &line.replace("  ", " "), b"");
            let got = netns.run(|| {
                fs::read("/run/pages/file").and_then(|got| fs::remove_file("/run/pages/file").map(|()| got))
            });
            let got = got.unwrap();
            assert!(got == sent, "the file differs, {} bytes", got.len());
        }
    }
    // The server has seen nobody move: each connection had one session, whichever worker heard of its ports.
    let finished = instance.stop();
    assert_eq!(records(&finished.stderr).len(), 5, "{finished}");
}

/// The datagrams that the program has lost, whichever way.
fn lost_by(case: &Case, instance: &Instance) -> u64 {
    let status = connect(&case.server, instance).ask("status").unwrap();
    let datagrams = status["sessions"].as_array().unwrap().iter().map(|sessions| &sessions["datagrams"]);
    let keys = ["lost", "overflow_from_client", "overflow_from_origin"];
    datagrams.flat_map(|counts| keys.map(|key| counts[key].as_u64().unwrap_or_default())).sum()
}

/// The datagrams that found no room in a socket of the namespace.
fn full_queues(netns: &Netns) -> u64 {
    let table = |name: &str| read(netns, &format!("/proc/thread-self/net/{name}"));
    let (v4, v6) = (table("snmp"), table("snmp6"));
    let rows: Vec<Vec<&str>> = v4
        .lines()
        .filter(|line| line.starts_with("Udp: "))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let place = rows[0].iter().position(|name| *name == "RcvbufErrors").unwrap();
    let of_v6 = v6.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors")).unwrap();
    rows[1][place].parse::<u64>().unwrap() + of_v6.trim().parse::<u64>().unwrap()
}

/// Its control is TCP, its datagrams go to the port of the same number, as of FTP-like protocols.
fn iperf3_has_its_control_and_its_datagrams_on_one_port(case: &mut Case) {
    const BYTES: u64 = 12_000_000;
    if !met("iperf3_has_its_control_and_its_datagrams_on_one_port", &[Need::Iperf3]) {
        return;
    }
    let target = case.any_target();
    let netns = client_of(&case.server);
    let origin = at(case, 5201);
    let _server = Peer::listening(&case.server, &format!("iperf3 -s -B {}", origin.ip()), origin);
    let instance = start(case, &service(case, "1-65535", "both", origin, ""));
    // What found a full queue of the program's, and what found one of iperf3's or of a processor's.
    let lost = || {
        let own = lost_by(case, &instance);
        let all = full_queues(&case.server) + full_queues(&netns) + dropped_by_backlog();
        (own, all.saturating_sub(own))
    };
    for direction in ["", " -R"] {
        let line = format!(
            "iperf3 -c {} -p {} -u -l 1200 -b 25M -n {BYTES} -P 2 -J{direction}",
            target.ip(),
            target.port()
        );
        let mut before = (0, 0);
        let said = eventually(&line, PATIENCE, || {
            before = lost();
            let said: Value = serde_json::from_slice(&converse(&netns, &line, b"")).unwrap();
            // The server may not be done with the direction before.
            let is_busy = said["error"].as_str().is_some_and(|error| error.contains("server is busy"));
            (!is_busy).then_some(said)
        });
        let sum = &said["end"]["sum"];
        let number =
            |name: &str| sum[name].as_f64().unwrap_or_else(|| panic!("{direction}: no {name} in {said}"));
        assert!(number("packets") * 1200.0 >= 12e6, "{direction}: {sum}");
        let (own, others) = (lost().0 - before.0, lost().1.saturating_sub(before.1));
        let most = number("packets") / 100.0;
        // It sends whether or not there is room, so that a busy machine loses some elsewhere.
        assert!(
            f64::from(u32::try_from(own).unwrap()) <= most,
            "{direction}: {own} lost by the program: {sum}"
        );
        assert!(
            number("lost_packets") <= most + f64::from(u32::try_from(others).unwrap()),
            "{direction}: {others} lost elsewhere: {sum}"
        );
    }
}

fn sip_and_its_media_keep_their_offset(case: &mut Case) {
    if !met("sip_and_its_media_keep_their_offset", &[Need::Sipp]) {
        return;
    }
    let target = SocketAddr::new(case.any_address(), 5060);
    let netns = client_of(&case.server);
    let (server, loopback) = (at(case, 15_060), case.loopback());
    let line = format!("sipp -sn uas -i {loopback} -p 15060 -rtp_echo -mp 16000 -nostdin -cp 18888");
    let _server = Peer::hearing(&case.server, &line, server);
    let ports = "5000-7000";
    let origins = format!("\"{}\"", at(case, 15_000)).replace(":15000", ":15000-17000");
    let configuration = service(case, ports, "udp", server, "").replace(&format!("\"{server}\""), &origins);
    let _instance = start(case, &configuration);
    let from = client_address(case.family);
    let calls = 5;
    let line = format!(
        "sipp -sn uac -i {from} -p 5070 {target} -m {calls} -r 50 -d 50 -nostdin -timeout 20 -cp 18889"
    );
    converse(&netns, &line, b"");
    // Media has another port, with the same offset.
    let media = client_from(&netns, SocketAddr::new(from, 0), SocketAddr::new(target.ip(), 6000));
    for number in 0..50_u8 {
        assert_echo(&media, &[number; 172]);
    }
}

fn wireguard_carries_connections(case: &mut Case) {
    const MEGABYTE: u64 = 1 << 20;
    if !met("wireguard_carries_connections", &[Need::Wireguard]) {
        return;
    }
    let target = case.any_target();
    let [question, answer] = [case.random.bits(), case.random.bits()];
    let netns = client_of(&case.server);
    let origin = at(case, 51_820);
    let _instance = start(case, &service(case, "1-65535", "udp", origin, ""));
    let ends = [(&case.server, "10.9.0.1"), (&netns, "10.9.0.2")];
    let keys = ends.map(|(netns, _)| key_pair(netns));
    let _processes = ends.map(|(netns, address)| {
        let there = || netns.run(|| fs::exists("/run/wireguard/wg0.sock")).unwrap();
        let process = Peer::ready(netns, "wireguard-go -f wg0", "tunnel", there);
        netns.ip(&format!("addr add {address}/24 dev wg0"));
        netns.ip("link set wg0 mtu 1280 up");
        process
    });
    let configure = |of: usize, peer: usize, more: &str| {
        let (netns, _) = ends[of];
        let allowed = ends[peer].1;
        netns.command(&format!(
            "wg set wg0 private-key /run/wireguard.key {more} peer {} allowed-ips {allowed}/32",
            keys[peer]
        ));
    };
    configure(0, 1, "listen-port 51820");
    configure(1, 0, "listen-port 0");
    netns.command(&format!("wg set wg0 peer {} endpoint {target}", keys[0]));
    let server = Origin::serve(&case.server, "10.9.0.1:0".parse().unwrap(), move |stream| {
        std::thread::scope(|scope| {
            scope.spawn(|| send_sequence(&stream, answer, MEGABYTE));
            receive_sequence(&stream, question, MEGABYTE)
        })
    });
    let stream = call(&netns, server.address()).unwrap();
    let sent = std::thread::scope(|scope| -> io::Result<()> {
        let sender = scope.spawn(|| send_sequence(&stream, question, MEGABYTE));
        receive_sequence(&stream, answer, MEGABYTE)?;
        sender.join().unwrap()
    });
    sent.unwrap();
    // The server knows the client by a port of this host's.
    let known = case.server.command("wg show wg0 endpoints");
    assert!(known.contains(&case.loopback().to_string()), "{known}");
}

/// Makes a private key in the namespace's /run. The public one.
fn key_pair(netns: &Netns) -> String {
    let private = converse(netns, "wg genkey", b"");
    file(netns, "wireguard.key", &private);
    String::from_utf8(converse(netns, "wg pubkey", &private)).unwrap().trim().to_owned()
}

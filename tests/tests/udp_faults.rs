//! What happens to UDP sessions when something goes wrong: origins die, names change, strangers flood, descriptors and ports
//! run out, the program ends or is told to be otherwise. Whose answers reach whom is looked at throughout.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, assert_logged, await_logged, configure, connect, reload};
use spectrum_tests::datagram::{
    assert_echo, bound, client, client_from, dropped_by_backlog, hear, unspecified,
};
use spectrum_tests::datagram_origin::DatagramOrigin;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::dial;
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::name_server::NameServer;
use spectrum_tests::netns::Netns;
use spectrum_tests::origin::Origin;
use spectrum_tests::path::Path;
use spectrum_tests::record::records;
use spectrum_tests::require::find_in_path;
use spectrum_tests::scene::Scene;
use spectrum_tests::veth::{CLIENT_V4, CLIENT_V6, client_of, origin_address as veth_origin};
use spectrum_tests::{on_every_path, on_one_path, share};

on_every_path!(
    a_client_that_is_gone_keeps_its_session_and_takes_nobody_else_s_answers,
    a_client_hears_that_its_origin_is_dead_and_then_that_it_is_back,
    a_client_hears_how_much_gets_through_beside_a_header,
    sessions_keep_their_ports_at_the_origin_over_reloads,
    whoever_plays_loses_nothing_to_a_flood,
);

on_one_path!(
    a_check_by_one_protocol_says_nothing_of_the_other,
    a_first_datagram_goes_to_another_origin_if_one_is_dead,
    a_name_that_changes_moves_no_session,
    more_clients_than_descriptors_are_all_answered,
    more_clients_than_ports_are_all_answered,
    more_source_addresses_have_more_ports,
    an_answer_that_is_under_way_at_the_end_still_arrives,
    nobody_ever_hears_what_is_not_for_them,
    what_finds_a_full_queue_is_counted,
);

fn origin_address(case: &Case) -> SocketAddr {
    SocketAddr::new(case.loopback(), 0)
}

/// A UDP service on all ports of the prefix.
fn service(case: &Case, origins: &str, more: &str) -> String {
    let prefix = case.prefix();
    format!(
        "[[service]]\nname = \"games\"\nbindings = [{{ prefix = \"{prefix}\", protocol = \"udp\" }}]\norigins = \
         [{origins}]\n{more}\n"
    )
}

fn quoted(origin: SocketAddr) -> String {
    format!("\"{origin}\"")
}

fn start(case: &Case, configuration: &str) -> Instance {
    configure(&case.server, configuration);
    case.start(CONFIG)
}

/// The same, with so many descriptors.
fn start_with_descriptors(case: &Case, configuration: &str, count: usize) -> Instance {
    configure(&case.server, configuration);
    let prlimit = find_in_path("prlimit").unwrap();
    case.launch(CONFIG).through(&format!("{} --nofile={count}:{count}", prlimit.display())).start()
}

/// The address that an observer behind the program sees `client` by.
fn seen(client: &UdpSocket) -> SocketAddr {
    let heard = eventually("an answer", PATIENCE, || {
        client.send(b"who am I?").ok()?;
        hear(client).ok()
    });
    String::from_utf8(heard).unwrap().parse().unwrap()
}

fn a_client_hears_that_its_origin_is_dead_and_then_that_it_is_back(case: &mut Case) {
    let target = case.any_target();
    let netns = client_of(&case.server);
    let origin = DatagramOrigin::echo(&case.server, origin_address(case));
    let address = origin.address();
    let _instance = start(case, &service(case, &quoted(address), ""));
    let client = client(&netns, target);
    assert_echo(&client, b"hello");
    drop(origin);
    // Connected as it is, it takes an error that comes from the dialled address and port only.
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    eventually("port unreachable", PATIENCE, || {
        let said = client.send(b"are you there?").and_then(|_| hear(&client));
        said.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
    let _origin = DatagramOrigin::echo(&case.server, address);
    eventually("an echo", PATIENCE, || {
        let said = client.send(b"and now?").and_then(|_| hear(&client));
        (said.ok()? == b"and now?").then_some(())
    });
}

/// The condition of the service's only origin, with its reason, as `status` shows it.
fn condition(case: &Case, instance: &Instance) -> String {
    let status = connect(&case.server, instance).ask("status").unwrap();
    let origin = &status["services"][0]["origins"][0];
    let said = |key: &str| origin[key].as_str().unwrap_or_default().to_owned();
    format!("{} {}", said("condition"), said("reason"))
}

fn a_check_by_one_protocol_says_nothing_of_the_other(case: &mut Case) {
    let target = case.any_target();
    let stream = Origin::saying(&case.server, origin_address(case), "here");
    let datagrams = DatagramOrigin::echo(&case.server, origin_address(case));
    let both = |origin: SocketAddr, check: &str| {
        let more = format!("health = {{ interval = \"100ms\", fall = 1{check} }}");
        service(case, &quoted(origin), &more).replace("\"udp\"", "\"both\"")
    };
    let await_condition = |instance: &Instance, expected: &str| {
        eventually(expected, PATIENCE, || (condition(case, instance) == expected).then_some(()));
    };
    let asked = both(stream.address(), ", send = \"ping\"");
    let tried = both(datagrams.address(), "");
    let apart = both(datagrams.address(), &format!(", port = {}", datagrams.address().port()));
    let instance = start(case, &asked);
    await_condition(&instance, "down for udp alone");
    assert_eq!(dial(&case.server, target).unwrap().text, "here");
    configure(&case.server, &tried);
    reload(&case.server, &instance).unwrap();
    await_condition(&instance, "down for tcp alone");
    assert_echo(&client(&case.server, target), b"hello");
    assert!(dial(&case.server, target).is_err());
    // A port of its own for checks tells of the server.
    configure(&case.server, &apart);
    reload(&case.server, &instance).unwrap();
    await_condition(&instance, "down ");
    let refused = client(&case.server, target);
    let said = refused.send(b"hello").and_then(|_| hear(&refused));
    assert_eq!(said.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

fn a_client_hears_how_much_gets_through_beside_a_header(case: &mut Case) {
    let scene = Scene::of(case);
    let target = case.any_target();
    let origin = bound(&scene.origins, SocketAddr::new(veth_origin(case.family), 0));
    origin.set_read_timeout(Some(PATIENCE)).unwrap();
    let more = "proxy-header = \"v2\"";
    let _instance = start(case, &service(case, &quoted(origin.local_addr().unwrap()), more));
    let client = client(&scene.client, target);
    let mtu = || {
        let route = scene.client.ip(&format!("route get {}", target.ip()));
        let mut words = route.split_whitespace().skip_while(|word| *word != "mtu");
        words.nth(1).map(|mtu| mtu.parse::<usize>().unwrap())
    };
    // Headers of IP and UDP, and the header of who the client is.
    let (headers, own) = case.family.pick((28, 28), (48, 52));
    let most = 1500 - headers - own;
    let mut heard = [0; 2048];
    client.send(&vec![7; most]).unwrap();
    assert_eq!(origin.recv(&mut heard).unwrap(), own + most);
    client.send(&vec![7; most + 1]).unwrap();
    assert_eq!(origin.recv(&mut heard).unwrap(), own + most + 1, "in fragments");
    eventually("a narrower way", PATIENCE, || (mtu()? == most + headers).then_some(()));
}

/// The ICMP errors that a namespace was told by others.
fn errors_heard(netns: &Netns) -> u64 {
    let table =
        |name: &str| netns.run(|| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap());
    let (v4, v6) = (table("snmp"), table("snmp6"));
    let rows: Vec<Vec<&str>> = v4
        .lines()
        .filter(|line| line.starts_with("Icmp: "))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let place = rows[0].iter().position(|name| *name == "InDestUnreachs").unwrap();
    let of_v6 = v6.lines().find_map(|line| line.strip_prefix("Icmp6InDestUnreachs")).unwrap();
    rows[1][place].parse::<u64>().unwrap() + of_v6.trim().parse::<u64>().unwrap()
}

fn a_client_that_is_gone_keeps_its_session_and_takes_nobody_else_s_answers(case: &mut Case) {
    let target = case.any_target();
    let netns = client_of(&case.server);
    let origin = bound(&case.server, origin_address(case));
    origin.set_read_timeout(Some(PATIENCE)).unwrap();
    let _instance = start(case, &service(case, &quoted(origin.local_addr().unwrap()), ""));
    let exchange = |client: &UdpSocket| {
        client.send(b"are you there?").unwrap();
        let (_, from) = origin.recv_from(&mut [0; 64]).unwrap();
        origin.send_to(b"yes", from).unwrap();
        assert_eq!(hear(client).unwrap(), b"yes");
        from
    };
    let (gone, other) = (client(&netns, target), client(&netns, target));
    let own = gone.local_addr().unwrap();
    let (of_gone, of_other) = (exchange(&gone), exchange(&other));
    drop(gone);
    let before = errors_heard(&case.server);
    eventually("an ICMP error about an answer", PATIENCE, || {
        origin.send_to(b"and you?", of_gone).unwrap();
        origin.send_to(b"still", of_other).unwrap();
        assert_eq!(hear(&other).unwrap(), b"still");
        (errors_heard(&case.server) > before).then_some(())
    });
    assert_eq!(exchange(&other), of_other);
    let back = client_from(&netns, own, target);
    // What was said meanwhile, to nobody, is gone.
    assert_eq!(exchange(&back), of_gone, "anybody can forge such an error");
}

/// A number about datagrams that `status` shows of the only service.
fn count(case: &Case, instance: &Instance, key: &str) -> u64 {
    let status = connect(&case.server, instance).ask("status").unwrap();
    status["sessions"][0]["datagrams"][key].as_u64().unwrap_or_else(|| panic!("no {key} in {status}"))
}

fn what_finds_a_full_queue_is_counted(case: &mut Case) {
    /// More than the longer queue has room for, of 4 MiB.
    const COUNT: u64 = 20_000;
    let target = case.any_target();
    let origin = bound(&case.server, origin_address(case));
    origin.set_read_timeout(Some(PATIENCE)).unwrap();
    let instance = start(case, &service(case, &quoted(origin.local_addr().unwrap()), ""));
    let client = client(&case.server, target);
    client.send(b"hello").unwrap();
    let (_, session) = origin.recv_from(&mut [0; 64]).unwrap();
    let is_stopped = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", instance.worker())).unwrap();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    };
    // What is sent while nobody reads waits, as far as there is room.
    let while_it_sleeps = |send: &dyn Fn()| {
        let dropped = dropped_by_backlog();
        instance.signal_worker(Signal::SIGSTOP);
        eventually("the stop", PATIENCE, || is_stopped().then_some(()));
        send();
        instance.signal_worker(Signal::SIGCONT);
        dropped_by_backlog() - dropped
    };
    for (sender, counted) in [("client", "from_client"), ("origin", "to_client")] {
        let (lost, passed) = (format!("overflow_from_{sender}"), count(case, &instance, counted));
        let dropped = while_it_sleeps(&|| {
            for _ in 0..COUNT {
                let sent = if sender == "client" {
                    client.send(b"flood")
                } else {
                    origin.send_to(b"flood", session)
                };
                sent.unwrap();
            }
        });
        eventually(&lost, PATIENCE, || {
            let lost = count(case, &instance, &lost);
            let passed = count(case, &instance, counted) - passed;
            (lost > 0 && lost + passed <= COUNT && lost + passed + dropped >= COUNT).then_some(())
        });
    }
    let said = Launch::new(&case.server).arguments("status").finish().stdout;
    assert!(said.contains("of clients and"), "{said}");
}

fn a_first_datagram_goes_to_another_origin_if_one_is_dead(case: &mut Case) {
    let targets: Vec<_> = (0..20).map(|_| case.any_target()).collect();
    let origin = DatagramOrigin::echo(&case.server, origin_address(case));
    let dead = DatagramOrigin::echo(&case.server, origin_address(case)).address();
    let origins = format!("{}, {}", quoted(dead), quoted(origin.address()));
    let _instance = start(case, &service(case, &origins, ""));
    for target in targets {
        // Said once; nobody who asks a name server or joins a game need say it again.
        assert_echo(&client(&case.server, target), b"hello");
    }
}

fn a_name_that_changes_moves_no_session(case: &mut Case) {
    let target = case.any_target();
    let [one, two] = case.family.pick(["127.0.0.2", "127.0.0.3"], ["2001:db8:1::2", "2001:db8:1::3"]);
    let addresses = [one, two].map(|text| text.parse::<IpAddr>().unwrap());
    for address in addresses.iter().filter(|address| address.is_ipv6()) {
        case.server.ip(&format!("addr add {address}/128 dev lo nodad"));
    }
    let names = NameServer::start(&case.server, case.loopback());
    names.set("games.test", &addresses[..1]);
    let first =
        DatagramOrigin::serve(&case.server, SocketAddr::new(addresses[0], 0), |_, _| Some(b"one".to_vec()));
    let port = first.address().port();
    let _second = DatagramOrigin::serve(&case.server, SocketAddr::new(addresses[1], port), |_, _| {
        Some(b"two".to_vec())
    });
    let configuration = names.section(Duration::from_secs(2))
        + &service(case, &format!("\"games.test:{port}\""), "local-origins = true");
    let _instance = start(case, &configuration);
    let heard = |client: &UdpSocket| {
        client.send(b"who are you?").unwrap();
        String::from_utf8(hear(client).unwrap()).unwrap()
    };
    let old = client(&case.server, target);
    assert_eq!(heard(&old), "one");
    names.set("games.test", &addresses[1..]);
    eventually("a new session with the new address", PATIENCE, || {
        (heard(&client(&case.server, target)) == "two").then_some(())
    });
    assert_eq!(heard(&old), "one");
}

fn sessions_keep_their_ports_at_the_origin_over_reloads(case: &mut Case) {
    const SESSIONS: usize = 64;
    let targets: Vec<_> = (0..SESSIONS).map(|_| case.any_target()).collect();
    let netns = client_of(&case.server);
    let origin = DatagramOrigin::observer(&case.server, origin_address(case));
    let other = DatagramOrigin::observer(&case.server, origin_address(case));
    let configuration = service(case, &quoted(origin.address()), "");
    let instance = start(case, &configuration);
    let clients: Vec<_> = targets.iter().map(|target| client(&netns, *target)).collect();
    let before: Vec<_> = clients.iter().map(seen).collect();
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), SESSIONS);
    let mut changes =
        vec![configuration.clone(), service(case, &quoted(origin.address()), "log = { sample = \"1/2\" }")];
    // With another origin, which is for others, it has another listener. Of TPROXY's that has another port, by which the kernel
    // chooses the worker.
    if case.path == Path::SkLookup {
        changes.extend([service(case, &quoted(other.address()), ""), configuration]);
    }
    for changed in changes {
        configure(&case.server, &changed);
        let reloaded = reload(&case.server, &instance).unwrap();
        let after: Vec<_> = clients.iter().map(seen).collect();
        let kept = before.iter().zip(&after).filter(|(before, after)| before == after).count();
        assert_eq!(kept, SESSIONS, "{changed}{reloaded}");
    }
}

/// Addresses that whoever lies about its own chooses from.
fn forgeries(case: &Case, netns: &Netns) -> (IpAddr, u8) {
    let (prefix, ip, gateway) =
        case.family.pick(("198.18.0.0/15", "", CLIENT_V4), ("2001:db8:f00d::/48", "-6 ", CLIENT_V6));
    netns.ip(&format!("{ip}route add local {prefix} dev lo"));
    case.server.ip(&format!("{ip}route add {prefix} via {gateway}"));
    let (address, length) = prefix.split_once('/').unwrap();
    (address.parse().unwrap(), length.parse().unwrap())
}

fn whoever_plays_loses_nothing_to_a_flood(case: &mut Case) {
    const PLAYERS: usize = 100;
    const FORGED: usize = 60;
    let turns = share::of(200);
    let target = case.any_target();
    let netns = client_of(&case.server);
    let (network, length) = forgeries(case, &netns);
    // Whoever floods is not answered, and those who play hear by which port the origin knows them.
    let origin = DatagramOrigin::serve(&case.server, origin_address(case), |said, from| {
        let mut answer = said.strip_prefix(b"play ")?.to_vec();
        answer.extend(format!(" {from}").into_bytes());
        Some(answer)
    });
    let instance = start_with_descriptors(case, &service(case, &quoted(origin.address()), ""), 1500);
    let players: Vec<_> = (0..PLAYERS).map(|_| client(&netns, target)).collect();
    for player in &players {
        player.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    }
    let mut ports = vec![BTreeSet::new(); PLAYERS];
    let (mut lost, mut dropped) = (0_u64, 0);
    for turn in 0..turns {
        let before = dropped_by_backlog();
        if turn > 0 {
            let forged: Vec<_> = (0..FORGED)
                .map(|number| {
                    let from =
                        SocketAddr::new(case.random.address(network, length), 1024 | case.random.port());
                    (from, if number % 2 == 0 { target } else { case.any_target() })
                })
                .collect();
            netns.run(|| forged.iter().for_each(|(from, to)| forge(*from, *to)));
        }
        for player in &players {
            player.send(format!("play {turn}").as_bytes()).unwrap();
        }
        for (player, ports) in players.iter().zip(&mut ports) {
            let answer = loop {
                match hear(player) {
                    // One that came too late, in a turn before.
                    Ok(answer) if !answer.starts_with(format!("{turn} ").as_bytes()) => {}
                    Ok(answer) => break Some(answer),
                    Err(_) => break None,
                }
            };
            match answer {
                Some(answer) => drop(ports.insert(answer)),
                None => lost += 1,
            }
        }
        dropped += dropped_by_backlog() - before;
    }
    for ports in &ports {
        let ports: BTreeSet<_> =
            ports.iter().map(|answer| answer.split(|byte| *byte == b' ').nth(1)).collect();
        assert_eq!(ports.len(), 1, "a session was lost: {ports:?}");
    }
    let said = (turns * PLAYERS) as u64;
    assert!(lost.saturating_sub(dropped) * 100 < said, "{lost} of {said} lost, {dropped} by the kernel");
    if turns > 100 {
        await_logged(&instance, "end=evicted", 1);
    }
}

/// Sends one datagram from an address of somebody else's.
fn forge(from: SocketAddr, target: SocketAddr) {
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(from), socket2::Type::DGRAM, None).unwrap();
    if from.is_ipv6() {
        socket.set_freebind_v6(true).unwrap();
    }
    if socket.bind(&from.into()).is_ok() {
        let _ = socket.send_to(b"flood", &target.into());
    }
}

fn more_clients_than_descriptors_are_all_answered(case: &mut Case) {
    const DESCRIPTORS: usize = 400;
    let targets: Vec<_> = (0..2 * DESCRIPTORS).map(|_| case.any_target()).collect();
    let origin = DatagramOrigin::echo(&case.server, origin_address(case));
    let configuration = service(case, &quoted(origin.address()), "");
    let instance = start_with_descriptors(case, &configuration, DESCRIPTORS);
    for target in &targets {
        assert_echo(&client(&case.server, *target), b"hello");
    }
    await_logged(&instance, "end=evicted", 1);
    // And it is still able to do anything else.
    reload(&case.server, &instance).unwrap();
    assert_echo(&client(&case.server, targets[0]), b"hello");
}

fn more_clients_than_ports_are_all_answered(case: &mut Case) {
    const PORTS: usize = 20;
    let targets: Vec<_> = (0..5 * PORTS).map(|_| case.any_target()).collect();
    let origin = DatagramOrigin::observer(&case.server, origin_address(case));
    let netns = client_of(&case.server);
    case.server.sysctl("net/ipv4/ip_local_port_range", "40000 40019");
    configure(&case.server, &service(case, &quoted(origin.address()), ""));
    let instance = case.start(&format!("{CONFIG} --workers 1"));
    let clients: Vec<_> = targets.iter().map(|target| client(&netns, *target)).collect();
    let ports: BTreeSet<_> = clients.iter().map(|client| seen(client).port()).collect();
    assert!(ports.len() <= PORTS, "{ports:?}");
    await_logged(&instance, "end=evicted", 1);
    // The last one has kept its session.
    let last = clients.last().unwrap();
    assert_eq!(seen(last), seen(last));
    assert_logged(&instance, "no port or descriptor is left", 1);
    let status = connect(&case.server, &instance).ask("status").unwrap();
    let ended = status["sessions"][0]["ended"].as_array().unwrap();
    let evicted = ended.iter().find(|one| one["end"] == "evicted").unwrap();
    assert!(evicted["count"].as_u64().unwrap() >= 4 * PORTS as u64, "{status}");
}

fn more_source_addresses_have_more_ports(case: &mut Case) {
    const PORTS: usize = 20;
    let targets: Vec<_> = (0..5 * PORTS).map(|_| case.any_target()).collect();
    let origin = DatagramOrigin::observer(&case.server, origin_address(case));
    let netns = client_of(&case.server);
    let (sources, ip) = case.family.pick(("10.9.0.0/28", ""), ("fd09::/124", "-6 "));
    case.server.ip(&format!("{ip}route add local {sources} dev lo"));
    case.server.sysctl("net/ipv4/ip_local_port_range", "40000 40019");
    let more = format!("udp = {{ source = [\"{sources}\"] }}");
    let instance = start(case, &service(case, &quoted(origin.address()), &more));
    let clients: Vec<_> = targets.iter().map(|target| client(&netns, *target)).collect();
    let known: BTreeSet<_> = clients.iter().map(seen).collect();
    assert_eq!(known.len(), clients.len(), "each has a port of its own");
    assert!(known.iter().map(SocketAddr::ip).collect::<BTreeSet<_>>().len() >= 5, "{known:?}");
    assert_logged(&instance, "end=evicted", 0);
    assert_logged(&instance, "no port or descriptor is left", 0);
}

fn an_answer_that_is_under_way_at_the_end_still_arrives(case: &mut Case) {
    let target = case.any_target();
    let (heard, hearing) = channel();
    let (tell, told) = channel::<()>();
    let origin = DatagramOrigin::serve(&case.server, origin_address(case), move |said, _| {
        heard.send(()).ok()?;
        told.recv_timeout(PATIENCE).ok()?;
        Some(said.to_vec())
    });
    let netns = client_of(&case.server);
    let instance = start(case, &service(case, &quoted(origin.address()), ""));
    let client = client(&netns, target);
    client.send(b"the last question").unwrap();
    hearing.recv_timeout(PATIENCE).unwrap();
    instance.signal(Signal::SIGTERM);
    eventually("draining", PATIENCE, || {
        let status = connect(&case.server, &instance).ask("status").unwrap();
        status.to_string().contains("\"draining\"").then_some(())
    });
    tell.send(()).unwrap();
    assert_eq!(hear(&client).unwrap(), b"the last question");
    let finished = instance.finish(PATIENCE);
    assert_eq!(finished.code(), 0, "{finished}");
    assert_eq!(records(&finished.stderr).len(), 1, "{finished}");
}

/// A datagram of the property below: whose it is, what it dialled, and which of these it is.
fn message(client: usize, target: usize, number: u32) -> Vec<u8> {
    format!("{client} {target} {number}").into_bytes()
}

/// Whatever happens in whatever order: who hears something hears it from the address and port that it dialled, it is an
/// answer to what it has said itself, and answers come in the order of what was said.
/// Whom origins heard from a port. The kernel may give the port of a session that made room to the next one, while an answer is
/// under way to it.
type Speakers = Arc<Mutex<BTreeMap<u16, BTreeSet<usize>>>>;

/// An origin that sends back what comes, and remembers who said it.
fn remembering(netns: &Netns, address: SocketAddr, speakers: &Speakers) -> DatagramOrigin {
    let speakers = Arc::clone(speakers);
    DatagramOrigin::serve(netns, address, move |said, from| {
        let speaker = std::str::from_utf8(said).ok().and_then(|text| text.split(' ').next()?.parse().ok());
        if let Some(speaker) = speaker {
            speakers.lock().unwrap().entry(from.port()).or_default().insert(speaker);
        }
        Some(said.to_vec())
    })
}

fn had_one_port(speakers: &Speakers, both: [usize; 2]) -> Option<()> {
    let speakers = speakers.lock().unwrap();
    speakers.values().any(|all| both.iter().all(|one| all.contains(one))).then_some(())
}

fn nobody_ever_hears_what_is_not_for_them(case: &mut Case) {
    const CLIENTS: usize = 8;
    const TARGETS: usize = 6;
    let targets: Vec<_> = (0..TARGETS).map(|_| case.any_target()).collect();
    let netns = client_of(&case.server);
    let (network, length) = forgeries(case, &netns);
    let speakers = Speakers::default();
    let origin = |case: &Case, address| remembering(&case.server, address, &speakers);
    let mut origins = [(); 2].map(|()| Some(origin(case, origin_address(case))));
    let addresses = [0, 1].map(|index: usize| origins[index].as_ref().unwrap().address());
    let configurations = [
        service(case, &quoted(addresses[0]), ""),
        service(case, &format!("{}, {}", quoted(addresses[0]), quoted(addresses[1])), ""),
        service(case, &quoted(addresses[1]), "balance = \"source-hash\""),
    ];
    let instance = start_with_descriptors(case, &configurations[0], 400);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let client = bound(&netns, SocketAddr::new(unspecified(targets[0]), 0));
            client.set_nonblocking(true).unwrap();
            client
        })
        .collect();
    let mut said = BTreeMap::<(usize, usize), u32>::new();
    let mut last = BTreeMap::<(usize, usize), u32>::new();
    let mut heard = 0_u32;
    let mut listen = |clients: &[UdpSocket]| {
        let mut buffer = [0; 64];
        for (index, client) in clients.iter().enumerate() {
            while let Ok((length, from)) = client.recv_from(&mut buffer) {
                let text = std::str::from_utf8(&buffer[..length]).unwrap();
                let words: Vec<u32> = text.split(' ').map(|word| word.parse().unwrap()).collect();
                let (whose, target, number) = (words[0] as usize, words[1] as usize, words[2]);
                if whose != index {
                    eventually(&format!("a reason why {index} hears {text}"), PATIENCE, || {
                        had_one_port(&speakers, [whose, index])
                    });
                    continue;
                }
                assert_eq!(targets[target], from, "{text} from another address");
                let before = last.insert((whose, target), number);
                assert!(before.is_none_or(|before| before < number), "{text} after {before:?}");
                heard += 1;
            }
        }
        heard
    };
    for _ in 0..share::of(300) {
        match case.random.below::<u8>(20) {
            0 => {
                let which: usize = case.random.below(configurations.len() as u64);
                configure(&case.server, &configurations[which]);
                reload(&case.server, &instance).unwrap();
            }
            1 => {
                let which: usize = case.random.below(2);
                origins[which] = match origins[which].take() {
                    Some(_dies) => None,
                    None => Some(origin(case, addresses[which])),
                };
            }
            2 => netns.run(|| {
                for _ in 0..100 {
                    let from =
                        SocketAddr::new(case.random.address(network, length), 1024 | case.random.port());
                    forge(from, targets[case.random.below::<usize>(TARGETS as u64)]);
                }
            }),
            _ => {
                for _ in 0..10 {
                    let pair = (case.random.below(CLIENTS as u64), case.random.below(TARGETS as u64));
                    let number = said.entry(pair).or_default();
                    *number += 1;
                    // An ICMP error may stand in for the result of the next call.
                    let _ = clients[pair.0].send_to(&message(pair.0, pair.1, *number), targets[pair.1]);
                }
            }
        }
        listen(&clients);
    }
    // With everything there, everybody is heard again.
    for (place, address) in origins.iter_mut().zip(addresses) {
        if place.is_none() {
            *place = Some(origin(case, address));
        }
    }
    let mut before = listen(&clients);
    for (pair, number) in &mut said {
        eventually("another answer", PATIENCE, || {
            *number += 1;
            let _ = clients[pair.0].send_to(&message(pair.0, pair.1, *number), targets[pair.1]);
            let now = listen(&clients);
            (std::mem::replace(&mut before, now) < now).then_some(())
        });
    }
    instance.stop();
}

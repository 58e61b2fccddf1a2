//! Several registered sockets of one service: that they share its clients as their weights say, and that who leaves moves its own. What is
//! registered, and how one socket fares, is tested in `registered.rs`.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr, TcpStream};

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, await_logged, configure, reload};
use spectrum_tests::datagram;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_refused, call, dial_all};
use spectrum_tests::foreign_server::{ForeignServer, any_of};
use spectrum_tests::instance::{Finished, Instance, Launch};
use spectrum_tests::on_every_path;
use spectrum_tests::path::Path;

on_every_path!(
    servers_share_clients_by_their_weights_and_a_drained_one_gets_no_new_ones,
    clients_of_a_server_that_ends_go_to_the_others_at_once,
    a_client_has_the_same_server_after_an_upgrade,
    every_handshake_by_a_cookie_comes_to_one_of_the_servers,
    datagrams_of_a_client_go_to_one_of_the_servers,
    each_server_that_is_looked_for_is_found_again_beside_the_others,
);

/// An instance with a registered service `web`; `None` over iptables, which refuses it with words.
fn start(case: &Case, protocol: &str) -> Option<Instance> {
    let prefix = case.prefix();
    let bindings = format!("[{{ prefix = \"{prefix}\", protocol = \"{protocol}\", ports = \"1-65535\" }}]");
    configure(
        &case.server,
        &format!("[[service]]\nname = \"web\"\nregistered = true\nbindings = {bindings}\n"),
    );
    matches!(case.path, Path::SkLookup | Path::TproxyNftables).then(|| case.start(CONFIG))
}

fn run(case: &Case, arguments: &str) -> Finished {
    let finished = Launch::new(&case.server).arguments(arguments).finish();
    assert_eq!(finished.code(), 0, "{arguments}: {finished}");
    finished
}

/// A server with this weight among those of `web`.
fn server(case: &Case, word: &'static str, weight: u16) -> ForeignServer {
    let server = ForeignServer::tcp(&case.server, any_of(case.loopback()), word);
    register(case, server.address(), weight);
    server
}

fn register(case: &Case, address: SocketAddr, weight: u16) {
    let own = std::process::id();
    run(case, &format!("register web --pid {own} {address} --weight {weight}"));
}

/// The number of clients, of so many, that each server answers.
fn answered(case: &mut Case, clients: usize) -> BTreeMap<String, usize> {
    let targets: Vec<SocketAddr> = (0..clients).map(|_| case.any_target()).collect();
    let mut counts = BTreeMap::new();
    for (target, heard) in dial_all(&case.server, &targets) {
        let heard = heard.unwrap_or_else(|error| panic!("{target}: {error}"));
        let word = heard.text.split(' ').next().unwrap().to_owned();
        assert_eq!(heard.text.trim(), format!("{word} {target} {}", heard.client));
        *counts.entry(word).or_default() += 1;
    }
    counts
}

/// The sockets of `web` in the status.
fn sockets(case: &Case) -> Vec<Value> {
    let finished = run(case, "status web --json");
    let status: Value = serde_json::from_str(&finished.stdout).unwrap();
    status["services"][0]["sockets"].as_array().unwrap().clone()
}

fn servers_share_clients_by_their_weights_and_a_drained_one_gets_no_new_ones(case: &mut Case) {
    let Some(_instance) = start(case, "tcp") else { return };
    let stable = server(case, "stable", 3);
    assert_eq!(answered(case, 20), BTreeMap::from([("stable".to_owned(), 20)]));
    let canary = server(case, "canary", 1);
    let counts = answered(case, 800);
    // Five times the deviation that is to be expected.
    assert!((140..=260).contains(&counts["canary"]) && counts.values().sum::<usize>() == 800, "{counts:?}");
    let shown = sockets(case);
    let weights: Vec<_> = shown.iter().map(|one| (one["weight"].as_u64(), one["percent"].as_u64())).collect();
    assert_eq!(weights, [(Some(3), Some(75)), (Some(1), Some(25))], "{shown:?}");
    if case.path == Path::SkLookup {
        assert_eq!(shown[1]["steered"].as_u64(), Some(counts["canary"] as u64), "{shown:?}");
    }
    // Its connections, and those of nobody else, are open until it has ended them.
    let targets: Vec<SocketAddr> = (0..20).map(|_| case.any_target()).collect();
    let open: Vec<TcpStream> = targets.iter().map(|target| call(&case.server, *target).unwrap()).collect();
    let said = run(case, &format!("weight web 0 {}", canary.address())).stdout;
    assert!(
        said.contains(&format!("{} of ", canary.address()))
            && said.contains(" has weight 0 in what is for web tcp"),
        "{said}"
    );
    assert_eq!(answered(case, 100), BTreeMap::from([("stable".to_owned(), 100)]));
    assert_eq!(sockets(case)[1]["condition"], "drained");
    for stream in open {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        assert!(line.starts_with("stable ") || line.starts_with("canary "), "{line}");
    }
    // The same socket once more: another weight. And without one it takes the place of all.
    register(case, canary.address(), 3);
    assert!(answered(case, 100)["canary"] > 20);
    run(case, &format!("register web --pid {} {}", std::process::id(), canary.address()));
    assert_eq!(answered(case, 50), BTreeMap::from([("canary".to_owned(), 50)]));
    let said = run(case, "weight web 0").stdout;
    assert!(said.contains("no socket has a weight, and new clients are refused"), "{said}");
    let target = case.any_target();
    assert_refused(&case.server, &[target]);
    run(case, "unregister web");
    drop((stable, canary));
}

fn clients_of_a_server_that_ends_go_to_the_others_at_once(case: &mut Case) {
    let Some(instance) = start(case, "tcp") else { return };
    let servers = [server(case, "one", 1), server(case, "two", 1), server(case, "three", 1)];
    assert_eq!(answered(case, 60).len(), 3);
    let [one, two, three] = servers;
    two.end();
    // Nobody has noticed yet.
    let counts = answered(case, 60);
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["one", "three"], "{counts:?}");
    await_logged(&instance, "its clients go to the others", 1);
    let counts = answered(case, 60);
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["one", "three"], "{counts:?}");
    eventually("a status without it", PATIENCE, || (sockets(case).len() == 2).then_some(()));
    run(case, &format!("unregister web {}", one.address()));
    assert_eq!(answered(case, 20), BTreeMap::from([("three".to_owned(), 20)]));
    three.end();
    let target = case.any_target();
    assert_refused(&case.server, &[target]);
    await_logged(&instance, "clients are refused until another one is registered", 1);
    eventually("a status of none", PATIENCE, || (sockets(case)[0]["condition"] == "gone").then_some(()));
    drop(one);
}

/// Has an instance look for `sockets`.
fn look_for(case: &Case, sockets: &[String]) {
    let prefix = case.prefix();
    configure(
        &case.server,
        &format!(
            "[[service]]\nname = \"web\"\nsockets = {sockets:?}\nbindings = [{{ prefix = \"{prefix}\", ports = \"1-65535\" }}]\n"
        ),
    );
}

/// Waits until the sockets of `web` have these conditions and weights.
fn await_sockets(case: &Case, expected: &[(&str, Option<u64>)]) {
    eventually(&format!("{expected:?}"), PATIENCE, || {
        let shown = sockets(case);
        let shown: Vec<_> =
            shown.iter().map(|one| (one["condition"].as_str().unwrap(), one["weight"].as_u64())).collect();
        (shown == expected).then_some(())
    });
}

fn each_server_that_is_looked_for_is_found_again_beside_the_others(case: &mut Case) {
    if !matches!(case.path, Path::SkLookup | Path::TproxyNftables) {
        return;
    }
    case.server.run(|| std::fs::write("/run/it.pid", format!("{}\n", std::process::id())).unwrap());
    let [stable_port, canary_port] = [(); 2].map(|()| case.random.port());
    let [at, canary_at] = [stable_port, canary_port].map(|port| SocketAddr::new(case.loopback(), port));
    let source = |port: u16, weight: u16| format!("/run/it.pid tcp {port} weight {weight}");
    let both = [source(stable_port, 3), source(canary_port, 1)];
    look_for(case, &both);
    let instance = case.start(CONFIG);
    let stable = ForeignServer::tcp(&case.server, at, "stable");
    await_sockets(case, &[("up", Some(3)), ("missing", None)]);
    assert_eq!(answered(case, 20), BTreeMap::from([("stable".to_owned(), 20)]));
    let finished = run(case, "status --only-wrong");
    let missing = format!("missing: {} is looked for, and the others get its clients", both[1]);
    assert!(finished.stdout.contains(&missing), "{finished}");
    for _ in 0..2 {
        let canary = ForeignServer::tcp(&case.server, canary_at, "canary");
        await_sockets(case, &[("up", Some(3)), ("up", Some(1))]);
        let counts = answered(case, 400);
        // Five times the deviation that is to be expected.
        assert!((56..=144).contains(&counts["canary"]), "{counts:?}");
        canary.end();
        assert_eq!(answered(case, 40), BTreeMap::from([("stable".to_owned(), 40)]));
        await_sockets(case, &[("up", Some(3)), ("missing", None)]);
    }
    // The one that was first is found beside the other as well.
    let canary = ForeignServer::tcp(&case.server, canary_at, "canary");
    await_sockets(case, &[("up", Some(3)), ("up", Some(1))]);
    stable.end();
    await_sockets(case, &[("up", Some(1)), ("missing", None)]);
    let stable = ForeignServer::tcp(&case.server, at, "stable");
    await_sockets(case, &[("up", Some(1)), ("up", Some(3))]);
    // Other weights, whether somebody says them or the configuration; and what that names no more leaves.
    run(case, &format!("weight web 0 {canary_at}"));
    await_sockets(case, &[("drained", Some(0)), ("up", Some(3))]);
    look_for(case, &[source(stable_port, 3), source(canary_port, 5)]);
    reload(&case.server, &instance).unwrap();
    await_sockets(case, &[("up", Some(5)), ("up", Some(3))]);
    look_for(case, &both[..1]);
    reload(&case.server, &instance).unwrap();
    await_sockets(case, &[("up", Some(3))]);
    assert_eq!(answered(case, 40), BTreeMap::from([("stable".to_owned(), 40)]));
    let finished = run(case, "upgrade");
    canary.end();
    stable.end();
    let _again = ForeignServer::tcp(&case.server, at, "again");
    await_sockets(case, &[("up", Some(3))]);
    assert_eq!(answered(case, 20), BTreeMap::from([("again".to_owned(), 20)]), "{finished}");
}

/// The word of the server that answers the client of this port at `target`.
fn answerer(case: &Case, port: u16, target: SocketAddr) -> String {
    let stream: TcpStream = case
        .server
        .run(|| {
            let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            let any: IpAddr = any_of(target.ip()).ip();
            socket.bind(&SocketAddr::new(any, port).into()).unwrap();
            socket.connect(&target.into()).map(|()| socket)
        })
        .unwrap_or_else(|error| panic!("{target} from {port}: {error}"))
        .into();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.split(' ').next().unwrap().to_owned()
}

fn a_client_has_the_same_server_after_an_upgrade(case: &mut Case) {
    let Some(instance) = start(case, "tcp") else { return };
    let _servers = [server(case, "one", 1), server(case, "two", 2), server(case, "three", 1)];
    let who = |case: &Case, last: u8| -> Vec<String> {
        let target = SocketAddr::new(case.address(last), 443);
        (0..30).map(|number| answerer(case, 20_000 + number * 7, target)).collect()
    };
    let before = who(case, 7);
    let finished = run(case, "upgrade");
    assert_eq!(who(case, 8), before, "{finished}\n{}", instance.stderr());
    assert_eq!(sockets(case).len(), 3);
}

fn every_handshake_by_a_cookie_comes_to_one_of_the_servers(case: &mut Case) {
    case.server.sysctl("net/ipv4/tcp_syncookies", "2");
    let Some(_instance) = start(case, "tcp") else { return };
    let _servers = [server(case, "one", 1), server(case, "two", 1)];
    let counts = answered(case, 400);
    assert!(counts.len() == 2 && counts.values().sum::<usize>() == 400, "{counts:?}");
}

fn datagrams_of_a_client_go_to_one_of_the_servers(case: &mut Case) {
    let Some(_instance) = start(case, "udp") else { return };
    // An answer leaves from the server's own port: so each is dialled by what is its own.
    let servers = [(); 2].map(|()| ForeignServer::udp(&case.server, any_of(case.loopback())));
    for server in &servers {
        register(case, server.address(), 1);
    }
    let [one, other] = servers.map(|server| (server.address().port(), server));
    let target = SocketAddr::new(case.any_address(), one.0);
    let mut answered = 0;
    for _ in 0..40 {
        let client = datagram::bound(&case.server, SocketAddr::new(datagram::unspecified(target), 0));
        for said in [b"a", b"b", b"c"] {
            client.send_to(said, target).unwrap();
        }
        let mut heard = [0; 8];
        let (_, first) = client.recv_from(&mut heard).unwrap();
        for _ in 0..2 {
            assert_eq!(client.recv_from(&mut heard).unwrap().1, first, "one client of two servers");
        }
        answered += usize::from(first == target);
    }
    assert!((5..=35).contains(&answered), "{answered} of 40 were answered by the one");
    drop(other);
}

//! Sockets of other programs as what answers a service: that they get what is dialled, for as long as they are open and no longer, and that
//! nothing else is registered.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use serde_json::Value;
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, await_logged, configure, connect, count_logged, reload};
use spectrum_tests::datagram;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_refused, call, dial};
use spectrum_tests::foreign_server::{ForeignServer, any_of};
use spectrum_tests::instance::{Finished, Instance, Launch};
use spectrum_tests::netns::Netns;
use spectrum_tests::path::Path;
use spectrum_tests::require::{Need, met};
use spectrum_tests::{on_every_path, on_one_path};

on_every_path!(
    every_port_goes_to_a_server_that_knows_nothing_of_it,
    datagrams_go_to_a_server_and_its_answers_come_from_what_was_dialled,
    a_server_that_ends_is_refused_at_once_and_the_next_one_takes_its_place,
    a_reload_keeps_what_is_registered,
    an_upgrade_keeps_what_is_registered,
    a_group_goes_on_for_as_long_as_one_of_it_is_open,
    what_joins_a_group_goes_on_with_it,
);

on_every_path!(sockets_that_are_looked_for_are_found_again_whenever_a_server_starts);

on_one_path!(
    a_socket_of_both_families_serves_both,
    sockets_that_share_a_port_share_what_comes,
    a_server_that_accepts_nothing_is_told_of,
    what_cannot_be_registered_is_refused_with_the_reason,
    who_registers_again_after_a_restart_is_served_again,
    a_unit_and_a_file_name_the_process_as_well,
);

/// An instance with a registered service `web` for this protocol; `None` over iptables, which refuses it with words.
fn start(test: &str, case: &Case, protocol: &str) -> Option<Instance> {
    configure(&case.server, &service(case, "web", protocol, "1-65535", "registered = true"));
    if !matches!(case.path, Path::SkLookup | Path::TproxyNftables) {
        let finished = case.launch(CONFIG).finish();
        assert_eq!(finished.code(), 1, "{test}: {finished}");
        let words = "carry registered services in iptables: it cannot refuse the clients of a server that has ended (use --firewall nftables, or \
                     sk_lookup)";
        assert!(finished.stderr.contains(words), "{test}: {finished}");
        return None;
    }
    Some(case.start(CONFIG))
}

fn service(case: &Case, name: &str, protocol: &str, ports: &str, keys: &str) -> String {
    let prefix = case.prefix();
    format!(
        "[[service]]\nname = \"{name}\"\nbindings = [{{ prefix = \"{prefix}\", protocol = \"{protocol}\", ports = \"{ports}\" \
         }}]\n{keys}\n"
    )
}

fn run(netns: &Netns, arguments: &str) -> Finished {
    Launch::new(netns).arguments(arguments).finish()
}

/// Has the socket of this process at `address` registered for `web`: what was printed.
fn register(case: &Case, address: SocketAddr) -> String {
    let finished = run(&case.server, &format!("register web --pid {} {address}", std::process::id()));
    assert_eq!(finished.code(), 0, "{finished}");
    finished.stdout
}

/// The word of the server that answers a connection to `target`, and is told what was dialled.
fn answerer(netns: &Netns, target: SocketAddr) -> String {
    let stream = call(netns, target).unwrap_or_else(|error| panic!("{target}: {error}"));
    let client = stream.local_addr().unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap_or_else(|error| panic!("{target}: {error}"));
    let (word, rest) = line.trim().split_once(' ').unwrap_or((&line, ""));
    assert_eq!(rest, format!("{target} {client}"));
    word.to_owned()
}

/// Asserts that the program answers `target` itself.
fn assert_greeted(case: &Case, target: SocketAddr) {
    let heard = dial(&case.server, target).unwrap_or_else(|error| panic!("{target}: {error}"));
    assert!(heard.text.starts_with("hello world\n"), "{target}: {heard:?}");
}

/// The first socket of `web` in the status.
fn socket(case: &Case) -> Value {
    let finished = run(&case.server, "status web --json");
    let status: Value =
        serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"));
    status["services"][0]["sockets"][0].clone()
}

/// The addresses of the listeners that are said to be hidden.
fn conflicts(case: &Case) -> Vec<String> {
    let finished = run(&case.server, "status web --json");
    let status: Value = serde_json::from_str(&finished.stdout).unwrap();
    let conflicts = status["conflicts"].as_array().unwrap();
    conflicts.iter().map(|conflict| conflict["address"].as_str().unwrap().to_owned()).collect()
}

fn missed(case: &Case) -> u64 {
    let finished = run(&case.server, "status web --json");
    let status: Value = serde_json::from_str(&finished.stdout).unwrap();
    status["destinations"][0]["packets"]["missed"].as_u64().unwrap()
}

fn every_port_goes_to_a_server_that_knows_nothing_of_it(case: &mut Case) {
    let Some(instance) = start("every_port", case, "tcp") else { return };
    let targets: Vec<SocketAddr> = (0..20).map(|_| case.any_target()).collect();
    assert_refused(&case.server, &targets);
    assert_eq!(socket(case)["condition"], "none");
    let server = ForeignServer::tcp(&case.server, SocketAddr::new(case.loopback(), 0), "first");
    let said = register(case, server.address());
    assert!(said.contains(" gets what is for web tcp ip"), "{said}");
    for target in &targets {
        assert_eq!(answerer(&case.server, *target), "first");
    }
    let shown = socket(case);
    assert_eq!((&shown["condition"], &shown["pid"]), (&"up".into(), &std::process::id().into()), "{shown}");
    assert_eq!(shown["address"], server.address().to_string());
    // Another one takes its place at once, and the first is left in peace.
    let second = ForeignServer::tcp(&case.server, any_of(case.loopback()), "second");
    assert_eq!(conflicts(case), [second.address().to_string()], "it would get none of what is bound");
    register(case, second.address());
    assert_eq!(conflicts(case), [""; 0], "it gets what is bound");
    assert_eq!(answerer(&case.server, targets[0]), "second");
    assert_eq!(answerer(&case.server, server.address()), "first");
    let finished = run(&case.server, "unregister web");
    assert_eq!(finished.code(), 0, "{finished}");
    assert_refused(&case.server, &targets);
    let finished = run(&case.server, "unregister web");
    assert_eq!(finished.code(), 1, "{finished}");
    assert!(finished.stderr.contains("no such socket is registered: it has none"), "{finished}");
    assert_eq!(server.end(), [21]);
    drop(instance);
}

fn datagrams_go_to_a_server_and_its_answers_come_from_what_was_dialled(case: &mut Case) {
    let Some(_instance) = start("datagrams", case, "udp") else { return };
    let server = ForeignServer::udp(&case.server, any_of(case.loopback()));
    let port = server.address().port();
    let targets: Vec<SocketAddr> = (0..5).map(|_| SocketAddr::new(case.any_address(), port)).collect();
    datagram::assert_refused(&case.server, &targets[..1]);
    let said = register(case, server.address());
    assert!(said.contains(&format!("answers leave from port {port}, and no client takes them")), "{said}");
    assert!(!said.contains("IP_PKTINFO"), "{said}");
    datagram::assert_echoes(&case.server, &targets);
    // It is closed, and so is what the kernel knew of it.
    server.end();
    eventually("a refusal", PATIENCE, || (socket(case)["condition"] == "gone").then_some(()));
    datagram::assert_refused(&case.server, &targets[..1]);
    let careless = case.server.run(|| UdpSocket::bind(any_of(case.loopback())).unwrap());
    let said = register(case, careless.local_addr().unwrap());
    assert!(said.contains("does not ask which address a datagram was sent to (IP_PKTINFO)"), "{said}");
}

fn a_server_that_ends_is_refused_at_once_and_the_next_one_takes_its_place(case: &mut Case) {
    let Some(instance) = start("a_server_that_ends", case, "tcp") else { return };
    let target = case.any_target();
    for turn in 0..3 {
        let server = ForeignServer::tcp(&case.server, any_of(case.loopback()), "it");
        register(case, server.address());
        let open = call(&case.server, target).unwrap();
        assert_eq!(answerer(&case.server, target), "it");
        let before = if case.path == Path::SkLookup { missed(case) } else { 0 };
        server.end();
        assert_refused(&case.server, &[target]);
        if case.path == Path::SkLookup {
            assert_eq!(missed(case), before + 1);
        }
        let shown = socket(case);
        // At once over sk_lookup and for who asks the kernel; a moment later the log says so.
        assert_eq!(shown["condition"], "gone", "{shown}");
        await_logged(&instance, "a registered socket is closed", turn + 1);
        assert_eq!(socket(case)["condition"], "gone");
        assert_refused(&case.server, &[target]);
        // Whatever was open went on without us.
        let mut line = String::new();
        BufReader::new(open).read_line(&mut line).unwrap();
        assert!(line.starts_with("it "), "{line}");
    }
}

fn a_reload_keeps_what_is_registered(case: &mut Case) {
    let Some(instance) = start("a_reload", case, "tcp") else { return };
    let server = ForeignServer::tcp(&case.server, any_of(case.loopback()), "it");
    register(case, server.address());
    let target = SocketAddr::new(case.any_address(), 8080);
    assert_eq!(answerer(&case.server, target), "it");
    // Other bindings, and a neighbour.
    let both = service(case, "web", "tcp", "8000-9000", "registered = true")
        + &service(case, "echo", "tcp", "7", "respond = \"hello\"");
    configure(&case.server, &both);
    reload(&case.server, &instance).unwrap();
    assert_eq!(answerer(&case.server, target), "it");
    assert_greeted(case, SocketAddr::new(target.ip(), 7));
    // It answers itself, and then others shall again, who have to be registered anew.
    configure(&case.server, &service(case, "web", "tcp", "8000-9000", "respond = \"hello\""));
    reload(&case.server, &instance).unwrap();
    assert_greeted(case, target);
    let finished =
        run(&case.server, &format!("register web --pid {} {}", std::process::id(), server.address()));
    assert!(finished.stderr.contains("this program answers for it itself"), "{finished}");
    configure(&case.server, &both);
    reload(&case.server, &instance).unwrap();
    assert_refused(&case.server, &[target]);
    register(case, server.address());
    assert_eq!(answerer(&case.server, target), "it");
    // Another service that is bound in the same place has none of it.
    configure(&case.server, &both.replace("\"web\"", "\"games\""));
    reload(&case.server, &instance).unwrap();
    assert_refused(&case.server, &[target]);
}

fn an_upgrade_keeps_what_is_registered(case: &mut Case) {
    let Some(instance) = start("an_upgrade", case, "tcp") else { return };
    let server = ForeignServer::tcp(&case.server, any_of(case.loopback()), "it");
    register(case, server.address());
    let target = case.any_target();
    for turn in 1..=2 {
        let finished = run(&case.server, "upgrade");
        assert_eq!(finished.code(), 0, "{finished}\n{}", instance.stderr());
        assert_eq!(answerer(&case.server, target), "it", "after {turn}");
        assert_eq!(socket(case)["condition"], "up");
    }
    // Nobody of ours has kept it open.
    server.end();
    assert_refused(&case.server, &[target]);
    await_logged(&instance, "a registered socket is closed", 1);
    assert_eq!(run(&case.server, "upgrade").code(), 0);
    assert_eq!(socket(case)["condition"], "gone");
    assert_refused(&case.server, &[target]);
}

fn sockets_that_are_looked_for_are_found_again_whenever_a_server_starts(case: &mut Case) {
    let port = case.random.port();
    let keys = format!("sockets = [\"/run/it.pid tcp {port}\"]");
    configure(&case.server, &service(case, "web", "tcp", "1-65535", &keys));
    if !matches!(case.path, Path::SkLookup | Path::TproxyNftables) {
        assert_eq!(case.launch(CONFIG).finish().code(), 1);
        return;
    }
    let instance = case.start(CONFIG);
    let target = case.any_target();
    assert_refused(&case.server, &[target]);
    await_logged(&instance, "no socket is found to be registered", 1);
    case.server.run(|| std::fs::write("/run/it.pid", format!("{}\n", std::process::id())).unwrap());
    let at = SocketAddr::new(case.loopback(), port);
    for turn in 1..=3 {
        let server = ForeignServer::tcp(&case.server, at, "it");
        eventually("a registered socket", PATIENCE, || (socket(case)["condition"] == "up").then_some(()));
        assert_eq!(answerer(&case.server, target), "it", "{turn}");
        await_logged(&instance, "INFO registered destination=", turn);
        server.end();
        assert_refused(&case.server, &[target]);
    }
    // It is said once, not ten times a second.
    let server = ForeignServer::tcp(&case.server, at, "it");
    eventually("a registered socket", PATIENCE, || (socket(case)["condition"] == "up").then_some(()));
    assert_eq!(answerer(&case.server, target), "it");
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(count_logged(&instance, "INFO registered destination="), 4, "{}", instance.stderr());
    // Another one does without.
    configure(&case.server, &service(case, "web", "tcp", "1-65535", "registered = true"));
    reload(&case.server, &instance).unwrap();
    assert_eq!(answerer(&case.server, target), "it");
    server.end();
    let again = ForeignServer::tcp(&case.server, at, "it");
    await_logged(&instance, "a registered socket is closed", 4);
    assert_refused(&case.server, &[target]);
    drop(again);
}

fn a_socket_of_both_families_serves_both(case: &mut Case) {
    if !met("a_socket_of_both_families_serves_both", &[Need::Ipv6]) {
        return;
    }
    let text = "[[service]]\nname = \"web\"\nregistered = true\nbindings = [{ prefix = [\"192.0.2.0/24\", \"2001:db8::/64\"] }]\n";
    configure(&case.server, text);
    let _instance = case.start(CONFIG);
    let server = ForeignServer::tcp(&case.server, "[::]:0".parse().unwrap(), "both");
    let said = register(case, server.address());
    assert!(said.contains("web tcp ipv4\n") && said.contains("web tcp ipv6\n"), "{said}");
    for target in case.targets_of_both() {
        assert_eq!(answerer(&case.server, target), "both");
    }
    // One of a family alone takes its part from it.
    let own = ForeignServer::tcp(&case.server, "0.0.0.0:0".parse().unwrap(), "own");
    register(case, own.address());
    let answerers = case.targets_of_both().map(|target| answerer(&case.server, target));
    assert_eq!(answerers, ["own", "both"]);
}

fn sockets_that_share_a_port_share_what_comes(case: &mut Case) {
    let _instance = start("sockets_that_share", case, "tcp").unwrap();
    let server = ForeignServer::group(&case.server, any_of(case.loopback()), "one-of-four", 4);
    let said = register(case, server.address());
    assert_eq!(said.lines().count(), 1, "{said}");
    for _ in 0..64 {
        let target = case.any_target();
        assert_eq!(answerer(&case.server, target), "one-of-four");
    }
    let counts = server.end();
    assert_eq!(counts.iter().sum::<usize>(), 64);
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

/// Asserts that each of some targets is answered by `word`.
fn assert_served(case: &mut Case, word: &str) {
    for _ in 0..32 {
        let target = case.any_target();
        assert_eq!(answerer(&case.server, target), word, "{target}");
    }
}

fn a_group_goes_on_for_as_long_as_one_of_it_is_open(case: &mut Case) {
    let Some(instance) = start("a_group_goes_on", case, "tcp") else { return };
    let mut server = ForeignServer::group(&case.server, any_of(case.loopback()), "one-of-four", 4);
    register(case, server.address());
    assert_served(case, "one-of-four");
    let cookie = |case: &Case| u64::from_str_radix(socket(case)["cookie"].as_str().unwrap(), 16).unwrap();
    for turn in 1..=3 {
        let before = cookie(case);
        // The one that stands for the others, before anybody has noticed.
        server.end_one(before);
        assert_served(case, "one-of-four");
        assert_eq!(socket(case)["condition"], "up");
        await_logged(&instance, "others of its group go on", turn);
        assert_served(case, "one-of-four");
        eventually("another socket of it", PATIENCE, || (cookie(case) != before).then_some(()));
    }
    assert_eq!(run(&case.server, "upgrade").code(), 0);
    assert_served(case, "one-of-four");
    server.end();
    let target = case.any_target();
    assert_refused(&case.server, &[target]);
    await_logged(&instance, "clients are refused until another one is registered", 1);
    assert_eq!(socket(case)["condition"], "gone");
    assert_refused(&case.server, &[target]);
}

fn what_joins_a_group_goes_on_with_it(case: &mut Case) {
    let Some(instance) = start("what_joins_a_group", case, "tcp") else { return };
    let first = ForeignServer::group(&case.server, any_of(case.loopback()), "it", 2);
    register(case, first.address());
    assert_served(case, "it");
    // As a server does that is started anew before the one before has ended.
    let second = ForeignServer::group(&case.server, first.address(), "it", 2);
    if case.path != Path::SkLookup {
        // Rules lead to either, and find no socket where it is not transparent.
        await_logged(&instance, "INFO registered destination=", 2);
    }
    assert_served(case, "it");
    first.end();
    await_logged(&instance, "INFO registered destination=", 2);
    assert_served(case, "it");
    assert_eq!(socket(case)["condition"], "up");
    assert!(second.end().iter().sum::<usize>() >= 32);
}

fn a_server_that_accepts_nothing_is_told_of(case: &mut Case) {
    let _instance = start("a_server_that_accepts_nothing", case, "tcp").unwrap();
    let listener = case.server.run(|| {
        let socket = socket2::Socket::from(TcpListener::bind(any_of(case.loopback())).unwrap());
        socket.listen(3).unwrap();
        socket
    });
    register(case, listener.local_addr().unwrap().as_socket().unwrap());
    assert_eq!(socket(case)["condition"], "up");
    let target = case.any_target();
    let waiting: Vec<TcpStream> = (0..4).map(|_| call(&case.server, target).unwrap()).collect();
    let shown = eventually("a full queue", PATIENCE, || {
        Some(socket(case)).filter(|shown| shown["condition"] == "full")
    });
    assert_eq!((&shown["waiting"], &shown["most_waiting"]), (&4.into(), &3.into()), "{shown}");
    let finished = run(&case.server, "status --only-wrong");
    assert!(
        finished.stdout.contains("full: 4 wait to be accepted, and what else comes is dropped"),
        "{finished}"
    );
    drop(waiting);
}

fn what_cannot_be_registered_is_refused_with_the_reason(case: &mut Case) {
    let text = service(case, "web", "tcp", "80", "registered = true")
        + &service(case, "voice", "udp", "80", "registered = true")
        + &service(case, "echo", "tcp", "7", "respond = \"echo\"");
    configure(&case.server, &text);
    let instance = case.start(CONFIG);
    let server = ForeignServer::tcp(&case.server, any_of(case.loopback()), "it");
    let (pid, address) = (std::process::id(), server.address());
    let refused = |arguments: &str, reason: &str| {
        let finished = run(&case.server, &format!("register {arguments}"));
        assert_ne!(finished.code(), 0, "{finished}");
        assert!(finished.stderr.contains(reason), "{reason:?} is not in {finished}");
    };
    refused(
        &format!("wep --pid {pid} {address}"),
        "register wep: there is no such service; registered are web, voice; did you mean \"web\"?",
    );
    refused(
        &format!("echo --pid {pid} {address}"),
        "register echo: this program answers for it itself; registered are web, voice",
    );
    refused(&format!("voice --pid {pid} {address}"), "register voice: it binds udp of ip");
    refused(
        "web --pid 2147483000",
        "register web: take the sockets of process 2147483000: there is no such process",
    );
    refused(&format!("web --pid {pid} --protocol udp {address}"), "no udp socket");
    refused(&format!("web --pid {} ", instance.pid()), "is a listener of this very instance");
    refused(
        "web",
        "say whose sockets: by --pid, --pidfile or --unit; by -- and the command that is to have them",
    );
    refused("web --pidfile /proc/version", "expected the id of a process, found \"Linux\"");
    refused(
        "web --unit there-is-none",
        "find the processes of unit there-is-none.service: no control group has its name",
    );

    // Of a process that has no socket that would do, what it has is told: a shell that inherits some.
    let other = Netns::create().unwrap();
    let elsewhere = other.run(|| TcpListener::bind(any_of(case.loopback())).unwrap());
    let connected = call(&case.server, address).unwrap();
    let bound =
        case.server.run(|| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap());
    let unix =
        UnixListener::bind(std::env::temp_dir().join(format!("spectrum-{pid}-{}", case.family.pick(4, 6))))
            .unwrap();
    let holders = [
        Holder::of(case, [elsewhere.into(), connected.into(), bound.into()]),
        Holder::of(case, [(); 3].map(|()| unix.try_clone().unwrap().into())),
    ];
    let [of_ip, of_unix] = holders.each_ref().map(|holder| {
        let finished = run(&case.server, &format!("register web --pid {}", holder.0.id()));
        assert_eq!(finished.code(), 1, "{finished}");
        finished.stderr
    });
    for (said, reason) in [
        (&of_ip, "has no listening TCP and no unconnected UDP socket: "),
        (&of_ip, "is a connected tcp socket"),
        (&of_ip, &format!("is a socket of another network namespace ({})", other.inode())),
        (&of_ip, "is a TCP socket that does not listen"),
        (&of_unix, "descriptor 0, 1, 2 is a socket of unix, neither TCP nor UDP"),
    ] {
        assert!(said.contains(reason), "{reason:?} is not in {said}");
    }
    // None of this has changed anything.
    let target = SocketAddr::new(case.address(7), 80);
    assert_refused(&case.server, &[target]);
}

/// A process of its own that has copies of some descriptors.
struct Holder(std::process::Child);

impl Holder {
    fn of(case: &Case, files: [OwnedFd; 3]) -> Self {
        let [input, output, errors] = files;
        let mut sleep = std::process::Command::new("sleep");
        sleep.arg("600").stdin(input).stdout(output).stderr(errors);
        Self(case.server.run(|| sleep.spawn().unwrap()))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn who_registers_again_after_a_restart_is_served_again(case: &mut Case) {
    let instance = start("who_registers_again", case, "tcp").unwrap();
    let server = ForeignServer::tcp(&case.server, any_of(case.loopback()), "it");
    register(case, server.address());
    let target = case.any_target();
    assert_eq!(answerer(&case.server, target), "it");
    // Killed, as everything of ours.
    drop(instance);
    let _next = case.start(CONFIG);
    assert_refused(&case.server, &[target]);
    let own = SocketAddr::new(case.loopback(), server.address().port());
    assert_eq!(answerer(&case.server, own), "it");
    register(case, server.address());
    assert_eq!(answerer(&case.server, target), "it");
}

fn a_unit_and_a_file_name_the_process_as_well(case: &mut Case) {
    let instance = start("a_unit_and_a_file", case, "tcp").unwrap();
    let server = ForeignServer::tcp(&case.server, any_of(case.loopback()), "it");
    let (pid, address) = (std::process::id(), server.address());
    case.server.run(|| {
        std::fs::write("/run/it.pid", format!("{pid}\n")).unwrap();
        let nothing: Option<&str> = None;
        nix::mount::mount(
            Some("tmpfs"),
            "/sys/fs/cgroup",
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            nothing,
        )
        .unwrap();
        std::fs::create_dir_all("/sys/fs/cgroup/system.slice/it.service").unwrap();
        std::fs::write("/sys/fs/cgroup/system.slice/it.service/cgroup.procs", format!("{pid}\n")).unwrap();
    });
    let target = case.any_target();
    for who in ["--pidfile /run/it.pid", "--unit it.service", "--unit it"] {
        let finished = run(&case.server, &format!("register web {who} {address}"));
        assert_eq!(finished.code(), 0, "{finished}");
        assert_eq!(answerer(&case.server, target), "it");
        assert_eq!(run(&case.server, &format!("unregister web {address}")).code(), 0);
        assert_refused(&case.server, &[target]);
    }
    assert!(connect(&case.server, &instance).ask("status").is_ok());
}

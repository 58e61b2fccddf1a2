//! Servers that get their sockets from `register`: those that it makes for a command, and those that were passed to it as systemd passes them. What
//! becomes of registered sockets is tested in `registered.rs`.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure};
use spectrum_tests::datagram;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_refused, call};
use spectrum_tests::foreign_server::any_of;
use spectrum_tests::instance::{Finished, Instance, Launch, program};
use spectrum_tests::netns::Netns;
use spectrum_tests::path::Path;
use spectrum_tests::peer::file;
use spectrum_tests::require::{Need, met};
use spectrum_tests::{on_every_path, on_one_path};

on_every_path!(
    a_command_gets_sockets_that_are_registered_already,
    a_socket_that_is_passed_is_registered_by_its_name,
    a_command_gets_a_socket_of_datagrams_at_the_port_that_is_bound,
);

on_one_path!(who_says_nothing_of_sockets_is_told_how, a_command_that_is_not_there_changes_nothing);

/// An instance with a registered service `web`; `None` over iptables, which refuses it with words.
fn start(case: &Case, protocol: &str, ports: &str) -> Option<Instance> {
    let prefix = case.prefix();
    let bindings = format!("[{{ prefix = \"{prefix}\", protocol = \"{protocol}\", ports = \"{ports}\" }}]");
    configure(
        &case.server,
        &format!("[[service]]\nname = \"web\"\nregistered = true\nbindings = {bindings}\n"),
    );
    matches!(case.path, Path::SkLookup | Path::TproxyNftables).then(|| case.start(CONFIG))
}

fn run(case: &Case, arguments: &str) -> Finished {
    Launch::new(&case.server).arguments(arguments).finish()
}

/// The first socket of `web` in the status.
fn socket(case: &Case) -> Value {
    let finished = run(case, "status web --json");
    let status: Value =
        serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"));
    status["services"][0]["sockets"][0].clone()
}

fn await_condition(case: &Case, condition: &str) {
    eventually(&format!("a registered socket that is {condition}"), PATIENCE, || {
        (socket(case)["condition"] == condition).then_some(())
    });
}

/// A program that was started, in the namespace of a test; killed when dropped.
struct Started(Child);

impl Started {
    fn of(netns: &Netns, command: &mut Command) -> Self {
        Self(netns.run(|| command.spawn()).unwrap())
    }

    fn end(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn register(words: &[&str]) -> Command {
    let mut command = Command::new(program().unwrap());
    command.arg("register").args(words).stdin(Stdio::null());
    command
}

/// A script that becomes haproxy, which answers at the first descriptor that it was passed, if all is as sd_listen_fds(3) says.
fn haproxy(netns: &Netns) -> String {
    let configuration = "global\n  maxconn 1000\ndefaults\n  mode http\n  timeout client 10s\n  timeout connect 1s\n  timeout server \
                         10s\nfrontend web\n  bind fd@3\n  http-request return status 200 content-type text/plain lf-string \"%[dst] \
                         %[dst_port]\\n\"\n";
    let path = file(netns, "haproxy.cfg", configuration);
    let script = format!(
        "[ \"$LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES\" = \"1 $$ web\" ] || exit 3\n[ -e /proc/self/fd/4 ] && exit 4\nexec /usr/sbin/haproxy -db -f \
         {}\n",
        path.display()
    );
    file(netns, "serve.sh", script).display().to_string()
}

fn assert_answered(case: &Case, target: SocketAddr) {
    let mut stream = call(&case.server, target).unwrap_or_else(|error| panic!("{target}: {error}"));
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap_or_else(|error| panic!("{target}: {error}"));
    let dialled = format!("\r\n\r\n{} {}\n", target.ip(), target.port());
    assert!(answer.starts_with("HTTP/1.") && answer.ends_with(&dialled), "{target}: {answer:?}");
}

fn a_command_gets_sockets_that_are_registered_already(case: &mut Case) {
    let targets: Vec<SocketAddr> = (0..10).map(|_| case.any_target()).collect();
    if !met("a_command_gets_sockets", &[Need::Haproxy]) {
        return;
    }
    let Some(instance) = start(case, "tcp", "1-65535") else { return };
    let script = haproxy(&case.server);
    for _ in 0..2 {
        assert_refused(&case.server, &targets);
        let served = Started::of(&case.server, &mut register(&["web", "--", "/bin/sh", &script]));
        await_condition(case, "up");
        for target in &targets {
            assert_answered(case, *target);
        }
        // It is the very process that was started, and its sockets are nobody else's to reach.
        let shown = socket(case);
        assert_eq!((&shown["pid"], &shown["command"]), (&served.0.id().into(), &"sh".into()), "{shown}");
        let address: SocketAddr = shown["address"].as_str().unwrap().parse().unwrap();
        assert_eq!(address.ip(), case.loopback());
        served.end();
    }
    assert_refused(&case.server, &targets);
    // Where it is to be, it is.
    let own = any_of(case.loopback()).ip();
    let at = SocketAddr::new(own, case.random.port());
    let served = Started::of(
        &case.server,
        &mut register(&["web", &at.to_string(), "--weight", "7", "--", "/bin/sh", &script]),
    );
    await_condition(case, "up");
    assert_answered(case, targets[0]);
    assert_answered(case, SocketAddr::new(case.loopback(), at.port()));
    assert_eq!(socket(case)["weight"], 7);
    served.end();
    drop(instance);
}

fn a_command_gets_a_socket_of_datagrams_at_the_port_that_is_bound(case: &mut Case) {
    let port = case.random.port();
    let target = SocketAddr::new(case.any_address(), port);
    let Some(_instance) = start(case, "udp", &port.to_string()) else { return };
    let served = Started::of(&case.server, &mut register(&["web", "--", "/bin/sleep", "600"]));
    await_condition(case, "up");
    assert_eq!(socket(case)["address"], SocketAddr::new(case.loopback(), port).to_string());
    // It is asked, and says nothing.
    datagram::assert_silence_to(&datagram::client(&case.server, target), b"is anybody there?");
    let waiting = case.server.command(&format!("ss -Hluan src {}", SocketAddr::new(case.loopback(), port)));
    assert_ne!(waiting.split_whitespace().nth(1), Some("0"), "{waiting}");
    served.end();
    await_condition(case, "gone");
    datagram::assert_refused(&case.server, &[target]);
}

/// Runs `register` with these words, and two sockets of these names as systemd passes them; `pid` is whom it says to mean.
fn pass(netns: &Netns, sockets: [OwnedFd; 2], names: &str, pid: &str, words: &str) -> Output {
    let script = format!(
        "exec 3<&0 4<&1 </dev/null >&2\nexport LISTEN_FDS=2 LISTEN_PID={pid} LISTEN_FDNAMES={names}\nexec {} register {words}\n",
        program().unwrap().display()
    );
    let [first, second] = sockets;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &script]).stdin(first).stdout(second).stderr(Stdio::piped());
    netns.run(|| shell.output()).unwrap()
}

fn a_socket_that_is_passed_is_registered_by_its_name(case: &mut Case) {
    let target = case.any_target();
    let Some(_instance) = start(case, "tcp", "1-65535") else { return };
    let listeners = [(); 2].map(|()| case.server.run(|| TcpListener::bind(any_of(case.loopback())).unwrap()));
    let copies = || listeners.each_ref().map(|one| one.try_clone().unwrap().into());
    let addresses = listeners.each_ref().map(|one| one.local_addr().unwrap());
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let output = pass(&case.server, copies(), "dns:web", "$$", "web");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(socket(case)["address"], addresses[1].to_string());
    // Whoever passed it has it, and nobody of ours.
    call(&case.server, target).unwrap();
    assert_eq!(listeners[1].accept().unwrap().0.local_addr().unwrap(), target);
    let output = pass(&case.server, copies(), "dns:dns", "$$", &format!("web {}", addresses[0]));
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(socket(case)["address"], addresses[0].to_string());
    for (names, pid, words, why) in [
        ("a:b", "$$", "web".to_owned(), "several sockets fit web tcp ip"),
        ("dns:web", "1", "web".to_owned(), "LISTEN_PID is 1 and this is process "),
        ("dns", "$$", "web".to_owned(), "read LISTEN_FDNAMES: 1 names for 2 sockets of LISTEN_FDS"),
        (
            "dns:web",
            "$$",
            format!("web {}", addresses[0]),
            &format!("has no socket {}, but tcp {}", addresses[0], addresses[1]),
        ),
    ] {
        let output = pass(&case.server, copies(), names, pid, &words);
        assert!(
            !output.status.success() && said(&output).contains(why),
            "{why:?} is not in {}",
            said(&output)
        );
    }
    // A command gets what was passed as it came.
    let script = "[ \"$LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES\" = \"2 $$ dns:web\" ] && [ -e /proc/self/fd/4 ] && echo handed on >&2\n";
    let script = file(&case.server, "handed.sh", script);
    let words = format!("web -- /bin/sh {}", script.display());
    let output = pass(&case.server, copies(), "dns:web", "$$", &words);
    assert!(output.status.success() && said(&output).contains("handed on"), "{}", said(&output));
    assert_eq!(socket(case)["address"], addresses[1].to_string());
    drop(listeners);
    assert_refused(&case.server, &[target]);
}

fn who_says_nothing_of_sockets_is_told_how(case: &mut Case) {
    let _instance = start(case, "tcp", "443").unwrap();
    let nobody_s =
        format!("register web {} -- /bin/sleep 1", case.family.pick("203.0.113.9:80", "[2001:db8:9::9]:80"));
    for (arguments, code, why) in [
        (
            "register web",
            2,
            "say whose sockets: by --pid, --pidfile or --unit; by -- and the command that is to have them; or have systemd",
        ),
        ("register web --pid 1 -- sleep", 2, "cannot be used with"),
        ("register web --netns x -- /bin/sleep", 2, "cannot be used with"),
        ("register wep -- /bin/sleep 1", 1, "register wep: nothing is bound for it, but for web"),
        (
            "register web --protocol udp -- /bin/sleep 1",
            1,
            "register web: it binds nothing of udp; leave --protocol out",
        ),
        (&nobody_s, 1, "Cannot assign requested address"),
    ] {
        let finished = run(case, arguments);
        assert_eq!(finished.code(), code, "{arguments}: {finished}");
        assert!(finished.stderr.contains(why), "{why:?} is not in {finished}");
    }
    assert_eq!(socket(case)["condition"], "none");
}

fn a_command_that_is_not_there_changes_nothing(case: &mut Case) {
    let _instance = start(case, "tcp", "443").unwrap();
    let served = Started::of(&case.server, &mut register(&["web", "--", "/bin/sleep", "600"]));
    await_condition(case, "up");
    let before = socket(case);
    for (command, why) in [
        (
            "there-is-none",
            "register web: run there-is-none: no directory of PATH (/run/tools) has it; write its whole path",
        ),
        ("/etc/passwd", "register web: run /etc/passwd: it is no program that may be run"),
    ] {
        let finished = run(case, &format!("register web -- {command}"));
        assert_eq!(finished.code(), 1, "{finished}");
        assert!(finished.stderr.contains(why), "{why:?} is not in {finished}");
        assert_eq!(socket(case), before);
    }
    served.end();
}

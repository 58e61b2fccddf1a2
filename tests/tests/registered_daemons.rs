//! Servers of Debian other than nginx, as they are, behind whole ranges and prefixes: sshd, haproxy, knot and unbound. Each knows what was dialled, is
//! found again whenever it starts, and refused at once where it has ended. What nginx does with its own processes is tested beside it.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, await_logged, configure};
use spectrum_tests::datagram;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_refused, call};
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::netns::Netns;
use spectrum_tests::on_every_path;
use spectrum_tests::path::Path;
use spectrum_tests::peer::{converse, file, read};
use spectrum_tests::require::{Need, find_in_path, met};

on_every_path!(
    sshd_is_at_every_address_and_found_again_after_a_restart,
    haproxy_is_at_every_port_and_keeps_its_sockets_when_it_reloads,
    knot_answers_from_every_address_and_is_found_again_after_a_restart,
    unbound_answers_from_every_address_and_is_found_again_after_a_restart,
);

/// So often each is started again.
const RESTARTS: usize = 3;

/// A question for the address of `www.test`.
const QUESTION: &[u8] = b"\x53\x70\x01\0\0\x01\0\0\0\0\0\0\x03www\x04test\0\0\x01\0\x01";

/// The address that it has.
const ANSWER: [u8; 4] = [192, 0, 2, 5];

/// A server that goes to the background by itself, and says in a file which process it is; ended when dropped.
struct Daemon<'netns> {
    netns: &'netns Netns,
    line: String,
    pid_file: &'static str,
}

impl<'netns> Daemon<'netns> {
    fn start(netns: &'netns Netns, line: String, pid_file: &'static str) -> Self {
        let daemon = Self { netns, line, pid_file };
        daemon.start_again();
        daemon
    }

    fn start_again(&self) {
        let output = self.netns.output(&self.line);
        assert!(output.status.success(), "{}: {}", self.line, String::from_utf8_lossy(&output.stderr));
        eventually(&self.line, PATIENCE, || self.process());
    }

    fn process(&self) -> Option<Pid> {
        read(self.netns, self.pid_file).trim().parse().ok().map(Pid::from_raw)
    }

    /// The processes that it has started and that have not been asked for their end.
    fn children(process: Pid) -> Vec<String> {
        let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
        children.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    }

    /// Ends it as its unit does, and waits until it has.
    fn stop(&self) {
        let process = self.process().unwrap();
        kill(process, Signal::SIGTERM).unwrap();
        // Whoever takes in what it left behind may not have asked how it ended.
        eventually("its end", PATIENCE, || {
            let stat = fs::read_to_string(format!("/proc/{process}/stat"));
            let is_there =
                stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.starts_with(" Z")));
            (!is_there).then_some(())
        });
        // Not all take it away themselves, and the next one's is waited for.
        self.netns.run(|| fs::remove_file(self.pid_file)).ok();
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if let Some(process) = self.process() {
            let _ = kill(process, Signal::SIGTERM);
        }
    }
}

/// An instance that looks for the socket that the process named in `pid_file` has at `port`, for what comes to these `ports` of the prefix.
fn start(case: &Case, protocol: &str, ports: &str, pid_file: &str, port: u16) -> Instance {
    let prefix = case.prefix();
    configure(
        &case.server,
        &format!(
            "[[service]]\nname = \"it\"\nsockets = [\"{pid_file} {protocol} {port}\"]\nbindings = [{{ prefix = \"{prefix}\", protocol = \
             \"{protocol}\", ports = \"{ports}\" }}]\n"
        ),
    );
    case.start(CONFIG)
}

/// True where there is such a server, and the path carries registered services: that iptables refuses them is tested elsewhere.
fn is_possible(name: &str, need: Need, case: &Case) -> bool {
    met(name, &[need]) && matches!(case.path, Path::SkLookup | Path::TproxyNftables)
}

fn status(case: &Case) -> Value {
    let finished = Launch::new(&case.server).arguments("status it --json").finish();
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"))
}

fn missed(case: &Case) -> u64 {
    status(case)["destinations"][0]["packets"]["missed"].as_u64().unwrap()
}

fn await_up(case: &Case) {
    await_condition(case, "up");
}

fn await_condition(case: &Case, condition: &str) {
    eventually(&format!("a registered socket that is {condition}"), PATIENCE, || {
        (status(case)["services"][0]["sockets"][0]["condition"] == condition).then_some(())
    });
}

/// Some addresses of the prefix, with these ports by turns.
fn targets(case: &mut Case, ports: &[u16]) -> Vec<SocketAddr> {
    ports.iter().cycle().take(8).map(|port| SocketAddr::new(case.any_address(), *port)).collect()
}

/// Has `daemon` end and start again: who comes meanwhile is refused at once, and counted, and then it is found.
fn restart(case: &Case, daemon: &Daemon<'_>, targets: &[SocketAddr], assert_refused: impl Fn(&[SocketAddr])) {
    for _ in 0..RESTARTS {
        await_up(case);
        // Only the program counts them.
        let counts = case.path == Path::SkLookup;
        let before = counts.then(|| missed(case));
        daemon.stop();
        assert_refused(targets);
        if let Some(before) = before {
            assert_eq!(missed(case), before + targets.len() as u64);
        }
        daemon.start_again();
        await_up(case);
    }
}

fn sshd_is_at_every_address_and_found_again_after_a_restart(case: &mut Case) {
    let port = case.random.port();
    let targets = targets(case, &[22, 2200, 2299]);
    if !is_possible("sshd_is_at_every_address", Need::Ssh, case) {
        return;
    }
    let server = &case.server;
    server.run(|| {
        // Where sshd confines what has not logged in yet; /run is the test's own.
        fs::create_dir_all("/run/sshd").unwrap();
        fs::set_permissions("/run/sshd", Permissions::from_mode(0o755)).unwrap();
    });
    for key in ["host", "user"] {
        server.command(&format!("ssh-keygen -q -t ed25519 -N  -f /run/{key}"));
    }
    let configuration = format!(
        "ListenAddress {}\nPort {port}\nHostKey /run/host\nAuthorizedKeysFile /run/user.pub\nPermitRootLogin prohibit-password\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPidFile /run/sshd.pid\n",
        case.family.pick("0.0.0.0", "::")
    );
    let path = file(server, "sshd.conf", configuration);
    let program = find_in_path("sshd").unwrap();
    let line = format!("{} -f {} -E /run/sshd.said", program.display(), path.display());
    let sshd = Daemon::start(server, line, "/run/sshd.pid");
    let _instance = start(case, "tcp", "22,2200-2299", sshd.pid_file, port);
    await_up(case);
    log_in(server, targets[1]);
    for target in &targets {
        let mut line = String::new();
        BufReader::new(call(server, *target).unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("SSH-2.0-OpenSSH"), "{target}: {line:?}");
    }
    restart(case, &sshd, &targets, |targets| assert_refused(server, targets));
    log_in(server, targets[0]);
}

/// Logs in at `target`, where the server is the one whose key there is, and takes what was dialled for its own address.
fn log_in(server: &Netns, target: SocketAddr) {
    let key = read(server, "/run/host.pub");
    // At its own port it is known without one.
    let (ip, port) = (target.ip(), target.port());
    let name = if port == 22 { ip.to_string() } else { format!("[{ip}]:{port}") };
    let known = file(server, "known", format!("{name} {key}"));
    let line = format!(
        "ssh -F none -i /run/user -p {port} -o BatchMode=yes -o UserKnownHostsFile={} -o StrictHostKeyChecking=yes root@{ip} echo \
         $SSH_CONNECTION",
        known.display()
    );
    let said = String::from_utf8(converse(server, &line, b"")).unwrap();
    let said: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(said[2..], [ip.to_string(), port.to_string()], "{said:?}");
}

fn haproxy_is_at_every_port_and_keeps_its_sockets_when_it_reloads(case: &mut Case) {
    let port = case.random.port();
    let targets: Vec<SocketAddr> = (0..20).map(|_| case.any_target()).collect();
    if !is_possible("haproxy_is_at_every_port", Need::Haproxy, case) {
        return;
    }
    let server = &case.server;
    let any = case.family.pick("0.0.0.0", "::");
    // It goes on with no socket that is transparent unless it is to be.
    let more = if case.path == Path::SkLookup { "" } else { " transparent" };
    let configuration = format!(
        "global\n  maxconn 1000\ndefaults\n  mode http\n  timeout client 10s\n  timeout connect 1s\n  timeout server 10s\nfrontend web\n  bind \
         {any}:{port}{more}\n  http-request return status 200 content-type text/plain lf-string \"%[dst] %[dst_port]\\n\"\n"
    );
    let path = file(server, "haproxy.cfg", configuration);
    // The process of the file is one that starts others, and has no socket that listens itself.
    let line = format!("haproxy -W -D -f {} -p /run/haproxy.pid", path.display());
    let haproxy = Daemon::start(server, line, "/run/haproxy.pid");
    let instance = start(case, "tcp", "1-65535", haproxy.pid_file, port);
    await_up(case);
    ask_haproxy(server, &targets);
    // The next worker gets the sockets of the one before, and nobody is refused. The file is written anew meanwhile.
    let master = haproxy.process().unwrap();
    for _ in 0..RESTARTS {
        let before = Daemon::children(master);
        kill(master, Signal::SIGUSR2).unwrap();
        eventually("the next worker alone", PATIENCE, || {
            ask_haproxy(server, &targets[..1]);
            let now = Daemon::children(master);
            (!now.is_empty() && now.iter().all(|child| !before.contains(child))).then_some(())
        });
        ask_haproxy(server, &targets);
    }
    assert!(!instance.stderr().contains("a registered socket is closed"), "{}", instance.stderr());
    restart(case, &haproxy, &targets, |targets| assert_refused(server, targets));
    ask_haproxy(server, &targets);
    await_logged(&instance, "a registered socket is closed", RESTARTS);
}

/// Asks haproxy at each of `targets`: its answer says that it knows what was dialled.
fn ask_haproxy(server: &Netns, targets: &[SocketAddr]) {
    for target in targets {
        let mut stream = call(server, *target).unwrap_or_else(|error| panic!("{target}: {error}"));
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap_or_else(|error| panic!("{target}: {error}"));
        let dialled = format!("\r\n\r\n{} {}\n", target.ip(), target.port());
        assert!(answer.starts_with("HTTP/1.") && answer.ends_with(&dialled), "{target}: {answer:?}");
    }
}

fn knot_answers_from_every_address_and_is_found_again_after_a_restart(case: &mut Case) {
    let port = case.random.port();
    let targets = targets(case, &[port]);
    if !is_possible("knot_answers_from_every_address", Need::Knot, case) {
        return;
    }
    case.server.run(|| fs::create_dir_all("/run/knot")).unwrap();
    let zone = "$ORIGIN test.\n@ 60 SOA ns hostmaster 1 60 60 60 60\n@ 60 NS ns\nns 60 A 192.0.2.1\nwww 60 A 192.0.2.5\n";
    file(&case.server, "knot/test.zone", zone);
    // Two sockets that share the port.
    let configuration = format!(
        "server:\n  listen: {}@{port}\n  rundir: /run/knot\n  udp-workers: 2\n  tcp-workers: 1\n  background-workers: 1\ndatabase:\n  storage: \
         /run/knot\ntemplate:\n  - id: default\n    storage: /run/knot\nzone:\n  - domain: test.\n    file: test.zone\n",
        case.family.pick("0.0.0.0", "::")
    );
    let path = file(&case.server, "knot.conf", configuration);
    let line = format!("knotd -d -c {}", path.display());
    let knot = Daemon::start(&case.server, line, "/run/knot/knot.pid");
    assert_answers_names(case, &knot, port, &targets);
}

fn unbound_answers_from_every_address_and_is_found_again_after_a_restart(case: &mut Case) {
    let port = case.random.port();
    let targets = targets(case, &[port]);
    if !is_possible("unbound_answers_from_every_address", Need::Unbound, case) {
        return;
    }
    let configuration = format!(
        "server:\n  interface: {}\n  interface-automatic: yes\n  port: {port}\n  num-threads: 2\n  chroot: \"\"\n  username: \"\"\n  directory: \
         \"/run\"\n  pidfile: \"/run/unbound.pid\"\n  use-syslog: no\n  logfile: \"/run/unbound.said\"\n  access-control: 0.0.0.0/0 allow\n  \
         access-control: ::/0 allow\n  local-zone: \"test.\" static\n  local-data: \"www.test. A 192.0.2.5\"\nremote-control:\n  control-enable: no\n",
        case.family.pick("0.0.0.0", "::")
    );
    let path = file(&case.server, "unbound.conf", configuration);
    let unbound = Daemon::start(&case.server, format!("unbound -c {}", path.display()), "/run/unbound.pid");
    assert_answers_names(case, &unbound, port, &targets);
}

/// What holds for a server of DNS that answers at `port`: from every address, and again whenever it is started again.
fn assert_answers_names(case: &Case, daemon: &Daemon<'_>, port: u16, targets: &[SocketAddr]) {
    let _instance = start(case, "udp", &port.to_string(), daemon.pid_file, port);
    await_up(case);
    assert_answers(&case.server, targets);
    restart(case, daemon, &targets[..2], |targets| {
        if case.path != Path::SkLookup {
            // Rules know no dead server of datagrams: they are told when it is noticed.
            await_condition(case, "gone");
        }
        datagram::assert_refused(&case.server, targets);
    });
    assert_answers(&case.server, targets);
}

/// Asks each target by a client of its own, which takes for an answer only what comes from there.
fn assert_answers(server: &Netns, targets: &[SocketAddr]) {
    for target in targets {
        let client = datagram::client(server, *target);
        client.send(QUESTION).unwrap();
        let heard = datagram::hear(&client).unwrap_or_else(|error| panic!("{target}: {error}"));
        let is_answer = heard[..2] == QUESTION[..2] && heard.windows(ANSWER.len()).any(|part| part == ANSWER);
        assert!(is_answer, "{target}: {heard:?}");
    }
}

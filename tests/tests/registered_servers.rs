//! Servers of Debian, as they are, whose sockets answer a service: what they do with their own processes is noticed by nobody who comes, as far
//! as they themselves let nobody notice.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::call;
use spectrum_tests::foreign_server::any_of;
use spectrum_tests::instance::Instance;
use spectrum_tests::netns::Netns;
use spectrum_tests::on_every_path;
use spectrum_tests::path::Path;
use spectrum_tests::peer::{file, read};
use spectrum_tests::require::{Need, met};

on_every_path!(
    nginx_goes_over_to_another_version_of_itself_and_nobody_is_lost,
    nginx_that_is_started_again_is_found_and_its_clients_never_hang,
);

/// Directories that nginx makes whether or not it needs them.
const TEMPORARY: &str = "client_body_temp_path /run/nginx-body; proxy_temp_path /run/nginx-proxy; fastcgi_temp_path /run/nginx-fastcgi; \
                         uwsgi_temp_path /run/nginx-uwsgi; scgi_temp_path /run/nginx-scgi;";

const PID_FILE: &str = "/run/nginx.pid";

/// An nginx of a master and two workers, in the background as its unit has it; ended when dropped.
struct Nginx<'netns> {
    netns: &'netns Netns,
    address: SocketAddr,
}

impl<'netns> Nginx<'netns> {
    fn start(netns: &'netns Netns, address: SocketAddr) -> Self {
        // One that listens at a single address takes that for what was dialled, and asks nobody.
        let any = any_of(address.ip()).ip();
        let listen = SocketAddr::new(any, address.port());
        let configuration = format!(
            "daemon on; pid {PID_FILE}; worker_processes 2; error_log /run/nginx.err;\nevents {{ worker_connections 4096; }}\nhttp {{\n  \
             access_log off; {TEMPORARY}\n  server {{ listen {listen} backlog=4096; return 200 '$server_addr:$server_port\\n'; }}\n}}\n"
        );
        file(netns, "nginx.conf", configuration);
        let nginx = Self { netns, address };
        nginx.start_again();
        nginx
    }

    fn start_again(&self) {
        // By its whole path: it executes itself again by what it was called.
        let output = self.netns.output("/usr/sbin/nginx -c /run/nginx.conf -e /run/nginx.err");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        eventually("nginx", PATIENCE, || call(self.netns, self.address).ok().map(drop));
    }

    fn master(&self, file: &str) -> Option<Pid> {
        read(self.netns, file).trim().parse().ok().map(Pid::from_raw)
    }

    /// Another version of it takes over the listening sockets, and the former one leaves when its clients have.
    fn upgrade(&self) {
        let old = self.master(PID_FILE).unwrap();
        kill(old, Signal::SIGUSR2).unwrap();
        eventually("the new nginx", PATIENCE, || {
            let new = self.master(PID_FILE).filter(|new| *new != old)?;
            let children = format!("/proc/{new}/task/{new}/children");
            (std::fs::read_to_string(children).ok()?.split_whitespace().count() >= 2).then_some(())
        });
        kill(old, Signal::SIGQUIT).unwrap();
        Self::await_end(old);
    }

    fn stop(&self) {
        let master = self.master(PID_FILE).unwrap();
        kill(master, Signal::SIGTERM).unwrap();
        Self::await_end(master);
    }

    fn await_end(master: Pid) {
        // Whoever takes in what it left behind may not have asked how it ended.
        let is_there = || {
            let stat = std::fs::read_to_string(format!("/proc/{master}/stat"));
            stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.starts_with(" Z")))
        };
        eventually("the end of an nginx", PATIENCE, || (!is_there()).then_some(()));
    }
}

impl Drop for Nginx<'_> {
    fn drop(&mut self) {
        for file in [PID_FILE, "/run/nginx.pid.oldbin"] {
            if let Some(master) = self.master(file) {
                let _ = kill(master, Signal::SIGTERM);
            }
        }
    }
}

/// What came of many requests.
#[derive(Debug, Default)]
struct Tally {
    answered: usize,
    lost: Vec<(SocketAddr, io::ErrorKind)>,
    /// The longest that a request which was not answered took.
    longest_loss: Duration,
}

impl Tally {
    fn add(&mut self, target: SocketAddr, begun: Instant, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => self.answered += 1,
            Err(error) => {
                self.lost.push((target, error.kind()));
                self.longest_loss = self.longest_loss.max(begun.elapsed());
            }
        }
    }
}

/// One request, whose answer says that its server knows what was dialled.
fn ask(target: SocketAddr) -> io::Result<()> {
    let mut stream = std::net::TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let dialled = format!("\r\n\r\n{}:{}\n", target.ip(), target.port());
    let is_whole = answer.starts_with("HTTP/1.1 200") && answer.ends_with(&dialled);
    match answer.as_str() {
        _ if is_whole => Ok(()),
        "" => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, answer)),
    }
}

/// Requests to `targets` by turns, for as long as `during` takes, beside one client that asks nginx itself: both outcomes.
fn asked_while(case: &Case, targets: &[SocketAddr], own: SocketAddr, during: impl FnOnce()) -> [Tally; 2] {
    let is_over = AtomicBool::new(false);
    let ask_all = |targets: &[SocketAddr], pause: Duration| {
        let mut tally = Tally::default();
        for target in targets.iter().cycle() {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            let begun = Instant::now();
            tally.add(*target, begun, ask(*target));
            std::thread::sleep(pause);
        }
        tally
    };
    std::thread::scope(|scope| {
        let steered = scope.spawn(|| case.server.run(|| ask_all(targets, Duration::ZERO)));
        let direct = scope.spawn(|| case.server.run(|| ask_all(&[own], Duration::from_millis(1))));
        during();
        is_over.store(true, Ordering::Relaxed);
        [steered.join().unwrap(), direct.join().unwrap()]
    })
}

/// An nginx, and an instance that looks for its socket; `None` over iptables, which refuses such services, and where there is no nginx.
fn start<'case>(name: &str, case: &'case Case, port: u16) -> Option<(Nginx<'case>, Instance)> {
    if !met(name, &[Need::Nginx]) || !matches!(case.path, Path::SkLookup | Path::TproxyNftables) {
        return None;
    }
    let nginx = Nginx::start(&case.server, SocketAddr::new(case.loopback(), port));
    let text = format!(
        "[[service]]\nname = \"web\"\nsockets = [\"{PID_FILE} tcp {port}\"]\nbindings = [{{ prefix = \"{}\" }}]\n",
        case.prefix()
    );
    configure(&case.server, &text);
    let instance = case.start(CONFIG);
    Some((nginx, instance))
}

fn await_served(case: &Case, target: SocketAddr) {
    eventually("nginx by way of the prefix", PATIENCE, || case.server.run(|| ask(target)).ok());
}

fn nginx_goes_over_to_another_version_of_itself_and_nobody_is_lost(case: &mut Case) {
    let port = case.random.port();
    let targets: Vec<SocketAddr> = (0..500).map(|_| case.any_target()).collect();
    let Some((nginx, _instance)) = start("nginx_goes_over", case, port) else { return };
    await_served(case, targets[0]);
    let [steered, direct] = asked_while(case, &targets, nginx.address, || {
        for _ in 0..20 {
            nginx.upgrade();
        }
    });
    assert!(steered.answered > 50, "{} answers", steered.answered);
    assert!(direct.answered > 5, "{} answers", direct.answered);
    assert!(
        steered.lost.len() <= direct.lost.len(),
        "lost {:?}, and by nginx itself {:?}",
        steered.lost,
        direct.lost
    );
}

fn nginx_that_is_started_again_is_found_and_its_clients_never_hang(case: &mut Case) {
    let port = case.random.port();
    let targets: Vec<SocketAddr> = (0..500).map(|_| case.any_target()).collect();
    let Some((nginx, _instance)) = start("nginx_that_is_started_again", case, port) else { return };
    await_served(case, targets[0]);
    // Over TPROXY it is looked for every second.
    let restarts = if case.path == Path::SkLookup { 20 } else { 5 };
    let [steered, direct] = asked_while(case, &targets, nginx.address, || {
        for _ in 0..restarts {
            nginx.stop();
            nginx.start_again();
            await_served(case, targets[0]);
        }
    });
    assert!(steered.answered > 50 && direct.answered > 5, "{} and {}", steered.answered, direct.answered);
    assert!(!steered.lost.is_empty(), "nobody came while it was away");
    // Refused while it was away, or accepted by one that left without a word.
    let (refused, dropped): (Vec<_>, Vec<_>) =
        steered.lost.iter().partition(|(_, kind)| *kind == io::ErrorKind::ConnectionRefused);
    assert!(!refused.is_empty(), "{dropped:?}");
    for (target, kind) in dropped {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        assert!(matches!(kind, BrokenPipe | ConnectionReset | UnexpectedEof), "{target}: {kind}");
    }
    assert!(steered.longest_loss < PATIENCE / 2, "{:?}", steered.longest_loss);
}

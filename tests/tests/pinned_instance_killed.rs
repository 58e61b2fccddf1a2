//! An instance that pins what steers, or takes over what is pinned, killed at its system calls: amid a start, a register, a reload, an upgrade
//! and a stop. Registered sockets are reached before the next command does anything, and that works.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use spectrum_tests::control::{CONFIG, configure};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::dial;
use spectrum_tests::fault::{Fault, LOG, has_killed_beside, is_explained, processes};
use spectrum_tests::foreign_server::ForeignServer;
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::netns::Netns;
use spectrum_tests::random::Random;
use spectrum_tests::require::{self, Need, find_in_path};
use spectrum_tests::state::State;
use spectrum_tests::verbs::done;

const NEEDS: [Need; 6] = [Need::Netns, Need::Program, Need::Bpf, Need::Bpftool, Need::Ipv6, Need::Strace];

/// What other programs answer, and what the instance does.
const BOTH: &str = "[[service]]\nname = \"web\"\nregistered = true\n\
                    bindings = [{ prefix = [\"192.0.2.0/25\", \"2001:db8:1::/64\"] }]\n\
                    [[service]]\nname = \"own\"\nrespond = \"hello\"\nbindings = [{ prefix = \"192.0.2.128/25\" }]\n";

/// The calls by which an instance gets on.
const CALLS: [&str; 6] = ["bpf", "sendto", "rename", "mkdir", "unlink", "chmod"];

fn launch<'netns>(netns: &'netns Netns, flags: &str) -> Launch<'netns> {
    Launch::new(netns).arguments(&format!("--mode sk-lookup {CONFIG} {flags}"))
}

/// A namespace, what it has, and what is drawn.
fn begin(test: &str) -> Option<(Netns, State, Random)> {
    if !require::met(test, &NEEDS) {
        return None;
    }
    let netns = Netns::create().unwrap();
    netns.run(|| fs::create_dir_all(spectrum_tests::path::TOOLS).unwrap());
    configure(&netns, BOTH);
    let before = State::of(&netns);
    Some((netns, before, Random::seeded()))
}

/// A server that is registered for `web`.
fn server(netns: &Netns) -> ForeignServer {
    let server = ForeignServer::tcp(netns, "[::]:0".parse().unwrap(), "web");
    done(netns, &format!("register web --pid {} {}", std::process::id(), server.address()));
    server
}

fn assert_web(netns: &Netns, what: &str) {
    for target in ["192.0.2.9:80", "[2001:db8:1::9]:80"] {
        let heard = dial(netns, target.parse().unwrap())
            .unwrap_or_else(|error| panic!("{target} after {what}: {error}"));
        assert!(heard.text.starts_with(&format!("web {target} ")), "after {what}: {heard:?}");
    }
}

fn await_end_of_all(netns: &Netns, what: &str) {
    eventually(&format!("the end of all processes after {what}"), PATIENCE, || {
        processes(netns, "spectrum-user").is_empty().then_some(())
    });
}

/// The numbers of calls at which something is killed: each of the first, then ever fewer, and others in each run.
fn moments(random: &mut Random) -> impl Iterator<Item = usize> + use<> {
    let mut random = Random::from_seed(random.bits());
    std::iter::successors(Some(1), move |nth| Some(nth + 1 + random.below::<usize>(*nth as u64)))
        .take_while(|nth| *nth < 120)
}

/// Starts an instance of which a process is killed by its call number `nth` of this name, and stops it: whether anything was killed.
fn killed_amid_a_start(netns: &Netns, flags: &str, call: &str, nth: usize) -> bool {
    let through = format!(
        "{} -D -f -o {LOG} -e trace={call} -e inject={call}:signal=SIGKILL:when={nth}",
        find_in_path("strace").unwrap().display()
    );
    let instance = launch(netns, flags).through(&through).spawn();
    let pid = instance.pid();
    let finished = match instance.await_ready_or_end() {
        Ok(instance) => instance.finish_after(Signal::SIGTERM),
        Err(finished) => finished,
    };
    assert!(is_explained(&finished), "after {call} {nth}: {finished}");
    let happened = finished.status.signal().is_some() || has_killed_beside(netns, pid);
    for tracer in processes(netns, "/strace") {
        let _ = kill(Pid::from_raw(tracer.cast_signed()), Signal::SIGKILL);
    }
    happened
}

#[test]
fn amid_a_start_that_pins() {
    let Some((netns, before, mut random)) = begin("amid_a_start_that_pins") else { return };
    let mut deaths = 0;
    for call in CALLS {
        for nth in moments(&mut random) {
            let what = format!("SIGKILL by {call} number {nth} of a start");
            let happened = killed_amid_a_start(&netns, "--pin", call, nth);
            deaths += usize::from(happened);
            await_end_of_all(&netns, &what);
            done(&netns, "clean");
            let next = launch(&netns, "--pin").start();
            let server = server(&netns);
            assert_web(&netns, &what);
            next.kill();
            assert_web(&netns, &what);
            drop(server);
            done(&netns, "unload");
            before.assert_restored(&netns, &what);
            if !happened {
                break;
            }
        }
    }
    assert!(deaths > 10, "{deaths} deaths");
}

fn amid_a_start_over_what_is_pinned(test: &str, flags: &str) {
    let Some((netns, before, mut random)) = begin(test) else { return };
    let mut deaths = 0;
    for call in CALLS {
        for nth in moments(&mut random) {
            let what = format!("SIGKILL by {call} number {nth} of a start over what is pinned");
            launch(&netns, "--pin").start().stop();
            let server = server(&netns);
            let happened = killed_amid_a_start(&netns, flags, call, nth);
            deaths += usize::from(happened);
            await_end_of_all(&netns, &what);
            // What it had not pinned goes with it, once it has all.
            if flags.contains("--pin") {
                assert_web(&netns, &what);
                let next = launch(&netns, "").start();
                assert_web(&netns, &what);
                next.stop();
            } else {
                done(&netns, "clean");
                done(&netns, "unload");
            }
            drop(server);
            before.assert_restored(&netns, &what);
            if !happened {
                break;
            }
        }
    }
    assert!(deaths > 10, "{deaths} deaths");
}

#[test]
fn amid_a_start_over_what_is_pinned_that_pins() {
    amid_a_start_over_what_is_pinned("amid_a_start_over_what_is_pinned_that_pins", "--pin");
}

#[test]
fn amid_a_start_over_what_is_pinned_that_does_not() {
    amid_a_start_over_what_is_pinned("amid_a_start_over_what_is_pinned_that_does_not", "");
}

/// Kills an instance that pins amid what `line` has it do, or its end.
fn amid_a_life(test: &str, calls: &[&str], act: impl Fn(&Netns, Instance) -> Option<Instance>) {
    let Some((netns, before, mut random)) = begin(test) else { return };
    let mut deaths = 0;
    for call in calls {
        for nth in moments(&mut random) {
            let what = format!("SIGKILL by {call} number {nth}");
            configure(&netns, BOTH);
            let instance = launch(&netns, "--pin").start();
            let server = server(&netns);
            let fault =
                Fault::inject_into(&netns, &[instance.pid()], call, &format!("signal=SIGKILL:when={nth}"));
            let left = act(&netns, instance);
            let happened = fault.killed();
            // Whoever was not killed is now.
            if let Some(instance) = left {
                instance.finish_after_kill();
            }
            await_end_of_all(&netns, &what);
            assert_web(&netns, &what);
            let listed = done(&netns, "status");
            assert!(listed.contains("instance pinned (no process)"), "after {what}: {listed}");
            configure(&netns, BOTH);
            let next = launch(&netns, "").start();
            assert_web(&netns, &what);
            next.stop();
            drop(server);
            before.assert_restored(&netns, &what);
            if !happened {
                break;
            }
            deaths += 1;
        }
    }
    assert!(deaths > 3, "{deaths} deaths");
}

trait FinishAfterKill {
    fn finish_after_kill(self);
}

impl FinishAfterKill for Instance {
    fn finish_after_kill(mut self) {
        if self.is_running() {
            self.kill();
        }
    }
}

#[test]
fn amid_a_register() {
    amid_a_life("amid_a_register", &["bpf", "mkdir", "rmdir", "chmod", "unlink"], |netns, instance| {
        let canary = ForeignServer::tcp(netns, "127.0.0.1:0".parse().unwrap(), "web");
        for line in [
            format!("register web --pid {} {} --weight 1", std::process::id(), canary.address()),
            format!("weight web 3 {}", canary.address()),
            format!("unregister web {}", canary.address()),
        ] {
            let finished = Launch::new(netns).arguments(&line).finish();
            assert!(is_explained(&finished), "{finished}");
        }
        Some(instance)
    });
}

#[test]
fn amid_a_reload() {
    amid_a_life("amid_a_reload", &["bpf", "sendto", "rename", "unlink", "chmod"], |netns, instance| {
        configure(netns, &BOTH.replace("192.0.2.128/25", "198.51.100.0/24"));
        let finished = Launch::new(netns).arguments("reload").finish();
        assert!(is_explained(&finished), "{finished}");
        Some(instance)
    });
}

#[test]
fn amid_an_upgrade() {
    amid_a_life("amid_an_upgrade", &["bpf", "mkdir", "rename", "unlink", "chmod"], |netns, instance| {
        let finished = Launch::new(netns).arguments("upgrade").finish();
        assert!(is_explained(&finished), "{finished}");
        Some(instance)
    });
}

#[test]
fn amid_a_stop() {
    amid_a_life("amid_a_stop", &["bpf", "sendto", "rename", "unlink", "chmod"], |_, instance| {
        instance.signal(Signal::SIGTERM);
        let finished = instance.finish(PATIENCE);
        assert!(is_explained(&finished), "{finished}");
        None
    });
}

//! Either process of an instance killed in the middle of something: of a start, of a reload, of an upgrade, while the steerer replaces its
//! worker process, of a stop. Afterwards the next command works, and nothing is left, a process least of all. Killing the steerer amid a
//! reload is tested with reloads.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use spectrum_tests::case::{BOTH_PREFIXES, Case};
use spectrum_tests::control::{CONFIG, configure, count_logged, reload};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_answered, dial};
use spectrum_tests::fault::{Fault, LOG, has_killed_beside, is_explained, processes};
use spectrum_tests::instance::{Instance, Launch, worker_of};
use spectrum_tests::on_one_path;
use spectrum_tests::path::Path;
use spectrum_tests::random::Random;
use spectrum_tests::require::{self, Need, find_in_path};
use spectrum_tests::scan::{Service, configuration};
use spectrum_tests::state::State;

on_one_path!(
    either_amid_a_start,
    the_steerer_while_it_replaces_its_worker_process,
    the_worker_process_amid_a_reload,
    the_steerer_amid_an_upgrade,
    the_worker_process_amid_an_upgrade,
    either_amid_a_stop,
);

/// The name of the program.
const INSTANCE: &str = "spectrum-user";

/// What whoever finds a dead instance does: cleans, or starts another one.
fn go_on(case: &Case, before: &State, what: &str, nth: usize) {
    // A worker process has nobody to tell it anything any more.
    eventually(&format!("the end of all processes after {what}"), PATIENCE, || {
        processes(&case.server, INSTANCE).is_empty().then_some(())
    });
    if nth.is_multiple_of(2) {
        let next = case.start_on_both("");
        assert_answered(&case.server, &case.targets_of_both());
        next.stop();
    } else {
        let cleaned = Launch::new(&case.server).arguments("clean").finish();
        assert_eq!(cleaned.code(), 0, "after {what}: {cleaned}");
    }
    before.assert_restored(&case.server, what);
}

/// The numbers of calls at which something is killed: each of the first, then ever fewer, and others in each run.
fn moments(random: &mut Random) -> impl Iterator<Item = usize> + use<> {
    let mut random = Random::from_seed(random.bits());
    std::iter::successors(Some(1), move |nth| Some(nth + 1 + random.below::<usize>(*nth as u64 * 2)))
        .take_while(|nth| *nth < 120)
}

/// The effects of each path, by which it gets on.
fn effects(case: &Case) -> &'static [&'static str] {
    if case.path == Path::SkLookup { &["bpf", "sendmsg", "listen"] } else { &["clone3", "sendto", "sendmsg"] }
}

fn met(test: &str) -> bool {
    require::met(test, &[Need::Strace])
}

fn either_amid_a_start(case: &mut Case) {
    if !met("either_amid_a_start") {
        return;
    }
    let strace = find_in_path("strace").unwrap();
    let before = State::of(&case.server);
    let mut killed = 0;
    for call in two_of(effects(case), &mut case.random) {
        for nth in moments(&mut case.random) {
            let what = format!("SIGKILL by {call} number {nth} of a start");
            // Of a thread, so that worker processes are killed as well, one after another.
            let through = format!(
                "{} -D -f -o {LOG} -e trace={call} -e inject={call}:signal=SIGKILL:when={nth}",
                strace.display()
            );
            let instance = case.launch(BOTH_PREFIXES).through(&through).spawn();
            let pid = instance.pid();
            let finished = match instance.await_ready_or_end() {
                Ok(instance) => instance.finish_after(Signal::SIGTERM),
                Err(finished) => finished,
            };
            assert!(is_explained(&finished), "after {what}: {finished}");
            let happened = finished.status.signal().is_some() || has_killed_beside(&case.server, pid);
            for tracer in processes(&case.server, "/strace") {
                let _ = kill(Pid::from_raw(tracer.cast_signed()), Signal::SIGKILL);
            }
            go_on(case, &before, &what, nth);
            if !happened {
                break;
            }
            killed += 1;
        }
    }
    assert!(killed > 0, "{killed} deaths");
}

fn the_steerer_while_it_replaces_its_worker_process(case: &mut Case) {
    if !met("the_steerer_while_it_replaces_its_worker_process") {
        return;
    }
    let before = State::of(&case.server);
    let mut killed = 0;
    for call in two_of(&["sendmsg", "pidfd_open", "epoll_ctl"], &mut case.random) {
        for nth in moments(&mut case.random) {
            let what = format!("SIGKILL of the steerer by {call} number {nth}");
            let mut instance = case.start_on_both("");
            let fault = Fault::inject_into(
                &case.server,
                &[instance.pid()],
                call,
                &format!("signal=SIGKILL:when={nth}"),
            );
            instance.signal_worker(Signal::SIGKILL);
            let survived = eventually("another worker process or death", PATIENCE, || {
                if instance.is_running() {
                    (count_logged(&instance, "another worker process serves") > 0).then_some(true)
                } else {
                    Some(false)
                }
            });
            drop(fault);
            // It may have been killed after it said so.
            if survived && instance.is_running() {
                assert_answered(&case.server, &case.targets_of_both());
                instance.stop();
                before.assert_restored(&case.server, "another worker process and a stop");
                break;
            }
            killed += 1;
            drop(instance);
            go_on(case, &before, &what, nth);
        }
    }
    assert!(killed > 0, "{killed} deaths");
}

fn services(name: &'static str, answer: &'static str) -> String {
    configuration(&[Service::new(name, answer, &["tcp 192.0.2.0/24 80", "tcp 2001:db8::/64 80"])])
}

fn assert_answered_by(case: &Case, service: &str) {
    for target in ["192.0.2.9:80", "[2001:db8::9]:80"] {
        let heard =
            dial(&case.server, target.parse().unwrap()).unwrap_or_else(|error| panic!("{target}: {error}"));
        assert!(heard.text.contains(&format!("service={service} ")), "{heard:?}");
    }
}

fn the_worker_process_amid_a_reload(case: &mut Case) {
    if !met("the_worker_process_amid_a_reload") {
        return;
    }
    let before = State::of(&case.server);
    let mut killed = 0;
    for call in ["recvmsg", "sendmsg"] {
        for nth in moments(&mut case.random) {
            configure(&case.server, &services("one", "hello"));
            let instance = case.start(CONFIG);
            let worker = instance.worker();
            let fault =
                Fault::inject_into(&case.server, &[worker], call, &format!("signal=SIGKILL:when={nth}"));
            configure(&case.server, &services("other", "hello"));
            let outcome = reload(&case.server, &instance);
            let happened = fault.killed();
            let serving = if outcome.is_ok() { "other" } else { "one" };
            // Whoever comes while nobody accepts waits for who does.
            assert_answered_by(case, serving);
            if let Err(refused) = outcome {
                assert!(happened, "{refused:?}");
                reload(&case.server, &instance)
                    .unwrap_or_else(|refused| panic!("after {call} {nth}: {refused:?}"));
                assert_answered_by(case, "other");
            }
            if happened {
                eventually("another worker process", PATIENCE, || {
                    worker_of(instance.pid()).filter(|now| *now != worker)
                });
            }
            let (steerer, mut last) = (instance.pid(), Vec::new());
            eventually("no process but these", PATIENCE, || {
                last = processes(&case.server, INSTANCE);
                (last.len() == 2 && last.contains(&steerer)).then_some(())
            });
            instance.stop();
            before.assert_restored(
                &case.server,
                &format!("death of the worker process by {call} number {nth} and a stop"),
            );
            if !happened {
                break;
            }
            killed += 1;
        }
    }
    assert!(killed > 0, "{killed} deaths");
}

/// Two of `calls`, others in each run.
fn two_of(calls: &[&'static str], random: &mut Random) -> [&'static str; 2] {
    let first = random.below::<usize>(calls.len() as u64);
    let second = (first + 1 + random.below::<usize>(calls.len() as u64 - 1)) % calls.len();
    [calls[first], calls[second]]
}

/// The calls that a steerer makes while it becomes another version, and in its first steps as that.
fn steps_of_an_upgrade(case: &Case) -> [&'static str; 4] {
    ["memfd_create", "sendmsg", "epoll_ctl", if case.path == Path::SkLookup { "bpf" } else { "sendto" }]
}

fn the_steerer_amid_an_upgrade(case: &mut Case) {
    if !met("the_steerer_amid_an_upgrade") {
        return;
    }
    let before = State::of(&case.server);
    let mut killed = 0;
    for call in two_of(&steps_of_an_upgrade(case), &mut case.random) {
        for nth in moments(&mut case.random) {
            let what = format!("SIGKILL by {call} number {nth} of an upgrade");
            let mut instance = case.start_on_both("");
            let fault = Fault::inject_into(
                &case.server,
                &[instance.pid()],
                call,
                &format!("signal=SIGKILL:when={nth}"),
            );
            let upgraded = Launch::new(&case.server).arguments("upgrade").finish();
            let happened = fault.killed();
            assert!(is_explained(&upgraded), "after {what}: {upgraded}");
            if instance.is_running() {
                // What is killed may be a child as well: the trial, or a worker process.
                assert!(happened || upgraded.code() == 0, "after {what}: {upgraded}\n{}", instance.stderr());
                assert_answered(&case.server, &case.targets_of_both());
                instance.stop();
                before.assert_restored(&case.server, &format!("{what} and a stop"));
            } else {
                drop(instance);
                go_on(case, &before, &what, nth);
            }
            if !happened {
                break;
            }
            killed += 1;
        }
    }
    assert!(killed > 0, "{killed} deaths");
}

fn the_worker_process_amid_an_upgrade(case: &mut Case) {
    if !met("the_worker_process_amid_an_upgrade") {
        return;
    }
    let before = State::of(&case.server);
    let mut killed = 0;
    for call in ["recvmsg", "sendmsg"] {
        for nth in moments(&mut case.random) {
            let what = format!("death of the worker process by {call} number {nth} of an upgrade");
            let instance = case.start_on_both("");
            let worker = instance.worker();
            let fault =
                Fault::inject_into(&case.server, &[worker], call, &format!("signal=SIGKILL:when={nth}"));
            let upgraded = Launch::new(&case.server).arguments("upgrade").finish();
            let happened = fault.killed();
            assert!(is_explained(&upgraded), "after {what}: {upgraded}");
            assert!(happened || upgraded.code() == 0, "after {what}: {upgraded}\n{}", instance.stderr());
            // Whoever comes while nobody accepts waits for who does.
            assert_answered(&case.server, &case.targets_of_both());
            eventually("the end of the one before", PATIENCE, || {
                worker_of(instance.pid()).filter(|now| !happened || *now != worker)
            });
            instance.stop();
            before.assert_restored(&case.server, &format!("{what} and a stop"));
            if !happened {
                break;
            }
            killed += 1;
        }
    }
    assert!(killed > 0, "{killed} deaths");
}

fn either_amid_a_stop(case: &mut Case) {
    if !met("either_amid_a_stop") {
        return;
    }
    let before = State::of(&case.server);
    let mut killed = 0;
    let calls = [if case.path == Path::SkLookup { "bpf" } else { "sendto" }, "sendmsg", "unlink", "recvmsg"];
    for call in two_of(&calls, &mut case.random) {
        for nth in moments(&mut case.random) {
            let what = format!("SIGKILL by {call} number {nth} of a stop");
            let instance: Instance = case.start_on_both("");
            let fault =
                Fault::inject(&case.server, instance.pid(), call, &format!("signal=SIGKILL:when={nth}"));
            instance.signal(Signal::SIGTERM);
            let finished = instance.finish(PATIENCE);
            let happened = fault.killed();
            assert!(is_explained(&finished), "after {what}: {finished}");
            go_on(case, &before, &what, nth);
            if !happened {
                break;
            }
            killed += 1;
        }
    }
    assert!(killed > 0, "{killed} deaths");
}

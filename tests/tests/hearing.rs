//! That signals and whoever asks are heard at every moment of an instance's life, and that who asks costs who serves nothing.
//! Does not test what the answers say of a running instance: `seeing.rs` does.

#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use spectrum_tests::case::Case;
use spectrum_tests::control::{self, configure, connect};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_answered, call};
use spectrum_tests::instance::Instance;
use spectrum_tests::netns::Netns;
use spectrum_tests::nft_fault::NftFault;
use spectrum_tests::on_each_path;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::require;
use spectrum_tests::state::State;

on_each_path!(
    told_to_stop_during_a_start_it_stops_at_once,
    during_a_reload_it_answers_and_told_to_stop_it_stops_at_once,
    while_it_drains_it_answers_and_refuses_to_reload,
);

/// Far less than what is waited for otherwise, and time enough for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Whatever it waits for: here another instance that starts, and never comes to an end with it.
fn told_to_stop_during_a_start_it_stops_at_once(case: &mut Case) {
    let before = State::of(&case.server);
    let held = hold_registry(&case.server);
    let instance = case.launch("--prefix 192.0.2.0/24 --prefix 2001:db8::/64").spawn();
    await_catching(&instance);
    stop_at_once(instance);
    release_registry(&case.server, held);
    before.assert_restored(&case.server, "a start that was given up");
}

fn during_a_reload_it_answers_and_told_to_stop_it_stops_at_once(case: &mut Case) {
    let before = State::of(&case.server);
    let service = |prefix: &str| {
        format!(
            "[[service]]\nname = \"default\"\nbindings = [{{ prefix = \"{prefix}\" }}]\nrespond = \"hello\"\n"
        )
    };
    configure(&case.server, &service("192.0.2.0/24"));
    let instance = case.start(control::CONFIG);
    let target: SocketAddr = "192.0.2.9:443".parse().unwrap();
    configure(&case.server, &service("198.51.100.0/24"));
    let held = hold_registry(&case.server);
    let mut reload = connect(&case.server, &instance);
    reload.send("reload");
    let begun = Instant::now();
    eventually("the state of an instance that reloads", AT_ONCE, || {
        let status = connect(&case.server, &instance).ask("status").unwrap();
        (status["state"] == "reloading").then_some(())
    });
    assert_eq!(connect(&case.server, &instance).ask("bindings").unwrap()[0]["prefix"], "192.0.2.0/24");
    assert_answered(&case.server, &[target]);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    instance.signal(Signal::SIGTERM);
    let refused = reload.answer().unwrap_err();
    assert!(refused.message.contains("being told to stop"), "{refused:?}");
    assert_eq!(instance.finish(AT_ONCE).code(), 0);
    release_registry(&case.server, held);
    before.assert_restored(&case.server, "a reload that was given up, and a stop");
}

fn while_it_drains_it_answers_and_refuses_to_reload(case: &mut Case) {
    let before = State::of(&case.server);
    let config =
        "[[service]]\nname = \"a\"\nbindings = [{ prefix = \"192.0.2.0/24\" }]\nrespond = \"echo\"\n";
    configure(&case.server, config);
    let instance = case.start(&format!("{} --drain 10m", control::CONFIG));
    let mut open = call(&case.server, "192.0.2.9:443".parse().unwrap()).unwrap();
    open.write_all(b"x").unwrap();
    open.read_exact(&mut [0]).unwrap();
    instance.signal(Signal::SIGTERM);
    let status = eventually("the state of an instance that drains", PATIENCE, || {
        let status = connect(&case.server, &instance).ask("status").unwrap();
        (status["state"] == "draining").then_some(status)
    });
    assert_eq!(status["services"][0]["open"], 1, "{status}");
    assert_eq!(status["mode"], case.path.mode(), "{status}");
    let refused = control::reload(&case.server, &instance).unwrap_err();
    assert!(refused.message.contains("the instance is draining, since it was told to stop"), "{refused:?}");
    // It is still there, and the second signal cuts it.
    open.write_all(b"y").unwrap();
    open.read_exact(&mut [0]).unwrap();
    stop_at_once(instance);
    assert!(open.read(&mut [0]).is_err());
    before.assert_restored(&case.server, "a drain that was watched");
}

#[test]
fn told_to_stop_while_the_firewall_hangs_it_stops_at_once() {
    let Some(case) = one("told_to_stop_while_the_firewall_hangs_it_stops_at_once", Path::TproxyNftables)
    else {
        return;
    };
    let before = State::of(&case.server);
    let instance = {
        let _hanging = NftFault::hanging(&case.server);
        let instance = case.launch("--prefix 192.0.2.0/24").spawn();
        await_catching(&instance);
        eventually("a socket to ask", PATIENCE, || {
            let asked = case.server.run(|| UnixStream::connect(socket(&case.server, &instance)));
            asked.ok().map(drop)
        });
        let status =
            eventually("what it is about", PATIENCE, || connect(&case.server, &instance).ask("status").ok());
        assert_eq!(status["state"], "starting", "{status}");
        let refused = connect(&case.server, &instance).explain("192.0.2.7:1").unwrap_err();
        assert!(
            refused.message.contains("nothing is steered, since the instance is starting"),
            "{refused:?}"
        );
        instance.signal(Signal::SIGTERM);
        instance
    };
    assert_eq!(instance.finish(AT_ONCE).code(), 0);
    before.assert_restored(&case.server, "a start whose firewall hung");
}

/// Many who say nothing, many who ask for much and do not read it, many who leave before they are answered.
#[test]
fn who_asks_takes_nothing_from_who_serves() {
    let Some(case) = one("who_asks_takes_nothing_from_who_serves", Path::SkLookup) else { return };
    let bindings: Vec<String> = (0..20_000)
        .map(|at| format!("{{ prefix = \"10.{}.{}.{}\" }},", at / 65_536, at / 256 % 256, at % 256))
        .collect();
    configure(
        &case.server,
        &format!(
            "[[service]]\nname = \"default\"\nrespond = \"hello\"\nbindings = [{}]\n",
            bindings.concat()
        ),
    );
    let instance = case.start(control::CONFIG);
    let target: SocketAddr = "10.0.1.2:80".parse().unwrap();
    let (descriptors, memory) = (descriptors_of(&instance), memory_of(&instance));
    let path = socket(&case.server, &instance);
    let connected = || {
        let stream = case.server.run(|| UnixStream::connect(&path)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let silent: Vec<UnixStream> = (0..300).map(|_| connected()).collect();
    let slow: Vec<UnixStream> = (0..100)
        .map(|_| {
            let mut stream = connected();
            stream.write_all(b"{\"request\":\"bindings\"}\n").unwrap();
            stream
        })
        .collect();
    for _ in 0..200 {
        let mut stream = connected();
        stream.write_all(b"{\"request\":\"status\"}\n").unwrap();
    }
    let begun = Instant::now();
    let mut most = 0;
    for _ in 0..5 {
        let status = connect(&case.server, &instance).ask("status").unwrap();
        assert_eq!(status["services"][0]["bindings"], 20_000);
        assert_answered(&case.server, &[target]);
        most = most.max(descriptors_of(&instance));
    }
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert!(most <= descriptors + 24, "{most} descriptors instead of {descriptors}");
    let grown = memory_of(&instance).saturating_sub(memory);
    assert!(grown < 30 << 20, "{grown} bytes more");
    control::reload(&case.server, &instance).unwrap();
    drop((silent, slow));
    // Whoever reads gets all of it.
    assert_eq!(connect(&case.server, &instance).ask("bindings").unwrap().as_array().unwrap().len(), 20_000);
    stop_at_once(instance);
}

#[test]
fn a_pipe_that_nobody_writes_to_keeps_nobody_waiting() {
    let Some(case) = one("a_pipe_that_nobody_writes_to_keeps_nobody_waiting", Path::SkLookup) else { return };
    configure(
        &case.server,
        "[[service]]\nname = \"a\"\nbindings = [{ prefix = \"192.0.2.0/24\" }]\nrespond = \"hello\"\n",
    );
    let instance = case.start(control::CONFIG);
    let pipe = "/run/spectrum.toml";
    case.server.run(|| {
        fs::remove_file(pipe).unwrap();
        nix::unistd::mkfifo(pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    });
    let mut reload = connect(&case.server, &instance);
    reload.send("reload");
    eventually("the state of an instance that reloads", PATIENCE, || {
        let status = connect(&case.server, &instance).ask("status").unwrap();
        (status["state"] == "reloading").then_some(())
    });
    let begun = Instant::now();
    instance.signal(Signal::SIGTERM);
    assert!(reload.answer().is_err());
    assert_eq!(instance.finish(AT_ONCE).code(), 0);
    assert!(begun.elapsed() < AT_ONCE);
}

#[test]
fn reloads_that_come_too_fast_are_refused_and_the_last_signal_is_obeyed() {
    let Some(case) = one("reloads_that_come_too_fast_are_refused", Path::SkLookup) else { return };
    let service = |name: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\nbindings = [{{ prefix = \"192.0.2.0/24\" }}]\nrespond = \"hello\"\n"
        )
    };
    configure(&case.server, &service("a"));
    let instance = case.start(control::CONFIG);
    let held = hold_registry(&case.server);
    let mut asked: Vec<_> = (0..10).map(|_| connect(&case.server, &instance)).collect();
    for one in &mut asked {
        one.send("reload");
    }
    // Which of them come too late is not said.
    let late =
        eventually("one that is refused", PATIENCE, || asked.iter().position(control::Control::has_answered));
    let refused = asked.swap_remove(late).answer().unwrap_err();
    assert!(refused.message.contains("the instance is busy"), "{refused:?}");
    configure(&case.server, &service("b"));
    instance.signal(Signal::SIGHUP);
    release_registry(&case.server, held);
    let answers: Vec<_> = asked.into_iter().map(control::Control::answer).collect();
    assert!(answers.iter().filter(|answer| answer.is_ok()).count() >= 4, "{answers:?}");
    // A reload of its own, or one that waited already and reads the file after the signal.
    eventually("the last configuration", PATIENCE, || {
        let status = connect(&case.server, &instance).ask("status").unwrap();
        (status["services"][0]["name"] == "b").then_some(())
    });
    stop_at_once(instance);
}

/// A case of one path, where what is tested has nothing to do with the others.
fn one(test: &str, path: Path) -> Option<Case> {
    require::met(test, path.needs()).then(|| Case::new(path, Family::V4))
}

fn socket(netns: &Netns, instance: &Instance) -> String {
    format!("/run/spectrum/{}/{}.sock", netns.inode(), instance.id(netns))
}

/// The lock of those who start and reload, until it is dropped.
fn hold_registry(netns: &Netns) -> File {
    let directory = format!("/run/spectrum/{}", netns.inode());
    netns.run(|| {
        fs::create_dir_all(&directory).unwrap();
        let lock = File::create(format!("{directory}/lock")).unwrap();
        lock.lock().unwrap();
        lock
    })
}

/// Lets go of it as an instance does: with what nobody uses any more.
fn release_registry(netns: &Netns, held: File) {
    let directory = format!("/run/spectrum/{}", netns.inode());
    netns.run(|| {
        if fs::read_dir(&directory).unwrap().count() == 1 {
            fs::remove_dir_all(&directory).unwrap();
        }
    });
    drop(held);
}

/// Waits until SIGTERM does not simply end it any more.
fn await_catching(instance: &Instance) {
    let path = format!("/proc/{}/status", instance.pid());
    eventually("that SIGTERM is caught", PATIENCE, || {
        let status = fs::read_to_string(&path).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
        (caught & (1 << (Signal::SIGTERM as u32 - 1)) != 0).then_some(())
    });
}

fn stop_at_once(instance: Instance) {
    let begun = Instant::now();
    instance.signal(Signal::SIGTERM);
    let finished = instance.finish(AT_ONCE);
    assert_eq!(finished.code(), 0, "{finished}");
    assert!(begun.elapsed() < AT_ONCE, "{finished}");
}

fn descriptors_of(instance: &Instance) -> usize {
    fs::read_dir(format!("/proc/{}/fd", instance.pid())).unwrap().count()
}

/// The memory of its own, in bytes.
fn memory_of(instance: &Instance) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", instance.pid())).unwrap();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    kilobytes.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() << 10
}

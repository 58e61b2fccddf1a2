//! Announcing: that device and route are there for as long as a prefix can be served, by whatever end, and that the end loses nobody.
//! What BGP daemons make of it is tested with them.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, await_logged, configure, reload};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_answered, dial};
use spectrum_tests::instance::{Finished, Instance, Launch};
use spectrum_tests::require::{Need, met};
use spectrum_tests::state::State;
use spectrum_tests::{on_each_path, on_every_path, on_one_path};

on_every_path!(a_prefix_is_announced_from_ready_on_and_gone_with_the_process_however_that_ends);
on_each_path!(the_end_withdraws_first_and_loses_nobody_who_still_comes);
on_one_path!(
    what_is_withdrawn_by_hand_stays_so_over_restarts_until_it_is_announced,
    a_damaged_state_file_is_told_of_and_stops_nothing,
    a_service_without_origins_is_withdrawn_and_comes_back_without_flapping,
    a_route_or_device_that_somebody_removes_is_put_back,
    a_reload_changes_what_is_announced_and_neither_a_crash_of_the_worker_process_nor_an_upgrade_does,
    a_reload_withdraws_what_it_removes_and_serves_it_until_routers_know,
    a_route_of_somebody_else_is_left_alone_and_told_of,
    a_host_without_the_tun_device_is_told_what_it_lacks,
);

/// The routes of ours in the main table, in both families.
fn announced(case: &Case) -> Vec<String> {
    let lines =
        ["-4", "-6"].map(|family| case.server.ip(&format!("{family} route show table main proto 83")));
    let lines = lines.iter().flat_map(|text| text.lines());
    lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

fn devices(case: &Case) -> usize {
    case.server.ip("-o link show").lines().filter(|line| line.contains(": spectrum")).count()
}

fn await_announced(case: &Case, prefixes: &[&str]) {
    eventually(&format!("announced: {prefixes:?}"), PATIENCE, || (announced(case) == prefixes).then_some(()));
}

/// A configuration that announces what it serves.
fn configured(case: &Case, more: &str) {
    let prefix = case.prefix();
    let text = format!(
        "[[service]]\nname = \"default\"\nrespond = \"hello\"\nannounce = true\nbindings = [{{ prefix = \"{prefix}\" }}]\n{more}"
    );
    configure(&case.server, &text);
}

fn start(case: &Case) -> Instance {
    let instance = case.start(CONFIG);
    await_announced(case, &[case.prefix()]);
    instance
}

fn verb(case: &Case, words: &str) -> Finished {
    Launch::new(&case.server).arguments(words).finish()
}

fn announcements(case: &Case) -> Value {
    let finished = verb(case, "status --json");
    let status: Value =
        serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"));
    status["announcements"].clone()
}

fn is_possible(case: &str) -> bool {
    met(case, &[Need::Tun])
}

fn a_prefix_is_announced_from_ready_on_and_gone_with_the_process_however_that_ends(case: &mut Case) {
    if !is_possible("a_prefix_is_announced") {
        return;
    }
    let before = State::of(&case.server);
    configured(case, "[announce]\nlame-duck = \"100ms\"\n");
    let instance = start(case);
    let device = case.server.ip("-o addr show");
    assert!(!device.contains("spectrum"), "the device has an address: {device}");
    assert!(case.server.ip("-o link show dev spectrum0").contains(",UP"));
    let target = case.any_target();
    assert_answered(&case.server, &[target]);
    assert_eq!(announcements(case)[0]["announced"], true);
    let shown = verb(case, "status").stdout;
    assert!(shown.contains(&format!("announcement: {} announced by spectrum0", case.prefix())), "{shown}");
    instance.stop();
    before.assert_restored(&case.server, "an end");
    let instance = start(case);
    instance.kill();
    eventually("the device gone", PATIENCE, || (devices(case) == 0).then_some(()));
    assert_eq!(announced(case), [""; 0]);
    start(case).stop();
    before.assert_restored(&case.server, "a kill, a start and an end");
}

fn the_end_withdraws_first_and_loses_nobody_who_still_comes(case: &mut Case) {
    if !is_possible("the_end_withdraws_first") {
        return;
    }
    configured(case, "[announce]\nlame-duck = \"1h\"\n");
    let instance = start(case);
    let target = case.any_target();
    let (is_over, is_withdrawn) = (AtomicBool::new(false), AtomicBool::new(false));
    let server = &case.server;
    thread::scope(|scope| {
        let dialling = scope.spawn(|| {
            let mut answered = (0, 0);
            while !is_over.load(Ordering::Relaxed) || answered.1 == 0 {
                let late = is_withdrawn.load(Ordering::Relaxed);
                let heard = dial(server, target);
                assert!(heard.unwrap().text.starts_with("hello world"));
                if late { answered.1 += 1 } else { answered.0 += 1 }
            }
            answered
        });
        instance.signal(Signal::SIGTERM);
        await_announced(case, &[]);
        is_withdrawn.store(true, Ordering::Relaxed);
        let refused = verb(case, "reload");
        assert!(refused.stderr.contains("draining, since it was told to stop"), "{refused}");
        is_over.store(true, Ordering::Relaxed);
        let (_, late) = dialling.join().unwrap();
        assert!(late > 0, "nobody came after it was withdrawn");
    });
    await_logged(&instance, "told to stop: nothing is announced any more", 1);
    // A second order ends it at once.
    assert_eq!(instance.finish_after(Signal::SIGTERM).code(), 0);
}

fn what_is_withdrawn_by_hand_stays_so_over_restarts_until_it_is_announced(case: &mut Case) {
    if !is_possible("what_is_withdrawn_by_hand") {
        return;
    }
    configured(case, "[announce]\nlame-duck = \"0s\"\n");
    let prefix = case.prefix();
    let target = case.any_target();
    let instance = start(case);
    let withdrawn = verb(case, &format!("withdraw {prefix} --why disk"));
    assert!(withdrawn.stdout.starts_with(&format!("{prefix} withdrawn: by hand (disk)")), "{withdrawn}");
    await_announced(case, &[]);
    assert_answered(&case.server, &[target]);
    let explained = verb(case, &format!("explain tcp {target}"));
    assert!(
        explained.stdout.contains(&format!("to routers {prefix} is withdrawn: by hand (disk)")),
        "{explained}"
    );
    instance.stop();

    let instance = case.start(CONFIG);
    eventually("the word of the one before", PATIENCE, || {
        (announcements(case)[0]["by_hand"] == true).then_some(())
    });
    assert_eq!(announced(case), [""; 0]);
    assert_answered(&case.server, &[target]);
    let wrong = verb(case, "withdraw 203.0.113.0/24");
    assert_eq!(wrong.code(), 2, "{wrong}");
    assert!(wrong.stderr.contains(&format!("is not what is announced; there is {prefix}")), "{wrong}");
    let announced = verb(case, "announce --json");
    let answer: Value = serde_json::from_str(&announced.stdout).unwrap();
    assert_eq!((&answer["announcements"][0]["announced"], &answer["unsaved"]), (&true.into(), &Value::Null));
    await_announced(case, &[prefix]);
    instance.stop();
    start(case).stop();
}

fn a_damaged_state_file_is_told_of_and_stops_nothing(case: &mut Case) {
    if !is_possible("a_damaged_state_file") {
        return;
    }
    configured(case, "[announce]\nlame-duck = \"0s\"\n");
    let state = "/run/state";
    case.server.run(|| {
        std::fs::create_dir_all(state).unwrap();
        std::fs::write(format!("{state}/withdrawn"), "{\"192.0.2.0/24\"").unwrap();
    });
    let instance = case.launch(CONFIG).environment("STATE_DIRECTORY", state).start();
    await_announced(case, &[case.prefix()]);
    await_logged(&instance, "nothing is withdrawn therefore", 1);
    let status = verb(case, "status");
    assert!(status.stdout.contains("announcement: read /run/state/withdrawn"), "{status}");
    assert_eq!(verb(case, "withdraw").code(), 0);
    let text = case.server.run(|| std::fs::read_to_string(format!("{state}/withdrawn"))).unwrap();
    assert!(text.contains(case.prefix()), "{text}");
    instance.stop();
}

fn a_service_without_origins_is_withdrawn_and_comes_back_without_flapping(case: &mut Case) {
    if !is_possible("a_service_without_origins") {
        return;
    }
    let listen = |case: &Case, address: SocketAddr| {
        let listener = case.server.run(|| {
            let family = if address.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
            let socket = socket2::Socket::new(family, socket2::Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(64)?;
            std::io::Result::Ok(TcpListener::from(socket))
        });
        let listener = listener.unwrap();
        listener.set_nonblocking(true).unwrap();
        let (address, open) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(true)));
        let is_open = Arc::clone(&open);
        let serving = case.server.spawn(move || {
            while is_open.load(Ordering::Relaxed) {
                if let Ok((mut stream, _)) = listener.accept() {
                    let _ = stream.write_all(b"origin");
                } else {
                    thread::yield_now();
                    thread::park_timeout(Duration::from_millis(5));
                }
            }
        });
        (address, open, serving)
    };
    let close = |open: &AtomicBool, serving: thread::JoinHandle<()>| {
        open.store(false, Ordering::Relaxed);
        serving.join().unwrap();
    };
    let (origin, open, serving) = listen(case, SocketAddr::new(case.loopback(), 0));
    let prefix = case.prefix();
    configure(
        &case.server,
        &format!(
            "[announce]\nrise = \"300ms\"\nfall = \"200ms\"\nhold = \"1s\"\nlame-duck = \"0s\"\n\
             [[service]]\nname = \"web\"\nannounce = true\nannounce-when = \"origins >= 1\"\n\
             bindings = [{{ prefix = \"{prefix}\" }}]\norigins = [\"{origin}\"]\n\
             health = {{ interval = \"100ms\", timeout = \"10s\", rise = 1, fall = 2 }}\n"
        ),
    );
    let instance = start(case);
    close(&open, serving);
    await_announced(case, &[]);
    let shown = announcements(case);
    assert_eq!(shown[0]["reasons"][0], "0 of the origins of web up, 1 needed");
    await_logged(&instance, "withdrawn: 0 of the origins of web up, 1 needed", 1);
    let back = Instant::now();
    let (_, open, serving) = listen(case, origin);
    await_announced(case, &[prefix]);
    assert!(back.elapsed() >= Duration::from_millis(300), "it came back before it had risen");
    close(&open, serving);
    instance.stop();
}

fn a_route_or_device_that_somebody_removes_is_put_back(case: &mut Case) {
    if !is_possible("a_route_or_device") {
        return;
    }
    configured(case, "[announce]\nlame-duck = \"0s\"\n");
    let (prefix, family) = (case.prefix(), case.family.pick("-4", "-6"));
    let instance = start(case);
    let removals = [
        format!("{family} route del {prefix} proto 83"),
        "link del spectrum0".to_owned(),
        "link set spectrum0 down".to_owned(),
    ];
    for (index, removal) in removals.iter().enumerate() {
        case.server.ip(removal);
        await_logged(&instance, &format!("the route that announces {prefix}"), index + 1);
        await_announced(case, &[prefix]);
        assert!(case.server.ip("-o link show dev spectrum0").contains(",UP"));
    }
    instance.stop();
}

fn a_reload_changes_what_is_announced_and_neither_a_crash_of_the_worker_process_nor_an_upgrade_does(
    case: &mut Case,
) {
    if !is_possible("a_reload_changes") {
        return;
    }
    let service = |announce: &str, more: &str| {
        format!(
            "[announce]\nlame-duck = \"0s\"\n[[service]]\nname = \"default\"\nrespond = \"hello\"\n{announce}\n\
             bindings = [{{ prefix = [\"192.0.2.0/24\", \"2001:db8::/64\"] }}]\n{more}"
        )
    };
    configure(&case.server, &service("", ""));
    let instance = case.start(CONFIG);
    assert_eq!(announcements(case), Value::Null);
    assert_eq!(devices(case), 0);
    configure(&case.server, &service("announce = true", ""));
    reload(&case.server, &instance).unwrap();
    await_announced(case, &["192.0.2.0/24", "2001:db8::/64"]);
    configure(&case.server, &service("announce = [\"192.0.0.0/16\"]", ""));
    reload(&case.server, &instance).unwrap();
    await_announced(case, &["192.0.0.0/16"]);
    // Neither a reload nor the end of the worker process withdraws what stays.
    let mut monitor = Monitor::of(case);
    reload(&case.server, &instance).unwrap();
    instance.signal_worker(Signal::SIGKILL);
    await_logged(&instance, "another worker process serves", 1);
    assert_answered(&case.server, &case.targets_of_both());
    // Nor does another version of the program.
    let upgraded = verb(case, "upgrade");
    assert_eq!(upgraded.code(), 0, "{upgraded}");
    await_logged(&instance, "upgraded", 1);
    await_announced(case, &["192.0.0.0/16"]);
    assert_answered(&case.server, &case.targets_of_both());
    eventually("announced by the next version", PATIENCE, || {
        (announcements(case)[0]["announced"] == true).then_some(())
    });
    assert_eq!(monitor.deleted(), "");
    configure(&case.server, &service("", ""));
    reload(&case.server, &instance).unwrap();
    await_announced(case, &[]);
    eventually("no device", PATIENCE, || (devices(case) == 0).then_some(()));
    instance.stop();
}

fn a_reload_withdraws_what_it_removes_and_serves_it_until_routers_know(case: &mut Case) {
    if !is_possible("a_reload_withdraws") {
        return;
    }
    let other = case.family.pick("198.18.7.0/24", "2001:db8:7::/64");
    let serving = |prefixes: &[&str], lame_duck: &str| {
        let bindings: Vec<String> =
            prefixes.iter().map(|prefix| format!("{{ prefix = \"{prefix}\" }}")).collect();
        format!(
            "[announce]\nlame-duck = \"{lame_duck}\"\n[[service]]\nname = \"default\"\nrespond = \"hello\"\nannounce = true\n\
             bindings = [{}]\n",
            bindings.join(", ")
        )
    };
    let (prefix, target) = (case.prefix(), case.any_target());
    configure(&case.server, &serving(&[prefix, other], "100ms"));
    let instance = case.start(CONFIG);
    await_announced(case, &[prefix, other]);
    configure(&case.server, &serving(&[other], "1h"));
    reload(&case.server, &instance).unwrap();
    await_logged(&instance, "announced no more, and served for 100ms until it is removed", 1);
    assert_eq!(announced(case), [other]);
    spectrum_tests::dial::assert_refused(&case.server, &[target]);

    configure(&case.server, &serving(&[prefix, other], "1h"));
    reload(&case.server, &instance).unwrap();
    await_announced(case, &[prefix, other]);
    configure(&case.server, &serving(&[other], "1h"));
    let control = spectrum_tests::control::connect(&case.server, &instance);
    thread::scope(|scope| {
        let reloading = scope.spawn(|| {
            let mut control = control;
            control.send("reload");
            control.answer()
        });
        await_announced(case, &[other]);
        // It waits, and what it removes is served on, whoever dies meanwhile.
        assert_answered(&case.server, &[target]);
        instance.signal_worker(Signal::SIGKILL);
        await_logged(&instance, "another worker process serves", 1);
        assert_answered(&case.server, &[target]);
        assert_eq!(announced(case), [other]);
        let told = announcements(case);
        assert_eq!(told[0]["reasons"][0], "a reload is about to remove it", "{told}");
        instance.signal(Signal::SIGTERM);
        let refused = reloading.join().unwrap().unwrap_err();
        assert!(refused.message.contains("told to stop"), "{refused:?}");
        await_announced(case, &[]);
        assert_answered(&case.server, &[target]);
    });
    assert_eq!(instance.finish_after(Signal::SIGTERM).code(), 0);
}

fn a_route_of_somebody_else_is_left_alone_and_told_of(case: &mut Case) {
    if !is_possible("a_route_of_somebody_else") {
        return;
    }
    configured(case, "[announce]\nlame-duck = \"0s\"\n");
    let (prefix, family) = (case.prefix(), case.family.pick("-4", "-6"));
    case.server.ip("link add other type veth peer name another");
    case.server.ip("link set other up");
    case.server.ip("link set another up");
    // The metric that the kernel gives a route without one.
    let metric = case.family.pick("", " metric 1024");
    case.server.ip(&format!("{family} route add {prefix} dev other{metric}"));
    let instance = case.start(CONFIG);
    await_logged(&instance, "the main table has a route for it that is not ours", 1);
    assert_eq!(announcements(case)[0]["announced"], false);
    assert!(case.server.ip(&format!("{family} route show {prefix}")).contains("dev other"));
    case.server.ip(&format!("{family} route del {prefix} dev other"));
    await_announced(case, &[prefix]);
    instance.stop();
}

fn a_host_without_the_tun_device_is_told_what_it_lacks(case: &mut Case) {
    configured(case, "");
    case.server.command("mount --bind /run /dev/net");
    let before = State::of(&case.server);
    let finished = case.launch(CONFIG).finish();
    assert_eq!(finished.code(), 1, "{finished}");
    assert!(
        finished.stderr.contains("open /dev/net/tun, by which prefixes are announced: there is none"),
        "{finished}"
    );
    before.assert_restored(&case.server, "a start that failed");
    let prefix = case.prefix();
    // What announces nothing needs none.
    case.start(&format!("--prefix {prefix}")).stop();
}

/// What the kernel tells of routes that go.
struct Monitor {
    child: std::process::Child,
}

impl Monitor {
    fn of(case: &Case) -> Self {
        let child = case.server.run(|| {
            std::process::Command::new("ip")
                .args(["monitor", "route"])
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        });
        Self { child }
    }

    /// The removals of routes on our device so far.
    fn deleted(&mut self) -> String {
        let _ = self.child.kill();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.child.stdout.take().unwrap(), &mut text).unwrap();
        let _ = self.child.wait();
        text.lines().filter(|line| line.starts_with("Deleted") && line.contains("dev spectrum")).collect()
    }
}

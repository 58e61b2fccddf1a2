//! An instance becomes another version of its program, in place: nobody who is connected notices, nobody who comes is refused, and what
//! cannot take over does not. That reloads, repairs and the end go on as before is tested here for after an upgrade only.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use serde_json::Value;
use spectrum_tests::admin::{await_value, metrics, value};
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, connect, reload};
use spectrum_tests::datagram::{bound, client, hear};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::call;
use spectrum_tests::instance::{Finished, Instance, Launch, program};
use spectrum_tests::origin::Origin;
use spectrum_tests::state::State;
use spectrum_tests::{on_every_path, on_one_path};

on_every_path!(
    an_upgrade_is_noticed_by_nobody,
    whoever_comes_meanwhile_is_served,
    what_it_has_is_kept_and_comes_down_after_all,
    sessions_of_datagrams_keep_their_ports,
);

on_one_path!(
    what_cannot_take_over_does_not,
    what_fails_while_it_takes_over_makes_way_for_the_one_before,
    what_crashes_while_it_takes_over_makes_way_as_well,
    what_hangs_while_it_takes_over_makes_way_in_time,
    sigusr2_is_an_upgrade_to_what_is_at_the_own_path,
    upgrades_follow_each_other_while_the_first_worker_process_drains,
    threads_of_one_process_are_not_upgraded,
    a_service_that_a_reload_removed_is_shown_until_its_last_connection_ends,
    the_configuration_is_the_one_that_is_in_force,
    reloads_and_upgrades_wait_for_each_other,
);

fn status(case: &Case) -> Value {
    let finished = Launch::new(&case.server).arguments("status --json").finish();
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"))
}

fn upgrade(case: &Case, arguments: &str) -> Finished {
    Launch::new(&case.server).arguments(&format!("upgrade {arguments}")).finish()
}

fn upgraded(case: &Case, instance: &Instance, arguments: &str) {
    let finished = upgrade(case, arguments);
    assert_eq!(finished.code(), 0, "{finished}\n{}", instance.stderr());
}

fn service(case: &Case, name: &str, port: u16, keys: &str) -> String {
    let prefix = case.prefix();
    format!(
        "[[service]]\nname = \"{name}\"\nbindings = [{{ prefix = \"{prefix}\", ports = {port} }}]\n{keys}\n"
    )
}

/// Says `text` and hears it again.
fn echoed(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text.as_bytes())?;
    let mut heard = vec![0; text.len()];
    stream.read_exact(&mut heard)?;
    assert_eq!(String::from_utf8_lossy(&heard), text);
    Ok(())
}

/// What the namespace holds, but for the program that a link runs: each version has its own.
fn held(case: &Case) -> Vec<String> {
    let state = State::of(&case.server);
    let sections = state.amounts().into_iter().flat_map(|(title, _)| state.section(title).to_vec());
    sections.map(|line| line.split(" of program ").next().unwrap_or_default().to_owned()).collect()
}

fn an_upgrade_is_noticed_by_nobody(case: &mut Case) {
    let admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9180);
    let origin = Origin::echo(&case.server, case.loopback());
    let text = service(case, "echo", 80, "respond = \"echo\"")
        + &service(case, "web", 81, &format!("origins = [\"{}\"]", origin.address()));
    configure(&case.server, &text);
    let instance = case.start(&format!("{CONFIG} --workers 2 --drain 10m --admin {admin}"));
    let (pid, id, worker) = (instance.pid(), instance.id(&case.server), instance.worker());
    let address = case.any_address();
    let mut open: Vec<TcpStream> = [80, 81, 80, 81]
        .into_iter()
        .map(|port| call(&case.server, SocketAddr::new(address, port)).unwrap())
        .collect();
    for stream in &mut open {
        echoed(stream, "before").unwrap();
    }
    let before = status(case);
    upgraded(case, &instance, "");
    for stream in &mut open {
        echoed(stream, "after").unwrap_or_else(|error| panic!("{error}\n{}", instance.stderr()));
    }
    let mut new = call(&case.server, SocketAddr::new(address, 81)).unwrap();
    echoed(&mut new, "new").unwrap();
    let after = status(case);
    assert_eq!((instance.pid(), instance.id(&case.server)), (pid, id));
    assert_eq!(after["pid"], before["pid"]);
    assert_eq!(after["upgrades"]["done"], 1, "{after}");
    assert_eq!(after["destinations"][0]["listener"], before["destinations"][0]["listener"]);
    assert_eq!(after["leaving_workers"][0]["pid"], worker, "{after}");
    assert!(after.get("missing").is_none(), "{after}");
    // What was counted goes on.
    for (service, count) in [("echo", 2.0), ("web", 3.0)] {
        let sample = format!("opened_sessions_total{{service=\"{service}\",protocol=\"tcp\"}}");
        await_value(&case.server, admin, &sample, count);
    }
    drop((open, new));
    // Nothing is open there any more.
    eventually("the end of the worker process of before", PATIENCE, || {
        status(case).get("leaving_workers").is_none().then_some(())
    });
    instance.stop();
}

fn whoever_comes_meanwhile_is_served(case: &mut Case) {
    configure(&case.server, &service(case, "echo", 80, "respond = \"echo\""));
    let instance = case.start(&format!("{CONFIG} --workers 2 --drain 10m"));
    let target = SocketAddr::new(case.any_address(), 80);
    let is_over = Arc::new(AtomicBool::new(false));
    let server = &case.server;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let is_over = Arc::clone(&is_over);
                scope.spawn(move || {
                    let mut rounds = 0_u32;
                    while !is_over.load(Ordering::Relaxed) {
                        let mut stream = call(server, target).unwrap_or_else(|error| panic!("dial: {error}"));
                        echoed(&mut stream, "hello")
                            .unwrap_or_else(|error| panic!("after {rounds}: {error}"));
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        for _ in 0..3 {
            upgraded(case, &instance, "");
        }
        is_over.store(true, Ordering::Relaxed);
        for client in clients {
            let rounds = client.join().unwrap_or_else(|_| panic!("{}", instance.stderr()));
            assert!(rounds > 0);
        }
    });
    assert_eq!(status(case)["upgrades"]["done"], 3);
    instance.stop();
}

fn what_it_has_is_kept_and_comes_down_after_all(case: &mut Case) {
    let before = State::of(&case.server);
    configure(&case.server, &service(case, "echo", 80, "respond = \"echo\""));
    let instance = case.start(CONFIG);
    let raised = held(case);
    upgraded(case, &instance, "");
    eventually("what was there before, the link too", PATIENCE, || (held(case) == raised).then_some(()));
    // A route that somebody takes away comes back.
    let ip = case.family.pick("route", "-6 route");
    case.server.ip(&format!("{ip} del local {} dev lo", case.prefix()));
    eventually("the route", PATIENCE, || {
        let listed = case.server.ip(&format!("{ip} show table local"));
        listed.contains(case.prefix()).then_some(())
    });
    configure(
        &case.server,
        &(service(case, "echo", 80, "respond = \"echo\"") + &service(case, "more", 81, "respond = \"echo\"")),
    );
    reload(&case.server, &instance).unwrap_or_else(|refused| panic!("{refused:?}"));
    let address = case.any_address();
    for port in [80, 81] {
        let mut stream = call(&case.server, SocketAddr::new(address, port))
            .unwrap_or_else(|error| panic!("{port}: {error}\n{}\n{}", status(case), instance.stderr()));
        echoed(&mut stream, "after the reload").unwrap();
    }
    upgraded(case, &instance, "");
    let mut stream = call(&case.server, SocketAddr::new(address, 81)).unwrap();
    echoed(&mut stream, "after the second").unwrap();
    drop(stream);
    instance.stop();
    before.assert_restored(&case.server, "upgrades and a stop");
}

fn sessions_of_datagrams_keep_their_ports(case: &mut Case) {
    let origin = bound(&case.server, SocketAddr::new(case.loopback(), 0));
    let text = format!(
        "[[service]]\nname = \"games\"\nbindings = [{{ protocol = \"udp\", prefix = \"{}\", ports = 5000 }}]\norigins = [\"{}\"]\n",
        case.prefix(),
        origin.local_addr().unwrap()
    );
    configure(&case.server, &text);
    let instance = case.start(&format!("{CONFIG} --workers 2"));
    let target = SocketAddr::new(case.any_address(), 5000);
    let clients: Vec<UdpSocket> = (0..5).map(|_| client(&case.server, target)).collect();
    let exchanged = || -> Vec<SocketAddr> {
        let exchange = |client: &UdpSocket| {
            let mut heard = [0; 64];
            client.send(b"said").unwrap();
            let (length, from) = origin.recv_from(&mut heard).unwrap();
            origin.send_to(&heard[..length], from).unwrap();
            assert_eq!(hear(client).unwrap(), b"said");
            from
        };
        clients.iter().map(exchange).collect()
    };
    let before = exchanged();
    for _ in 0..2 {
        upgraded(case, &instance, "");
        assert_eq!(exchanged(), before, "{}", instance.stderr());
    }
    instance.stop();
}

/// A program that is a script, in the namespace's own /run.
fn script(case: &Case, name: &str, text: &str) -> String {
    let path = format!("/run/{name}");
    case.server.run(|| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    });
    path
}

fn what_cannot_take_over_does_not(case: &mut Case) {
    configure(&case.server, &service(case, "echo", 80, "respond = \"echo\""));
    let instance = case.start(CONFIG);
    let worker = instance.worker();
    let target = SocketAddr::new(case.any_address(), 80);
    let mut stream = call(&case.server, target).unwrap();
    echoed(&mut stream, "before").unwrap();
    let plain = "/run/plain".to_owned();
    case.server.run(|| fs::write(&plain, "text").unwrap());
    let other = script(case, "other", "#!/bin/sh\necho '{\"ledger\":77,\"version\":\"9.9\"}'\n");
    for (program, why) in [
        ("/nowhere/spectrum-user".to_owned(), "No such file"),
        ("/run".to_owned(), "it is no file"),
        (plain, "not executable (chmod +x)"),
        ("/bin/false".to_owned(), "it gives no reason"),
        (
            script(case, "garbage", "#!/bin/sh\necho garbage\n"),
            "no version of spectrum-user that can take over",
        ),
        (script(case, "empty", "#!/no/such/interpreter\n"), "No such file"),
        (script(case, "hanging", "#!/bin/sh\nexec /bin/sleep 600\n"), "has not answered within 5 s"),
        (script(case, "endless", "#!/bin/sh\nexec /usr/bin/yes\n"), "says more than 65536 bytes"),
        (other, "it reads version 77 of the ledger"),
    ] {
        let finished = upgrade(case, &format!("--to {program}"));
        assert_ne!(finished.code(), 0, "{finished}");
        assert!(finished.stderr.contains(why), "{program}: {finished}");
        echoed(&mut stream, &program).unwrap();
        assert_eq!(instance.worker(), worker);
    }
    let status = status(case);
    assert_eq!((&status["upgrades"]["done"], &status["upgrades"]["refused"]), (&0.into(), &9.into()));
    assert_eq!(status["state"], "ready");
    instance.stop();
}

/// A program that stands its trial, and then does what `fault` says.
fn faulty(case: &Case, fault: &str, flags: &str) -> String {
    let real = program().unwrap().display().to_string();
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = upgrade-trial ] && exec {real} \"$@\"\nexport SPECTRUM_UPGRADE_FAULT={fault}\nexec {real} \"$@\" {flags}\n"
    );
    script(case, "faulty", &text)
}

fn what_fails_while_it_takes_over_makes_way_for_the_one_before(case: &mut Case) {
    let before = State::of(&case.server);
    configure(&case.server, &service(case, "echo", 80, "respond = \"echo\""));
    let instance = case.start(&format!("{CONFIG} --drain 10m"));
    let (pid, worker) = (instance.pid(), instance.worker());
    let target = SocketAddr::new(case.any_address(), 80);
    let real = program().unwrap().display().to_string();
    let mut open = call(&case.server, target).unwrap();
    echoed(&mut open, "before").unwrap();
    let mut others = vec![("flag".to_owned(), "unexpected argument '--no-such-flag'".to_owned())];
    for step in ["words", "kernel", "worker", "program", "last"] {
        others.push((step.to_owned(), format!("wants it to fail at {step}")));
    }
    others.push(("panic-program".to_owned(), "it panicked".to_owned()));
    for (step, why) in &others {
        let path = faulty(case, step, if step == "flag" { "--no-such-flag" } else { "" });
        let finished = upgrade(case, &format!("--to {path}"));
        assert_ne!(finished.code(), 0, "{finished}");
        assert!(finished.stderr.contains(why), "{step}: {finished}\n{}", instance.stderr());
        echoed(&mut open, step).unwrap_or_else(|error| panic!("{step}: {error}\n{}", instance.stderr()));
        let mut new = call(&case.server, target).unwrap();
        echoed(&mut new, step).unwrap();
        assert_eq!((instance.pid(), instance.worker()), (pid, worker), "{}", instance.stderr());
    }
    let status = status(case);
    assert_eq!(status["upgrades"]["refused"], others.len(), "{status}");
    assert!(status.get("missing").is_none(), "{status}");
    // And one that can, can.
    upgraded(case, &instance, &format!("--to {real}"));
    echoed(&mut open, "after all").unwrap();
    drop(open);
    instance.stop();
    before.assert_restored(&case.server, "upgrades that failed");
}

fn what_crashes_while_it_takes_over_makes_way_as_well(case: &mut Case) {
    let before = State::of(&case.server);
    configure(&case.server, &service(case, "echo", 80, "respond = \"echo\""));
    let instance = case.start(&format!("{CONFIG} --drain 10m"));
    let (pid, worker) = (instance.pid(), instance.worker());
    let target = SocketAddr::new(case.any_address(), 80);
    let mut open = call(&case.server, target).unwrap();
    let faults = [
        "abort-begin",
        "fault-begin",
        "panic-begin",
        "abort-words",
        "fault-worker",
        "apart-worker",
        "abort-last",
    ];
    for fault in faults {
        let finished = upgrade(case, &format!("--to {}", faulty(case, fault, "")));
        let why = match fault.split_once('-').unwrap().0 {
            "abort" => "it crashed (SIGABRT)",
            // By the first thread, and by another.
            "fault" | "apart" => "it crashed (SIGSEGV)",
            _ => "it gave up",
        };
        assert!(finished.stderr.contains(why), "{fault}: {finished}\n{}", instance.stderr());
        echoed(&mut open, fault).unwrap_or_else(|error| panic!("{fault}: {error}\n{}", instance.stderr()));
        echoed(&mut call(&case.server, target).unwrap(), fault).unwrap();
        assert_eq!((instance.pid(), instance.worker()), (pid, worker), "{}", instance.stderr());
    }
    let status = status(case);
    assert_eq!(status["upgrades"]["refused"], faults.len(), "{status}");
    assert!(status.get("missing").is_none(), "{status}");
    upgraded(case, &instance, "");
    echoed(&mut open, "after all").unwrap();
    drop(open);
    instance.stop();
    before.assert_restored(&case.server, "upgrades that crashed");
}

fn what_hangs_while_it_takes_over_makes_way_in_time(case: &mut Case) {
    configure(&case.server, &service(case, "echo", 80, "respond = \"echo\""));
    let instance = case.start(&format!("{CONFIG} --drain 10m"));
    let (pid, worker) = (instance.pid(), instance.worker());
    let target = SocketAddr::new(case.any_address(), 80);
    let mut open = call(&case.server, target).unwrap();
    let is_awaited = |field: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let signals = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0");
        u64::from_str_radix(signals.trim(), 16).is_ok_and(|signals| signals >> 13 & 1 == 1)
    };
    // The first is let go on until it is given up.
    for (fault, is_hurried) in [("hang-worker", false), ("hang-begin", true)] {
        let program = faulty(case, fault, "");
        std::thread::scope(|scope| {
            let upgrading = scope.spawn(|| upgrade(case, &format!("--to {program}")));
            eventually("the program that hangs", PATIENCE, || is_awaited("SigCgt:").then_some(()));
            echoed(&mut open, "meanwhile").unwrap();
            echoed(&mut call(&case.server, target).unwrap(), "who comes").unwrap();
            if is_hurried {
                instance.signal(Signal::SIGALRM);
            }
            let finished = upgrading.join().unwrap();
            let why = "it has not taken over in time";
            assert!(finished.stderr.contains(why), "{fault}: {finished}\n{}", instance.stderr());
        });
        echoed(&mut open, fault).unwrap_or_else(|error| panic!("{fault}: {error}\n{}", instance.stderr()));
        assert_eq!((instance.pid(), instance.worker()), (pid, worker), "{}", instance.stderr());
    }
    // The alarm is that of those upgrades alone.
    upgraded(case, &instance, "");
    assert!(!is_awaited("SigCgt:") && !is_awaited("ShdPnd:"));
    echoed(&mut open, "after all").unwrap();
    drop(open);
    instance.stop();
}

fn sigusr2_is_an_upgrade_to_what_is_at_the_own_path(case: &mut Case) {
    let text = service(case, "echo", 80, "respond = \"echo\"");
    configure(&case.server, &text);
    let instance = case.start(&format!("{CONFIG} --drain 10m"));
    let target = SocketAddr::new(case.any_address(), 80);
    let mut stream = call(&case.server, target).unwrap();
    echoed(&mut stream, "before").unwrap();
    instance.signal(Signal::SIGUSR2);
    eventually("an upgrade", PATIENCE, || (status(case)["upgrades"]["done"] == 1).then_some(()));
    echoed(&mut stream, "after").unwrap();
    // Signals that come meanwhile are obeyed later, if not at once.
    instance.signal(Signal::SIGUSR2);
    instance.signal(Signal::SIGHUP);
    eventually("another upgrade", PATIENCE, || (status(case)["upgrades"]["done"] == 2).then_some(()));
    eventually("a reload", PATIENCE, || (status(case)["reloads"]["done"] == 1).then_some(()));
    drop(stream);
    instance.signal(Signal::SIGUSR2);
    let finished = instance.finish_after(Signal::SIGTERM);
    assert_eq!(finished.code(), 0, "{finished}");
}

fn upgrades_follow_each_other_while_the_first_worker_process_drains(case: &mut Case) {
    configure(&case.server, &service(case, "echo", 80, "respond = \"echo\""));
    let instance = case.start(&format!("{CONFIG} --drain 10m"));
    let target = SocketAddr::new(case.any_address(), 80);
    let mut open = Vec::new();
    for turn in 0..4 {
        let mut stream = call(&case.server, target).unwrap();
        echoed(&mut stream, "before").unwrap();
        open.push(stream);
        upgraded(case, &instance, "");
        for stream in &mut open {
            echoed(stream, &format!("after {turn}"))
                .unwrap_or_else(|error| panic!("{error}\n{}", instance.stderr()));
        }
    }
    assert_eq!(status(case)["leaving_workers"].as_array().unwrap().len(), 4, "{}", status(case));
    assert_eq!(status(case)["services"][0]["open"], 4);
    // The first ends with what it has open, the others go on.
    drop(open.remove(0));
    eventually("the end of the first", PATIENCE, || {
        (status(case)["leaving_workers"].as_array().unwrap().len() == 3).then_some(())
    });
    for stream in &mut open {
        echoed(stream, "after the end of the first").unwrap();
    }
    drop(open);
    eventually("the end of all", PATIENCE, || status(case).get("leaving_workers").is_none().then_some(()));
    instance.stop();
}

fn threads_of_one_process_are_not_upgraded(case: &mut Case) {
    configure(&case.server, &service(case, "echo", 80, "respond = \"echo\""));
    let instance = case.start(&format!("{CONFIG} --single-process"));
    let finished = upgrade(case, "");
    assert!(finished.code() == 1 && finished.stderr.contains("--single-process"), "{finished}");
    instance.stop();
}

fn a_service_that_a_reload_removed_is_shown_until_its_last_connection_ends(case: &mut Case) {
    let stays = service(case, "stays", 80, "respond = \"echo\"");
    configure(&case.server, &(stays.clone() + &service(case, "goes", 81, "respond = \"echo\"")));
    let instance = case.start(&format!("{CONFIG} --drain 10m"));
    let target = SocketAddr::new(case.any_address(), 81);
    let mut open = call(&case.server, target).unwrap();
    echoed(&mut open, "before").unwrap();
    configure(&case.server, &stays);
    reload(&case.server, &instance).unwrap();
    let shown = || status(case)["services"].as_array().unwrap().iter().any(|one| one["name"] == "goes");
    for _ in 0..2 {
        assert!(shown(), "{}", status(case));
        upgraded(case, &instance, "");
        echoed(&mut open, "after").unwrap();
    }
    assert!(shown(), "{}", status(case));
    drop(open);
    eventually("the end of what is open", PATIENCE, || (!shown()).then_some(()));
    instance.stop();
}

fn the_configuration_is_the_one_that_is_in_force(case: &mut Case) {
    let admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9181);
    configure(&case.server, &service(case, "echo", 80, "respond = \"echo\""));
    let instance = case.start(&format!("{CONFIG} --admin {admin}"));
    let target = SocketAddr::new(case.any_address(), 80);
    // Somebody is in the middle of writing another one.
    configure(&case.server, "[[service]]\nname = \"unfinished");
    upgraded(case, &instance, "");
    echoed(&mut call(&case.server, target).unwrap(), "as before").unwrap();
    assert_eq!(value(&metrics(&case.server, admin), "repairs_total{what=\"workers\"}"), Some(0.0));
    assert!(connect(&case.server, &instance).ask("reload").is_err());
    echoed(&mut call(&case.server, target).unwrap(), "as before").unwrap();
    instance.stop();
}

fn reloads_and_upgrades_wait_for_each_other(case: &mut Case) {
    configure(&case.server, &service(case, "echo", 80, "respond = \"echo\""));
    let instance = case.start(CONFIG);
    let target = SocketAddr::new(case.any_address(), 80);
    for turn in 1..=3 {
        std::thread::scope(|scope| {
            let reloading = scope.spawn(|| Launch::new(&case.server).arguments("reload").finish());
            upgraded(case, &instance, "");
            let reloaded = reloading.join().unwrap();
            let is_told =
                ["another version", "try again", "ask again"].iter().any(|why| reloaded.stderr.contains(why));
            assert!(reloaded.code() == 0 || is_told, "{reloaded}\n{}", instance.stderr());
        });
        echoed(&mut call(&case.server, target).unwrap(), "as before").unwrap();
        assert_eq!(status(case)["upgrades"]["done"], turn);
    }
    instance.stop();
}

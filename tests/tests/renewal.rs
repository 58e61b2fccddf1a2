//! Another worker process takes the place of one that serves: sessions of datagrams go over to it with their ports, connections have
//! their time where they are, and nobody is refused, reset or answered twice. One that dies unasked is tested elsewhere.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use spectrum_tests::admin::await_value;
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, Refused, await_logged, configure, connect, reload};
use spectrum_tests::datagram::{bound, client, dropped_by_backlog, hear};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_answered, call, dial};
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::netns::Netns;
use spectrum_tests::origin::{Origin, receive_sequence, send_sequence};
use spectrum_tests::record::records;
use spectrum_tests::{on_every_path, on_one_path};

on_every_path!(
    sessions_keep_their_ports_and_connections_end_where_they_are,
    two_hundred_sessions_lose_nothing_and_get_nothing_twice,
);

on_one_path!(
    what_is_open_after_its_time_is_cut_and_counted_once,
    one_that_is_killed_on_its_way_out_takes_nobody_with_it,
    one_that_is_killed_before_it_serves_changes_nothing,
    whoever_stops_waits_for_all_of_them,
    limits_count_on,
    what_is_set_by_hand_and_what_was_reloaded_holds_for_the_next,
    one_process_alone_has_none_to_renew,
);

/// Has another worker process take the place of that of `instance`: the number of sessions that went over.
fn renew(netns: &Netns, instance: &Instance) -> Result<u64, Refused> {
    let begun = Instant::now();
    loop {
        match connect(netns, instance).ask("renew") {
            // One that lacks the CPU is not let in, and the one before serves on.
            Err(refused)
                if refused.message.contains("has not answered within") && begun.elapsed() < PATIENCE => {}
            outcome => return outcome.map(|renewed| renewed["sessions"].as_u64().unwrap()),
        }
    }
}

/// The worker processes of `instance`, the youngest last.
fn workers(instance: &Instance) -> Vec<u32> {
    let pid = instance.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let is_worker = |child: &u32| {
        let words = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).nth(1) == Some(b"worker-process")
    };
    children.split_ascii_whitespace().filter_map(|child| child.parse().ok()).filter(is_worker).collect()
}

fn await_workers(instance: &Instance, count: usize) -> Vec<u32> {
    eventually("as many worker processes", PATIENCE, || {
        Some(workers(instance)).filter(|workers| workers.len() == count)
    })
}

fn end(worker: u32) {
    kill(Pid::from_raw(i32::try_from(worker).unwrap()), Signal::SIGKILL).unwrap();
}

/// A service of both protocols, each with an origin of its own.
fn services(case: &Case, tcp: SocketAddr, udp: SocketAddr, more: &str) -> String {
    let prefix = case.prefix();
    format!(
        "[[service]]\nname = \"web\"\nbindings = [{{ prefix = \"{prefix}\", ports = 80 }}]\norigins = [\"{tcp}\"]\n\
         [[service]]\nname = \"games\"\nbindings = [{{ protocol = \"udp\", prefix = \"{prefix}\", ports = 5000 }}]\norigins = [\"{udp}\"]\n{more}\n"
    )
}

/// An address and port of each of these.
fn targets(case: &mut Case) -> [SocketAddr; 2] {
    [80, 5000].map(|port| SocketAddr::new(case.any_address(), port))
}

/// An origin of datagrams, and its address.
fn datagrams(case: &Case) -> (UdpSocket, SocketAddr) {
    let socket = bound(&case.server, SocketAddr::new(case.loopback(), 0));
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// `client` says something, and `origin` answers: where the origin has heard it from.
fn exchange(client: &UdpSocket, origin: &UdpSocket, said: &[u8]) -> SocketAddr {
    client.send(said).unwrap();
    let mut heard = [0; 64];
    let (length, from) = origin.recv_from(&mut heard).unwrap();
    assert_eq!(&heard[..length], said);
    origin.send_to(said, from).unwrap();
    assert_eq!(hear(client).unwrap(), said);
    from
}

fn status(case: &Case) -> Value {
    let finished = Launch::new(&case.server).arguments("status --json").finish();
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"))
}

fn echoed(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"once")?;
    stream.read_exact(&mut [0; 4])
}

fn sessions_keep_their_ports_and_connections_end_where_they_are(case: &mut Case) {
    let [web, _game] = targets(case);
    let (origin, udp) = datagrams(case);
    let tcp = Origin::echo(&case.server, case.loopback());
    configure(&case.server, &services(case, tcp.address(), udp, ""));
    let instance = case.start(&format!("{CONFIG} --workers 2 --drain 10m"));
    let [_web, target] = targets(case);
    let clients: Vec<UdpSocket> = (0..5).map(|_| client(&case.server, target)).collect();
    let before: Vec<_> = clients.iter().map(|client| exchange(client, &origin, b"before")).collect();
    let mut streams = Vec::new();
    for life in 1..=3 {
        let stream = call(&case.server, web).unwrap();
        echoed(&stream).unwrap();
        streams.push(stream);
        assert_eq!(renew(&case.server, &instance).unwrap(), 5, "{}", instance.stderr());
        origin.send_to(b"unasked", before[0]).unwrap();
        assert_eq!(hear(&clients[0]).unwrap(), b"unasked");
        let after: Vec<_> = clients.iter().map(|client| exchange(client, &origin, b"after")).collect();
        assert_eq!(before, after);
        // Every one that has something open is there still.
        assert_eq!(await_workers(&instance, life + 1).len(), life + 1);
    }
    for stream in &streams {
        let (sending, receiving) = (stream.try_clone().unwrap(), stream);
        thread::scope(|scope| {
            scope.spawn(|| send_sequence(&sending, 7, 1 << 20).unwrap());
            receive_sequence(receiving, 7, 1 << 20).unwrap();
        });
    }
    drop(streams);
    await_workers(&instance, 1);
    // Its own origin sees every client from where it saw it first.
    let after: Vec<_> = clients.iter().map(|client| exchange(client, &origin, b"after all")).collect();
    assert_eq!(before, after);
    drop(instance);
}

fn two_hundred_sessions_lose_nothing_and_get_nothing_twice(case: &mut Case) {
    for attempt in 1.. {
        let dropped = dropped_by_backlog();
        let lost = stream_over_renewals(case);
        if lost == 0 {
            return;
        }
        // Which is nobody's fault.
        assert!(dropped_by_backlog() > dropped && attempt < 5, "{lost} datagrams were not answered");
    }
}

/// Rounds of a datagram of each client while worker processes take each other's place: how many were never answered.
fn stream_over_renewals(case: &mut Case) -> usize {
    let (origin, udp) = datagrams(case);
    let tcp = Origin::echo(&case.server, case.loopback());
    configure(&case.server, &services(case, tcp.address(), udp, ""));
    let instance = case.start(&format!("{CONFIG} --workers 2 --drain 1s"));
    let [_web, target] = targets(case);
    let server = &case.server;
    let clients: Vec<UdpSocket> = (0..200).map(|_| client(server, target)).collect();
    let (is_over, is_all_heard) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut heard = HashMap::<(usize, usize), Vec<SocketAddr>>::new();
    let (mut rounds, mut lost) = (0, 0);
    thread::scope(|scope| {
        let answering = scope.spawn(|| {
            origin.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let mut heard = HashMap::<(usize, usize), Vec<SocketAddr>>::new();
            let mut said = [0; 64];
            while !is_all_heard.load(Ordering::Relaxed) {
                let Ok((length, from)) = origin.recv_from(&mut said) else { continue };
                let text = str::from_utf8(&said[..length]).unwrap();
                let (client, round) = text.split_once(' ').unwrap();
                heard.entry((client.parse().unwrap(), round.parse().unwrap())).or_default().push(from);
                origin.send_to(&said[..length], from).unwrap();
            }
            heard
        });
        let renewing = scope.spawn(|| {
            let mut moved = Vec::new();
            for _ in 0..3 {
                moved.push(renew(server, &instance));
            }
            is_over.store(true, Ordering::Relaxed);
            moved
        });
        while lost == 0 && (!is_over.load(Ordering::Relaxed) || rounds < 3) {
            for (number, client) in clients.iter().enumerate() {
                client.send(format!("{number} {rounds}").as_bytes()).unwrap();
            }
            for (number, client) in clients.iter().enumerate() {
                match hear(client) {
                    Ok(answer) => {
                        assert_eq!(answer, format!("{number} {rounds}").as_bytes(), "in their order");
                    }
                    Err(_) => lost += 1,
                }
            }
            rounds += 1;
        }
        is_all_heard.store(true, Ordering::Relaxed);
        heard = answering.join().unwrap();
        let moved = renewing.join().unwrap();
        assert!(moved.iter().all(|moved| matches!(moved, Ok(200 | 0))), "{moved:?}");
        assert!(moved.contains(&Ok(200)), "{moved:?}: {}", instance.stderr());
    });
    for number in 0..clients.len() {
        let from: Vec<_> = (0..rounds).filter_map(|round| heard.get(&(number, round))).collect();
        assert!(lost > 0 || from.len() == rounds, "client {number}");
        assert!(from.iter().all(|from| from.len() == 1), "client {number} was heard twice: {from:?}");
        assert!(from.iter().all(|one| *one == from[0]), "client {number} came from elsewhere: {from:?}");
    }
    for client in &clients {
        client.set_nonblocking(true).unwrap();
        assert_eq!(hear(client).unwrap_err().kind(), ErrorKind::WouldBlock, "answered twice");
    }
    if lost == 0 {
        let finished = instance.stop();
        let records = records(&finished.stderr);
        let of_games = records.iter().filter(|record| record["service"] == "games");
        assert_eq!(of_games.count(), 200, "each session has one record: {finished}");
    }
    lost
}

fn what_is_open_after_its_time_is_cut_and_counted_once(case: &mut Case) {
    let [web, game] = targets(case);
    let admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9182);
    let (origin, udp) = datagrams(case);
    let tcp = Origin::echo(&case.server, case.loopback());
    configure(&case.server, &services(case, tcp.address(), udp, ""));
    let instance = case.start(&format!("{CONFIG} --drain 1s --admin {admin}"));
    let session = client(&case.server, game);
    let before = exchange(&session, &origin, b"before");
    let mut stream = call(&case.server, web).unwrap();
    echoed(&stream).unwrap();
    renew(&case.server, &instance).unwrap();
    let sample = |name: &str, service: &str, protocol: &str| {
        format!("{name}{{service=\"{service}\",protocol=\"{protocol}\"}}")
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // By FIN or RST.
    assert!(matches!(stream.read(&mut [0; 4]), Ok(0) | Err(_)));
    await_workers(&instance, 1);
    await_value(&case.server, admin, "leaving_workers", 0.0);
    await_value(&case.server, admin, &sample("open_sessions", "web", "tcp"), 0.0);
    await_value(&case.server, admin, &sample("open_sessions", "games", "udp"), 1.0);
    await_value(&case.server, admin, &sample("opened_sessions_total", "games", "udp"), 1.0);
    await_logged(&instance, "connections were cut", 1);
    assert_eq!(exchange(&session, &origin, b"after"), before);
    let finished = instance.stop();
    let records = records(&finished.stderr);
    assert_eq!(records.len(), 2, "{finished}");
    let of_games = records.iter().find(|record| record["service"] == "games").unwrap();
    assert_eq!((of_games["bytes_from_client"], of_games["bytes_to_client"]), ("11", "11"));
}

fn one_that_is_killed_on_its_way_out_takes_nobody_with_it(case: &mut Case) {
    let [_web, game] = targets(case);
    let (origin, udp) = datagrams(case);
    let tcp = Origin::echo(&case.server, case.loopback());
    configure(&case.server, &services(case, tcp.address(), udp, ""));
    let instance = case.start(&format!("{CONFIG} --drain 10m"));
    let session = client(&case.server, game);
    let before = exchange(&session, &origin, b"before");
    let [target, _game] = targets(case);
    let former = call(&case.server, target).unwrap();
    echoed(&former).unwrap();
    renew(&case.server, &instance).unwrap();
    let present = call(&case.server, target).unwrap();
    echoed(&present).unwrap();
    echoed(&former).unwrap();
    end(workers(&instance)[0]);
    await_workers(&instance, 1);
    assert!(echoed(&former).is_err(), "its process is gone");
    echoed(&present).unwrap();
    assert_eq!(exchange(&session, &origin, b"after"), before);
    await_logged(&instance, "the worker process did not end well", 1);
    assert!(status(case).get("missing").is_none(), "{}", status(case));
}

fn one_that_is_killed_before_it_serves_changes_nothing(case: &mut Case) {
    let [web, game] = targets(case);
    let (origin, udp) = datagrams(case);
    let tcp = Origin::echo(&case.server, case.loopback());
    configure(&case.server, &services(case, tcp.address(), udp, ""));
    let instance = case.start(&format!("{CONFIG} --drain 10m"));
    let session = client(&case.server, game);
    let before = exchange(&session, &origin, b"before");
    let stream = call(&case.server, web).unwrap();
    echoed(&stream).unwrap();
    let former = instance.worker();
    let mut asked = connect(&case.server, &instance);
    asked.send("renew");
    // It has not been told anything yet when it is there: what it is told first it looks up first.
    let next = eventually("another worker process", PATIENCE, || {
        workers(&instance).into_iter().find(|worker| *worker != former)
    });
    end(next);
    if let Err(refused) = asked.answer() {
        assert_eq!(workers(&instance), [former], "{refused:?}");
        assert_eq!(exchange(&session, &origin, b"after"), before);
    }
    echoed(&stream).unwrap();
    // And the next one does.
    let again = client(&case.server, game);
    let before = exchange(&again, &origin, b"before");
    renew(&case.server, &instance).unwrap();
    assert_eq!(exchange(&again, &origin, b"after"), before);
    echoed(&stream).unwrap();
}

fn whoever_stops_waits_for_all_of_them(case: &mut Case) {
    let (_origin, udp) = datagrams(case);
    let tcp = Origin::echo(&case.server, case.loopback());
    configure(&case.server, &services(case, tcp.address(), udp, ""));
    let admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9183);
    let mut instance = case.start(&format!("{CONFIG} --drain 10m --admin {admin}"));
    let [target, _game] = targets(case);
    let mut streams = Vec::new();
    for _ in 0..3 {
        let stream = call(&case.server, target).unwrap();
        echoed(&stream).unwrap();
        streams.push(stream);
        renew(&case.server, &instance).unwrap();
    }
    let former = workers(&instance)[0];
    let leaving = status(case)["leaving_workers"].clone();
    assert_eq!((leaving.as_array().unwrap().len(), &leaving[0]["pid"]), (3, &former.into()), "{leaving}");
    let text = Launch::new(&case.server).arguments("status").finish().stdout;
    assert!(text.contains(&format!("former worker process {former}: ")), "{text}");
    await_value(&case.server, admin, "leaving_workers", 3.0);
    await_value(&case.server, admin, "open_sessions{service=\"web\",protocol=\"tcp\"}", 3.0);
    instance.signal(Signal::SIGTERM);
    while let Some(stream) = streams.pop() {
        echoed(&stream).unwrap();
        assert!(instance.is_running());
        drop(stream);
    }
    let finished = instance.finish(PATIENCE);
    assert_eq!(finished.code(), 0, "{finished}");
    assert_eq!(records(&finished.stderr).len(), 3, "{finished}");
}

fn limits_count_on(case: &mut Case) {
    let (origin, udp) = datagrams(case);
    let tcp = Origin::echo(&case.server, case.loopback());
    configure(&case.server, &services(case, tcp.address(), udp, "limits = { connections = 3 }"));
    let instance = case.start(&format!("{CONFIG} --workers 1"));
    let [_web, target] = targets(case);
    let clients: Vec<UdpSocket> = (0..3).map(|_| client(&case.server, target)).collect();
    let before: Vec<_> = clients.iter().map(|client| exchange(client, &origin, b"before")).collect();
    assert_eq!(renew(&case.server, &instance).unwrap(), 3);
    let after: Vec<_> = clients.iter().map(|client| exchange(client, &origin, b"after")).collect();
    assert_eq!(before, after);
    // One more takes the place of one of them.
    exchange(&client(&case.server, target), &origin, b"one more");
    eventually("the end of one", PATIENCE, || {
        records(&instance.stderr()).iter().any(|record| record["end"] == "evicted").then_some(())
    });
}

fn what_is_set_by_hand_and_what_was_reloaded_holds_for_the_next(case: &mut Case) {
    let [web, game] = targets(case);
    let (origin, udp) = datagrams(case);
    let says = |word| Origin::saying(&case.server, (case.loopback(), 0).into(), word);
    let (one, two) = (says("one"), says("two"));
    let tcp = |more: &str| {
        services(case, one.address(), udp, "").replace(
            &format!("origins = [\"{}\"]", one.address()),
            &format!("origins = [\"{}\", \"{}\"]{more}", one.address(), two.address()),
        )
    };
    let [before, after] = ["", "\ntimeouts = { idle = \"5m\" }"].map(tcp);
    configure(&case.server, &before);
    let instance = case.start(&format!("{CONFIG} --workers 2"));
    let session = client(&case.server, game);
    let from = exchange(&session, &origin, b"before");
    let words = format!("origin web {} drain", one.address());
    assert_eq!(Launch::new(&case.server).arguments(&words).finish().code(), 0);
    for config in [&after, &before] {
        assert_eq!(renew(&case.server, &instance).unwrap(), 1);
        configure(&case.server, config);
        reload(&case.server, &instance).unwrap();
        // Listeners of what has changed may not be closed yet.
        assert_eq!(renew(&case.server, &instance).unwrap(), 1);
        for _ in 0..5 {
            assert_eq!(dial(&case.server, web).unwrap().text, "two");
        }
        assert_eq!(exchange(&session, &origin, b"after"), from);
    }
    assert!(status(case).get("missing").is_none(), "{}", status(case));
    drop(instance);
}

fn one_process_alone_has_none_to_renew(case: &mut Case) {
    let [web, _game] = targets(case);
    let instance = case.start(&format!("--prefix {} --ports 80 --single-process", case.prefix()));
    let refused = renew(&case.server, &instance).unwrap_err();
    assert!(refused.message.contains("the instance is one process"), "{refused:?}");
    assert_answered(&case.server, &[web]);
}

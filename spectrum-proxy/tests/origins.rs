//! Which origin a connection gets, and what becomes of those that fail: on loopback, in one process. What a namespace or a
//! name server is needed for is tested in the privileged tests.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics rather than return an error")]

mod served;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use served::{Running, accept, assert_reset, origin, pass, read_to_end, reset, until};
use socket2::{Domain, Socket, Type};
use spectrum_proxy::header::Header;
use spectrum_proxy::model::{
    Balance, CheckClose, DialOn, Ejection, HealthCheck, HealthProbe, Origin, OriginRole, Origins, Policy,
    ProxyVersion, ServiceName, Target, Timeouts, Weight,
};
use spectrum_proxy::{DialFailure, End, OriginCondition, Side};

/// Checks so often that a test need not wait for them.
const OFTEN: HealthCheck = HealthCheck {
    interval: Duration::from_millis(20),
    timeout: Duration::from_millis(500),
    rise: 2,
    fall: 2,
    port: None,
    header: None,
    close: CheckClose::Fin,
    probe: HealthProbe::Connect,
};

fn origins(addresses: &[&str]) -> Origins {
    Origins::from(addresses.iter().map(|address| address.parse().unwrap()).collect::<Vec<Origin>>())
}

/// An address at which nobody listens, and nobody else will.
fn refusing() -> (Socket, String) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap().to_string();
    (socket, address)
}

/// A listener whose queue is full, so that it answers no SYN. What fills it is to be kept.
fn silent(address: IpAddr) -> (Socket, Vec<TcpStream>, SocketAddr) {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(address, 0)), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(address, 0).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut filling = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        filling.push(stream);
    }
    (socket, filling, address)
}

fn conditions(running: &Running) -> Vec<OriginCondition> {
    let states = running.origins.states(&ServiceName::default());
    states.into_iter().map(|state| state.condition).collect()
}

/// Which of `listeners` gets each of `count` connections, one after the other.
fn takers(running: &Running, listeners: &[&TcpListener], count: usize) -> Vec<usize> {
    for listener in listeners {
        listener.set_nonblocking(true).unwrap();
    }
    let mut takers = Vec::new();
    for _ in 0..count {
        let client = running.dial();
        let mut taker = None;
        until("a connection to an origin", || {
            taker = listeners.iter().position(|listener| listener.accept().is_ok());
            taker.is_some()
        });
        takers.extend(taker);
        drop(client);
        running.report();
    }
    takers
}

#[test]
fn weights_decide_how_often_an_origin_is_taken() {
    let (one, two) = (origin(), origin());
    let mut origins = origins(&[&one.1, &two.1]);
    origins.list[0].weight = Weight::new(3).unwrap();
    let running = Running::serve(Target::Origins(origins));
    // Whichever worker takes a connection: each gives three of four to the first.
    let takers = takers(&running, &[&one.0, &two.0], 40);
    let first = takers.iter().filter(|taker| **taker == 0).count();
    assert!((28..=32).contains(&first), "{first} of 40");
}

#[test]
fn an_origin_of_weight_0_keeps_what_is_open_and_gets_nothing_new() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections, Balance::SourceHash] {
        let (one, two) = (origin(), origin());
        let mut origins = origins(&[&one.1, &two.1]);
        (origins.balance, origins.list[1].weight) = (balance, Weight::ZERO);
        let running = Running::serve(Target::Origins(origins.clone()));
        assert_eq!(conditions(&running), [OriginCondition::Up, OriginCondition::Drained]);
        assert_eq!(takers(&running, &[&one.0, &two.0], 8), [0; 8], "{balance}");
        one.0.set_nonblocking(false).unwrap();
        let mut client = running.dial();
        let mut kept = accept(&one.0);
        pass("before", &mut client, &mut kept);
        (origins.list[0].weight, origins.list[1].weight) = (Weight::ZERO, Weight::ONE);
        running.replace(Target::Origins(origins.clone()));
        assert_eq!(takers(&running, &[&one.0, &two.0], 8), [1; 8], "{balance}");
        pass("after", &mut client, &mut kept);
        assert_eq!(running.origins.states(&ServiceName::default())[0].open, 1, "{balance}");
        // Nothing is left to choose.
        origins.list[1].weight = Weight::ZERO;
        running.replace(Target::Origins(origins));
        assert_reset(running.dial().read(&mut [0; 8]));
        let report = running.report();
        assert_eq!((report.end, report.origin), (End::Undialled(DialFailure::Down), None), "{balance}");
    }
}

#[test]
fn an_origin_of_weight_0_is_checked_as_before() {
    let (closed, address) = refusing();
    let mut origins = origins(&[&address]);
    (origins.health, origins.list[0].weight) = (Some(OFTEN), Weight::ZERO);
    let running = Running::serve(Target::Origins(origins));
    until("checks that fail", || conditions(&running) == [OriginCondition::Down]);
    closed.listen(16).unwrap();
    until("checks that succeed", || conditions(&running) == [OriginCondition::Drained]);
    assert_reset(running.dial().read(&mut [0; 8]));
    assert_eq!(running.report().end, End::Undialled(DialFailure::Down));
}

#[test]
fn least_connections_counts_over_all_workers() {
    let listeners: Vec<_> = (0..3).map(|_| origin()).collect();
    let mut origins = origins(&listeners.iter().map(|(_, address)| &address[..]).collect::<Vec<_>>());
    origins.balance = Balance::LeastConnections;
    let running = Running::serve(Target::Origins(origins));
    let mut clients = Vec::new();
    for _ in 0..30 {
        let client = running.dial();
        // Only then it was counted.
        let states = || running.origins.states(&ServiceName::default());
        let open = u64::try_from(clients.len()).unwrap();
        until("a counted connection", || states().iter().map(|state| state.open).sum::<u64>() > open);
        clients.push(client);
    }
    let open: Vec<_> =
        running.origins.states(&ServiceName::default()).iter().map(|state| state.open).collect();
    assert_eq!(open, [10; 3]);
    drop(clients);
    for (listener, _) in listeners {
        for _ in 0..10 {
            drop(accept(&listener));
        }
    }
    until("closed connections", || {
        running.origins.states(&ServiceName::default()).iter().all(|state| state.open == 0)
    });
}

#[test]
fn what_connections_to_an_origin_come_to_is_counted_and_outlives_a_reload() {
    let (listener, address) = origin();
    let (_closed, refused) = refusing();
    let both = origins(&[&refused, &address]);
    let running = Running::serve(Target::Origins(both.clone()));
    let [of_refused, of_open] = [refused, address].map(|origin| {
        move |running: &Running| {
            let states = running.origins.states(&ServiceName::default());
            states.into_iter().find(|state| state.origin == origin).unwrap()
        }
    });
    let mut open = running.dial();
    let mut kept = accept(&listener);
    pass("hello", &mut open, &mut kept);
    pass("hi", &mut kept, &mut open);
    // While it is open: it may be so for days.
    until("counted bytes", || {
        let state = of_open(&running);
        (state.bytes_to, state.bytes_from) == (5, 2)
    });
    let mut broken = running.dial();
    let mut breaking = accept(&listener);
    pass("hello", &mut broken, &mut breaking);
    reset(breaking);
    assert_reset(broken.read(&mut [0; 8]));
    until("a broken connection", || of_open(&running).broken == 1);
    let (error, ago) = of_open(&running).last_error.unwrap();
    assert!(error == "upstream-reset" && ago < Duration::from_secs(20), "{error} {ago:?}");
    while of_refused(&running).failed_dials == 0 {
        let client = running.dial();
        drop(accept(&listener));
        drop(client);
    }
    let (error, _) = of_refused(&running).last_error.unwrap();
    assert_eq!(error, "Connection refused (os error 111)");

    let counted = |running: &Running| {
        let state = of_open(running);
        (state.connections, state.broken, state.bytes_to, state.bytes_from)
    };
    let before = counted(&running);
    let refusals = of_refused(&running).failed_dials;
    let mut other = both;
    other.list.reverse();
    other.list[0].weight = Weight::new(9).unwrap();
    running.replace(Target::Origins(other.clone()));
    assert_eq!((counted(&running), of_refused(&running).failed_dials), (before, refusals));
    pass("more", &mut open, &mut kept);
    until("bytes of a connection from before", || counted(&running).2 == before.2 + 4);
    drop((open, kept));
    until("the end of it", || of_open(&running).open == 0);
    assert_eq!(counted(&running), (before.0, before.1, before.2 + 4, before.3));
}

#[test]
fn open_connections_are_counted_whatever_chooses() {
    for (balance, count) in [(Balance::RoundRobin, 1), (Balance::RoundRobin, 2), (Balance::SourceHash, 2)] {
        let listeners: Vec<_> = (0..count).map(|_| origin()).collect();
        let mut origins = origins(&listeners.iter().map(|(_, address)| &address[..]).collect::<Vec<_>>());
        origins.balance = balance;
        let running = Running::serve(Target::Origins(origins));
        let open = || -> Vec<u64> {
            running.origins.states(&ServiceName::default()).iter().map(|state| state.open).collect()
        };
        let clients: Vec<_> = (0..12).map(|_| running.dial()).collect();
        until("twelve open connections", || open().iter().sum::<u64>() == 12);
        if balance == Balance::SourceHash {
            assert!(open().contains(&12), "all are of one client: {:?}", open());
        }
        drop(clients);
        drop(listeners);
        until("none open", || open().iter().all(|open| *open == 0));
    }
}

#[test]
fn source_hash_gives_a_client_the_same_origin_and_moves_only_those_of_one_that_goes() {
    let listeners: Vec<_> = (0..4).map(|_| origin()).collect();
    let addresses: Vec<&str> = listeners.iter().map(|(_, address)| &address[..]).collect();
    let front = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = front.local_addr().unwrap().port();
    let mut four = origins(&addresses);
    four.balance = Balance::SourceHash;
    let running = Running::serve_from(front, Target::Origins(four.clone()));
    let choices = || {
        let mut choices = BTreeMap::new();
        for client in 1..=60 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let source = Ipv4Addr::new(127, 50, 0, client);
            socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
            socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
            socket.send(b"x").unwrap();
            reset(socket.into());
            choices.insert(source, running.report().origin);
        }
        choices
    };
    let before = choices();
    assert_eq!(before, choices());
    let gone = four.list.remove(1);
    running.replace(Target::Origins(four));
    let after = choices();
    for (client, origin) in &before {
        let was_there = *origin == Some(gone.to_string().parse().unwrap());
        assert_eq!(was_there, after[client] != *origin, "{client}");
    }
    let moved = before.iter().filter(|(client, origin)| after[client] != **origin).count();
    assert!((5..=28).contains(&moved), "{moved} of 60 moved, 15 expected");
}

#[test]
fn an_origin_whose_checks_fail_is_passed_over_until_they_succeed() {
    let (closed, address) = refusing();
    let (listener, other) = origin();
    let mut origins = origins(&[&address, &other]);
    origins.health = Some(OFTEN);
    let running = Running::serve(Target::Origins(origins));
    until("a check that fails", || conditions(&running) == [OriginCondition::Down, OriginCondition::Up]);
    let states = running.origins.states(&ServiceName::default());
    let said = states[0].last_check.as_ref().unwrap().outcome.as_ref().unwrap_err();
    assert!(said.contains("refused"), "{said}");
    for _ in 0..4 {
        let mut client = running.dial();
        let mut origin = loop {
            // Checks come here too, and are gone by now.
            let mut origin = accept(&listener);
            origin.set_nonblocking(true).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            let checked = !matches!(origin.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
            origin.set_nonblocking(false).unwrap();
            if !checked {
                break origin;
            }
        };
        pass("hi", &mut client, &mut origin);
        drop((client, origin));
        assert_eq!(running.report().origin, Some(other.parse().unwrap()), "no other was tried");
    }
    closed.listen(16).unwrap();
    until("checks that succeed", || conditions(&running) == [OriginCondition::Up; 2]);
}

/// The bytes that the origin of a check hears until it is over.
fn heard(mut checked: TcpStream) -> std::io::Result<Vec<u8>> {
    checked.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut heard = Vec::new();
    checked.read_to_end(&mut heard).map(|_| heard)
}

#[test]
fn a_check_ends_in_order_or_by_a_reset_as_it_is_told_to() {
    for (close, header) in [
        (CheckClose::Fin, None),
        (CheckClose::Fin, Some(ProxyVersion::V1)),
        (CheckClose::Fin, Some(ProxyVersion::V2)),
        (CheckClose::Reset, None),
    ] {
        let (listener, address) = origin();
        let mut origins = origins(&[&address]);
        origins.health = Some(HealthCheck { close, header, ..OFTEN });
        let running = Running::serve(Target::Origins(origins));
        let said = header.map_or_else(Vec::new, |version| Header::Local.bytes(version));
        for speaks_first in [false, true, true] {
            let mut checked = accept(&listener);
            // Where it resets it may have gone by now; then writing tells, and reading does not any more.
            let spoken =
                if speaks_first { checked.write_all(b"220 origin.example ESMTP\r\n") } else { Ok(()) };
            match (close, spoken.and_then(|()| heard(checked))) {
                (CheckClose::Fin, heard) => assert_eq!(heard.unwrap(), said),
                (CheckClose::Reset, heard) => assert_reset(heard),
            }
        }
        until("checks that succeed", || conditions(&running) == [OriginCondition::Up]);
    }
}

#[test]
fn an_origin_that_never_closes_a_check_is_checked_on() {
    let (listener, address) = origin();
    let mut origins = origins(&[&address]);
    origins.health = Some(OFTEN);
    let running = Running::serve(Target::Origins(origins));
    // Each has had its FIN, and nobody waits for theirs.
    let kept: Vec<TcpStream> = (0..4).map(|_| accept(&listener)).collect();
    for mut one in kept {
        assert_eq!(one.read(&mut [0]).unwrap(), 0);
    }
    until("checks that succeed", || conditions(&running) == [OriginCondition::Up]);
}

#[test]
fn when_all_are_down_a_connection_is_refused_at_once() {
    let (first, one) = refusing();
    let (_second, two) = refusing();
    let mut origins = origins(&[&one, &two]);
    origins.health = Some(OFTEN);
    let running = Running::serve(Target::Origins(origins));
    until("checks that fail", || conditions(&running) == [OriginCondition::Down; 2]);
    for _ in 0..20 {
        let began = Instant::now();
        assert_reset(running.dial().read(&mut [0; 8]));
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        let report = running.report();
        assert_eq!((report.end, report.origin), (End::Undialled(DialFailure::Down), None));
    }
    first.listen(16).unwrap();
    until("checks that succeed", || conditions(&running) == [OriginCondition::Up, OriginCondition::Down]);
    reset(running.dial());
    assert_eq!(running.report().end, End::Reset(Side::Downstream));
}

#[test]
fn the_sole_origin_is_refused_at_once_too() {
    let (_closed, address) = refusing();
    let mut origins = origins(&[&address]);
    origins.health = Some(OFTEN);
    let running = Running::serve(Target::Origins(origins));
    until("checks that fail", || conditions(&running) == [OriginCondition::Down]);
    assert_reset(running.dial().read(&mut [0; 8]));
    assert_eq!(running.report().end, End::Undialled(DialFailure::Down));
}

#[test]
fn backups_are_used_while_no_primary_is() {
    let (closed, address) = refusing();
    let (listener, backup) = origin();
    let mut origins = origins(&[&address, &backup]);
    origins.list[1].role = OriginRole::Backup;
    origins.ejection = Some(Ejection { failures: 1, time: Duration::from_secs(1) });
    let running = Running::serve(Target::Origins(origins));
    for _ in 0..2 {
        // The first is dialled, refuses and is ejected; the second is not dialled any more.
        let mut client = running.dial();
        let mut origin = accept(&listener);
        pass("hi", &mut client, &mut origin);
        drop((client, origin));
        assert_eq!(running.report().origin, Some(backup.parse().unwrap()));
        assert_eq!(conditions(&running), [OriginCondition::Ejected, OriginCondition::Up]);
    }
    closed.listen(16).unwrap();
    until("the end of the ejection", || conditions(&running) == [OriginCondition::Up; 2]);
    let client = running.dial();
    drop(accept(&closed.into()));
    reset(client);
    assert_eq!(running.report().origin, Some(address.parse().unwrap()), "the primary is used again");
}

#[test]
fn failed_dials_eject_the_sole_origin_for_a_time() {
    let (closed, address) = refusing();
    let mut origins = origins(&[&address]);
    origins.ejection = Some(Ejection { failures: 3, time: Duration::from_secs(1) });
    let running = Running::serve(Target::Origins(origins));
    let end = || {
        assert_reset(running.dial().read(&mut [0; 8]));
        running.report().end
    };
    let ends: Vec<_> = (0..4).map(|_| end()).collect();
    let (refused, down) = (End::Undialled(DialFailure::Refused), End::Undialled(DialFailure::Down));
    assert_eq!(ends, [refused, refused, refused, down]);
    until("the end of the ejection", || end() != down);
    until("another ejection", || end() == down);
    closed.listen(16).unwrap();
    let listener = TcpListener::from(closed);
    listener.set_nonblocking(true).unwrap();
    until("a connection to the origin", || {
        drop(running.dial());
        listener.accept().is_ok()
    });
}

#[test]
fn what_is_known_of_an_origin_survives_a_new_revision_in_which_it_stays() {
    let (_closed, address) = refusing();
    let (_listener, other) = origin();
    let slow = HealthCheck { interval: Duration::from_hours(1), ..OFTEN };
    let mut both = origins(&[&address, &other]);
    both.health = Some(OFTEN);
    let running = Running::serve(Target::Origins(both.clone()));
    until("a check that fails", || conditions(&running) == [OriginCondition::Down, OriginCondition::Up]);
    // Other checks, which would need an hour to find out, and another balance.
    both.health = Some(slow);
    both.balance = Balance::SourceHash;
    running.replace(Target::Origins(both));
    assert_eq!(conditions(&running), [OriginCondition::Down, OriginCondition::Up]);
}

#[test]
fn an_origin_that_does_not_answer_is_followed_by_another_after_its_time() {
    let (_socket, _filling, silent) = silent(Ipv4Addr::LOCALHOST.into());
    let (listener, address) = origin();
    let mut policy = spectrum_proxy::model::Policy::default();
    policy.timeouts.connect = Duration::from_millis(300);
    let running = Running::serve_under(policy, Target::Origins(origins(&[&silent.to_string(), &address])));
    for _ in 0..4 {
        let began = Instant::now();
        let mut client = running.dial();
        let mut origin = accept(&listener);
        pass("hi", &mut client, &mut origin);
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        drop((client, origin));
        running.report();
    }
}

#[test]
fn connect_timeout_is_the_end_of_a_connection_whose_only_origin_is_silent() {
    let (_socket, _filling, silent) = silent(Ipv4Addr::LOCALHOST.into());
    let mut policy = spectrum_proxy::model::Policy::default();
    policy.timeouts.connect = Duration::from_millis(200);
    let running = Running::serve_under(policy, Target::Origins(origins(&[&silent.to_string()])));
    let began = Instant::now();
    assert_reset(running.dial().read(&mut [0; 8]));
    assert!((200..3000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(running.report().end, End::Undialled(DialFailure::TimedOut));
}

#[test]
fn localhost_is_known_without_a_name_server() {
    let (listener, address) = origin();
    let port = address.parse::<SocketAddr>().unwrap().port();
    let origins = origins(&[&format!("localhost:{port}")]);
    let running = Running::serve(Target::Origins(origins.clone()));
    running.await_names(&origins);
    let mut client = running.dial();
    let mut origin = accept(&listener);
    pass("hi", &mut client, &mut origin);
    drop(origin);
    assert_eq!(read_to_end(&mut client).unwrap(), "");
}

#[test]
fn who_is_reset_before_anybody_accepts_costs_no_origin_anything() {
    let (listener, address) = origin();
    listener.set_nonblocking(true).unwrap();
    for dial_on in [DialOn::Accept, DialOn::FirstByte] {
        let front = TcpListener::bind("127.0.0.1:0").unwrap();
        let running = Running::idle(front.local_addr().unwrap());
        (0..50).for_each(|_| reset(running.dial()));
        running.listen(front, Target::Origins(Origins { dial_on, ..origins(&[&address]) }));
        for _ in 0..50 {
            let report = running.report();
            assert_eq!((report.end, report.origin), (End::Reset(Side::Downstream), None), "{dial_on}");
        }
        assert!(listener.accept().is_err(), "{dial_on}");
    }
}

#[test]
fn an_origin_is_dialled_for_a_client_that_only_listens() {
    let (listener, address) = origin();
    let running = Running::serve(Target::Origins(origins(&[&address])));
    for says_its_end in [false, true] {
        let mut client = running.dial();
        if says_its_end {
            client.shutdown(Shutdown::Write).unwrap();
        }
        let mut taken = accept(&listener);
        pass("hello", &mut taken, &mut client);
        drop((taken, client));
        assert_eq!(running.report().bytes_to_client, 5);
    }
}

#[test]
fn on_the_first_byte_an_origin_hears_of_no_client_that_says_nothing() {
    let (listener, address) = origin();
    let target = Target::Origins(Origins { dial_on: DialOn::FirstByte, ..origins(&[&address]) });
    let running = Running::serve(target);
    let [silent, finishing, resetting] = [(); 3].map(|()| running.dial());
    // Those before it were accepted before it was.
    let mut speaking = running.dial();
    speaking.write_all(b"first").unwrap();
    let mut taken = accept(&listener);
    let mut heard = [0; 5];
    taken.read_exact(&mut heard).unwrap();
    assert_eq!(heard, *b"first");
    pass("answer", &mut taken, &mut speaking);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
    reset(resetting);
    let report = running.report();
    assert_eq!((report.end, report.origin, report.dial), (End::Reset(Side::Downstream), None, None));
    finishing.shutdown(Shutdown::Write).unwrap();
    let mut finishing = finishing;
    assert_eq!(read_to_end(&mut finishing).unwrap(), "", "a FIN is answered by a FIN");
    let report = running.report();
    assert_eq!((report.end, report.origin), (End::Closed, None));
    drop(silent);
    assert_eq!(running.report().origin, None);
    assert!(listener.accept().is_err());
}

#[test]
fn the_wait_for_the_first_byte_has_an_end_and_is_no_part_of_the_dial() {
    let (listener, address) = origin();
    let timeouts = Timeouts { idle: Some(Duration::from_millis(300)), ..Timeouts::default() };
    let policy = Policy { timeouts, ..Policy::default() };
    let target = Target::Origins(Origins { dial_on: DialOn::FirstByte, ..origins(&[&address]) });
    let running = Running::serve_under(policy, target);
    let mut client = running.dial();
    assert_reset(client.read(&mut [0]));
    let report = running.report();
    assert_eq!((report.end, report.origin), (End::Idle, None));
    assert!(report.duration >= Duration::from_millis(300), "{report:?}");
    let mut late = running.dial();
    late.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(late.read(&mut [0]).is_err(), "nobody answers meanwhile");
    late.set_read_timeout(Some(served::DEADLINE)).unwrap();
    let mut taken = {
        late.write_all(b"x").unwrap();
        accept(&listener)
    };
    pass("hi", &mut taken, &mut late);
    drop((taken, late));
    let report = running.report();
    assert!(report.duration >= Duration::from_millis(200), "{report:?}");
    assert!(report.dial.unwrap() < Duration::from_millis(150), "{report:?}");
}

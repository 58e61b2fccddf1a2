//! How connections are accepted, answered by ourselves, and let go. What passes to an origin is tested elsewhere.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics rather than return an error")]

mod served;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use served::{Running, accept, assert_reset, dial, origin, pass, read_to_end, reset, until};
use spectrum_proxy::model::{Policy, Responder, ServiceName, Target};
use spectrum_proxy::{DrainOutcome, End, Event, Served, Side, Workers};

fn hello(address: &str) {
    let running = Running::serve_from(TcpListener::bind(address).unwrap(), Target::Respond(Responder::Hello));
    let mut client = running.dial();
    let expected = format!(
        "hello world\nservice=default protocol=tcp dialled={} client={}\n",
        running.address,
        client.local_addr().unwrap()
    );
    assert_eq!(read_to_end(&mut client).unwrap(), expected);
    drop(client);
    let report = running.report();
    assert_eq!((report.end, report.origin, report.bytes_from_client), (End::Closed, None, 0));
    assert_eq!(report.bytes_to_client, expected.len() as u64);
}

#[test]
fn hello_names_the_dialled_and_the_client_address() {
    hello("127.0.0.1:0");
}

#[test]
fn hello_puts_ipv6_addresses_in_brackets() {
    if TcpListener::bind("[::1]:0").is_err() {
        assert!(std::env::var_os("SPECTRUM_TEST_REQUIRE").is_none(), "IPv6 on loopback is required");
        println!("SKIP hello_puts_ipv6_addresses_in_brackets: needs ::1");
        return;
    }
    hello("[::1]:0");
}

#[test]
fn hello_shows_ipv4_as_ipv4_on_a_listener_for_both_families() {
    let Ok(listener) = TcpListener::bind("[::]:0") else {
        println!("SKIP hello_shows_ipv4_as_ipv4_on_a_listener_for_both_families: needs IPv6");
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let running = Running::serve_from(listener, Target::Respond(Responder::Hello));
    let answer = read_to_end(&mut dial(SocketAddr::from(([127, 0, 0, 1], port)))).unwrap();
    assert!(answer.contains(&format!("dialled=127.0.0.1:{port} client=127.0.0.1:")), "{answer}");
    drop(running);
}

#[test]
fn hello_reaches_a_client_that_keeps_talking() {
    let running = Running::respond(Responder::Hello);
    let mut client = running.dial();
    client.write_all(&vec![b'x'; 300_000]).unwrap();
    assert!(read_to_end(&mut client).unwrap().starts_with("hello world\n"));
    client.shutdown(Shutdown::Write).unwrap();
    let report = running.report();
    assert_eq!((report.end, report.bytes_from_client), (End::Closed, 300_000));
}

#[test]
fn hello_does_not_wait_for_ever_for_a_client_to_close() {
    let running = Running::respond(Responder::Hello);
    let client = running.dial();
    assert_eq!(running.report().end, End::Closed);
    drop(client);
}

#[test]
fn echo_sends_back_what_comes_and_then_the_fin() {
    let running = Running::respond(Responder::Echo);
    let mut client = running.dial();
    let mut other = client.try_clone().unwrap();
    pass("one ", &mut client, &mut other);
    client.write_all(b"two").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client).unwrap(), "two");
    let report = running.report();
    assert_eq!((report.end, report.bytes_from_client, report.bytes_to_client), (End::Closed, 7, 7));
}

#[test]
fn discard_reads_to_the_end_and_says_nothing() {
    let running = Running::respond(Responder::Discard);
    let mut client = running.dial();
    client.write_all(&vec![b'x'; 1_000_000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client).unwrap(), "");
    let report = running.report();
    assert_eq!((report.end, report.bytes_from_client, report.bytes_to_client), (End::Closed, 1_000_000, 0));
}

#[test]
fn reset_by_the_client_is_the_clients() {
    let running = Running::respond(Responder::Echo);
    let mut client = running.dial();
    let mut other = client.try_clone().unwrap();
    pass("abc", &mut client, &mut other);
    drop(other);
    reset(client);
    let report = running.report();
    assert_eq!((report.end, report.bytes_from_client), (End::Reset(Side::Downstream), 3));
}

#[test]
fn removal_serves_what_waits_in_the_accept_queue_and_refuses_the_rest() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let running = Running::idle(address);
    // The kernel has told these clients that they are connected before anybody accepts.
    let mut clients: Vec<_> = (0..100).map(|_| dial(address)).collect();
    running.listen(listener, Target::Respond(Responder::Hello));
    running.remove();
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    for client in &mut clients {
        assert!(read_to_end(client).unwrap().starts_with("hello world\n"));
    }
}

#[test]
fn removal_leaves_open_connections_alone() {
    let running = Running::respond(Responder::Echo);
    let mut client = running.dial();
    let mut other = client.try_clone().unwrap();
    pass("before", &mut client, &mut other);
    running.remove();
    pass("after", &mut client, &mut other);
    running.no_report();
}

#[test]
fn replacement_serves_new_connections_and_leaves_old_ones_alone() {
    let running = Running::respond(Responder::Echo);
    let mut old = running.dial();
    let mut other = old.try_clone().unwrap();
    pass("before", &mut old, &mut other);
    running.replace(Target::Respond(Responder::Hello));
    assert!(read_to_end(&mut running.dial()).unwrap().starts_with("hello world\n"));
    pass("after", &mut old, &mut other);
}

#[test]
fn drain_waits_for_connections_that_finish_in_time() {
    let running = Running::respond(Responder::Echo);
    let mut client = running.dial();
    let mut other = client.try_clone().unwrap();
    pass("before", &mut client, &mut other);
    let address = running.address;
    let finishing = thread::spawn(move || {
        until("the listener's end", || TcpStream::connect(address).is_err());
        pass("while draining", &mut client, &mut other);
        client.shutdown(Shutdown::Write).unwrap();
        read_to_end(&mut other).unwrap()
    });
    let began = Instant::now();
    let outcome = running.drain(Duration::from_secs(20));
    assert!(began.elapsed() < Duration::from_secs(15), "drained for {:?}", began.elapsed());
    assert_eq!(outcome.cut, 0);
    // A dial of the finishing thread may still have been accepted.
    assert!(outcome.finished >= 1, "{outcome:?}");
    assert_eq!(finishing.join().unwrap(), "");
}

#[test]
fn drain_cuts_what_does_not_finish_in_time() {
    let (listener, address) = origin();
    let running = Running::proxy(&[address]);
    let mut client = running.dial();
    let mut origin = accept(&listener);
    pass("abc", &mut client, &mut origin);
    let outcome = running.drain(Duration::from_millis(100));
    assert_eq!(outcome, DrainOutcome { finished: 0, cut: 1 });
    assert_reset(client.read(&mut [0; 8]));
    assert_reset(origin.read(&mut [0; 8]));
    let report = running.report();
    assert_eq!((report.end, report.bytes_from_client), (End::Cut, 3));
}

#[test]
fn abort_ends_a_drain_at_once() {
    let running = Running::respond(Responder::Echo);
    let mut client = running.dial();
    let mut other = client.try_clone().unwrap();
    pass("abc", &mut client, &mut other);
    let began = Instant::now();
    let outcome = running.block_on(async {
        let drain = running.workers.drain(Duration::from_mins(1));
        tokio::pin!(drain);
        tokio::select! {
            outcome = &mut drain => outcome,
            () = tokio::time::sleep(Duration::from_millis(50)) => {
                running.workers.abort();
                drain.await
            }
        }
    });
    assert_eq!(outcome, DrainOutcome { finished: 0, cut: 1 });
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(running.report().end, End::Cut);
}

#[test]
fn dropped_workers_cut_their_connections() {
    let running = Running::respond(Responder::Echo);
    let mut client = running.dial();
    let mut other = client.try_clone().unwrap();
    pass("abc", &mut client, &mut other);
    drop(running);
    assert_reset(client.read(&mut [0; 8]));
}

#[test]
fn a_listener_that_can_accept_no_more_is_a_failure_that_names_it() {
    let running = Running::idle("127.0.0.1:1".parse().unwrap());
    // Bound and never listening: accept(2) says EINVAL, and would for ever.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    running.listen(socket.into(), Target::Respond(Responder::Hello));
    let failure = running.block_on(running.workers.failure()).unwrap();
    assert_eq!(failure.to_string(), "accept connections for default tcp ipv4");
}

#[test]
fn an_accept_loop_that_panics_is_a_failure_that_names_its_worker() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let running = Running::idle(address);
    let workers = Workers::start(NonZeroUsize::MIN, running.origins.clone(), |_| {
        |event: Event<'_>| assert!(!matches!(event, Event::Opened { .. }), "as this test wants")
    })
    .unwrap();
    let served = Served {
        service: ServiceName::default(),
        target: Target::Respond(Responder::Hello),
        policy: Policy::default(),
    };
    let failure = running.block_on(async {
        workers.listen(&running.destination, vec![listener], Arc::new(served)).await.unwrap();
        let client = thread::spawn(move || dial(address));
        let failure = workers.failure().await;
        drop(client.join());
        failure
    });
    assert_eq!(failure.unwrap().to_string(), "worker 0 ended unexpectedly");
}

const CHILD: &str = "SPECTRUM_TEST_SHORT_OF_DESCRIPTORS";

/// Serves echo until its standard input ends: the other half of the next test, in a process that is short of descriptors.
#[test]
fn child_that_is_short_of_descriptors() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let running = Running::respond(Responder::Echo);
    // Now that the workers think they have more: as when something else takes the descriptors.
    setrlimit(Resource::RLIMIT_NOFILE, 40, 40).unwrap();
    println!("\nport {}", running.address.port());
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn out_of_descriptors_it_waits_keeps_serving_and_logs_once() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_is_short_of_descriptors", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = Arc::new(Mutex::new(String::new()));
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let lines = Arc::clone(&log);
    let logging = thread::spawn(move || {
        let mut line = String::new();
        while stderr.read_line(&mut line).unwrap() > 0 {
            lines.lock().unwrap().push_str(&line);
            line.clear();
        }
    });
    let logged = |text: &str| log.lock().unwrap().matches(text).count();
    // Kept open to the end: the child reports its result there.
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let port = stdout.find_map(|line| line.strip_prefix("port ")?.parse().ok());
    let address = SocketAddr::from(([127, 0, 0, 1], port.expect("the child prints its port")));

    let echoes = |client: &mut TcpStream| {
        let mut other = client.try_clone().unwrap();
        pass("hi", client, &mut other);
    };
    let mut clients: Vec<_> = (0..60).map(|_| dial(address)).collect();
    until("the shortage", || logged("trying again until it succeeds") > 0);
    // The first ones were accepted and are served throughout; the last ones wait their turn.
    clients.iter_mut().take(5).for_each(echoes);
    let mut waiting = clients.split_off(50);
    drop(clients);
    waiting.iter_mut().for_each(echoes);
    until("the shortage's end", || {
        echoes(&mut dial(address));
        logged("accepting connections again") > 0
    });
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    logging.join().unwrap();
    assert_eq!(logged("trying again until it succeeds"), 1, "{}", log.lock().unwrap());
    assert_eq!(logged("accepting connections again"), 1, "{}", log.lock().unwrap());
}

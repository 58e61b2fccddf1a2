//! What passes between a client and its origin, and how it ends. How connections are accepted is tested elsewhere.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics rather than return an error")]

mod served;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use served::{Running, accept, assert_reset, dial, origin, origins_of, pass, read_to_end, reset, until};
use socket2::SockRef;
use spectrum_proxy::model::Target;
use spectrum_proxy::{DialFailure, End, Side};

/// A relayed connection: the workers, the client, and the origin's socket.
fn connected() -> (Running, TcpStream, TcpStream) {
    let (listener, address) = origin();
    let running = Running::proxy(&[address]);
    let client = running.dial();
    let origin = accept(&listener);
    (running, client, origin)
}

#[test]
fn half_close_by_the_client_leaves_the_origin_talking() {
    let (running, mut client, mut origin) = connected();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut origin).unwrap(), "question");
    running.no_report();
    pass("first half, ", &mut origin, &mut client);
    pass("second half", &mut origin, &mut client);
    drop(origin);
    assert_eq!(read_to_end(&mut client).unwrap(), "");
    let report = running.report();
    assert_eq!((report.end, report.bytes_from_client, report.bytes_to_client), (End::Closed, 8, 23));
    assert_eq!(report.client, client.local_addr().unwrap());
    assert_eq!(report.dialled, running.address);
}

#[test]
fn half_close_by_the_origin_leaves_the_client_talking() {
    let (running, mut client, mut origin) = connected();
    origin.write_all(b"banner").unwrap();
    origin.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client).unwrap(), "banner");
    running.no_report();
    pass("upload", &mut client, &mut origin);
    drop(client);
    assert_eq!(read_to_end(&mut origin).unwrap(), "");
    let report = running.report();
    assert_eq!((report.end, report.bytes_from_client, report.bytes_to_client), (End::Closed, 6, 6));
    assert_eq!(report.origin, Some(origin.local_addr().unwrap()));
}

#[test]
fn reset_by_the_client_resets_the_origin() {
    let (running, mut client, mut origin) = connected();
    pass("abc", &mut client, &mut origin);
    reset(client);
    assert_reset(origin.read(&mut [0; 8]));
    let report = running.report();
    assert_eq!((report.end, report.bytes_from_client), (End::Reset(Side::Downstream), 3));
}

#[test]
fn reset_by_the_origin_resets_the_client() {
    let (running, mut client, mut origin) = connected();
    pass("abc", &mut client, &mut origin);
    pass("de", &mut origin, &mut client);
    reset(origin);
    assert_reset(client.read(&mut [0; 8]));
    let report = running.report();
    assert_eq!(report.end, End::Reset(Side::Upstream));
    assert_eq!((report.bytes_from_client, report.bytes_to_client), (3, 2), "bytes count though it failed");
}

#[test]
fn reset_after_half_close_is_noticed_though_nobody_sends() {
    let (running, mut client, mut origin) = connected();
    pass("abc", &mut client, &mut origin);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut origin).unwrap(), "");
    reset(client);
    assert_reset(origin.read(&mut [0; 8]).and_then(|_| origin.read(&mut [0; 8])).and_then(|_| {
        // The FIN was read before: the reset shows when the socket is used.
        served::until("the reset", || origin.write_all(b"x").is_err());
        Err::<(), _>(std::io::ErrorKind::ConnectionReset.into())
    }));
    assert_eq!(running.report().end, End::Reset(Side::Downstream));
}

#[test]
fn answer_given_before_the_question_was_read_is_delivered() {
    let (running, mut client, mut origin) = connected();
    // The origin closes with the question unread, which resets the connection behind its answer.
    client.write_all(b"a long question").unwrap();
    served::until("the question", || origin.peek(&mut [0; 15]).unwrap() == 15);
    origin.write_all(b"no").unwrap();
    drop(origin);
    let mut answer = [0; 2];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"no");
    assert_eq!(running.report().end, End::Reset(Side::Upstream));
}

#[test]
fn refused_origin_resets_the_client() {
    let (listener, address) = origin();
    drop(listener);
    let running = Running::proxy(std::slice::from_ref(&address));
    assert_reset(running.dial().read(&mut [0; 8]));
    let report = running.report();
    assert_eq!(report.end, End::Undialled(DialFailure::Refused));
    assert_eq!(report.origin, Some(address.parse().unwrap()), "the origin that refused is named");
}

/// An origin that drops SYNs, as one does whose accept queue is full.
struct Silent {
    address: SocketAddr,
    _queued: Vec<TcpStream>,
    _listener: socket2::Socket,
}

impl Silent {
    fn new() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        // How many fit is the kernel's business: fill it until one does not.
        let fits = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
        Self { address, _queued: std::iter::from_fn(fits).collect(), _listener: listener }
    }
}

#[test]
fn origin_that_never_answers_times_out() {
    let silent = Silent::new();
    let running = Running::proxy(&[silent.address.to_string()]);
    let began = Instant::now();
    assert_reset(running.dial().read(&mut [0; 8]));
    assert!(began.elapsed() >= Duration::from_secs(4), "gave up after {:?}", began.elapsed());
    assert_eq!(running.report().end, End::Undialled(DialFailure::TimedOut));
}

#[test]
fn client_that_gives_up_ends_the_attempt() {
    let silent = Silent::new();
    let running = Running::proxy(&[silent.address.to_string()]);
    let began = Instant::now();
    reset(running.dial());
    assert_eq!(running.report().end, End::Reset(Side::Downstream));
    assert!(began.elapsed() < Duration::from_secs(4), "held on for {:?}", began.elapsed());
}

#[test]
fn the_next_origin_is_tried_when_one_refuses() {
    let (closed, refusing) = origin();
    drop(closed);
    let (listener, address) = origin();
    let running = Running::proxy(&[refusing, address.clone()]);
    for _ in 0..4 {
        let mut client = running.dial();
        let mut origin = accept(&listener);
        pass("hi", &mut client, &mut origin);
        drop((client, origin));
        let report = running.report();
        assert_eq!(report.origin, Some(address.parse().unwrap()));
    }
}

#[test]
fn origins_take_turns() {
    let (one, two) = (origin(), origin());
    let running = Running::proxy(&[one.1, two.1]);
    for _ in 0..3 {
        let clients = [running.dial(), running.dial()];
        // Each blocks until its origin was dialled.
        drop((accept(&one.0), accept(&two.0), clients));
    }
}

#[test]
fn origin_without_a_port_is_dialled_at_the_dialled_port() {
    let (listener, address) = origin();
    let port = address.parse::<SocketAddr>().unwrap().port();
    let front = TcpListener::bind(("127.0.0.2", port)).unwrap();
    let running = Running::serve_from(front, origins_of(&["127.0.0.1".to_owned()]));
    let mut client = running.dial();
    let mut origin = accept(&listener);
    pass("hi", &mut client, &mut origin);
}

#[test]
fn origin_may_be_a_name() {
    let (listener, address) = origin();
    let port = address.parse::<SocketAddr>().unwrap().port();
    let target = origins_of(&[format!("localhost:{port}")]);
    let running = Running::serve(target.clone());
    let Target::Origins(origins) = target else { unreachable!() };
    running.await_names(&origins);
    let mut client = running.dial();
    let mut origin = accept(&listener);
    pass("hi", &mut client, &mut origin);
}

/// An endless stream of bytes that differs from seed to seed and has no period that a buffer size could hide.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for eight in bytes.chunks_mut(8) {
            eight.copy_from_slice(&self.next().to_le_bytes()[..eight.len()]);
        }
    }
}

const BULK: usize = 100 * 1024 * 1024;

/// Sends `BULK` bytes of `seed`'s noise in chunks of random sizes, one in the middle as urgent, then a FIN.
fn send_bulk(mut stream: &TcpStream, seed: u64) {
    let mut noise = Noise(seed);
    let mut sizes = Noise(!seed);
    let mut chunk = vec![0; 200_000];
    let mut left = BULK;
    while left > 0 {
        let size = (usize::try_from(sizes.next() % 25_000).unwrap() * 8 + 8).min(left);
        noise.fill(&mut chunk[..size]);
        let mut rest = &chunk[..size];
        if left > BULK / 2 && left - size <= BULK / 2 {
            let (urgent, behind) = rest.split_at(1);
            assert_eq!(SockRef::from(stream).send_out_of_band(urgent).unwrap(), 1);
            rest = behind;
        }
        stream.write_all(rest).unwrap();
        left -= size;
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Compares what comes with `seed`'s noise, to the end.
fn receive_bulk(mut stream: &TcpStream, seed: u64) {
    let mut noise = Noise(seed);
    let (mut arrived, mut expected) = (vec![0; 80_000], vec![0; 80_000]);
    let mut left = BULK;
    while left > 0 {
        let size = arrived.len().min(left);
        stream.read_exact(&mut arrived[..size]).unwrap();
        noise.fill(&mut expected[..size]);
        assert!(arrived[..size] == expected[..size], "bytes differ {left} before the end");
        left -= size;
    }
    assert_eq!(stream.read(&mut arrived).unwrap(), 0, "more came than was sent");
}

#[test]
fn bulk_in_random_chunks_with_an_urgent_byte_arrives_unharmed_in_both_directions_at_once() {
    let (running, client, origin) = connected();
    thread::scope(|scope| {
        scope.spawn(|| send_bulk(&client, 1));
        scope.spawn(|| receive_bulk(&origin, 1));
        scope.spawn(|| send_bulk(&origin, 2));
        receive_bulk(&client, 2);
    });
    let report = running.report();
    assert_eq!(report.end, End::Closed);
    assert_eq!((report.bytes_from_client, report.bytes_to_client), (BULK as u64, BULK as u64));
}

#[test]
fn slow_reader_stops_the_writer_and_loses_nothing() {
    let (running, mut client, mut origin) = connected();
    origin.set_nonblocking(true).unwrap();
    let chunk = vec![7; 64 * 1024];
    let mut sent = 0;
    let mut stalled = None;
    // Until nothing was taken for a while: kernel buffers on the way may still be growing.
    while stalled.is_none_or(|since: Instant| since.elapsed() < Duration::from_millis(500)) {
        if let Ok(bytes) = origin.write(&chunk) {
            sent += bytes;
            stalled = None;
            assert!(sent < 64 << 20, "the writer was never stopped");
        } else {
            stalled.get_or_insert_with(Instant::now);
            thread::sleep(Duration::from_millis(5));
        }
    }
    drop(origin);
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), sent);
    drop(client);
    assert_eq!(running.report().bytes_to_client, sent as u64);
}

#[test]
fn a_busy_direction_does_not_starve_the_other() {
    let (_running, mut client, origin) = connected();
    let mut flood = origin.try_clone().unwrap();
    let mut drain = client.try_clone().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let chunk = vec![0; 256 * 1024];
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                flood.write_all(&chunk).unwrap();
            }
            flood.shutdown(Shutdown::Both).unwrap();
        });
        scope.spawn(|| {
            let mut chunk = vec![0; 256 * 1024];
            while drain.read(&mut chunk).is_ok_and(|bytes| bytes > 0) {}
        });
        let mut answer = [0; 4];
        for _ in 0..20 {
            client.write_all(b"ping").unwrap();
            (&origin).read_exact(&mut answer).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn two_hundred_connections_are_relayed_at_once() {
    let (listener, address) = origin();
    let running = Running::proxy(&[address]);
    let clients: Vec<_> = (0..200).map(|_| dial(running.address)).collect();
    let mut origins: Vec<_> = clients.iter().map(|_| accept(&listener)).collect();
    for mut client in &clients {
        client.write_all(b"hi").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    }
    for origin in &mut origins {
        assert_eq!(read_to_end(origin).unwrap(), "hi");
    }
    drop(origins);
    for mut client in clients {
        assert_eq!(read_to_end(&mut client).unwrap(), "");
        assert_eq!(running.report().end, End::Closed);
    }
}

#[test]
fn what_the_client_had_not_acknowledged_is_told_where_the_end_was_not_in_order() {
    let (running, client, mut origin) = connected();
    let piece = vec![7; 64 * 1024];
    let flood = thread::spawn(move || while origin.write_all(&piece).is_ok() {});
    // It acknowledges what its own host has room for.
    until("the client's buffers are full", || {
        let full = waiting(&client);
        thread::sleep(Duration::from_millis(100));
        full > 0 && waiting(&client) == full
    });
    let acknowledged = waiting(&client);
    reset(client);
    flood.join().unwrap();
    let report = running.report();
    assert_eq!(report.end, End::Reset(Side::Downstream));
    let lost = report.bytes_unacknowledged.unwrap();
    assert!(lost > 0);
    assert_eq!(report.bytes_to_client - u64::from(lost), acknowledged);

    let (running, mut client, mut origin) = connected();
    pass("abc", &mut origin, &mut client);
    drop((client, origin));
    let report = running.report();
    assert_eq!((report.end, report.bytes_unacknowledged), (End::Closed, None));
}

/// The bytes that wait to be read.
fn waiting(stream: &TcpStream) -> u64 {
    rustix::io::ioctl_fionread(stream).unwrap()
}

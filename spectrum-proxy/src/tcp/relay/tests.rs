//! What holds for every strategy, over real sockets; and the times, over a clock that is moved on. How connections are
//! accepted and dialled is tested elsewhere.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;

use super::direction::Strategy;
use super::pipes::{LARGEST, SMALLEST};
use super::*;
use crate::model::Timeouts;
use crate::report::Expiry;
use crate::tcp::stream::{accept, keep_urgent_bytes};

/// Every strategy, and pipes of which there are none.
const TABLE: [(&str, Strategy, usize); 4] = [
    ("adaptive", Strategy::Adaptive, 16),
    ("copy", Strategy::Copy, 16),
    ("splice", Strategy::Splice, 16),
    ("splice without pipes", Strategy::Splice, 0),
];

/// Longer than anything takes that happens at all.
const DEADLINE: Duration = Duration::from_secs(20);

/// A relay in progress, on a thread of its own.
struct Relaying {
    client: std::net::TcpStream,
    origin: std::net::TcpStream,
    relay: JoinHandle<Relayed>,
}

/// The outcome of it.
#[derive(Debug, Eq, PartialEq)]
struct Relayed {
    end: End,
    from_client: u64,
    to_client: u64,
    /// The number of pipes that are neither spare nor closed.
    lost_pipes: usize,
}

/// The far end of a connection, and ours.
async fn pair() -> (TcpStream, Stream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    keep_urgent_bytes(&listener).unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (far, accept(&listener.into()).unwrap().0)
}

fn forever() -> Timeouts {
    Timeouts { idle: None, half_closed: None, keepalive: None, ..Timeouts::default() }
}

impl Relaying {
    fn start(strategy: Strategy, pipes: usize) -> Self {
        let (sender, ends) = std::sync::mpsc::channel();
        let relay = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let ((client, downstream), (origin, upstream)) = (pair().await, pair().await);
                sender.send([client, origin].map(blocking)).unwrap();
                let (buffers, pipes) = (Buffers::default(), Pipes::at_most(pipes));
                let means = Means { buffers: &buffers, pipes: &pipes, strategy };
                let (from_client, to_client) = (Meter::default(), Meter::default());
                let timeouts = forever();
                let watch = ConnectionTimer::start(&timeouts);
                let end = relay(&downstream, &upstream, &from_client, &to_client, means, &watch).await;
                if end != End::Closed {
                    for side in [&downstream, &upstream] {
                        side.set_zero_linger().unwrap();
                    }
                }
                let (from_client, to_client) = (from_client.get(), to_client.get());
                Relayed { end, from_client, to_client, lost_pipes: pipes.lost() }
            })
        });
        let [client, origin] = ends.recv().unwrap();
        Self { client, origin, relay }
    }
}

fn blocking(stream: TcpStream) -> std::net::TcpStream {
    let stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Runs `case` with every strategy, under its name.
fn with_each(case: impl Fn(&str, Relaying)) {
    for (name, strategy, pipes) in TABLE {
        case(name, Relaying::start(strategy, pipes));
    }
}

/// An endless stream of bytes without a period that a buffer size could hide.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn chunk(&mut self, most: u64) -> Vec<u8> {
        let length = usize::try_from(self.next() % most + 1).unwrap();
        (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(length).collect()
    }
}

/// FNV-1a: any difference in any byte or in their order shows.
#[derive(Debug, Eq, PartialEq)]
struct Digest {
    hash: u64,
    length: u64,
}

impl Digest {
    fn new() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, length: 0 }
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.length += bytes.len() as u64;
    }
}

/// Sends `total` bytes in chunks that are small for a while, then large for a while, then a FIN.
fn send(mut stream: &std::net::TcpStream, seed: u64, total: u64) -> Digest {
    let (mut noise, mut digest) = (Noise(seed), Digest::new());
    while digest.length < total {
        let most = if digest.length / (8 << 20) % 2 == 0 { 1_000_000 } else { 30_000 };
        let mut chunk = noise.chunk(most);
        chunk.truncate(usize::try_from(total - digest.length).unwrap());
        digest.add(&chunk);
        stream.write_all(&chunk).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    digest
}

/// Reads to the end in portions of every size.
fn receive(mut stream: &std::net::TcpStream, seed: u64) -> Digest {
    let (mut sizes, mut digest, mut buffer) = (Noise(seed), Digest::new(), vec![0; 300_000]);
    loop {
        let size = usize::try_from(sizes.next() % 300_000 + 1).unwrap();
        match stream.read(&mut buffer[..size]).unwrap() {
            0 => return digest,
            length => digest.add(&buffer[..length]),
        }
    }
}

#[test]
fn chunks_of_any_size_arrive_unharmed_in_both_directions_at_once() {
    const TOTAL: u64 = 40 << 20;
    with_each(|name, Relaying { client, origin, relay }| {
        thread::scope(|scope| {
            let up = scope.spawn(|| send(&client, 1, TOTAL));
            let down = scope.spawn(|| send(&origin, 2, TOTAL));
            let arrived = scope.spawn(|| receive(&origin, 3));
            assert_eq!(receive(&client, 4), down.join().unwrap(), "{name}: to the client");
            assert_eq!(arrived.join().unwrap(), up.join().unwrap(), "{name}: from the client");
        });
        let outcome = relay.join().unwrap();
        let expected = Relayed { end: End::Closed, from_client: TOTAL, to_client: TOTAL, lost_pipes: 0 };
        assert_eq!(outcome, expected, "{name}");
    });
}

#[test]
fn either_side_may_half_close_and_still_be_told_much() {
    const TOTAL: u64 = 3 << 20;
    for first_is_client in [true, false] {
        with_each(|name, Relaying { client, origin, relay }| {
            let (first, second) = if first_is_client { (client, origin) } else { (origin, client) };
            let asked = send(&first, 5, 100);
            assert_eq!(receive(&second, 6), asked, "{name}");
            thread::scope(|scope| {
                let told = scope.spawn(|| send(&second, 7, TOTAL));
                assert_eq!(receive(&first, 8), told.join().unwrap(), "{name}");
            });
            let outcome = relay.join().unwrap();
            assert_eq!((outcome.end, outcome.lost_pipes), (End::Closed, 0), "{name}");
        });
    }
}

/// Sends a byte as urgent.
fn send_urgent(stream: &std::net::TcpStream, byte: u8) {
    assert_eq!(SockRef::from(stream).send_out_of_band(&[byte]).unwrap(), 1);
}

#[test]
fn an_urgent_byte_stays_in_its_place_among_the_others() {
    for first_is_client in [true, false] {
        with_each(|name, Relaying { client, origin, relay }| {
            let (first, second) = if first_is_client { (client, origin) } else { (origin, client) };
            // All of it is there before the relay looks again, and nothing comes after it that would wake it.
            for part in [&b"RETR big\r\n"[..], b"\xff\xf4\xff"] {
                (&first).write_all(part).unwrap();
            }
            send_urgent(&first, 0xf2);
            (&first).write_all(b"ABOR\r\n").unwrap();
            let mut come = [0; 20];
            (&second).read_exact(&mut come).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(&come, b"RETR big\r\n\xff\xf4\xff\xf2ABOR\r\n", "{name}");
            // One that is the first byte, one behind it that is the last.
            send_urgent(&first, b'!');
            (&first).write_all(b"ab").unwrap();
            send_urgent(&first, b'?');
            first.shutdown(Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            (&second).read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"!ab?", "{name}");
            drop((first, second));
            assert_eq!(relay.join().unwrap().end, End::Closed, "{name}");
        });
    }
}

#[test]
fn urgent_bytes_in_bulk_neither_stop_it_nor_get_lost() {
    const PART: usize = 2 << 20;
    for first_is_client in [true, false] {
        with_each(|name, Relaying { client, origin, relay }| {
            let (first, second) = if first_is_client { (client, origin) } else { (origin, client) };
            thread::scope(|scope| {
                let sent = scope.spawn(|| {
                    let (mut noise, mut sent) = (Noise(11), Digest::new());
                    for urgent in 0..4 {
                        while sent.length < (urgent + 1) * PART as u64 {
                            let chunk = noise.chunk(100_000);
                            (&first).write_all(&chunk).unwrap();
                            sent.add(&chunk);
                        }
                        send_urgent(&first, 0xf2);
                        sent.add(&[0xf2]);
                    }
                    // The FIN comes close behind the last one.
                    (&first).write_all(b"the end").unwrap();
                    sent.add(b"the end");
                    first.shutdown(Shutdown::Write).unwrap();
                    sent
                });
                assert_eq!(receive(&second, 12), sent.join().unwrap(), "{name}");
            });
            drop((first, second));
            let outcome = relay.join().unwrap();
            assert_eq!((outcome.end, outcome.lost_pipes), (End::Closed, 0), "{name}");
        });
    }
}

#[test]
fn a_fin_without_a_byte_is_passed_on() {
    with_each(|name, Relaying { mut client, mut origin, relay }| {
        origin.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "{name}");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(origin.read(&mut [0]).unwrap(), 0, "{name}");
        assert_eq!(relay.join().unwrap().end, End::Closed, "{name}");
    });
}

/// Closes with a RST.
fn reset(stream: std::net::TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

#[test]
fn a_reset_of_either_side_resets_the_other_in_the_middle_of_a_transfer() {
    for first_is_client in [true, false] {
        with_each(|name, Relaying { client, origin, relay }| {
            let (first, second, side) = if first_is_client {
                (client, origin, Side::Downstream)
            } else {
                (origin, client, Side::Upstream)
            };
            thread::scope(|scope| {
                // Bytes go both ways when the reset comes.
                scope.spawn(move || {
                    for _ in 0..200 {
                        (&first).write_all(&vec![1; 50_000]).unwrap();
                    }
                    reset(first);
                });
                let flood = scope.spawn(|| {
                    let mut sent = Ok(());
                    while sent.is_ok() {
                        sent = (&second).write_all(&vec![2; 50_000]);
                    }
                    sent.unwrap_err().kind()
                });
                let mut buffer = vec![0; 100_000];
                let seen = loop {
                    match (&second).read(&mut buffer) {
                        Ok(0) => break None,
                        Ok(_) => {}
                        Err(error) => break Some(error.kind()),
                    }
                };
                let told = flood.join().unwrap();
                // The reset is told once, to whichever of the two asks first; the other one sees that it is over.
                let is_over =
                    |kind| matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
                assert!(seen.is_none_or(is_over) && is_over(told), "{name}: {seen:?}, {told:?}");
                assert!(
                    seen == Some(io::ErrorKind::ConnectionReset) || told == io::ErrorKind::ConnectionReset,
                    "{name}: {seen:?}, {told:?}"
                );
            });
            let outcome = relay.join().unwrap();
            assert_eq!((outcome.end, outcome.lost_pipes), (End::Reset(side), 0), "{name}");
        });
    }
}

#[test]
fn a_reset_without_a_byte_is_noticed() {
    with_each(|name, Relaying { client, mut origin, relay }| {
        reset(client);
        assert_eq!(origin.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{name}");
        assert_eq!(relay.join().unwrap().end, End::Reset(Side::Downstream), "{name}");
    });
}

#[test]
fn what_came_before_a_reset_is_delivered_and_then_the_reset() {
    with_each(|name, Relaying { mut client, mut origin, relay }| {
        // The origin closes with this unread, which resets the connection behind its answer.
        client.write_all(b"question").unwrap();
        while origin.peek(&mut [0; 8]).unwrap() < 8 {}
        origin.write_all(b"answer").unwrap();
        drop(origin);
        let mut answer = [0; 6];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer", "{name}");
        assert!(client.read(&mut answer).is_err(), "{name}: an end in order");
        assert_eq!(relay.join().unwrap().end, End::Reset(Side::Upstream), "{name}");
    });
}

#[test]
fn a_slow_reader_stops_the_writer_and_loses_nothing() {
    with_each(|name, Relaying { client, mut origin, relay }| {
        // Sockets that hold little, so that what the relay holds is most of it.
        for socket in [&client, &origin] {
            SockRef::from(socket).set_recv_buffer_size(64 * 1024).unwrap();
            SockRef::from(socket).set_send_buffer_size(64 * 1024).unwrap();
        }
        origin.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let (mut noise, mut sent) = (Noise(9), Digest::new());
        loop {
            let chunk = noise.chunk(8_000);
            match origin.write(&chunk) {
                Ok(length) => sent.add(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{name}: {error}"),
            }
            // The kernel lets the sockets between grow to 4 MB for sending and 32 MB for receiving.
            assert!(sent.length < 64 << 20, "{name}: the writer is never stopped");
        }
        origin.shutdown(Shutdown::Write).unwrap();
        assert_eq!(receive(&client, 10), sent, "{name}");
        drop((client, origin));
        assert_eq!(relay.join().unwrap().end, End::Closed, "{name}");
    });
}

#[test]
fn a_stalled_direction_holds_one_chunk_and_an_idle_one_nothing() {
    for (name, strategy, most) in TABLE {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let ((mut client, downstream), (mut origin, upstream)) = (pair().await, pair().await);
            let (buffers, pipes) = (Buffers::default(), Pipes::at_most(most));
            let means = Means { buffers: &buffers, pipes: &pipes, strategy };
            let counts = Meters { read: None, written: None };
            let mut down = Direction::new(&upstream, &downstream, counts, means);

            origin.write_all(b"little").await.unwrap();
            let mut little = [0; 6];
            tokio::select! {
                _ = poll_fn(|cx| down.poll(cx)) => panic!("{name}: nothing has ended"),
                read = client.read_exact(&mut little) => assert_eq!(read.unwrap(), 6),
            }
            assert_eq!((down.holds(), pipes.lost()), (0, 0), "{name}: idle");

            let flood = async {
                loop {
                    origin.write_all(&[7; 10_000]).await.unwrap();
                }
            };
            let stalled = async {
                let mut moves = None;
                // Until nothing has moved for a while: the kernel's buffers may still be growing.
                loop {
                    tokio::select! {
                        _ = poll_fn(|cx| down.poll(cx)) => panic!("{name}: nothing has ended"),
                        () = tokio::time::sleep(Duration::from_millis(200)) => {}
                    }
                    if moves.replace(down.moves) == Some(down.moves) {
                        break;
                    }
                }
            };
            tokio::select! { () = flood => {}, () = stalled => {} }
            let held = down.holds();
            assert!((1..=LARGEST).contains(&held), "{name}: holds {held}");
            drop(down);
            assert_eq!(pipes.lost(), 0, "{name}: a pipe that was full when its connection ended");
        });
    }
}

#[test]
fn bulk_takes_a_pipe_and_gives_it_back() {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ((mut client, downstream), (mut origin, upstream)) = (pair().await, pair().await);
        let (buffers, pipes) = (Buffers::default(), Pipes::at_most(1));
        let means = Means { buffers: &buffers, pipes: &pipes, strategy: Strategy::Adaptive };
        let counts = Meters { read: None, written: None };
        let mut down = Direction::new(&upstream, &downstream, counts, means);
        let sent = async {
            origin.write_all(&vec![7; 20 << 20]).await.unwrap();
            for _ in 0..100 {
                origin.write_all(b"little").await.unwrap();
                tokio::task::yield_now().await;
            }
            origin.shutdown().await.unwrap();
        };
        let read = async {
            let mut buffer = vec![0; 1 << 20];
            while client.read(&mut buffer).await.unwrap() > 0 {}
        };
        let (moved, (), ()) = tokio::join!(poll_fn(|cx| down.poll(cx)), sent, read);
        moved.unwrap();
        assert_eq!((pipes.held(), pipes.lost()), (SMALLEST, 0));
    });
}

/// A connection on which nothing happens, and the end that `timeouts` put to it.
async fn ended_by(timeouts: Timeouts, half_close: Half) -> (End, Duration) {
    let ((mut client, downstream), (origin, upstream)) = (pair().await, pair().await);
    let (buffers, pipes) = (Buffers::default(), Pipes::at_most(0));
    let means = Means { buffers: &buffers, pipes: &pipes, strategy: Strategy::Adaptive };
    let counts = (Meter::default(), Meter::default());
    if half_close == Half::Closed {
        client.shutdown().await.unwrap();
    }
    let began = tokio::time::Instant::now();
    let watch = ConnectionTimer::start(&timeouts);
    let end = relay(&downstream, &upstream, &counts.0, &counts.1, means, &watch).await;
    drop((client, origin));
    (end, began.elapsed())
}

/// The side that begins with a FIN.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Half {
    Closed,
    Open,
}

#[tokio::test(start_paused = true)]
async fn the_first_time_that_is_over_ends_it() {
    let minutes = Duration::from_mins;
    let none = Timeouts {
        idle: None,
        half_closed: None,
        lifetime: None,
        unacknowledged: None,
        keepalive: None,
        ..Timeouts::default()
    };
    for (timeouts, half, end, after) in [
        (Timeouts { idle: Some(minutes(2)), ..none }, Half::Open, End::Idle, minutes(2)),
        (
            Timeouts { lifetime: Some(minutes(3)), ..none },
            Half::Open,
            End::Expired(Expiry::Lifetime),
            minutes(3),
        ),
        (
            Timeouts { idle: Some(minutes(9)), half_closed: Some(minutes(4)), ..none },
            Half::Closed,
            End::Expired(Expiry::HalfClosed),
            minutes(4),
        ),
        (
            Timeouts { idle: Some(minutes(9)), half_closed: Some(minutes(4)), ..none },
            Half::Open,
            End::Idle,
            minutes(9),
        ),
        (Timeouts { idle: Some(minutes(5)), ..none }, Half::Closed, End::Idle, minutes(5)),
    ] {
        let (ended, took) = ended_by(timeouts, half).await;
        assert_eq!(ended, end, "{timeouts:?}, {half:?}");
        let late = took.checked_sub(after).unwrap_or_else(|| panic!("{timeouts:?}: too early, {took:?}"));
        assert!(late < Duration::from_secs(1), "{timeouts:?}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_moves_puts_the_end_off() {
    let timeouts = Timeouts { idle: Some(Duration::from_mins(10)), half_closed: None, ..Timeouts::default() };
    let watch = ConnectionTimer::start(&timeouts);
    let began = tokio::time::Instant::now();
    let moving = async {
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_mins(4)).await;
            watch.touch();
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = moving => {}
        end = watch.expired([], || {}) => assert_eq!(end, End::Idle),
    }
    assert_eq!(began.elapsed().as_secs(), 34 * 60);
}

#[tokio::test]
async fn a_peer_that_makes_no_room_ends_by_idling() {
    let ((client, downstream), (mut origin, upstream)) = (pair().await, pair().await);
    let (buffers, pipes) = (Buffers::default(), Pipes::at_most(4));
    let means = Means { buffers: &buffers, pipes: &pipes, strategy: Strategy::Adaptive };
    let counts = (Meter::default(), Meter::default());
    let timeouts = Timeouts { idle: Some(Duration::from_millis(500)), ..Timeouts::default() };
    let watch = ConnectionTimer::start(&timeouts);
    let flood = async {
        while origin.write_all(&[7; 10_000]).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = flood => {}
        end = relay(&downstream, &upstream, &counts.0, &counts.1, means, &watch) => assert_eq!(end, End::Idle),
    }
    assert!(counts.1.get() > 0, "something went before the window was full");
    assert_eq!(pipes.lost(), 0);
    drop(client);
}

/// The end of a connection whose client reads little at a time for `reading`, then nothing any more, and after how long.
/// So little that the socket never has room enough for the runtime to be told.
async fn ended_for_slow_reader(strategy: Strategy, half_close: Half, reading: Duration) -> (End, Duration) {
    let ((mut client, downstream), (mut origin, upstream)) = (pair().await, pair().await);
    SockRef::from(&client).set_recv_buffer_size(8 * 1024).unwrap();
    let (buffers, pipes) = (Buffers::default(), Pipes::at_most(4));
    let means = Means { buffers: &buffers, pipes: &pipes, strategy };
    let counts = (Meter::default(), Meter::default());
    let pause = Some(Duration::from_millis(1_200));
    let timeouts = match half_close {
        Half::Open => Timeouts { idle: pause, ..forever() },
        Half::Closed => Timeouts { half_closed: pause, ..forever() },
    };
    let watch = ConnectionTimer::start(&timeouts);
    let began = tokio::time::Instant::now();
    let feeding = async {
        match half_close {
            Half::Open => while origin.write_all(&[7; 10_000]).await.is_ok() {},
            Half::Closed => {
                origin.write_all(&vec![7; 2_000_000]).await.unwrap();
                origin.shutdown().await.unwrap();
            }
        }
        std::future::pending::<()>().await;
    };
    let read = async {
        // What came before its buffer was small has to be read first.
        let mut buffer = [0; 8_000];
        while began.elapsed() < reading {
            client.read_exact(&mut buffer).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = feeding => unreachable!(),
        () = read => unreachable!(),
        end = relay(&downstream, &upstream, &counts.0, &counts.1, means, &watch) => (end, began.elapsed()),
    }
}

#[tokio::test]
async fn a_reader_that_takes_a_little_is_not_idle_and_one_that_takes_nothing_is() {
    let reading = Duration::from_millis(3_500);
    let cases = [
        (Strategy::Copy, Half::Open, End::Idle),
        (Strategy::Splice, Half::Open, End::Idle),
        (Strategy::Adaptive, Half::Closed, End::Expired(Expiry::HalfClosed)),
    ];
    let running = cases.map(|(strategy, half, end)| async move {
        let (ended, after) = ended_for_slow_reader(strategy, half, reading).await;
        assert_eq!(ended, end, "{strategy:?}, {half:?}");
        assert!(after >= reading, "{strategy:?}, {half:?}: cut while it was read, after {after:?}");
        assert!(after < reading + DEADLINE / 2, "{strategy:?}, {half:?}: cut only after {after:?}");
    });
    futures_util::future::join_all(running).await;
}

#[tokio::test]
async fn accepted_sockets_inherit_what_the_kernel_watches_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for timeouts in [
        Timeouts {
            keepalive: Some(Duration::from_secs(50)),
            unacknowledged: Some(Duration::from_secs(7)),
            ..Timeouts::default()
        },
        Timeouts { keepalive: None, unacknowledged: None, ..Timeouts::default() },
    ] {
        keep(&listener, &timeouts).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let socket = SockRef::from(&accepted);
        assert_eq!(socket.keepalive().unwrap(), timeouts.keepalive.is_some());
        assert_eq!(socket.tcp_user_timeout().unwrap(), timeouts.unacknowledged);
        if timeouts.keepalive.is_some() {
            assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(50));
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        }
    }
}

#[tokio::test]
async fn an_upstream_is_kept_once_its_connection_is_a_second_old() {
    let ((client, downstream), (origin, upstream)) = (pair().await, pair().await);
    let (buffers, pipes) = (Buffers::default(), Pipes::at_most(0));
    let means = Means { buffers: &buffers, pipes: &pipes, strategy: Strategy::Adaptive };
    let counts = (Meter::default(), Meter::default());
    let timeouts = Timeouts { keepalive: Some(Duration::from_secs(70)), ..Timeouts::default() };
    let watch = ConnectionTimer::start(&timeouts);
    let settled = async {
        let socket = SockRef::from(&upstream);
        while !socket.keepalive().unwrap() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        socket.tcp_keepalive_time().unwrap()
    };
    tokio::select! {
        end = relay(&downstream, &upstream, &counts.0, &counts.1, means, &watch) => panic!("{end}"),
        time = tokio::time::timeout(DEADLINE, settled) => assert_eq!(time.unwrap(), Duration::from_secs(70)),
    }
    drop((client, origin));
}

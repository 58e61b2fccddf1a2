//! What goes wrong around the program, and how each connection that it befalls ends: by which word, with which status
//! code. Faults that have to do with a time, a limit or the choice of an origin are tested with those.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use socket2::{Domain, SockRef, Socket, Type};
use spectrum_tests::admin::{await_value, metrics, value};
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, connect};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_answered, call};
use spectrum_tests::holdings::Holdings;
use spectrum_tests::instance::Instance;
use spectrum_tests::memory::MemoryGroup;
use spectrum_tests::netns::Netns;
use spectrum_tests::origin::{Origin, receive_sequence, send_sequence};
use spectrum_tests::record::records;
use spectrum_tests::require::find_in_path;
use spectrum_tests::share;
use spectrum_tests::veth;
use spectrum_tests::{on_every_path, on_one_path};

on_every_path!(
    an_origin_that_dies_in_the_middle_resets_the_client,
    a_client_that_dies_in_the_middle_resets_the_origin,
    a_dial_for_which_no_local_port_is_left_is_reset,
    clients_that_never_complete_a_handshake_keep_nobody_out,
);

// These are the same on every path.
on_one_path!(
    an_origin_that_vanishes_ends_as_timed_out,
    a_byte_a_second_is_passed_on_as_it_comes,
    transfers_for_which_there_is_no_pipe_arrive_all_the_same,
    ten_thousand_dials_without_descriptors_are_denied_each,
    memory_pressure_ends_nothing_that_is_open,
);

const MEGABYTE: u64 = 1 << 20;

/// Tests that need many descriptors, or all of the machine, go one by one.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A service `web` on the case's prefix and port 80, with these keys.
fn service(case: &Case, keys: &str) -> String {
    format!(
        "[[service]]\nname = \"web\"\nbindings = [{{ prefix = \"{}\", ports = 80 }}]\n{keys}\n",
        case.prefix()
    )
}

fn serve(case: &mut Case, text: &str) -> (Instance, SocketAddr) {
    configure(&case.server, text);
    (case.start(CONFIG), SocketAddr::new(case.any_address(), 80))
}

/// The end and the status code of the only connection that there was.
fn assert_ended(instance: &Instance, end: &str, status: &str) {
    let seen = eventually("the record", PATIENCE, || {
        let log = instance.stderr();
        records(&log).first().map(|record| (record["end"].to_owned(), record["status"].to_owned()))
    });
    assert_eq!(seen, (end.to_owned(), status.to_owned()), "{}", instance.stderr());
}

/// As metrics write it.
fn number(count: usize) -> f64 {
    u32::try_from(count).unwrap().into()
}

/// True if what is said comes back.
fn talks(mut stream: &TcpStream) -> bool {
    stream.write_all(b"still there?").is_ok() && stream.read_exact(&mut [0; 12]).is_ok()
}

/// Ends as a process does that is killed with something unread.
fn die(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// Reads to the end, which must be a reset: how much came before.
fn read_to_reset(mut stream: &TcpStream) -> u64 {
    let mut buffer = vec![0; 64 << 10];
    let mut heard = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => panic!("what was broken off after {heard} bytes ends as if it were complete"),
            Ok(bytes) => heard += bytes as u64,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                return heard;
            }
        }
    }
}

/// Sends a megabyte.
fn send_much(mut stream: &TcpStream) -> io::Result<()> {
    let part = vec![7; 64 << 10];
    (0..MEGABYTE / part.len() as u64).try_for_each(|_| stream.write_all(&part))
}

fn an_origin_that_dies_in_the_middle_resets_the_client(case: &mut Case) {
    let origin = Origin::serve(&case.server, SocketAddr::new(case.loopback(), 0), |mut stream| {
        send_much(&stream)?;
        // Until the client has had something.
        stream.read_exact(&mut [0])?;
        die(&stream)
    });
    let text = service(case, &format!("origins = \"{}\"", origin.address()));
    let (instance, target) = serve(case, &text);
    let mut client = call(&case.server, target).unwrap();
    client.read_exact(&mut [0; 100]).unwrap();
    client.write_all(b"x").unwrap();
    assert!(read_to_reset(&client) < 2 * MEGABYTE);
    assert_ended(&instance, "upstream-reset", "444");
}

fn a_client_that_dies_in_the_middle_resets_the_origin(case: &mut Case) {
    let (report, heard) = mpsc::channel();
    let origin = Origin::serve(&case.server, SocketAddr::new(case.loopback(), 0), move |mut stream| {
        stream.read_exact(&mut [0; 100])?;
        stream.write_all(b"x")?;
        let error = io::copy(&mut stream, &mut io::sink()).map_err(|error| error.kind());
        report.send(error).map_err(io::Error::other)
    });
    let text = service(case, &format!("origins = \"{}\"", origin.address()));
    let (instance, target) = serve(case, &text);
    let mut client = call(&case.server, target).unwrap();
    send_much(&client).unwrap();
    client.read_exact(&mut [0]).unwrap();
    die(&client).unwrap();
    drop(client);
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), Err(ErrorKind::ConnectionReset));
    assert_ended(&instance, "downstream-reset", "499");
}

fn an_origin_that_vanishes_ends_as_timed_out(case: &mut Case) {
    let remote = veth::origin_of(&case.server);
    let origin = Origin::echo(&remote, veth::origin_address(case.family));
    let text = service(
        case,
        &format!("origins = \"{}\"\ntimeouts = {{ unacknowledged = \"500ms\" }}", origin.address()),
    );
    let (instance, target) = serve(case, &text);
    let mut client = call(&case.server, target).unwrap();
    assert!(talks(&client));
    // The origin's side has its timeouts once the connection is a second old.
    let begun = Instant::now();
    eventually("a second", PATIENCE, || (begun.elapsed() > Duration::from_millis(1200)).then_some(()));
    remote.ip("link set to-server down");
    client.write_all(b"nobody hears this").unwrap();
    assert_eq!(read_to_reset(&client), 0);
    assert_ended(&instance, "upstream-timed-out", "445");
}

fn a_byte_a_second_is_passed_on_as_it_comes(case: &mut Case) {
    const BYTES: u8 = 4;
    let origin = Origin::serve(&case.server, SocketAddr::new(case.loopback(), 0), |mut stream| {
        for byte in 0..BYTES {
            thread::sleep(Duration::from_secs(1));
            stream.write_all(&[byte])?;
        }
        Ok(())
    });
    // Longer than from byte to byte, shorter than all of them.
    let keys = format!("origins = \"{}\"\ntimeouts = {{ idle = \"2500ms\" }}", origin.address());
    let text = service(case, &keys);
    let (instance, target) = serve(case, &text);
    let mut client = call(&case.server, target).unwrap();
    for byte in 0..BYTES {
        let mut heard = [0; 64];
        assert_eq!(client.read(&mut heard).unwrap(), 1, "bytes are held back");
        assert_eq!(heard[0], byte);
    }
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    assert_ended(&instance, "closed", "200");
}

/// The number of descriptors of `instance` that are ends of pipes, besides its standard streams.
fn pipe_ends(instance: &Instance) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", instance.worker())).unwrap();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("pipe:")).count()
}

fn transfers_for_which_there_is_no_pipe_arrive_all_the_same(case: &mut Case) {
    const TRANSFERS: u64 = 40;
    // An eighth of them may be pipes, of two ends each.
    const DESCRIPTORS: usize = 320;
    let length = 4 * MEGABYTE;
    let origin = Origin::serve(&case.server, SocketAddr::new(case.loopback(), 0), move |mut stream| {
        let mut seed = [0];
        stream.read_exact(&mut seed)?;
        send_sequence(&stream, seed[0].into(), length)
    });
    let target = case.any_target();
    let prlimit = find_in_path("prlimit").unwrap();
    let instance = case
        .launch(&format!("--prefix {} --origin {}", case.prefix(), origin.address()))
        .through(&format!("{} --nofile={DESCRIPTORS}:{DESCRIPTORS}", prlimit.display()))
        .start();
    let before = pipe_ends(&instance);
    let clients: Vec<TcpStream> = (1..=TRANSFERS)
        .map(|seed| {
            let mut client = call(&case.server, target).unwrap();
            client.write_all(&[u8::try_from(seed).unwrap()]).unwrap();
            client
        })
        .collect();
    // Nobody reads yet, so that all of them are in the middle.
    let most = DESCRIPTORS / 8;
    eventually("as many pipes as there may be", PATIENCE, || {
        let pipes = pipe_ends(&instance) - before;
        assert!(pipes <= most, "{pipes} ends of pipes");
        // Two workers do not share the connections quite evenly.
        (pipes > most / 2).then_some(())
    });
    thread::scope(|scope| {
        for (client, seed) in clients.iter().zip(1..) {
            scope.spawn(move || receive_sequence(client, seed, length).unwrap());
        }
    });
    drop(clients);
    eventually("all records", PATIENCE, || (records(&instance.stderr()).len() == 40).then_some(()));
    let log = instance.stderr();
    assert!(
        records(&log).iter().all(|record| record["end"] == "closed" && record["status"] == "200"),
        "{log}"
    );
}

/// Dials so many times, eight at once: how many were reset without a byte. Any other outcome panics.
fn count_reset(netns: &Netns, target: SocketAddr, dials: usize) -> usize {
    const AT_ONCE: usize = 8;
    let left = AtomicUsize::new(dials);
    netns.run(|| {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_ONCE)
                .map(|_| {
                    scope.spawn(|| {
                        let next = || {
                            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                                left.checked_sub(1)
                            })
                        };
                        let mut reset = 0;
                        while next().is_ok() {
                            let heard =
                                TcpStream::connect_timeout(&target, PATIENCE).and_then(|mut stream| {
                                    stream.set_read_timeout(Some(PATIENCE))?;
                                    stream.read(&mut [0])
                                });
                            match heard {
                                Err(error) if error.kind() == ErrorKind::ConnectionReset => reset += 1,
                                other => panic!("not reset, but {other:?}"),
                            }
                        }
                        reset
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        })
    })
}

fn ten_thousand_dials_without_descriptors_are_denied_each(case: &mut Case) {
    const DESCRIPTORS: usize = 400;
    let _alone = alone();
    let origin = Origin::echo(&case.server, case.loopback());
    let admin = SocketAddr::new(case.loopback(), 0);
    let keys = format!("origins = \"{}\"", origin.address());
    configure(&case.server, &format!("[admin]\nlisten = \"{admin}\"\n{}", service(case, &keys)));
    let prlimit = find_in_path("prlimit").unwrap();
    let target = SocketAddr::new(case.any_address(), 80);
    let instance = case
        .launch(CONFIG)
        .through(&format!("{} --nofile={DESCRIPTORS}:{DESCRIPTORS}", prlimit.display()))
        .start();
    let status = connect(&case.server, &instance).ask("status").unwrap();
    let admin = status["admin"].as_str().unwrap().parse().unwrap();
    // Both workers have to be full: some dials more than there is room for.
    let open: Vec<TcpStream> =
        (0..DESCRIPTORS).filter_map(|_| call(&case.server, target).ok().filter(talks)).collect();
    let denied_before = DESCRIPTORS - open.len();
    assert!(open.len() >= 100, "{} open", open.len());
    let before = Holdings::of(&instance);

    let dials = share::of(10_000);
    assert_eq!(count_reset(&case.server, target, dials), dials);
    let labels = "{service=\"web\",protocol=\"tcp\"";
    let denied = format!("ended_sessions_total{labels},end=\"denied-descriptors\",status=\"500\"}}");
    await_value(&case.server, admin, &denied, number(denied_before + dials));
    let text = metrics(&case.server, admin);
    assert_eq!(
        value(&text, &format!("opened_sessions_total{labels}}}")),
        Some(number(DESCRIPTORS + dials)),
        "{text}"
    );
    // Whoever asked for metrics has to be gone first.
    let after = eventually("not a descriptor more", PATIENCE, || {
        Some(Holdings::of(&instance)).filter(|after| after.descriptors <= before.descriptors)
    });
    assert!(after.resident <= before.resident + 2048, "memory: {before:?}, then {after:?}");
    // Records of a flood are not a flood of records.
    assert!(records(&instance.stderr()).len() < denied_before + dials / 10 + 100);
    for stream in &open {
        assert!(talks(stream), "an open connection does not answer");
    }

    drop(open);
    await_value(&case.server, admin, &format!("open_sessions{labels}}}"), 0.0);
    for _ in 0..50 {
        assert!(talks(&call(&case.server, target).unwrap()), "{}", instance.stderr());
    }
    let finished = instance.stop();
    let ends: BTreeSet<&str> = records(&finished.stderr).into_iter().map(|record| record["end"]).collect();
    assert_eq!(ends, ["closed", "denied-descriptors"].into(), "{finished}");
}

fn a_dial_for_which_no_local_port_is_left_is_reset(case: &mut Case) {
    const RANGE: &str = "net/ipv4/ip_local_port_range";
    let origin = Origin::echo(&case.server, case.loopback());
    let (instance, target) = serve(case, &service(case, &format!("origins = \"{}\"", origin.address())));
    case.server.sysctl(RANGE, "50000 50003");
    // Of the same namespace, from ports that are not in that range.
    let dial = |port: u16| -> io::Result<TcpStream> {
        case.server.run(|| {
            let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::new(case.loopback(), port).into()).unwrap();
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect_timeout(&target.into(), PATIENCE)?;
            Ok(TcpStream::from(socket))
        })
    };
    let open: Vec<TcpStream> = (40_000..40_004).map(|port| dial(port).unwrap()).collect();
    assert!(open.iter().all(talks));
    // Some are reset before connect(2) has returned.
    let error = dial(40_004).and_then(|mut stream| stream.read(&mut [0])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_ended(&instance, "dial-out-of-resources", "524");
    assert!(open.iter().all(talks));
    case.server.sysctl(RANGE, "32768 60999");
    assert!(talks(&dial(40_005).unwrap()));
    drop(open);
    instance.stop();
}

fn memory_pressure_ends_nothing_that_is_open(case: &mut Case) {
    // Both directions of each hold as much as they may.
    const STALLED: usize = 100;
    const OF_STALLED: usize = 2 * (64 << 10);
    const BESIDES: usize = 24 << 20;
    // A twentieth of what so many sockets would like to have.
    const OF_SOCKETS: usize = 4 << 20;
    let target = SocketAddr::new(case.any_address(), 80);
    let limits = (STALLED * OF_STALLED + BESIDES, OF_SOCKETS);
    let group = match MemoryGroup::create(&case.server, limits.0, limits.1) {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            // Not `println!`: what is left out must be seen when the test passes.
            let mut stdout = io::stdout();
            writeln!(stdout, "LEFT memory_pressure_ends_nothing_that_is_open: {error}").unwrap();
            return;
        }
        group => group.unwrap(),
    };
    let _alone = alone();
    let length = 2 * MEGABYTE;
    // Whoever reads the gate waits until the test lets go of it.
    let gate = Arc::new(RwLock::new(()));
    let shut = gate.write().unwrap();
    let (report, outcomes) = mpsc::channel();
    let origin = {
        let gate = Arc::clone(&gate);
        Origin::serve(&case.server, SocketAddr::new(case.loopback(), 0), move |stream| {
            let outcome = exchange(&stream, &gate, [2, 1], length);
            report.send(outcome).map_err(io::Error::other)
        })
    };
    let quiet = Origin::echo(&case.server, case.loopback());
    let keys = format!("origins = \"{}\"", origin.address());
    let text = format!(
        "{}[[service]]\nname = \"quiet\"\nbindings = [{{ prefix = \"{}\", ports = 81 }}]\norigins = \"{}\"\n",
        service(case, &keys),
        case.prefix(),
        quiet.address()
    );
    configure(&case.server, &text);
    let mut instance = case.start(CONFIG);
    instance.processes().into_iter().for_each(|process| group.add(process));
    let other = SocketAddr::new(target.ip(), 81);
    let early = call(&case.server, other).unwrap();
    assert!(talks(&early));
    let before = Holdings::of(&instance);

    let clients: Vec<TcpStream> = (0..STALLED).map(|_| call(&case.server, target).unwrap()).collect();
    thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter()
            .map(|client| {
                let gate = &gate;
                scope.spawn(move || exchange(client, gate, [1, 2], length))
            })
            .collect();
        eventually("a shortage of memory", PATIENCE, || group.is_short().then_some(()));
        for _ in 0..20 {
            assert!(talks(&early), "what was open before has stopped\n{}", instance.stderr());
            let late = call(&case.server, other).unwrap();
            assert!(talks(&late), "what comes meanwhile is not served\n{}", instance.stderr());
        }
        assert!(connect(&case.server, &instance).ask("status").is_ok());
        assert!(instance.is_running());
        let held = Holdings::of(&instance);
        let of_each = held.resident.saturating_sub(before.resident) * 1024 / STALLED as u64;
        assert!(of_each <= OF_STALLED as u64 + 16_384, "{of_each} bytes for a stalled connection");
        assert!(
            records(&instance.stderr()).iter().all(|record| record["service"] == "quiet"),
            "{}",
            instance.stderr()
        );
        // The pressure is over, and so it all goes on. Under it the kernel of the senders may ask whether there is room
        // again only after minutes.
        group.relieve();
        drop(shut);
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Ok(()));
        }
    });
    for _ in 0..STALLED {
        assert_eq!(outcomes.recv_timeout(PATIENCE).unwrap(), Ok(()));
    }
    drop(clients);
    eventually("all that the sockets held", PATIENCE, || (group.of_sockets() < 1 << 20).then_some(()));
    assert!(talks(&early));
    assert!(talks(&call(&case.server, other).unwrap()));
    drop(early);
    let finished = instance.stop();
    let records = records(&finished.stderr);
    assert_eq!(records.iter().filter(|record| record["service"] == "web").count(), STALLED, "{finished}");
    assert!(
        records.iter().all(|record| record["end"] == "closed" && record["status"] == "200"),
        "{finished}"
    );
}

/// Sends one sequence, and receives another once the gate is open. What went wrong, if anything did.
fn exchange(stream: &TcpStream, gate: &RwLock<()>, seeds: [u64; 2], length: u64) -> Result<(), String> {
    thread::scope(|scope| {
        let sender = scope.spawn(|| send_sequence(stream, seeds[0], length));
        drop(gate.read());
        let received = receive_sequence(stream, seeds[1], length);
        received.and(sender.join().unwrap()).map_err(|error| error.to_string())
    })
}

/// A count of the namespace's TCP, of `/proc/net/netstat` or `/proc/net/snmp`.
fn count_of_tcp(netns: &Netns, name: &str) -> u64 {
    let text = netns.run(|| {
        ["snmp", "netstat"]
            .map(|file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap())
            .concat()
    });
    let lines: Vec<&str> = text.lines().collect();
    let counts = lines.chunks(2).find_map(|pair| {
        let at = pair[0].split(' ').position(|word| word == name)?;
        pair[1].split(' ').nth(at)?.parse().ok()
    });
    counts.unwrap_or_else(|| panic!("{name} is missing: {text}"))
}

fn clients_that_never_complete_a_handshake_keep_nobody_out(case: &mut Case) {
    const MANY: u64 = 5_000;
    let _alone = alone();
    let client = veth::client_of(&case.server);
    let (family, ours) = case.family.pick(("ip", "198.51.100.77"), ("ip6", "2001:db8:ffff::77"));
    // Nobody who does not ask for it shall have this address.
    let length = case.family.pick("24 dev to-server", "64 dev to-server nodad preferred_lft 0");
    client.ip(&format!("addr add {ours}/{length}"));
    // It never hears that it was answered, and so asks again and again.
    for command in [
        format!("add table {family} deaf"),
        format!("add chain {family} deaf in {{ type filter hook input priority -400 ; }}"),
        format!("add rule {family} deaf in {family} daddr {ours} tcp flags & (syn|ack) == (syn|ack) drop"),
    ] {
        client.command(&format!("nft {command}"));
    }
    // So few may wait for each worker that most of the storm is answered with cookies.
    case.server.sysctl("net/core/somaxconn", "256");
    let instance = case.start(&format!("--prefix {} --ports 80", case.prefix()));
    let target = SocketAddr::new(case.any_address(), 80);
    let before = Holdings::of(&instance);
    let (allowed, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let count = usize::try_from(MANY.min(allowed / 3)).unwrap();
    let deaf: Vec<Socket> = client.run(|| {
        (0..share::of(count))
            .map(|_| {
                let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket.bind(&SocketAddr::new(ours.parse().unwrap(), 0).into()).unwrap();
                let error = socket.connect(&target.into()).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(nix::libc::EINPROGRESS), "{error}");
                socket
            })
            .collect()
    });
    // All of them have asked again.
    eventually("the storm", PATIENCE, || {
        (count_of_tcp(&client, "RetransSegs") >= deaf.len() as u64).then_some(())
    });
    if deaf.len() > 2_000 {
        assert!(count_of_tcp(&case.server, "SyncookiesSent") > 0);
    }
    let targets: Vec<SocketAddr> = (0..100).map(|_| SocketAddr::new(case.any_address(), 80)).collect();
    let begun = Instant::now();
    assert_answered(&client, &targets);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?} for 100 clients", begun.elapsed());
    let status = connect(&case.server, &instance).ask("status").unwrap();
    assert_eq!(status["services"][0]["total"], 100, "{status}");
    let after = Holdings::of(&instance);
    assert!(after.descriptors <= before.descriptors + 2, "descriptors: {before:?}, then {after:?}");
    assert!(after.resident <= before.resident + 4096, "memory: {before:?}, then {after:?}");
    drop(deaf);
    let finished = instance.stop();
    let records = records(&finished.stderr);
    assert_eq!(records.len(), 100, "{finished}");
    assert!(records.iter().all(|record| record["status"] == "200"), "{finished}");
}

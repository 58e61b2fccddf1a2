//! How many connections there may be, and how fast they may come: of a service, of a source, of the process; and what
//! becomes of connections when their service goes. Which end of a connection has which word is tested elsewhere.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, await_logged, configure, connect, count_logged, reload};
use spectrum_tests::datagram::{self, assert_echo, assert_echoes};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{call, dial};
use spectrum_tests::holdings::{Holdings, descriptors, memory};
use spectrum_tests::instance::Instance;
use spectrum_tests::origin::Origin;
use spectrum_tests::record::records;
use spectrum_tests::require::find_in_path;
use spectrum_tests::share;
use spectrum_tests::{on_every_path, on_one_path};

on_every_path!(
    connections_of_a_service_have_an_end,
    connections_of_a_source_have_an_end,
    connections_of_a_source_come_only_so_fast,
    a_client_that_a_proxy_names_is_the_source,
    a_proxy_that_names_nobody_is_the_source_itself,
    counts_survive_a_reload,
    what_a_removed_service_left_open_is_cut_after_the_drain,
    a_service_that_comes_back_keeps_what_is_open,
);

// These are the same on every path.
on_one_path!(
    without_descriptors_new_connections_are_reset_and_open_ones_go_on,
    a_service_that_is_flooded_leaves_the_others_their_descriptors,
    a_storm_of_connections_leaves_nothing_behind,
    memory_of_thousands_of_connections_goes_back_to_the_system,
);

/// A service `web` that echoes, with these limits.
fn limited(case: &Case, port: u16, limits: &str) -> String {
    format!(
        "[[service]]\nname = \"web\"\nbindings = [{{ prefix = \"{}\", ports = {port} }}]\nrespond = \"echo\"\n{limits}\n",
        case.prefix()
    )
}

fn serve(case: &Case, text: &str, arguments: &str) -> Instance {
    configure(&case.server, text);
    case.start(&format!("{CONFIG} {arguments}"))
}

fn go_over(case: &Case, instance: &Instance, text: &str) {
    configure(&case.server, text);
    reload(&case.server, instance).unwrap_or_else(|refused| panic!("{refused:?}\n{}", instance.stderr()));
}

/// True if what is said comes back.
fn talks(stream: &mut (impl Read + Write)) -> bool {
    stream.write_all(b"still there?").is_ok() && stream.read_exact(&mut [0; 12]).is_ok()
}

fn assert_talks(stream: &mut TcpStream) {
    assert!(talks(stream), "an open connection does not answer");
}

/// True if the connection is reset without a byte, perhaps before the dial has returned.
fn is_shed(case: &Case, target: SocketAddr) -> bool {
    match call(&case.server, target) {
        Ok(mut stream) => {
            stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
        }
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// Dials from an address of the prefix's own.
fn call_from(case: &Case, client: IpAddr, target: SocketAddr) -> TcpStream {
    case.server.run(|| {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).unwrap();
        if target.is_ipv6() {
            socket.set_freebind_v6(true).unwrap();
        }
        socket.bind(&SocketAddr::new(client, 0).into()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // One that is shed may be reset before this returns; it does not talk either way.
        let _ = socket.connect(&target.into());
        socket.into()
    })
}

/// Addresses that clients may have: two of one source, and one of another.
fn clients(case: &Case) -> [IpAddr; 3] {
    let prefix = case.family.pick("198.51.100.0/24", "2001:db8:77::/48");
    let ip = case.family.pick("", "-6 ");
    case.server.ip(&format!("{ip}route add local {prefix} dev lo"));
    [
        ("198.51.100.1", "2001:db8:77:1::1"),
        ("198.51.100.2", "2001:db8:77:1::2"),
        ("198.51.100.9", "2001:db8:77:2::1"),
    ]
    .map(|(v4, v6)| case.family.parse(v4, v6))
}

/// The ends of the records so far.
fn ends(instance: &Instance) -> Vec<String> {
    records(&instance.stderr()).into_iter().map(|record| record["end"].to_owned()).collect()
}

fn await_end(instance: &Instance, end: &str, count: usize) {
    eventually(&format!("{count} records with end={end}"), PATIENCE, || {
        (ends(instance).iter().filter(|one| *one == end).count() >= count).then_some(())
    });
}

fn connections_of_a_service_have_an_end(case: &mut Case) {
    let instance = serve(case, &limited(case, 80, "limits = { connections = 3 }"), "");
    let target = SocketAddr::new(case.any_address(), 80);
    let mut open: Vec<TcpStream> = (0..3).map(|_| call(&case.server, target).unwrap()).collect();
    open.iter_mut().for_each(assert_talks);
    for _ in 0..20 {
        assert!(is_shed(case, target));
    }
    await_end(&instance, "denied-service", 1);
    open.iter_mut().for_each(assert_talks);
    let status = connect(&case.server, &instance).ask("status").unwrap();
    let limits = serde_json::json!({
        "connections": 3,
        "connections_per_source": null,
        "rate_per_source_per_second": null,
        "source_ipv4_bits": 32,
        "source_ipv6_bits": 64,
    });
    assert_eq!(status["services"][0]["limits"], limits);
    assert!(status["descriptors"].as_u64().unwrap() > 100, "{status}");
    open.pop();
    eventually("room for one more", PATIENCE, || {
        let mut stream = call(&case.server, target).ok()?;
        talks(&mut stream).then_some(())
    });
    let log = instance.stderr();
    let records = records(&log);
    let denied = records.iter().find(|record| record["end"] == "denied-service").unwrap();
    assert_eq!(denied["status"], "403");
    // One word a second and worker, however many are shed.
    await_logged(&instance, "limit reached", 1);
    assert!(count_logged(&instance, "limit reached") <= 20, "{}", instance.stderr());
    drop(open);
    instance.stop();
}

fn connections_of_a_source_have_an_end(case: &mut Case) {
    let clients = clients(case);
    let limits = "limits = { connections-per-source = 2, source-ipv4 = 29, source-ipv6 = 64 }";
    let instance = serve(case, &limited(case, 80, limits), "");
    let target = SocketAddr::new(case.any_address(), 80);
    let mut open = [call_from(case, clients[0], target), call_from(case, clients[1], target)];
    open.iter_mut().for_each(assert_talks);
    for client in &clients[..2] {
        assert!(!talks(&mut call_from(case, *client, target)), "{client} has more than it may");
    }
    let mut other = call_from(case, clients[2], target);
    assert_talks(&mut other);
    await_end(&instance, "denied-source", 2);
    open.iter_mut().for_each(assert_talks);
    drop((open, other));
    instance.stop();
}

fn connections_of_a_source_come_only_so_fast(case: &mut Case) {
    let clients = clients(case);
    let limits = "limits = { rate-per-source = 5, source-ipv4 = 29, source-ipv6 = 64 }";
    let instance = serve(case, &limited(case, 80, limits), "--workers 1");
    let target = SocketAddr::new(case.any_address(), 80);
    let begun = Instant::now();
    let served = (0..40).filter(|_| talks(&mut call_from(case, clients[0], target))).count();
    // A burst, and what comes back in the time it took.
    let most = 5 + 5 * usize::try_from(begun.elapsed().as_secs() + 1).unwrap();
    assert!((5..=most).contains(&served), "{served} of 40 in {:?}", begun.elapsed());
    assert_talks(&mut call_from(case, clients[2], target));
    eventually("another token", PATIENCE, || talks(&mut call_from(case, clients[0], target)).then_some(()));
    if served < 40 {
        await_end(&instance, "denied-source-rate", 1);
    }
    instance.stop();
}

fn a_proxy_that_names_nobody_is_the_source_itself(case: &mut Case) {
    let limits = format!(
        "trusted-proxies = \"{}\"\nlimits = {{ connections-per-source = 3, rate-per-source = 40 }}",
        case.loopback()
    );
    let instance = serve(case, &limited(case, 80, &limits), "");
    let target = SocketAddr::new(case.any_address(), 80);
    // Of those that name nobody, only as many are borne as one source may have.
    let began = Instant::now();
    let mut silent: Vec<TcpStream> = (0..30).map(|_| call_from(case, case.loopback(), target)).collect();
    // Of many there are not all records.
    let denied = |limit: &str| {
        let status = connect(&case.server, &instance).ask("status").unwrap();
        status["services"][0]["denied"][limit].as_u64().unwrap_or(0)
    };
    eventually("27 that are denied", PATIENCE, || (denied("connections-per-source") == 27).then_some(()));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    for stream in &silent {
        stream.set_nonblocking(true).unwrap();
    }
    silent
        .retain_mut(|stream| stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
    assert_eq!(silent.len(), 3);
    // Meanwhile it speaks for others, many at once and one after the other, and more often than a source may come.
    let family = case.family.pick("TCP4", "TCP6");
    let named = |number: usize| {
        let client = case.family.pick(format!("203.0.113.{number}"), format!("2001:db8:8:{number}::1"));
        let mut stream = call_from(case, case.loopback(), target);
        write!(stream, "PROXY {family} {client} {} 1000 80\r\n", target.ip()).unwrap();
        stream
    };
    for _ in 0..3 {
        let mut open: Vec<TcpStream> = (1..=25).map(named).collect();
        open.iter_mut().for_each(assert_talks);
    }
    assert_eq!((denied("connections-per-source"), denied("rate-per-source")), (27, 0));
    instance.stop();
}

fn a_client_that_a_proxy_names_is_the_source(case: &mut Case) {
    let limits =
        format!("trusted-proxies = \"{}\"\nlimits = {{ connections-per-source = 1 }}", case.loopback());
    let instance = serve(case, &limited(case, 80, &limits), "");
    let target = SocketAddr::new(case.any_address(), 80);
    let introduced = |client: &str| {
        let family = case.family.pick("TCP4", "TCP6");
        let mut stream = call_from(case, case.loopback(), target);
        write!(stream, "PROXY {family} {client} {} 1000 80\r\n", target.ip()).unwrap();
        stream
    };
    let [one, other] =
        case.family.pick(["203.0.113.1", "203.0.113.2"], ["2001:db8:8:1::1", "2001:db8:8:2::1"]);
    let mut open = [introduced(one), introduced(other)];
    open.iter_mut().for_each(assert_talks);
    assert!(!talks(&mut introduced(one)), "{one} has more than it may");
    await_end(&instance, "denied-source", 1);
    open.iter_mut().for_each(assert_talks);
    let log = instance.stderr();
    let denied = records(&log).into_iter().find(|record| record["end"] == "denied-source").unwrap();
    assert!(denied["client"].contains(one), "{denied:?}");
    drop(open);
    instance.stop();
}

fn counts_survive_a_reload(case: &mut Case) {
    let instance = serve(case, &limited(case, 80, "limits = { connections = 3 }"), "");
    let target = SocketAddr::new(case.any_address(), 80);
    let mut open: Vec<TcpStream> = (0..3).map(|_| call(&case.server, target).unwrap()).collect();
    open.iter_mut().for_each(assert_talks);
    // Another limit is another policy: new listeners, and the same count.
    go_over(case, &instance, &limited(case, 80, "limits = { connections = 4 }"));
    let mut fourth = eventually("the fourth", PATIENCE, || {
        let mut stream = call(&case.server, target).ok()?;
        talks(&mut stream).then_some(stream)
    });
    assert!(is_shed(case, target));
    go_over(case, &instance, &limited(case, 80, "limits = { connections = 2 }"));
    assert!(is_shed(case, target));
    // What is open is not touched, though it is more than there may be.
    assert_talks(&mut fourth);
    open.iter_mut().for_each(assert_talks);
    open.truncate(1);
    drop(fourth);
    eventually("room for a second", PATIENCE, || {
        let mut stream = call(&case.server, target).ok()?;
        talks(&mut stream).then_some(())
    });
    drop(open);
    instance.stop();
}

/// Two services; the second is what goes.
fn two(case: &Case, second: &str) -> String {
    format!(
        "{}[[service]]\nname = \"goes\"\nbindings = [{{ protocol = \"both\", prefix = \"{}\", ports = 81 }}]\n{second}\n",
        limited(case, 80, ""),
        case.prefix()
    )
}

fn what_a_removed_service_left_open_is_cut_after_the_drain(case: &mut Case) {
    let instance = serve(case, &two(case, "respond = \"echo\""), "--drain 4s");
    let [stays, goes] = [80, 81].map(|port| SocketAddr::new(case.any_address(), port));
    let mut open = call(&case.server, stays).unwrap();
    let mut doomed = call(&case.server, goes).unwrap();
    let doomed_datagrams = datagram::client(&case.server, goes);
    assert_talks(&mut open);
    assert_talks(&mut doomed);
    assert_echo(&doomed_datagrams, b"a session");
    // It gets limits, and so another revision; what is open of the one before goes with it all the same.
    go_over(case, &instance, &two(case, "respond = \"echo\"\nlimits = { connections = 1 }"));
    assert_talks(&mut doomed);
    let mut second = call(&case.server, goes).unwrap();
    assert_talks(&mut second);
    let gone = Instant::now();
    go_over(case, &instance, &limited(case, 80, ""));
    assert_talks(&mut doomed);
    assert_talks(&mut second);
    await_end(&instance, "cut", 3);
    assert!(gone.elapsed() >= Duration::from_secs(4), "cut after {:?}", gone.elapsed());
    for mut stream in [doomed, second] {
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    assert_talks(&mut open);
    await_logged(&instance, "connections of a removed service were cut", 2);
    drop(open);
    instance.stop();
}

fn a_service_that_comes_back_keeps_what_is_open(case: &mut Case) {
    let instance = serve(case, &two(case, "respond = \"echo\""), "--drain 4s");
    let goes = SocketAddr::new(case.any_address(), 81);
    let mut open = call(&case.server, goes).unwrap();
    assert_talks(&mut open);
    let gone = Instant::now();
    go_over(case, &instance, &limited(case, 80, ""));
    go_over(case, &instance, &two(case, "respond = \"discard\""));
    // Until after it would have been cut.
    eventually("five seconds", PATIENCE, || (gone.elapsed() > Duration::from_secs(5)).then_some(()));
    assert_talks(&mut open);
    drop(open);
    instance.stop();
}

/// The program with few descriptors, in front of an origin that echoes.
fn with_descriptors(case: &Case, origin: &Origin, descriptors: usize) -> Instance {
    let prlimit = find_in_path("prlimit").unwrap();
    case.launch(&format!("--prefix {} --origin {}", case.prefix(), origin.address()))
        .through(&format!("{} --nofile={descriptors}:{descriptors}", prlimit.display()))
        .start()
}

fn without_descriptors_new_connections_are_reset_and_open_ones_go_on(case: &mut Case) {
    const DESCRIPTORS: usize = 400;
    let origin = Origin::echo(&case.server, case.loopback());
    let instance = with_descriptors(case, &origin, DESCRIPTORS);
    let target = case.any_target();
    let mut first = call(&case.server, target).unwrap();
    assert_talks(&mut first);
    let mut open = Vec::new();
    let mut shed = 0;
    for _ in 0..DESCRIPTORS {
        let talking = call(&case.server, target).ok().filter(|stream| talks(&mut &*stream));
        match talking {
            Some(stream) => open.push(stream),
            None => shed += 1,
        }
    }
    // Two descriptors each, and not a dial that fails.
    assert!((100..DESCRIPTORS / 2).contains(&open.len()), "{} open, {shed} shed", open.len());
    assert_talks(&mut first);
    open.iter_mut().for_each(assert_talks);
    let used = descriptors(instance.worker());
    assert!(used < DESCRIPTORS, "{used} descriptors in use");
    await_end(&instance, "denied-descriptors", 1);
    await_logged(&instance, "out of descriptors", 1);
    assert!(!ends(&instance).iter().any(|end| end.starts_with("dial-")), "{}", instance.stderr());
    // What asks it still gets an answer.
    assert!(connect(&case.server, &instance).ask("status").is_ok());
    drop(open);
    eventually("service again", PATIENCE, || {
        (0..20).try_for_each(|_| talks(&mut call(&case.server, target).ok()?).then_some(()))
    });
    assert_talks(&mut first);
    drop(first);
    instance.stop();
}

fn a_service_that_is_flooded_leaves_the_others_their_descriptors(case: &mut Case) {
    const DESCRIPTORS: usize = 500;
    let prlimit = find_in_path("prlimit").unwrap();
    let service = |name: &str, protocol: &str, port: u16| {
        format!(
            "[[service]]\nname = \"{name}\"\nrespond = \"echo\"\n\
             bindings = [{{ prefix = \"{}\", ports = {port}, protocol = \"{protocol}\" }}]\n",
            case.prefix()
        )
    };
    let text = format!("{}{}", service("flooded", "tcp", 80), service("quiet", "both", 81));
    let added = format!("{text}{}", service("added", "tcp", 82));
    configure(&case.server, &text);
    let instance = case
        .launch(&format!("{CONFIG} --log-records none"))
        .through(&format!("{} --nofile={DESCRIPTORS}:{DESCRIPTORS}", prlimit.display()))
        .start();
    let address = case.any_address();
    let [flooded, quiet, new] = [80, 81, 82].map(|port| SocketAddr::new(address, port));
    let mut flood = Vec::new();
    for _ in 0..DESCRIPTORS {
        flood.extend(call(&case.server, flooded).ok().filter(|stream| talks(&mut &*stream)));
    }
    let status = || connect(&case.server, &instance).ask("status").unwrap();
    let said = status();
    let (all, each) = (&said["descriptors"], &said["descriptors_of_each"]);
    let (all, each) = (all.as_u64().unwrap(), each.as_u64().unwrap());
    // Half is divided between two, the rest is for who comes first. Workers need not have got the same.
    assert!(each * 4 <= all && each * 4 + 16 > all, "{each} of {all}");
    assert!((all / 3..=all - each).contains(&(flood.len() as u64)), "{} of {all}", flood.len());
    assert!(said["services"][0]["denied"]["descriptor-share"].as_u64() > Some(0), "{said:#}");
    await_logged(&instance, "has its share of the descriptors", 1);
    let mut open: Vec<TcpStream> = (0..10).map(|_| call(&case.server, quiet).unwrap()).collect();
    open.iter_mut().for_each(assert_talks);
    assert_echoes(&case.server, &[quiet]);
    configure(&case.server, &added);
    reload(&case.server, &instance).unwrap();
    let mut of_new: Vec<TcpStream> = (0..5).map(|_| call(&case.server, new).unwrap()).collect();
    of_new.iter_mut().for_each(assert_talks);
    let said = status();
    for quiet in [1, 2] {
        assert_eq!(said["services"][quiet]["denied"], serde_json::Value::Null, "{said:#}");
    }
    flood.iter_mut().for_each(assert_talks);
}

fn a_storm_of_connections_leaves_nothing_behind(case: &mut Case) {
    let origin = Origin::saying(&case.server, SocketAddr::new(case.loopback(), 0), "x");
    let text = format!(
        "[[service]]\nname = \"web\"\nbindings = [{{ prefix = \"{}\", ports = 80 }}]\norigins = \"{}\"\n\
         limits = {{ connections = 50, connections-per-source = 40, rate-per-source = 1000000 }}\n",
        case.prefix(),
        origin.address()
    );
    let instance = serve(case, &text, "");
    let target = SocketAddr::new(case.any_address(), 80);
    let storm = |count: usize| {
        case.server.run(|| {
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        for _ in 0..count / 8 {
                            // Ours are reset at the end, so that no port waits for two minutes.
                            let Ok(mut stream) = TcpStream::connect(target) else { continue };
                            let _ = stream.read(&mut [0]);
                            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                        }
                    });
                }
            });
        });
    };
    let settled = |what: &str| {
        eventually(what, PATIENCE, || {
            let status = connect(&case.server, &instance).ask("status").unwrap();
            (status["services"][0]["open"] == 0).then_some(())
        });
        Holdings::of(&instance)
    };
    storm(share::of(4_000));
    let before = settled("the end of the first storm");
    let whole = share::of(20_000);
    storm(whole);
    let after = settled("the end of the second storm");
    assert!(after.descriptors <= before.descriptors + 4, "descriptors: {before:?}, then {after:?}");
    assert!(after.resident <= before.resident + 4096, "memory: {before:?}, then {after:?}");
    assert_eq!(dial(&case.server, target).unwrap().text, "x");
    let status = connect(&case.server, &instance).ask("status").unwrap();
    assert!(status["services"][0]["total"].as_u64().unwrap() > whole as u64 / 2, "{status}");
    instance.stop();
}

fn memory_of_thousands_of_connections_goes_back_to_the_system(case: &mut Case) {
    // Two cases at once, in one process, have descriptors for as many.
    const MANY: usize = 5_000;
    let instance = serve(case, &limited(case, 80, ""), "--workers 1");
    let target = SocketAddr::new(case.any_address(), 80);
    assert_talks(&mut call(&case.server, target).unwrap());
    let before = memory(&instance, "RssAnon");
    let mut open: Vec<TcpStream> = (0..MANY).map(|_| call(&case.server, target).unwrap()).collect();
    open.iter_mut().for_each(assert_talks);
    let most = memory(&instance, "RssAnon") - before;
    assert!(most > 5_000, "{most} KiB for {MANY} connections: too little to tell anything");
    drop(open);
    await_end(&instance, "closed", MANY + 1);
    let left = memory(&instance, "RssAnon").saturating_sub(before);
    assert!(left < most / 2, "{left} KiB of {most} KiB are left");
    instance.stop();
}

//! A flood of forged packets, bounded in time and in the core that it takes, and honest clients meanwhile: none is refused, nothing grows, the
//! log stays small. How fast they are served is recorded, and asserted only as far as a busy machine allows.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, connect};
use spectrum_tests::deadline::PATIENCE;
use spectrum_tests::frame::{Frame, Inside, SYN};
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::netns::Netns;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::random::Random;
use spectrum_tests::{require, veth};

/// The connections of honest clients before the flood, and in it.
const CONNECTIONS: usize = 300;

/// The longest that the flood takes.
const LONGEST: Duration = Duration::from_secs(10);

/// It sends so many, and rests for as long as that took. Whoever is behind them on the same CPU waits for no more.
const BATCH: usize = 8;

const ACK: u8 = 0x10;

#[test]
fn honest_clients_are_served_in_a_flood_that_leaves_nothing() {
    let test = "honest_clients_are_served_in_a_flood_that_leaves_nothing";
    if !require::met(test, Path::SkLookup.needs()) {
        return;
    }
    let case = Case::new(Path::SkLookup, Family::V4);
    let (client, attacker) = (veth::client_of(&case.server), veth::origin_of(&case.server));
    // Where forged sources come from, strict filters let in.
    for forged in ["10.0.0.0/8", "172.16.5.0/24"] {
        case.server.ip(&format!("route add {forged} via {}", veth::ORIGIN_V4));
    }
    configure(
        &case.server,
        &format!(
            "[policy]\ndeny = [\"10.0.0.0/8\"]\nrate = \"100/s burst 700 per /24 /64\"\non-deny = \"silent\"\nxdp = [\"to-origin\"]\n\
             [[service]]\nname = \"web\"\nrespond = \"echo\"\nbindings = [{{ prefix = \"{}\", ports = 80, protocol = \"both\" }}]\n",
            case.prefix()
        ),
    );
    let instance = case.start(CONFIG);
    let target = SocketAddr::new(case.address(7), 80);
    let idle = connections(&client, target);
    let (memory, lines) = (resident(&instance), lines_of(&instance));

    let (is_over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let begun = Instant::now();
    let flooded = std::thread::scope(|scope| {
        let (is_over, sent, attacker) = (&is_over, &sent, &attacker);
        scope.spawn(move || attacker.run(|| flood(target, is_over, sent)));
        while sent.load(Ordering::Relaxed) < 20_000 && begun.elapsed() < LONGEST {
            std::thread::sleep(Duration::from_millis(5));
        }
        let flooded = connections(&client, target);
        is_over.store(true, Ordering::Relaxed);
        flooded
    });
    let (took, sent) = (begun.elapsed(), sent.load(Ordering::Relaxed));

    let status = connect(&case.server, &instance).ask("status").unwrap();
    let dropped = status["dropped_early"].as_u64().unwrap();
    let of = |reason: &str| -> u64 {
        let all = status["destinations"].as_array().unwrap().iter();
        all.filter_map(|one| one["denied"][reason].as_u64()).sum()
    };
    assert!(dropped > 0 && of("denied") > 0 && of("rate") > 0, "{dropped} of {sent}: {status}");
    let grown = resident(&instance).saturating_sub(memory);
    assert!(grown < 16 << 20, "{grown} bytes more after {sent} packets");
    let lines = lines_of(&instance) - lines;
    let most = usize::try_from(took.as_secs()).unwrap() * 2 + 10;
    assert!(lines <= most, "{lines} lines in {took:?}: {}", instance.stderr());
    let told = Launch::new(&case.server).arguments("top-sources web --json").finish().stdout;
    let told: Value = serde_json::from_str(&told).unwrap();
    let networks = told["services"][0]["networks"].as_array().unwrap();
    assert!(networks.iter().any(|one| one["source"] == "172.16.5.0/24"), "{told}");

    let [(_, slow_idle), (_, slow)] = [&idle, &flooded].map(|times| percentiles(times));
    let ratio = slow.as_secs_f64() / slow_idle.as_secs_f64();
    writeln!(
        io::stdout(),
        "RECORD flood: packets={sent} seconds={:.1} early={dropped} p99_idle_us={} p99_us={} ratio={ratio:.1} lines={lines} bytes={grown}",
        took.as_secs_f64(),
        slow_idle.as_micros(),
        slow.as_micros()
    )
    .unwrap();
    // A SYN that is sent once more comes after a second: none was lost.
    assert!(
        slow < Duration::from_millis(900),
        "the slowest hundredth takes {slow:?}, and {slow_idle:?} without a flood"
    );
    instance.stop();
}

/// The times that connections take, one after the other; every one is answered.
fn connections(client: &Netns, target: SocketAddr) -> Vec<Duration> {
    client.run(|| {
        let dial = |_| {
            let begun = Instant::now();
            let stream = TcpStream::connect_timeout(&target, PATIENCE).unwrap();
            let took = begun.elapsed();
            // Leaves nothing in TIME-WAIT.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            took
        };
        (0..CONNECTIONS).map(dial).collect()
    })
}

/// The median, and what one in a hundred is slower than.
fn percentiles(times: &[Duration]) -> (Duration, Duration) {
    let mut times = times.to_vec();
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// The lines of its log, but for the records of those who were served.
fn lines_of(instance: &Instance) -> usize {
    instance.stderr().lines().filter(|line| !line.contains("connection service=")).count()
}

/// The memory of all processes of `instance`, in bytes.
fn resident(instance: &Instance) -> u64 {
    let of = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
    };
    instance.processes().iter().map(of).sum()
}

/// Sends forged packets to `target` until it is over: from all of 10.0.0.0/8 and from 172.16.5.0/24; SYNs, ACKs, datagrams, fragments.
fn flood(target: SocketAddr, is_over: &AtomicBool, sent: &AtomicU64) {
    // With a header that we make (raw(7)); the kernel adds its checksum.
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
    // Otherwise no rest is shorter than 50 us.
    nix::sys::prctl::set_timerslack(1).unwrap();
    let mut random = Random::seeded();
    let begun = Instant::now();
    while !is_over.load(Ordering::Relaxed) && begun.elapsed() < LONGEST {
        let batch = Instant::now();
        for _ in 0..BATCH {
            let source = if random.bits().is_multiple_of(2) {
                Ipv4Addr::from_bits(0x0a00_0001 + random.below::<u32>(0xff_fffe))
            } else {
                Ipv4Addr::from_bits(0xac10_0500 + random.below::<u32>(256))
            };
            let from = SocketAddr::new(source.into(), random.port());
            let frame = match random.below(6) {
                0_u8 | 1 => Frame::new(from, target, Inside::Tcp(SYN)),
                2 => Frame::new(from, target, Inside::Tcp(ACK)),
                3 => Frame::new(from, target, Inside::Udp).fragment(0, true),
                4 => Frame::new(from, target, Inside::Udp).fragment(185, false),
                _ => Frame::new(from, target, Inside::Udp),
            };
            let mut packet = frame.bytes().split_off(14);
            check_sum(&mut packet, source, target.ip());
            // A full queue drops it, as a wire would.
            if socket.send_to(&packet, &target.into()).is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }
        std::thread::sleep(batch.elapsed());
    }
}

/// Gives a TCP segment behind 20 bytes of IPv4 its checksum: without, no socket is looked for.
fn check_sum(packet: &mut [u8], from: Ipv4Addr, to: IpAddr) {
    let IpAddr::V4(to) = to else { panic!("not an IPv4 address") };
    if packet[9] != 6 {
        return;
    }
    let length = u16::try_from(packet.len() - 20).unwrap();
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 6], &length.to_be_bytes()].concat();
    let words = pseudo.chunks(2).chain(packet[20..].chunks(2));
    let sum: u32 =
        words.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let sum = !u16::try_from(folded).unwrap();
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
}

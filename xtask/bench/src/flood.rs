//! The part of `protect` that is a flood: how long honest clients take to connect while forged packets come that keep half of a core busy,
//! next to the same clients in the moments without. Asserts nothing of what becomes of the forged ones.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::process::{self, Command};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use serde_json::Value;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use xtask::namespace;
use xtask::server::Server;
use xtask::shell;

use super::Bench;
use super::report::Report;
use super::row::{Goal, Peer, Row};
use super::slices::{self, Sample};
use super::statistics::Spread;

/// The address that is dialled.
const DIALLED: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 77), 7777);

/// Honest clients are in these networks, one after the other, so that none of them comes near its rate.
const HONEST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const HONEST_NETWORKS: u32 = 512;

/// The time that clients connect before the other weather has its turn. One in a hundred of its thousands tells.
const SLICE: Duration = Duration::from_millis(250);

/// The flood is there for so long before clients are measured.
const BEFORE: Duration = Duration::from_millis(5);

/// Packets that are sent without a pause, some ten microseconds of them: whoever is behind them waits for no more.
const BATCH: usize = 8;

/// So many packets are made once.
const PACKETS: usize = 4096;

/// The goal of all of them.
const GOAL: f64 = 2.0;

const CASES: [(&str, bool); 2] = [("flood p99", false), ("flood p99, xdp", true)];

/// Measures every case.
pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    for (case, has_xdp) in CASES {
        if !bench.wants(case) {
            continue;
        }
        // A thread that is thrown away is in the namespaces.
        let measured = thread::scope(|scope| scope.spawn(|| measure(case, has_xdp, bench)).join());
        match measured.unwrap_or_else(|_panic| Err(anyhow::anyhow!("it panicked"))) {
            Ok(rows) => rows.iter().for_each(|row| report.add(row)),
            Err(error) => {
                bench.interrupt.check()?;
                eprintln!("not measured: {case}: {error:#}");
            }
        }
    }
    Ok(())
}

/// What there is beside honest clients.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Weather {
    Idle,
    Flood,
}

fn measure(case: &str, has_xdp: bool, bench: &Bench) -> Result<Vec<Row>> {
    let Place { own, client, attacker, server: _server } = Place::open(has_xdp, bench)?;
    let flood = Flood::default();
    let samples = thread::scope(|scope| {
        let sending = scope.spawn(|| {
            enter(&attacker)?;
            flood.run()
        });
        let samples = enter(&client).and_then(|()| {
            let mut weathers = [Weather::Idle, Weather::Flood];
            slices::interleave(&mut weathers, &bench.interrupt, |weather| {
                flood.is_on.store(*weather == Weather::Flood, Ordering::Relaxed);
                thread::sleep(BEFORE);
                let sample = slowest();
                flood.is_on.store(false, Ordering::Relaxed);
                sample
            })
        });
        flood.is_over.store(true, Ordering::Relaxed);
        let sent = sending.join().unwrap_or_else(|_panic| Err(anyhow::anyhow!("the flood panicked")));
        sent.and(samples)
    })?;
    enter(&own)?;
    let (sent, denied) = (flood.packets.load(Ordering::Relaxed), denied(bench)?);
    // Of every other datagram one is in fragments, which are judged as one packet or as none.
    ensure!(denied > sent / 4, "of {sent} forged packets {denied} were turned away");
    let [idle, flooded] = &samples[..] else { return Ok(Vec::new()) };
    let value = |samples: &[Sample]| Spread::of(samples.iter().map(|sample| sample.cost / 1e3)).median;
    let row = |subject: &str, value, unit: &str, peer, goal| Row {
        case: case.to_owned(),
        subject: subject.to_owned(),
        peer,
        value,
        unit: unit.to_owned(),
        goal,
    };
    let peer = Peer { name: "idle".to_owned(), value: value(idle), ratio: slices::ratios(flooded, idle) };
    let seconds = Duration::from_nanos(flood.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "so many packets nobody sends")]
    let rate = sent as f64 / seconds;
    Ok(vec![
        row("idle", value(idle), "us", None, None),
        row("flood", value(flooded), "us", Some(peer), Some(Goal::Ratio(GOAL))),
        row("forged packets", rate, "/s", None, None),
    ])
}

/// What one in a hundred clients is slower than, who connect one after the other and leave.
fn slowest() -> Result<Sample> {
    let target = SocketAddr::new(DIALLED.0.into(), DIALLED.1);
    let begun = Instant::now();
    let mut times = Vec::new();
    let mut network = 0;
    while begun.elapsed() < SLICE {
        network = (network + 1) % HONEST_NETWORKS;
        let source = Ipv4Addr::from_bits(HONEST.to_bits() + (network << 8) + 7);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("open a socket")?;
        socket.bind(&SocketAddr::new(source.into(), 0).into()).context("bind an honest client")?;
        let dialling = Instant::now();
        socket.connect(&target.into()).with_context(|| format!("dial {target} from {source}"))?;
        times.push(dialling.elapsed());
        // Leaves nothing in TIME-WAIT.
        SockRef::from(&socket).set_linger(Some(Duration::ZERO)).context("leave a socket")?;
    }
    times.sort_unstable();
    ensure!(times.len() >= 200, "{} clients are too few to tell the slowest hundredth", times.len());
    let slowest = times[times.len() * 99 / 100];
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let count = times.len() as f64;
    Ok(Sample { cost: slowest.as_secs_f64() * 1e9, rate: count / begun.elapsed().as_secs_f64() })
}

/// The packets that the program turned away, for whatever reason.
fn denied(bench: &Bench) -> Result<u64> {
    let status = shell::stdout(Command::new(&bench.program).args(["status", "--json"]))?;
    let status: Value = serde_json::from_str(&status).context("read the status")?;
    let destinations = status["destinations"].as_array().into_iter().flatten();
    let reasons =
        destinations.filter_map(|one| one["denied"].as_object()).flat_map(|reasons| reasons.values());
    Ok(reasons.filter_map(Value::as_u64).sum())
}

/// The program in a namespace of its own, between honest clients and who floods it.
struct Place {
    own: File,
    client: File,
    attacker: File,
    server: Server,
}

impl Place {
    fn open(has_xdp: bool, bench: &Bench) -> Result<Self> {
        let namespace = || {
            namespace::enter_another()?;
            File::open("/proc/thread-self/ns/net").context("open the network namespace")
        };
        let (client, attacker, own) = (namespace()?, namespace()?, namespace()?);
        for (link, other, network) in
            [("to-client", &client, "198.51.100"), ("to-attacker", &attacker, "203.0.113")]
        {
            let path = format!("/proc/{}/fd/{}", process::id(), other.as_raw_fd());
            ip(&format!("link add {link} type veth peer name to-server netns {path}"))?;
            ip(&format!("addr add {network}.1/24 dev {link}"))?;
            ip(&format!("link set {link} up"))?;
            enter(other)?;
            ip(&format!("addr add {network}.2/24 dev to-server"))?;
            ip("link set to-server up")?;
            ip(&format!("route add default via {network}.1"))?;
            enter(&own)?;
        }
        // Strict filters let in whom the way back leads to.
        ip(&format!("route add {HONEST}/15 via 198.51.100.2"))?;
        for forged in ["10.0.0.0/8", "172.16.5.0/24"] {
            ip(&format!("route add {forged} via 203.0.113.2"))?;
        }
        enter(&client)?;
        ip(&format!("route add local {HONEST}/15 dev lo"))?;
        enter(&own)?;
        let path = "/run/flood.toml";
        let xdp = if has_xdp { "xdp = [\"to-attacker\"]\n" } else { "" };
        let configuration = format!(
            "[log]\nrecords = \"none\"\n[policy]\ndeny = [\"10.0.0.0/8\"]\nrate = \"100/s burst 200 per /24 /64\"\non-deny = \"silent\"\n\
             {xdp}[[service]]\nname = \"bench\"\nrespond = \"discard\"\n\
             bindings = [{{ prefix = \"192.0.2.0/24\", protocol = \"both\" }}]\n"
        );
        fs::write(path, configuration).with_context(|| format!("write {path}"))?;
        let mut command = Command::new(&bench.program);
        let server =
            Server::start(command.args(["--mode", "sk-lookup", "--config", path]), &bench.interrupt)?;
        Ok(Self { own, client, attacker, server })
    }
}

fn enter(namespace: &File) -> Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET).context("enter a namespace")
}

fn ip(words: &str) -> Result<()> {
    shell::stdout(Command::new("ip").args(words.split(' '))).map(drop)
}

/// Who floods, from all of 10.0.0.0/8, which is denied, and from 172.16.5.0/24, which comes too often.
#[derive(Debug, Default)]
struct Flood {
    is_on: AtomicBool,
    is_over: AtomicBool,
    packets: AtomicU64,
    /// The time for which it was on.
    nanoseconds: AtomicU64,
}

impl Flood {
    /// Sends while it is on, until it is over: half of the time, in pauses no longer than a batch. What the packets cost the server's
    /// side is in that half: a veth pair hands them over on the sender's time.
    fn run(&self) -> Result<()> {
        // Otherwise no pause is shorter than 50 us.
        prctl::set_timerslack(1).context("ask for short pauses")?;
        let socket =
            Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).context("open a raw socket")?;
        let target = SocketAddr::new(DIALLED.0.into(), 0).into();
        let packets: Vec<Vec<u8>> = (0..PACKETS).map(packet).collect();
        let mut batches = packets.chunks(BATCH).cycle();
        while !self.is_over.load(Ordering::Relaxed) {
            if !self.is_on.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_micros(200));
                continue;
            }
            let begun = Instant::now();
            let mut sent = 0;
            for packet in batches.next().into_iter().flatten() {
                // A full queue drops it, as a wire would.
                sent += u64::from(socket.send_to(packet, &target).is_ok());
            }
            let busy = begun.elapsed();
            while begun.elapsed() < busy * 2 {
                thread::sleep((busy * 2).saturating_sub(begun.elapsed()));
            }
            self.packets.fetch_add(sent, Ordering::Relaxed);
            let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.nanoseconds.fetch_add(took, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The `number`th forged packet: a SYN, an ACK, a datagram, or the first part or a later one of a datagram.
fn packet(number: usize) -> Vec<u8> {
    let mixed = u32::try_from(number).unwrap_or_default().wrapping_mul(2_654_435_761);
    let source = if number.is_multiple_of(2) {
        Ipv4Addr::from_bits(0x0a00_0001 + mixed % 0x00ff_fffe)
    } else {
        Ipv4Addr::from_bits(0xac10_0501 + mixed % 254)
    };
    let [_, _, high, low] = mixed.to_be_bytes();
    let ports = [&[high | 4, low][..], &DIALLED.1.to_be_bytes()].concat();
    let segment = |flags: u8| {
        let rest = [0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0];
        let mut segment = [&ports[..], &rest].concat();
        let sum = checksum(&[&pseudo(source, 6, segment.len())[..], &segment].concat());
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        segment
    };
    let datagram = || [&ports[..], &[0, 20, 0, 0], &[7; 12]].concat();
    let (protocol, fragment, inside) = match number / 2 % 6 {
        0 | 1 => (6, 0, segment(0x02)),
        2 => (6, 0, segment(0x10)),
        3 => (17, 0x2000, datagram()[..16].to_vec()),
        4 => (17, 185, vec![7; 32]),
        _ => (17, 0, datagram()),
    };
    let length = u16::try_from(20 + inside.len()).unwrap_or_default().to_be_bytes();
    let fragment: [u8; 2] = u16::to_be_bytes(fragment);
    let mut header =
        vec![0x45, 0, length[0], length[1], high, low, fragment[0], fragment[1], 64, protocol, 0, 0];
    header.extend(source.octets());
    header.extend(DIALLED.0.octets());
    // The kernel adds the checksum of the header (raw(7)).
    [header, inside].concat()
}

/// The addresses and lengths that a checksum of TCP is over as well.
fn pseudo(source: Ipv4Addr, protocol: u8, length: usize) -> Vec<u8> {
    let length = u16::try_from(length).unwrap_or_default().to_be_bytes();
    [&source.octets()[..], &DIALLED.0.octets(), &[0, protocol], &length].concat()
}

fn checksum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = pairs.map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forged_packets_are_of_two_networks_and_of_every_kind() {
        let packets: Vec<Vec<u8>> = (0..24).map(packet).collect();
        for (number, packet) in packets.iter().enumerate() {
            let source = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
            assert_eq!(source.octets()[0], if number % 2 == 0 { 10 } else { 172 }, "{source}");
            assert_eq!(packet[16..20], DIALLED.0.octets());
            if packet[9] == 6 {
                let whole = [&pseudo(source, 6, packet.len() - 20)[..], &packet[20..]].concat();
                assert_eq!(checksum(&whole), 0, "a right sum makes the sum of all 0");
            }
        }
        // The protocol, the place among fragments, and the flags of a segment.
        let kinds: std::collections::BTreeSet<(u8, [u8; 2], u8)> = packets
            .iter()
            .map(|packet| (packet[9], [packet[6], packet[7]], if packet[9] == 6 { packet[33] } else { 0 }))
            .collect();
        assert_eq!(kinds.len(), 5, "a SYN, an ACK, a first fragment, another one, and a datagram: {kinds:?}");
    }
}

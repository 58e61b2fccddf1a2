//! UDP datagrams per second over loopback, to random ports of random bound addresses: through the sk_lookup program,
//! through one that asks an LPM trie, and without any to the one port of an ordinary socket. A thread sends and receives,
//! so that neither wakeups nor other CPUs matter. Prints a JSON object per case and subject, with a value for each slice;
//! `cargo xtask bench datagrams` compares them.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program: its output is its purpose"
)]

mod bindings;
mod reference;

use std::env;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use spectrum_steering::dispatcher::Dispatcher;
use spectrum_steering::model::{DestinationId, Family, Protocol};
use spectrum_steering::plan::table::Table;

use bindings::{Case, Random, Shape};
use reference::Reference;

/// Datagrams in a slice.
const DATAGRAMS: usize = 6_000;
/// Datagrams that wait to be received, at most: fewer than a socket's buffer holds.
const BATCH: usize = 50;
const SLICES: usize = 60;
const WORDS: [u8; 32] = [7; 32];

fn main() {
    let only = env::args().skip_while(|argument| argument != "--case").nth(1);
    for count in [1, 1_000_000] {
        for family in [Family::Ipv4, Family::Ipv6] {
            let case = Case::of_hosts(family, Shape::Dense, count).over(Protocol::Udp);
            let name = case.name(count);
            if only.as_ref().is_none_or(|only| name.contains(only)) {
                measure(&case, &name);
            }
        }
    }
}

fn measure(case: &Case, name: &str) {
    let addresses: Arc<[IpAddr]> = case.addresses().into();
    let stations = ["bound", "reference", "spectrum"]
        .map(|subject| Station::open(subject, case, Arc::clone(&addresses)));
    let mut values = [const { Vec::new() }; 3];
    for round in 0..=SLICES {
        // Whoever follows an expensive neighbour must not always be the same.
        for turn in 0..stations.len() {
            let index = (turn + round) % stations.len();
            let rate = stations[index].slice(round);
            // The first one pays for cold caches and empty slabs.
            if round > 0 {
                values[index].push(rate);
            }
        }
    }
    for (station, values) in stations.iter().zip(values) {
        println!(
            "{}",
            serde_json::json!({ "case": name, "subject": station.subject, "unit": "1/s", "values": values })
        );
    }
}

/// A subject with a network namespace and a thread of its own, which ends when this is dropped.
struct Station {
    subject: &'static str,
    requests: Sender<usize>,
    rates: Receiver<f64>,
}

impl Station {
    fn open(subject: &'static str, case: &Case, addresses: Arc<[IpAddr]>) -> Self {
        let (requests, requested) = channel();
        let (measured, rates) = channel();
        let case = case.clone();
        thread::spawn(move || {
            enter_namespace(case.family);
            let receiver = UdpSocket::bind(any_port(loopback(case.family))).unwrap();
            let steering = Steering::of(subject, &case, &addresses, &receiver);
            for round in requested {
                // Whoever asks is gone when it does not listen.
                let _ = measured.send(slice(&steering, &addresses, &receiver, round));
            }
        });
        Self { subject, requests, rates }
    }

    /// Datagrams per second.
    fn slice(&self, round: usize) -> f64 {
        self.requests.send(round).unwrap();
        self.rates.recv().unwrap()
    }
}

/// The steering of datagrams to the receiver. Kept, since it ends when it is dropped.
enum Steering {
    None,
    Reference { _attached: Reference },
    Spectrum { _attached: Box<Dispatcher> },
}

impl Steering {
    fn of(subject: &str, case: &Case, addresses: &[IpAddr], receiver: &UdpSocket) -> Self {
        let netns = File::open("/proc/thread-self/ns/net").unwrap();
        match subject {
            "reference" => {
                let mut reference = Reference::filled(case, addresses, receiver);
                reference.attach(netns);
                Self::Reference { _attached: reference }
            }
            "spectrum" => {
                let table = Table::compile(&case.bindings(addresses)).unwrap();
                let mut dispatcher = Dispatcher::load(false, 0).unwrap();
                dispatcher.register(DestinationId(0), receiver).unwrap();
                dispatcher.publish(table.nodes()).unwrap();
                dispatcher.attach(netns).unwrap();
                Self::Spectrum { _attached: Box::new(dispatcher) }
            }
            _ => Self::None,
        }
    }
}

/// Datagrams per second that are sent and received; every one must arrive.
fn slice(steering: &Steering, addresses: &[IpAddr], receiver: &UdpSocket, round: usize) -> f64 {
    let listening = receiver.local_addr().unwrap();
    let mut random = Random::new(round as u64 + 1);
    let targets: Vec<SocketAddr> = (0..DATAGRAMS)
        .map(|_| {
            if matches!(steering, Steering::None) {
                return listening;
            }
            let port = u16::try_from(random.below(65_535) + 1).unwrap();
            SocketAddr::new(addresses[random.below(addresses.len())], port)
        })
        .collect();
    let sender = UdpSocket::bind(any_port(listening.ip())).unwrap();
    receiver.set_nonblocking(true).unwrap();
    let mut heard = [0; 64];
    let begun = Instant::now();
    for batch in targets.chunks(BATCH) {
        for target in batch {
            sender.send_to(&WORDS, target).unwrap();
        }
        for _ in batch {
            // Loopback delivers before send_to returns, or, where the kernel defers it, soon after.
            while let Err(error) = receiver.recv(&mut heard) {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                assert!(begun.elapsed().as_secs() < 30, "a datagram is lost");
                thread::yield_now();
            }
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    {
        DATAGRAMS as f64 / begun.elapsed().as_secs_f64()
    }
}

/// Moves this thread into a network namespace where every address that is bound is local.
fn enter_namespace(family: Family) {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let (family, prefix, source) = match family {
        Family::Ipv4 => ("-4", "10.0.0.0/8", "127.0.0.1"),
        Family::Ipv6 => ("-6", "2001:db8::/32", "::1"),
    };
    for arguments in [
        &["link", "set", "lo", "up"][..],
        &[family, "route", "add", "local", prefix, "dev", "lo", "src", source],
    ] {
        assert!(Command::new("ip").args(arguments).status().unwrap().success(), "{arguments:?}");
    }
}

fn loopback(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => [127, 0, 0, 1].into(),
        Family::Ipv6 => std::net::Ipv6Addr::LOCALHOST.into(),
    }
}

fn any_port(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 0)
}

//! Nanoseconds per run of the sk_lookup program inside the kernel, next to an empty program and one that asks an LPM
//! trie twice: random packets that hit, run one by one through BPF_PROG_TEST_RUN while the kernel counts run time.
//! Prints a JSON object per case and subject, with a value for each slice; `cargo xtask bench dispatch` compares them.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program: its output is its purpose"
)]

mod bindings;
mod reference;

use std::env;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::Duration;

use spectrum_common::SocketShare;
use spectrum_steering::dispatcher::{Dispatcher, Steered, test_run};
use spectrum_steering::model::{DestinationId, Family, Protocol};
use spectrum_steering::plan::table::Table;

use bindings::{Case, Random, Shape};
use reference::Reference;

/// Packets in a slice.
const PACKETS: usize = 4_000;

fn main() {
    let slices: usize = argument("--slices").map_or(40, |text| text.parse().unwrap());
    let only = argument("--case");
    let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime).unwrap();
    for case in cases() {
        let addresses = case.addresses();
        let name = case.name(addresses.len());
        if only.as_ref().is_none_or(|only| name.contains(only)) {
            measure(&case, &name, &addresses, slices);
        }
    }
}

fn argument(name: &str) -> Option<String> {
    let mut arguments = env::args().skip_while(|argument| argument != name);
    arguments.nth(1)
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (of, most) in [(Case::of_hosts as fn(_, _, _) -> _, 1_000_000), (Case::of_ranges, 250_000)] {
        for (shape, count) in [
            (Shape::Dense, 1),
            (Shape::Dense, 1_000),
            (Shape::Random, 1_000),
            (Shape::Edge, 0),
            (Shape::Dense, 50_000),
            (Shape::Random, 50_000),
            (Shape::Dense, most),
            (Shape::Random, most),
        ] {
            cases.extend([Family::Ipv4, Family::Ipv6].map(|family| of(family, shape, count)));
        }
    }
    cases
}

fn measure(case: &Case, name: &str, addresses: &[IpAddr], slices: usize) {
    let ports = case.ports();
    let listener = TcpListener::bind(loopback(case.family)).unwrap();
    let mut subjects: Vec<(&str, Box<dyn Subject>)> = vec![
        ("empty", Box::new(Reference::empty())),
        ("reference", Box::new(Reference::filled(case, addresses, &listener))),
        ("spectrum", Box::new(Spectrum::filled(case, addresses, &listener))),
    ];
    // What it costs to choose among registered sockets does not depend on the table.
    if addresses.len() == 1 {
        subjects.push(("shared", Box::new(Spectrum::shared(case, addresses))));
    }
    let dialled: Vec<IpAddr> =
        addresses.iter().copied().filter(|address| Family::of(*address) == case.family).collect();
    let mut values: Vec<Vec<f64>> = vec![Vec::new(); subjects.len()];
    let mut random = Random::new(2);
    for _ in 0..slices {
        let packets: Vec<SocketAddr> = (0..PACKETS)
            .map(|_| {
                let range = ports[random.below(ports.len())];
                SocketAddr::new(dialled[random.below(dialled.len())], range.first())
            })
            .collect();
        for ((_, subject), values) in subjects.iter_mut().zip(&mut values) {
            values.push(slice(subject.as_mut(), &packets));
        }
    }
    for ((subject, _), values) in subjects.iter().zip(values) {
        println!(
            "{}",
            serde_json::json!({ "case": name, "subject": subject, "unit": "ns", "values": values })
        );
    }
    // Freeing a trie of a million entries takes seconds; not while the next case is measured.
    drop(subjects);
    thread::sleep(Duration::from_millis(if addresses.len() > 100_000 { 1_000 } else { 10 }));
}

fn loopback(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "127.0.0.1:0",
        Family::Ipv6 => "[::1]:0",
    }
}

/// Nanoseconds per run, by the kernel's account.
fn slice(subject: &mut dyn Subject, packets: &[SocketAddr]) -> f64 {
    let (count, time) = subject.run_time();
    let from: SocketAddr = if packets[0].is_ipv4() {
        "198.51.100.9:4000".parse().unwrap()
    } else {
        "[2001:db8:9::9]:4000".parse().unwrap()
    };
    for (packet, port) in packets.iter().zip(1024..) {
        let from = SocketAddr::new(from.ip(), port);
        let steered = test_run(subject.program(), Protocol::Tcp, from, *packet).unwrap();
        assert!(subject.steers() == matches!(steered, Steered::Assigned { .. }), "{packet}: {steered:?}");
    }
    let (count_after, time_after) = subject.run_time();
    let runs = count_after - count;
    assert!(
        runs >= packets.len() as u64,
        "{runs} runs are counted: the kernel's run-time statistics are off"
    );
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    {
        (time_after.as_nanos() - time.as_nanos()) as f64 / runs as f64
    }
}

trait Subject {
    fn program(&self) -> BorrowedFd<'_>;
    fn run_time(&self) -> (u64, Duration);
    fn steers(&self) -> bool;
}

/// The sockets are open for as long as it is measured.
struct Spectrum(Dispatcher, #[expect(dead_code, reason = "see above")] Vec<TcpListener>);

impl Spectrum {
    fn filled(case: &Case, addresses: &[IpAddr], listener: &TcpListener) -> Self {
        let table = Table::compile(&case.bindings(addresses)).unwrap();
        let mut dispatcher = Dispatcher::load(false, 0).unwrap();
        dispatcher.register(DestinationId(0), listener).unwrap();
        dispatcher.publish(table.nodes()).unwrap();
        Self(dispatcher, Vec::new())
    }

    /// One whose clients three registered sockets share.
    fn shared(case: &Case, addresses: &[IpAddr]) -> Self {
        let listener = || TcpListener::bind(loopback(case.family)).unwrap();
        let Self(mut dispatcher, _) = Self::filled(case, addresses, &listener());
        let listeners: Vec<TcpListener> = (0..3).map(|_| listener()).collect();
        let share = |(key, listener): (u64, &TcpListener)| SocketShare {
            socket: dispatcher.admit(listener).unwrap(),
            key,
            weight: 1,
            spare: None,
        };
        let shares: Vec<SocketShare> = (0..).zip(&listeners).map(share).collect();
        dispatcher.share(DestinationId(0), &shares).unwrap();
        Self(dispatcher, listeners)
    }
}

impl Subject for Spectrum {
    fn program(&self) -> BorrowedFd<'_> {
        self.0.probe().program()
    }
    fn run_time(&self) -> (u64, Duration) {
        self.0.run_time().unwrap()
    }
    fn steers(&self) -> bool {
        true
    }
}

impl Subject for Reference {
    fn program(&self) -> BorrowedFd<'_> {
        self.program_fd()
    }
    fn run_time(&self) -> (u64, Duration) {
        Self::run_time(self)
    }
    fn steers(&self) -> bool {
        self.name() == "reference"
    }
}

//! Nanoseconds per run of the sk_lookup program inside the kernel, next to an empty program and one that asks an LPM
//! trie twice: random packets that hit, run one by one through BPF_PROG_TEST_RUN while the kernel counts run time.
//! Prints a JSON object per case and subject, with a value for each slice; `cargo xtask bench dispatch` compares them.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program: its output is its purpose"
)]

mod bindings;

use std::env;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::thread;
use std::time::Duration;

use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, MapData, SockMap};
use aya::programs::SkLookup;
use aya::{Ebpf, EbpfLoader};
use spectrum_user::dispatcher::{Dispatcher, Steered, test_run};
use spectrum_user::model::{DestinationId, Family, PortRange, Protocol};
use spectrum_user::plan::table::Table;

use bindings::{Case, Random, Shape};

/// Packets in a slice.
const PACKETS: usize = 4_000;

fn main() {
    let slices: usize = argument("--slices").map_or(40, |text| text.parse().unwrap());
    let only = argument("--case");
    let reference =
        env::var("SPECTRUM_REFERENCE_OBJECT").unwrap_or_else(|_| "target/bpf/reference.o".to_owned());
    let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime).unwrap();
    for case in cases() {
        let addresses = case.addresses();
        let name = case.name(addresses.len());
        if only.as_ref().is_none_or(|only| name.contains(only)) {
            measure(&case, &name, &addresses, slices, &reference);
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

fn measure(case: &Case, name: &str, addresses: &[IpAddr], slices: usize, reference: &str) {
    let ports = case.ports();
    let listener =
        TcpListener::bind(if case.family == Family::Ipv4 { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
    let mut subjects: Vec<(&str, Box<dyn Subject>)> = vec![
        ("empty", Box::new(Reference::empty(reference))),
        ("reference", Box::new(Reference::filled(reference, addresses, &ports, &listener))),
        ("spectrum", Box::new(Spectrum::filled(case, addresses, &listener))),
    ];
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

/// Nanoseconds per run, by the kernel's account.
fn slice(subject: &mut dyn Subject, packets: &[SocketAddr]) -> f64 {
    let (count, time) = subject.run_time();
    let from: SocketAddr = if packets[0].is_ipv4() {
        "198.51.100.9:4000".parse().unwrap()
    } else {
        "[2001:db8:9::9]:4000".parse().unwrap()
    };
    for packet in packets {
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

struct Spectrum(Dispatcher);

impl Spectrum {
    fn filled(case: &Case, addresses: &[IpAddr], listener: &TcpListener) -> Self {
        let table = Table::compile(&case.bindings(addresses)).unwrap();
        let mut dispatcher = Dispatcher::load(false).unwrap();
        dispatcher.register(DestinationId(0), listener).unwrap();
        dispatcher.publish(table.nodes()).unwrap();
        Self(dispatcher)
    }
}

impl Subject for Spectrum {
    fn program(&self) -> BorrowedFd<'_> {
        self.0.program_fd().unwrap()
    }
    fn run_time(&self) -> (u64, Duration) {
        self.0.run_time().unwrap()
    }
    fn steers(&self) -> bool {
        true
    }
}

/// A program of the reference object.
struct Reference {
    ebpf: Ebpf,
    program: &'static str,
}

impl Reference {
    fn empty(object: &str) -> Self {
        Self::load(object, "empty", 1)
    }

    fn filled(object: &str, addresses: &[IpAddr], ports: &[PortRange], listener: &TcpListener) -> Self {
        let mut this = Self::load(object, "reference", u32::try_from(addresses.len() * ports.len()).unwrap());
        let mut trie: LpmTrie<MapData, [u8; 20], u32> =
            this.ebpf.take_map("BINDINGS").unwrap().try_into().unwrap();
        for address in addresses {
            for range in ports {
                let mut data = [0; 20];
                data[0] = 6;
                let port = if *range == PortRange::ALL { 0 } else { range.first() };
                data[2..4].copy_from_slice(&port.to_be_bytes());
                let mapped = match address {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => *v6,
                };
                data[4..].copy_from_slice(&mapped.octets());
                trie.insert(&Key::new(160, data), 1 | 128 << 24, 0).unwrap();
            }
        }
        let mut listeners: SockMap<_> = this.ebpf.map_mut("LISTENERS").unwrap().try_into().unwrap();
        listeners.set(1, listener, 0).unwrap();
        this
    }

    fn load(object: &str, program: &'static str, entries: u32) -> Self {
        let mut ebpf =
            EbpfLoader::new().btf(None).map_max_entries("BINDINGS", entries).load_file(object).unwrap();
        let loaded: &mut SkLookup = ebpf.program_mut(program).unwrap().try_into().unwrap();
        loaded.load().unwrap();
        Self { ebpf, program }
    }
}

impl Subject for Reference {
    fn program(&self) -> BorrowedFd<'_> {
        self.ebpf.program(self.program).unwrap().fd().unwrap().as_fd()
    }
    fn run_time(&self) -> (u64, Duration) {
        let info = self.ebpf.program(self.program).unwrap().info().unwrap();
        (info.run_count(), info.run_time())
    }
    fn steers(&self) -> bool {
        self.program == "reference"
    }
}

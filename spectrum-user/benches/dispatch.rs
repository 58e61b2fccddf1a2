//! Nanoseconds per run of the sk_lookup program inside the kernel, next to an empty program and one that asks an LPM
//! trie twice: random packets that hit, run one by one through BPF_PROG_TEST_RUN while the kernel counts run time.
//! Prints a JSON object per case and subject, with a value for each slice; `cargo xtask bench dispatch` compares them.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program: its output is its purpose"
)]

use std::env;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, MapData, SockMap};
use aya::programs::SkLookup;
use aya::{Ebpf, EbpfLoader};
use spectrum_user::dispatcher::{Dispatcher, Steered, test_run};
use spectrum_user::model::{Binding, DestinationId, PortRange, Prefix, Protocol};
use spectrum_user::plan::PlannedBinding;
use spectrum_user::plan::table::Table;

/// Packets in a slice.
const PACKETS: usize = 4_000;

fn main() {
    let slices: usize = argument("--slices").map_or(40, |text| text.parse().unwrap());
    let only = argument("--case");
    let reference =
        env::var("SPECTRUM_REFERENCE_OBJECT").unwrap_or_else(|_| "target/bpf/reference.o".to_owned());
    let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime).unwrap();
    for case in Case::all() {
        if only.as_ref().is_none_or(|only| case.name().contains(only)) {
            case.measure(slices, &reference);
        }
    }
}

fn argument(name: &str) -> Option<String> {
    let mut arguments = env::args().skip_while(|argument| argument != name);
    arguments.nth(1)
}

/// Which bindings there are.
#[derive(Clone, Copy, Debug)]
struct Case {
    v6: bool,
    shape: Shape,
    count: usize,
    ranges: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Shape {
    /// Consecutive addresses.
    Dense,
    /// The prefixes of shared/data/prefixes.json, each address by itself.
    Edge,
    /// Addresses anywhere.
    Random,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for ranges in [false, true] {
            for v6 in [false, true] {
                for count in [1, 1_000, 50_000, 1_000_000] {
                    for shape in [Shape::Dense, Shape::Random] {
                        if count > 1 || shape == Shape::Dense {
                            // A million bindings either way.
                            let count = if ranges && count == 1_000_000 { count / 4 } else { count };
                            cases.push(Self { v6, shape, count, ranges });
                        }
                    }
                }
            }
        }
        cases
    }

    fn name(&self) -> String {
        let family = if self.v6 { "ipv6" } else { "ipv4" };
        let shape = format!("{:?}", self.shape).to_lowercase();
        let ranges = if self.ranges { "x4" } else { "" };
        format!("{family}/{shape}/{}{ranges}", self.count)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        (0..self.count)
            .map(|index| match (self.v6, self.shape) {
                (false, Shape::Dense) => {
                    IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(index).unwrap()))
                }
                (false, _) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(random.next() >> 33).unwrap())),
                (true, Shape::Dense) => {
                    IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8_0000_0000_0000_0000_0000_0000 + index as u128))
                }
                (true, _) => IpAddr::V6(Ipv6Addr::from_bits(
                    (u128::from(random.next()) << 64 | u128::from(random.next())) >> 3 | 1 << 125,
                )),
            })
            .collect()
    }

    fn ports(&self) -> Vec<PortRange> {
        let ranges: &[&str] =
            if self.ranges { &["80", "443", "8000-8010", "27000-27100"] } else { &["1-65535"] };
        ranges.iter().map(|range| range.parse().unwrap()).collect()
    }

    fn measure(&self, slices: usize, reference: &str) {
        let addresses = self.addresses();
        let ports = self.ports();
        let listener = TcpListener::bind(if self.v6 { "[::1]:0" } else { "127.0.0.1:0" }).unwrap();

        let mut subjects: Vec<(&str, Box<dyn Subject>)> = vec![
            ("empty", Box::new(Reference::empty(reference))),
            ("reference", Box::new(Reference::filled(reference, &addresses, &ports, &listener))),
            ("spectrum", Box::new(Spectrum::filled(&addresses, &ports, &listener))),
        ];
        let mut values: Vec<Vec<f64>> = vec![Vec::new(); subjects.len()];
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for _ in 0..slices {
            let packets: Vec<SocketAddr> = (0..PACKETS)
                .map(|_| {
                    let range = ports[random.below(ports.len())];
                    SocketAddr::new(addresses[random.below(addresses.len())], range.first())
                })
                .collect();
            for ((_, subject), values) in subjects.iter_mut().zip(&mut values) {
                values.push(slice(subject.as_mut(), &packets));
            }
        }
        for ((name, _), values) in subjects.iter().zip(values) {
            println!(
                "{}",
                serde_json::json!({ "case": self.name(), "subject": name, "unit": "ns", "values": values })
            );
        }
        // Freeing a trie of a million entries takes seconds; not while the next case is measured.
        drop(subjects);
        std::thread::sleep(Duration::from_millis(if self.count > 100_000 { 1_000 } else { 10 }));
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
    let begun = Instant::now();
    for packet in packets {
        let steered = test_run(subject.program(), Protocol::Tcp, from, *packet).unwrap();
        assert!(subject.steers() == matches!(steered, Steered::Assigned { .. }), "{packet}: {steered:?}");
    }
    let (count_after, time_after) = subject.run_time();
    assert!(
        count_after - count >= packets.len() as u64,
        "run-time statistics are off after {:?}",
        begun.elapsed()
    );
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    {
        (time_after - time).as_nanos() as f64 / (count_after - count) as f64
    }
}

trait Subject {
    fn program(&self) -> BorrowedFd<'_>;
    fn run_time(&self) -> (u64, Duration);
    fn steers(&self) -> bool;
}

struct Spectrum(Dispatcher);

impl Spectrum {
    fn filled(addresses: &[IpAddr], ports: &[PortRange], listener: &TcpListener) -> Self {
        let bindings: Vec<PlannedBinding> = addresses
            .iter()
            .flat_map(|address| {
                ports.iter().map(|ports| PlannedBinding {
                    binding: Binding {
                        protocol: Protocol::Tcp,
                        prefix: Prefix::host(*address),
                        ports: *ports,
                    },
                    destination: DestinationId(0),
                })
            })
            .collect();
        let begun = Instant::now();
        let table = Table::compile(&bindings).unwrap();
        let compiled = begun.elapsed();
        let mut dispatcher = Dispatcher::load(false).unwrap();
        dispatcher.register(DestinationId(0), listener).unwrap();
        dispatcher.publish(table.nodes()).unwrap();
        eprintln!(
            "{} bindings: compiled in {compiled:?}, published after {:?}, {} bytes each",
            bindings.len(),
            begun.elapsed(),
            size_of_val(table.nodes()) / bindings.len()
        );
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

/// xorshift64: the packets are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

//! What a million denied sources cost: nanoseconds per run of the sk_lookup program, next to the same without a policy, and how long
//! it takes to bring them into the kernel, next to one set of nftables. Prints a JSON object per case and subject, with a value for
//! each slice; `cargo xtask bench protect` compares them. Attaches nothing; makes and removes a table of nftables in its namespace.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measuring program: its output is its purpose"
)]

mod bindings;

use std::env;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::Instant;

use spectrum_steering::dispatcher::{Dispatcher, Steered, test_run};
use spectrum_steering::model::{
    Binding, DestinationId, Family, PortRange, Prefix, Protocol, ServiceName, SourceEntry, SourcePolicy,
    SourceRule,
};
use spectrum_steering::plan::table::Table;
use spectrum_steering::plan::{Bound, Plan};

use bindings::{Case, Random, Shape};

/// The number of denied sources.
const SOURCES: usize = 1_000_000;

/// The same of shorter lists: one that is at hand whole, and one that a second-level cache holds.
const FEWER: [usize; 2] = [100, 30_000];

/// Slices of program runs, and packets in one.
const SLICES: usize = 40;
const PACKETS: usize = 4_000;

/// The times that the sources are published.
const ROUNDS: usize = 3;

/// The set that ours is compared with.
const NFT_TABLE: &str = "spectrum-bench";

fn main() {
    let only = env::args().skip_while(|argument| argument != "--case").nth(1);
    let wants = |name: &str| only.as_ref().is_none_or(|only| name.contains(only));
    let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime).unwrap();
    for family in [Family::Ipv4, Family::Ipv6] {
        for count in FEWER {
            let case = format!("{family}/program/{count}");
            if wants(&case) {
                runs(&Sources::new(family, count), &case);
            }
        }
        let (program, publication) =
            (format!("{family}/program/{SOURCES}"), format!("{family}/publication/{SOURCES}"));
        if !wants(&program) && !wants(&publication) {
            continue;
        }
        let sources = Sources::new(family, SOURCES);
        if wants(&program) {
            runs(&sources, &program);
        }
        if wants(&publication) {
            publications(&sources, &publication);
        }
    }
}

/// Whom the policy denies, and others.
struct Sources {
    family: Family,
    denied: Vec<IpAddr>,
    others: Vec<IpAddr>,
}

impl Sources {
    fn new(family: Family, count: usize) -> Self {
        let mut denied = Case::of_hosts(family, Shape::Random, count + PACKETS).addresses();
        let others = denied.split_off(count);
        Self { family, denied, others }
    }

    fn dialled(&self) -> SocketAddr {
        let text = if self.family == Family::Ipv4 { "192.0.2.7:80" } else { "[2001:db8::7]:80" };
        text.parse().unwrap()
    }

    /// Of a service that is bound where clients dial, with and without a policy.
    fn table(&self, denies: bool) -> Table {
        let prefix: Prefix =
            if self.family == Family::Ipv4 { "192.0.2.0/24" } else { "2001:db8::/64" }.parse().unwrap();
        let binding = Binding { protocol: Protocol::Tcp, prefix, ports: PortRange::ALL };
        let service = Bound { name: ServiceName::default(), bindings: vec![binding], policy: None };
        let mut plan = Plan::of(&[service]).unwrap();
        if denies {
            plan.policies.common = self.policy();
        }
        Table::of(&plan).unwrap()
    }

    fn policy(&self) -> SourcePolicy {
        let entry = |source: &IpAddr| SourceEntry { prefix: Prefix::host(*source), rule: SourceRule::Deny };
        SourcePolicy::of(&self.denied.iter().map(entry).collect::<Vec<_>>()).unwrap()
    }
}

fn say(case: &str, subject: &str, unit: &str, values: &[f64]) {
    println!("{}", serde_json::json!({ "case": case, "subject": subject, "unit": unit, "values": values }));
}

/// Nanoseconds of a run: nobody denied, one who is, and one who is not.
fn runs(sources: &Sources, case: &str) {
    let listener =
        TcpListener::bind(if sources.family == Family::Ipv4 { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
    let dispatcher = |denies: bool| {
        let mut dispatcher = Dispatcher::load(false, 0).unwrap();
        dispatcher.register(DestinationId(0), &listener).unwrap();
        dispatcher.publish(sources.table(denies).nodes()).unwrap();
        dispatcher
    };
    let (open, guarded) = (dispatcher(false), dispatcher(true));
    let mut random = Random::new(3);
    let mut values: [Vec<f64>; 3] = Default::default();
    for _ in 0..SLICES {
        let denied: Vec<IpAddr> =
            (0..PACKETS).map(|_| sources.denied[random.below(sources.denied.len())]).collect();
        let [by_open, by_denied, by_admitted] = &mut values;
        by_open.push(slice(&open, &sources.others, sources.dialled(), false));
        by_denied.push(slice(&guarded, &denied, sources.dialled(), true));
        by_admitted.push(slice(&guarded, &sources.others, sources.dialled(), false));
    }
    for (subject, values) in ["no policy", "denied", "admitted"].iter().zip(&values) {
        say(case, subject, "ns", values);
    }
}

/// Nanoseconds per run, by the kernel's account.
fn slice(dispatcher: &Dispatcher, sources: &[IpAddr], dialled: SocketAddr, is_denied: bool) -> f64 {
    let (count, time) = dispatcher.run_time().unwrap();
    for source in sources {
        let from = SocketAddr::new(*source, 4000);
        let steered = test_run(dispatcher.probe().program(), Protocol::Tcp, from, dialled).unwrap();
        assert!(is_denied == (steered == Steered::Dropped), "{source}: {steered:?}");
    }
    let (count_after, time_after) = dispatcher.run_time().unwrap();
    let runs = count_after - count;
    assert!(runs >= sources.len() as u64, "{runs} runs are counted: the kernel's statistics are off");
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    {
        (time_after.as_nanos() - time.as_nanos()) as f64 / runs as f64
    }
}

/// Milliseconds from a list of prefixes to the kernel's having it, and the bytes of each.
fn publications(sources: &Sources, case: &str) {
    let mut dispatcher = Dispatcher::load(false, 0).unwrap();
    let set = nft_set(sources);
    let (mut by_nft, mut ours, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        nft(set.as_bytes());
        by_nft.push(begun.elapsed().as_secs_f64() * 1e3);
        nft(format!("delete table inet {NFT_TABLE}\n").as_bytes());

        let begun = Instant::now();
        let table = sources.table(true);
        dispatcher.publish(table.nodes()).unwrap();
        ours.push(begun.elapsed().as_secs_f64() * 1e3);
        #[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
        bytes.push(table.bytes() as f64 / SOURCES as f64);
    }
    say(case, "nftables set", "ms", &by_nft);
    say(case, "spectrum", "ms", &ours);
    say(&format!("{case}/memory"), "kernel memory of each", "B", &bytes);
}

/// The denied sources as a set of prefixes, as those who write policies in nftables have them.
fn nft_set(sources: &Sources) -> String {
    let kind = if sources.family == Family::Ipv4 { "ipv4_addr" } else { "ipv6_addr" };
    let elements: Vec<String> = sources.denied.iter().map(IpAddr::to_string).collect();
    format!(
        "table inet {NFT_TABLE} {{\n set denied {{\n type {kind}\n flags interval\n elements = {{ {} }}\n }}\n}}\n",
        elements.join(",\n")
    )
}

fn nft(script: &[u8]) {
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(script).unwrap();
    assert!(nft.wait().unwrap().success(), "nft refuses a set of {SOURCES} addresses");
}

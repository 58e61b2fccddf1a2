//! The `protect` benchmark: what refusing somebody costs, next to the usual ways to do it, and what admitting somebody costs where a
//! policy looks. What a run of the program and a publication cost is measured by `spectrum-steering/benches/protect.rs`.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use xtask::interrupt::Interrupt;
use xtask::server::Server;
use xtask::shell;

use super::Bench;
use super::caller::Caller;
use super::early;
use super::flood;
use super::frames::SOURCE;
use super::measured;
use super::report::Report;
use super::row::{Goal, Peer, Row};
use super::slices::{self, SLICE, Sample};
use super::station::Station;
use super::statistics::Spread;

/// The address that is dialled, and the client's, which every list denies.
const DIALLED: &str = "192.0.2.77:7777";
const CLIENT: &str = "127.0.0.1";

/// Where the lists are: memory, of this run alone.
pub(super) const DENIED: &str = "/run/denied.txt";
pub(super) const SET: &str = "/run/denied.set";

/// The denied sources of a list.
const SOURCES: u32 = 1_000_000;

/// A way to treat a client.
struct Subject {
    name: &'static str,
    caller: Caller,
    start: fn(&Bench, &Interrupt) -> Result<Server>,
}

/// One way next to the one that it is compared with.
struct Contest {
    case: &'static str,
    peer: Subject,
    ours: Subject,
    goal: f64,
}

const CONTESTS: [Contest; 5] = [
    Contest {
        case: "refused SYN",
        peer: Subject { name: "accept and reset", caller: Caller::Refused, start: over_limit },
        ours: Subject { name: "policy, refuse", caller: Caller::Refused, start: refusing },
        goal: 0.3,
    },
    // What is left of both is the client's own.
    Contest {
        case: "refused SYN, floor",
        peer: Subject { name: "closed port", caller: Caller::Refused, start: closed },
        ours: Subject { name: "policy, refuse", caller: Caller::Refused, start: refusing },
        goal: 1.2,
    },
    Contest {
        case: "silenced SYN",
        peer: Subject { name: "iptables by ipset", caller: Caller::Unanswered, start: by_ipset },
        ours: Subject { name: "policy, silent", caller: Caller::Unanswered, start: silencing },
        goal: 1.2,
    },
    Contest {
        case: "admitted connection",
        peer: Subject { name: "no policy", caller: Caller::Served, start: open_to_all },
        ours: Subject { name: "policy, rate", caller: Caller::Served, start: by_rate },
        goal: 1.02,
    },
    Contest {
        case: "admitted connection, run time",
        peer: Subject { name: "no policy", caller: Caller::Served, start: open_to_all },
        ours: Subject {
            name: "rate, 900 denied at run time",
            caller: Caller::Served,
            start: by_rate_and_word,
        },
        goal: 1.02,
    },
];

/// Measures every case.
pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    measured::compare(bench, report, "protect", &["no policy", "nftables set"], |measured| {
        Some(Goal::Ratio(if measured.unit == "ms" { 0.1 } else { 1.3 }))
    })?;
    write_lists()?;
    for contest in CONTESTS.iter().filter(|contest| bench.wants(contest.case)) {
        match measure(contest, bench) {
            Ok(rows) => rows.iter().for_each(|row| report.add(row)),
            // A kernel without ipset can still measure the rest.
            Err(error) => {
                bench.interrupt.check()?;
                eprintln!("not measured: {}: {error:#}", contest.case);
            }
        }
    }
    early::run(bench, report)?;
    flood::run(bench, report)
}

fn measure(contest: &Contest, bench: &Bench) -> Result<Vec<Row>> {
    let mut stations = vec![open(&contest.peer, bench)?, open(&contest.ours, bench)?];
    let samples = slices::interleave(&mut stations, &bench.interrupt, |station| station.measure(SLICE))?;
    let [theirs, ours] = &samples[..] else { return Ok(Vec::new()) };
    let cost = |samples: &[Sample]| Spread::of(samples.iter().map(|sample| sample.cost / 1e3)).median;
    let row = |subject: &str, value, peer, goal| Row {
        case: contest.case.to_owned(),
        subject: subject.to_owned(),
        peer,
        value,
        unit: "us".to_owned(),
        goal,
    };
    let name = contest.peer.name.to_owned();
    let peer = Peer { name: name.clone(), value: cost(theirs), ratio: slices::ratios(ours, theirs) };
    Ok(vec![
        row(&name, cost(theirs), None, None),
        row(contest.ours.name, cost(ours), Some(peer), Some(Goal::Ratio(contest.goal))),
    ])
}

fn open(subject: &Subject, bench: &Bench) -> Result<Station> {
    let target: SocketAddr = DIALLED.parse().context("parse an address")?;
    let (bench, start) = (bench.clone(), subject.start);
    Station::open(subject.name, target, subject.caller, &bench.interrupt.clone(), move |interrupt| {
        start(&bench, interrupt)
    })
}

/// The clients and a million others, as a list of ours and as what `ipset restore` reads.
fn write_lists() -> Result<()> {
    let mut list = Vec::new();
    let mut set = format!("create denied hash:net maxelem {}\n", 2 * SOURCES).into_bytes();
    for address in sources() {
        writeln!(list, "{address}")
            .and_then(|()| writeln!(set, "add denied {address}"))
            .context("write a list")?;
    }
    for (path, content) in [(DENIED, list), (SET, set)] {
        fs::write(path, content).with_context(|| format!("write {path}"))?;
    }
    Ok(())
}

/// Whom the lists deny: those who dial, and a million others.
pub(super) fn sources() -> impl Iterator<Item = Ipv4Addr> {
    let others = (1..SOURCES).map(|nth| Ipv4Addr::from_bits(nth.wrapping_mul(2_654_435_761)));
    // Neither a client's own nor what is dialled, and none twice: the factor is odd.
    let others = others.filter(|address| {
        !address.is_loopback()
            && !address.is_unspecified()
            && address.octets()[..2] != [192, 0]
            && *address != SOURCE
    });
    [Ipv4Addr::LOCALHOST, SOURCE].into_iter().chain(others)
}

fn refusing(bench: &Bench, interrupt: &Interrupt) -> Result<Server> {
    let policy = format!("[policy]\ndeny = [{{ file = \"{DENIED}\" }}]\n");
    serve(&bench.program, "refusing", &policy, "", interrupt)
}

fn silencing(bench: &Bench, interrupt: &Interrupt) -> Result<Server> {
    let policy = format!("[policy]\ndeny = [{{ file = \"{DENIED}\" }}]\non-deny = \"silent\"\n");
    serve(&bench.program, "silencing", &policy, "", interrupt)
}

fn open_to_all(bench: &Bench, interrupt: &Interrupt) -> Result<Server> {
    serve(&bench.program, "open", "", "", interrupt)
}

/// Somewhere else.
fn closed(bench: &Bench, interrupt: &Interrupt) -> Result<Server> {
    let route = ["route", "add", "local", "192.0.2.0/24", "dev", "lo", "src", CLIENT];
    shell::stdout(Command::new("ip").args(route))?;
    Server::start(Command::new(&bench.plain_listener).arg("127.0.0.1:7777"), interrupt)
}

/// A rate that nobody comes near.
fn by_rate(bench: &Bench, interrupt: &Interrupt) -> Result<Server> {
    let policy = "[policy]\nrate = \"100000/s burst 100000 per /32 /64\"\n";
    serve(&bench.program, "rate", policy, "", interrupt)
}

/// The same, where clients are denied at run time, too: all services' and the one's.
fn by_rate_and_word(bench: &Bench, interrupt: &Interrupt) -> Result<Server> {
    let server = by_rate(bench, interrupt)?;
    let prefixes = |first: u8| {
        (0..=255_u8).flat_map(move |third| [0, 128].map(|last| format!("{first}.9.{third}.{last}")))
    };
    for (service, first) in [(None, 10), (Some("bench"), 11)] {
        let mut deny = Command::new(&bench.program);
        deny.arg("deny").args(service).args(prefixes(first).take(450));
        shell::stdout(&mut deny)?;
    }
    Ok(server)
}

/// One connection in a second is served and the others reset.
fn over_limit(bench: &Bench, interrupt: &Interrupt) -> Result<Server> {
    serve(&bench.program, "over-limit", "", "limits = { rate-per-source = 1 }\n", interrupt)
}

fn serve(program: &Path, name: &str, policy: &str, service: &str, interrupt: &Interrupt) -> Result<Server> {
    let path = format!("/run/{name}.toml");
    let configuration = format!(
        "{policy}[[service]]\nname = \"bench\"\nbindings = [{{ prefix = \"192.0.2.0/24\" }}]\nrespond = \"hello\"\n{service}"
    );
    fs::write(&path, configuration).with_context(|| format!("write {path}"))?;
    let mut command = Command::new(program);
    Server::start(command.args(["--mode", "sk-lookup", "--config", &path]), interrupt)
}

/// An ordinary listener behind the rule that most people have.
fn by_ipset(bench: &Bench, interrupt: &Interrupt) -> Result<Server> {
    let set = fs::File::open(SET).with_context(|| format!("open {SET}"))?;
    let restored = Command::new("ipset").arg("restore").stdin(Stdio::from(set)).status();
    ensure!(restored.context("run ipset")?.success(), "ipset refuses {SOURCES} addresses");
    let route = ["route", "add", "local", "192.0.2.0/24", "dev", "lo", "src", CLIENT];
    shell::stdout(Command::new("ip").args(route))?;
    let rule =
        ["-A", "INPUT", "-m", "set", "--match-set", "denied", "src", "-d", "192.0.2.0/24", "-j", "DROP"];
    shell::stdout(Command::new("iptables-nft").args(rule))?;
    Server::start(Command::new(&bench.plain_listener).arg(DIALLED), interrupt)
}

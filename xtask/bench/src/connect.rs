//! The `connect` benchmark: what accepting one connection costs on each path, as a ratio to an ordinary listener with the
//! same accept loop. The cost is CPU time of both ends; the rate stands beside it and has no goal.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use xtask::ebpf::toolchain::on_path;
use xtask::interrupt::Interrupt;
use xtask::server::Server;
use xtask::shell;

use super::Bench;
use super::caller::Caller;
use super::registered;
use super::report::Report;
use super::row::{Goal, Peer, Row};
use super::slices::{self, SLICE, Sample};
use super::station::Station;
use super::statistics::Spread;

/// One address family.
pub(super) struct Case {
    pub(super) name: &'static str,
    family: &'static str,
    pub(super) prefix: &'static str,
    pub(super) loopback: &'static str,
    iptables: &'static str,
    pub(super) target: &'static str,
}

static CASES: [Case; 2] = [
    Case {
        name: "ipv4",
        family: "-4",
        prefix: "192.0.2.0/24",
        loopback: "127.0.0.1",
        iptables: "iptables-nft",
        target: "192.0.2.77:7777",
    },
    Case {
        name: "ipv6",
        family: "-6",
        prefix: "2001:db8::/64",
        loopback: "::1",
        iptables: "ip6tables-nft",
        target: "[2001:db8::77]:7777",
    },
];

/// The port of the listener that REDIRECT leads to.
const REDIRECTED_PORT: u16 = 7778;

/// The ordinary listener, with which all others are compared.
const PLAIN: &str = "bind";

/// The others, and how much more they may cost.
const SUBJECTS: [(&str, Option<Goal>); 5] = [
    ("sk_lookup", Some(Goal::Ratio(1.03))),
    ("tproxy iptables-nft", Some(Goal::Ratio(1.12))),
    ("tproxy iptables-legacy", Some(Goal::Ratio(1.12))),
    ("tproxy nftables", Some(Goal::Ratio(1.12))),
    ("redirect", None),
];

/// The flags with which the rules are in iptables.
const IPTABLES: [&str; 4] = ["--mode", "tproxy", "--firewall", "iptables"];

/// Measures every subject in every case.
pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    for case in CASES.iter().filter(|case| bench.wants(case.name)) {
        let mut stations = vec![open(PLAIN, case, bench)?];
        for (name, _) in SUBJECTS {
            // A kernel without one path can still measure the others.
            match open(name, case, bench) {
                Ok(station) => stations.push(station),
                Err(error) => {
                    bench.interrupt.check()?;
                    eprintln!("not measured: {name}, {}: {error:#}", case.name);
                }
            }
        }
        let samples = slices::interleave(&mut stations, &bench.interrupt, |station| station.measure(SLICE))?;
        let names: Vec<_> = stations.iter().map(|station| station.name).collect();
        for row in rows_of(case, &names, &samples) {
            report.add(&row);
        }
        drop(stations);
        registered::run(case, bench, report)?;
    }
    Ok(())
}

/// Two rows for each subject: its cost and its rate. The first subject is the plain one.
fn rows_of(case: &Case, names: &[&str], samples: &[Vec<Sample>]) -> Vec<Row> {
    let Some(plain) = samples.first() else { return Vec::new() };
    let cost = |samples: &[Sample]| Spread::of(samples.iter().map(|sample| sample.cost / 1e3)).median;
    let rate = |samples: &[Sample]| Spread::of(samples.iter().map(|sample| sample.rate)).median;
    let row = |subject: &str, value, unit: &str, peer, goal| Row {
        case: case.name.to_owned(),
        subject: subject.to_owned(),
        peer,
        value,
        unit: unit.to_owned(),
        goal,
    };
    let mut rows = Vec::new();
    for (subject, samples) in names.iter().zip(samples) {
        let peer = (*subject != PLAIN).then(|| Peer {
            name: PLAIN.to_owned(),
            value: cost(plain),
            ratio: slices::ratios(samples, plain),
        });
        let goal = SUBJECTS.iter().find_map(|(name, goal)| goal.filter(|_| name == subject));
        rows.push(row(subject, cost(samples), "us", peer, goal));
        rows.push(row(subject, rate(samples), "1/s", None, None));
    }
    rows
}

fn open(name: &'static str, case: &'static Case, bench: &Bench) -> Result<Station> {
    let target: SocketAddr = case.target.parse().context("parse an address")?;
    let plain = bench.plain_listener.clone();
    let program = bench.program.clone();
    Station::open(name, target, Caller::Served, &bench.interrupt, move |interrupt| match name {
        PLAIN => {
            route(case)?;
            listen(&plain, target, interrupt)
        }
        "redirect" => {
            route(case)?;
            let mut redirect = Command::new(case.iptables);
            redirect.args(["-t", "nat", "-A", "OUTPUT", "-d", case.prefix, "-p", "tcp", "-j", "REDIRECT"]);
            shell::stdout(redirect.arg(format!("--to-ports={REDIRECTED_PORT}")))?;
            let loopback = case.loopback.parse().context("parse an address")?;
            listen(&plain, SocketAddr::new(loopback, REDIRECTED_PORT), interrupt)
        }
        "sk_lookup" => steer(&program, case, &["--mode", "sk-lookup"], None, interrupt),
        "tproxy iptables-nft" => steer(&program, case, &IPTABLES, Some("nft"), interrupt),
        "tproxy iptables-legacy" => steer(&program, case, &IPTABLES, Some("legacy"), interrupt),
        _ => steer(&program, case, &["--mode", "tproxy", "--firewall", "nftables"], None, interrupt),
    })
}

/// The route that spectrum-user would add.
pub(super) fn route(case: &Case) -> Result<()> {
    let arguments = [case.family, "route", "add", "local", case.prefix, "dev", "lo", "src", case.loopback];
    shell::stdout(Command::new("ip").args(arguments))?;
    Ok(())
}

fn listen(plain_listener: &Path, address: SocketAddr, interrupt: &Interrupt) -> Result<Server> {
    Server::start(Command::new(plain_listener).arg(address.to_string()), interrupt)
}

fn steer(
    program: &Path,
    case: &Case,
    flags: &[&str],
    variant: Option<&str>,
    interrupt: &Interrupt,
) -> Result<Server> {
    let mut command = Command::new(program);
    command.args(["--prefix", case.prefix]).args(flags);
    if let Some(variant) = variant {
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", iptables_of(variant)?.display()));
    }
    Server::start(&mut command, interrupt)
}

/// A directory in which `iptables` and its kin are those of `variant`.
fn iptables_of(variant: &str) -> Result<PathBuf> {
    let directory = PathBuf::from("/run").join(format!("iptables-{variant}"));
    if directory.is_dir() {
        return Ok(directory);
    }
    fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
    let program = format!("xtables-{variant}-multi");
    let program = on_path(&program).with_context(|| format!("find {program}"))?;
    for family in ["iptables", "ip6tables"] {
        for suffix in ["", "-save", "-restore"] {
            let link = directory.join(format!("{family}{suffix}"));
            symlink(&program, &link).with_context(|| format!("make {}", link.display()))?;
        }
    }
    Ok(directory)
}

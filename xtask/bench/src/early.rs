//! The part of `protect` that is before the stack: what dropping a frame of a denied source costs in XDP, next to the first rule that a
//! firewall can have.

use std::cell::Cell;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use xtask::interrupt::Interrupt;
use xtask::server::Server;
use xtask::shell;

use super::Bench;
use super::frames::{self, INTERFACE, Knock};
use super::protect::{DENIED, SET, sources};
use super::report::Report;
use super::row::{Goal, Peer, Row};
use super::slices::{self, SLICE, Sample};
use super::statistics::Spread;

const NFT: &str = "/run/denied.nft";

/// The goal of all of them.
const GOAL: f64 = 0.5;

#[derive(Clone, Copy, Debug)]
enum Firewall {
    Ipset,
    Nftables,
}

const CONTESTS: [(&str, Knock, Firewall); 4] = [
    ("early SYN, nftables", Knock::Syn, Firewall::Nftables),
    ("early SYN, ipset", Knock::Syn, Firewall::Ipset),
    ("early datagram, nftables", Knock::Datagram, Firewall::Nftables),
    ("early datagram, ipset", Knock::Datagram, Firewall::Ipset),
];

/// Measures every case.
pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut is_written = false;
    for (case, knock, firewall) in CONTESTS {
        if !bench.wants(case) {
            continue;
        }
        if !is_written {
            write_set().context("write the set of nftables")?;
            is_written = true;
        }
        match measure(case, knock, firewall, bench) {
            Ok(rows) => rows.iter().for_each(|row| report.add(row)),
            // Frames are made by Linux 5.18.
            Err(error) => {
                bench.interrupt.check()?;
                eprintln!("not measured: {case}: {error:#}");
            }
        }
    }
    Ok(())
}

fn measure(case: &str, knock: Knock, firewall: Firewall, bench: &Bench) -> Result<Vec<Row>> {
    let (plain, program) = (bench.plain_listener.clone(), bench.program.clone());
    let (asked, so_far) = (program.clone(), Cell::new(0));
    let peer = match firewall {
        Firewall::Ipset => "iptables raw by ipset",
        Firewall::Nftables => "nftables raw by set",
    };
    let mut stations = vec![
        frames::station(
            peer,
            knock,
            &bench.interrupt,
            move |interrupt| behind(firewall, &plain, interrupt),
            move || dropped_by(firewall, &so_far),
        )?,
        frames::station(
            "policy, xdp",
            knock,
            &bench.interrupt,
            move |interrupt| before(&program, interrupt),
            move || dropped_early(&asked),
        )?,
    ];
    let samples = slices::interleave(&mut stations, &bench.interrupt, |station| station.measure(SLICE))?;
    let [theirs, ours] = &samples[..] else { return Ok(Vec::new()) };
    let cost = |samples: &[Sample]| Spread::of(samples.iter().map(|sample| sample.cost)).median;
    let row = |subject: &str, value, peer, goal| Row {
        case: case.to_owned(),
        subject: subject.to_owned(),
        peer,
        value,
        unit: "ns".to_owned(),
        goal,
    };
    let name = peer.to_owned();
    let beside = Peer { name: name.clone(), value: cost(theirs), ratio: slices::ratios(ours, theirs) };
    Ok(vec![
        row(&name, cost(theirs), None, None),
        row("policy, xdp", cost(ours), Some(beside), Some(Goal::Ratio(GOAL))),
    ])
}

/// Ours, which drops on the interface.
fn before(program: &Path, interrupt: &Interrupt) -> Result<Server> {
    let path = "/run/early.toml";
    let configuration = format!(
        "[policy]\ndeny = [{{ file = \"{DENIED}\" }}]\non-deny = \"silent\"\nxdp = [\"{INTERFACE}\"]\n[[service]]\nname = \"bench\"\n\
         respond = \"echo\"\nbindings = [{{ prefix = \"192.0.2.0/24\", protocol = \"both\" }}]\n"
    );
    fs::write(path, configuration).with_context(|| format!("write {path}"))?;
    let mut command = Command::new(program);
    Server::start(command.args(["--mode", "sk-lookup", "--config", path]), interrupt)
}

fn dropped_early(program: &Path) -> Result<u64> {
    let status: Value =
        serde_json::from_str(&shell::stdout(Command::new(program).args(["status", "--json"]))?)
            .context("read the status")?;
    let is_native = status["xdp"][0]["mode"] == "native";
    ensure!(is_native, "the program is not in the driver: {}", status["xdp"]);
    status["dropped_early"].as_u64().context("find what was dropped")
}

/// An ordinary listener behind the first rule there can be.
fn behind(firewall: Firewall, plain: &Path, interrupt: &Interrupt) -> Result<Server> {
    match firewall {
        Firewall::Ipset => {
            let set = fs::File::open(SET).with_context(|| format!("open {SET}"))?;
            let restored = Command::new("ipset").arg("restore").stdin(Stdio::from(set)).status();
            ensure!(restored.context("run ipset")?.success(), "ipset refuses the sources");
            let rule =
                ["-t", "raw", "-A", "PREROUTING", "-m", "set", "--match-set", "denied", "src", "-j", "DROP"];
            shell::stdout(Command::new("iptables-nft").args(rule))?;
        }
        Firewall::Nftables => {
            shell::stdout(Command::new("nft").args(["-f", NFT]))?;
        }
    }
    Server::start(Command::new(plain).arg("127.0.0.1:7777"), interrupt)
}

/// The packets that the rule has dropped; `so_far` of them were told of before.
fn dropped_by(firewall: Firewall, so_far: &Cell<u64>) -> Result<u64> {
    let mut list = match firewall {
        Firewall::Ipset => {
            let mut list = Command::new("iptables-nft");
            list.args(["-t", "raw", "-nvxL", "PREROUTING"]);
            list
        }
        Firewall::Nftables => {
            // To list it nft first reads the whole set, which takes seconds; for this it does not.
            let mut list = Command::new("nft");
            list.args(["reset", "counter", "ip", "early", "drops"]);
            list
        }
    };
    let listed = shell::stdout(&mut list)?;
    let count = match firewall {
        Firewall::Ipset => listed.lines().find(|line| line.contains("DROP") && line.contains("denied")),
        Firewall::Nftables => listed.split("packets ").nth(1),
    };
    let count = count.and_then(|text| text.split_whitespace().next()).and_then(|word| word.parse().ok());
    let count: u64 = count.with_context(|| format!("find what was dropped in {listed}"))?;
    if let Firewall::Nftables = firewall {
        so_far.set(so_far.get() + count);
        return Ok(so_far.get());
    }
    Ok(count)
}

/// The same sources as a set of nftables, by hash, which is what it finds single addresses in fastest.
fn write_set() -> Result<()> {
    let mut text = b"table ip early {\n set denied {\n type ipv4_addr\n elements = {\n".to_vec();
    for source in sources() {
        writeln!(text, "{source},")?;
    }
    text.extend(
        b"}\n }\n counter drops { }\n chain first {\n type filter hook prerouting priority raw; policy accept;\n \
          ip saddr @denied counter name drops drop\n }\n}\n",
    );
    fs::write(NFT, text).with_context(|| format!("write {NFT}"))
}

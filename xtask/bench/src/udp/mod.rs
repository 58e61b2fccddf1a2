//! The `udp` benchmark: spectrum as a proxy of datagrams next to nginx, in turns. How each is started is in the file beside
//! it.

mod contender;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::Bench;
use super::contest::{Better, Contender, Figure, Order, RECORDS, ROUNDS, Station, in_turns, latencies};
use super::report::Report;
use super::row::{Goal, Peer, Row};
use super::statistics::Spread;

use contender::{ANSWERING, KEEPING};

/// The number of sessions held for a look at the memory, if the descriptors of a process allow that, and of starts of each
/// proxy for it.
const HELD: u32 = 20_000;
const STARTS: usize = 3;

/// The number of sessions held while others come.
const CROWD: u32 = 16_000;

/// The number of sessions whose origin-side port is looked at.
const PORTS: u32 = 64;

/// Measures everything.
pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let load = bench.measuring("load")?;
    let wanted = |cases: &[&str]| cases.iter().any(|case| bench.wants(case));
    let show = |figure: &Figure, report: &mut Report| {
        if bench.wants(figure.case) {
            figure.rows().iter().for_each(|row| report.add(row));
        }
    };
    if bench.wants("memory/idle") {
        show(&memory(bench, &load)?, report);
    }
    if bench.wants("reload/ports") {
        for contender in KEEPING {
            report.add(&kept_ports(contender, bench, &load)?);
        }
    }
    if wanted(&["open/rate", "open/cpu"]) {
        let mut stations = Station::open_all(&ANSWERING, &bench.packaged, &load, &bench.interrupt)?;
        let mut rate = more("open/rate", "1/s").with_goal(Goal::Multiple(1.5));
        let mut cpu = less("open/cpu", "us");
        pairs("udp-open").measure(&mut stations, bench, &mut rate, &mut cpu)?;
        show(&rate, report);
        show(&cpu, report);
    }
    if bench.wants("unknown/cpu") {
        report.add(&unknown(bench, &load)?);
    }
    if !wanted(&["pair/cpu", "pair/rate", "train/cpu", "train/rate", "latency/p50", "latency/p99"]) {
        return Ok(());
    }
    let mut stations = Station::open_all(&KEEPING, &bench.packaged, &load, &bench.interrupt)?;
    let mut rate = more("pair/rate", "1/s");
    let mut cpu = less("pair/cpu", "us").with_goal(Goal::Ratio(0.67));
    if wanted(&["pair/cpu", "pair/rate", "latency/p50", "latency/p99"]) {
        pairs("udp-exchange").measure(&mut stations, bench, &mut rate, &mut cpu)?;
        show(&cpu, report);
        show(&rate, report);
    }
    if wanted(&["train/cpu", "train/rate"]) {
        // There and back.
        let order =
            Order { verb: "udp-trains", rest: "300 4", counts: "bytes", per_count: 0.5e9, per_cpu: 0.5e9 };
        let mut rate = more("train/rate", "GB/s");
        let mut cpu = less("train/cpu", "s/GB").with_goal(Goal::Ratio(0.2));
        order.measure(&mut stations, bench, &mut rate, &mut cpu)?;
        show(&cpu, report);
        show(&rate, report);
    }
    if wanted(&["latency/p50", "latency/p99"]) {
        let mut quantiles = [("latency/p50", "p50"), ("latency/p99", "p99")]
            .map(|(case, quantile)| (less(case, "us"), quantile));
        latencies("udp-pace", &mut stations, bench, rate.least() / 2.0, &mut quantiles)?;
        for (figure, _) in &quantiles {
            show(figure, report);
        }
    }
    Ok(())
}

fn less(case: &'static str, unit: &'static str) -> Figure {
    Figure::new(&KEEPING, case, unit, Better::Less)
}

fn more(case: &'static str, unit: &'static str) -> Figure {
    Figure::new(&KEEPING, case, unit, Better::More)
}

/// So many at once as fast as it goes, the cost of each in microseconds.
fn pairs(verb: &'static str) -> Order {
    Order { verb, rest: "300 64", counts: "count", per_count: 1.0, per_cpu: 1e6 }
}

/// Resident memory for each session that was answered once and is silent since, of proxies that have done nothing else yet.
fn memory(bench: &Bench, load: &Path) -> Result<Figure> {
    let mut figure = less("memory/idle", "B").with_goal(Goal::Ratio(0.5));
    for start in 0..STARTS {
        for (place, contender) in KEEPING.into_iter().enumerate() {
            bench.interrupt.check()?;
            let mut station = Station::open(contender, &bench.packaged, load, &bench.interrupt)?;
            let before = station.resident()?;
            let held = hold(&mut station, HELD, "answered")?;
            if held < HELD && start == 0 {
                eprintln!("memory/idle: {} holds {held} sessions of {HELD}", contender.name);
            }
            figure.add(place, (station.resident()? - before) / f64::from(held));
        }
    }
    Ok(figure)
}

/// Opens `count` sessions. The number of them that are there in the end: each has a socket of its own at the origin's side.
fn hold(station: &mut Station, count: u32, manner: &str) -> Result<u32> {
    let before = station.descriptors()?;
    station.measure("udp-hold", &format!("{count} {manner}"))?;
    let held = u32::try_from(station.descriptors()?.saturating_sub(before))?.min(count);
    ensure!(held > 0, "{}: no session is held", station.name());
    Ok(held)
}

/// The sessions of [`PORTS`] whose origin sees another port after a reload.
fn kept_ports(contender: Contender, bench: &Bench, load: &Path) -> Result<Row> {
    let mut station = Station::open(contender, &bench.packaged, load, &bench.interrupt)?;
    let mut ports = || station.measure("udp-ports", &PORTS.to_string());
    ensure!(ports()?.answer.number("count")? >= f64::from(PORTS), "{}: sessions are missing", contender.name);
    let kept = ports()?.answer.number("kept")?;
    ensure!(kept >= f64::from(PORTS), "{}: {kept} of {PORTS} ports stay without a reload", contender.name);
    reload(contender, &station)?;
    let kept = station.measure("udp-ports", &PORTS.to_string())?.answer.number("kept")?;
    Ok(Row {
        case: "reload/ports".to_owned(),
        subject: contender.name.to_owned(),
        peer: None,
        value: kept,
        unit: format!("of {PORTS}"),
        goal: (contender.name == KEEPING[0].name).then_some(Goal::Least(f64::from(PORTS))),
    })
}

fn reload(contender: Contender, station: &Station) -> Result<()> {
    let children = |pid: u32| {
        let path = format!("/proc/{pid}/task/{pid}/children");
        std::fs::read_to_string(&path).with_context(|| format!("read {path}"))
    };
    let mut before = None;
    station.reload(|pid| {
        if contender.name == KEEPING[0].name {
            let path = format!("{RECORDS}-{}", contender.name);
            let log = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
            return Ok(log.contains("reloaded"));
        }
        // There are others, and those that were there take nothing new any more, though they may stay for what they have.
        let now = children(pid)?;
        let first = before.get_or_insert_with(|| now.clone());
        let has_let_go = |pid: &str| {
            let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            title.is_empty() || String::from_utf8_lossy(&title).contains("shutting down")
        };
        Ok(*first != now && first.split_whitespace().all(has_let_go))
    })
}

/// The cost of a client that was never heard of, for it and for the proxy, while there are many sessions on the port that
/// it dials, and while there are none.
fn unknown(bench: &Bench, load: &Path) -> Result<Row> {
    let ours = ANSWERING[0];
    let mut stations = Station::open_all(&[ours, ours], &bench.packaged, load, &bench.interrupt)?;
    let mut held = hold(&mut stations[0], CROWD, "silent")?;
    if held < CROWD {
        // Beyond what it may have every new one takes the place of another.
        held = held / 10 * 9;
        eprintln!("unknown/cpu: of {CROWD} sessions {held} are held");
        stations[0] = Station::open(ours, &bench.packaged, load, &bench.interrupt)?;
        hold(&mut stations[0], held, "silent")?;
    }
    let mut costs = [Vec::new(), Vec::new()];
    let found = in_turns(ROUNDS, &mut stations, bench, |_, station| {
        let outcome = station.measure("udp-open", "100 64")?;
        let used = outcome.cpu + outcome.answer.number("cpu")?;
        Ok(vec![used * 1e6 / outcome.answer.number("count")?])
    })?;
    for (place, values) in found {
        costs[place].extend(values);
    }
    let [crowded, alone] = &costs;
    let median = |costs: &[f64]| Spread::of(costs.iter().copied()).median;
    Ok(Row {
        case: "unknown/cpu".to_owned(),
        subject: format!("beside {held}"),
        peer: Some(Peer {
            name: "alone".to_owned(),
            value: median(alone),
            ratio: Spread::of(crowded.iter().zip(alone).map(|(crowded, alone)| crowded / alone)),
        }),
        value: median(crowded),
        unit: "us".to_owned(),
        goal: Some(Goal::Ratio(1.2)),
    })
}

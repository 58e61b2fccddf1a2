//! The `proxy` benchmark: spectrum as a TCP proxy next to HAProxy and nginx, in turns. How each is started and loaded is in
//! the files beside it.

mod contender;

use std::path::Path;

use anyhow::Result;

use super::Bench;
use super::contest::{Better, Figure, Order, Station, latencies};
use super::report::Report;
use super::row::{Goal, Row};

use contender::ALL;

/// The number of connections held for a look at the memory, and of starts of each proxy for it.
const HELD: u32 = 5000;
const STARTS: usize = 3;

/// The lead that half of the rows should have.
const AHEAD: f64 = 1.2;

/// Measures everything.
pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let load = bench.measuring("load")?;
    let mut figures = Vec::new();
    let mut show = |figure: Figure, report: &mut Report| {
        if bench.wants(figure.case) {
            figure.rows().iter().for_each(|row| report.add(row));
            figures.push(figure);
        }
    };
    if bench.wants("memory/idle") {
        show(memory(bench, &load)?, report);
    }
    let mut stations = Station::open_all(&ALL, &bench.packaged, &load, &bench.interrupt)?;
    let mut slowest = None;
    let wanted = |cases: &[&str]| cases.iter().any(|case| bench.wants(case));
    if wanted(&["connect/rate", "connect/cpu"]) {
        let (mut rate, mut cpu) = (more("connect/rate", "1/s"), less("connect/cpu", "s/10k"));
        operations("connect").measure(&mut stations, bench, &mut rate, &mut cpu)?;
        show(rate, report);
        show(cpu, report);
    }
    let latency = wanted(&["latency/p50", "latency/p99", "latency/p99.9"]);
    if latency || wanted(&["request/rate", "request/cpu"]) {
        let (mut rate, mut cpu) = (more("request/rate", "1/s"), less("request/cpu", "s/10k"));
        operations("request").measure(&mut stations, bench, &mut rate, &mut cpu)?;
        slowest = Some(rate.least());
        show(rate, report);
        show(cpu, report);
    }
    for (rest, cases) in [("300 1", ["bulk/1", "bulk/1/cpu"]), ("300 32", ["bulk/32", "bulk/32/cpu"])] {
        if wanted(&cases) {
            let order = Order { verb: "bulk", rest, counts: "count", per_cpu: 1e9, per_count: 1e9 };
            let (mut rate, mut cpu) = (more(cases[0], "GB/s"), less(cases[1], "s/GB"));
            order.measure(&mut stations, bench, &mut rate, &mut cpu)?;
            show(rate, report);
            show(cpu, report);
        }
    }
    if let Some(slowest) = slowest.filter(|_| latency) {
        let mut quantiles = [("latency/p50", "p50"), ("latency/p99", "p99"), ("latency/p99.9", "p99.9")]
            .map(|(case, quantile)| (less(case, "us"), quantile));
        latencies("pace", &mut stations, bench, slowest / 2.0, &mut quantiles)?;
        for (figure, _) in quantiles {
            show(figure, report);
        }
    }
    if figures.len() > 1 {
        let behind = figures.iter().filter(|figure| !figure.is_ahead(AHEAD)).count();
        report.add(&Row {
            case: "all".to_owned(),
            subject: format!("below {AHEAD}"),
            peer: None,
            value: number(behind),
            unit: "rows".to_owned(),
            goal: Some(Goal::Value((number(figures.len()) / 2.0).floor())),
        });
    }
    Ok(())
}

fn less(case: &'static str, unit: &'static str) -> Figure {
    Figure::new(&ALL, case, unit, Better::Less)
}

fn more(case: &'static str, unit: &'static str) -> Figure {
    Figure::new(&ALL, case, unit, Better::More)
}

/// So many at once as fast as it goes, their cost counted by the ten thousand.
fn operations(verb: &'static str) -> Order {
    Order { verb, rest: "300 64", counts: "count", per_cpu: 1e4, per_count: 1.0 }
}

fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::NAN, f64::from)
}

/// Resident memory for each connection that is open and says nothing, of proxies that have done nothing else yet: memory
/// that was in use before is kept by all of them.
fn memory(bench: &Bench, load: &Path) -> Result<Figure> {
    let mut figure = less("memory/idle", "B");
    for _ in 0..STARTS {
        for (place, contender) in ALL.into_iter().enumerate() {
            bench.interrupt.check()?;
            let mut station = Station::open(contender, &bench.packaged, load, &bench.interrupt)?;
            let before = station.resident()?;
            station.measure("hold", &HELD.to_string())?;
            figure.add(place, (station.resident()? - before) / f64::from(HELD));
            station.measure("release", "")?;
        }
    }
    Ok(figure)
}

//! The `proxy` benchmark: spectrum as a TCP proxy next to HAProxy and nginx, in turns. How each is started and loaded is in
//! the files beside it.

mod contender;
mod load;
mod station;

use std::path::Path;

use anyhow::Result;

use super::Bench;
use super::report::Report;
use super::row::{Goal, Peer, Row};
use super::statistics::Spread;

use contender::Contender;
use station::{Outcome, Station};

/// The number of slices that each gets, of what is done as fast as it goes.
const ROUNDS: usize = 31;

/// The number that it gets of paced requests, and their milliseconds. What else the machine does for some milliseconds is
/// all that a p99 tells of a slice that it falls into, so that most slices must be spared.
const PACED_ROUNDS: usize = 120;
const PACED_LENGTH: u32 = 100;

/// The number of times that a paced slice is begun until something is measured in it.
const PACED_ATTEMPTS: usize = 5;

/// The number of connections held for a look at the memory, and of starts of each proxy for it.
const HELD: u32 = 5000;
const STARTS: usize = 3;

/// The lead that half of the rows should have.
const AHEAD: f64 = 1.2;

/// Which way a figure is better.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Better {
    Less,
    More,
}

/// A figure of every contender, in the order of [`Contender::ALL`], one value for each round.
struct Figure {
    case: &'static str,
    unit: &'static str,
    better: Better,
    values: [Vec<f64>; Contender::ALL.len()],
}

impl Figure {
    fn new(case: &'static str, unit: &'static str, better: Better) -> Self {
        Self { case, unit, better, values: Default::default() }
    }

    fn median(&self, contender: Contender) -> f64 {
        Spread::of(self.values[contender as usize].iter().copied()).median
    }

    /// The peer that did better.
    fn rival(&self) -> Contender {
        let (one, two) = (self.median(Contender::Haproxy), self.median(Contender::Nginx));
        if (one < two) == (self.better == Better::Less) { Contender::Haproxy } else { Contender::Nginx }
    }

    fn ratios(&self, to: Contender) -> Spread {
        let [ours, ..] = &self.values;
        Spread::of(ours.iter().zip(&self.values[to as usize]).map(|(ours, theirs)| ours / theirs))
    }

    /// True if it is ahead of the better peer.
    fn is_ahead(&self) -> bool {
        let ratio = self.ratios(self.rival()).median;
        match self.better {
            Better::Less => ratio <= 1.0 / AHEAD,
            Better::More => ratio >= AHEAD,
        }
    }

    /// A row for each contender, and our goal.
    fn rows(&self) -> Vec<Row> {
        let rival = self.rival();
        let row = |contender: Contender| {
            let peer = (contender == Contender::Spectrum).then(|| Peer {
                name: rival.name().to_owned(),
                value: self.median(rival),
                ratio: self.ratios(rival),
            });
            let goal = match self.better {
                Better::Less => Goal::Ratio(1.0),
                Better::More => Goal::Multiple(1.0),
            };
            Row {
                case: self.case.to_owned(),
                subject: contender.name().to_owned(),
                goal: peer.as_ref().map(|_| goal),
                peer,
                value: self.median(contender),
                unit: self.unit.to_owned(),
            }
        };
        Contender::ALL.map(row).into()
    }
}

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
    let mut stations = Vec::new();
    for contender in Contender::ALL {
        stations.push(Station::open(contender, &bench.packaged, &load, &bench.interrupt)?);
    }
    let mut slowest = None;
    let wanted = |cases: &[&str]| cases.iter().any(|case| bench.wants(case));
    if wanted(&["connect/rate", "connect/cpu"]) {
        let order = Order { verb: "connect", rest: "300 64", per_cpu: 1e4, per_count: 1.0 };
        let (rate, cpu) =
            order.measure(&mut stations, bench, ["connect/rate", "connect/cpu"], ["1/s", "s/10k"])?;
        show(rate, report);
        show(cpu, report);
    }
    let latency = wanted(&["latency/p50", "latency/p99", "latency/p99.9"]);
    if latency || wanted(&["request/rate", "request/cpu"]) {
        let order = Order { verb: "request", rest: "300 64", per_cpu: 1e4, per_count: 1.0 };
        let (rate, cpu) =
            order.measure(&mut stations, bench, ["request/rate", "request/cpu"], ["1/s", "s/10k"])?;
        slowest = Contender::ALL.iter().map(|contender| rate.median(*contender)).min_by(f64::total_cmp);
        show(rate, report);
        show(cpu, report);
    }
    for (rest, cases) in [("300 1", ["bulk/1", "bulk/1/cpu"]), ("300 32", ["bulk/32", "bulk/32/cpu"])] {
        if wanted(&cases) {
            let order = Order { verb: "bulk", rest, per_cpu: 1e9, per_count: 1e9 };
            let (rate, cpu) = order.measure(&mut stations, bench, cases, ["GB/s", "s/GB"])?;
            show(rate, report);
            show(cpu, report);
        }
    }
    if let Some(slowest) = slowest.filter(|_| latency) {
        for figure in latencies(&mut stations, bench, slowest / 2.0)? {
            show(figure, report);
        }
    }
    if figures.len() > 1 {
        let behind = figures.iter().filter(|figure| !figure.is_ahead()).count();
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

fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::NAN, f64::from)
}

/// Something done as fast as it goes: its rate, and what the proxy spends on it.
struct Order {
    verb: &'static str,
    rest: &'static str,
    /// The number of what the load counts that is a unit of work and of cost.
    per_count: f64,
    per_cpu: f64,
}

impl Order {
    fn measure(
        &self,
        stations: &mut [Station],
        bench: &Bench,
        cases: [&'static str; 2],
        units: [&'static str; 2],
    ) -> Result<(Figure, Figure)> {
        let mut rate = Figure::new(cases[0], units[0], Better::More);
        let mut cpu = Figure::new(cases[1], units[1], Better::Less);
        in_turns(ROUNDS, stations, bench, |station| {
            let outcome = station.measure(self.verb, self.rest)?;
            let count = outcome.answer.number("count")?;
            Ok(vec![
                count / self.per_count / outcome.answer.number("seconds")?,
                outcome.cpu * self.per_cpu / count,
            ])
        })?
        .into_iter()
        .for_each(|(contender, values)| {
            rate.values[contender as usize].push(values[0]);
            cpu.values[contender as usize].push(values[1]);
        });
        Ok((rate, cpu))
    }
}

/// Latencies of requests at a rate that all can keep.
fn latencies(stations: &mut [Station], bench: &Bench, rate: f64) -> Result<Vec<Figure>> {
    let quantiles = [("latency/p50", "p50"), ("latency/p99", "p99"), ("latency/p99.9", "p99.9")];
    let mut figures = quantiles.map(|(case, _)| Figure::new(case, "us", Better::Less));
    for (contender, values) in in_turns(PACED_ROUNDS, stations, bench, |station| {
        let outcome = paced(station, rate)?;
        quantiles.iter().map(|(_, name)| outcome.answer.number(name)).collect()
    })? {
        for (figure, value) in figures.iter_mut().zip(values) {
            figure.values[contender as usize].push(value);
        }
    }
    Ok(figures.into())
}

/// A paced slice in which something was measured. On a busy machine a slice can be over before the load has had a turn.
fn paced(station: &mut Station, rate: f64) -> Result<Outcome> {
    let order = format!("{PACED_LENGTH} 64 {rate}");
    for _ in 1..PACED_ATTEMPTS {
        let outcome = station.measure("pace", &order)?;
        if outcome.answer.number("count")? > 0.0 {
            return Ok(outcome);
        }
    }
    station.measure("pace", &order)
}

/// The findings of `slice` about each in each of `rounds`, after one for warming up. Who comes first changes.
fn in_turns(
    rounds: usize,
    stations: &mut [Station],
    bench: &Bench,
    mut slice: impl FnMut(&mut Station) -> Result<Vec<f64>>,
) -> Result<Vec<(Contender, Vec<f64>)>> {
    for station in stations.iter_mut() {
        slice(station)?;
    }
    let mut found = Vec::new();
    for round in 0..rounds {
        for turn in 0..stations.len() {
            bench.interrupt.check()?;
            let index = (round + turn) % stations.len();
            let station = &mut stations[index];
            found.push((station.contender, slice(station)?));
        }
    }
    Ok(found)
}

/// Resident memory for each connection that is open and says nothing, of proxies that have done nothing else yet: memory
/// that was in use before is kept by all of them.
fn memory(bench: &Bench, load: &Path) -> Result<Figure> {
    let mut figure = Figure::new("memory/idle", "B", Better::Less);
    for _ in 0..STARTS {
        for contender in Contender::ALL {
            bench.interrupt.check()?;
            let mut station = Station::open(contender, &bench.packaged, load, &bench.interrupt)?;
            let before = station.resident()?;
            station.measure("hold", &HELD.to_string())?;
            figure.values[contender as usize].push((station.resident()? - before) / f64::from(HELD));
            station.measure("release", "")?;
        }
    }
    Ok(figure)
}

//! Comparing proxies: the figures of each, by measuring them in turns. What is measured, and of whom, is others' affair.

mod load;
mod station;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use xtask::interrupt::Interrupt;
use xtask::server::Server;

use super::Bench;
use super::row::{Goal, Peer, Row};
use super::statistics::Spread;

pub(super) use station::{Outcome, Station, proportional};

/// The address of the peers. Behind it is an ordinary listener, since that is what they have.
pub(super) const PLAIN: &str = "127.0.0.1:7777";

/// The address of spectrum: its listener is found by the program in the kernel, since that is how it is used.
pub(super) const STEERED: &str = "192.0.2.77:7777";

/// The beginning of the files of records: memory, and each of them writes one for every connection or session.
pub(super) const RECORDS: &str = "/run/records";

/// A proxy that is compared with others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contender {
    /// Its name.
    pub(super) name: &'static str,
    /// The address that clients dial.
    pub(super) address: &'static str,
    /// Starts it in front of an origin. The path is that of the program under test.
    pub(super) start: fn(&Path, SocketAddr, &Interrupt) -> Result<Server>,
}

/// The number of slices that each gets, of what is done as fast as it goes.
pub(super) const ROUNDS: usize = 31;

/// The number that it gets of paced requests, and their milliseconds. What else the machine does for some milliseconds is
/// all that a p99 tells of a slice that it falls into, so that most slices must be spared.
pub(super) const PACED_ROUNDS: usize = 120;
pub(super) const PACED_LENGTH: u32 = 100;

/// The number of times that a paced slice is begun until something is measured in it.
const PACED_ATTEMPTS: usize = 5;

/// Which way a figure is better.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Better {
    /// Less of it.
    Less,
    /// More of it.
    More,
}

/// A figure of every contender, in their order, of which ours is the first; one value for each round.
pub(super) struct Figure {
    /// Its name.
    pub(super) case: &'static str,
    unit: &'static str,
    better: Better,
    goal: Goal,
    contenders: Vec<&'static str>,
    values: Vec<Vec<f64>>,
}

impl Figure {
    /// One without values, of which being no worse than the best peer is the goal.
    pub(super) fn new(
        contenders: &[Contender],
        case: &'static str,
        unit: &'static str,
        better: Better,
    ) -> Self {
        let contenders: Vec<_> = contenders.iter().map(|contender| contender.name).collect();
        let goal = match better {
            Better::Less => Goal::Ratio(1.0),
            Better::More => Goal::Multiple(1.0),
        };
        let values = vec![Vec::new(); contenders.len()];
        Self { case, unit, better, goal, contenders, values }
    }

    /// The same with another goal.
    #[must_use]
    pub(super) fn with_goal(mut self, goal: Goal) -> Self {
        self.goal = goal;
        self
    }

    /// Adds a value of the contender in that place.
    pub(super) fn add(&mut self, place: usize, value: f64) {
        self.values[place].push(value);
    }

    /// The median of the contender in that place.
    pub(super) fn median(&self, place: usize) -> f64 {
        Spread::of(self.values[place].iter().copied()).median
    }

    /// The least median of all.
    pub(super) fn least(&self) -> f64 {
        (0..self.values.len()).map(|place| self.median(place)).fold(f64::INFINITY, f64::min)
    }

    /// The peer that did better, or ourselves without any.
    fn rival(&self) -> usize {
        let peers = 1..self.values.len();
        let order = |one: &usize, two: &usize| self.median(*one).total_cmp(&self.median(*two));
        let best = match self.better {
            Better::Less => peers.min_by(order),
            Better::More => peers.max_by(order),
        };
        best.unwrap_or_default()
    }

    fn ratios(&self, to: usize) -> Spread {
        Spread::of(self.values[0].iter().zip(&self.values[to]).map(|(ours, theirs)| ours / theirs))
    }

    /// True if it is ahead of the best peer by that factor.
    pub(super) fn is_ahead(&self, factor: f64) -> bool {
        let ratio = self.ratios(self.rival()).median;
        match self.better {
            Better::Less => ratio <= 1.0 / factor,
            Better::More => ratio >= factor,
        }
    }

    /// A row for each contender, and our goal.
    pub(super) fn rows(&self) -> Vec<Row> {
        let rival = self.rival();
        let row = |(place, name): (usize, &&'static str)| {
            let peer = (place == 0 && rival != 0).then(|| Peer {
                name: self.contenders[rival].to_owned(),
                value: self.median(rival),
                ratio: self.ratios(rival),
            });
            Row {
                case: self.case.to_owned(),
                subject: (*name).to_owned(),
                goal: peer.as_ref().map(|_| self.goal),
                peer,
                value: self.median(place),
                unit: self.unit.to_owned(),
            }
        };
        self.contenders.iter().enumerate().map(row).collect()
    }
}

/// Something done as fast as it goes: its rate, and what the proxy spends on it.
pub(super) struct Order {
    /// What the load is told.
    pub(super) verb: &'static str,
    /// How.
    pub(super) rest: &'static str,
    /// What it counts of it.
    pub(super) counts: &'static str,
    /// The number of what the load counts that is a unit of work and of cost.
    pub(super) per_count: f64,
    /// The number of them that is a unit of cost.
    pub(super) per_cpu: f64,
}

impl Order {
    /// Its two figures, given without values.
    pub(super) fn measure(
        &self,
        stations: &mut [Station],
        bench: &Bench,
        rate: &mut Figure,
        cpu: &mut Figure,
    ) -> Result<()> {
        let mut losses = vec![(0.0, 0.0); stations.len()];
        let found = in_turns(ROUNDS, stations, bench, |place, station| {
            let outcome = station.measure(self.verb, self.rest)?;
            losses[place].0 += outcome.answer.number("lost").unwrap_or_default();
            losses[place].1 += outcome.answer.number("count")?;
            let count = outcome.answer.number(self.counts)?;
            Ok(vec![
                count / self.per_count / outcome.answer.number("seconds")?,
                outcome.cpu * self.per_cpu / count,
            ])
        })?;
        for (place, values) in found {
            rate.add(place, values[0]);
            cpu.add(place, values[1]);
        }
        for (station, (lost, count)) in stations.iter().zip(&losses) {
            // What is lost is asked again, and costs more than is counted.
            if lost * 1000.0 > *count {
                eprintln!("{}: {}: {lost} of {count} were lost", self.verb, station.name());
            }
        }
        Ok(())
    }
}

/// Latencies by `verb` at a rate that all can keep: a figure for each of the load's quantiles.
pub(super) fn latencies(
    verb: &str,
    stations: &mut [Station],
    bench: &Bench,
    rate: f64,
    figures: &mut [(Figure, &str)],
) -> Result<()> {
    let found = in_turns(PACED_ROUNDS, stations, bench, |_, station| {
        let outcome = paced(verb, station, rate)?;
        figures.iter().map(|(_, quantile)| outcome.answer.number(quantile)).collect()
    })?;
    for (place, values) in found {
        for ((figure, _), value) in figures.iter_mut().zip(values) {
            figure.add(place, value);
        }
    }
    Ok(())
}

/// A paced slice in which something was measured. On a busy machine a slice can be over before the load has had a turn.
fn paced(verb: &str, station: &mut Station, rate: f64) -> Result<Outcome> {
    let order = format!("{PACED_LENGTH} 64 {rate}");
    for _ in 1..PACED_ATTEMPTS {
        let outcome = station.measure(verb, &order)?;
        if outcome.answer.number("count")? > 0.0 {
            return Ok(outcome);
        }
    }
    station.measure(verb, &order)
}

/// The findings of `slice` about each in each of `rounds`, after one for warming up. Who comes first changes.
pub(super) fn in_turns<S>(
    rounds: usize,
    stations: &mut [S],
    bench: &Bench,
    mut slice: impl FnMut(usize, &mut S) -> Result<Vec<f64>>,
) -> Result<Vec<(usize, Vec<f64>)>> {
    for (place, station) in stations.iter_mut().enumerate() {
        slice(place, station)?;
    }
    let mut found = Vec::new();
    for round in 0..rounds {
        for turn in 0..stations.len() {
            bench.interrupt.check()?;
            let place = (round + turn) % stations.len();
            found.push((place, slice(place, &mut stations[place])?));
        }
    }
    Ok(found)
}

/// `program`, its records in a file of that name.
pub(super) fn recorded(program: &Path, name: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec \"$0\" \"$@\" 2>{RECORDS}-{name}")]).arg(program);
    command
}

/// A file in `/run`, which is ours alone here.
pub(super) fn written(name: &str, text: &str) -> Result<String> {
    let path = format!("/run/{name}");
    fs::write(&path, text).with_context(|| format!("write {path}"))?;
    Ok(path)
}

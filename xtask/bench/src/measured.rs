//! What the measuring programs of `spectrum-steering/benches` print: they use the library's own parts, which no other
//! program can. Gives their lines no meaning.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Bench;
use super::report::Report;
use super::row::{Goal, Peer, Row};
use super::statistics::Spread;

/// One line: the values of one subject in one case, in the order in which they were measured.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// Under which circumstances.
    pub(super) case: String,
    /// Of what.
    pub(super) subject: String,
    /// Of the values.
    pub(super) unit: String,
    /// One for each slice.
    pub(super) values: Vec<f64>,
}

impl Measured {
    /// The middle of the values.
    pub(super) fn spread(&self) -> Spread {
        Spread::of(self.values.iter().copied())
    }

    /// Their ratios to those of `peer`, slice by slice.
    fn ratios(&self, peer: &Self) -> Spread {
        Spread::of(self.values.iter().zip(&peer.values).map(|(value, other)| value / other))
    }

    /// The row that shows it, next to `peer` where there is one.
    fn row(&self, peer: Option<&Self>, goal: Option<Goal>) -> Row {
        Row {
            case: self.case.clone(),
            subject: self.subject.clone(),
            peer: peer.map(|peer| Peer {
                name: peer.subject.clone(),
                value: peer.spread().median,
                ratio: self.ratios(peer),
            }),
            value: self.spread().median,
            unit: self.unit.clone(),
            goal,
        }
    }

    fn parse(line: &str) -> Result<Self> {
        let object: Value = serde_json::from_str(line).with_context(|| format!("read {line:?}"))?;
        let text = |name: &str| {
            let text = object.get(name).and_then(Value::as_str).map(str::to_owned);
            text.with_context(|| format!("find {name} in {line:?}"))
        };
        let values = object.get("values").and_then(Value::as_array).into_iter().flatten();
        Ok(Self {
            case: text("case")?,
            subject: text("subject")?,
            unit: text("unit")?,
            values: values.filter_map(Value::as_f64).collect(),
        })
    }
}

/// Runs the measuring program `name` and shows each of its lines next to that of a subject in `references` before it in the
/// same case. Whoever has such a peer may have a goal.
pub(super) fn compare(
    bench: &Bench,
    report: &mut Report,
    name: &str,
    references: &[&str],
    goal: impl Fn(&Measured) -> Option<Goal>,
) -> Result<()> {
    let mut referred: Option<Measured> = None;
    each(bench, name, |measured| {
        let is_reference = references.contains(&&*measured.subject);
        let peer = referred.as_ref().filter(|peer| peer.case == measured.case && !is_reference);
        report.add(&measured.row(peer, peer.and_then(|_| goal(&measured))));
        if is_reference {
            referred = Some(measured);
        }
    })
}

/// Runs the measuring program `name` and hands on each of its lines.
pub(super) fn each(bench: &Bench, name: &str, mut act: impl FnMut(Measured)) -> Result<()> {
    let program = bench.measuring(name)?;
    let mut command = Command::new(&program);
    command.env("SPECTRUM_REFERENCE_OBJECT", &bench.reference).stdin(Stdio::null()).stdout(Stdio::piped());
    if let Some(only) = &bench.only {
        command.args(["--case", only]);
    }
    let mut child = command.spawn().with_context(|| format!("run {}", program.display()))?;
    let mut outcome = Ok(());
    for line in child.stdout.take().into_iter().flat_map(|stdout| BufReader::new(stdout).lines()) {
        outcome =
            line.context("read what was measured").and_then(|line| Measured::parse(&line)).map(&mut act);
        if outcome.is_err() {
            let _ = child.kill();
            break;
        }
    }
    let status = child.wait().with_context(|| format!("wait for {}", program.display()))?;
    bench.interrupt.check()?;
    outcome?;
    ensure!(status.success(), "{}: {status}", program.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let line = r#"{"case":"ipv4/dense/1","subject":"spectrum","unit":"ns","values":[1.0,3.0,2.0]}"#;
        let measured = Measured::parse(line).unwrap();
        assert_eq!((measured.case.as_str(), measured.unit.as_str()), ("ipv4/dense/1", "ns"));
        assert!((measured.spread().median - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_line_that_says_nothing_is_an_error() {
        assert!(Measured::parse("{}").is_err());
        assert!(Measured::parse("running 1 test").is_err());
    }
}

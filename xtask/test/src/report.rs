//! What a person reads of a run: a line a binary as it ends, and at the end every failure with what it said and how to run it
//! alone. Runs nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::runner::{End, Ending};
use super::suite::{Request, Suite};
use super::turn::Turn;
use super::verdict::{Counts, Failure, Verdict};
use super::{AGAIN, THREADS};

/// Failed tests that are tried again. More of them have a common cause.
const DOUBTS: usize = 2;

/// The line with which a test says what it drew from.
const SEED: &str = "repeat with ";

/// The outcome so far.
#[derive(Debug)]
pub(super) struct Report<'run> {
    suites: &'run [Suite],
    /// Each binary's own words are shown, too, as whoever reads a machine's log of the run looks for them.
    in_full: bool,
    ended: usize,
    times: BTreeMap<&'run str, Duration>,
    failures: Vec<Failed>,
    skips: Vec<String>,
    counts: Counts,
}

/// A failure of this run.
#[derive(Debug)]
struct Failed {
    /// The suite's name.
    name: String,
    failure: Failure,
    /// How to repeat it where cargo has to.
    again: Option<String>,
    /// It passed each time that it was tried again.
    is_unstable: bool,
}

impl Failed {
    fn new(name: &str, failure: Failure, again: Option<&str>) -> Self {
        Self { name: name.to_owned(), failure, again: again.map(str::to_owned), is_unstable: false }
    }
}

impl<'run> Report<'run> {
    /// Nothing has ended yet.
    pub(super) fn new(suites: &'run [Suite], request: &'run Request, in_full: bool) -> Self {
        Self {
            suites,
            in_full: in_full || request.shows_output(),
            ended: 0,
            times: BTreeMap::new(),
            failures: Vec::new(),
            skips: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Says what is about to run.
    pub(super) fn begin(&self, turn: &Turn) {
        let count = |privileged: bool| {
            let suites = self.suites.iter().filter(|suite| suite.privileged == privileged);
            suites.fold((0, 0), |(tests, suites), suite| (tests + suite.tests.len(), suites + 1))
        };
        let ((tests, suites), (privileged, privileged_suites)) = (count(false), count(true));
        println!(
            "{tests} tests in {suites} binaries, and {privileged} in {privileged_suites} as root: {turn}"
        );
    }

    /// Says how a binary ended.
    pub(super) fn take(&mut self, ending: &Ending) -> Result<()> {
        let suite = self.suites.get(ending.suite).context("an ending of no suite")?;
        let threads =
            if suite.privileged { THREADS } else { thread::available_parallelism().map_or(1, usize::from) };
        let verdict = Verdict::of(ending, &suite.tests, threads);
        self.ended += 1;
        // The tests of a library and of a binary may have one name.
        let time = self.times.entry(&suite.name).or_default();
        *time = ending.took.max(*time);
        self.count(&suite.name, ending, verdict, None);
        if self.in_full {
            println!("{}", ending.said.trim_end());
        }
        Ok(())
    }

    /// The same for the examples in the documentation.
    pub(super) fn documentation(&mut self, ending: &Ending) {
        let verdict = Verdict::of(ending, &[], 0);
        let again = "cargo test --doc --workspace --exclude spectrum-ebpf";
        self.count("documentation", ending, verdict, Some(again));
        if self.in_full {
            println!("{}", ending.said.trim_end());
        }
    }

    /// Says that nobody can run the privileged tests.
    pub(super) fn without_root(&mut self, require: bool) {
        let what = "the privileged tests: this user is not root, and there is no sudo";
        if require {
            println!("FAILED {what}");
            let failure = Failure { tests: Vec::new(), what: "not run".to_owned(), output: what.to_owned() };
            self.counts.failed += 1;
            self.failures.push(Failed::new("privileged", failure, None));
        } else {
            println!("SKIP {what}");
        }
    }

    fn count(&mut self, name: &str, ending: &Ending, verdict: Verdict, again: Option<&str>) {
        let word = match ending.end {
            End::Stop => "STOPPED",
            _ if !verdict.failures.is_empty() => "FAILED",
            _ => "ok",
        };
        println!("{word:7} {:7.1} s  {name}: {}", ending.took.as_secs_f64(), verdict.counts());
        for note in &verdict.notes {
            println!("        {note}");
        }
        for failure in &verdict.failures {
            println!("        {}: {}", failure.what, list(&failure.tests));
        }
        self.counts += verdict.counts();
        self.skips.extend(verdict.skips);
        self.failures.extend(verdict.failures.into_iter().map(|failure| Failed::new(name, failure, again)));
    }

    /// The privileged tests that failed though nothing else is wrong with the run, each with the place of its suite; none where they are
    /// too many for chance.
    pub(super) fn doubtful(&self) -> Vec<(usize, String)> {
        let place = |failed: &Failed| {
            let [test] = &failed.failure.tests[..] else { return None };
            let is_its_suite =
                |suite: &Suite| suite.privileged && suite.name == failed.name && suite.tests.contains(test);
            Some((self.suites.iter().position(is_its_suite)?, test.clone()))
        };
        let doubtful: Option<Vec<_>> = self.failures.iter().map(place).collect();
        doubtful.filter(|doubtful| doubtful.len() <= DOUBTS).unwrap_or_default()
    }

    /// Takes note that the failed test at `place` of [`Self::doubtful`] passed whenever it was tried again.
    pub(super) fn is_unstable(&mut self, place: usize) {
        if let Some(failed) = self.failures.get_mut(place) {
            failed.is_unstable = true;
            self.counts.failed -= 1;
            self.counts.unstable += 1;
        }
    }

    /// Says all failures, and what it comes to.
    pub(super) fn end(&self, took: Duration, cpu: Duration) {
        for skip in &self.skips {
            println!("{skip}");
        }
        for Failed { name, failure, again, is_unstable } in &self.failures {
            let tests = list(&failure.tests);
            if *is_unstable {
                println!("\n---- UNSTABLE {name}: {tests}: failed, then passed alone {AGAIN} times ----");
            } else {
                println!("\n---- {name}: {tests}: {} ----", failure.what);
            }
            println!("{}", failure.output);
            for test in &failure.tests {
                let again = again.as_deref().unwrap_or("cargo xtask test");
                println!("alone: {}{again} -- {}", seed(&failure.output), quoted(test));
            }
        }
        let mut sums = self.counts.to_string();
        let unended = self.suites.len() - self.ended;
        if unended > 0 {
            let _ = write!(sums, ", {unended} binaries not run");
        }
        let (took, cpu) = (took.as_secs(), cpu.as_secs());
        println!("\ntests: {sums}; {took} s, and {cpu} s of processor time");
    }

    /// True if nothing failed but what is unstable.
    pub(super) fn is_good(&self) -> bool {
        self.failures.iter().all(|failed| failed.is_unstable)
    }

    /// The time of each binary that ended.
    pub(super) fn times(&self) -> impl Iterator<Item = (&str, Duration)> {
        self.times.iter().map(|(name, took)| (*name, *took))
    }
}

fn list(tests: &[String]) -> String {
    if tests.is_empty() { "no test of its own".to_owned() } else { tests.join(", ") }
}

/// The seed that `output` says, to be put before a command.
fn seed(output: &str) -> String {
    let seed = output.lines().find_map(|line| line.strip_prefix(SEED));
    seed.map_or_else(String::new, |seed| format!("{seed} "))
}

/// Names of documentation tests have spaces.
fn quoted(test: &str) -> String {
    if test.contains(' ') { format!("'{test}'") } else { test.to_owned() }
}

//! What a guest's words come to: how many tests passed, which were left out and why, what was recorded, and everything that
//! is not as the kernel's entry in the list says. Does not print.

use std::collections::{BTreeMap, BTreeSet};

use super::guest::{Printed, Said};
use super::kernel::Kernel;

/// The results of the tests on one kernel.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The number of tests that passed and were not left out.
    pub(super) passed: usize,
    /// The number of those that were not this guest's turn.
    pub(super) not_its_turn: usize,
    /// The number of skipped ones, by what they need.
    pub(super) skipped: BTreeMap<String, usize>,
    /// The tests that failed, by binary and name.
    pub(super) failed: Vec<String>,
    /// The prints of the failed tests.
    pub(super) details: Vec<String>,
    /// The records of the tests, by subject.
    pub(super) records: BTreeMap<String, String>,
    /// Whatever else is not as it should be.
    pub(super) wrong: Vec<String>,
}

impl Outcome {
    /// Judges what `said` by what is expected of `kernel`.
    pub(super) fn of(kernel: &Kernel, said: &Said) -> Self {
        let mut outcome = Self::default();
        if said.release.is_none() {
            outcome.wrong.push("init was not reached".to_owned());
            return outcome;
        }
        for printed in &said.binaries {
            outcome.add(printed);
        }
        if !said.is_complete {
            outcome.wrong.push("the guest did not come to its end".to_owned());
        }
        for (need, count) in &outcome.skipped {
            if !kernel.lacks.contains(&need.as_str()) {
                outcome
                    .wrong
                    .push(format!("{count} tests were skipped for want of {need}, which it should have"));
            }
        }
        for need in kernel.lacks.iter().filter(|need| !outcome.skipped.contains_key(**need)) {
            outcome.wrong.push(format!("no test was skipped for want of {need}, which it should lack"));
        }
        let path = outcome.record("path", "mode");
        if path.as_deref() != Some(kernel.path.to_string().as_str()) {
            let path = path.as_deref().unwrap_or("no path");
            outcome.wrong.push(format!("auto took {path} and should take {}", kernel.path));
        }
        outcome
    }

    /// True if all is as it should be.
    pub(super) fn is_good(&self) -> bool {
        self.failed.is_empty() && self.wrong.is_empty() && self.passed > 0
    }

    /// The record of the tests about `subject` as `name=`; a value that begins with a quotation mark ends with one.
    pub(super) fn record(&self, subject: &str, name: &str) -> Option<String> {
        let text = self.records.get(subject)?;
        let at = text.find(&format!("{name}="))? + name.len() + 1;
        let rest = &text[at..];
        Some(match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next().unwrap_or_default().to_owned(),
            None => rest.split(' ').next().unwrap_or_default().to_owned(),
        })
    }

    fn add(&mut self, printed: &Printed) {
        let mut left = BTreeSet::new();
        let mut passed = 0;
        let mut is_detail = false;
        for line in &printed.lines {
            // The harness prints past libtest, which may have begun a line of its own.
            if let Some((_, test)) = line.split_once("LEFT ") {
                left.insert(test.split(": ").next().unwrap_or_default());
                self.not_its_turn += 1;
            } else if let Some((test, need)) =
                line.split_once("SKIP ").and_then(|(_, skip)| skip.split_once(": needs "))
            {
                if left.insert(test) {
                    *self.skipped.entry(need.to_owned()).or_default() += 1;
                }
            } else if let Some((subject, text)) =
                line.split_once("RECORD ").and_then(|(_, record)| record.split_once(": "))
            {
                self.records.insert(subject.to_owned(), text.to_owned());
            } else if let Some((name, outcome)) =
                line.strip_prefix("test ").and_then(|test| test.split_once(" ... "))
            {
                match outcome {
                    "ok" => passed += 1,
                    "FAILED" => self.failed.push(format!("{}: {name}", printed.name)),
                    _ => {}
                }
            } else if line.starts_with("---- ") {
                is_detail = true;
            } else if line.starts_with("failures:") || line.starts_with("test result:") {
                is_detail = false;
            }
            if is_detail {
                self.details.push(line.clone());
            }
        }
        self.passed += usize::saturating_sub(passed, left.len());
        match printed.status.as_deref() {
            Some("0") => {}
            // Tests that failed are named one by one.
            Some("101") if self.failed.iter().any(|failed| failed.starts_with(&printed.name)) => {}
            Some(status) => self.wrong.push(format!("{} ended with {status}", printed.name)),
            None => self.wrong.push(format!("{} did not end", printed.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::kernel::Path;
    use super::*;

    fn said(lines: &[&str]) -> Said {
        Said {
            release: Some("6.1.0".to_owned()),
            boot: Duration::from_secs(3),
            took: Duration::from_mins(1),
            binaries: vec![Printed {
                name: "steering".to_owned(),
                lines: lines.iter().map(|line| (*line).to_owned()).collect(),
                status: Some("0".to_owned()),
            }],
            is_complete: true,
        }
    }

    fn kernel(lacks: &'static [&'static str]) -> Kernel {
        let kernel = Kernel::named("no-bpf").unwrap();
        Kernel { name: "x", path: Path::Tproxy, lacks, ..*kernel }
    }

    #[test]
    fn what_was_skipped_has_not_passed() {
        let outcome = Outcome::of(
            &kernel(&["bpf"]),
            &said(&[
                "RECORD path: mode=tproxy reason=\"load: no such call\"",
                "SKIP a::x: needs bpf",
                "LEFT b::y: not in turn 1 of 8",
                "test a::x ... ok",
                "test b::y ... ok",
                "test c::z ... ok",
            ]),
        );
        assert!(outcome.is_good(), "{outcome:?}");
        assert_eq!((outcome.passed, outcome.not_its_turn, outcome.skipped["bpf"]), (1, 1, 1));
        assert_eq!(outcome.record("path", "reason").as_deref(), Some("load: no such call"));
    }

    #[test]
    fn other_skips_and_other_paths_are_wrong() {
        let outcome = Outcome::of(
            &kernel(&["ipv6"]),
            &said(&["RECORD path: mode=sk-lookup", "SKIP a::x: needs bpf", "test c::z ... ok"]),
        );
        assert_eq!(
            outcome.wrong,
            [
                "1 tests were skipped for want of bpf, which it should have",
                "no test was skipped for want of ipv6, which it should lack",
                "auto took sk-lookup and should take tproxy",
            ]
        );
    }

    #[test]
    fn failures_are_named_with_what_they_said() {
        let outcome = Outcome::of(
            &kernel(&[]),
            &said(&[
                "RECORD path: mode=tproxy",
                "test c::z ... FAILED",
                "failures:",
                "---- c::z stdout ----",
                "it broke",
                "failures:",
                "    c::z",
            ]),
        );
        assert!(!outcome.is_good());
        assert_eq!(outcome.failed, ["steering: c::z"]);
        assert_eq!(outcome.details, ["---- c::z stdout ----", "it broke"]);
    }
}

//! What a test binary's own words come to: how many passed, which failed and what they said. Runs nothing.

use std::fmt;
use std::ops::AddAssign;

use super::runner::{End, Ending};

/// The lines that are quoted, from the end, of output that belongs to no test.
const LAST_LINES: usize = 60;

/// The outcome of a binary.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Verdict {
    /// Tests that passed, without those that left themselves out.
    pub(super) passed: usize,
    /// Tests that another turn runs.
    pub(super) left: usize,
    /// Tests that are marked as ignored.
    pub(super) ignored: usize,
    /// The words of tests that cannot run here.
    pub(super) skips: Vec<String>,
    /// Lines that are wanted of runs that pass.
    pub(super) notes: Vec<String>,
    /// All that is wrong, with the output that belongs to it.
    pub(super) failures: Vec<Failure>,
}

/// One thing that is wrong.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Failure {
    /// The whole names of the tests that it may be.
    pub(super) tests: Vec<String>,
    /// Their fate.
    pub(super) what: String,
    /// All that was said meanwhile.
    pub(super) output: String,
}

impl Verdict {
    /// Reads how a binary with these `tests` ended, as many of them at a time as it has threads.
    pub(super) fn of(ending: &Ending, tests: &[String], threads: usize) -> Self {
        let said = &ending.said;
        let mut verdict = Self::default();
        let mut is_whole = false;
        for line in said.lines() {
            if let Some(counts) = line.strip_prefix("test result: ") {
                is_whole = true;
                verdict.passed += count(counts, "passed");
                verdict.ignored += count(counts, "ignored");
            } else if let Some(skip) = line.find("SKIP ").and_then(|at| line.get(at..))
                && skip.contains(": needs ")
            {
                verdict.skips.push(skip.to_owned());
            } else if let Some(left) = line.find("LEFT ").and_then(|at| line.get(at..)) {
                if left.contains(": not in turn ") {
                    verdict.left += 1;
                } else {
                    verdict.notes.push(left.to_owned());
                }
            } else if let Some(record) = line.find("RECORD ").and_then(|at| line.get(at..)) {
                verdict.notes.push(record.to_owned());
            }
        }
        if !is_whole {
            verdict.passed =
                said.lines().filter(|line| line.starts_with("test ") && line.ends_with(" ok")).count();
        }
        // They pass as far as the binary knows.
        verdict.passed = verdict.passed.saturating_sub(verdict.left + verdict.skips.len());
        verdict.failures = failures(ending, tests, threads, is_whole);
        verdict
    }

    /// The numbers.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            passed: self.passed,
            failed: self.failures.len(),
            unstable: 0,
            skipped: self.skips.len(),
            ignored: self.ignored,
            left: self.left,
        }
    }
}

/// Numbers of tests by their outcome.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counts {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) unstable: usize,
    pub(super) skipped: usize,
    pub(super) ignored: usize,
    pub(super) left: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.unstable += other.unstable;
        self.skipped += other.skipped;
        self.ignored += other.ignored;
        self.left += other.left;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed", self.passed)?;
        for (number, what) in [
            (self.failed, "failed"),
            (self.unstable, "unstable"),
            (self.skipped, "skipped"),
            (self.ignored, "ignored"),
            (self.left, "in other turns"),
        ] {
            if number > 0 {
                write!(f, ", {number} {what}")?;
            }
        }
        Ok(())
    }
}

fn failures(ending: &Ending, tests: &[String], threads: usize, is_whole: bool) -> Vec<Failure> {
    let said = &ending.said;
    let failed = failed(said);
    let mut failures: Vec<Failure> = failed
        .iter()
        .map(|name| Failure {
            tests: vec![(*name).to_owned()],
            what: "failed".to_owned(),
            output: output(said, name, &failed),
        })
        .collect();
    let what = match &ending.end {
        End::Success if is_whole => return failures,
        End::Failure(_) if !failures.is_empty() => return failures,
        End::Stop => return failures,
        End::Success => "ended without a result".to_owned(),
        End::Failure(how) => format!("ended with {how}"),
        End::Silence => format!("killed: said nothing for too long, after {} s", ending.took.as_secs()),
    };
    // They begin in their order, so those without a result that come first were running.
    let unfinished = tests.iter().filter(|test| !said.contains(&format!("test {test} ... ")));
    failures.push(Failure {
        tests: unfinished.take(threads).cloned().collect(),
        what,
        output: last_lines(said),
    });
    failures
}

/// The number before `what` in a line such as `ok. 3 passed; 0 failed; …`.
fn count(counts: &str, what: &str) -> usize {
    let words: Vec<&str> = counts.split([' ', ';']).collect();
    let at = words.iter().position(|word| *word == what).unwrap_or(0);
    at.checked_sub(1).and_then(|before| words.get(before)?.parse().ok()).unwrap_or(0)
}

/// The names in the list at the end. A test's own words may look like a list, but the result does not come after them.
fn failed(said: &str) -> Vec<&str> {
    let mut failed = Vec::new();
    // One list a binary; for documentation, one a crate.
    for part in said.split("\nfailures:\n").skip(1) {
        let names = part.lines().map_while(|line| line.strip_prefix("    "));
        let result = part.lines().skip_while(|line| line.starts_with("    ")).find(|line| !line.is_empty());
        if result.is_some_and(|line| line.starts_with("test result: FAILED")) {
            failed.extend(names);
        }
    }
    failed
}

/// The words of the test called `name` before it failed.
fn output(said: &str, name: &str, failed: &[&str]) -> String {
    let header = |name: &str| format!("\n---- {name} stdout ----\n");
    let Some((_, after)) = said.split_once(&header(name)) else { return String::new() };
    let next = failed.iter().filter_map(|other| after.find(&header(other)));
    let end = next.chain(after.find("\nfailures:\n")).min().unwrap_or(after.len());
    after.get(..end).unwrap_or(after).trim_end().to_owned()
}

fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.trim_end().lines().collect();
    lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ending(end: End, said: &str) -> Ending {
        Ending { suite: 0, end, took: Duration::from_secs(9), said: said.to_owned() }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    const SAID: &str = "
running 5 tests
LEFT a::v6: not in turn 3
test a::v6 ... ok
test b ... FAILED
test c ... SKIP c: needs bpf
ok
test d ... FAILED
test e ... ok
RECORD reload: many

failures:

---- b stdout ----
repeat with SPECTRUM_TEST_SEED=7

thread 'b' panicked at x.rs:1:2:
failures:
    not a name


---- d stdout ----
boom


failures:
    b
    d

test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.70s

";

    #[test]
    fn failures_have_their_own_output_and_what_is_left_out_is_not_counted_as_passed() {
        let ending = ending(End::Failure("exit status: 101".to_owned()), SAID);
        let verdict = Verdict::of(&ending, &names(&["a::v6", "b", "c", "d", "e"]), 2);
        assert_eq!((verdict.passed, verdict.left), (1, 1));
        assert_eq!(verdict.skips, ["SKIP c: needs bpf"]);
        assert_eq!(verdict.notes, ["RECORD reload: many"]);
        let failed: Vec<&str> = verdict.failures.iter().map(|failure| &*failure.tests[0]).collect();
        assert_eq!(failed, ["b", "d"]);
        assert!(verdict.failures[0].output.starts_with("repeat with SPECTRUM_TEST_SEED=7\n"));
        assert!(verdict.failures[0].output.contains("panicked"), "{}", verdict.failures[0].output);
        assert_eq!(verdict.failures[1].output, "boom");
        assert_eq!(verdict.counts().to_string(), "1 passed, 2 failed, 1 skipped, 1 in other turns");
    }

    #[test]
    fn a_binary_that_does_not_end_names_the_tests_that_ran() {
        let said = "\nrunning 4 tests\ntest a ... ok\ntest c ... ok\n";
        let verdict = Verdict::of(&ending(End::Silence, said), &names(&["a", "b", "c", "d", "e"]), 2);
        assert_eq!(verdict.passed, 2);
        assert_eq!(verdict.failures[0].tests, ["b", "d"]);
        assert_eq!(verdict.failures[0].what, "killed: said nothing for too long, after 9 s");
    }

    #[test]
    fn success_without_a_result_is_none() {
        for end in [End::Success, End::Failure("signal: 6 (SIGABRT)".to_owned())] {
            let verdict = Verdict::of(&ending(end, "\nrunning 1 test\nstack overflow\n"), &names(&["a"]), 2);
            assert_eq!(verdict.failures.len(), 1);
            assert!(verdict.failures[0].output.ends_with("stack overflow"));
        }
        let said = "test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured\n";
        let verdict = Verdict::of(&ending(End::Success, said), &[], 2);
        assert_eq!((verdict.ignored, verdict.failures.len()), (1, 0));
    }
}

//! The test binaries and the tests in them, and which of those were asked for. Runs no test.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::told;
use xtask::build::Executable;
use xtask::shell;

/// The options of a test binary that take the next word as their value.
const WITH_VALUE: [&str; 6] =
    ["--color", "--format", "--logfile", "--shuffle-seed", "--skip", "--test-threads"];

/// The words after `--`: names or parts of them, and options for the binaries.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Request {
    names: Vec<String>,
    /// Options that go to every binary as they are.
    pub(super) options: Vec<String>,
    exact: bool,
}

/// A test binary and those of its tests that are to run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Suite {
    /// The name under which its outcome is told.
    pub(super) name: String,
    /// The binary.
    pub(super) program: PathBuf,
    /// The directory in which cargo would run it.
    pub(super) directory: PathBuf,
    /// True if it runs as root.
    pub(super) privileged: bool,
    /// The whole names of its tests.
    pub(super) tests: Vec<String>,
    /// True if `tests` are fewer than the binary has.
    pub(super) is_part: bool,
}

impl Request {
    /// Takes apart what was typed.
    pub(super) fn parse(arguments: &[OsString]) -> Result<Self> {
        let mut request = Self::default();
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let text = word.to_str().with_context(|| format!("{} is not UTF-8", word.display()))?;
            if text == "--exact" {
                request.exact = true;
            } else if text.starts_with('-') {
                request.options.push(text.to_owned());
                if WITH_VALUE.contains(&text) {
                    let value = words.next().and_then(|value| value.to_str());
                    request.options.push(value.with_context(|| format!("{text} takes a value"))?.to_owned());
                }
            } else {
                request.names.push(text.to_owned());
            }
        }
        Ok(request)
    }

    /// True if only some tests were asked for.
    pub(super) fn is_partial(&self) -> bool {
        !self.names.is_empty() || self.options.iter().any(|option| option.starts_with("--skip"))
    }

    /// True if the output of tests that pass is wanted too.
    pub(super) fn shows_output(&self) -> bool {
        self.options
            .iter()
            .any(|option| ["--no-capture", "--nocapture", "--show-output"].contains(&option.as_str()))
    }

    /// Keeps of `suites` what was asked for. A test's whole name means that test alone, anything else whatever has it in
    /// its name.
    ///
    /// # Errors
    /// When a name means no test: that must not look like success.
    pub(super) fn choose(&self, mut suites: Vec<Suite>) -> Result<Vec<Suite>> {
        if self.names.is_empty() {
            suites.retain(|suite| !suite.tests.is_empty());
            ensure!(!suites.is_empty(), "choose tests: there are none");
            return Ok(suites);
        }
        let is_whole = |name: &String| suites.iter().any(|suite| suite.tests.contains(name));
        let names: Vec<(&String, bool)> =
            self.names.iter().map(|name| (name, self.exact || is_whole(name))).collect();
        let means = |(name, is_whole): &(&String, bool), test: &String| {
            if *is_whole { test == *name } else { test.contains(name.as_str()) }
        };
        for name in &names {
            if !suites.iter().flat_map(|suite| &suite.tests).any(|test| means(name, test)) {
                bail!(
                    "choose tests: no test has {} in its name; `cargo xtask test --list` says which there are",
                    name.0
                );
            }
        }
        for suite in &mut suites {
            let all = suite.tests.len();
            suite.tests.retain(|test| names.iter().any(|name| means(name, test)));
            suite.is_part = suite.tests.len() < all;
        }
        suites.retain(|suite| !suite.tests.is_empty());
        Ok(suites)
    }
}

impl Suite {
    /// Asks the binary which tests it has; `options` may leave some out.
    pub(super) fn of(executable: Executable, privileged: bool, options: &[String]) -> Result<Self> {
        let mut list = Command::new(&executable.path);
        list.current_dir(&executable.directory).args(options).args(["--list", "--format", "terse"]);
        let listed = shell::stdout(&mut list)?;
        let tests = listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned);
        Ok(Self {
            tests: tests.collect(),
            name: told(&executable.directory, &executable.name),
            program: executable.path,
            directory: executable.directory,
            privileged,
            is_part: false,
        })
    }

    /// The arguments that have the binary run these tests.
    pub(super) fn arguments(&self, options: &[String]) -> Vec<String> {
        let mut arguments = options.to_vec();
        if self.is_part {
            arguments.push("--exact".to_owned());
            arguments.extend(self.tests.iter().cloned());
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(name: &str, tests: &[&str]) -> Suite {
        Suite {
            name: name.to_owned(),
            program: PathBuf::from(name),
            directory: PathBuf::from("/"),
            privileged: false,
            tests: tests.iter().map(|&test| test.to_owned()).collect(),
            is_part: false,
        }
    }

    fn chosen(words: &[&str]) -> Result<Vec<Vec<String>>> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let suites = vec![suite("a", &["one::v4", "one::v4_again", "two"]), suite("b", &["three"])];
        Ok(Request::parse(&words)?.choose(suites)?.into_iter().map(|suite| suite.tests).collect())
    }

    #[test]
    fn a_whole_name_means_one_test_and_a_part_many() {
        assert_eq!(chosen(&["one::v4"]).unwrap(), [["one::v4"]]);
        assert_eq!(chosen(&["one"]).unwrap(), [["one::v4", "one::v4_again"]]);
        assert_eq!(chosen(&["one::v4", "three"]).unwrap(), [["one::v4"], ["three"]]);
        assert_eq!(chosen(&[]).unwrap().len(), 2);
    }

    #[test]
    fn a_name_that_means_nothing_is_an_error() {
        for words in [&["four"][..], &["two", "four"], &["--exact", "one"]] {
            let error = chosen(words).unwrap_err().to_string();
            assert!(error.starts_with("choose tests: no test has "), "{error}");
        }
        assert!(Request::default().choose(vec![suite("a", &[])]).is_err());
    }

    #[test]
    fn options_are_told_from_names() {
        let words = ["--skip", "one", "--nocapture", "two", "--test-threads=1"].map(OsString::from);
        let request = Request::parse(&words).unwrap();
        assert_eq!(request.options, ["--skip", "one", "--nocapture", "--test-threads=1"]);
        assert_eq!(request.names, ["two"]);
        assert!(Request::parse(&[OsString::from("--skip")]).is_err());
        let suites = request.choose(vec![suite("a", &["two", "three"])]).unwrap();
        assert_eq!(suites[0].arguments(&request.options)[4..], ["--exact", "two"]);
    }
}

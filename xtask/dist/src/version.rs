//! The version and the date of a package: both are the commit's, so that whoever builds it again gets the same. Tags nothing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use xtask::shell;

/// The version of a package.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Version {
    /// As Debian compares it.
    pub(crate) debian: String,
    /// Seconds since 1970, of the commit.
    pub(crate) epoch: u64,
}

impl Version {
    /// The one of the work tree at `root`.
    pub(crate) fn of(root: &Path) -> Result<Self> {
        let git = |words: &[&str]| {
            let mut git = Command::new("git");
            shell::stdout(git.current_dir(root).args(words)).map(|said| said.trim().to_owned())
        };
        let released = env!("CARGO_PKG_VERSION");
        let is_tagged =
            git(&["tag", "--points-at", "HEAD"])?.lines().any(|tag| tag == format!("v{released}"));
        let count = git(&["rev-list", "--count", "HEAD"])?;
        let commit = git(&["rev-parse", "--short=8", "HEAD"])?;
        let is_clean = git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
        let debian = named(released, is_tagged, &count, &commit, is_clean);
        let epoch = git(&["log", "-1", "--format=%ct"])?.parse().context("read the time of the commit")?;
        Ok(Self { debian, epoch })
    }

    /// The date as `format` of date(1) has it.
    pub(crate) fn date(&self, format: &str) -> Result<String> {
        let mut date = Command::new("date");
        date.env("LC_ALL", "C").args(["--utc", &format!("--date=@{}", self.epoch), format]);
        Ok(shell::stdout(&mut date)?.trim().to_owned())
    }
}

/// What is not released is older than the release that it leads to, and newer than the commits before it.
fn named(released: &str, is_tagged: bool, count: &str, commit: &str, is_clean: bool) -> String {
    let base = if is_tagged { released.to_owned() } else { format!("{released}~git{count}.{commit}") };
    if is_clean { base } else { format!("{base}+changed") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_newer_than_what_led_to_it() {
        assert_eq!(named("0.1.0", true, "7", "abcdef01", true), "0.1.0");
        assert_eq!(named("0.1.0", false, "7", "abcdef01", true), "0.1.0~git7.abcdef01");
        assert_eq!(named("0.1.0", false, "7", "abcdef01", false), "0.1.0~git7.abcdef01+changed");
        let is_older = |older: &str, newer: &str| {
            let mut dpkg = Command::new("dpkg");
            shell::status(dpkg.args(["--compare-versions", older, "lt", newer])).unwrap().success()
        };
        assert!(is_older("0.1.0~git7.ff", "0.1.0~git12.00") && is_older("0.1.0~git12.00", "0.1.0"));
    }
}

//! What a command took: time, and what it downloaded and left on disk. Measures a root from outside.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

/// The content of a root.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Usage {
    /// Bytes of Debian packages that apt fetched.
    packages: u64,
    /// Bytes of crates that cargo fetched.
    crates: u64,
    /// Bytes on disk.
    disk: u64,
    /// Time on processors, of all that this process has waited for.
    processors: Duration,
}

/// The additions of a command, and its time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Took {
    /// The time that it took.
    pub(super) time: Duration,
    /// The content that was not there before it.
    pub(super) added: Usage,
}

impl Usage {
    /// The content of `root` now.
    pub(super) fn of(root: &Path) -> Self {
        Self {
            packages: sum(&root.join("var/cache/apt/archives"), &fs::Metadata::len),
            crates: sum(&root.join("root/.cargo/registry/cache"), &fs::Metadata::len),
            disk: sum(root, &|metadata| metadata.blocks() * 512),
            processors: processors(),
        }
    }

    /// The content that is here and was not in `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            packages: self.packages.saturating_sub(earlier.packages),
            crates: self.crates.saturating_sub(earlier.crates),
            disk: self.disk.saturating_sub(earlier.disk),
            processors: self.processors.saturating_sub(earlier.processors),
        }
    }
}

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
        write!(
            f,
            "{} ({} of processors), {} MB of packages and {} MB of crates downloaded, {} MB more on disk",
            said(self.time),
            said(self.added.processors),
            megabytes(self.added.packages),
            megabytes(self.added.crates),
            megabytes(self.added.disk),
        )
    }
}

/// `time` as a person says it.
pub(super) fn said(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {:02} s", seconds / 60, seconds % 60) }
}

fn processors() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Duration::ZERO };
    [usage.user_time(), usage.system_time()]
        .into_iter()
        .map(|time| Duration::from_secs(u64::try_from(time.num_seconds()).unwrap_or(0)))
        .sum()
}

/// The sum of `size` over all below `directory`. Links are not followed, and what cannot be read counts nothing.
fn sum(directory: &Path, size: &impl Fn(&fs::Metadata) -> u64) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => sum(&entry.path(), size),
            Ok(metadata) => size(&metadata),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_took_is_said_in_a_line() {
        let before = Usage { packages: 1_000_000, crates: 0, disk: 5_000_000, ..Usage::default() };
        let processors = Duration::from_secs(59);
        let after = Usage { packages: 241_000_000, crates: 13_000_001, disk: 1_405_000_000, processors };
        let took = Took { time: Duration::from_secs(369), added: after.since(before) };
        assert_eq!(
            took.to_string(),
            "6 min 09 s (59 s of processors), 240 MB of packages and 14 MB of crates downloaded, 1400 MB more on disk"
        );
    }
}

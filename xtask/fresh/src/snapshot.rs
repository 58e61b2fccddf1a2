//! What is on the disk of a root: every path, and what stands in the files of `/etc`. Says what is different later; leaves out
//! what dpkg, apt, logs and caches write whatever is installed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Directories that are not looked into.
const ELSEWHERE: [&str; 12] = [
    "/dev",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/tmp",
    "/var/cache",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/systemd",
    "/var/log",
    "/var/tmp",
];

/// Copies and locks that whoever changes users leaves.
const OF_USERS: [&str; 7] = [
    "/etc/.pwd.lock",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/passwd-",
    "/etc/shadow-",
    "/etc/subgid-",
    "/etc/subuid-",
];

/// What a path is.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Content {
    /// Only that it is there.
    There,
    Link(PathBuf),
    /// A file of `/etc`.
    Text(Vec<u8>),
}

/// The disk at a moment.
#[derive(Debug)]
pub(super) struct Snapshot(BTreeMap<PathBuf, Content>);

impl Snapshot {
    /// The one of now.
    pub(super) fn take() -> Result<Self> {
        let mut found = BTreeMap::new();
        look(Path::new("/"), &mut found)?;
        Ok(Self(found))
    }

    /// Paths that have come, have gone or are different since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Vec<String> {
        let gone = earlier.0.keys().filter(|path| !self.0.contains_key(*path));
        let gone = gone.map(|path| format!("{} has gone", path.display()));
        let other = self.0.iter().filter(|(path, content)| earlier.0.get(*path) != Some(content));
        let other = other.map(|(path, _)| {
            let what = if earlier.0.contains_key(path) { "is different" } else { "is left" };
            format!("{} {what}", path.display())
        });
        gone.chain(other).collect()
    }
}

fn look(directory: &Path, found: &mut BTreeMap<PathBuf, Content>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
        let entry = entry.with_context(|| format!("read {}", directory.display()))?;
        let (path, kind) = (entry.path(), entry.file_type().context("look at a file")?);
        let is = |of: &[&str]| of.iter().any(|other| path == Path::new(other));
        if is(&ELSEWHERE) || is(&OF_USERS) {
            continue;
        }
        let content = if kind.is_symlink() {
            Content::Link(fs::read_link(&path).with_context(|| format!("read {}", path.display()))?)
        } else if kind.is_file() && path.starts_with("/etc") {
            Content::Text(fs::read(&path).with_context(|| format!("read {}", path.display()))?)
        } else {
            Content::There
        };
        if kind.is_dir() {
            look(&path, found)?;
        }
        found.insert(path, content);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_gone_and_changed_is_told() {
        let of = |paths: &[(&str, &str)]| {
            let content = |text: &str| Content::Text(text.as_bytes().to_vec());
            Snapshot(paths.iter().map(|(path, text)| (PathBuf::from(path), content(text))).collect())
        };
        let (before, after) =
            (of(&[("/a", ""), ("/b", "1"), ("/c", "")]), of(&[("/b", "2"), ("/c", ""), ("/d", "")]));
        assert_eq!(after.since(&before), ["/a has gone", "/b is different", "/d is left"]);
        assert!(before.since(&before).is_empty());
    }
}

//! What the operator has withdrawn, which is kept in a file, so that a restart does not announce it again. Withdraws nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::model::{Prefix, visible};

/// No file of ours is longer, in bytes.
const LONGEST: u64 = 16 << 20;

/// The name of the file, which no other file of an instance has.
const NAME: &str = "withdrawn";

/// The operator's word on a prefix.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Withdrawal {
    /// The reason that was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
    /// The user that withdrew it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<u32>,
    /// When, in seconds since 1970.
    #[serde(default)]
    pub(super) since: u64,
}

/// All of them, by prefix, and their file.
#[derive(Debug, Default)]
pub(super) struct Withdrawals {
    path: Option<PathBuf>,
    now: BTreeMap<Prefix, Withdrawal>,
}

impl Withdrawal {
    /// The word of this user, now.
    pub(super) fn now(why: Option<String>, uid: Option<u32>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { why, uid, since }
    }
}

impl fmt::Display for Withdrawal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("by hand")?;
        if let Some(why) = &self.why {
            write!(f, " ({})", visible(why))?;
        }
        if let Some(uid) = self.uid {
            write!(f, ", by user {uid}")?;
        }
        let since = UNIX_EPOCH.checked_add(Duration::from_secs(self.since)).unwrap_or(UNIX_EPOCH);
        // Beyond the year 9999 there is no text for it.
        let since = since.min(UNIX_EPOCH + Duration::from_secs(250_000_000_000));
        write!(f, ", since {}", humantime::format_rfc3339_seconds(since))
    }
}

impl Withdrawals {
    /// Those that the file in `dir` tells of; none, and the reason, where it makes no sense.
    pub(super) fn load(dir: &Path) -> (Self, Option<String>) {
        let path = dir.join(NAME);
        let (now, damage) = match read(&path) {
            Ok(now) => (now, None),
            Err(error) => {
                let damage = format!(
                    "read {}, which says what was withdrawn by hand: {error}; nothing is withdrawn therefore (withdraw it again, \
                     which writes the file anew)",
                    path.display()
                );
                (BTreeMap::new(), Some(damage))
            }
        };
        (Self { path: Some(path), now }, damage)
    }

    /// The word on `prefix`, if there is one.
    pub(super) fn of(&self, prefix: &Prefix) -> Option<&Withdrawal> {
        self.now.get(prefix)
    }

    /// Withdraws `prefixes`, each of which has its first reason, and writes that down.
    pub(super) fn withdraw(&mut self, prefixes: &[Prefix], withdrawal: &Withdrawal) -> io::Result<()> {
        for prefix in prefixes {
            self.now.insert(*prefix, withdrawal.clone());
        }
        self.store()
    }

    /// Withdraws `prefixes` no more, and writes that down.
    pub(super) fn announce(&mut self, prefixes: &[Prefix]) -> io::Result<()> {
        for prefix in prefixes {
            self.now.remove(prefix);
        }
        self.store()
    }

    /// Replaces the file in one step, so that a crash leaves the one or the other.
    fn store(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Err(io::ErrorKind::NotFound.into()) };
        if self.now.is_empty() {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let by_prefix: BTreeMap<String, &Withdrawal> =
            self.now.iter().map(|(prefix, withdrawal)| (prefix.to_string(), withdrawal)).collect();
        let mut text = serde_json::to_vec_pretty(&by_prefix)?;
        text.push(b'\n');
        let new = path.with_extension("new");
        let written = (|| {
            let _ = fs::remove_file(&new);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, path)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<Prefix, Withdrawal>> {
    let file =
        match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    let by_prefix: BTreeMap<String, Withdrawal> = serde_json::from_str(&text)?;
    let parsed = by_prefix.into_iter().map(|(prefix, withdrawal)| {
        let prefix = prefix.parse().map_err(|error| io::Error::other(format!("{prefix}: {error}")))?;
        Ok((prefix, withdrawal))
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of one test's own, removed when dropped.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("spectrum-withdrawn-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_operators_word_outlives_the_process_and_goes_with_its_end() {
        let dir = Scratch::new("kept");
        let prefix: Prefix = "192.0.2.0/24".parse().unwrap();
        let (mut first, damage) = Withdrawals::load(&dir.0);
        assert_eq!((first.of(&prefix), damage), (None, None));
        let word = Withdrawal::now(Some("disk\u{1b}".into()), Some(7));
        first.withdraw(&[prefix], &word).unwrap();
        let (mut second, damage) = Withdrawals::load(&dir.0);
        assert_eq!((second.of(&prefix), damage), (Some(&word), None));
        let text = word.to_string();
        assert!(text.starts_with("by hand (disk\\u{1b}), by user 7, since 20"), "{text}");
        second.announce(&[prefix]).unwrap();
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_file_is_told_of_and_written_anew() {
        let prefix: Prefix = "2001:db8::/64".parse().unwrap();
        for text in [&b""[..], b"{", b"\xff", b"[]", b"{\"192.0.2.1/24\":{}}", b"{\"::/64\":{\"since\":-1}}"]
        {
            let dir = Scratch::new("damaged");
            fs::write(dir.0.join(NAME), text).unwrap();
            let (mut withdrawals, damage) = Withdrawals::load(&dir.0);
            assert!(damage.unwrap().contains("nothing is withdrawn therefore"));
            withdrawals.withdraw(&[prefix], &Withdrawal::default()).unwrap();
            assert_eq!(Withdrawals::load(&dir.0).1, None);
        }
        let dir = Scratch::new("directory");
        fs::create_dir(dir.0.join(NAME)).unwrap();
        let (mut withdrawals, damage) = Withdrawals::load(&dir.0);
        assert!(damage.is_some());
        withdrawals.withdraw(&[prefix], &Withdrawal::default()).unwrap_err();
        assert!(withdrawals.of(&prefix).is_some(), "it holds for as long as the process");
    }
}

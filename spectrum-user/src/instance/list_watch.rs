//! Files of allowed and denied prefixes, looked at every few seconds: whether one is another than when it was read, and nobody writes
//! to it any more. Reads none.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep_until};

use super::standby::aside;

/// The pause between two looks. Who writes a file anew may pause for as long.
const LOOK: Duration = Duration::from_secs(2);

/// A file that is younger when the looks begin may be another one than was read.
const YOUNG: Duration = Duration::from_secs(3);

/// After a change the next one waits for this long, and for as many times as long as that took.
const REST: Duration = Duration::from_secs(5);
const RESTS: u32 = 4;

/// The files of a configuration, as they were when they were read.
#[derive(Debug)]
pub(super) struct ListWatch {
    files: Vec<Arc<Path>>,
    /// None before the first look.
    read: Option<Vec<Option<Print>>>,
    /// As the last look saw them, where that was another state.
    last: Option<Vec<Option<Print>>>,
    begun: SystemTime,
    due: Option<Instant>,
}

/// The state of a file, without its content.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Print {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    /// By whatever means, in seconds since 1970.
    changed: (i64, i64),
}

impl Default for ListWatch {
    fn default() -> Self {
        Self { files: Vec::new(), read: None, last: None, begun: UNIX_EPOCH, due: None }
    }
}

impl ListWatch {
    /// Begins to look at `files`, which have just been read.
    pub(super) fn begin(&mut self, files: Vec<Arc<Path>>) {
        let due = (!files.is_empty()).then(|| Instant::now() + LOOK);
        *self = Self { files, read: None, last: None, begun: SystemTime::now(), due };
    }

    /// A change took so long: the next one waits.
    pub(super) fn rest(&mut self, took: Duration) {
        self.due = self.due.map(|due| due.max(Instant::now() + REST + took * RESTS));
    }

    /// Returns when a file is another than was read. Dropped while it waits, it forgets nothing.
    pub(super) async fn changed(&mut self) {
        loop {
            let Some(due) = self.due else { return std::future::pending().await };
            sleep_until(due).await;
            let files = self.files.clone();
            // A file system may keep whoever asks waiting.
            let prints = aside(move || files.iter().map(|file| Print::of(file)).collect()).await;
            self.due = Some(Instant::now() + LOOK);
            match prints {
                Ok(prints) => {
                    if self.judge(prints) {
                        return;
                    }
                }
                Err(error) => tracing::debug!("look at lists of prefixes: {error:#}"),
            }
        }
    }

    /// True if what was seen is another state than that which was read, and the same as at the last look.
    fn judge(&mut self, seen: Vec<Option<Print>>) -> bool {
        let is_read = match &self.read {
            Some(read) => *read == seen,
            None => !seen.iter().flatten().any(|print| print.is_young(self.begun)),
        };
        if !is_read && self.last.as_ref() != Some(&seen) {
            self.last = Some(seen);
            return false;
        }
        (self.read, self.last) = (Some(seen), None);
        !is_read
    }
}

impl Print {
    fn of(file: &Path) -> Option<Self> {
        let metadata = fs::metadata(file).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    fn is_young(&self, begun: SystemTime) -> bool {
        let begun = begun.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(YOUNG);
        u64::try_from(self.changed.0).is_ok_and(|changed| changed >= begun.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(inode: u64, changed: i64) -> Vec<Option<Print>> {
        let changed = (changed, 0);
        vec![Some(Print { device: 1, inode, length: 7, modified: changed, changed })]
    }

    fn watch() -> ListWatch {
        let begun = UNIX_EPOCH + Duration::from_secs(1_000);
        ListWatch { begun, ..ListWatch::default() }
    }

    #[test]
    fn a_file_is_another_one_when_it_is_at_rest() {
        let mut watch = watch();
        assert!(!watch.judge(seen(1, 500)), "as it was read");
        assert!(!watch.judge(seen(1, 500)));
        assert!(!watch.judge(seen(1, 1_001)), "somebody writes to it");
        assert!(!watch.judge(seen(1, 1_003)), "and goes on");
        assert!(watch.judge(seen(1, 1_003)));
        assert!(!watch.judge(seen(1, 1_003)), "told once");
        assert!(!watch.judge(vec![None]), "it is being replaced");
        assert!(!watch.judge(seen(2, 500)));
        assert!(watch.judge(seen(2, 500)), "by an older one");
    }

    #[test]
    fn one_that_is_young_when_looks_begin_may_be_another_than_was_read() {
        let mut watch = watch();
        assert!(!watch.judge([seen(1, 999), seen(2, 1)].concat()));
        assert!(watch.judge([seen(1, 999), seen(2, 1)].concat()));
        assert!(!watch.judge([seen(1, 999), seen(2, 1)].concat()));
    }
}

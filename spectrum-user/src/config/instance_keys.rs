//! How an instance lives, where its flags leave it to the file. Lives not itself.

use std::num::NonZeroUsize;
use std::time::Duration;

/// The keys of `[instance]`; `None` where nothing is said.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct InstanceKeys {
    /// The time for connections to end.
    pub drain: Option<Duration>,
    /// The number of workers.
    pub workers: Option<NonZeroUsize>,
    /// The user that the worker process is, by name or number.
    pub user: Option<String>,
    /// The network namespace to work in, by name or path.
    pub netns: Option<String>,
    /// True if what serves is a thread of the steerer.
    pub single_process: Option<bool>,
    /// True if what steers is to outlive the instance.
    pub pin: Option<bool>,
}

impl InstanceKeys {
    /// The drain of who says nothing.
    pub const DRAIN: Duration = Duration::from_secs(10);

    /// A year, as humantime has it. Clocks that count from now end somewhere.
    pub const LONGEST_DRAIN: Duration = Duration::from_hours(8_766);

    /// More threads than any host has cores.
    pub const MOST_WORKERS: usize = 4096;

    /// These, and where they say nothing, `others`.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            drain: self.drain.or(others.drain),
            workers: self.workers.or(others.workers),
            user: self.user.or(others.user),
            netns: self.netns.or(others.netns),
            single_process: self.single_process.or(others.single_process),
            pin: self.pin.or(others.pin),
        }
    }

    /// The keys that cannot become those of `later` while an instance runs: each with what it is, and what it would be.
    #[must_use]
    pub fn fixed(&self, later: &Self) -> Vec<(&'static str, String, String)> {
        let shown = |value: Option<String>| value.unwrap_or_else(|| "what holds without it".to_owned());
        let count = |keys: &Self| shown(keys.workers.map(|count| count.to_string()));
        let changes = [
            ("workers", count(self), count(later)),
            ("user", shown(self.user.clone()), shown(later.user.clone())),
            ("netns", shown(self.netns.clone()), shown(later.netns.clone())),
            (
                "single-process",
                self.single_process.unwrap_or_default().to_string(),
                later.single_process.unwrap_or_default().to_string(),
            ),
            ("pin", self.pin.unwrap_or_default().to_string(), later.pin.unwrap_or_default().to_string()),
        ];
        changes.into_iter().filter(|(_, was, is)| was != is).collect()
    }
}

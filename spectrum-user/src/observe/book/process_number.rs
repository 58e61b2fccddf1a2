//! The number by which a process counts. Says nothing of what the process is, nor of its pid, which another may have had.

use std::fmt;
use std::num::{NonZeroU64, ParseIntError};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The number of a process that counts, which no other of the same instance has or had.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct ProcessNumber(NonZeroU64);

impl ProcessNumber {
    /// The one that follows `count` others.
    pub(super) fn after(count: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(count))
    }

    pub(super) fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for ProcessNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ProcessNumber {
    type Err = ParseIntError;

    fn from_str(typed: &str) -> Result<Self, ParseIntError> {
        typed.parse().map(Self)
    }
}

//! Which of the variants of a case this run does: all, or those of a turn. Which variants are in a turn is the tests' affair.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// The variable that the tests read it from.
pub(super) const VARIABLE: &str = "SPECTRUM_TEST_TURN";

/// The variants that run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Turn {
    /// All.
    Full,
    /// Those that somebody named in [`VARIABLE`].
    Given(String),
    /// Those of this turn.
    Number(u64),
}

impl Turn {
    /// The turn of today.
    pub(super) fn of_the_day() -> Self {
        let day = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / (24 * 60 * 60);
        Self::Number(day)
    }

    /// The value of [`VARIABLE`], if it is to be set.
    pub(super) fn value(&self) -> Option<String> {
        match self {
            Self::Full => None,
            Self::Given(value) => Some(value.clone()),
            Self::Number(number) => Some(number.to_string()),
        }
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("every variant"),
            Self::Given(value) => write!(f, "the variants of {VARIABLE}={value}"),
            Self::Number(number) => {
                write!(f, "the variants of turn {number}; again with --turn {number}, all with --full")
            }
        }
    }
}

//! Which path to steer by. Whether it is possible is found out by taking it.

use std::fmt;
use std::str::FromStr;

/// The user's choice of a path.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum ModeChoice {
    /// sk_lookup where the kernel has it and lets us, else TPROXY.
    #[default]
    Auto,
    /// sk_lookup or an error.
    SkLookup,
    /// TPROXY or an error.
    Tproxy,
}

impl ModeChoice {
    /// The words.
    pub const WORDS: &'static [&'static str] = &["auto", "sk-lookup", "tproxy"];
}

impl fmt::Display for ModeChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::SkLookup => "sk-lookup",
            Self::Tproxy => "tproxy",
        })
    }
}

impl FromStr for ModeChoice {
    type Err = ParseModeError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        match typed {
            "auto" => Ok(Self::Auto),
            "sk-lookup" => Ok(Self::SkLookup),
            "tproxy" => Ok(Self::Tproxy),
            _ => Err(ParseModeError),
        }
    }
}

/// The error of a text that is not a [`ModeChoice`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected auto, sk-lookup or tproxy")]
pub struct ParseModeError;

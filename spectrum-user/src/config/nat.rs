//! Whether what is bound is exempted from rules that give connections another destination. Whether there are any is found
//! out by looking.

use std::fmt;
use std::str::FromStr;

/// The user's choice of what NAT may do to connections to what is bound.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum NatChoice {
    /// Nothing: they keep the destination that was dialled.
    #[default]
    Exempt,
    /// Whatever its rules say.
    Heed,
}

impl NatChoice {
    /// The words.
    pub const WORDS: &'static [&'static str] = &["exempt", "heed"];
}

impl fmt::Display for NatChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Exempt => "exempt",
            Self::Heed => "heed",
        })
    }
}

impl FromStr for NatChoice {
    type Err = ParseNatError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        match typed {
            "exempt" => Ok(Self::Exempt),
            "heed" => Ok(Self::Heed),
            _ => Err(ParseNatError),
        }
    }
}

/// The error of a text that is not a [`NatChoice`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected exempt or heed")]
pub struct ParseNatError;

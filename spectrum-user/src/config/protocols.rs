//! Which protocols are bound, as a user says it: one word, and both have one too.

use std::fmt;
use std::str::FromStr;

use crate::model::Protocol;

/// One protocol, or both.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Protocols {
    /// TCP and UDP: two bindings.
    Both,
    /// TCP alone.
    #[default]
    Tcp,
    /// UDP alone.
    Udp,
}

impl Protocols {
    /// The words.
    pub const WORDS: &'static [&'static str] = &["tcp", "udp", "both"];

    /// Each of them.
    #[must_use]
    pub fn each(self) -> &'static [Protocol] {
        match self {
            Self::Both => &[Protocol::Tcp, Protocol::Udp],
            Self::Tcp => &[Protocol::Tcp],
            Self::Udp => &[Protocol::Udp],
        }
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Both => "both",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl FromStr for Protocols {
    type Err = ParseProtocolsError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        match typed {
            "both" => Ok(Self::Both),
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(ParseProtocolsError),
        }
    }
}

/// The error of a text that is not [`Protocols`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected tcp, udp or both")]
pub struct ParseProtocolsError;

//! What answers the connections of a service. Does not know how they came.

use std::fmt;
use std::str::FromStr;

use super::Origins;

/// The origins or the responder that answer a service's connections.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// Proxy to these.
    Origins(Origins),
    /// Answer ourselves.
    Respond(Responder),
}

/// A built-in answer, for demonstrations and tests.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Responder {
    /// Read and forget (RFC 863).
    Discard,
    /// Send back what comes (RFC 862).
    Echo,
    /// `hello world`, a line that names the dialled and the client address, and the end.
    Hello,
}

impl Responder {
    /// The words.
    pub const WORDS: &'static [&'static str] = &["hello", "echo", "discard"];
}

impl FromStr for Responder {
    type Err = ParseResponderError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        match typed {
            "discard" => Ok(Self::Discard),
            "echo" => Ok(Self::Echo),
            "hello" => Ok(Self::Hello),
            _ => Err(ParseResponderError),
        }
    }
}

/// The error of a text that is not a [`Responder`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected hello, echo or discard")]
pub struct ParseResponderError;

impl fmt::Display for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Discard => "discard",
            Self::Echo => "echo",
            Self::Hello => "hello",
        })
    }
}

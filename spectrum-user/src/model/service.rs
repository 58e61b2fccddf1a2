//! A named thing with bindings, and what stands behind it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{Binding, Origins, Policy};

/// A service's name: 1 to 64 letters, digits, `-`, `_` and `.`, the first a letter or digit. Cheap to clone: every
/// connection record carries one.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ServiceName {
    /// The name of the service that the command line's flags describe.
    fn default() -> Self {
        Self("default".into())
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ServiceName {
    type Err = ParseServiceNameError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        let well_formed = (1..=64).contains(&typed.len())
            && typed.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && typed.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if well_formed { Ok(Self(typed.into())) } else { Err(ParseServiceNameError) }
    }
}

/// Why a text is not a [`ServiceName`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a service name is 1 to 64 letters, digits, '-', '_' and '.', and begins with a letter or digit")]
pub struct ParseServiceNameError;

/// A named thing: its bindings and what answers behind them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// Unique within a configuration.
    pub name: ServiceName,
    /// In the order configured; never empty.
    pub bindings: Vec<Binding>,
    /// What answers.
    pub target: Target,
    /// What its connections may take.
    pub policy: Policy,
}

/// What answers a service's connections.
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

/// Why a text is not a [`Responder`].
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

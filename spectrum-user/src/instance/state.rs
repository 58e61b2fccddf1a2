//! What an instance says of itself. Does not know where it is kept.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::Prefix;
use crate::plan::firewall::Chain;

/// An instance's name within its network namespace: its process id, and a number behind it when the process ids of two
/// containers that share the namespace are equal. Chains carry it in their names.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct InstanceId {
    pid: u32,
    number: u32,
}

impl InstanceId {
    pub(super) fn new(pid: u32, number: u32) -> Self {
        Self { pid, number }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.number == 0 { write!(f, "{}", self.pid) } else { write!(f, "{}-{}", self.pid, self.number) }
    }
}

impl FromStr for InstanceId {
    type Err = NoInstanceId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pid, number) = text.split_once('-').unwrap_or((text, "0"));
        match (pid.parse(), number.parse()) {
            (Ok(pid), Ok(number)) => Ok(Self { pid, number }),
            _ => Err(NoInstanceId),
        }
    }
}

/// A text that is not the id of an instance.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "not the id of an instance, which is its process id, as in 4711 or 4711-1; without --instance, the error names those that \
     run, if there are several"
)]
pub struct NoInstanceId;

/// The path that an instance steers by.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// An eBPF program.
    SkLookup,
    /// Firewall rules.
    Tproxy,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::SkLookup => "sk-lookup",
            Self::Tproxy => "tproxy",
        })
    }
}

/// The claim of an instance in its network namespace. Written before it acts, so that it covers whatever the
/// instance may have left when it dies.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Instance {
    /// Its process id, as it sees it itself.
    pub pid: u32,
    /// When it started, in seconds since 1970.
    pub started: u64,
    /// The mode in which it steers, once that is decided.
    pub mode: Option<Mode>,
    /// The prefixes it has bindings for, and adds local routes for.
    #[serde(with = "texts")]
    pub prefixes: Vec<Prefix>,
    /// The firewall chain it makes, if it makes one.
    pub chain: Chain,
}

/// Prefixes as they are typed.
mod texts {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    use crate::model::Prefix;

    pub(super) fn serialize<S: Serializer>(prefixes: &[Prefix], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(prefixes.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Prefix>, D::Error> {
        Vec::<String>::deserialize(deserializer)?
            .iter()
            .map(|text| text.parse().map_err(|error| D::Error::custom(format!("prefix {text:?}: {error}"))))
            .collect()
    }
}

//! What an instance says of itself. Does not know where it is kept.

use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::Prefix;
use crate::plan::firewall::Chain;

/// The bits of an id: as many as the number of a routing table of ours has to tell instances apart.
const ID_BITS: u32 = 24;

/// The digits of an id.
const ID_DIGITS: usize = 6;

/// An instance's name within its network namespace, drawn when it starts: six hexadecimal digits, of which one at least is a
/// letter, so that no process id looks like it. What it has in the kernel carries it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct InstanceId(u32);

impl InstanceId {
    /// One that nobody has.
    pub(super) fn draw(is_taken: impl Fn(Self) -> bool) -> Self {
        let drawn = std::iter::repeat_with(|| RandomState::new().build_hasher().finish());
        let mut ids = drawn.filter_map(|number| Self::of(u32::try_from(number >> (64 - ID_BITS)).ok()?));
        // Of the sixteen million there are never so many that live at once.
        ids.find(|id| !is_taken(*id)).unwrap_or(Self(u32::MAX >> (32 - ID_BITS)))
    }

    fn of(number: u32) -> Option<Self> {
        let id = Self(number);
        id.to_string().bytes().any(|digit| digit.is_ascii_alphabetic()).then_some(id)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0ID_DIGITS$x}", self.0)
    }
}

impl FromStr for InstanceId {
    type Err = NoInstanceName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_id = text.len() == ID_DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = is_id.then(|| u32::from_str_radix(text, 16).ok()).flatten();
        number.and_then(Self::of).ok_or(NoInstanceName)
    }
}

/// The word for what is pinned, in the place of an instance's name.
const PINNED: &str = "pinned";

/// The name that an instance is asked for by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InstanceName {
    /// Its id.
    Id(InstanceId),
    /// The pinned state, which has no process.
    Pinned,
    /// Its process id, which two containers may give twice.
    Pid(u32),
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Pinned => f.write_str(PINNED),
            Self::Pid(pid) => pid.fmt(f),
        }
    }
}

impl FromStr for InstanceName {
    type Err = NoInstanceName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == PINNED {
            return Ok(Self::Pinned);
        }
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(pid) if is_number => Ok(Self::Pid(pid)),
            _ => text.parse().map(Self::Id),
        }
    }
}

/// A text that names no instance.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "not an instance, which is named by its id, as in 3fa2c1, by its process id, or, if it is what is pinned, as pinned; without \
     --instance, the error names those that run, if there are several"
)]
pub struct NoInstanceName;

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

/// The thing that keeps alive what is claimed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keeper {
    /// Files of a BPF file system.
    Pins,
    /// A process.
    #[default]
    Process,
}

/// The claim of an instance in its network namespace. Written before it acts, so that it covers whatever the
/// instance may have left when it dies.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Instance {
    /// Its process id, as it sees it itself; 0 of what is pinned.
    pub pid: u32,
    /// The thing that keeps it alive.
    #[serde(default)]
    pub keeper: Keeper,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_short_drawn_and_no_process_id() {
        let ids: std::collections::BTreeSet<InstanceId> =
            (0..1000).map(|_| InstanceId::draw(|_| false)).collect();
        assert!(ids.len() > 990, "{}", ids.len());
        for id in &ids {
            let text = id.to_string();
            assert!(text.len() == 6 && text.parse::<u32>().is_err(), "{text}");
            assert_eq!(text.parse(), Ok(InstanceName::Id(*id)));
            assert_eq!(text.to_ascii_uppercase().parse(), Ok(*id));
        }
        let taken = |id: InstanceId| id.0 % 1000 != 7;
        assert!(!taken(InstanceId::draw(taken)));
    }

    #[test]
    fn a_number_is_a_process_and_anything_else_nothing() {
        assert_eq!("123456".parse(), Ok(InstanceName::Pid(123_456)));
        for text in ["", "web", "4711-1", "3fa2c", "3fa2c11", "-1", "+1", "99999999999", "3fa2 c"] {
            assert_eq!(text.parse::<InstanceName>(), Err(NoInstanceName), "{text}");
        }
    }
}

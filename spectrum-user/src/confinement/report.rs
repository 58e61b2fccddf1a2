//! What took effect of a confinement, for `status` and for whoever wonders what a process may do. Judges nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::WorkerUser;

/// What a worker process may still do.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct WorkerReport {
    /// The user that it is.
    pub user: WorkerUser,
    /// The capabilities that it kept, `CAP_NET_RAW` for one.
    pub capabilities: Vec<String>,
    /// The capabilities that it needs and its steerer had not, each with what it is for.
    pub missing: Vec<MissingCapability>,
    /// True if nothing that it executes could have more capabilities than it has: the bounding set is empty.
    pub bounded: bool,
    /// Its system calls: those on a list, and no others.
    pub system_calls: Measure,
    /// The files that it may open: those that name resolution reads, its own program, and no others.
    pub files: Measure,
}

impl WorkerReport {
    /// What it may do since the kernel has no measure against it, each with the reason.
    pub fn lacking(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [("files", &self.files), ("system calls", &self.system_calls)].into_iter().filter_map(
            |(what, measure)| match measure {
                Measure::Lacking(reason) => Some((what, reason.as_str())),
                Measure::Partial(_) | Measure::Whole => None,
            },
        )
    }
}

/// How far something is restricted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Not at all, for this reason.
    Lacking(String),
    /// As far as the kernel has it, and no further for this reason.
    Partial(String),
    /// As it is meant.
    Whole,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lacking(reason) => write!(f, "unrestricted: {reason}"),
            Self::Partial(reason) => write!(f, "restricted in part: {reason}"),
            Self::Whole => f.write_str("restricted"),
        }
    }
}

/// What a steerer may still do.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SteererReport {
    /// The capabilities that it kept.
    pub capabilities: Vec<String>,
    /// True if nothing that it executes could have more of them.
    pub bounded: bool,
}

/// A capability that is needed, and is not there to be kept.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct MissingCapability {
    /// Its name.
    pub name: String,
    /// What it is needed for.
    pub reasons: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confinement::SameUser;

    #[test]
    fn what_the_kernel_lacks_is_told_and_what_it_has_is_not() {
        let report = |files, system_calls| WorkerReport {
            user: WorkerUser::Same(SameUser::Asked),
            capabilities: Vec::new(),
            missing: Vec::new(),
            bounded: true,
            system_calls,
            files,
        };
        let partly = report(Measure::Partial("an elder one".to_owned()), Measure::Whole);
        assert_eq!(partly.lacking().count(), 0);
        let free = report(Measure::Lacking("no landlock".to_owned()), Measure::Whole);
        assert_eq!(free.lacking().collect::<Vec<_>>(), [("files", "no landlock")]);
    }
}

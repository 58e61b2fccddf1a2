//! What a host can do for us and what it lacks: findings made from facts, and the path that a start would take. Looks at
//! nothing itself, so that every verdict can be tested without the host that earns it.

mod announcing;
mod findings;
mod firewall;
mod host_facts;
mod kernel;
mod network;
mod path;
mod remains;
mod rights;
#[cfg(test)]
mod tests;
mod workers;

use std::fmt;

use serde::Serialize;

pub use announcing::AnnouncingFacts;
pub use host_facts::{
    BindingsSource, Carrier, Confinement, Conntrack, Families, FirewallTrial, HostFacts, Program, Rights,
    Subject, SystemRefusal, Unknown,
};
pub use network::{bridged, loosening, unbridging};
pub use path::Choice;
pub use workers::WorkerBounds;

use findings::Findings;

/// All that is to be said of a host.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Diagnosis {
    /// The path that a start would take.
    pub path: Choice,
    /// A line each.
    pub findings: Vec<Finding>,
    /// The things that could not be looked at, each with the reason.
    pub unknown: Vec<String>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// The subject that was looked at.
    pub check: String,
    /// The verdict on it.
    pub verdict: FindingVerdict,
    /// The fact that was found.
    pub value: String,
    /// The meaning of that for us.
    pub meaning: String,
    /// The cure that would make it better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

/// A judgement of one thing.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingVerdict {
    /// As it should be, or of no matter.
    Ok,
    /// It works, but not as well as it could.
    Warning,
    /// Something cannot work.
    Missing,
}

impl fmt::Display for FindingVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Missing => "missing",
        })
    }
}

/// Judges `facts`.
#[must_use]
pub fn diagnose(facts: &HostFacts) -> Diagnosis {
    let mut findings = Findings::default();
    kernel::judge(facts, &mut findings);
    rights::judge(facts, &mut findings);
    firewall::judge(facts, &mut findings);
    network::judge(facts, &mut findings);
    announcing::judge(facts, &mut findings);
    remains::judge(facts, &mut findings);
    workers::judge(facts, &mut findings);
    let (findings, unknown) = findings.into_parts();
    Diagnosis { path: Choice::of(facts), findings, unknown }
}

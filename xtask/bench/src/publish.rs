//! The `publish` benchmark: how long it takes to bring bindings into the kernel, and what memory that costs.
//! `spectrum-steering/benches/publish.rs` measures; nothing is measured here.

use anyhow::Result;

use super::Bench;
use super::measured;
use super::report::Report;
use super::row::{Goal, Row};

/// Measures every case.
pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    measured::each(bench, "publish", |measured| {
        let goal = goal(&measured.case, &measured.subject);
        let value = measured.spread().median;
        let measured::Measured { case, subject, unit, .. } = measured;
        report.add(&Row { case, subject, peer: None, value, unit, goal });
    })
}

fn goal(case: &str, subject: &str) -> Option<Goal> {
    match subject {
        "all anew" if case.ends_with("/1000000") => Some(Goal::Value(2_000.0)),
        // Of host bindings anywhere; those that lie close share nodes, and few share none.
        "kernel memory" if case.ends_with("random/1000000") => Some(Goal::Value(100.0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_bindings_have_goals() {
        assert!(matches!(goal("ipv6/random/1000000", "all anew"), Some(Goal::Value(_))));
        assert!(matches!(goal("ipv6/random/1000000", "kernel memory"), Some(Goal::Value(_))));
        assert!(goal("ipv6/random/1000", "all anew").is_none());
    }
}

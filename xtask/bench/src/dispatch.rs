//! The `dispatch` benchmark: nanoseconds per run of the eBPF program inside the kernel, next to an empty one and one that
//! steers by an LPM trie. `spectrum-steering/benches/dispatch.rs` measures; nothing is measured here.

use anyhow::Result;

use super::Bench;
use super::measured;
use super::report::Report;
use super::row::Goal;

/// The program of comparison.
const REFERENCE: &str = "reference";

/// The program where registered sockets share the clients, which the program of comparison cannot.
const SHARED: &str = "shared";

/// From how many addresses on the program should be how many times faster than [`REFERENCE`].
const GOALS: [(usize, f64); 4] = [(1_000_000, 6.0), (50_000, 4.0), (1_000, 1.5), (0, 1.0)];

/// Measures every case.
pub(super) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let goal = |subject: &str, case: &str| if subject == SHARED { None } else { goal(case) };
    measured::compare(bench, report, "dispatch", &[REFERENCE], |measured| {
        goal(&measured.subject, &measured.case)
    })
}

/// The goal of a case, whose name ends in a number of addresses and perhaps of ranges: `ipv4/random/1000x4`.
fn goal(case: &str) -> Option<Goal> {
    let count: usize = case.rsplit('/').next()?.split('x').next()?.parse().ok()?;
    let (_, least) = GOALS.into_iter().find(|(from, _)| count >= *from)?;
    Some(Goal::Speedup(least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_goal_grows_with_the_number_of_addresses() {
        let least = |case| match goal(case) {
            Some(Goal::Speedup(least)) => least,
            other => panic!("{case}: {other:?}"),
        };
        for (case, expected) in [
            ("ipv4/dense/1", 1.0),
            ("ipv6/random/1000", 1.5),
            ("ipv4/edge/45376", 1.5),
            ("ipv4/random/250000x4", 4.0),
            ("ipv6/dense/1000000", 6.0),
        ] {
            assert!((least(case) - expected).abs() < f64::EPSILON, "{case}");
        }
    }
}

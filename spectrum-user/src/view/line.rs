//! An instance in one line, as a service manager shows it beside the name of a service. Asks nobody: neither the kernel nor the worker
//! process.

use std::fmt::Write as _;

use super::Present;
use crate::model::Prefix;
use crate::observe::Counters;

/// So many prefixes are named.
const NAMED: usize = 3;

impl Present {
    /// The instance in one line: the phase of its life, its prefixes, what is open, and what is wrong.
    #[must_use]
    pub fn line(&self) -> String {
        let totals = Counters::of(&self.book).totals(|service| self.known.contains(service));
        let open = totals.values().map(|totals| totals.open).fold(0, u64::wrapping_add);
        line(&self.state.to_string(), &self.plan.routes, open, &self.faults.lines())
    }
}

fn line(state: &str, prefixes: &[Prefix], open: u64, wrong: &[String]) -> String {
    let named: Vec<String> = prefixes.iter().take(NAMED).map(ToString::to_string).collect();
    let mut line = format!("{state}: {}", named.join(", "));
    let more = prefixes.len().saturating_sub(NAMED);
    // Writing to a String does not fail.
    if more > 0 {
        let _ = write!(line, " and {more} more");
    }
    let _ = write!(line, "; {open} open");
    if !wrong.is_empty() {
        let _ = write!(line, "; {}", wrong.join("; "));
    }
    // What follows a line break would be told as something else.
    line.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_some_prefixes_what_is_open_and_what_is_wrong() {
        let prefixes: Vec<Prefix> = (0..5).map(|n| format!("192.0.{n}.0/24").parse().unwrap()).collect();
        assert_eq!(line("ready", &prefixes[..1], 0, &[]), "ready: 192.0.0.0/24; 0 open");
        let wrong = ["the workers missing\nREADY=1".to_owned()];
        assert_eq!(
            line("reloading", &prefixes, 7, &wrong),
            "reloading: 192.0.0.0/24, 192.0.1.0/24, 192.0.2.0/24 and 2 more; 7 open; the workers missing READY=1"
        );
    }
}

//! The instances of a network namespace, so that somebody can say which one is meant: by what each serves, how, and since
//! when. Finds none.

use std::time::{Duration, UNIX_EPOCH};

use humantime::format_rfc3339_seconds;

use crate::registry::{Instance, InstanceId};

/// So many prefixes of each are named.
const NAMED: usize = 3;

/// The first second that RFC 3339 cannot write, since 1970.
const YEAR_10000: u64 = 253_402_300_800;

/// Each with its id, and with what it has claimed, where that may be read.
pub(super) fn listed(candidates: &[(InstanceId, Option<Instance>)]) -> String {
    let shown = candidates.iter().map(|(id, claimed)| match claimed {
        Some(instance) => format!("{id} ({})", described(instance)),
        None => id.to_string(),
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn described(instance: &Instance) -> String {
    let Instance { pid, started, mode, prefixes, .. } = instance;
    let mut text = prefixes.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(" ");
    if let Some(more @ 1..) = prefixes.len().checked_sub(NAMED) {
        text = format!("{text} and {more} more");
    }
    text = format!("process {pid}; {text}");
    let mode = mode.map_or_else(|| "starting".to_owned(), |mode| mode.to_string());
    if *started >= YEAR_10000 {
        return format!("{text}; {mode}");
    }
    let since = UNIX_EPOCH + Duration::from_secs(*started);
    format!("{text}; {mode} since {}", format_rfc3339_seconds(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a state file has it.
    fn instance(started: u64, mode: &str, prefixes: &[&str]) -> Instance {
        let mut state = serde_json::json!({
            "pid": 7, "started": started, "prefixes": prefixes, "chain": "SPECTRUM-a00007"
        });
        if !mode.is_empty() {
            state["mode"] = mode.into();
        }
        serde_json::from_value(state).unwrap()
    }

    #[test]
    fn each_is_told_by_what_it_serves_and_since_when() {
        let id = |text: &str| text.parse::<InstanceId>().unwrap();
        let listed = listed(&[
            (id("a00007"), Some(instance(1_764_000_000, "sk-lookup", &["192.0.2.0/24", "2001:db8::/64"]))),
            (
                id("a00008"),
                Some(instance(0, "", &["10.0.0.1", "10.0.0.3", "10.0.0.5", "10.0.0.7", "10.0.0.9"])),
            ),
            (id("a00009"), None),
        ]);
        assert_eq!(
            listed,
            "a00007 (process 7; 192.0.2.0/24 2001:db8::/64; sk-lookup since 2025-11-24T16:00:00Z), \
             a00008 (process 7; 10.0.0.1/32 10.0.0.3/32 10.0.0.5/32 and 2 more; starting since 1970-01-01T00:00:00Z), a00009"
        );
    }

    #[test]
    fn a_time_beyond_every_clock_is_left_out() {
        let listed = |started| {
            listed(&[("a00007".parse().unwrap(), Some(instance(started, "tproxy", &["10.0.0.1"])))])
        };
        assert_eq!(listed(u64::MAX), "a00007 (process 7; 10.0.0.1/32; tproxy)");
        assert_eq!(listed(YEAR_10000), "a00007 (process 7; 10.0.0.1/32; tproxy)");
        assert_eq!(
            listed(YEAR_10000 - 1),
            "a00007 (process 7; 10.0.0.1/32; tproxy since 9999-12-31T23:59:59Z)"
        );
    }
}

//! Reads from /proc what keeps the worker processes of live instances in bounds. Judges none of it.

use std::fs;

use rustix::thread::CapabilitySet;

use crate::confinement::names;
use crate::doctor::{Unknown, WorkerBounds};
use crate::view::View;
use crate::worker_process::VERB;

/// The bounds of each worker process of `instances`, by what each says of itself: where it has threads instead, it has none.
pub(super) fn bounds(instances: &[(String, View)]) -> Result<Vec<WorkerBounds>, Unknown> {
    let mut all = Vec::new();
    for (id, view) in instances {
        let Some(report) = &view.worker_process else { continue };
        let found = worker_processes(view.pid);
        if found.is_empty() {
            let why =
                format!("instance {id}: its worker process is not among the processes that are seen here");
            return Err(Unknown(why));
        }
        all.extend(found.into_iter().filter_map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            of(&status, id.clone(), pid, report.files.clone())
        }));
    }
    Ok(all)
}

/// Those of the steerer `pid`, the ones that drain too.
fn worker_processes(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let is_worker = |child: &u32| {
        let words = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).nth(1) == Some(VERB.as_bytes())
    };
    children.split_ascii_whitespace().filter_map(|child| child.parse().ok()).filter(is_worker).collect()
}

/// The bounds in `status`, as the kernel writes it.
fn of(status: &str, instance: String, pid: u32, files: crate::confinement::Measure) -> Option<WorkerBounds> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim)
    };
    // The effective one is the second.
    let user = field("Uid")?.split_whitespace().nth(1)?.parse().ok()?;
    let held = u64::from_str_radix(field("CapEff")?, 16).ok()?;
    Some(WorkerBounds {
        instance,
        pid,
        user,
        // A kernel without either has no such line.
        is_filtered: field("Seccomp") == Some("2"),
        gains_nothing: field("NoNewPrivs") == Some("1"),
        capabilities: names(CapabilitySet::from_bits_retain(held)),
        files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confinement::Measure;

    #[test]
    fn the_words_of_the_kernel_are_understood() {
        let status = "Name:\tspectrum-user\nUid:\t0\t65534\t65534\t65534\nCapEff:\t0000000000002400\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        let bounds = of(status, "3fa2c1".to_owned(), 7, Measure::Whole).unwrap();
        assert_eq!(bounds.user, 65_534);
        assert!(bounds.is_filtered && bounds.gains_nothing);
        assert_eq!(bounds.capabilities, ["CAP_NET_BIND_SERVICE", "CAP_NET_RAW"]);
        let old = of("Uid:\t1\t1\t1\t1\nCapEff:\t0\n", String::new(), 7, Measure::Whole).unwrap();
        assert!(!old.is_filtered && !old.gains_nothing && old.capabilities.is_empty());
        assert_eq!(of("", String::new(), 7, Measure::Whole), None);
    }
}

//! What keeps the worker processes of live instances, which read strangers' bytes, from doing more than they must. Knows nothing of what
//! they serve.

use std::fmt::Write as _;

use super::findings::Findings;
use super::host_facts::HostFacts;
use crate::confinement::Measure;

/// The bounds of a worker process that runs: the kernel's word for all but the files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WorkerBounds {
    /// The id of its instance.
    pub instance: String,
    /// Its process id.
    pub pid: u32,
    /// The user that it is.
    pub user: u32,
    /// True if its system calls are filtered (seccomp).
    pub is_filtered: bool,
    /// True if nothing that it executes could gain anything (NoNewPrivs).
    pub gains_nothing: bool,
    /// The capabilities that it has.
    pub capabilities: Vec<String>,
    /// The files that it may open (landlock), as the instance itself says: the kernel does not.
    pub files: Measure,
}

pub(super) fn judge(facts: &HostFacts, findings: &mut Findings) {
    let Some(workers) = findings.known("worker processes", &facts.workers) else { return };
    for worker in workers {
        one(worker, findings);
    }
}

fn one(worker: &WorkerBounds, findings: &mut Findings) {
    let WorkerBounds { instance, pid, user, is_filtered, gains_nothing, capabilities, files } = worker;
    let mut lacking = Vec::new();
    if *user == 0 {
        lacking.push((
            "it is root",
            "--user, or: useradd --system --shell /usr/sbin/nologin spectrum; then restart it",
        ));
    }
    if !is_filtered {
        lacking.push(("its system calls are not filtered", "a kernel with CONFIG_SECCOMP_FILTER"));
    }
    if !gains_nothing {
        lacking.push(("what it executes may gain privileges", "a restart: its start should have failed"));
    }
    if matches!(files, Measure::Lacking(_)) {
        lacking.push((
            "files are closed to it by their modes alone",
            "Linux 5.13 or newer with landlock among `lsm=`; then restart it",
        ));
    }
    let mut value = format!("user {user}");
    for (word, is_there) in [
        ("seccomp", *is_filtered),
        ("no new privileges", *gains_nothing),
        ("landlock", !matches!(files, Measure::Lacking(_))),
    ] {
        if is_there {
            // Writing to a string cannot fail.
            let _ = write!(value, ", {word}");
        }
    }
    let held = if capabilities.is_empty() { "no capability".to_owned() } else { capabilities.join(" ") };
    let _ = write!(value, ", {held}");
    let check = format!("worker process {pid}");
    if lacking.is_empty() {
        let meaning = format!("whoever breaks into instance {instance} by what it parses holds little");
        return findings.ok(check, value, &meaning);
    }
    let (what, cures): (Vec<_>, Vec<_>) = lacking.into_iter().unzip();
    let meaning = format!("of instance {instance}: {}", what.join("; "));
    findings.warn(check, value, &meaning, &cures.join("; "));
}

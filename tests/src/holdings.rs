//! What a running instance holds of its host. Does not say how much is too much.

use std::fs;

use crate::instance::Instance;

/// The holdings of an instance at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Holdings {
    /// Open descriptors.
    pub descriptors: usize,
    /// Memory in use, in KiB.
    pub resident: u64,
}

impl Holdings {
    /// Of this instance, now.
    pub fn of(instance: &Instance) -> Self {
        let descriptors =
            fs::read_dir(format!("/proc/{}/fd", instance.pid())).expect("list descriptors").count();
        Self { descriptors, resident: memory(instance, "VmRSS") }
    }
}

/// A field of an instance's `/proc/PID/status` about memory, in KiB.
pub fn memory(instance: &Instance, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", instance.pid())).expect("read the status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number")
}

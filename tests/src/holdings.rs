//! What a running instance holds of its host. Does not say how much is too much.

use std::fs;

use crate::instance::Instance;

/// The holdings of an instance at one moment, both of its processes together.
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
        let descriptors = instance.processes().into_iter().map(descriptors).sum();
        Self { descriptors, resident: memory(instance, "VmRSS") }
    }
}

/// The number of descriptors that a process has open.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("list descriptors").count()
}

/// A field about memory of `/proc/PID/status`, in KiB, of both processes of an instance together.
pub fn memory(instance: &Instance, field: &str) -> u64 {
    let of = |pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read the status");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    instance.processes().into_iter().map(of).sum()
}

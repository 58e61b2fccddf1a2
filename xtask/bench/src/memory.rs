//! Memory of a process, as the kernel accounts it. What is a lot is others' affair.

use std::fs;

use anyhow::{Context as _, Result};

/// Resident memory in bytes, what is mapped from files included, as `top` shows it.
pub(super) fn resident(pid: u32) -> Result<f64> {
    field(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// The same, of which what several processes have in common, the program itself above all, is divided among them.
pub(super) fn proportional(pid: u32) -> Result<f64> {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

fn field(path: &str, name: &str) -> Result<f64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let kilobytes: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("read {name} in {path}"))?;
    Ok(kilobytes * 1024.0)
}

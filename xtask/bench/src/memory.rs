//! Memory of a process, as the kernel accounts it. What is a lot is others' affair.

use std::fs;

use anyhow::{Context as _, Result};

/// Resident memory in bytes, what is mapped from files included, as `top` shows it.
pub(super) fn resident(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let kilobytes: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("read the resident memory in {path}"))?;
    Ok(kilobytes * 1024.0)
}

//! A unit between a start and its end, as systemd tells of it. Starts and ends nothing.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::control::{processes, property_of};

/// A stretch of time in which a unit is active without a break.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Life {
    /// The main process.
    pub(super) main: u32,
    /// The moment of becoming active, which a reload does not change.
    since: String,
    /// The starts that nobody asked for.
    pub(super) restarts: String,
}

impl Life {
    /// The one of `unit` now.
    pub(super) fn of(unit: &str) -> Result<Self> {
        let property = |name: &str| property_of(unit, name);
        let main = property("MainPID")?.parse().context("read the main process id")?;
        // Asked afterwards: a state of before may be that of a process that was killed.
        ensure!(property("ActiveState")? == "active", "{unit} is {}", property("ActiveState")?);
        ensure!(main != 0, "{unit} has no main process");
        Ok(Self { main, since: property("ActiveEnterTimestampMonotonic")?, restarts: property("NRestarts")? })
    }

    /// The worker process; the first, where another one leaves.
    pub(super) fn worker(&self) -> Result<u32> {
        self.workers()?.first().copied().context("find the worker process")
    }

    /// The worker processes, those that leave as well.
    pub(super) fn workers(&self) -> Result<Vec<u32>> {
        let children = format!("/proc/{0}/task/{0}/children", self.main);
        let children = fs::read_to_string(&children).with_context(|| format!("read {children}"))?;
        let ours = processes();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        Ok(children.filter(|pid| ours.contains(pid)).collect())
    }
}

//! The processes that a server consists of. What they cost is measured elsewhere.

use std::fs;

use anyhow::{Context as _, Result};
use nix::unistd::Pid;

use xtask::server::Server;

/// `server` and its children.
pub(super) fn of(server: &Server) -> Result<Vec<Pid>> {
    let pid = server.pid();
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let pids = children.split_whitespace().map(str::parse).chain([Ok(i32::try_from(pid)?)]);
    pids.map(|pid| Ok(Pid::from_raw(pid.context("read a process id")?))).collect()
}

//! CPU time: of a thread, of another process, and of the kernel's soft interrupts where they are accounted apart. Wall
//! clock time is not read here: on a shared machine it measures the neighbours.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use xtask::server::Server;

use super::processes;

/// Keeps this thread, and every thread and process it starts, on one CPU. Where client and server happen to run decides
/// otherwise over twice the cost, by wakeups and caches, and hides what is to be measured.
pub(super) fn stay_on_one() -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("ask which CPUs may be used")?;
    // The first one has the interrupts of most devices.
    let last = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.context("find a CPU")?).context("choose a CPU")?;
    sched_setaffinity(this, &one).context("stay on one CPU")
}

/// The CPU time of all that handles a connection on this machine.
#[derive(Debug)]
pub(super) struct Meter {
    processes: Vec<ClockId>,
    counts_softirq: bool,
}

impl Meter {
    /// A meter of the calling thread, of `servers` with their children, and of soft interrupts.
    pub(super) fn of(servers: &[&Server]) -> Result<Self> {
        let clock = |pid| clock_getcpuclockid(pid).context("find the CPU clock of a process");
        let mut processes = Vec::new();
        for server in servers {
            processes.extend(processes::of(server)?);
        }
        let processes = processes.into_iter().map(clock).collect::<Result<_>>()?;
        Ok(Self { processes, counts_softirq: softirq_is_apart() })
    }

    /// CPU time so far; only differences mean something.
    pub(super) fn read(&self) -> Result<Duration> {
        let thread =
            clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("read the CPU clock of a thread")?;
        let mut of_processes = Duration::ZERO;
        for clock in &self.processes {
            of_processes += Duration::from(clock_gettime(*clock).context("read the CPU clock of a process")?);
        }
        let softirq = if self.counts_softirq { softirq()? } else { Duration::ZERO };
        Ok(Duration::from(thread) + of_processes + softirq)
    }
}

/// True if soft interrupts, in which the loopback device delivers packets, are not in the time of the task they interrupt.
fn softirq_is_apart() -> bool {
    // Without this option the scheduler charges them to the task, and adding them would count them twice.
    let Ok(release) = fs::read_to_string("/proc/sys/kernel/osrelease") else { return false };
    let wanted = "CONFIG_IRQ_TIME_ACCOUNTING=y";
    let boot = format!("/boot/config-{}", release.trim());
    fs::read_to_string(boot).map_or_else(
        |_| {
            let unpacked = std::process::Command::new("zcat").arg("/proc/config.gz").output();
            unpacked.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(wanted))
        },
        |config| config.contains(wanted),
    )
}

/// The time of all CPUs in soft interrupts. Ticks of 10 ms, but the kernel rounds a running sum, so errors do not add up.
fn softirq() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let ticks: u64 = stat
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(7))
        .and_then(|ticks| ticks.parse().ok())
        .context("read the time in soft interrupts")?;
    Ok(Duration::from_millis(ticks * 10))
}

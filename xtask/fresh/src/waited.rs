//! A process that is waited for, and ended when the user does not want to wait any longer. Knows nothing of what it runs.

use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use xtask::interrupt::Interrupt;
use xtask::shell;

const PAUSE: Duration = Duration::from_millis(50);

/// Runs `command` to its end; any exit but success is an error.
pub(super) fn run_to_end(command: &mut Command, interrupt: &Interrupt) -> Result<()> {
    let status = status(command, None, interrupt)?;
    ensure!(status.success(), "{}: {status}", shell::line(command));
    Ok(())
}

/// Runs `command` to its end, or kills it when it is interrupted or `patience` is over.
pub(super) fn status(
    command: &mut Command,
    patience: Option<Duration>,
    interrupt: &Interrupt,
) -> Result<ExitStatus> {
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("run {}", shell::line(command)))?;
    loop {
        if let Some(status) = child.try_wait().context("wait for a command")? {
            // What it says when it is interrupted is not the news.
            interrupt.check()?;
            return Ok(status);
        }
        let late = patience.is_some_and(|patience| started.elapsed() > patience);
        if late || interrupt.check().is_err() {
            let _ = child.kill();
            child.wait().context("wait for a command")?;
            interrupt.check()?;
            bail!("{}: not done after {} s", shell::line(command), started.elapsed().as_secs());
        }
        thread::sleep(PAUSE);
    }
}

//! The part of `test` that is root: one process that runs the privileged binaries for as long as somebody listens, and says
//! each ending as a line of JSON. Prints nothing for people.

use std::env;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::process::{ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::runner::{self, Bounds, Ending, Job};
use xtask::interrupt::Interrupt;
use xtask::privilege;

/// All that the stage is told, in one line.
#[derive(Debug, Deserialize, Serialize)]
struct Order {
    jobs: Vec<Job>,
    bounds: Bounds,
}

/// Runs `jobs` as root like [`runner::run`]. When we end, for whatever reason, so do they: the stage sees its input end.
pub(super) fn run(
    jobs: Vec<Job>,
    bounds: Bounds,
    interrupt: &Interrupt,
    mut ended: impl FnMut(Ending) -> Result<()>,
) -> Result<()> {
    let mut stage = privilege::as_root(env::current_exe().context("find this program")?, &[])?
        .arg("stage")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the part that runs as root")?;
    let mut order = serde_json::to_vec(&Order { jobs, bounds }).context("write what to run")?;
    order.push(b'\n');
    let mut orders = stage.stdin.take();
    if let Some(orders) = &mut orders {
        orders.write_all(&order).context("say what to run")?;
    }
    let answers = BufReader::new(stage.stdout.take().context("read from the part that runs as root")?);
    let (sender, endings) = mpsc::channel();
    thread::spawn(move || {
        for line in answers.lines() {
            let ending = line.map_err(anyhow::Error::from).and_then(|line| Ok(serde_json::from_str(&line)?));
            if sender.send(ending.context("read from the part that runs as root")).is_err() {
                return;
            }
        }
    });
    loop {
        match endings.recv_timeout(Duration::from_millis(100)) {
            Ok(ending) => ended(ending?)?,
            Err(mpsc::RecvTimeoutError::Timeout) if interrupt.check().is_err() => orders = None,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    drop(orders);
    let status = stage.wait().context("wait for the part that runs as root")?;
    ensure!(status.success(), "run the privileged tests: the part that runs as root: {status}");
    Ok(())
}

/// The stage itself.
pub(super) fn stage() -> Result<ExitCode> {
    let interrupt = Interrupt::watch()?;
    let mut orders = BufReader::new(io::stdin());
    let mut order = String::new();
    orders.read_line(&mut order).context("read what to run")?;
    let Order { jobs, bounds } = serde_json::from_str(&order).context("read what to run")?;
    let is_alone = Arc::new(AtomicBool::new(false));
    let alone = Arc::clone(&is_alone);
    thread::spawn(move || {
        let _ = orders.read(&mut [0]);
        alone.store(true, Ordering::Relaxed);
    });
    let must_stop = || is_alone.load(Ordering::Relaxed) || interrupt.check().is_err();
    runner::run(jobs, bounds, must_stop, |ending| {
        let mut line = serde_json::to_vec(&ending).context("write an ending")?;
        line.push(b'\n');
        io::stdout().write_all(&line).context("say an ending")
    })?;
    Ok(ExitCode::SUCCESS)
}

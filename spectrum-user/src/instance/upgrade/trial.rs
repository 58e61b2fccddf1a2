//! The trial of a program before this process becomes it: run beside, for a bounded time, it says whether it could take over. Both sides
//! of it: the one that asks and judges, and the one that answers. Hands nothing over.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use super::binary::NewProgram;
use super::handed_ledger::{HandedLedger, VERSION};
use crate::config::{ConfigText, Planned};
use crate::model::visible;
use crate::plan::RunTimeSources;
use crate::plan::table::Table;
use crate::registry::Mode;

/// The verb of a trial, which nobody types.
pub(crate) const VERB: &str = "upgrade-trial";

/// The time that a trial may take, and the bindings for which it may take as long again as a second.
const PATIENCE: Duration = Duration::from_secs(5);
const BINDINGS_A_SECOND: usize = 50_000;

/// No program says more on a stream, in bytes.
const MOST: usize = 64 * 1024;

/// So much of what it complains about is told, in characters.
const TOLD: usize = 600;

/// Between two looks whether it has ended.
const GLANCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// The answer of a program that can take over.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct TrialAnswer {
    /// The version of the ledger that it reads.
    pub(crate) ledger: u32,
    /// The version of the program.
    pub(crate) version: String,
    /// True if it goes back where it crashes, or where the alarm goes off that was set before. Versions before had none.
    #[serde(default)]
    pub(crate) heeds_alarm: bool,
}

/// The reason for which this process does not become that program.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrialError {
    /// It takes too long.
    #[error("it has not answered within {} s, and was ended: it is no version of spectrum-user, or this host is too busy", .0.as_secs())]
    Hung(Duration),
    /// It says too much.
    #[error("it says more than {MOST} bytes, so it is no version of spectrum-user")]
    Endless,
    /// It refuses.
    #[error("it ends with {status}: {said}")]
    Refused {
        /// Its end.
        status: ExitStatus,
        /// The reason that it gives, if any.
        said: String,
    },
    /// It answers something else.
    #[error("it answers {0:?}, which makes no sense: it is no version of spectrum-user that can take over")]
    Senseless(String),
    /// It reads another version of the ledger.
    #[error(
        "it reads version {0} of the ledger, and this one writes version {VERSION}: restart the instance instead"
    )]
    Ledger(u32),
    /// It could not be run.
    #[error("run it")]
    Run(#[from] io::Error),
}

/// The end of a program, and what it said.
#[derive(Debug)]
enum TrialOutcome {
    Ended { status: ExitStatus, said: Vec<u8>, complained: Vec<u8> },
    Endless,
    Hung(Duration),
}

/// The answer of `program`, given `ledger` and the words that this process was started with. Blocks, for a bounded time.
pub(super) fn ask(
    program: &NewProgram,
    ledger: BorrowedFd<'_>,
    words: impl Iterator<Item = std::ffi::OsString>,
    bindings: usize,
) -> Result<TrialAnswer, TrialError> {
    let patience = PATIENCE + Duration::from_secs((bindings / BINDINGS_A_SECOND) as u64);
    // Opened anew, so that each reads it from its beginning.
    let ledger = File::open(Path::new("/proc/self/fd").join(ledger.as_raw_fd().to_string()))?;
    let mut command = Command::new(program.place());
    command
        .arg0(&program.path)
        .arg(VERB)
        .arg("--")
        .args(words)
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        // A signal at the terminal is meant for us.
        .process_group(0)
        .stdin(ledger);
    judged(&outcome(command, patience)?)
}

fn judged(outcome: &TrialOutcome) -> Result<TrialAnswer, TrialError> {
    let told = |bytes: &[u8]| -> String {
        let text = String::from_utf8_lossy(bytes);
        visible(text.trim()).chars().take(TOLD).collect()
    };
    let (status, said, complained) = match outcome {
        TrialOutcome::Ended { status, said, complained } => (status, said, complained),
        TrialOutcome::Endless => return Err(TrialError::Endless),
        TrialOutcome::Hung(patience) => return Err(TrialError::Hung(*patience)),
    };
    if !status.success() {
        let reason = told(complained).replace("error: ", "");
        let said = if reason.is_empty() { "it gives no reason".to_owned() } else { reason };
        return Err(TrialError::Refused { status: *status, said });
    }
    let answer: TrialAnswer =
        serde_json::from_slice(said).map_err(|_senseless| TrialError::Senseless(told(said)))?;
    if answer.ledger == VERSION { Ok(answer) } else { Err(TrialError::Ledger(answer.ledger)) }
}

/// A program that is ended, with all that it has started, when nobody waits for it any more.
struct TriedProgram(Child);

impl Drop for TriedProgram {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

fn outcome(mut command: Command, patience: Duration) -> io::Result<TrialOutcome> {
    let deadline = Instant::now() + patience;
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut tried = TriedProgram(child);
    let (mut stdout, mut stderr) = (tried.0.stdout.take(), tried.0.stderr.take());
    for file in [stdout.as_ref().map(|pipe| pipe.as_fd()), stderr.as_ref().map(|pipe| pipe.as_fd())] {
        file.map_or(Ok(()), |file| ioctl_fionbio(file, true))?;
    }
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    loop {
        let mut pipes: Vec<PollFd<'_>> = Vec::new();
        pipes.extend(stdout.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        pipes.extend(stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        match poll(&mut pipes, Some(&GLANCE)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let status = tried.0.try_wait()?;
        if is_read(&mut stdout, &mut said)? {
            stdout = None;
        }
        if is_read(&mut stderr, &mut complained)? {
            stderr = None;
        }
        if said.len() > MOST || complained.len() > MOST {
            return Ok(TrialOutcome::Endless);
        }
        if let Some(status) = status {
            return Ok(TrialOutcome::Ended { status, said, complained });
        }
        if Instant::now() >= deadline {
            return Ok(TrialOutcome::Hung(patience));
        }
    }
}

/// Reads what is there, but not much more than can be of use; whether that was the last of it.
fn is_read(pipe: &mut Option<impl Read>, into: &mut Vec<u8>) -> io::Result<bool> {
    let Some(pipe) = pipe else { return Ok(false) };
    let room = (MOST + 1).saturating_sub(into.len());
    match pipe.take(room as u64).read_to_end(into) {
        Ok(_) => Ok(into.len() <= MOST),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The answer of this program to a trial: it reads `ledger`, has `configure` understand the configuration of it, and plans what it would
/// take over. Touches nothing.
///
/// # Errors
/// It could not take over.
pub(crate) fn try_out(
    ledger: BorrowedFd<'_>,
    configure: impl FnOnce(&[ConfigText]) -> anyhow::Result<Planned>,
) -> anyhow::Result<TrialAnswer> {
    let ledger = HandedLedger::read(ledger)?;
    let planned = configure(&ledger.config)?;
    let plan = ledger.renumbered(&planned.config, planned.plan);
    match ledger.mode {
        Mode::SkLookup => drop(Table::compile(&plan.bindings).context("compile the steering table")?),
        Mode::Tproxy => drop(ledger.firewall(&planned.config, &plan, &RunTimeSources::default())?),
    }
    Ok(TrialAnswer { ledger: VERSION, version: env!("CARGO_PKG_VERSION").to_owned(), heeds_alarm: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(script: &str, patience: Duration) -> Result<TrialAnswer, TrialError> {
        let mut command = Command::new("sh");
        command.args(["-c", script]).process_group(0);
        judged(&outcome(command, patience)?)
    }

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn one_that_can_take_over_says_so() {
        let answer = TrialAnswer { ledger: VERSION, version: "9.9".to_owned(), heeds_alarm: true };
        let said = serde_json::to_string(&answer).unwrap();
        assert_eq!(tried(&format!("echo chatter >&2; echo '{said}'"), LONG).unwrap(), answer);
    }

    #[test]
    fn whatever_else_it_does_is_a_reason_not_to() {
        let refused = |script| tried(script, LONG).unwrap_err().to_string();
        assert_eq!(
            refused("echo 'error: no such verb' >&2; exit 2"),
            "it ends with exit status: 2: no such verb"
        );
        assert_eq!(refused("exit 1"), "it ends with exit status: 1: it gives no reason");
        assert!(refused("kill -9 $$").contains("signal: 9"));
        assert!(refused("echo hello").starts_with("it answers \"hello\", which makes no sense"));
        assert!(refused("").starts_with("it answers \"\""));
        assert!(refused("echo '{\"ledger\":99,\"version\":\"2\"}'").starts_with("it reads version 99"));
        assert!(refused("exec yes").starts_with("it says more than 65536 bytes"));
        assert!(refused("exec yes >&2").starts_with("it says more than 65536 bytes"));
    }

    #[test]
    fn one_that_hangs_is_ended_with_all_that_it_started() {
        let begun = Instant::now();
        let error = tried("sleep 600 | cat", Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, TrialError::Hung(_)), "{error}");
        assert!(begun.elapsed() < LONG);
    }
}

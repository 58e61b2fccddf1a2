//! Test binaries as processes: several at a time, each heard to its end or ended when it falls silent. Does not judge what
//! they say.

use std::collections::VecDeque;
use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

const PAUSE: Duration = Duration::from_millis(10);

/// A binary to be run.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Job {
    /// Its place in the list of suites, by which its ending is told from others.
    pub(super) suite: usize,
    /// The binary.
    pub(super) program: PathBuf,
    /// Its arguments.
    pub(super) arguments: Vec<String>,
    /// Variables that are set for it.
    pub(super) environment: Vec<(String, String)>,
    /// The directory it is run in.
    pub(super) directory: PathBuf,
}

/// The end of a binary, with all that it said.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Ending {
    /// [`Job::suite`].
    pub(super) suite: usize,
    /// The cause.
    pub(super) end: End,
    /// The time it ran.
    pub(super) took: Duration,
    /// Standard output and standard error, as they came.
    pub(super) said: String,
}

/// The cause of an end.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) enum End {
    /// It did itself; all its tests passed.
    Success,
    /// It did itself or by a signal, as said here.
    Failure(String),
    /// It said nothing for too long and was killed.
    Silence,
    /// The whole run was to stop.
    Stop,
}

/// Limits of a run.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Bounds {
    /// Binaries at a time; at least one.
    pub(super) at_a_time: usize,
    /// The time for which one may say nothing. A test that ends is a line, so this is longer than any test takes.
    pub(super) silence: Duration,
}

/// Runs `jobs` in their order and hands over each ending as it comes, until `must_stop`; kills what still runs then.
///
/// # Errors
/// When a binary cannot be started or waited for; the others are killed.
pub(super) fn run(
    jobs: Vec<Job>,
    bounds: Bounds,
    must_stop: impl Fn() -> bool,
    mut ended: impl FnMut(Ending) -> Result<()>,
) -> Result<()> {
    let mut waiting = VecDeque::from(jobs);
    let mut running: Vec<Running> = Vec::new();
    while !(waiting.is_empty() && running.is_empty()) {
        if must_stop() {
            waiting.clear();
            for running in running.drain(..) {
                ended(running.end(Some(End::Stop))?)?;
            }
            break;
        }
        while running.len() < bounds.at_a_time
            && let Some(job) = waiting.pop_front()
        {
            running.push(Running::start(&job)?);
        }
        let mut at = 0;
        while let Some(one) = running.get_mut(at) {
            let end = one.is_over(bounds.silence)?;
            if end.is_none() {
                at += 1;
            } else {
                ended(running.swap_remove(at).end(end)?)?;
            }
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// All that a process said, and the time of its last word.
type Heard = Arc<Mutex<(Vec<u8>, Instant)>>;

/// A process in a group of its own; the group is killed when this is dropped.
#[derive(Debug)]
struct Running {
    suite: usize,
    child: Child,
    heard: Heard,
    listener: Option<JoinHandle<()>>,
    started: Instant,
    is_gone: bool,
}

impl Running {
    fn start(job: &Job) -> Result<Self> {
        let name = job.program.display();
        let (mut ours, theirs) = std::io::pipe().context("make a pipe")?;
        let mut command = Command::new(&job.program);
        command
            .args(&job.arguments)
            .envs(job.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&job.directory)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(theirs.try_clone().context("share a pipe")?)
            .stderr(theirs);
        let child = command.spawn().with_context(|| format!("run {name}"))?;
        // Its copies of the pipe's other end would keep the listener from seeing the end.
        drop(command);
        let started = Instant::now();
        let heard: Heard = Arc::new(Mutex::new((Vec::new(), started)));
        let sink = Arc::clone(&heard);
        let listener = thread::spawn(move || {
            let mut piece = vec![0; 1 << 16];
            while let Ok(length @ 1..) = ours.read(&mut piece) {
                let mut heard = sink.lock().unwrap_or_else(PoisonError::into_inner);
                heard.0.extend_from_slice(piece.get(..length).unwrap_or_default());
                heard.1 = Instant::now();
            }
        });
        Ok(Self { suite: job.suite, child, heard, listener: Some(listener), started, is_gone: false })
    }

    /// The cause of its end, if it has ended or is to.
    fn is_over(&mut self, silence: Duration) -> Result<Option<End>> {
        if let Some(status) = self.child.try_wait().context("wait for a test binary")? {
            return Ok(Some(if status.success() { End::Success } else { End::Failure(status.to_string()) }));
        }
        let last_word = self.heard.lock().unwrap_or_else(PoisonError::into_inner).1;
        Ok((last_word.elapsed() > silence).then_some(End::Silence))
    }

    fn end(mut self, end: Option<End>) -> Result<Ending> {
        let took = self.started.elapsed();
        self.kill().context("end a test binary")?;
        if let Some(listener) = self.listener.take() {
            // Whoever left the group may hold the pipe for ever, so this is not waited for without a bound.
            let deadline = Instant::now() + Duration::from_secs(5);
            while !listener.is_finished() && Instant::now() < deadline {
                thread::sleep(PAUSE);
            }
        }
        let said = std::mem::take(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner).0);
        Ok(Ending {
            suite: self.suite,
            end: end.unwrap_or(End::Stop),
            took,
            said: String::from_utf8_lossy(&said).into_owned(),
        })
    }

    /// Kills what is left of the group, and waits for the binary.
    fn kill(&mut self) -> Result<()> {
        if !self.is_gone {
            // Its number is the group's, and not used again before the last of the group is gone. Fails when none is left.
            let group = Pid::from_raw(i32::try_from(self.child.id()).context("a process id")?);
            let _ = killpg(group, Signal::SIGKILL);
            self.child.wait().context("wait for a test binary")?;
            self.is_gone = true;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Where this fails nothing more can be done about it.
        let _ = self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const BOUNDS: Bounds = Bounds { at_a_time: 2, silence: Duration::from_mins(1) };

    fn shell(suite: usize, script: &str) -> Job {
        Job {
            suite,
            program: PathBuf::from("/bin/sh"),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: vec![("WORD".to_owned(), "hello".to_owned())],
            directory: PathBuf::from("/"),
        }
    }

    fn endings(jobs: Vec<Job>, bounds: Bounds, must_stop: impl Fn() -> bool) -> Vec<Ending> {
        let mut endings = Vec::new();
        run(jobs, bounds, must_stop, |ending| {
            endings.push(ending);
            Ok(())
        })
        .unwrap();
        endings.sort_by_key(|ending| ending.suite);
        endings
    }

    #[test]
    fn endings_say_how_and_what_was_said() {
        let scripts = ["echo $WORD; echo there >&2; pwd", "exit 7", "kill -9 $$", "true"];
        let jobs = scripts.iter().enumerate().map(|(at, script)| shell(at, script)).collect();
        let endings = endings(jobs, BOUNDS, || false);
        let ends: Vec<&End> = endings.iter().map(|ending| &ending.end).collect();
        let failure = |how: &str| End::Failure(how.to_owned());
        assert_eq!(
            ends,
            [&End::Success, &failure("exit status: 7"), &failure("signal: 9 (SIGKILL)"), &End::Success]
        );
        assert_eq!(endings[0].said, "hello\nthere\n/\n");
    }

    #[test]
    fn who_is_silent_for_too_long_is_killed_with_its_children() {
        // The pipe ends with the last process that holds it: were the child alive, the listener would wait.
        let started = Instant::now();
        let bounds = Bounds { at_a_time: 1, silence: Duration::from_millis(300) };
        let jobs = vec![shell(0, "echo begun; sleep 600 & wait"), shell(1, "echo next")];
        let endings = endings(jobs, bounds, || false);
        assert_eq!((&endings[0].end, &*endings[0].said), (&End::Silence, "begun\n"));
        assert_eq!(endings[1].end, End::Success);
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    }

    #[test]
    fn a_stop_ends_what_runs_and_starts_nothing_more() {
        let looks = AtomicUsize::new(0);
        let jobs = (0..3).map(|at| shell(at, "sleep 600 & wait")).collect();
        let endings = endings(jobs, BOUNDS, || looks.fetch_add(1, Ordering::Relaxed) > 5);
        assert_eq!(endings.len(), 2);
        assert!(endings.iter().all(|ending| ending.end == End::Stop));
    }

    #[test]
    fn no_more_run_at_a_time_than_may() {
        let directory = std::env::temp_dir().join(format!("spectrum-runner-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let script = format!("cd {}; touch $$; ls | wc -l; sleep 0.1; rm $$", directory.display());
        let endings = endings((0..6).map(|at| shell(at, &script)).collect(), BOUNDS, || false);
        fs::remove_dir(&directory).unwrap();
        assert!(endings.iter().all(|ending| ["1\n", "2\n"].contains(&&*ending.said)), "{endings:?}");
    }
}

//! Running the firewall's programs, for a bounded time. Knows none of them.

use std::collections::VecDeque;
use std::env;
use std::fs;
use std::io::{self, ErrorKind, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;

use super::TproxyError;
use super::error::Purpose;
use super::interrupt::is_interrupted;

/// Searched after PATH, which often lacks them for services and plain users.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

pub(super) fn find_or_fail(program: &str) -> Result<PathBuf, TproxyError> {
    find_program(program).ok_or_else(|| TproxyError::ProgramMissing {
        purpose: Purpose::Steering,
        program: program.to_owned(),
    })
}

pub(super) fn find_program(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SBIN.map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

pub(super) fn shown(program: &Path) -> String {
    program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()
}

/// The time that a program may take: longer than iptables waits for its lock, and than either takes for as many rules as
/// we give them on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same where it only lists.
const LISTING: Duration = Duration::from_secs(10);

/// The same where it looks whether what was made is still there, which is repeated.
const LOOKING: Duration = Duration::from_secs(3);

/// The name of such a look in errors.
pub(super) const LOOK: &str = "look at";

/// The time between two looks whether it is still wanted.
const GLANCE: Duration = Duration::from_millis(20);

/// The output of `command` when given `input`, or its complaint. It is killed when it takes too long, or when
/// what it does is no longer wanted.
pub(super) fn output(op: &'static str, command: &mut Command, input: &str) -> Result<String, TproxyError> {
    // Nothing is lost when a list is not had, and somebody may be waiting for an answer that has it.
    let patience = match op {
        "list" => LISTING,
        LOOK => LOOKING,
        _ => PATIENCE,
    };
    output_within(patience, op, command, input)
}

/// The programs that were run last. What the kernel tells of their doing comes soon or not at all.
static CHILDREN: Mutex<VecDeque<u32>> = Mutex::new(VecDeque::new());

/// So many are remembered.
const REMEMBERED: usize = 64;

fn children() -> MutexGuard<'static, VecDeque<u32>> {
    let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    while children.len() >= REMEMBERED {
        children.pop_front();
    }
    children
}

/// True if this process ran the one with this id, not long ago.
pub(super) fn is_child(pid: u32) -> bool {
    children().contains(&pid)
}

fn output_within(
    patience: Duration,
    op: &'static str,
    command: &mut Command,
    input: &str,
) -> Result<String, TproxyError> {
    let program = shown(Path::new(command.get_program()));
    let failed = |source| TproxyError::Run { program: program.clone(), source };
    if is_interrupted() {
        return Err(TproxyError::Interrupted { op, program });
    }
    let child = command
        .env("LC_ALL", "C")
        // A Ctrl-C at the terminal is meant for us: it must not cut short the removal of our rules.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    children().push_back(child.id());
    let mut conversation = Conversation::with(child).map_err(failed)?;
    let deadline = Instant::now() + patience;
    let mut input = input.as_bytes();
    loop {
        conversation.exchange(&mut input).map_err(failed)?;
        if let Some(status) = conversation.ended().map_err(failed)? {
            let Conversation { said, complained, .. } = &conversation;
            return if status.success() {
                Ok(String::from_utf8_lossy(said).into_owned())
            } else {
                Err(TproxyError::said(op, &program, status, &String::from_utf8_lossy(complained)))
            };
        }
        if is_interrupted() {
            return Err(TproxyError::Interrupted { op, program });
        }
        if Instant::now() >= deadline {
            return Err(TproxyError::Hung { op, program, waited: patience });
        }
    }
}

/// A running program, with what it has said so far. Killed when dropped before it has ended, with all that it started.
struct Conversation {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    said: Vec<u8>,
    complained: Vec<u8>,
    is_over: bool,
}

impl Conversation {
    fn with(mut child: Child) -> io::Result<Self> {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let conversation =
            Self { child, stdin, stdout, stderr, said: Vec::new(), complained: Vec::new(), is_over: false };
        if let (Some(stdin), Some(stdout), Some(stderr)) =
            (&conversation.stdin, &conversation.stdout, &conversation.stderr)
        {
            ioctl_fionbio(stdin, true)?;
            ioctl_fionbio(stdout, true)?;
            ioctl_fionbio(stderr, true)?;
        }
        Ok(conversation)
    }

    /// Writes and reads what can be, after waiting a little for that.
    fn exchange(&mut self, input: &mut &[u8]) -> io::Result<()> {
        let mut waited_for = Vec::with_capacity(3);
        waited_for.extend(self.stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        waited_for.extend(self.stdout.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        waited_for.extend(self.stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        let glance = Timespec::try_from(if waited_for.is_empty() { MOMENT } else { GLANCE });
        match poll(&mut waited_for, Some(&glance.map_err(io::Error::other)?)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if let Some(stdin) = &mut self.stdin {
            match stdin.write(input) {
                Ok(written) => *input = input.get(written..).unwrap_or_default(),
                // It has given up, and its exit status and message say why.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => *input = &[],
                Err(error) if is_for_now(&error) => {}
                Err(error) => return Err(error),
            }
            if input.is_empty() {
                self.stdin = None;
            }
        }
        if let Some(pipe) = &mut self.stdout
            && read(pipe, &mut self.said)?
        {
            self.stdout = None;
        }
        if let Some(pipe) = &mut self.stderr
            && read(pipe, &mut self.complained)?
        {
            self.stderr = None;
        }
        Ok(())
    }

    /// Its exit status, if it has ended: then all that it said has been read.
    fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(status) = self.child.try_wait()? else { return Ok(None) };
        self.is_over = true;
        // Somebody whom it started may keep the pipes open for ever.
        if let Some(pipe) = &mut self.stdout {
            read(pipe, &mut self.said)?;
        }
        if let Some(pipe) = &mut self.stderr {
            read(pipe, &mut self.complained)?;
        }
        Ok(Some(status))
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended just now, and its group with it.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // What is killed ends, unless the kernel does not let it; then nobody waits for it but the next look.
        for _ in 0..50 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(MOMENT);
        }
    }
}

/// Between two looks at a program that has closed its pipes and is about to end.
const MOMENT: Duration = Duration::from_millis(1);

/// Reads what is there; whether that was the last of it.
fn read(pipe: &mut impl Read, into: &mut Vec<u8>) -> io::Result<bool> {
    match pipe.read_to_end(into) {
        Ok(_) => Ok(true),
        Err(error) if is_for_now(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_for_now(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::tproxy::InterruptGuard;

    fn sh(script: &str, input: &str, patience: Duration) -> Result<String, TproxyError> {
        output_within(patience, "list", Command::new("sh").args(["-c", script]), input)
    }

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn much_goes_in_and_out_at_once() {
        let input = "0123456789\n".repeat(100_000);
        assert_eq!(sh("cat", &input, LONG).unwrap(), input);
        assert_eq!(sh("exec <&-; echo done", &input, LONG).unwrap(), "done\n");
        let error = sh("echo why >&2; exit 3", &input, LONG).unwrap_err();
        assert_eq!(error.to_string(), "list firewall rules with sh: why");
    }

    #[test]
    fn who_started_somebody_that_stays_is_not_waited_for() {
        let begun = Instant::now();
        assert_eq!(sh("sleep 50 & echo done", "", LONG).unwrap(), "done\n");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_all_that_it_started() {
        let mark = format!("{}", 1_000_000 + std::process::id());
        let begun = Instant::now();
        let error = sh(&format!("sleep {mark} | cat"), "", Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, TproxyError::Hung { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(30));
        let is_left = || {
            fs::read_dir("/proc").unwrap().flatten().any(|entry| {
                fs::read(entry.path().join("cmdline"))
                    .is_ok_and(|line| line == format!("sleep\0{mark}\0").as_bytes())
            })
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while is_left() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_no_longer_wanted_is_given_up() {
        let flag = Arc::new(AtomicBool::new(false));
        let guard = InterruptGuard::by(Arc::clone(&flag));
        assert_eq!(sh("echo wanted", "", LONG).unwrap(), "wanted\n");
        let inherited = InterruptGuard::flag();
        let raised = Arc::clone(&flag);
        let raising = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            raised.store(true, Ordering::Relaxed);
        });
        assert!(matches!(sh("sleep 50", "", LONG), Err(TproxyError::Interrupted { .. })));
        raising.join().unwrap();
        assert!(matches!(sh("echo no", "", LONG), Err(TproxyError::Interrupted { .. })));
        let of_another = std::thread::spawn(move || {
            let _guard = InterruptGuard::like(inherited);
            sh("echo no", "", LONG)
        });
        assert!(matches!(of_another.join().unwrap(), Err(TproxyError::Interrupted { .. })));
        {
            let _undo = InterruptGuard::off();
            assert_eq!(sh("echo undone", "", LONG).unwrap(), "undone\n");
        }
        assert!(sh("echo no", "", LONG).is_err());
        drop(guard);
        assert_eq!(sh("echo anew", "", LONG).unwrap(), "anew\n");
    }
}

//! System calls of a running process that fail, or kill it, at will: strace attached to it. Does not start the process.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::deadline::{PATIENCE, eventually, perhaps};
use crate::instance::{Finished, worker_of};
use crate::netns::Netns;
use crate::require::find_in_path;

/// The file, in the namespace's own /run, that strace writes to.
pub const LOG: &str = "/run/strace";

/// The time that strace may take to detach.
const GRACE: Duration = Duration::from_secs(5);

/// An attached strace. Detaches when dropped.
#[derive(Debug)]
pub struct Fault<'netns> {
    netns: &'netns Netns,
    tracer: Child,
}

impl<'netns> Fault<'netns> {
    /// Makes the system calls `call` of `pid`, and of its worker process if it has one, do what `what` says, such as `error=EPERM:when=3`.
    pub fn inject(netns: &'netns Netns, pid: u32, call: &str, what: &str) -> Self {
        let pids: Vec<u32> = std::iter::once(pid).chain(worker_of(pid)).collect();
        Self::inject_into(netns, &pids, call, what)
    }

    /// The same for these processes alone.
    pub fn inject_into(netns: &'netns Netns, pids: &[u32], call: &str, what: &str) -> Self {
        let mut strace = Command::new(find_in_path("strace").expect("strace"));
        strace
            .args(["-f", "-q", "-o", LOG])
            .args(pids.iter().map(|pid| format!("--attach={pid}")))
            .args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:{what}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let tracer = netns.run(|| strace.spawn()).expect("start strace");
        let me = format!("TracerPid:\t{}", tracer.id());
        eventually("strace on every thread", PATIENCE, || {
            let of = |pid| fs::read_dir(format!("/proc/{pid}/task")).expect("list the threads");
            let threads = pids.iter().flat_map(of);
            let is_traced = |thread: std::io::Result<fs::DirEntry>| {
                let status = thread.map(|thread| fs::read_to_string(thread.path().join("status")));
                status.is_ok_and(|status| status.is_ok_and(|status| status.lines().any(|line| line == me)))
            };
            threads.into_iter().all(is_traced).then_some(())
        });
        Self { netns, tracer }
    }

    /// Detaches, and tells whether anything was made to happen.
    pub fn happened(mut self) -> bool {
        self.detach();
        self.netns.run(|| fs::read_to_string(LOG)).expect("read what strace wrote").contains("INJECTED")
    }

    /// Detaches, and tells whether anything was killed.
    pub fn killed(mut self) -> bool {
        !self.detach() || self.netns.run(|| fs::read_to_string(LOG)).is_ok_and(|calls| is_kill(&calls))
    }

    /// True unless it hangs, as it may when it has killed its tracee.
    fn detach(&mut self) -> bool {
        let pid = Pid::from_raw(i32::try_from(self.tracer.id()).expect("a process id"));
        // Fails when it has ended with its tracee.
        let _ = kill(pid, Signal::SIGTERM);
        let ended = perhaps(GRACE, || self.tracer.try_wait().ok().flatten());
        if ended.is_none() {
            // strace may miss the end of a thread of a tracee that it has killed, and then waits for it whatever it is
            // told. The kernel detaches what a dead tracer has traced (ptrace(2)).
            let _ = self.tracer.kill();
            let _ = self.tracer.wait();
        }
        ended.is_some()
    }
}

impl Drop for Fault<'_> {
    fn drop(&mut self) {
        self.detach();
    }
}

/// True if the strace by which `pid` was started, and which wrote to [`LOG`], has killed anything but `pid`, which has ended by itself.
pub fn has_killed_beside(netns: &Netns, pid: u32) -> bool {
    let end = format!("{pid} +++ ");
    // It writes when it ends, a moment after whom it traced, or hangs because it has killed somebody.
    let calls = perhaps(GRACE, || {
        let calls = netns.run(|| fs::read_to_string(LOG)).ok()?;
        calls.lines().any(|line| line.starts_with(&end)).then_some(calls)
    });
    calls.is_none_or(|calls| is_kill(&calls))
}

fn is_kill(calls: &str) -> bool {
    calls.contains("killed by SIGKILL")
}

/// The processes in `netns` whose program is called `name`.
#[must_use]
pub fn processes(netns: &Netns, name: &str) -> Vec<u32> {
    let of = |pid: u32| {
        let directory = format!("/proc/{pid}");
        let is_there =
            fs::metadata(format!("{directory}/ns/net")).is_ok_and(|net| net.ino() == netns.inode());
        let words = fs::read(format!("{directory}/cmdline")).unwrap_or_default();
        let program = words.split(|byte| *byte == 0).next().unwrap_or_default();
        is_there && program.ends_with(name.as_bytes())
    };
    let names = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).filter(|pid| of(*pid)).collect()
}

/// True if it ended well, or was killed; whatever else happens to it is said.
#[must_use]
pub fn is_explained(finished: &Finished) -> bool {
    let said = finished.stderr.trim();
    match finished.status.code() {
        None | Some(0) => true,
        Some(code) => [1, 77].contains(&code) && !said.is_empty() && !said.contains("panicked"),
    }
}

//! A network namespace of a test's own, with a mount namespace to match. Never touches the host's network, and needs
//! no clean-up by name: the kernel frees both when the last descriptor and process are gone, however a test ends.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace with loopback up, and a mount namespace with its own /sys, /run and, where the kernel has it, bpffs.
#[derive(Debug)]
pub struct Netns {
    net: File,
    mounts: File,
}

impl Netns {
    /// Makes the namespaces; fails where the test has no right to.
    ///
    /// # Errors
    /// Whatever the kernel says, mostly that it is not permitted.
    pub fn create() -> io::Result<Self> {
        // Namespaces belong to a thread and are inherited by its threads and processes, so a thread that is thrown
        // away makes them, and `run` enters them on another one. No other test's thread is ever inside.
        let netns =
            thread::scope(|scope| scope.spawn(unshare_this_thread).join()).expect("make a namespace")?;
        netns.ip("link set lo up");
        Ok(netns)
    }

    /// Runs `inside` on a thread in the namespaces; threads and processes it starts are in them too. Panics travel.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let outcome = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter().expect("enter the test's namespaces");
                    inside()
                })
                .join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a thread in the namespaces that may outlive the call.
    pub fn spawn<T: Send + 'static>(
        &self,
        inside: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        // A new thread inherits its parent's namespaces, so it need not borrow `self`.
        self.run(|| thread::spawn(inside))
    }

    /// Runs a command line (split at spaces, no shell) and returns what it printed; panics when it fails.
    pub fn command(&self, line: &str) -> String {
        let Output { status, stdout, stderr } = self.output(line);
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{line}: {status}\n{stderr}");
        String::from_utf8(stdout).expect("output in UTF-8")
    }

    /// Runs a command line that may fail.
    pub fn output(&self, line: &str) -> Output {
        let mut words = line.split(' ');
        let program = words.next().expect("a command");
        self.run(|| Command::new(program).args(words).output())
            .unwrap_or_else(|error| panic!("run {line}: {error}"))
    }

    /// Runs `ip` with these words.
    pub fn ip(&self, words: &str) -> String {
        self.command(&format!("ip {words}"))
    }

    /// Sets a kernel parameter of the namespace, such as `net/ipv4/tcp_syncookies`.
    pub fn sysctl(&self, name: &str, value: &str) {
        self.run(|| fs::write(format!("/proc/sys/{name}"), value))
            .unwrap_or_else(|error| panic!("set {name}: {error}"));
    }

    /// A path that names the network namespace to other processes for as long as this value lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd()).into()
    }

    /// The inode by which the kernel knows the network namespace.
    pub fn inode(&self) -> u64 {
        self.net.metadata().expect("stat the namespace").ino()
    }

    fn enter(&self) -> nix::Result<()> {
        setns(&self.net, CloneFlags::CLONE_NEWNET)?;
        // A thread that shares its working directory with others may not change its mount namespace.
        unshare(CloneFlags::CLONE_FS)?;
        setns(&self.mounts, CloneFlags::CLONE_NEWNS)
    }
}

fn unshare_this_thread() -> io::Result<Netns> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    let nothing: Option<&str> = None;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    // sysfs shows the interfaces of the namespace it was mounted in. A private /run holds the program's state and
    // the lock of iptables, so tests neither see nor wait for each other.
    for (kind, place) in [("sysfs", "/sys"), ("bpf", "/sys/fs/bpf"), ("tmpfs", "/run")] {
        // A kernel without bpf(2) has no place for its files.
        if kind != "bpf" || std::path::Path::new(place).exists() {
            mount(Some(kind), place, Some(kind), MsFlags::empty(), nothing)?;
        }
    }
    Ok(Netns {
        net: File::open("/proc/thread-self/ns/net")?,
        mounts: File::open("/proc/thread-self/ns/mnt")?,
    })
}

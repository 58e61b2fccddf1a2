//! A throw-away network namespace around this process and its children. It has no name: the kernel takes it, and all
//! that is in it, back when the last process in it ends, however that happens.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::shell;

/// Moves this process into a network namespace of its own, with `lo` up, a bpffs and an empty `/run`.
///
/// To be called before any thread is started: only the calling thread moves.
pub fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("enter a network namespace")?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .context("keep mounts private")?;
    // State files and pins of what runs here must not outlive the namespace.
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), nothing).context("mount /run")?;
    // A kernel without BPF has no place for it; whoever needs it says so better than we could.
    let _ = mount(Some("bpffs"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), nothing);
    raise_loopback()
}

/// Moves the calling thread, and the children it will have, into one more network namespace. After [`enter`].
pub fn enter_another() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("enter a network namespace")?;
    raise_loopback()
}

/// Brings `lo` up in the network namespace of the calling thread.
pub fn raise_loopback() -> Result<()> {
    shell::stdout(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    Ok(())
}

/// The number by which the kernel names the network namespace of this process.
pub fn inode() -> Result<u64> {
    let path = "/proc/self/ns/net";
    Ok(fs::metadata(path).with_context(|| format!("look at {path}"))?.ino())
}

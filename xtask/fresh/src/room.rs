//! A root with namespaces of its own: mounts, processes, host name, and the network if asked. All that runs in it, and all
//! that is mounted, ends with its first process. Decides nothing about what runs.

use std::convert::Infallible;
use std::env;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{Pid, pivot_root};

use xtask::interrupt::Interrupt;
use xtask::namespace;

use super::base;
use super::registries;
use super::waited::status;

/// A root to run things in.
#[derive(Clone, Debug)]
pub(super) struct Room<'a> {
    root: &'a Path,
    /// Directories of this host that are seen in it, read-only, each with where.
    shown: Vec<(PathBuf, PathBuf)>,
    path: String,
}

/// Whose network is seen in a room.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Network {
    /// This host's, for downloads.
    Host,
    /// A network of its own, with `lo` up and nothing else.
    Own,
}

/// The first process of a room.
#[derive(Debug, clap::Args)]
pub(crate) struct RoomOptions {
    #[arg(long)]
    root: PathBuf,
    #[arg(long)]
    network: Network,
    /// FROM:TO
    #[arg(long)]
    show: Vec<String>,
    /// The directory to run the command in
    #[arg(long)]
    directory: PathBuf,
    /// Instead of a command run the root's own init, in a control group of this name
    #[arg(long)]
    boot: Option<String>,
    #[arg(last = true)]
    words: Vec<String>,
}

impl<'a> Room<'a> {
    /// A room in `root`, which is not used by another.
    pub(super) fn new(root: &'a Path) -> Self {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        Self { root, shown: Vec::new(), path }
    }

    /// Also shows `from`, of this host, as `to`.
    pub(super) fn show(&mut self, from: &Path, to: &Path) {
        self.shown.push((from.to_path_buf(), to.to_path_buf()));
    }

    /// Also looks for programs in `directory`, first.
    pub(super) fn prefer(&mut self, directory: &str) {
        self.path = format!("{directory}:{}", self.path);
    }

    /// Runs `words` in `directory`.
    pub(super) fn status(
        &self,
        words: &[&str],
        directory: &str,
        network: Network,
        interrupt: &Interrupt,
    ) -> Result<ExitStatus> {
        let mut command = self.command(network, directory, &[])?;
        status(command.arg("--").args(words), None, interrupt)
    }

    /// Runs the room's own init with a network of its own, until it ends by itself.
    pub(super) fn boot(&self, patience: Duration, interrupt: &Interrupt) -> Result<ExitStatus> {
        let group = format!("spectrum-fresh-{}", process::id());
        let mut command = self.command(Network::Own, "/", &["--boot", &group])?;
        let done = status(&mut command, Some(patience), interrupt);
        remove_group(&group);
        done
    }

    fn command(&self, network: Network, directory: &str, more: &[&str]) -> Result<Command> {
        let mut command = base::unshare(&["--mount", "--propagation=private", "--pid", "--uts", "--ipc"])?;
        if network == Network::Own {
            command.arg("--net");
        }
        // By this name it is found even if cargo has built another in its place meanwhile.
        command.arg("--").arg(format!("/proc/{}/exe", process::id()));
        command.args(["room", "--root"]).arg(self.root);
        command.args(["--network", if network == Network::Own { "own" } else { "host" }]);
        for (from, to) in &self.shown {
            command.arg("--show").arg(format!("{}:{}", from.display(), to.display()));
        }
        command.args(["--directory", directory]).args(more);
        command.env_clear().env("PATH", &self.path).envs(registries::environment());
        command.envs([("HOME", "/root"), ("USER", "root"), ("LANG", "C.UTF-8")]);
        for name in ["TERM", "NO_COLOR"] {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
        Ok(command)
    }
}

/// Makes the room around this process, and runs what is asked for in it. In the new namespaces, as their first process.
pub(crate) fn room(options: &RoomOptions) -> Result<ExitCode> {
    if options.network == Network::Own {
        namespace::raise_loopback()?;
    }
    furnish(options)?;
    if let Some(group) = &options.boot {
        enter_group(&options.root, group)?;
    }
    enter(&options.root)?;
    if options.boot.is_some() {
        let Err(error) = boot();
        return Err(error);
    }
    let (program, arguments) = options.words.split_first().context("run nothing in a room")?;
    let mut command = Command::new(program);
    let child = command
        .args(arguments)
        .current_dir(&options.directory)
        .spawn()
        .with_context(|| format!("run {program} in a room"))?;
    let child = Pid::from_raw(i32::try_from(child.id()).context("name a child")?);
    // The first process is the parent of all whose own parent has ended, and has to wait for them too.
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => bail!("{program}: {signal}"),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("wait in a room"),
        }
    }
}

fn furnish(options: &RoomOptions) -> Result<()> {
    let root = &options.root;
    let at = |path: &str| root.join(path);
    bind(root, root)?;
    make("proc", &at("proc"), "")?;
    make("sysfs", &at("sys"), "")?;
    // A kernel without BPF has no place for it.
    let _ = make("bpf", &at("sys/fs/bpf"), "");
    make("tmpfs", &at("run"), "mode=755")?;
    make("tmpfs", &at("dev"), "mode=755")?;
    for directory in ["dev/pts", "dev/shm", "dev/net"] {
        fs::create_dir(at(directory)).with_context(|| format!("create {directory} of a room"))?;
    }
    make("devpts", &at("dev/pts"), "newinstance,ptmxmode=0666,mode=620")?;
    make("tmpfs", &at("dev/shm"), "mode=1777")?;
    for (link, target) in [
        ("dev/ptmx", "pts/ptmx"),
        ("dev/fd", "/proc/self/fd"),
        ("dev/stdin", "/proc/self/fd/0"),
        ("dev/stdout", "/proc/self/fd/1"),
        ("dev/stderr", "/proc/self/fd/2"),
    ] {
        std::os::unix::fs::symlink(target, at(link)).with_context(|| format!("link {link} of a room"))?;
    }
    for device in ["null", "zero", "full", "random", "urandom", "tty", "net/tun"] {
        let (from, to) = (Path::new("/dev").join(device), at("dev").join(device));
        if from.exists() {
            File::create(&to).with_context(|| format!("create {}", to.display()))?;
            bind(&from, &to)?;
        }
    }
    for shown in &options.show {
        let (from, to) = shown.split_once(':').context("show FROM:TO")?;
        let to = at(to.trim_start_matches('/'));
        fs::create_dir_all(&to).with_context(|| format!("create {}", to.display()))?;
        bind(Path::new(from), &to)?;
        let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, &to, None::<&str>, again, None::<&str>)
            .with_context(|| format!("make {} read-only", to.display()))?;
    }
    Ok(())
}

fn make(kind: &str, to: &Path, options: &str) -> Result<()> {
    mount(Some(kind), to, Some(kind), MsFlags::empty(), Some(options))
        .with_context(|| format!("mount {kind} as {}", to.display()))
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("show {} as {}", from.display(), to.display()))
}

/// An init believes that the control groups it sees are all there are: it gets a namespace that begins at a group of its
/// own.
fn enter_group(root: &Path, group: &str) -> Result<()> {
    let groups = root.join("sys/fs/cgroup");
    make("cgroup2", &groups, "")?;
    let ours = groups.join(group);
    fs::create_dir(&ours).with_context(|| format!("create control group {group}"))?;
    fs::write(ours.join("cgroup.procs"), process::id().to_string())
        .with_context(|| format!("enter control group {group}"))?;
    unshare(CloneFlags::CLONE_NEWCGROUP).context("enter a namespace of control groups")?;
    umount2(&groups, MntFlags::empty()).context("unmount the host's control groups")?;
    make("cgroup2", &groups, "")
}

/// Removes `group` and those below it, whose processes have ended. In the mount namespace of this process, which is its
/// own.
fn remove_group(group: &str) {
    let groups = env::temp_dir().join(group);
    let removed = fs::create_dir_all(&groups).context("create a directory").and_then(|()| {
        make("cgroup2", &groups, "")?;
        let removed = remove_tree(&groups.join(group));
        umount2(&groups, MntFlags::MNT_DETACH).context("unmount control groups")?;
        removed.context("remove a control group")
    });
    let _ = fs::remove_dir(&groups);
    if let Err(error) = removed {
        eprintln!("remove control group {group}: {error:#}");
    }
}

/// The files of a control group go with its directory, and cannot be removed.
fn remove_tree(directory: &Path) -> std::io::Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

/// Makes `root` all there is.
fn enter(root: &Path) -> Result<()> {
    env::set_current_dir(root).with_context(|| format!("enter {}", root.display()))?;
    // The old root lies on the new one for a moment; nothing of this host is seen after that.
    pivot_root(".", ".").with_context(|| format!("make {} the root", root.display()))?;
    umount2(".", MntFlags::MNT_DETACH).context("let go of the old root")?;
    env::set_current_dir("/").context("enter the root of a room")
}

fn boot() -> Result<Infallible> {
    // By this variable systemd knows that the hardware is not its business.
    let error = Command::new("/sbin/init").env_clear().env("container", "spectrum-fresh").exec();
    Err(error).context("run /sbin/init of a room")
}

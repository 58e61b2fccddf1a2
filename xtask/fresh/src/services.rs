//! What the set-up of the tests does to a host that has services of its own, looked at from outside: by links, init
//! scripts and systemctl. Runs in a room, on what it is the only one to use.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use xtask::setup::{self, Purpose};
use xtask::shell;

/// Debian's, installed before the set-up, running and enabled.
const RUNNING: &str = "ssh";

/// Installed and disabled before the set-up; what needs it is missing all the same.
const STOPPED: &str = "nginx";

/// A unit of the host's own that has the name of one that a package brings.
const OWN: &str = "prometheus";

/// Installed and removed again before the set-up, but for its configuration.
const REMOVED: &str = "haproxy";

const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Links, so that they are in the state whole.
const BOOT: [&str; 8] = [
    "/etc/rc2.d",
    "/etc/rc3.d",
    "/etc/rc4.d",
    "/etc/rc5.d",
    "/etc/rcS.d",
    "/etc/systemd/system",
    "/etc/systemd/system/multi-user.target.wants",
    "/etc/systemd/system/sockets.target.wants",
];

const PATIENCE: Duration = Duration::from_mins(2);

/// Sets up what the tests need, again, and after it was killed; looks at all services each time.
pub(super) fn check() -> Result<ExitCode> {
    let is_booted = is_booted();
    install(&["openssh-server", "nginx-light", "haproxy"])?;
    apt_get(&["remove", "haproxy"])?;
    // Without an init nobody has started it.
    control(&[RUNNING, "start"])?;
    control(&[STOPPED, "stop"])?;
    disable(STOPPED)?;
    let unit = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";
    fs::write(format!("/etc/systemd/system/{OWN}.service"), unit).context("write a unit")?;
    if is_booted {
        shell::run(Command::new("systemctl").arg("daemon-reload"))?;
    } else {
        // A host may have a policy of its own, even one that lets every package start what it brings.
        fs::write(POLICY, "#!/bin/sh\n# the host's\nexit 0\n")
            .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)))
            .context("write a policy")?;
    }
    let kept = || [RUNNING, STOPPED, OWN].map(State::of);
    let before = kept();
    ensure!(before[0].runs && !before[0].links.is_empty(), "{RUNNING} should run: {:?}", before[0]);
    ensure!(!before[1].runs && before[1].links.is_empty(), "{STOPPED} should be stopped: {:?}", before[1]);
    let policy = fs::read_to_string(POLICY).ok();

    let same = |when: &str| {
        for (before, now) in before.iter().zip(kept()) {
            ensure!(*before == now, "{when}: was {before:?}, is {now:?}");
        }
        for service in setup::services(Purpose::Test) {
            if ![RUNNING, STOPPED, OWN].contains(&service) {
                let now = State::of(service);
                ensure!(!now.runs && now.links.is_empty(), "{when}: a package's service is on: {now:?}");
            }
        }
        ensure!(fs::read_to_string(POLICY).ok() == policy, "{when}: {POLICY} is another");
        ensure!(!Path::new("/var/lib/spectrum-setup").exists(), "{when}: the record is still there");
        println!("ok: {when}, every service is as it was");
        Ok(())
    };
    set_up(&mut command()?)?;
    same("after the set-up")?;
    set_up(&mut command()?)?;
    same("after another set-up")?;
    for _ in 0..3 {
        apt_get(&["purge", "haproxy", "iperf3", "strace"])?;
        if kill_in_the_middle()? {
            set_up(&mut command()?)?;
            same("after a set-up that was killed, and another")?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    bail!("kill a set-up in the middle: it was over each time");
}

/// The state of a service, as somebody who looks at a host sees it.
#[derive(Debug, Eq, PartialEq)]
struct State {
    service: &'static str,
    runs: bool,
    /// The process id of its first process, if systemd knows it.
    pid: String,
    links: Vec<PathBuf>,
}

impl State {
    fn of(service: &'static str) -> Self {
        let quiet = |command: &mut Command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let (runs, pid) = if is_booted() {
            let mut show = Command::new("systemctl");
            show.args(["show", "--property=MainPID", "--value", service]);
            let pid = shell::stdout(&mut show).unwrap_or_default().trim().to_owned();
            (quiet(Command::new("systemctl").args(["is-active", service])), pid)
        } else {
            let pid = fs::read_to_string(format!("/run/{service}d.pid")).unwrap_or_default();
            let script = format!("/etc/init.d/{service}");
            (Path::new(&script).exists() && quiet(Command::new(script).arg("status")), pid.trim().to_owned())
        };
        Self { service, runs, pid, links: links(service) }
    }
}

fn links(service: &str) -> Vec<PathBuf> {
    let unit = format!("{service}.service");
    let starts = |directory: &str, name: &str| {
        if directory.starts_with("/etc/rc") {
            name.starts_with('S') && name.get(3..) == Some(service)
        } else {
            name == unit
        }
    };
    let mut links = Vec::new();
    for directory in BOOT {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if starts(directory, &entry.file_name().to_string_lossy()) {
                links.push(entry.path());
            }
        }
    }
    links.sort_unstable();
    links
}

fn is_booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn control(words: &[&str; 2]) -> Result<()> {
    shell::stdout(Command::new("service").args(words)).map(|_| ())
}

fn disable(service: &str) -> Result<()> {
    if is_booted() {
        return shell::stdout(Command::new("systemctl").args(["disable", service])).map(|_| ());
    }
    shell::stdout(Command::new("update-rc.d").args([service, "disable"]))?;
    for link in links(service) {
        fs::remove_file(&link).with_context(|| format!("remove {}", link.display()))?;
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<()> {
    apt_get(&[&["install"], packages].concat())
}

fn apt_get(words: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["--quiet", "--yes", "--no-install-recommends"]).args(words);
    shell::stdout(command.env("DEBIAN_FRONTEND", "noninteractive")).map(|_| ())
}

/// The set-up of the tests.
fn command() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.arg("set-up-tests");
    Ok(command)
}

fn set_up(command: &mut Command) -> Result<()> {
    let output = shell::output(command)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let of_ours =
        |line: &&str| line.starts_with("+ ") || line.starts_with("setting up") || line.contains("could not");
    said.lines().filter(of_ours).for_each(|line| println!("   {line}"));
    ensure!(
        output.status.success(),
        "{}: {}: {}{said}",
        shell::line(command),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Kills a set-up, and the apt that it runs, once a package has made what would start its service. Whether it was in
/// time.
fn kill_in_the_middle() -> Result<bool> {
    let mut command = command()?;
    command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut child = command.spawn().context("run the set-up")?;
    let group = Pid::from_raw(i32::try_from(child.id()).context("name a child")?);
    let started = Instant::now();
    while links(REMOVED).is_empty() {
        if child.try_wait().context("wait for the set-up")?.is_some() || started.elapsed() > PATIENCE {
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    let _ = killpg(group, Signal::SIGKILL);
    child.wait().context("wait for the set-up")?;
    // dpkg has a session of its own, and goes on for a moment with nobody behind it.
    while is_dpkg_there() && started.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(20));
    }
    Ok(Path::new("/var/lib/spectrum-setup/brought").exists())
}

fn is_dpkg_there() -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| fs::read_to_string(process.path().join("comm")).ok())
        .any(|name| name.trim() == "dpkg")
}

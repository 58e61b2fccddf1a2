//! The service spectrum under a systemd that runs here, as a person handles it: its configuration, systemctl, and a client. Judges
//! nothing but what it is asked about.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use xtask::demo;
use xtask::shell;

/// The configuration, where the unit expects it.
pub(super) const CONFIG: &str = "/etc/spectrum/spectrum.toml";

/// The unit.
pub(super) const UNIT: &str = "spectrum";

/// An address that the host gets late, as one does whose network comes up after everything else.
pub(super) const LATE: &str = "198.51.100.1";

/// A service whose origin has a name, and nobody who could be asked for it.
const NAMED: &str = "[[service]]\nname = \"named\"\norigins = [\"origin.example:80\"]\n\
                     bindings = [{ prefix = \"203.0.113.0/24\", ports = \"80\" }]\n";

/// The registries of the units that are tried.
const REGISTRIES: [&str; 2] = ["/run/spectrum", "/run/spectrum-edge"];

const PATIENCE: Duration = Duration::from_mins(1);

/// The `nth` service of ours, in a configuration.
pub(super) fn service(nth: usize) -> String {
    let prefix = demo::PREFIXES[nth];
    format!(
        "[[service]]\nname = \"s{nth}\"\nrespond = \"hello\"\nbindings = [{{ prefix = \"{prefix}\", ports = \"1-65535\" }}]\n"
    )
}

/// Fails if the `nth` service does not answer who dials an address of its.
pub(super) fn answers(nth: usize) -> Result<()> {
    let address: SocketAddr = ["192.0.2.77:31337", "[2001:db8::77]:31337"][nth].parse().context("parse")?;
    demo::dial::dial(address).map(|_| ())
}

/// Writes a configuration with these services, and one that nobody can reach.
pub(super) fn configure(services: &[String]) -> Result<()> {
    let text = format!("[admin]\nlisten = \"{LATE}:9180\"\n{NAMED}{}", services.concat());
    fs::write(CONFIG, text).with_context(|| format!("write {CONFIG}"))
}

/// Runs systemctl; fails as it does.
pub(super) fn systemctl(words: &[&str]) -> Result<()> {
    shell::stdout(Command::new("systemctl").args(words)).map(|_| ())
}

/// A property of the unit.
pub(super) fn property(name: &str) -> Result<String> {
    property_of(UNIT, name)
}

/// A property of a unit.
pub(super) fn property_of(unit: &str, name: &str) -> Result<String> {
    let mut show = Command::new("systemctl");
    show.args(["show", "--value", "--property", name, unit]);
    Ok(shell::stdout(&mut show)?.trim().to_owned())
}

/// True if systemd says that it is.
pub(super) fn is_active() -> Result<bool> {
    Ok(property("ActiveState")? == "active")
}

/// Fails if there is anything of an instance.
pub(super) fn nothing_is_left() -> Result<()> {
    let held = demo::held()?;
    ensure!(held == 0, "after the stop {held} lines of links, routes and rules are left");
    let claims = REGISTRIES.into_iter().flat_map(|registry| entries(Path::new(registry)));
    let left: Vec<PathBuf> =
        claims.flat_map(|of_namespace| entries(&of_namespace)).filter(|path| is_of_instance(path)).collect();
    ensure!(left.is_empty(), "after the stop {left:?} is left");
    let processes = processes();
    ensure!(processes.is_empty(), "after the stop processes {processes:?} are left");
    Ok(())
}

/// The files of an instance in a registry.
fn is_of_instance(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json" || extension == "sock")
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The ids of the processes that run the program and serve, wherever they are.
pub(super) fn processes() -> Vec<u32> {
    let mut processes = Vec::new();
    for path in entries(Path::new("/proc")) {
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()) else {
            continue;
        };
        // Processes end while one looks at them.
        let words = fs::read(path.join("cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0);
        let program = words.next().unwrap_or_default();
        let is_ours = program.ends_with(b"spectrum-user");
        if is_ours && words.next().is_some_and(|word| word == b"--config" || word == b"worker-process") {
            processes.push(pid);
        }
    }
    processes.sort_unstable();
    processes
}

/// Waits until it is so.
pub(super) fn wait_until(what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !is_so()? {
        if started.elapsed() > PATIENCE {
            bail!("wait until {what}: not so after {} s", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(100));
    }
    println!("ok: {what} (after {:.1} s)", started.elapsed().as_secs_f32());
    Ok(())
}

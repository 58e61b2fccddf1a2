//! The program in a container as the package's recipe has it run: the very command that stands there. Runs in a room with a
//! network of its own, in which the image has been built.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use xtask::demo;
use xtask::shell;

use super::control::CONFIG;

/// The directory that the image is built in, with the package.
pub(super) const CONTEXT: &str = "/root/package";

/// The recipe.
pub(super) const RECIPE: &str = "/root/Containerfile";

/// The image of a clean Debian.
pub(super) const DEBIAN: &str = "localhost/debian:bookworm";

/// The image that is built, as the recipe calls it.
pub(super) const IMAGE: &str = "spectrum";

/// What a host that is a container itself may not do, or has not: to raise limits, and control groups.
const NESTED: &str = " --cgroups disabled --ulimit host";

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs it with and without the filter of system calls that podman has, reloads it, and ends it.
pub(super) fn check() -> Result<ExitCode> {
    // podman looks at them even if it is to make none.
    let groups = Path::new("/sys/fs/cgroup");
    if !groups.join("cgroup.controllers").exists() {
        shell::run(Command::new("mount").args(["-t", "cgroup2", "cgroup2"]).arg(groups))?;
    }
    for directory in ["/etc/spectrum", "/run/spectrum"] {
        fs::create_dir_all(directory).with_context(|| format!("create {directory}"))?;
    }
    let recipe = fs::read_to_string(RECIPE).with_context(|| format!("read {RECIPE}"))?;
    let run = command(&recipe).context("find in the recipe how it is run")?;
    live(&run, "sk-lookup")?;
    live(&run.replace(" --security-opt seccomp=unconfined", ""), "tproxy")?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the container by `run`, which is to steer by `mode`, has it reload, and stops it.
fn live(run: &str, mode: &str) -> Result<()> {
    configure("80")?;
    sh(run)?;
    let outcome = serve(mode);
    if outcome.is_err() {
        let log = shell::output(Command::new("podman").args(["logs", IMAGE]))?;
        eprintln!("{}", String::from_utf8_lossy(&log.stderr));
    }
    outcome?;
    sh("podman stop --time 60 spectrum")?;
    let status =
        shell::stdout(Command::new("podman").args(["inspect", "--format", "{{.State.ExitCode}}", IMAGE]))?;
    ensure!(status.trim() == "0", "the container ended with {}", status.trim());
    sh("podman rm spectrum")?;
    let held = demo::held()?;
    ensure!(held == 0, "after the stop {held} lines of links, routes and rules are left");
    println!("ok: in a container by {mode}: started, reloaded, stopped, nothing is left");
    Ok(())
}

fn serve(mode: &str) -> Result<()> {
    let ready = format!("ready mode={mode} ");
    await_it(&ready, || {
        let log = shell::stdout(Command::new("podman").args(["logs", IMAGE]))?;
        ensure!(log.contains(&ready), "it said {log:?}");
        Ok(())
    })?;
    let answers = |port: u16| {
        demo::dial::dial(([192, 0, 2, 77], port).into())?;
        demo::dial::dial(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77], port).into())
    };
    answers(80)?;
    configure("80,8080")?;
    sh("podman kill --signal HUP spectrum")?;
    await_it("a reload", || answers(8080).map(drop))
}

/// The command that the recipe shows, on one line.
fn command(recipe: &str) -> Option<String> {
    let mut lines = recipe.lines().map(|line| line.trim_start_matches(['#', ' ']));
    let first = lines.by_ref().find(|line| line.starts_with("podman run "))?;
    let mut command = first.to_owned();
    while let Some(unfinished) = command.strip_suffix('\\') {
        command = format!("{unfinished}{}", lines.next()?);
    }
    // The host's own are lower where it is a container.
    let is_limit = |word: &&str| !word.starts_with("nofile=") && *word != "--ulimit";
    let words: Vec<&str> = command.split_whitespace().filter(is_limit).collect();
    Some(words.join(" ").replacen("podman run", &format!("podman run{NESTED}"), 1))
}

fn configure(ports: &str) -> Result<()> {
    let [four, six] = demo::PREFIXES;
    let text = format!(
        "[[service]]\nname = \"hello\"\nrespond = \"hello\"\n\
         bindings = [{{ prefix = \"{four}\", ports = \"{ports}\" }}, {{ prefix = \"{six}\", ports = \"{ports}\" }}]\n"
    );
    fs::write(CONFIG, text).with_context(|| format!("write {CONFIG}"))
}

fn sh(line: &str) -> Result<()> {
    println!("# {line}");
    shell::stdout(Command::new("sh").args(["-c", line])).map(drop)
}

fn await_it(what: &str, probe: impl Fn() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    loop {
        match probe() {
            Ok(()) => return Ok(()),
            Err(error) if begun.elapsed() > PATIENCE => bail!("wait for {what}: {error:#}"),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipe_says_how_it_is_run() {
        let recipe =
            fs::read_to_string(xtask::workspace::root().join("packaging/container/Containerfile")).unwrap();
        let command = command(&recipe).unwrap();
        for part in [
            NESTED,
            " --cap-drop all --cap-add BPF,",
            " --security-opt seccomp=unconfined ",
            "/run/spectrum spectrum",
        ] {
            assert!(command.contains(part), "{command}");
        }
        assert!(!command.contains('#') && !command.contains('\\'), "{command}");
    }
}

//! Two clean roots, one whose first process is no init and one that systemd runs, in which checks of ours run with a
//! network of their own. What the checks look at stands beside.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use xtask::interrupt::Interrupt;
use xtask::setup::{self, Purpose};
use xtask::workspace;

use super::base::{Base, Root};
use super::booted::Booted;
use super::room::{Network, Room};
use super::unit;
use super::usage::said;
use super::waited::run_to_end;

/// This program's place in a root.
pub(super) const CHECKER: &str = "/usr/local/bin/xtask-fresh";

/// The time that systemd and the checks that it runs may take.
const PATIENCE: Duration = Duration::from_secs(400);

/// A root that is ready for its checks.
#[derive(Debug)]
pub(super) enum Scenario {
    /// Without an init.
    Plain(Root),
    /// With systemd.
    Booted(Booted),
}

/// Makes them, with the programs of the target directory `built` and the unit of the work tree `tree`.
pub(super) fn prepare(
    base: &Base,
    built: &Path,
    tree: &Path,
    interrupt: &Interrupt,
) -> Result<[Scenario; 2]> {
    let [plain, booted] = ["plain", "booted"].map(|name| base.unpack(name, interrupt));
    let (plain, booted) = (plain?, booted?);

    // These live for a minute: dpkg need not wait for the disk.
    for root in [&plain, &booted] {
        fs::write(root.path().join("etc/dpkg/dpkg.cfg.d/unsafe"), "force-unsafe-io\n")
            .context("tell dpkg not to wait for the disk")?;
    }
    // All packages are fetched with this host's network, and installed without any.
    let packages = [&setup::packages(Purpose::Test)[..], &["dbus", "systemd", "systemd-sysv"]].concat();
    let room = Room::new(plain.path());
    let update = ["apt-get", "--quiet", "update"];
    let mut fetch =
        vec!["apt-get", "--quiet", "--yes", "--no-install-recommends", "--download-only", "install"];
    fetch.extend(&packages);
    for words in [&update[..], &fetch] {
        let status = room.status(words, "/", Network::Host, interrupt)?;
        ensure!(status.success(), "{}: {status}", words.join(" "));
    }
    for kept in ["var/lib/apt/lists", "var/cache/apt/archives"] {
        let mut copy = Command::new("cp");
        copy.args(["--archive", "--no-target-directory"]);
        run_to_end(copy.arg(plain.path().join(kept)).arg(booted.path().join(kept)), interrupt)?;
    }
    for root in [&plain, &booted] {
        let at = |path: &str| root.path().join(path.trim_start_matches('/'));
        fs::copy(built.join("debug/xtask-fresh"), at(CHECKER)).context("copy xtask-fresh")?;
        fs::copy(built.join("release/spectrum-user"), at(unit::PROGRAM)).context("copy spectrum-user")?;
    }
    let room = Room::new(booted.path());
    let install = [
        "apt-get",
        "--quiet",
        "--yes",
        "--no-install-recommends",
        "install",
        "dbus",
        "systemd",
        "systemd-sysv",
    ];
    let status = room.status(&install, "/", Network::Own, interrupt)?;
    ensure!(status.success(), "{}: {status}", install.join(" "));
    let booted = Booted::of(booted);
    unit::install(tree, booted.path(), interrupt)?;
    Ok([Scenario::Plain(plain), Scenario::Booted(booted)])
}

/// Runs `program` as a service under systemd, as the documents show it and in other ways, with this very program as the
/// one that checks it.
pub(super) fn service(base: &Base, program: &Path, interrupt: &Interrupt) -> Result<()> {
    let booted = Booted::unpack(base, interrupt)?;
    booted.install(&env::current_exe().context("find this program")?, CHECKER)?;
    booted.install(program, unit::PROGRAM)?;
    let runs =
        Room::new(booted.path()).status(&[unit::PROGRAM, "--version"], "/", Network::Own, interrupt)?;
    ensure!(
        runs.success(),
        "run here what was built on this host: is it newer than Debian {}?",
        base.release()
    );
    unit::install(workspace::root(), booted.path(), interrupt)?;
    let started = Instant::now();
    let checks = ["check-unit", "check-processes", "check-sockets"].map(|check| format!("{CHECKER} {check}"));
    booted.run(&checks.each_ref().map(String::as_str), PATIENCE, interrupt)?;
    println!("ok: under systemd, {}", said(started.elapsed()));
    Ok(())
}

impl Scenario {
    /// The words for it.
    pub(super) fn title(&self) -> &'static str {
        match self {
            Self::Plain(_) => "the set-up on a host with services of its own and no init",
            Self::Booted(_) => {
                "the set-up on a host with services of its own, and the documented unit, under systemd"
            }
        }
    }

    /// Runs its checks.
    pub(super) fn play(&self, interrupt: &Interrupt) -> Result<()> {
        match self {
            Self::Plain(root) => {
                let status = Room::new(root.path()).status(
                    &[CHECKER, "check-services"],
                    "/root",
                    Network::Own,
                    interrupt,
                )?;
                ensure!(status.success(), "{status}");
                Ok(())
            }
            Self::Booted(booted) => {
                let checks = ["check-services", "check-unit"].map(|check| format!("{CHECKER} {check}"));
                booted.run(&checks.each_ref().map(String::as_str), PATIENCE, interrupt)
            }
        }
    }
}

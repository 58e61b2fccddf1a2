//! Two clean roots, one whose first process is no init and one that systemd runs, in which checks of ours run with a
//! network of their own. What the checks look at stands beside.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use xtask::interrupt::Interrupt;
use xtask::setup::{self, Purpose};

use super::base::{Base, Root};
use super::room::{Network, Room};
use super::unit;
use super::waited::run_to_end;

/// This program's place in a root.
const CHECKER: &str = "/usr/local/bin/xtask-fresh";

/// The file that the checks write which systemd runs.
const LOG: &str = "root/check.log";

/// The time that systemd and the checks that it runs may take.
const PATIENCE: Duration = Duration::from_secs(400);

/// Runs the checks and ends systemd with their verdict.
const CHECKS: &str = "[Unit]
Description=the checks of cargo xtask fresh

[Service]
Type=oneshot
Environment=HOME=/root
ExecStart=/usr/local/bin/xtask-fresh check-services
ExecStart=/usr/local/bin/xtask-fresh check-unit
ExecStopPost=/bin/systemctl --no-block exit ${EXIT_STATUS}
StandardOutput=append:/root/check.log
StandardError=append:/root/check.log

[Install]
WantedBy=multi-user.target
";

/// A root that is ready for its checks.
#[derive(Debug)]
pub(super) struct Scenario {
    root: Root,
    init: Init,
}

/// The first process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Init {
    None,
    Systemd,
}

/// Makes them, with the programs of the target directory `built` and `unit` as spectrum's.
pub(super) fn prepare(base: &Base, built: &Path, unit: &str, interrupt: &Interrupt) -> Result<[Scenario; 2]> {
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
    let units = booted.path().join("etc/systemd/system");
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants).context("make the units of a root")?;
    fs::write(units.join("spectrum.service"), unit).context("write the documented unit")?;
    fs::write(units.join("checks.service"), CHECKS).context("write the unit of the checks")?;
    std::os::unix::fs::symlink("../checks.service", wants.join("checks.service"))
        .context("enable the unit of the checks")?;
    Ok([Scenario { root: plain, init: Init::None }, Scenario { root: booted, init: Init::Systemd }])
}

impl Scenario {
    /// The words for it.
    pub(super) fn title(&self) -> &'static str {
        match self.init {
            Init::None => "the set-up on a host with services of its own and no init",
            Init::Systemd => {
                "the set-up on a host with services of its own, and the documented unit, under systemd"
            }
        }
    }

    /// Runs its checks.
    pub(super) fn play(&self, interrupt: &Interrupt) -> Result<()> {
        let room = Room::new(self.root.path());
        let status = match self.init {
            Init::None => room.status(&[CHECKER, "check-services"], "/root", Network::Own, interrupt)?,
            Init::Systemd => {
                let status = room.boot(PATIENCE, interrupt);
                let log = fs::read(self.root.path().join(LOG)).unwrap_or_default();
                println!("{}", String::from_utf8_lossy(&log).trim_end());
                status?
            }
        };
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

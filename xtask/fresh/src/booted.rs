//! A clean Debian whose first process is systemd: it is told what to run, boots, and ends with the verdict, or is ended. Knows
//! nothing of what it runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use xtask::interrupt::Interrupt;

use super::base::{Base, Root};
use super::room::Room;

/// The packages that a host has which runs the program under systemd.
const PACKAGES: [&str; 7] =
    ["bpftool", "dbus", "iproute2", "iptables", "nftables", "systemd", "systemd-sysv"];

/// The files that it writes while it is up, and that are read when it has ended.
const LOG: &str = "root/checks.log";
const JOURNAL: &str = "root/journal.log";

/// The last lines of the journal that are shown when something went wrong.
const LINES: usize = 200;

/// A root that systemd can run. What it does ends with it, and what it has written goes away with this value.
#[derive(Debug)]
pub(super) struct Booted(Root);

impl Booted {
    /// A root that nobody has used, of the Debian in `base` and what a host with systemd has besides; that is kept as well.
    pub(super) fn unpack(base: &Base, interrupt: &Interrupt) -> Result<Self> {
        base.with(&PACKAGES, interrupt)?.unpack("systemd", interrupt).map(Self)
    }

    /// `root`, into which somebody has installed systemd.
    pub(super) fn of(root: Root) -> Self {
        Self(root)
    }

    /// The place of its root.
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The place of its file `file`.
    pub(super) fn at(&self, file: &str) -> PathBuf {
        self.path().join(file.trim_start_matches('/'))
    }

    /// Copies the program `from`, of this host, to `to`.
    pub(super) fn install(&self, from: &Path, to: &str) -> Result<()> {
        fs::copy(from, self.at(to)).with_context(|| format!("copy {} into a root", from.display())).map(drop)
    }

    /// Writes a unit of the administrator's.
    pub(super) fn unit(&self, name: &str, text: &str) -> Result<()> {
        let units = self.at("etc/systemd/system");
        fs::create_dir_all(&units)
            .and_then(|()| fs::write(units.join(name), text))
            .with_context(|| format!("write the unit {name} of a root"))
    }

    /// Boots, runs `commands` one after another as root, with a network of its own, and ends. Prints what they said; fails
    /// with the first that does, and when not all is over within `patience`. Then it prints the end of the journal, too.
    pub(super) fn run(&self, commands: &[&str], patience: Duration, interrupt: &Interrupt) -> Result<()> {
        self.unit("checks.service", &unit(commands))?;
        let wants = self.at("etc/systemd/system/multi-user.target.wants");
        let link = wants.join("checks.service");
        if !link.is_symlink() {
            fs::create_dir_all(&wants)
                .and_then(|()| symlink("../checks.service", &link))
                .context("enable the unit of the checks")?;
        }
        for file in [LOG, JOURNAL] {
            fs::write(self.at(file), "").with_context(|| format!("begin {file} of a root"))?;
        }
        let status = Room::new(self.path()).boot(patience, interrupt);
        let log = fs::read(self.at(LOG)).unwrap_or_default();
        println!("{}", String::from_utf8_lossy(&log).trim_end());
        let done = status.and_then(|status| {
            ensure!(status.success(), "run {} under systemd: {status}", commands.join(", "));
            Ok(())
        });
        if done.is_err() {
            let journal = self.journal();
            let lines: Vec<&str> = journal.lines().collect();
            println!("the end of the journal:");
            lines[lines.len().saturating_sub(LINES)..].iter().for_each(|line| println!("  {line}"));
        }
        done
    }

    /// The journal of the last run, if it came to its end.
    pub(super) fn journal(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.at(JOURNAL)).unwrap_or_default()).into_owned()
    }
}

/// A unit that runs `commands` and ends systemd with their verdict.
fn unit(commands: &[&str]) -> String {
    let starts: Vec<String> = commands.iter().map(|command| format!("ExecStart={command}\n")).collect();
    let starts = starts.concat();
    format!(
        "[Unit]\nDescription=the checks of cargo xtask fresh\n\n\
         [Service]\nType=oneshot\nTimeoutStartSec=infinity\nEnvironment=HOME=/root LANG=C.UTF-8\n{starts}\
         ExecStopPost=-/bin/sh -c 'exec journalctl --no-pager --boot --output=short-precise > /{JOURNAL}'\n\
         ExecStopPost=/bin/systemctl --no-block exit ${{EXIT_STATUS}}\n\
         StandardOutput=append:/{LOG}\nStandardError=append:/{LOG}\n\n\
         [Install]\nWantedBy=multi-user.target\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_run_one_after_another_and_the_verdict_is_systemds_own() {
        let unit = unit(&["/bin/true", "/bin/false it"]);
        let starts: Vec<&str> = unit.lines().filter(|line| line.starts_with("ExecStart=")).collect();
        assert_eq!(starts, ["ExecStart=/bin/true", "ExecStart=/bin/false it"]);
        assert!(
            unit.lines().any(|line| line == "ExecStopPost=/bin/systemctl --no-block exit ${EXIT_STATUS}")
        );
    }
}

//! The unit of the package, which docs/operations.md shows, run by a real systemd without the package: as that page has it
//! done by hand. Runs in a room with a network of its own.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};

use xtask::interrupt::Interrupt;
use xtask::shell;

use super::control::{
    LATE, UNIT, answers, configure, is_active, nothing_is_left, property, service, systemctl, wait_until,
};
use super::life::Life;
use super::room::{Network, Room};

/// The program, where the unit expects it.
pub(super) const PROGRAM: &str = "/usr/bin/spectrum-user";

/// What is copied from a work tree, and where to.
const COPIED: [(&str, &str); 2] = [
    ("packaging/systemd/spectrum.service", "etc/systemd/system/spectrum.service"),
    ("packaging/debian/spectrum.sysusers", "etc/sysusers.d/spectrum.conf"),
];

/// More starts than systemd allows within ten seconds unless it is told otherwise.
const STARTS: u32 = 6;

/// Puts it and its users into `root`, where systemd is installed, from the work tree `tree`.
pub(super) fn install(tree: &Path, root: &Path, interrupt: &Interrupt) -> Result<()> {
    for (from, to) in COPIED {
        let to = root.join(to);
        to.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .with_context(|| format!("create what {from} goes to"))?;
        fs::copy(tree.join(from), to).with_context(|| format!("copy {from} into a root"))?;
    }
    fs::create_dir_all(root.join("etc/spectrum")).context("create the directory of the configuration")?;
    let status = Room::new(root).status(&["systemd-sysusers"], "/", Network::Own, interrupt)?;
    ensure!(status.success(), "systemd-sysusers: {status}");
    Ok(())
}

/// Starts it while something is missing, and does then what a person does with a service.
pub(super) fn check() -> Result<ExitCode> {
    play().map(|()| ExitCode::SUCCESS)
}

fn play() -> Result<()> {
    let verified =
        shell::output(Command::new("systemd-analyze").args(["verify", "--man=no", "spectrum.service"]))?;
    let said = String::from_utf8_lossy(&verified.stderr);
    let complaints: Vec<&str> = said.lines().filter(|line| line.contains(UNIT)).collect();
    ensure!(complaints.is_empty(), "systemd does not like the unit: {}", complaints.join("; "));

    configure(&[service(0)])?;
    systemctl(&["start", "--no-block", UNIT])?;
    wait_until("it has been started anew again and again", || {
        Ok(property("NRestarts")?.parse::<u32>().is_ok_and(|starts| starts >= STARTS))
    })?;
    ensure!(
        property("ActiveState")? == "activating",
        "a unit that is started anew is {}",
        property("ActiveState")?
    );
    shell::run(Command::new("ip").args(["address", "add", &format!("{LATE}/32"), "dev", "lo"]))?;
    wait_until("it runs once the address is there, and no name server", is_active)?;
    answers(0)?;

    configure(&[service(0), service(1)])?;
    systemctl(&["reload", UNIT])?;
    answers(1)?;
    println!("ok: a reload is in force when systemctl reload has ended");
    let life = Life::of(UNIT)?;
    configure(&["[[service]]\nname = 7\n".to_owned()])?;
    ensure!(systemctl(&["reload", UNIT]).is_err(), "systemctl reload says nothing of a file that is wrong");
    answers(1)?;
    ensure!(Life::of(UNIT)? == life, "a reload that was refused ended the program");
    println!("ok: systemctl reload fails when the file is refused, and everything goes on");

    configure(&[service(0)])?;
    systemctl(&["kill", "--signal=KILL", UNIT])?;
    wait_until("it runs again after SIGKILL", || Ok(Life::of(UNIT).is_ok_and(|now| now.main != life.main)))?;
    answers(0)?;

    systemctl(&["stop", UNIT])?;
    nothing_is_left()?;
    println!("ok: nothing is left after systemctl stop");
    configure(&["[[service]]\nname = 7\n".to_owned()])?;
    ensure!(systemctl(&["start", UNIT]).is_err(), "a unit with a file that is wrong was started");
    let (state, code) = (property("ActiveState")?, property("ExecMainStatus")?);
    ensure!((&*state, &*code) == ("failed", "78"), "a unit with a file that is wrong is {state} with {code}");
    ensure!(property("NRestarts")? == "0", "a file that is wrong is tried again and again");
    println!("ok: a file that is wrong is not tried again");
    nothing_is_left()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::CONFIG;

    #[test]
    fn the_unit_starts_again_for_ever() {
        let unit = fs::read_to_string(xtask::workspace::root().join(COPIED[0].0)).unwrap();
        for line in ["StartLimitIntervalSec=0", "Restart=on-failure", "RestartPreventExitStatus=2 77 78"] {
            assert!(unit.lines().any(|other| other == line), "{line}");
        }
        assert!(unit.lines().any(|line| line.starts_with("RestartSec=")));
        assert!(unit.contains(&format!("ExecStart={PROGRAM} --config {CONFIG}")));
    }
}

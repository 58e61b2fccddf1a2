//! One boot of a kernel under emulation, and what it says on its serial line. Judges nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use xtask::shell;

/// More of a processor than any guest takes, however much else the machine does.
const LIMIT: Duration = Duration::from_mins(15);

/// After this a guest waits for what never comes.
const PATIENCE: Duration = Duration::from_hours(1);

/// The beginning of a line that init says.
const WORD: &str = "VMTEST ";

/// A guest about to be booted.
#[derive(Debug)]
pub(super) struct Guest<'a> {
    /// The kernel's image.
    pub(super) image: &'a Path,
    /// The initramfs.
    pub(super) initramfs: &'a Path,
    /// Added to the kernel's command line; what the kernel does not know becomes init's environment.
    pub(super) parameters: &'a str,
    /// The file for all that it says.
    pub(super) log: &'a Path,
}

/// The words of a guest.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The kernel's name for itself; none if init was never reached.
    pub(super) release: Option<String>,
    /// The time until init was reached, by the guest's clock.
    pub(super) boot: Duration,
    /// The time of all of it.
    pub(super) took: Duration,
    /// The prints of each test binary.
    pub(super) binaries: Vec<Printed>,
    /// True if the last word was heard: the emulator's exit status is the same after a panic.
    pub(super) is_complete: bool,
}

/// The prints of one test binary.
#[derive(Debug, Default)]
pub(super) struct Printed {
    /// Which.
    pub(super) name: String,
    /// Its output.
    pub(super) lines: Vec<String>,
    /// Its exit status, if it ended.
    pub(super) status: Option<String>,
}

impl Guest<'_> {
    /// Boots it and waits for its end. Once more if init was not reached: that is the emulator's failure and no test's.
    pub(super) fn run(&self) -> Result<Said> {
        let said = self.boot()?;
        if said.release.is_some() {
            return Ok(said);
        }
        let kept = PathBuf::from(format!("{}.no-init", self.log.display()));
        fs::rename(self.log, &kept).context("keep the log of a boot")?;
        println!("a boot did not reach init, see {}; once more", kept.display());
        self.boot()
    }

    fn boot(&self) -> Result<Said> {
        let log = File::create(self.log).with_context(|| format!("create {}", self.log.display()))?;
        let started = Instant::now();
        let mut qemu = Command::new("timeout");
        qemu.args(["--kill-after=5", &PATIENCE.as_secs().to_string()]);
        qemu.args(["prlimit", &format!("--cpu={}", LIMIT.as_secs()), "qemu-system-x86_64"]);
        // The guest's clock counts its instructions, so that no test is late because the host is busy, and nobody waits
        // for what the guest only sleeps.
        qemu.args(["-icount", "shift=1,sleep=off"]);
        qemu.args(["-accel", "tcg,tb-size=256", "-cpu", "max", "-smp", "1", "-m", "1024", "-M", "q35"]);
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]);
        qemu.arg("-kernel").arg(self.image).arg("-initrd").arg(self.initramfs);
        // These guard nothing here and cost much. Not all of them: with mitigations=off the verifier of Linux 6.7 takes
        // programs of processes that have no CAP_PERFMON. A grace period of RCU need not spare anybody's processor.
        let fixed = "console=ttyS0 quiet panic=-1 nopti nospectre_v2 retbleed=off spec_store_bypass_disable=off \
                     init_on_alloc=0 hardened_usercopy=off rcupdate.rcu_expedited=1";
        qemu.arg("-append").arg(format!("{fixed} {}", self.parameters));
        qemu.stdin(Stdio::null()).stdout(log);
        shell::status(&mut qemu)?;
        let bytes = fs::read(self.log).with_context(|| format!("read {}", self.log.display()))?;
        let mut said = Said::parse(&String::from_utf8_lossy(&bytes));
        said.took = started.elapsed();
        Ok(said)
    }
}

impl Said {
    fn parse(text: &str) -> Self {
        let mut said = Self::default();
        for line in text.lines() {
            let line = line.trim_end_matches('\r');
            // Something without an end of line may come before.
            let words = line.split_once(WORD).map(|(_, words)| words.split(' ').collect::<Vec<_>>());
            match (words.as_deref(), said.binaries.last_mut()) {
                (Some(["start", release, uptime]), _) => {
                    said.release = Some((*release).to_owned());
                    said.boot = Duration::from_secs_f64(uptime.parse().unwrap_or_default());
                }
                (Some(["binary", name]), _) => {
                    said.binaries.push(Printed { name: (*name).to_owned(), ..Printed::default() });
                }
                (Some(["ended", _, status, _]), Some(printed)) => printed.status = Some((*status).to_owned()),
                (Some(["end"]), _) => said.is_complete = true,
                (_, Some(printed)) => printed.lines.push(line.to_owned()),
                (_, None) => {}
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_init_says_is_understood() {
        let text = "SeaBIOS\r\nVMTEST start 6.1.0 3.50\r\nVMTEST binary steering\r\ntest a ... ok\r\nVMTEST ended steering 0 9.1\r\nVMTEST end\r\n";
        let said = Said::parse(text);
        assert_eq!(said.release.as_deref(), Some("6.1.0"));
        assert_eq!(said.boot, Duration::from_millis(3500));
        assert!(said.is_complete);
        assert_eq!(said.binaries.len(), 1);
        assert_eq!(said.binaries[0].lines, ["test a ... ok"]);
        assert_eq!(said.binaries[0].status.as_deref(), Some("0"));
    }

    #[test]
    fn a_panic_is_no_end() {
        let said =
            Said::parse("VMTEST start 6.1.0 3.50\nVMTEST binary steering\nKernel panic - not syncing\n");
        assert!(!said.is_complete);
        assert_eq!(said.binaries[0].status, None);
        assert_eq!(Said::parse("No bootable device").release, None);
    }
}

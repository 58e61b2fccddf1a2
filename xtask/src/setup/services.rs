//! Keeps the servers that packages bring from running on this host: the tests and benchmarks start their own. Installs
//! no package.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::ebpf::toolchain::on_path;
use crate::privilege;
use crate::shell;

/// What Debian's maintainer scripts ask before they start a service (invoke-rc.d(8)); 101 forbids it.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// By which a policy of ours is told from one that somebody else made.
const MARK: &str = "# Made by cargo xtask, and removed when it has installed packages.";

/// While it lives, no service is started because its package was installed.
pub(super) struct StoppedServices {
    made: bool,
}

impl StoppedServices {
    /// Forbids starting, unless somebody else decides about it already.
    pub(super) fn hold() -> Result<Self> {
        let path = Path::new(POLICY);
        if path.exists() {
            // Ours only if an earlier set-up was killed before it could remove it.
            let made = fs::read_to_string(path).is_ok_and(|text| text.contains(MARK));
            return Ok(Self { made });
        }
        let script =
            format!("printf '#!/bin/sh\\n%s\\nexit 101\\n' '{MARK}' > {POLICY} && chmod 755 {POLICY}");
        shell::run(&mut as_root(&["sh", "-c", &script])?).context("forbid packages to start services")?;
        Ok(Self { made: true })
    }
}

impl Drop for StoppedServices {
    fn drop(&mut self) {
        if self.made {
            let removed = as_root(&["rm", "-f", POLICY]).and_then(|mut command| shell::run(&mut command));
            if let Err(error) = removed {
                eprintln!("remove {POLICY}, which keeps packages from starting services: {error:#}");
            }
        }
    }
}

/// Keeps `services` from starting at the next boot as well.
pub(super) fn disable(services: &[&str]) -> Result<()> {
    for service in services {
        if on_path("update-rc.d").is_some() {
            shell::announce_and_run(&mut as_root(&["update-rc.d", service, "disable"])?)?;
        }
    }
    Ok(())
}

fn as_root(words: &[&str]) -> Result<Command> {
    let (program, arguments) = words.split_first().context("run nothing as root")?;
    let mut command = privilege::as_root(program, &[])?;
    command.args(arguments);
    Ok(command)
}

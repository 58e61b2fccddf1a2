//! The script that Debian's maintainer scripts ask before they start a service (invoke-rc.d(8)). Leaves alone one that
//! somebody else made.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::shell;

use super::host::as_root;

const POLICY: &str = "/usr/sbin/policy-rc.d";

/// By which a policy of ours is told from one that somebody else made.
const MARK: &str = "# Made by cargo xtask, and removed when it has installed packages.";

/// While it lives, a package that is installed starts none of the services that it was held for.
#[derive(Debug)]
pub(super) struct Policy {
    ours: bool,
}

impl Policy {
    /// Forbids starting `services`, unless somebody else decides about it already.
    pub(super) fn hold(services: &[&str]) -> Result<Self> {
        if Path::new(POLICY).exists() && !is_left() {
            return Ok(Self { ours: false });
        }
        let write = format!("printf '%s' \"$1\" > {POLICY} && chmod 755 {POLICY}");
        shell::run(&mut as_root(&["sh", "-c", &write, "sh", &script(services)])?)
            .context("forbid packages to start services")?;
        Ok(Self { ours: true })
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours {
            let removed = as_root(&["rm", "-f", POLICY]).and_then(|mut command| shell::run(&mut command));
            if let Err(error) = removed {
                eprintln!("remove {POLICY}, which keeps packages from starting services: {error:#}");
            }
        }
    }
}

/// True if a set-up that was killed left its policy.
pub(super) fn is_left() -> bool {
    fs::read_to_string(POLICY).is_ok_and(|text| text.contains(MARK))
}

/// 101 forbids. Called with the name of an init script or of a unit.
fn script(services: &[&str]) -> String {
    let mut script = format!("#!/bin/sh\n{MARK}\n");
    if !services.is_empty() {
        let patterns: Vec<String> =
            services.iter().flat_map(|name| [(*name).to_owned(), format!("{name}.*")]).collect();
        let _ = writeln!(script, "case \"$1\" in {}) exit 101 ;; esac", patterns.join("|"));
    }
    script.push_str("exit 0\n");
    script
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_the_named_services_are_forbidden() {
        let script = script(&["nginx", "ssh"]);
        let asked = |name: &str| {
            let mut shell = Command::new("sh");
            shell.args(["-c", &script, "policy-rc.d", name, "start"]).status().unwrap().code()
        };
        for (name, code) in
            [("nginx", 101), ("nginx.service", 101), ("ssh.socket", 101), ("sshd", 0), ("cron.service", 0)]
        {
            assert_eq!(asked(name), Some(code), "{name}");
        }
        assert!(script.contains(MARK));
    }
}

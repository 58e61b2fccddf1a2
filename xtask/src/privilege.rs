//! Being root, or becoming it for one command. Never runs a build as root for a user who is not.

use std::process::Command;

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use crate::ebpf::toolchain::on_path;

/// True if we are root already.
#[must_use]
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// True if [`as_root`] can work: we are root, or there is a sudo to ask.
#[must_use]
pub fn available() -> bool {
    is_root() || on_path("sudo").is_some()
}

/// `program` run as root, with `environment` whatever sudo's own policy about the environment is.
///
/// # Errors
/// When we are not root and there is no sudo.
pub fn as_root(program: impl Into<std::ffi::OsString>, environment: &[(&str, String)]) -> Result<Command> {
    let program = program.into();
    if is_root() {
        let mut command = Command::new(program);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        return Ok(command);
    }
    let Some(sudo) = on_path("sudo") else {
        bail!("run {} as root: this user is not root, and there is no sudo", program.display());
    };
    let mut command = Command::new(sudo);
    if !environment.is_empty() {
        command.arg("env").args(environment.iter().map(|(name, value)| format!("{name}={value}")));
    }
    command.arg(program);
    Ok(command)
}

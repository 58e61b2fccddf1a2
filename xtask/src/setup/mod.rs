//! Makes the machine able to do what a command is about to do: finds what is missing, says each command that adds it,
//! runs it. Checks for files and programs, never for package names, and installs nothing that is there.

mod apt;
mod need;
mod services;

use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::shell;

use need::{Cure, Need};
pub use need::{DEBIAN_KEYRING, Purpose, cargo_deny, cargo_fuzz};

/// The user's consent to installing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Consent {
    /// Install what is missing.
    Given,
    /// Only say what is missing.
    Withheld,
}

impl Consent {
    /// Given, unless the user has said `--no-install`.
    #[must_use]
    pub fn unless(no_install: bool) -> Self {
        if no_install { Self::Withheld } else { Self::Given }
    }
}

/// Returns once everything that `purposes` need is there.
///
/// # Errors
/// When something is missing that may not be installed, or could not be.
pub fn ready(purposes: &[Purpose], consent: Consent) -> Result<()> {
    if consent == Consent::Given && services::is_unfinished() {
        println!("going on with a set-up that did not come to its end");
        services::install_quietly(&[], apt::finish)?;
    }
    let missing = missing(purposes);
    if missing.is_empty() {
        return Ok(());
    }
    if consent == Consent::Withheld {
        for need in &missing {
            println!("missing: {need}");
        }
        bail!("{} missing; run the same without --no-install to set it up", count(missing.len()));
    }
    println!("setting up: {}", missing.iter().map(|need| need.name).collect::<Vec<_>>().join(", "));

    let packages: Vec<&str> = missing.iter().flat_map(|need| need.cure.packages()).copied().collect();
    let services: Vec<&str> = missing.iter().flat_map(|need| need.cure.services()).copied().collect();
    if services.is_empty() {
        apt::install(&packages)?;
    } else {
        services::install_quietly(&services, || apt::install(&packages))?;
    }
    for need in &missing {
        for mut command in need.cure.commands() {
            shell::announce_and_run(&mut command)?;
        }
    }

    let left = self::missing(purposes);
    ensure!(
        left.is_empty(),
        "set up: still missing after installing: {}",
        left.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    );
    Ok(())
}

/// The packages with which [`ready`] cures everything that `purpose` may miss.
#[must_use]
pub fn packages(purpose: Purpose) -> Vec<&'static str> {
    purpose.needs().iter().flat_map(|need| need.cure.packages()).copied().collect()
}

/// The services that those packages bring.
#[must_use]
pub fn services(purpose: Purpose) -> Vec<&'static str> {
    let mut services: Vec<&str> =
        purpose.needs().iter().flat_map(|need| need.cure.services()).copied().collect();
    services.sort_unstable();
    services.dedup();
    services
}

fn missing(purposes: &[Purpose]) -> Vec<Need> {
    let mut missing: Vec<Need> = Vec::new();
    for need in purposes.iter().flat_map(|purpose| purpose.needs()) {
        // Two purposes may need the same.
        if !missing.iter().any(|other| other.name == need.name) && !(need.is_met)() {
            missing.push(need);
        }
    }
    missing
}

fn count(number: usize) -> String {
    if number == 1 { "1 thing is".to_owned() } else { format!("{number} things are") }
}

impl Cure {
    fn packages(&self) -> &[&'static str] {
        match self {
            Self::Apt(packages) | Self::AptServers(packages, _) | Self::AptThen(packages, _) => packages,
            Self::Run(_) => &[],
        }
    }

    fn services(&self) -> &[&'static str] {
        match self {
            Self::AptServers(_, services) => services,
            Self::Apt(_) | Self::AptThen(..) | Self::Run(_) => &[],
        }
    }

    fn commands(&self) -> Vec<Command> {
        match self {
            Self::Apt(_) | Self::AptServers(..) => Vec::new(),
            Self::AptThen(_, command) | Self::Run(command) => vec![command()],
        }
    }
}

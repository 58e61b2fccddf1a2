//! Debian packages. Knows how apt-get wants to be asked, not which package is good for what.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::ebpf::toolchain::on_path;
use crate::privilege;
use crate::shell;

/// The directory in which apt-get keeps what the archives said.
const LISTS: &str = "/var/lib/apt/lists";

/// Installs `packages`, after reading the archives' lists if there are none or they are too old to be of use.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if on_path("apt-get").is_none() {
        bail!("install {}: this is no Debian; please install them your system's way", packages.join(" "));
    }
    if !has_lists() {
        update()?;
        return get(packages);
    }
    // Old lists name files that the archive no longer has; reading them anew each time would cost seconds for nothing.
    get(packages).or_else(|_| {
        update()?;
        get(packages)
    })
}

/// Finishes what was unpacked and not configured when an earlier set-up was killed. Other packages that cannot be
/// configured are their owner's concern.
pub(super) fn finish() -> Result<()> {
    if on_path("dpkg").is_none() {
        return Ok(());
    }
    let quiet = [("DEBIAN_FRONTEND", "noninteractive".to_owned())];
    let mut dpkg = privilege::as_root("dpkg", &quiet)?;
    if let Err(error) = shell::announce_and_run(dpkg.args(["--configure", "-a"])) {
        println!("some packages could not be configured: {error:#}");
    }
    Ok(())
}

fn has_lists() -> bool {
    fs::read_dir(LISTS).is_ok_and(|entries| {
        entries.filter_map(Result::ok).any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    })
}

fn update() -> Result<()> {
    apt_get(&["--quiet", "update"])
}

fn get(packages: &[&str]) -> Result<()> {
    let mut arguments = vec!["--quiet", "--yes", "--no-install-recommends", "install"];
    arguments.extend(packages);
    apt_get(&arguments)
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let quiet = [("DEBIAN_FRONTEND", "noninteractive".to_owned())];
    let mut command = privilege::as_root("apt-get", &quiet)?;
    // Another installation on this host may take its time, such as the one that updates it at night.
    shell::announce_and_run(command.args(["-o", "DPkg::Lock::Timeout=300"]).args(arguments))
        .context("install Debian packages")
}

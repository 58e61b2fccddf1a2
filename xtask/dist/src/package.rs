//! The package itself: debhelper makes it of a tree, with the dates of the commit. Looks into none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use xtask::shell;

use crate::place::Place;
use crate::tree::Tree;
use crate::version::Version;

/// Makes the package of `program` in `place` and puts it into the directory `output`, and says where it is.
pub(crate) fn make(version: &Version, program: &Path, place: &Place, output: &Path) -> Result<PathBuf> {
    let _umask = place.settle();
    fs::create_dir_all(output).with_context(|| format!("create {}", output.display()))?;
    ensure!(program.is_file(), "find {}: it has not been built", program.display());
    let tree = Tree::make(&place.trees.join("spectrum"), &place.root, version, program)?;
    let mut rules = Command::new("debian/rules");
    rules.current_dir(&tree.root).arg("binary").env("SOURCE_DATE_EPOCH", version.epoch.to_string());
    // The package is the same whatever the host's language, and whoever builds it.
    rules.envs([
        ("LC_ALL", "C.UTF-8"),
        ("TZ", "UTC"),
        ("DEB_RULES_REQUIRES_ROOT", "no"),
        ("DEB_BUILD_OPTIONS", ""),
    ]);
    let made = shell::output(&mut rules)?;
    ensure!(
        made.status.success(),
        "{}: {}\n{}{}",
        shell::line(&rules),
        made.status,
        String::from_utf8_lossy(&made.stdout),
        String::from_utf8_lossy(&made.stderr)
    );
    let beside = tree.root.parent().context("find what debhelper made")?;
    let name = format!("spectrum_{}_{}.deb", version.debian, architecture()?);
    let package = output.join(&name);
    fs::rename(beside.join(&name), &package).with_context(|| format!("keep {name}"))?;
    Ok(package)
}

fn architecture() -> Result<String> {
    let mut dpkg = Command::new("dpkg");
    Ok(shell::stdout(dpkg.arg("--print-architecture"))?.trim().to_owned())
}

//! The build of the program as the package has it: the same bytes wherever the work tree and cargo's home are. Puts it into
//! no package.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use xtask::shell;
use xtask::workspace;

/// Builds it from the work tree at `root` into the target directory `target`.
pub(crate) fn build(root: &Path, target: &Path) -> Result<()> {
    shell::run(&mut command(root, target)?)
}

/// The same linked statically, with musl: where it is.
pub(crate) fn build_static(root: &Path, target: &Path) -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-musl", env::consts::ARCH);
    let mut cargo = command(root, target)?;
    cargo.args(["--target", &triple]).env("CARGO_PROFILE_DIST_STRIP", "symbols");
    shell::run(&mut cargo)
        .with_context(|| format!("build for {triple}; if it is missing: rustup target add {triple}"))?;
    Ok(target.join(triple).join("dist/spectrum-user"))
}

fn command(root: &Path, target: &Path) -> Result<Command> {
    let home = cargo_home().context("find cargo's home")?;
    // What panics say of their place would otherwise be where somebody built it.
    let flags = [(root, "/usr/src/spectrum"), (&home, "/usr/src/cargo")]
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    let mut cargo =
        workspace::cargo(["build", "--locked", "--profile", "dist", "--package", "spectrum-user"]);
    cargo.current_dir(root).env("CARGO_TARGET_DIR", target);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")).env_remove("RUSTFLAGS");
    Ok(cargo)
}

fn cargo_home() -> Option<PathBuf> {
    let said = env::var_os("CARGO_HOME").map(PathBuf::from);
    said.or_else(|| env::home_dir().map(|home| home.join(".cargo")))
}

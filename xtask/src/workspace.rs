//! Where things are: the workspace, its target directory, the cargo that runs us. Reads no manifest.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ebpf::Machine;

/// The root of the workspace.
#[must_use]
pub fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// The machine that we build for: this one.
#[must_use]
pub fn machine() -> Machine {
    Machine { arch: env::consts::ARCH.to_owned(), big_endian: cfg!(target_endian = "big") }
}

/// The cargo that runs us, and so the toolchain of the host crates.
pub fn cargo_path() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// The same cargo, in the root of the workspace.
pub fn cargo<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(arguments: I) -> Command {
    let mut cargo = Command::new(cargo_path());
    cargo.current_dir(root()).args(arguments);
    forget_own_package(&mut cargo);
    cargo
}

/// Keeps from `cargo` what describes xtask's own package, and would make a build script of another one look changed.
pub(crate) fn forget_own_package(cargo: &mut Command) {
    for variable in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "OUT_DIR"] {
        cargo.env_remove(variable);
    }
}

/// The directory in which cargo leaves what it builds for the host.
#[must_use]
pub fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |target| root().join(target))
}

/// The release build of the program.
#[must_use]
pub fn spectrum_user() -> PathBuf {
    target_dir().join("release/spectrum-user")
}

/// The program as packages have it.
#[must_use]
pub fn packaged() -> PathBuf {
    target_dir().join("dist/spectrum-user")
}

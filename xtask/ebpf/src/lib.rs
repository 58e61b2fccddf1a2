//! Builds the eBPF object: the one code path, shared by `cargo xtask build-ebpf` and spectrum-steering's build script.
//!
//! Only the standard library is used here, so that next to nothing has to be built before the build script. It does not
//! set up a toolchain; `xtask/src/setup` does that.

pub mod toolchain;

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

use toolchain::{Missing, Toolchain};

/// The package of the eBPF programs.
const PACKAGE: &str = "spectrum-ebpf";

/// The program that spectrum-steering embeds.
const PROGRAM: &str = "spectrum";

/// The sources of the object, relative to the workspace's root.
pub const SOURCES: [&str; 6] = [
    "Cargo.lock",
    "Cargo.toml",
    "spectrum-common/Cargo.toml",
    "spectrum-common/src",
    "spectrum-ebpf/Cargo.toml",
    "spectrum-ebpf/src",
];

/// The machine whose kernel will load the object, in rustc's words.
#[derive(Debug)]
pub struct Machine {
    /// `target_arch`, on which the layout of the kernel's `pt_regs` depends.
    pub arch: String,
    /// `target_endian = "big"`.
    pub big_endian: bool,
}

/// The reason for which there is no object.
#[derive(Debug)]
pub enum EbpfError {
    /// A program did not finish with success; it has said why on standard error.
    Failed {
        /// Which.
        program: PathBuf,
    },
    /// The operating system refused something.
    Io {
        /// The operation that failed.
        op: &'static str,
        /// With what.
        object: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The machine lacks a part of the toolchain.
    Toolchain(Missing),
}

impl fmt::Display for EbpfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { program } => write!(f, "build the eBPF object: {} failed", program.display()),
            Self::Io { op, object, .. } => write!(f, "{op} {}", object.display()),
            Self::Toolchain(missing) => {
                write!(f, "build the eBPF object: {missing} is missing; `cargo xtask build-ebpf` sets it up")
            }
        }
    }
}

impl std::error::Error for EbpfError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Failed { .. } | Self::Toolchain(_) => None,
        }
    }
}

/// The target directory of the eBPF crate: its own, shared by every profile of the host crates, built once.
#[must_use]
pub fn target_dir(root: &Path) -> PathBuf {
    let host =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |target| root.join(target));
    host.join("bpf")
}

/// The place where [`build`] leaves the object that spectrum-steering embeds.
#[must_use]
pub fn object(root: &Path) -> PathBuf {
    target_dir(root).join(PROGRAM).with_extension("o")
}

/// Builds every program of the eBPF crate in the workspace at `root` and returns [`object`].
///
/// # Errors
/// When the toolchain is missing, the sources do not compile or the file system refuses.
pub fn build(root: &Path, machine: &Machine) -> Result<PathBuf, EbpfError> {
    let toolchain = Toolchain::find().map_err(EbpfError::Toolchain)?;
    let mut cargo = cargo(&toolchain, "cargo", root, machine);
    cargo.args(["build", "--bins"]).args(build_arguments(root, machine));
    succeed(cargo)?;

    let output = target_dir(root).join(target(machine)).join("release");
    for program in programs(root) {
        let object = target_dir(root).join(&program).with_extension("o");
        strip(&toolchain, &output.join(&program), &object)?;
    }
    Ok(object(root))
}

/// The command that lints the eBPF crate for its own target, with the clippy of the toolchain that builds it.
///
/// # Errors
/// When the toolchain is missing.
pub fn clippy(root: &Path, machine: &Machine, extra: &[&str]) -> Result<Command, EbpfError> {
    let toolchain = Toolchain::find().map_err(EbpfError::Toolchain)?;
    // cargo would look for its clippy on PATH, where another toolchain's may come first.
    let mut clippy = cargo(&toolchain, "cargo-clippy", root, machine);
    clippy.args(["clippy", "--bins"]).args(build_arguments(root, machine)).args(extra);
    Ok(clippy)
}

fn target(machine: &Machine) -> &'static str {
    if machine.big_endian { "bpfeb-unknown-none" } else { "bpfel-unknown-none" }
}

fn build_arguments(root: &Path, machine: &Machine) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = [
        "--package",
        PACKAGE,
        "--release",
        "--target",
        target(machine),
        "-Z",
        "build-std=core",
        "--target-dir",
    ]
    .map(OsString::from)
    .to_vec();
    arguments.push(target_dir(root).into());
    arguments
}

/// `name` of the toolchain, told everything about how to compile and nothing of the cargo that may be running us.
fn cargo(toolchain: &Toolchain, name: &str, root: &Path, machine: &Machine) -> Command {
    let bin = &toolchain.compiler.bin;
    let mut cargo = Command::new(bin.join(name));
    for (variable, _) in env::vars_os() {
        if variable.to_str().is_some_and(is_of_the_outer_cargo) {
            cargo.env_remove(variable);
        }
    }
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", machine.arch),
        "-Cdebuginfo=2".to_owned(),
        format!("-Clinker={}", toolchain.linker.display()),
        "-Clink-arg=--btf".to_owned(),
        // BTF says of each line where its file is: the object is the same wherever it is built.
        format!("--remap-path-prefix={}=/usr/src/spectrum", root.display()),
        format!("--remap-path-prefix={}=/usr/src/cargo", cargo_home().display()),
    ];
    cargo
        .current_dir(root)
        .env("CARGO", bin.join("cargo"))
        .env("RUSTC", bin.join("rustc"))
        // A release compiler takes -Z as a nightly one does.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .stdout(Stdio::null());
    cargo
}

fn cargo_home() -> PathBuf {
    let said = env::var_os("CARGO_HOME").map(PathBuf::from);
    said.unwrap_or_else(|| env::home_dir().unwrap_or_default().join(".cargo"))
}

/// True if `variable` says how the host crates are compiled. Where cargo's files are and what it may use still holds.
fn is_of_the_outer_cargo(variable: &str) -> bool {
    const KEPT: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    let theirs = variable.starts_with("CARGO_") && !KEPT.iter().any(|kept| variable.starts_with(kept));
    theirs
        || variable.starts_with("RUSTC")
        || variable.starts_with("CLIPPY_")
        || ["RUSTDOC", "RUSTFLAGS", "RUSTDOCFLAGS", "RUSTUP_TOOLCHAIN"].contains(&variable)
}

/// The names of the crate's programs: its main one and one for each file in `src/bin`.
fn programs(root: &Path) -> Vec<PathBuf> {
    let others = fs::read_dir(root.join(PACKAGE).join("src/bin"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.path().file_stem().map(PathBuf::from));
    [PathBuf::from(PROGRAM)].into_iter().chain(others).collect()
}

/// Writes `linked` without DWARF, which is nine tenths of it, to `object`. BTF, which the kernel reads, stays.
fn strip(toolchain: &Toolchain, linked: &Path, object: &Path) -> Result<(), EbpfError> {
    // Two builds may end at the same time; a rename never shows half a file.
    let unfinished = object.with_extension(format!("o.{}", process::id()));
    let mut objcopy = Command::new(&toolchain.objcopy);
    objcopy.arg("--strip-debug").arg(linked).arg(&unfinished);
    succeed(objcopy)?;
    fs::rename(&unfinished, object).map_err(|source| EbpfError::Io {
        op: "write the eBPF object",
        object: object.to_owned(),
        source,
    })
}

fn succeed(mut command: Command) -> Result<(), EbpfError> {
    let program = PathBuf::from(command.get_program());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(EbpfError::Failed { program }),
        Err(source) => Err(EbpfError::Io { op: "run", object: program, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_the_host_is_compiled_does_not_reach_the_inner_cargo() {
        for variable in ["CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "RUSTC_WRAPPER", "RUSTUP_TOOLCHAIN"] {
            assert!(is_of_the_outer_cargo(variable), "{variable}");
        }
        for variable in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_REGISTRIES_CRATES_IO_PROTOCOL", "PATH"] {
            assert!(!is_of_the_outer_cargo(variable), "{variable}");
        }
    }

    #[test]
    fn a_missing_toolchain_is_one_sentence_that_names_its_cure() {
        let sentence = EbpfError::Toolchain(Missing::Linker).to_string();
        assert!(sentence.contains("cargo xtask build-ebpf"), "{sentence}");
        assert!(!sentence.contains('\n'), "{sentence}");
    }
}

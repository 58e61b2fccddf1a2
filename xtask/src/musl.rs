//! The program linked statically, with musl: by the standard library that rustup has for that target, or else by one that is
//! built of the sources beside the compiler that also builds the eBPF object, as a host has it that gets its Rust from Debian.
//! Decides nothing about what becomes of the program.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::ebpf::toolchain::{Toolchain, tool_root};
use crate::shell;
use crate::workspace;

/// The package with an unwinder that asks nothing of glibc but what musl has too. It conflicts with other packages, so that only
/// its library is taken out of it.
pub(crate) const UNWINDER_PACKAGE: &str = "libunwind-22-dev";

/// The target.
#[must_use]
pub fn triple() -> String {
    format!("{}-unknown-linux-musl", env::consts::ARCH)
}

/// True if the toolchain that runs us has its standard library.
#[must_use]
pub fn is_with_rustup() -> bool {
    let sysroot = workspace::cargo_path().parent().and_then(Path::parent).map(Path::to_path_buf);
    sysroot.is_some_and(|sysroot| sysroot.join("lib/rustlib").join(triple()).join("lib").is_dir())
}

/// A build of the program for it in the work tree at `root`, and those of `flags` for its compiler. Where the program will be says
/// [`built`].
///
/// # Errors
/// When there is no compiler that has the sources of its library, and none with the library.
pub fn build(root: &Path, flags: &[String]) -> Result<Command> {
    let mut flags = flags.to_vec();
    let mut cargo =
        if is_with_rustup() { Command::new(workspace::cargo_path()) } else { of_sources(&mut flags)? };
    cargo.current_dir(root).args(["build", "--locked", "--package", "spectrum-user", "--target", &triple()]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")).env_remove("RUSTFLAGS");
    workspace::forget_own_package(&mut cargo);
    Ok(cargo)
}

/// The program that a build of the profile in `directory` leaves.
#[must_use]
pub fn built(target: &Path, directory: &str) -> PathBuf {
    target.join(triple()).join(directory).join("spectrum-user")
}

/// Builds it with optimisations, as `cargo build --release` does, and says where it is.
///
/// # Errors
/// When it cannot be built.
pub fn release() -> Result<PathBuf> {
    shell::run(build(workspace::root(), &[])?.arg("--release"))
        .with_context(|| format!("build for {}", triple()))?;
    Ok(built(&workspace::target_dir(), "release"))
}

/// The cargo that builds the standard library too, and what its compiler and linker have to be told.
fn of_sources(flags: &mut Vec<String>) -> Result<Command> {
    let toolchain = Toolchain::find().with_context(|| {
        format!("build for {0}; rustup may have it as well: rustup target add {0}", triple())
    })?;
    let bin = &toolchain.compiler.bin;
    flags.extend(linking());
    let mut cargo = Command::new(bin.join("cargo"));
    cargo.args(["-Z", "build-std=std"]);
    // A release compiler takes -Z as a nightly one does.
    cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", bin.join("rustc")).env("CARGO", bin.join("cargo"));
    cargo.env_remove("RUSTUP_TOOLCHAIN");
    Ok(cargo)
}

/// The flags that have the linker take Debian's musl, where rustc expects to have brought one itself.
fn linking() -> Vec<String> {
    let musl = musl().display().to_string();
    let before = ["rcrt1.o", "crti.o"].map(|object| format!("-Zpre-link-arg={musl}/{object}"));
    let mut flags = vec!["-Clink-self-contained=no".to_owned(), "-Clink-arg=-nostartfiles".to_owned()];
    flags.extend(before);
    flags.push(format!("-Zpre-link-arg={}", of_gcc("crtbeginS.o")));
    for directory in [musl.clone(), unwinder().display().to_string()] {
        flags.push(format!("-Lnative={directory}"));
    }
    // What the unwinder would say of a stack that is broken, before it aborts, by a function that glibc alone has.
    flags.push("-Clink-arg=-Wl,--defsym=__fprintf_chk=abort".to_owned());
    flags.push(format!("-Clink-arg={}", of_gcc("crtendS.o")));
    flags.push(format!("-Clink-arg={musl}/crtn.o"));
    flags
}

/// The place of an object that gcc brings.
fn of_gcc(object: &str) -> String {
    let mut gcc = Command::new("cc");
    let place = shell::stdout(gcc.arg(format!("-print-file-name={object}"))).unwrap_or_default();
    place.trim().to_owned()
}

/// The directory of musl's own objects and library, of Debian's musl-dev.
#[must_use]
pub(crate) fn musl() -> PathBuf {
    Path::new("/usr/lib").join(format!("{}-linux-musl", env::consts::ARCH))
}

/// The directory in which set-up puts the unwinder.
pub(crate) fn unwinder() -> PathBuf {
    tool_root("unwinder", "22").unwrap_or_default()
}

/// The command that puts it there.
pub(crate) fn fetch_unwinder() -> Command {
    let file = format!("./usr/lib/{}-linux-gnu/libunwind.a", env::consts::ARCH);
    let depth = file.matches('/').count();
    let script = format!(
        "set -e; mkdir -p \"$0\"; cd \"$0\"; apt-get --quiet download {UNWINDER_PACKAGE}; \
         for package in {UNWINDER_PACKAGE}_*.deb; do \
         dpkg-deb --fsys-tarfile \"$package\" | tar --extract --strip-components={depth} {file}; rm \"$package\"; done"
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).arg(unwinder());
    shell
}

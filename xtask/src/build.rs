//! `build-ebpf` and `run`: builds that end in a file or a running program. Does not know how the object is made.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::ebpf;
use crate::ebpf::toolchain::Toolchain;
use crate::interrupt::Interrupt;
use crate::privilege;
use crate::setup::{self, Consent, Purpose};
use crate::shell;
use crate::workspace;

/// Options of `run`.
#[derive(Debug, clap::Args)]
pub struct RunOptions {
    /// Arguments for spectrum-user
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Builds the eBPF object and says where it is.
pub fn build_ebpf(consent: Consent) -> Result<ExitCode> {
    setup::ready(&[Purpose::Build], consent)?;
    println!("with {}", Toolchain::find()?);
    let object = ebpf::build(workspace::root(), &workspace::machine())?;
    println!("{} ({} bytes)", object.display(), fs::metadata(&object)?.len());
    Ok(ExitCode::SUCCESS)
}

/// Builds the program with optimisations.
pub fn spectrum_user() -> Result<()> {
    shell::run(&mut workspace::cargo(["build", "--release", "--package", "spectrum-user"]))
}

/// The variables that tell the privileged tests where what was built is, and `program`, which they are about.
#[must_use]
pub fn for_tests(program: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("SPECTRUM_BIN", program.display().to_string()),
        ("SPECTRUM_EBPF_OBJECT", ebpf::object(workspace::root()).display().to_string()),
    ]
}

/// Builds the program as packages have it, which takes longer.
pub fn packaged() -> Result<()> {
    shell::run(&mut workspace::cargo(["build", "--profile", "dist", "--package", "spectrum-user"]))
}

/// A program that cargo built.
#[derive(Debug)]
pub struct Executable {
    /// The name of its target.
    pub name: String,
    /// Its place.
    pub path: PathBuf,
    /// The directory of its package, where cargo would run it.
    pub directory: PathBuf,
}

/// The tests or benchmarks that `cargo`, a build of them, leaves to be run, sorted by name. Their file names have a
/// hash, so only cargo can tell.
pub fn executables(cargo: &mut Command) -> Result<Vec<Executable>> {
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let messages = shell::stdout(cargo)?;
    let mut executables = Vec::new();
    for message in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(message).context("read what cargo built")?;
        let name = message.pointer("/target/name").and_then(Value::as_str);
        let is_test = message.pointer("/profile/test").and_then(Value::as_bool) == Some(true);
        let is_bench = message.pointer("/target/kind/0").and_then(Value::as_str) == Some("bench");
        let path = message.get("executable").and_then(Value::as_str);
        let manifest = message.get("manifest_path").and_then(Value::as_str).map(Path::new);
        let directory = manifest.and_then(Path::parent);
        if let (true, Some(name), Some(path), Some(directory)) = (is_test || is_bench, name, path, directory)
        {
            executables.push(Executable {
                name: name.to_owned(),
                path: PathBuf::from(path),
                directory: directory.to_path_buf(),
            });
        }
    }
    executables.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(executables)
}

/// Builds the program as the invoking user, then runs it as root.
pub fn run(options: &RunOptions, consent: Consent) -> Result<ExitCode> {
    setup::ready(&[Purpose::Build, Purpose::Run], consent)?;
    spectrum_user()?;
    // Ctrl-C reaches the program as well; we wait for it to undo what it did.
    let _interrupt = Interrupt::watch()?;
    let mut program = privilege::as_root(workspace::spectrum_user(), &[])?;
    let status = shell::status(program.args(&options.arguments))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

//! `build-ebpf` and `run`: builds that end in a file or a running program. Does not know how the object is made.

use std::ffi::OsString;
use std::fs;
use std::process::ExitCode;

use anyhow::Result;

use crate::ebpf;
use crate::ebpf::toolchain::Toolchain;
use crate::interrupt::Interrupt;
use crate::privilege;
use crate::setup::{self, Consent, Purpose};
use crate::shell;
use crate::workspace;

/// Options of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct RunOptions {
    /// What to pass to spectrum-user
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Builds the eBPF object and says where it is.
pub(crate) fn build_ebpf(consent: Consent) -> Result<ExitCode> {
    setup::ready(&[Purpose::Build], consent)?;
    println!("with {}", Toolchain::find()?);
    let object = ebpf::build(workspace::root(), &workspace::machine())?;
    println!("{} ({} bytes)", object.display(), fs::metadata(&object)?.len());
    Ok(ExitCode::SUCCESS)
}

/// Builds the program with optimisations.
pub(crate) fn spectrum_user() -> Result<()> {
    shell::run(&mut workspace::cargo(["build", "--release", "--package", "spectrum-user"]))
}

/// Builds the program as the invoking user, then runs it as root.
pub(crate) fn run(options: &RunOptions, consent: Consent) -> Result<ExitCode> {
    setup::ready(&[Purpose::Build, Purpose::Run], consent)?;
    spectrum_user()?;
    // Ctrl-C reaches the program as well; we wait for it to undo what it did.
    let _interrupt = Interrupt::watch()?;
    let mut program = privilege::as_root(workspace::spectrum_user(), &[])?;
    let status = shell::status(program.args(&options.arguments))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

//! A process that has lost a system call, and all that it starts with it: what they see is a kernel that is built without.
//! Runs in a guest; decides nothing about which guest.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use super::kernel::Call;

/// A command, and the system call that it goes without.
#[derive(Debug, clap::Args)]
pub(super) struct RefusedOptions {
    /// The system call
    call: Call,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    words: Vec<OsString>,
}

impl Call {
    fn number(self) -> i64 {
        match self {
            Self::Bpf => libc::SYS_bpf,
        }
    }
}

/// Becomes the program.
pub(super) fn run(options: &RefusedOptions) -> Result<Infallible> {
    refuse(options.call).with_context(|| format!("refuse {}", options.call))?;
    let (program, arguments) = options.words.split_first().context("run nothing")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("run {}", program.display()))
}

fn refuse(call: Call) -> Result<()> {
    // What a kernel says of a system call that it does not have.
    let refusal = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let calls = BTreeMap::from([(call.number(), Vec::new())]);
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, refusal, env::consts::ARCH.try_into()?)?;
    apply_filter(&BpfProgram::try_from(filter)?)?;
    Ok(())
}

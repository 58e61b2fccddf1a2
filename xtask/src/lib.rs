//! What `cargo xtask` and the programs that it starts have in common: set-up, builds, being root, and the demo, whose client
//! and view of the kernel others use as well. Parses no command line.

#![expect(clippy::print_stdout, reason = "a developer's tool talks on standard output")]

pub mod build;
pub mod demo;
pub mod interrupt;
pub mod mirror;
pub mod musl;
pub mod namespace;
pub mod privilege;
pub mod random;
pub mod server;
pub mod setup;
pub mod shell;
pub mod style;
pub mod workspace;

use std::process::ExitCode;

use anyhow::Result;

pub use xtask_ebpf as ebpf;

/// The exit status of a command that is `done`, after saying what it failed with.
#[must_use]
pub fn end(done: Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

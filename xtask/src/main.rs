//! `cargo xtask`: set-up, build, demo, tests, lint and benchmarks. Ships nothing: users run `spectrum-user`.

#![expect(clippy::print_stdout, reason = "a developer's tool talks on standard output")]

mod build;
mod ebpf;
mod privilege;
mod setup;
mod shell;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set-up, build, demo, tests, lint and benchmarks of spectrum.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
    /// Only say what is missing, and install nothing
    #[arg(long, global = true)]
    no_install: bool,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the eBPF object, after setting up what builds it
    BuildEbpf,
    /// Build spectrum-user as you, then run it as root
    Run(build::RunOptions),
}

fn main() -> ExitCode {
    let Cli { command, no_install } = Cli::parse();
    let consent = if no_install { setup::Consent::Withheld } else { setup::Consent::Given };
    let done = match command {
        Task::BuildEbpf => build::build_ebpf(consent),
        Task::Run(options) => build::run(&options, consent),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

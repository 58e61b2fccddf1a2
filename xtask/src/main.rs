//! `cargo xtask`: set-up, build, demo, tests and lint, and what starts the larger tools. Ships nothing: users run
//! `spectrum-user`.

#![expect(clippy::print_stdout, reason = "a developer's tool talks on standard output")]

mod fuzz;
mod lint;
mod program;
mod soak;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use xtask::setup::Consent;
use xtask::{build, demo, end};

use program::{PROGRAMS, Program};

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
    /// Show the program at work, in a throw-away network namespace
    Demo,
    /// The part of `demo` that runs as root
    #[command(hide = true)]
    DemoStage(demo::StageOptions),
    /// Look for inputs that break what must hold, each target for a minute
    Fuzz(fuzz::FuzzOptions),
    /// Check formatting, lints, documentation, the rules of the code base and dependencies
    Lint(lint::LintOptions),
    /// Build spectrum-user as you, then run it as root
    Run(build::RunOptions),
    /// Run the program under traffic, reloads and kills on every path at once, and compare every answer with a slow scan
    Soak(soak::SoakOptions),
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    if let Some((program, own)) = Program::asked_for(&arguments) {
        return end(program.run(&own).map(|never| match never {}));
    }
    // They are listed with the others, and have been run before anything is read here.
    let listed = PROGRAMS.iter().fold(Cli::command(), |cli, program| {
        cli.subcommand(clap::Command::new(program.name).about(program.about))
    });
    let Cli { command, no_install } =
        Cli::from_arg_matches(&listed.get_matches()).unwrap_or_else(|error| error.exit());
    let consent = Consent::unless(no_install);
    end(match command {
        Task::BuildEbpf => build::build_ebpf(consent),
        Task::Demo => demo::demo(consent),
        Task::DemoStage(options) => demo::stage(&options),
        Task::Fuzz(options) => fuzz::fuzz(&options, consent),
        Task::Lint(options) => lint::lint(&options, consent),
        Task::Run(options) => build::run(&options, consent),
        Task::Soak(options) => soak::soak(&options, consent),
    })
}

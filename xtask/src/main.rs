//! `cargo xtask`: set-up, build, demo, tests, lint and benchmarks. Ships nothing: users run `spectrum-user`.

#![expect(clippy::print_stdout, reason = "a developer's tool talks on standard output")]

mod bench;
mod build;
mod demo;
mod ebpf;
mod fresh;
mod fuzz;
mod interrupt;
mod lint;
mod mirror;
mod namespace;
mod privilege;
mod random;
mod server;
mod setup;
mod shell;
mod soak;
mod style;
mod test;
mod tidy;
mod vmtest;
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
    /// Measure, as root, in throw-away network namespaces
    Bench(bench::BenchOptions),
    /// The part of `bench` that runs as root
    #[command(hide = true)]
    BenchStage(bench::StageOptions),
    /// Build the eBPF object, after setting up what builds it
    BuildEbpf,
    /// Show the program at work, in a throw-away network namespace
    Demo,
    /// The part of `demo` that runs as root
    #[command(hide = true)]
    DemoStage(demo::StageOptions),
    /// Run README's commands in a clean Debian, as a new user types them, and say what each took
    Fresh(fresh::FreshOptions),
    /// The parts of `fresh` that run as root
    #[command(hide = true, subcommand)]
    FreshPart(fresh::Part),
    /// Look for inputs that break what must hold, each target for a minute
    Fuzz(fuzz::FuzzOptions),
    /// Check formatting, lints, documentation, the rules of the code base and dependencies
    Lint(lint::LintOptions),
    /// Build spectrum-user as you, then run it as root
    Run(build::RunOptions),
    /// Only set up what tests need on this host, without building anything
    #[command(hide = true)]
    SetUpTests,
    /// Run the program under traffic, reloads and kills on every path at once, and compare every answer with a slow scan
    Soak(soak::SoakOptions),
    /// Run every test, the privileged ones as root
    Test(test::TestOptions),
    /// Run the privileged tests on other kernels, each in an emulated machine
    Vmtest(vmtest::VmtestOptions),
}

fn main() -> ExitCode {
    let Cli { command, no_install } = Cli::parse();
    let consent = if no_install { setup::Consent::Withheld } else { setup::Consent::Given };
    let done = match command {
        Task::Bench(options) => bench::bench(&options, consent),
        Task::BenchStage(options) => bench::stage(options),
        Task::BuildEbpf => build::build_ebpf(consent),
        Task::Demo => demo::demo(consent),
        Task::DemoStage(options) => demo::stage(&options),
        Task::Fresh(options) => fresh::fresh(&options, consent),
        Task::FreshPart(part) => fresh::part(&part),
        Task::Fuzz(options) => fuzz::fuzz(&options, consent),
        Task::Lint(options) => lint::lint(&options, consent),
        Task::SetUpTests => setup::ready(&[setup::Purpose::Test], consent).map(|()| ExitCode::SUCCESS),
        Task::Soak(options) => soak::soak(&options, consent),
        Task::Test(options) => test::test(&options, consent),
        Task::Run(options) => build::run(&options, consent),
        Task::Vmtest(options) => vmtest::vmtest(&options, consent),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

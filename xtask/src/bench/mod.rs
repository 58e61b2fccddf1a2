//! `bench`: measurements that stand on a busy machine, each a ratio to something measured in the same seconds. Knows how
//! benchmarks are chosen and their rows shown; what is measured is in the files beside it.

mod connect;
mod cpu;
mod row;
mod slices;
mod start;
mod station;
mod statistics;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

use crate::build;
use crate::interrupt::Interrupt;
use crate::namespace;
use crate::privilege;
use crate::setup::{self, Consent, Purpose};
use crate::shell;
use crate::workspace;

use row::Row;

/// One benchmark. A new one joins by standing in [`BENCHMARKS`].
struct Benchmark {
    /// What `cargo xtask bench NAME` calls it.
    name: &'static str,
    /// What it measures, in one line.
    about: &'static str,
    /// Measures.
    run: fn(&Bench) -> Result<Vec<Row>>,
}

const BENCHMARKS: [Benchmark; 2] = [
    Benchmark { name: "connect", about: "what accepting one connection costs", run: connect::run },
    Benchmark {
        name: "start",
        about: "from exec to ready, and the memory of an idle program",
        run: start::run,
    },
];

/// What a benchmark may use.
#[derive(Debug)]
pub(crate) struct Bench {
    /// The program under test.
    program: PathBuf,
    /// The same accept loop behind an ordinary listener: `spectrum-user/examples/plain-listener.rs`.
    plain_listener: PathBuf,
    /// Whether to stop.
    interrupt: Interrupt,
}

/// Options of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchOptions {
    /// Which to run: all, unless named
    #[arg(value_parser = BENCHMARKS.map(|benchmark| benchmark.name))]
    names: Vec<String>,
    /// Print one JSON object per row
    #[arg(long)]
    json: bool,
}

/// The part of the benchmarks that runs as root.
#[derive(Debug, clap::Args)]
pub(crate) struct StageOptions {
    /// The program under test; sudo keeps no variable that would tell
    #[arg(long)]
    program: PathBuf,
    #[command(flatten)]
    options: BenchOptions,
}

/// Sets up, builds as the invoking user, and hands the rest to root.
pub(crate) fn bench(options: &BenchOptions, consent: Consent) -> Result<ExitCode> {
    setup::ready(&[Purpose::Build, Purpose::Bench], consent)?;
    build::spectrum_user()?;
    shell::run(&mut workspace::cargo([
        "build",
        "--release",
        "--package",
        "spectrum-user",
        "--example",
        "plain-listener",
    ]))?;
    let _interrupt = Interrupt::watch()?;
    let mut stage = privilege::as_root(env::current_exe().context("find this program")?, &[])?;
    stage.arg("bench-stage").arg("--program").arg(workspace::spectrum_user());
    stage.args(options.json.then_some("--json")).args(&options.names);
    Ok(if shell::status(&mut stage)?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The benchmarks themselves. As root.
pub(crate) fn stage(stage: &StageOptions) -> Result<ExitCode> {
    namespace::enter()?;
    let StageOptions { program, options } = stage;
    let bench = Bench {
        plain_listener: program.with_file_name("examples").join("plain-listener"),
        program: program.clone(),
        interrupt: Interrupt::watch()?,
    };
    for benchmark in &BENCHMARKS {
        if !options.names.is_empty() && !options.names.iter().any(|name| name == benchmark.name) {
            continue;
        }
        if !options.json {
            println!("\n{}: {}", benchmark.name, benchmark.about);
        }
        let rows = (benchmark.run)(&bench).with_context(|| format!("benchmark {}", benchmark.name))?;
        ensure!(!rows.is_empty(), "benchmark {}: measured nothing", benchmark.name);
        if options.json {
            for row in &rows {
                println!("{}", row.to_json());
            }
        } else {
            row::print_table(&rows);
        }
    }
    // A goal that is not met is a finding, not a failure of the benchmark: the machine may be busy.
    Ok(ExitCode::SUCCESS)
}

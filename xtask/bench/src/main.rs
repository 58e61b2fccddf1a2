//! `bench`: measurements that stand on a busy machine, each a ratio to something measured in the same seconds. Knows how
//! benchmarks are chosen and their rows shown; what is measured is in the files beside it.

#![expect(clippy::print_stdout, reason = "a developer's tool talks on standard output")]

mod caller;
mod connect;
mod contest;
mod cpu;
mod datagrams;
mod dispatch;
mod early;
mod flood;
mod frames;
mod measured;
mod memory;
mod processes;
mod protect;
mod proxy;
mod publish;
mod registered;
mod report;
mod row;
mod slices;
mod start;
mod station;
mod statistics;
mod udp;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};

use xtask::build;
use xtask::ebpf;
use xtask::end;
use xtask::interrupt::Interrupt;
use xtask::namespace;
use xtask::privilege;
use xtask::setup::{self, Consent, Purpose};
use xtask::shell;
use xtask::workspace;

use report::{Format, Report};

/// One benchmark. A new one joins by standing in [`BENCHMARKS`].
struct Benchmark {
    /// Its name for `cargo xtask bench NAME`.
    name: &'static str,
    /// Its subject in one line.
    about: &'static str,
    /// Measures.
    run: fn(&Bench, &mut Report) -> Result<()>,
}

/// The benchmarks that compare packages.
const PROXY: &str = "proxy";
const START: &str = "start";
const UDP: &str = "udp";

const BENCHMARKS: [Benchmark; 8] = [
    Benchmark { name: "connect", about: "what accepting one connection costs", run: connect::run },
    Benchmark {
        name: "datagrams",
        about: "datagrams per second to random ports; more is better",
        run: datagrams::run,
    },
    Benchmark { name: "dispatch", about: "what one run of the eBPF program costs", run: dispatch::run },
    Benchmark {
        name: "protect",
        about: "what a million denied sources cost, and turning one away",
        run: protect::run,
    },
    Benchmark { name: PROXY, about: "a TCP proxy next to HAProxy and nginx", run: proxy::run },
    Benchmark {
        name: "publish",
        about: "from bindings to a steering table in the kernel, and its memory",
        run: publish::run,
    },
    Benchmark {
        name: START,
        about: "from exec to ready, and the memory of an idle program",
        run: start::run,
    },
    Benchmark { name: UDP, about: "a proxy of datagrams next to nginx", run: udp::run },
];

/// The means of a benchmark.
#[derive(Clone, Debug)]
struct Bench {
    /// The program under test.
    program: PathBuf,
    /// The same as packages have it: what is compared with packages, and what idles at most people's.
    packaged: PathBuf,
    /// The same accept loop behind an ordinary listener: `spectrum-user/examples/plain-listener.rs`.
    plain_listener: PathBuf,
    /// The measuring programs of `spectrum-steering/benches` and `spectrum-user/benches`.
    measuring: Vec<PathBuf>,
    /// The eBPF object with the programs that ours is compared with.
    reference: PathBuf,
    /// Part of the name of the cases to measure.
    only: Option<String>,
    /// The flag that says to stop.
    interrupt: Interrupt,
}

/// Measure, as root, in throw-away network namespaces
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    options: BenchOptions,
    /// Only say what is missing, and install nothing
    #[arg(long)]
    no_install: bool,
}

/// A part that runs as root.
#[derive(Debug, Subcommand)]
enum Part {
    /// All of it, once everything is built
    #[command(hide = true)]
    Stage(StageOptions),
}

/// Options of `bench`.
#[derive(Debug, clap::Args)]
struct BenchOptions {
    /// Which to run: all, unless named
    #[arg(value_parser = BENCHMARKS.map(|benchmark| benchmark.name))]
    names: Vec<String>,
    /// Measure only cases of this name, or with this in it
    #[arg(long)]
    case: Option<String>,
    /// Print one JSON object per row
    #[arg(long)]
    json: bool,
}

/// The part of the benchmarks that runs as root. Sudo keeps no variable that would tell where things are.
#[derive(Debug, clap::Args)]
struct StageOptions {
    /// The program under test
    #[arg(long)]
    program: PathBuf,
    /// The same as packages have it
    #[arg(long)]
    packaged: PathBuf,
    /// A measuring program
    #[arg(long)]
    measuring: Vec<PathBuf>,
    /// The eBPF object with the programs that ours is compared with
    #[arg(long)]
    reference: PathBuf,
    #[command(flatten)]
    options: BenchOptions,
}

fn main() -> ExitCode {
    let Cli { part, options, no_install } = Cli::parse();
    end(match part {
        Some(Part::Stage(options)) => stage(options),
        None => bench(&options, Consent::unless(no_install)),
    })
}

/// Sets up, builds as the invoking user, and hands the rest to root.
fn bench(options: &BenchOptions, consent: Consent) -> Result<ExitCode> {
    setup::ready(&[Purpose::Build, Purpose::Bench], consent)?;
    build::spectrum_user()?;
    if [PROXY, START, UDP].iter().any(|name| options.wants(name)) {
        build::packaged()?;
    }
    let mut example = workspace::cargo(["build", "--release", "--example", "plain-listener"]);
    shell::run(example.args(["--package", "spectrum-user"]))?;
    let mut benches = workspace::cargo(["bench", "--no-run", "--benches"]);
    let measuring =
        build::executables(benches.args(["--package", "spectrum-steering", "--package", "spectrum-user"]))?;

    let _interrupt = Interrupt::watch()?;
    let mut stage = privilege::as_root(env::current_exe().context("find this program")?, &[])?;
    stage.arg("stage").arg("--program").arg(workspace::spectrum_user());
    stage.arg("--packaged").arg(workspace::packaged());
    stage.arg("--reference").arg(ebpf::object(workspace::root()).with_file_name("reference.o"));
    for executable in measuring {
        stage.arg("--measuring").arg(executable.path);
    }
    if let Some(case) = &options.case {
        stage.arg("--case").arg(case);
    }
    stage.args(options.json.then_some("--json")).args(&options.names);
    Ok(if shell::status(&mut stage)?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The benchmarks themselves. As root.
fn stage(stage: StageOptions) -> Result<ExitCode> {
    namespace::enter()?;
    let StageOptions { program, packaged, measuring, reference, options } = stage;
    let bench = Bench {
        plain_listener: program.with_file_name("examples").join("plain-listener"),
        program,
        packaged,
        measuring,
        reference,
        only: options.case.clone(),
        interrupt: Interrupt::watch()?,
    };
    let mut report = Report::new(if options.json { Format::Json } else { Format::Table });
    for benchmark in &BENCHMARKS {
        if !options.wants(benchmark.name) {
            continue;
        }
        report.open(benchmark.name, benchmark.about);
        (benchmark.run)(&bench, &mut report).with_context(|| format!("benchmark {}", benchmark.name))?;
        ensure!(!report.is_empty(), "benchmark {}: measured nothing", benchmark.name);
    }
    // A goal that is not met is a finding, not a failure of the benchmark: the machine may be busy.
    Ok(ExitCode::SUCCESS)
}

impl BenchOptions {
    /// True if the benchmark `name` is to be run.
    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }
}

impl Bench {
    /// True if the case `name` is to be measured.
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only))
    }

    /// One of the measuring programs. Their file names end in a hash.
    fn measuring(&self, name: &str) -> Result<PathBuf> {
        let named = |path: &&PathBuf| {
            let file = path.file_name().and_then(|file| file.to_str());
            file.and_then(|file| file.rsplit_once('-')).is_some_and(|(stem, _hash)| stem == name)
        };
        self.measuring.iter().find(named).cloned().with_context(|| format!("find the benchmark {name}"))
    }
}

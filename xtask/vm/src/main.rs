//! `vmtest`: the privileged tests on the kernels people run, each in an emulated machine. Prepares, boots and reports; what
//! is tested stands in `tests/`.

#![expect(clippy::print_stdout, reason = "a developer's tool talks on standard output")]

mod archive;
mod cache;
mod fetch;
mod guest;
mod initramfs;
mod kernel;
mod outcome;
mod refused;
mod report;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Parser, Subcommand};

use xtask::build::{self, executables};
use xtask::ebpf;
use xtask::end;
use xtask::setup::{self, Consent, Purpose};
use xtask::workspace;

use cache::Cache;
use fetch::Fetched;
use guest::Guest;
use initramfs::Payload;
use kernel::{KERNELS, Kernel, Occasion, Source};
use outcome::Outcome;
use refused::RefusedOptions;
use report::Report;

/// An emulated processor is 12 to 17 times slower than the host's: tests that draw or repeat do this share of it.
const SCALE: &str = "0.02";

/// Three times as many as a case has variants, so that each guest runs every third case on one path and family.
const TURNS: usize = 24;

/// As many tests at once as keep one processor busy while others wait for something.
const THREADS: &str = "3";

/// The tests whose outcome a kernel can change. Not those that repeat for minutes what others do once, nor those of what the
/// proxy does with connections that it has.
const RUN: [&str; 15] = [
    "capabilities",
    "doctor",
    "harness",
    "judgement",
    "kernel",
    "lifecycle",
    "object",
    "precedence",
    "refusals",
    "registered",
    "seeing",
    "steering",
    "tproxy",
    "udp",
    "xdp",
];

/// Run the privileged tests on other kernels, each in an emulated machine
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that somebody types")]
#[command(
    name = "cargo xtask vmtest",
    bin_name = "cargo xtask vmtest",
    args_conflicts_with_subcommands = true
)]
struct VmtestOptions {
    #[command(subcommand)]
    part: Option<Part>,
    /// Only this kernel; may be given several times
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(KERNELS.iter().map(|kernel| kernel.name)))]
    kernel: Vec<String>,
    /// On every kernel, those too that have to be compiled first; without it on the oldest, the newest, and one whose
    /// processes have no bpf(2)
    #[arg(long, conflicts_with = "kernel")]
    full: bool,
    /// Only say which kernels there are
    #[arg(long)]
    list: bool,
    /// Print the table of README, and put it there
    #[arg(long, conflicts_with_all = ["kernel", "json"])]
    markdown: bool,
    /// Print an object for each kernel
    #[arg(long)]
    json: bool,
    /// Instead of what is run otherwise: this suite, whole; may be given several times. Those that need what only Debian has skip
    #[arg(long, value_name = "NAME")]
    suite: Vec<String>,
    /// Only say what is missing, and install nothing
    #[arg(long)]
    no_install: bool,
    /// Arguments for every test binary, such as part of a test's name
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// A part that runs in a guest.
#[derive(Debug, Subcommand)]
enum Part {
    /// Run a program that has lost a system call
    #[command(hide = true)]
    Refuse(RefusedOptions),
}

fn main() -> ExitCode {
    let options = VmtestOptions::parse();
    end(match &options.part {
        Some(Part::Refuse(options)) => refused::run(options).map(|never| match never {}),
        None => vmtest(&options),
    })
}

/// Runs the tests on the kernels; fails unless each is as the list says.
fn vmtest(options: &VmtestOptions) -> Result<ExitCode> {
    if options.list {
        for kernel in &KERNELS {
            println!("{:14}{kernel}", kernel.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let kernels: Vec<&'static Kernel> = if options.kernel.is_empty() {
        // README's table is of all.
        Kernel::of(if options.full || options.markdown { Occasion::Full } else { Occasion::Always })
    } else {
        options.kernel.iter().filter_map(|name| Kernel::named(name)).collect()
    };
    let mut purposes = vec![Purpose::Build, Purpose::Test, Purpose::Vmtest];
    if kernels.iter().any(|kernel| matches!(kernel.source, Source::Compiled(_))) {
        purposes.push(Purpose::Kernels);
    }
    setup::ready(&purposes, Consent::unless(options.no_install))?;
    let started = Instant::now();
    let fetched = fetch::fetch(&kernels, &Cache::open()?)?;
    let machine = Machine::prepare(&options.suite, &options.arguments)?;
    println!("prepared in {} s", started.elapsed().as_secs());
    let reports = machine.run_all(&kernels, &fetched)?;
    println!("{} kernels in {} s", reports.len(), started.elapsed().as_secs());
    if options.json {
        for report in &reports {
            println!("{}", report.json());
        }
    }
    let is_good = reports.iter().all(|report| report.outcome.is_good());
    if options.markdown {
        let table = report::markdown(&reports)?;
        println!("\n{table}");
        // A table of failures would not be true of what is released.
        if is_good {
            report::write_readme(&table)?;
        }
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The parts of every guest.
struct Machine {
    work: PathBuf,
    common: PathBuf,
    arguments: String,
}

impl Machine {
    fn prepare(suites: &[String], arguments: &[String]) -> Result<Self> {
        build::spectrum_user()?;
        let mut tests =
            executables(&mut workspace::cargo(["test", "--no-run", "--package", "spectrum-tests"]))?;
        if let Some(unknown) = suites.iter().find(|suite| tests.iter().all(|test| test.name != **suite)) {
            let names: Vec<&str> = tests.iter().map(|test| test.name.as_str()).collect();
            bail!("there is no suite {unknown}; there are {}", names.join(", "));
        }
        tests.retain(|test| match suites {
            [] => RUN.contains(&test.name.as_str()),
            named => named.contains(&test.name),
        });
        let work = workspace::target_dir().join("vmtest");
        fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
        let payload = Payload {
            program: &workspace::spectrum_user(),
            object: &ebpf::object(workspace::root()),
            tests: &tests,
        };
        let common = initramfs::pack_common(&payload, &work)?;
        Ok(Self { work, common, arguments: arguments.join(" ") })
    }

    /// Boots `kernels`, as many at a time as there are processors, and reports in their order.
    fn run_all(&self, kernels: &[&'static Kernel], fetched: &[Fetched]) -> Result<Vec<Report>> {
        let next = AtomicUsize::new(0);
        let reports = Mutex::new(Vec::new());
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let (Some(kernel), Some(fetched)) = (kernels.get(at), fetched.get(at)) else { return };
                let report = self.run(kernel, fetched).with_context(|| format!("run kernel {}", kernel.name));
                let mut reports = reports.lock().unwrap_or_else(PoisonError::into_inner);
                match &report {
                    Ok(report) => report.print(),
                    Err(error) => println!("FAIL {:12} {error:#}", kernel.name),
                }
                reports.push((at, report));
            }
        };
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(work);
            }
        });
        let mut reports = reports.into_inner().map_err(|_poisoned| anyhow!("a kernel's run panicked"))?;
        reports.sort_by_key(|(at, _)| *at);
        reports.into_iter().map(|(_, report)| report).collect()
    }

    fn run(&self, kernel: &'static Kernel, fetched: &Fetched) -> Result<Report> {
        let modules = initramfs::pack_modules(kernel.name, fetched, &self.work)?;
        let initramfs = self.work.join(format!("initramfs-{}", kernel.name));
        let archives: Vec<&Path> =
            [Some(self.common.as_path()), modules.as_deref()].into_iter().flatten().collect();
        initramfs::join(&archives, &initramfs)?;
        let number = KERNELS.iter().position(|other| other.name == kernel.name).unwrap_or_default();
        // Who looks for the cause of a failure may want more of it than is fit for every day.
        let scale = env::var("SPECTRUM_TEST_SCALE").unwrap_or_else(|_unset| SCALE.to_owned());
        let turn = env::var("SPECTRUM_TEST_TURN").unwrap_or_else(|_unset| format!("{number}/{TURNS}"));
        let arguments =
            if self.arguments.is_empty() { kernel.only.join(" ") } else { self.arguments.clone() };
        let refused = kernel.refuses.map_or_else(String::new, |call| call.to_string());
        let log = self.work.join(format!("{}.log", kernel.name));
        let parameters = format!(
            "{} SPECTRUM_BIN=/vmtest/spectrum-user SPECTRUM_EBPF_OBJECT=/vmtest/spectrum.o SPECTRUM_TEST_SCALE={scale} \
             SPECTRUM_TEST_TURN={turn} VMTEST_THREADS={THREADS} VMTEST_REFUSED={refused} \"VMTEST_ARGUMENTS={arguments}\"",
            kernel.parameters,
        );
        let guest =
            Guest { image: &fetched.image, initramfs: &initramfs, parameters: &parameters, log: &log };
        let said = guest.run()?;
        // Memory's worth of archive, and made anew by the next run.
        fs::remove_file(&initramfs).context("remove an initramfs")?;
        let outcome = Outcome::of(kernel, &said);
        Ok(Report { kernel, said, outcome })
    }
}

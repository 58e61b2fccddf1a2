//! `test`: every test there is. Builds and runs as the invoking user what needs no privilege, and the binaries of the
//! privileged tests as root, several at a time. Decides nothing about which test may skip; it passes on what was asked.

#![expect(clippy::print_stdout, reason = "a developer's tool talks on standard output")]

mod report;
mod runner;
mod stage;
mod suite;
mod turn;
mod verdict;

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use nix::sys::resource::{UsageWho, getrusage};

use report::Report;
use runner::{Bounds, End, Ending, Job};
use suite::{Request, Suite};
use turn::{Turn, VARIABLE};
use verdict::Verdict;
use xtask::build::{self, executables};
use xtask::end;
use xtask::interrupt::Interrupt;
use xtask::musl;
use xtask::privilege;
use xtask::setup::{self, Consent, Purpose};
use xtask::shell;
use xtask::workspace;

/// The package of the privileged tests, and its directory.
const PRIVILEGED: &str = "tests";

/// A test that ends is a line, and none takes this long.
const SILENCE: Duration = Duration::from_mins(5);

/// Binaries at a time for each processor: most of the time tests wait for the program's own timers.
const PER_PROCESSOR: usize = 3;

/// Tests at a time of one binary.
const THREADS: usize = 3;

/// The times that a test that failed has to pass by itself to be called unstable.
const AGAIN: usize = 3;

/// Run every test, the privileged ones as root
#[derive(Debug, Parser)]
#[command(name = "cargo xtask test", bin_name = "cargo xtask test", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    options: TestOptions,
    /// Only say what is missing, and install nothing
    #[arg(long)]
    no_install: bool,
}

/// A part that runs as root.
#[derive(Clone, Copy, Debug, Subcommand)]
enum Part {
    /// The privileged tests
    #[command(hide = true)]
    Stage,
}

/// Options of `test`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that somebody types")]
struct TestOptions {
    /// Count a test that cannot run here as failed; the default where CI=true
    #[arg(long)]
    require: bool,
    /// Run every case on every path and family it has, not only on those whose turn it is
    #[arg(long, conflicts_with = "turn")]
    full: bool,
    /// The turn; that of the day where none is given, and all where tests are named
    #[arg(long, value_name = "N")]
    turn: Option<u64>,
    /// Test binaries at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
    /// The privileged tests alone, of the program linked statically with musl
    #[arg(long = "static")]
    is_static: bool,
    /// Only say which tests there are
    #[arg(long)]
    list: bool,
    /// A test's name, a part of names, or what else to pass to every test binary
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    let Cli { part, options, no_install } = Cli::parse();
    end(match part {
        Some(Part::Stage) => stage::stage(),
        None => test(&options, Consent::unless(no_install)),
    })
}

/// Runs the tests; fails if any failed, after all have run.
fn test(options: &TestOptions, consent: Consent) -> Result<ExitCode> {
    let request = Request::parse(&options.arguments)?;
    setup::ready(&[Purpose::Build, Purpose::Test], consent)?;
    let mut suites = suites(&request.options)?;
    // Nothing else has the program in it.
    suites.retain(|suite| suite.privileged || !options.is_static);
    let mut suites = request.choose(suites)?;
    if options.list {
        for suite in &suites {
            suite.tests.iter().for_each(|test| println!("{}: {test}", suite.name));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let program = program(options.is_static, consent)?;

    let in_ci = env::var_os("CI").is_some_and(|ci| ci == "true");
    let require = options.require || in_ci;
    let turn = options.chosen_turn(&request);
    let environment = variables(require, &turn, &program);
    if let [suite] = &suites[..]
        && request.is_partial()
        && (!suite.privileged || privilege::available())
    {
        return alone(suite, &request, &environment);
    }

    let times = Times::load();
    times.sort(&mut suites);
    let mut report = Report::new(&suites, &request, in_ci);
    report.begin(&turn);
    let before = cpu_time()?;
    let begun = Instant::now();
    let interrupt = Interrupt::watch()?;
    let bounds = Bounds { at_a_time: options.at_a_time(), silence: SILENCE };
    let job = |at: usize, suite: &Suite| Job::of(at, suite, &request, &environment);
    let jobs = |privileged: bool| {
        let chosen = suites.iter().enumerate().filter(move |(_, suite)| suite.privileged == privileged);
        chosen.map(|(at, suite)| job(at, suite)).collect::<Vec<_>>()
    };
    runner::run(jobs(false), bounds, || interrupt.check().is_err(), |ending| report.take(&ending))?;
    if !request.is_partial() && !options.is_static && interrupt.check().is_ok() {
        report.documentation(&documentation()?);
    }
    let privileged = jobs(true);
    if !privileged.is_empty() && interrupt.check().is_ok() {
        if privilege::available() {
            stage::run(privileged, bounds, &interrupt, |ending| report.take(&ending))?;
            if !request.is_partial() {
                try_again(&suites, &environment, &interrupt, &mut report)?;
            }
        } else {
            report.without_root(require);
        }
    }
    if !request.is_partial() && !options.is_static {
        times.store(&report)?;
    }
    report.end(begun.elapsed(), cpu_time()?.saturating_sub(before));
    interrupt.check()?;
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The program under test, built now.
fn program(is_static: bool, consent: Consent) -> Result<PathBuf> {
    if is_static {
        setup::ready(&[Purpose::Static], consent)?;
        return musl::release();
    }
    build::spectrum_user()?;
    Ok(workspace::spectrum_user())
}

/// Tries those that failed by themselves, with nothing beside them.
fn try_again(
    suites: &[Suite],
    environment: &[(String, String)],
    interrupt: &Interrupt,
    report: &mut Report<'_>,
) -> Result<()> {
    let bounds = Bounds { at_a_time: 1, silence: SILENCE };
    for (place, (at, test)) in report.doubtful().into_iter().enumerate() {
        let Some(suite) = suites.get(at) else { continue };
        println!("again: {}: {test}", suite.name);
        let only = Suite { tests: vec![test], is_part: true, ..suite.clone() };
        let jobs = vec![Job::of(at, &only, &Request::default(), environment); AGAIN];
        let mut passed = 0;
        stage::run(jobs, bounds, interrupt, |ending| {
            passed += usize::from(Verdict::of(&ending, &only.tests, 1).counts().passed == 1);
            Ok(())
        })?;
        if passed == AGAIN {
            report.is_unstable(place);
        }
    }
    Ok(())
}

impl TestOptions {
    fn chosen_turn(&self, request: &Request) -> Turn {
        match (self.turn, env::var(VARIABLE)) {
            (Some(number), _) => Turn::Number(number),
            _ if self.full => Turn::Full,
            (None, Ok(value)) => Turn::Given(value),
            // Who names a test wants it.
            _ if request.is_partial() => Turn::Full,
            _ => Turn::of_the_day(),
        }
    }

    fn at_a_time(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs.map_or(PER_PROCESSOR * processors, usize::from)
    }
}

/// The variables that the tests are told.
fn variables(require: bool, turn: &Turn, program: &Path) -> Vec<(String, String)> {
    let mut variables = build::for_tests(program);
    if require {
        variables.push(("SPECTRUM_TEST_REQUIRE", "all".to_owned()));
    }
    variables.extend(turn.value().map(|value| (VARIABLE, value)));
    for name in ["RUST_BACKTRACE", "SPECTRUM_TEST_SCALE", "SPECTRUM_TEST_SEED"] {
        variables.extend(env::var(name).map(|value| (name, value)));
    }
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Builds all test binaries and asks each which tests it has.
fn suites(options: &[String]) -> Result<Vec<Suite>> {
    let mut build = workspace::cargo(["test", "--workspace", "--exclude", "spectrum-ebpf", "--no-run"]);
    let privileged = workspace::root().join(PRIVILEGED);
    executables(&mut build)?
        .into_iter()
        .map(|executable| {
            let is_privileged = executable.directory == privileged;
            Suite::of(executable, is_privileged, options)
        })
        .collect()
}

/// Runs the one binary with what was asked for as if it had been typed, its words as they come.
fn alone(suite: &Suite, request: &Request, environment: &[(String, String)]) -> Result<ExitCode> {
    let job = Job::of(0, suite, request, environment);
    let mut command = if suite.privileged {
        let environment: Vec<(&str, String)> =
            job.environment.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        privilege::as_root(&job.program, &environment)?
    } else {
        let mut command = Command::new(&job.program);
        command.envs(job.environment.iter().map(|(name, value)| (name, value)));
        command
    };
    println!("{}: {} to run", suite.name, suite.tests.len());
    let passed = shell::status(command.current_dir(&job.directory).args(&job.arguments))?.success();
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Job {
    fn of(at: usize, suite: &Suite, request: &Request, environment: &[(String, String)]) -> Self {
        let mut arguments = suite.arguments(&request.options);
        let mut environment = environment.to_vec();
        if suite.privileged {
            if !request.options.iter().any(|option| option.starts_with("--test-threads")) {
                arguments.insert(0, format!("--test-threads={THREADS}"));
            }
        } else {
            // As cargo has it; ours are those of xtask.
            let directory = suite.directory.display();
            environment.push(("CARGO_MANIFEST_DIR".to_owned(), directory.to_string()));
            environment.push(("CARGO_MANIFEST_PATH".to_owned(), format!("{directory}/Cargo.toml")));
        }
        Self {
            suite: at,
            program: suite.program.clone(),
            arguments,
            environment,
            directory: suite.directory.clone(),
        }
    }
}

/// Runs the examples in the documentation, which only cargo can.
fn documentation() -> Result<Ending> {
    let begun = Instant::now();
    let mut command = workspace::cargo(["test", "--doc", "--workspace", "--exclude", "spectrum-ebpf"]);
    let output = shell::output(command.arg("--no-fail-fast"))?;
    let end = if output.status.success() { End::Success } else { End::Failure(output.status.to_string()) };
    let said = [output.stdout, output.stderr].concat();
    Ok(Ending { suite: 0, end, took: begun.elapsed(), said: String::from_utf8_lossy(&said).into_owned() })
}

/// The processor time of all children that were waited for, and of theirs.
fn cpu_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("ask for the processor time")?;
    let [user, system] = [usage.user_time(), usage.system_time()];
    let microseconds = (user.tv_sec() + system.tv_sec()) * 1_000_000 + user.tv_usec() + system.tv_usec();
    Ok(Duration::from_micros(u64::try_from(microseconds).unwrap_or_default()))
}

/// The seconds that each binary took last time, so that the longest begin first.
#[derive(Debug, Default)]
struct Times(BTreeMap<String, f64>);

impl Times {
    fn path() -> PathBuf {
        workspace::target_dir().join("test-times.json")
    }

    /// Those of the last run; none, where there was none.
    fn load() -> Self {
        let times = fs::read_to_string(Self::path()).ok().and_then(|text| serde_json::from_str(&text).ok());
        Self(times.unwrap_or_default())
    }

    /// The longest first; a time that is not known may be long.
    fn sort(&self, suites: &mut [Suite]) {
        let time = |suite: &Suite| self.0.get(&suite.name).copied().unwrap_or(f64::INFINITY);
        suites.sort_by(|a, b| time(b).total_cmp(&time(a)).then(b.tests.len().cmp(&a.tests.len())));
    }

    fn store(mut self, report: &Report<'_>) -> Result<()> {
        self.0.extend(report.times().map(|(name, took)| (name.to_owned(), took.as_secs_f64())));
        let path = Self::path();
        fs::write(&path, serde_json::to_vec_pretty(&self.0).context("write how long tests took")?)
            .with_context(|| format!("write {}", path.display()))
    }
}

/// The name under which what is in `directory` is told.
fn told(directory: &Path, target: &str) -> String {
    let directory = directory.strip_prefix(workspace::root()).unwrap_or(directory);
    if directory == Path::new(PRIVILEGED) {
        target.to_owned()
    } else {
        format!("{}/{target}", directory.display())
    }
}

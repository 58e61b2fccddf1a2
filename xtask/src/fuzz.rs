//! `fuzz`: runs the fuzz targets, each for a time, and leaves what breaks one where the ordinary tests replay it. Does
//! not know what must hold; `fuzz/src` does.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use xtask::ebpf::toolchain::{Toolchain, nightlies};
use xtask::setup::{self, Consent, Purpose};
use xtask::shell;
use xtask::workspace;

/// An input that takes longer than this is a finding too.
const SECONDS_FOR_ONE_INPUT: u32 = 10;

/// Options of `fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct FuzzOptions {
    /// Run only this target
    target: Option<Target>,
    /// Seconds that each target runs
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    seconds: u32,
}

/// A fuzz target: its file in `fuzz/fuzz_targets`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Target {
    /// Any text as a configuration
    Config,
    /// Any bytes as the beginning of a connection with a PROXY header
    Headers,
    /// Any bytes as a datagram of QUIC
    Quic,
    /// Bindings and packets: the compiled table against the slow scan
    Steering,
}

/// Runs the targets one after the other; fails if any found something, after all have run.
pub(crate) fn fuzz(options: &FuzzOptions, consent: Consent) -> Result<ExitCode> {
    setup::ready(&[Purpose::Build, Purpose::Fuzz], consent)?;
    let compiler = Compiler::find()?;
    println!("fuzz: {compiler}");

    let targets = options.target.as_ref().map_or(Target::value_variants(), std::slice::from_ref);
    let mut found = Vec::new();
    for target in targets {
        found.extend(run(*target, options.seconds, &compiler)?);
    }
    if found.is_empty() {
        println!("fuzz: nothing found in {} targets of {} s each", targets.len(), options.seconds);
        return Ok(ExitCode::SUCCESS);
    }
    for path in &found {
        println!("fuzz: found {}", path.display());
    }
    println!("fuzz: `cargo test -p spectrum-user --test regressions` replays what was found");
    Ok(ExitCode::FAILURE)
}

/// The finds of `target` in `seconds`: files that are new among its regressions, where they belong.
fn run(target: Target, seconds: u32, compiler: &Compiler) -> Result<Vec<PathBuf>> {
    let name = target.to_possible_value().context("name the target")?.get_name().to_owned();
    let fuzz = workspace::root().join("fuzz");
    let built = workspace::target_dir().join("fuzz");
    let corpus = built.join("corpus").join(&name);
    let regressions = fuzz.join("regressions").join(&name);
    for directory in [&corpus, &regressions] {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    }
    let before = files(&regressions)?;

    let mut command = compiler.cargo_fuzz()?;
    command.args(["run", "--sanitizer", compiler.sanitizer(), "--target-dir"]).arg(&built);
    // What is new goes into the first directory.
    command.arg(&name).arg(&corpus).arg(&regressions);
    command.arg(fuzz.join("seeds").join(&name)).arg("--").args([
        format!("-max_total_time={seconds}"),
        format!("-timeout={SECONDS_FOR_ONE_INPUT}"),
        "-print_final_stats=1".to_owned(),
    ]);
    let mut prefix = OsString::from("-artifact_prefix=");
    prefix.push(&regressions);
    prefix.push("/");
    command.arg(prefix);
    let dictionary = fuzz.join("dictionaries").join(&name);
    if dictionary.is_file() {
        let mut argument = OsString::from("-dict=");
        argument.push(dictionary);
        command.arg(argument);
    }
    println!("fuzz: {name} for {seconds} s");
    let status = shell::status(&mut command)?;

    let found: Vec<PathBuf> = files(&regressions)?.difference(&before).cloned().collect();
    if found.is_empty() {
        anyhow::ensure!(status.success(), "fuzz {name}: {status}, and no new input that breaks it");
    }
    Ok(found)
}

/// The compiler of the targets: its `cargo` and `rustc` stand in one directory.
#[derive(Debug)]
enum Compiler {
    /// One that allows what only nightly compilers allow: libFuzzer sees which code an input reaches, and that is all.
    Plain(PathBuf),
    /// One that has AddressSanitizer too, which tells of memory misused.
    Sanitizing(PathBuf),
}

impl Compiler {
    /// rustup's nightly, if it has the sanitizer; else whatever compiles for BPF, which needs the same allowance.
    fn find() -> Result<Self> {
        if let Some(nightly) = nightlies().into_iter().find(|nightly| has_sanitizers(nightly)) {
            return Ok(Self::Sanitizing(nightly.join("bin")));
        }
        Ok(Self::Plain(Toolchain::find().context("find a compiler for the fuzz targets")?.compiler.bin))
    }

    fn bin(&self) -> &Path {
        match self {
            Self::Plain(bin) | Self::Sanitizing(bin) => bin,
        }
    }

    /// Its name for cargo-fuzz.
    fn sanitizer(&self) -> &'static str {
        match self {
            Self::Plain(_) => "none",
            Self::Sanitizing(_) => "address",
        }
    }

    /// cargo-fuzz, which calls the cargo that it finds on PATH, and that the rustc beside it.
    fn cargo_fuzz(&self) -> Result<Command> {
        let cargo_fuzz = setup::cargo_fuzz().context("find the home directory, where cargo-fuzz is")?;
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([self.bin().to_owned()].into_iter().chain(env::split_paths(&path)))
            .context("put the compiler first on PATH")?;
        let mut command = Command::new(cargo_fuzz);
        command.current_dir(workspace::root()).env("PATH", path);
        if let Self::Plain(_) = self {
            // A release compiler is allowed what a nightly is.
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        // Those of the toolchain that runs us.
        for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR"] {
            command.env_remove(variable);
        }
        Ok(command)
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(bin) => write!(f, "the compiler in {}, without a sanitizer", bin.display()),
            Self::Sanitizing(bin) => write!(f, "the compiler in {}, with AddressSanitizer", bin.display()),
        }
    }
}

/// True if the toolchain in this directory has the runtime that the targets are linked with.
fn has_sanitizers(toolchain: &Path) -> bool {
    let libraries = toolchain.join("lib/rustlib");
    let Ok(hosts) = fs::read_dir(libraries) else { return false };
    hosts
        .filter_map(|host| fs::read_dir(host.ok()?.path().join("lib")).ok())
        .flatten()
        .filter_map(Result::ok)
        .any(|library| library.file_name().to_string_lossy().ends_with("_rt.asan.a"))
}

fn files(directory: &Path) -> Result<BTreeSet<PathBuf>> {
    let read = || format!("list {}", directory.display());
    fs::read_dir(directory)
        .with_context(read)?
        .map(|entry| Ok(entry.with_context(read)?.path()))
        .collect::<Result<_>>()
}

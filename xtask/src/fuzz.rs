//! `fuzz`: runs the fuzz targets, each for a time, and leaves what breaks one where the ordinary tests replay it. Does
//! not know what must hold; `fuzz/src` does.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::ebpf::toolchain::nightlies;
use crate::setup::{self, Consent, Purpose};
use crate::shell;
use crate::workspace;

const NO_NIGHTLY: &str = "fuzzing needs a nightly Rust compiler with its sanitizers, which only rustup has: rustup toolchain \
                          install nightly --profile minimal";

/// An input that takes longer than this is a finding too.
const SECONDS_FOR_ONE_INPUT: u32 = 10;

/// Options of `fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct FuzzOptions {
    /// Run only this target
    target: Option<Target>,
    /// How many seconds to run each target
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
    /// Bindings and packets: the compiled table against the slow scan
    Steering,
}

/// Runs the targets one after the other; fails if any found something, after all have run.
pub(crate) fn fuzz(options: &FuzzOptions, consent: Consent) -> Result<ExitCode> {
    let nightly = nightlies().into_iter().find(|nightly| has_sanitizers(nightly)).context(NO_NIGHTLY)?;
    setup::ready(&[Purpose::Build, Purpose::Fuzz], consent)?;

    let targets = options.target.as_ref().map_or(Target::value_variants(), std::slice::from_ref);
    let mut found = Vec::new();
    for target in targets {
        found.extend(run(*target, options.seconds, &nightly)?);
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

/// What `target` finds in `seconds`: files that are new among its regressions, where they belong.
fn run(target: Target, seconds: u32, nightly: &Path) -> Result<Vec<PathBuf>> {
    let name = target.to_possible_value().context("name the target")?.get_name().to_owned();
    let fuzz = workspace::root().join("fuzz");
    let built = workspace::target_dir().join("fuzz");
    let corpus = built.join("corpus").join(&name);
    let regressions = fuzz.join("regressions").join(&name);
    for directory in [&corpus, &regressions] {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    }
    let before = files(&regressions)?;

    let mut command = cargo_fuzz(nightly)?;
    // What is new goes into the first directory.
    command.args(["run", "--target-dir"]).arg(&built).arg(&name).arg(&corpus).arg(&regressions);
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
    println!("+ {}", shell::line(&command));
    let status = shell::status(&mut command)?;

    let found: Vec<PathBuf> = files(&regressions)?.difference(&before).cloned().collect();
    if found.is_empty() {
        anyhow::ensure!(status.success(), "fuzz {name}: {status}, and no new input that breaks it");
    }
    Ok(found)
}

/// cargo-fuzz under the toolchain in the directory `nightly`: it calls the cargo that it finds.
fn cargo_fuzz(nightly: &Path) -> Result<Command> {
    let cargo_fuzz = setup::cargo_fuzz().context("find the home directory, where cargo-fuzz is")?;
    let toolchain = nightly.file_name().context("name the nightly toolchain")?;
    let mut command = Command::new("rustup");
    command.current_dir(workspace::root()).arg("run").arg(toolchain).arg(cargo_fuzz);
    // Those of the toolchain that runs us.
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "CARGO_TARGET_DIR"] {
        command.env_remove(variable);
    }
    Ok(command)
}

/// Whether the toolchain in this directory has the runtime that the targets are linked with.
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

//! `soak`: a long run of the program under traffic, reloads and kills, on every path at once. Knows nothing of what must
//! hold; the soak itself, in the crate of the privileged tests, does.

use std::process::ExitCode;

use anyhow::Result;

use xtask::build;
use xtask::privilege;
use xtask::random;
use xtask::setup::{self, Consent, Purpose};
use xtask::shell;
use xtask::workspace;

/// Options of `soak`.
#[derive(Debug, clap::Args)]
pub(crate) struct SoakOptions {
    /// Seconds of dialling, reloading and killing; looking for leaks takes two minutes at most besides
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u64).range(10..=604_800))]
    seconds: u64,
    /// The seed of everything that is drawn; what others do at the same time is not drawn, so that a run is never
    /// quite repeated
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Instead: changes that nobody may notice, reloads of every service, upgrades, and deaths of the worker process, under a stream
    /// of connections, long ones, and UDP sessions
    #[arg(long)]
    changes: bool,
    /// Of those connections so many a second on each path and family
    #[arg(long, value_name = "N", requires = "changes", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    rate: Option<u64>,
}

/// Builds as the invoking user, then soaks as root; fails if any answer was wrong, anything was lost, or anything is left over.
pub(crate) fn soak(options: &SoakOptions, consent: Consent) -> Result<ExitCode> {
    setup::ready(&[Purpose::Build, Purpose::Test], consent)?;
    build::spectrum_user()?;
    let name = if options.changes { "changes" } else { "soak" };
    shell::run(&mut workspace::cargo(["build", "--release", "--package", "spectrum-tests", "--bin", name]))?;
    let program = workspace::target_dir().join("release").join(name);
    let mut soak = privilege::as_root(program, &build::for_tests(&workspace::spectrum_user()))?;
    soak.arg(options.seconds.to_string());
    soak.arg(options.seed.unwrap_or_else(|| random::number() >> 16).to_string());
    soak.args(options.rate.map(|rate| rate.to_string()));
    let passed = shell::status(&mut soak)?.success();
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

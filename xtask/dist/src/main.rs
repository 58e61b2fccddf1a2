//! `cargo xtask dist`: the Debian package of spectrum, and the checks of what is in it. Installs
//! nothing on this host but what builds it.

#![expect(clippy::print_stdout, reason = "a developer's tool talks on standard output")]

mod check;
mod file_page;
mod manual;
mod metric_names;
mod package;
mod program;
mod roff;
mod tarball;
mod tree;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use xtask::end;
use xtask::setup::{self, Consent, Purpose};
use xtask::workspace;

use version::Version;

/// Make the Debian package of spectrum, for Debian 12 and 13
#[derive(Debug, Parser)]
#[command(name = "cargo xtask dist", bin_name = "cargo xtask dist")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that somebody types")]
struct Cli {
    /// Then judge it: lintian, manual pages and completions against the command line, units, alerts, and that a second build
    /// has the same bytes
    #[arg(long)]
    check: bool,
    /// With the program that was built before, and without a second one to compare it with
    #[arg(long)]
    built: bool,
    /// Instead of the package a tarball, with the program linked statically: it takes rustup's target x86_64-unknown-linux-musl, or
    /// the like of this machine
    #[arg(long = "static", conflicts_with_all = ["check", "built"])]
    is_static: bool,
    /// With this program, and without a second one to compare it with
    #[arg(long, value_name = "PROGRAM", conflicts_with = "built")]
    program: Option<PathBuf>,
    /// Call the package so, and not as the commit says: for tests of upgrades
    #[arg(long, value_name = "VERSION", hide = true)]
    package_version: Option<String>,
    /// Put the package there [default: dist in the target directory]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Only say what is missing, and install nothing
    #[arg(long)]
    no_install: bool,
}

fn main() -> ExitCode {
    end(dist(&Cli::parse()))
}

fn dist(cli: &Cli) -> Result<ExitCode> {
    setup::ready(&[Purpose::Build, Purpose::Package], Consent::unless(cli.no_install))?;
    let mut version = Version::of(workspace::root())?;
    if let Some(named) = &cli.package_version {
        version.debian.clone_from(named);
    }
    let output = cli.output.clone().unwrap_or_else(|| workspace::target_dir().join("package"));
    if cli.is_static {
        let program = match &cli.program {
            Some(program) => program.clone(),
            None => program::build_static(workspace::root(), &workspace::target_dir())?,
        };
        let tarball = tarball::make(&version, &program, &output)?;
        println!("{} ({} bytes)", tarball.display(), std::fs::metadata(&tarball)?.len());
        return Ok(ExitCode::SUCCESS);
    }
    let program = cli.program.clone().unwrap_or_else(workspace::packaged);
    let is_built = cli.built || cli.program.is_some();
    if !is_built {
        program::build(workspace::root(), &workspace::target_dir())?;
    }
    let package = package::make(&version, &program, &output)?;
    println!("{} ({} bytes)", package.display(), std::fs::metadata(&package)?.len());
    if !cli.check {
        return Ok(ExitCode::SUCCESS);
    }
    check::check(&check::Subject {
        package: &package,
        version: &version,
        program: &program,
        again: !is_built,
    })
}

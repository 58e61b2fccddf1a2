//! `cargo xtask dist`: the Debian package of spectrum, and the checks of what is in it. Installs
//! nothing on this host but what builds it.

#![expect(clippy::print_stdout, reason = "a developer's tool talks on standard output")]

mod check;
mod dashboard;
mod difference;
mod file_page;
mod manual;
mod metric_names;
mod package;
mod place;
mod program;
mod roff;
mod tarball;
mod tree;
mod version;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;

use xtask::end;
use xtask::setup::{self, Consent, Purpose};
use xtask::workspace;

use check::Subject;
use place::Place;
use program::Recipe;
use version::Version;

/// Make the Debian package of spectrum, for Debian 12 and 13
#[derive(Debug, Parser)]
#[command(name = "cargo xtask dist", bin_name = "cargo xtask dist")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that somebody types")]
struct Cli {
    /// Then judge it: lintian, manual pages and completions against the command line, units, alerts, and that a clone, built in
    /// another place by a shell that has little in common with this one, has the same bytes
    #[arg(long)]
    check: bool,
    /// With the program that was built before; with --check it is packed in another place, and not built there
    #[arg(long)]
    built: bool,
    /// Instead of the package a tarball, with the program linked statically: with the target x86_64-unknown-linux-musl of rustup, or
    /// the like of this machine, or else with Debian's musl
    #[arg(long = "static")]
    is_static: bool,
    /// Build the program quickly, without optimisations: for trials of what is made, not for hosts
    #[arg(long = "trial", conflicts_with = "program")]
    is_trial: bool,
    /// With this program, like --built
    #[arg(long, value_name = "PROGRAM", conflicts_with = "built")]
    program: Option<PathBuf>,
    /// Call the package so, and not as the commit says: for tests of upgrades
    #[arg(long, value_name = "VERSION", hide = true)]
    package_version: Option<String>,
    /// Put the package there [default: package in the target directory]
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
    let is_built = cli.built || cli.program.is_some();
    setup::ready(&cli.purposes(), Consent::unless(cli.no_install))?;
    let mut version = Version::of(workspace::root())?;
    if let Some(named) = &cli.package_version {
        version.debian.clone_from(named);
    }
    let output = if let Some(output) = &cli.output { output.clone() } else { emptied("package")? };
    let (place, recipe) = (Place::here()?, Recipe { is_static: cli.is_static, is_trial: cli.is_trial });
    let program = match &cli.program {
        Some(program) => program.clone(),
        None if is_built => recipe.built(&place),
        None => recipe.build(&place)?,
    };
    let make = if cli.is_static { tarball::make } else { package::make };
    let package = make(&version, &program, &place, &output)?;
    let length = fs::metadata(&package).with_context(|| format!("look at {}", package.display()))?.len();
    println!("{} ({length} bytes)", package.display());
    if !cli.is_static && cli.output.is_none() {
        println!("to install it: sudo apt install {}", package.display());
    }
    if !cli.check {
        return Ok(ExitCode::SUCCESS);
    }
    let again = (!is_built).then_some(recipe);
    let subject = Subject { package: &package, version: &version, program: &program, again };
    if cli.is_static { check::check_static(&subject) } else { check::check(&subject) }
}

/// The directory `name` of the target directory, without what other commits have left there: who installs whatever lies there
/// wants what was made last.
fn emptied(name: &str) -> Result<PathBuf> {
    let directory = workspace::target_dir().join(name);
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    Ok(directory)
}

impl Cli {
    /// What has to be there for it.
    fn purposes(&self) -> Vec<Purpose> {
        let mut purposes = vec![Purpose::Package];
        if !self.built && self.program.is_none() {
            purposes.push(Purpose::Build);
            purposes.extend(self.is_static.then_some(Purpose::Static));
        }
        // A tarball is judged by what makes it.
        purposes.extend((self.check && !self.is_static).then_some(Purpose::Judge));
        purposes
    }
}

//! Both versions of the package, made here, and clean roots in which somebody installs them. What is looked at there stands
//! beside.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use xtask::interrupt::Interrupt;
use xtask::privilege;
use xtask::shell;
use xtask::workspace;

use super::base::Base;
use super::booted::Booted;
use super::packaged;
use super::registries;
use super::release::Release;
use super::room::{Network, Room};
use super::scenario::CHECKER;
use super::usage::said;

/// What Debian compares as older than any version of ours.
const OLD_VERSION: &str = "0.0.1~before";

/// The time that systemd and the checks that it runs may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// Options of the part that runs as root.
#[derive(Debug, clap::Args)]
pub(crate) struct PackagesOptions {
    #[arg(long)]
    cache: PathBuf,
    #[arg(long)]
    before: PathBuf,
    #[arg(long)]
    package: PathBuf,
    #[arg(long)]
    release: Vec<Release>,
    #[arg(long)]
    lintian: bool,
}

/// The builds of the program that packages are made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Programs<'a> {
    /// The one that is tried; one that is built now, if there is none.
    pub(super) now: Option<&'a Path>,
    /// The one of the version before; the same, if there is none.
    pub(super) before: Option<&'a Path>,
}

/// Makes both packages as the invoking user, and hands the rest to root.
pub(super) fn fresh(
    releases: &[Release],
    programs: Programs<'_>,
    lintian: bool,
    cache: &Path,
) -> Result<ExitCode> {
    let directory = workspace::target_dir().join("package-fresh");
    let package = make(programs.now, None, &directory)?;
    let same = programs.now.map_or_else(workspace::packaged, Path::to_path_buf);
    let before = make(Some(programs.before.unwrap_or(&same)), Some(OLD_VERSION), &directory)?;
    let own = env::current_exe().context("find this program")?;
    let mut root = privilege::as_root(own, &registries::environment())?;
    root.args(["packages", "--cache"]).arg(cache).arg("--before").arg(before).arg("--package").arg(package);
    for release in if releases.is_empty() { &Release::ALL } else { releases } {
        root.args(["--release", release.name()]);
    }
    if lintian {
        root.arg("--lintian");
    }
    let status = shell::status(&mut root)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The package of `program`, or of one that is built now.
pub(super) fn make(program: Option<&Path>, version: Option<&str>, directory: &Path) -> Result<PathBuf> {
    let output = directory.join(version.unwrap_or("now"));
    // What was made before has another name, and would be taken for this one.
    if output.exists() {
        fs::remove_dir_all(&output).with_context(|| format!("remove {}", output.display()))?;
    }
    let mut dist = workspace::cargo(["xtask", "dist", "--output"]);
    dist.arg(&output);
    if let Some(program) = program {
        dist.arg("--program").arg(env::current_dir().context("find where we are")?.join(program));
    }
    if let Some(version) = version {
        dist.args(["--package-version", version]);
    }
    shell::run(&mut dist)?;
    let entries = fs::read_dir(&output).with_context(|| format!("read {}", output.display()))?;
    let package =
        entries.flatten().map(|entry| entry.path()).find(|path| path.extension() == Some("deb".as_ref()));
    package.with_context(|| format!("find a package in {}", output.display()))
}

/// Installs them in a root of each release. As root.
pub(super) fn root(options: &PackagesOptions) -> Result<ExitCode> {
    super::keep_mounts_private()?;
    let interrupt = Interrupt::watch()?;
    for release in &options.release {
        let started = Instant::now();
        let base = Base::open(&options.cache, *release, &interrupt)?;
        if options.lintian {
            judge(&base, &options.package, &interrupt).with_context(|| format!("lintian of {release}"))?;
        }
        let booted = Booted::unpack(&base, &interrupt)?;
        booted.install(&env::current_exe().context("find this program")?, CHECKER)?;
        booted.install(&options.before, packaged::BEFORE)?;
        booted.install(&options.package, packaged::PACKAGE)?;
        let checks = format!("{CHECKER} check-package");
        booted
            .run(&[&checks], PATIENCE, &interrupt)
            .with_context(|| format!("in a clean Debian {release}"))?;
        println!("ok: the package, in a clean Debian {release}, {}", said(started.elapsed()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The release's own judgement of a package.
fn judge(base: &Base, package: &Path, interrupt: &Interrupt) -> Result<()> {
    let root = base.with(&["lintian"], interrupt)?.unpack("lintian", interrupt)?;
    let to = root.path().join(packaged::PACKAGE.trim_start_matches('/'));
    fs::copy(package, &to).context("copy the package into a root")?;
    let words =
        ["lintian", "--allow-root", "--no-cfg", "--fail-on", "error,warning", "--tag-display-limit", "0"];
    let words = [&words[..], &[packaged::PACKAGE]].concat();
    let status = Room::new(root.path()).status(&words, "/root", Network::Own, interrupt)?;
    ensure!(status.success(), "{}: {status}", words.join(" "));
    println!("ok: no errors and no warnings of lintian in Debian {}", base.release());
    Ok(())
}

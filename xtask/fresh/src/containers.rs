//! The package's recipe of a container, built with Debian's podman in a clean root, upon an image of a clean Debian, so that no
//! registry of images is asked. What is looked at there stands beside.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use xtask::interrupt::Interrupt;
use xtask::privilege;
use xtask::shell;
use xtask::workspace;

use super::base::Base;
use super::contained::{CONTEXT, DEBIAN, IMAGE, RECIPE};
use super::packages;
use super::registries;
use super::release::Release;
use super::room::{Network, Room};
use super::scenario::CHECKER;
use super::usage::said;
use super::waited::run_to_end;

/// The packages that a host has which runs containers, and what the checks look with.
const PACKAGES: [&str; 5] = ["bpftool", "crun", "iproute2", "nftables", "podman"];

/// Options of the part that runs as root.
#[derive(Debug, clap::Args)]
pub(crate) struct ContainersOptions {
    #[arg(long)]
    cache: PathBuf,
    #[arg(long)]
    package: PathBuf,
}

/// Makes the package as the invoking user, and hands the rest to root.
pub(super) fn fresh(program: Option<&Path>, cache: &Path) -> Result<ExitCode> {
    let package = packages::make(program, None, &workspace::target_dir().join("package-fresh"))?;
    let own = env::current_exe().context("find this program")?;
    let mut root = privilege::as_root(own, &registries::environment())?;
    root.args(["containers", "--cache"]).arg(cache).arg("--package").arg(package);
    let status = shell::status(&mut root)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the image, and runs it. As root.
pub(super) fn root(options: &ContainersOptions) -> Result<ExitCode> {
    super::keep_mounts_private()?;
    let interrupt = Interrupt::watch()?;
    let started = Instant::now();
    let base = Base::open(&options.cache, Release::Bookworm, &interrupt)?;
    let host = base.with(&PACKAGES, &interrupt)?.unpack("host", &interrupt)?;
    let at = |path: &str| host.path().join(path.trim_start_matches('/'));
    let context = at(CONTEXT);
    fs::create_dir_all(&context).with_context(|| format!("create {}", context.display()))?;
    let name = options.package.file_name().context("name the package")?;
    for (from, to) in [
        (options.package.clone(), context.join(name)),
        (workspace::root().join("packaging/container/Containerfile"), at(RECIPE)),
        (env::current_exe().context("find this program")?, at(CHECKER)),
    ] {
        fs::copy(&from, &to).with_context(|| format!("copy {} into a root", from.display()))?;
    }
    let image = base.unpack("image", &interrupt)?;
    let mut tar = Command::new("tar");
    tar.args(["--create", "--numeric-owner", "--file"]).arg(at("/root/debian.tar"));
    run_to_end(tar.arg("--directory").arg(image.path()).arg("."), &interrupt)?;

    let argument = format!("DEBIAN={DEBIAN}");
    let room = Room::new(host.path());
    for words in [
        &["podman", "import", "--quiet", "/root/debian.tar", DEBIAN][..],
        // As in the recipe; but no limit is raised, which a host that is a container itself may not do, and no registry is asked.
        &["podman", "build", "--isolation", "chroot", "--network", "host", "--build-arg", &argument]
            .into_iter()
            .chain(["--quiet", "--tag", IMAGE, "--file", RECIPE, CONTEXT])
            .collect::<Vec<_>>(),
    ] {
        let status = room.status(words, "/root", Network::Host, &interrupt)?;
        ensure!(status.success(), "{}: {status}", words.join(" "));
    }
    let status = room.status(&[CHECKER, "check-container"], "/root", Network::Own, &interrupt)?;
    ensure!(status.success(), "the container: {status}");
    println!(
        "ok: the recipe of a container, with podman in a clean Debian {}, {}",
        base.release(),
        said(started.elapsed())
    );
    Ok(ExitCode::SUCCESS)
}

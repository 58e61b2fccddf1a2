//! A clean Debian as debootstrap makes it, kept as a tarball. Knows nothing of what will run in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use xtask::ebpf::toolchain::on_path;
use xtask::interrupt::Interrupt;
use xtask::mirror::{Mirror, host_sources};
use xtask::setup::DEBIAN_KEYRING;

use super::registries;
use super::release::Release;
use super::room::{Network, Room};
use super::waited::run_to_end;

/// After this the tarball is made anew, since a new user's Debian has this month's packages.
const AGE: Duration = Duration::from_hours(30 * 24);

/// A tarball of a clean Debian.
#[derive(Clone, Debug)]
pub(super) struct Base {
    release: Release,
    tarball: PathBuf,
    directory: PathBuf,
}

/// A directory with a whole system in it, that goes away with this value.
#[derive(Debug)]
pub(super) struct Root(PathBuf);

impl Base {
    /// The one of `release` in `cache`, made if there is none or an old one.
    pub(super) fn open(cache: &Path, release: Release, interrupt: &Interrupt) -> Result<Self> {
        fs::create_dir_all(cache).with_context(|| format!("create {}", cache.display()))?;
        sweep(cache);
        let (tarball, directory) = (cache.join(format!("{release}.tar")), cache.to_path_buf());
        let base = Self { release, tarball, directory };
        if !is_new(&base.tarball) {
            base.make(interrupt)?;
        }
        Ok(base)
    }

    /// The one with `packages` besides, made if there is none or an old one.
    pub(super) fn with(&self, packages: &[&str], interrupt: &Interrupt) -> Result<Self> {
        let kept = self.directory.join(format!("{}+{}.tar", self.release, packages.join("+")));
        let base = Self { tarball: kept, ..self.clone() };
        if is_new(&base.tarball) {
            return Ok(base);
        }
        println!("adding {} to a clean Debian {}, which is kept as well", packages.join(", "), self.release);
        let added = self.unpack("with", interrupt)?;
        let room = Room::new(added.path());
        let options =
            ["--quiet=2", "--yes", "--no-install-recommends", "-o=Dpkg::Options::=--force-unsafe-io"];
        let install = [&["apt-get"][..], &options, &["install"], packages].concat();
        for words in [&["apt-get", "--quiet=2", "update"][..], &install] {
            let status = room.status(words, "/", Network::Host, interrupt)?;
            ensure!(status.success(), "{}: {status}", words.join(" "));
        }
        base.keep(&added, interrupt)?;
        Ok(base)
    }

    /// The release that it is of.
    pub(super) fn release(&self) -> Release {
        self.release
    }

    fn make(&self, interrupt: &Interrupt) -> Result<()> {
        let release = self.release;
        println!("making a clean Debian {release}, which is kept in {}", self.tarball.display());
        let root = Root::new(&self.directory, "base")?;
        let sources = host_sources();
        // In namespaces of its own, so that nothing that it mounts or starts outlives it.
        let mut debootstrap = unshare(&["--mount", "--propagation=private", "--pid"])?;
        debootstrap.args(["--", "debootstrap", "--variant=minbase", "--include=ca-certificates"]);
        debootstrap.arg(format!("--keyring={DEBIAN_KEYRING}")).arg(release.name()).arg(root.path());
        run_to_end(debootstrap.arg(Mirror::Debian.uri(&sources)), interrupt)?;

        let list = format!(
            "deb {debian} {release} main\ndeb {debian} {release}-updates main\n\
             deb {security} {release}-security main\n",
            debian = Mirror::Debian.uri(&sources),
            security = Mirror::Security.uri(&sources),
        );
        fs::write(root.path().join("etc/apt/sources.list"), list)
            .context("write where packages come from")?;
        self.keep(&root, interrupt)
    }

    /// Keeps what is in `root`.
    fn keep(&self, root: &Root, interrupt: &Interrupt) -> Result<()> {
        // A new user's machine has read no list and kept no package.
        let mut clean = Command::new("chroot");
        run_to_end(clean.arg(root.path()).args(["apt-get", "clean"]), interrupt)?;
        let lists = root.path().join("var/lib/apt/lists");
        fs::remove_dir_all(&lists).and_then(|()| fs::create_dir(&lists)).context("forget the lists")?;

        let new = self.tarball.with_extension(format!("new.{}", process::id()));
        let mut tar = Command::new("tar");
        tar.args(["--create", "--numeric-owner", "--file"]).arg(&new).arg("-C").arg(root.path()).arg(".");
        run_to_end(&mut tar, interrupt)?;
        fs::rename(&new, &self.tarball).with_context(|| format!("keep {}", self.tarball.display()))
    }

    /// A root that nobody has used, with what this host needs to reach registries.
    pub(super) fn unpack(&self, name: &str, interrupt: &Interrupt) -> Result<Root> {
        let root = Root::new(&self.directory, name)?;
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--numeric-owner", "--file"]).arg(&self.tarball).arg("-C").arg(root.path());
        run_to_end(&mut tar, interrupt)?;
        registries::carry_into(root.path(), interrupt)?;
        Ok(root)
    }
}

impl Root {
    fn new(directory: &Path, name: &str) -> Result<Self> {
        let path = directory.join(format!("root.{}.{name}", process::id()));
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    /// Its place.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // Whatever was mounted in it was so in the namespace of processes that have ended.
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}

/// True if there is a tarball, and an old one it is not.
fn is_new(tarball: &Path) -> bool {
    let age = fs::metadata(tarball).and_then(|metadata| metadata.modified());
    age.is_ok_and(|made| made.elapsed().unwrap_or_default() < AGE)
}

/// unshare(1), with the namespaces that `flags` say; it is killed with us, and what it runs with it.
pub(super) fn unshare(flags: &[&str]) -> Result<Command> {
    let mut command = Command::new(on_path("setpriv").context("find setpriv")?);
    command.args(["--pdeathsig=KILL", "--"]).arg(on_path("unshare").context("find unshare")?);
    command.args(flags).args(["--fork", "--kill-child=KILL"]);
    Ok(command)
}

/// Removes what a run left that was killed, and tarballs that nobody has made anew.
fn sweep(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_of = |release: &Release| name.starts_with(&format!("{release}+"));
        if Release::ALL.iter().any(is_of) && !is_new(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
        let pid = name.strip_prefix("root.").and_then(|rest| rest.split('.').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            println!("removing {}, which a run left that was killed", entry.path().display());
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

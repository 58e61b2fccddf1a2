//! Debian packages that are unpacked and not installed: from the archive's own suites, verified by apt with Debian's keys,
//! with sources and lists of our own, so that the host's apt never hears of them.

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::cache::{Cache, Scratch};
use xtask::mirror::{self, Mirror};
use xtask::setup::DEBIAN_KEYRING;
use xtask::shell;

/// The suites that have the kernels: where the archive is, and the suite.
const SUITES: [(Mirror, &str); 6] = [
    (Mirror::Debian, "bookworm"),
    (Mirror::Debian, "bookworm-backports"),
    (Mirror::Debian, "bullseye"),
    (Mirror::Debian, "trixie-backports"),
    (Mirror::Security, "bookworm-security"),
    (Mirror::Security, "bullseye-security"),
];

/// The packages of those suites, as apt knows them.
#[derive(Debug)]
pub(super) struct Archive {
    directory: PathBuf,
}

impl Archive {
    /// Reads the suites' lists.
    pub(super) fn update(cache: &Cache) -> Result<Self> {
        let archive = Self { directory: cache.join("apt") };
        let lists = archive.directory.join("lists/partial");
        fs::create_dir_all(&lists).with_context(|| format!("create {}", lists.display()))?;
        fs::write(archive.directory.join("sources.list"), sources()).context("write the list of sources")?;
        println!("reading the lists of {}", SUITES.map(|(_, suite)| suite).join(", "));
        shell::stdout(archive.apt("apt-get").arg("update")).context("read the archive's lists")?;
        Ok(archive)
    }

    /// The newest package whose name is `prefix`, a version and `suffix`: its version.
    pub(super) fn newest(&self, prefix: &str, suffix: &str) -> Result<String> {
        let names = shell::stdout(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        names
            .lines()
            .filter_map(|name| name.strip_prefix(prefix)?.strip_suffix(suffix))
            // A name without a digit of its own, such as linux-image-6.1-cloud-amd64, is a metapackage.
            .filter(|version| version.starts_with(|c: char| c.is_ascii_digit()))
            .max_by(|a, b| by_version(a, b))
            .map(str::to_owned)
            .with_context(|| format!("find a package {prefix}*{suffix}: the archive has none"))
    }

    /// True if there is a package `name`.
    pub(super) fn has(&self, name: &str) -> Result<bool> {
        let names = shell::stdout(self.apt("apt-cache").args(["pkgnames", name]))?;
        Ok(names.lines().any(|line| line == name))
    }

    /// Unpacks `packages` into `directory`.
    pub(super) fn unpack(&self, packages: &[String], directory: &Path, scratch: &Scratch) -> Result<()> {
        println!("fetching {}", packages.join(", "));
        let debs = scratch.path().join("debs");
        fs::create_dir_all(&debs).context("create a directory for packages")?;
        let mut download = self.apt("apt-get");
        shell::stdout(download.arg("download").args(packages).current_dir(&debs))
            .context("fetch packages")?;
        for deb in fs::read_dir(&debs).context("list fetched packages")? {
            let deb = deb.context("list fetched packages")?.path();
            shell::run(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(directory))?;
        }
        fs::remove_dir_all(&debs).context("remove fetched packages")
    }

    fn apt(&self, program: &str) -> Command {
        let here = |name: &str| self.directory.join(name).display().to_string();
        let mut apt = Command::new(program);
        apt.arg("--quiet").env("LC_ALL", "C");
        for option in [
            format!("Dir::Etc::SourceList={}", here("sources.list")),
            "Dir::Etc::SourceParts=-".to_owned(),
            format!("Dir::State::Lists={}", here("lists")),
            "Dir::Cache::PkgCache=".to_owned(),
            "Dir::Cache::SrcPkgCache=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // Root's directory may not be apt's own user's to read.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            apt.args(["-o", &option]);
        }
        apt
    }
}

/// The suites, at the mirrors that this machine uses already.
fn sources() -> String {
    let known = mirror::host_sources();
    SUITES.iter().fold(String::new(), |mut text, (mirror, suite)| {
        let uri = mirror.uri(&known);
        let _ = writeln!(text, "deb [arch=amd64 signed-by={DEBIAN_KEYRING}] {uri} {suite} main");
        text
    })
}

/// Orders versions as a person would: numbers by their value, the rest by its letters.
fn by_version(a: &str, b: &str) -> Ordering {
    chunks(a).cmp(&chunks(b))
}

fn chunks(version: &str) -> Vec<(u64, &str)> {
    let mut chunks = Vec::new();
    let mut rest = version;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (word, tail) = tail.split_at(letters);
        chunks.push((number.parse().unwrap_or(0), word));
        rest = tail;
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_the_numbers_in_them() {
        let mut versions = ["6.12.9+deb12", "6.12.100+deb12", "6.12.90+deb12.1", "6.12.90+deb12"];
        versions.sort_by(|a, b| by_version(a, b));
        assert_eq!(versions, ["6.12.9+deb12", "6.12.90+deb12", "6.12.90+deb12.1", "6.12.100+deb12"]);
        assert_eq!(by_version("5.10.0-9", "5.10.0-46"), Ordering::Less);
    }
}

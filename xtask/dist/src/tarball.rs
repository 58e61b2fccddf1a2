//! The program linked statically, for hosts that are no Debian, with what the package has beside it: a tarball to be unpacked
//! at the root. Makes no users and starts nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use xtask::shell;

use crate::place::Place;
use crate::tree::Tree;
use crate::version::Version;

/// Where debhelper would put what it is told of by name.
const UNITS: &str = "usr/lib/systemd/system";
const USERS: &str = "usr/lib/sysusers.d/spectrum.conf";
const FILES: &str = "usr/lib/tmpfiles.d/spectrum.conf";

/// Makes the tarball of `program` in `place` and puts it into the directory `output`, and says where it is.
pub(crate) fn make(version: &Version, program: &Path, place: &Place, output: &Path) -> Result<PathBuf> {
    let _umask = place.settle();
    fs::create_dir_all(output).with_context(|| format!("create {}", output.display()))?;
    ensure!(program.is_file(), "find {}: it has not been built", program.display());
    let tree = Tree::make(&place.trees.join("static"), &place.root, version, program)?;
    let name = format!("spectrum-{}", version.debian);
    let top = tree.root.join(&name);
    fs::rename(tree.root.join("files"), &top).context("name the tree of a tarball")?;
    let put = |from: &str, to: &str| {
        let to = top.join(to);
        to.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::copy(tree.root.join(from), to)
    };
    for unit in ["spectrum.service", "spectrum@.service"] {
        put(&format!("debian/{unit}"), &format!("{UNITS}/{unit}")).with_context(|| format!("copy {unit}"))?;
    }
    put("debian/spectrum.sysusers", USERS).context("copy what makes users")?;
    put("debian/spectrum.tmpfiles", FILES).context("copy what makes files")?;
    for page in fs::read_dir(tree.root.join("man")).context("read the manual pages")?.flatten() {
        let page = page.file_name().to_string_lossy().into_owned();
        let section = page.rsplit('.').next().unwrap_or_default();
        put(&format!("man/{page}"), &format!("usr/share/man/man{section}/{page}"))
            .with_context(|| format!("copy {page}"))?;
    }

    let architecture = std::env::consts::ARCH;
    let tarball = output.join(format!("{name}-{architecture}-static.tar.gz"));
    let mut tar = Command::new("tar");
    // The same bytes whoever makes it, and whenever.
    tar.args([
        "--create",
        "--sort=name",
        "--format=gnu",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mode=go-w,a+rX",
    ]);
    tar.arg(format!("--mtime=@{}", version.epoch)).arg("--use-compress-program=gzip --no-name --best");
    tar.arg("--file").arg(&tarball).arg("--directory").arg(&tree.root).arg(&name);
    shell::run(tar.env("LC_ALL", "C"))?;
    Ok(tarball)
}

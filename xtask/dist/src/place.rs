//! A place in which somebody makes a package: the work tree, where things are built, cargo's home, and what a shell has set.
//! Builds nothing.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::sys::stat::{Mode, umask};

use xtask::ebpf::toolchain::tool_root;
use xtask::shell;
use xtask::workspace;

/// A place.
#[derive(Debug)]
pub(crate) struct Place {
    /// The work tree.
    pub(crate) root: PathBuf,
    /// The directory in which cargo leaves what it builds.
    pub(crate) target: PathBuf,
    /// The directory in which the trees of packages are made.
    pub(crate) trees: PathBuf,
    /// The directory in which cargo keeps what is the user's.
    pub(crate) cargo_home: PathBuf,
    /// What is set besides.
    environment: Vec<(&'static str, String)>,
    /// The rights that are kept from others.
    umask: Option<Mode>,
}

/// The rights that new files have again when this value goes away.
#[derive(Debug)]
pub(crate) struct UmaskGuard(Option<Mode>);

impl Drop for UmaskGuard {
    fn drop(&mut self) {
        self.0.map(umask);
    }
}

impl Place {
    /// This work tree, and this shell.
    pub(crate) fn here() -> Result<Self> {
        let target = workspace::target_dir();
        Ok(Self {
            root: workspace::root().to_path_buf(),
            trees: target.join("package-tree"),
            target,
            cargo_home: cargo_home().context("find cargo's home")?,
            environment: Vec::new(),
            umask: None,
        })
    }

    /// This work tree, in which somebody packs who keeps files to himself, in `directory`.
    pub(crate) fn beside(directory: &Path) -> Result<Self> {
        let umask = Some(Mode::from_bits_truncate(0o077));
        Ok(Self { trees: directory.join("trees"), umask, ..Self::here()? })
    }

    /// A clone of what is committed, in `directory`, that has nothing in common with this one but the compilers and the packages
    /// of registries: another user would have another home, another language, time zone, umask, and number of processors.
    pub(crate) fn elsewhere(directory: &Path) -> Result<Self> {
        let here = Self::here()?;
        let git = |words: &[&str]| {
            let mut git = Command::new("git");
            git.current_dir(&here.root).args(words);
            git
        };
        let changes = shell::stdout(&mut git(&["status", "--porcelain", "--untracked-files=no"]))?;
        ensure!(
            changes.is_empty(),
            "{} files are not committed, so that nobody else could build this; commit them, or compare nothing by --built",
            changes.lines().count()
        );
        let home = directory.join("home of another");
        let place = Self {
            root: directory.join("a/place that is deeper/spectrum"),
            target: directory.join("what was built"),
            trees: directory.join("trees"),
            cargo_home: home.join("cargo"),
            environment: environment(&home)?,
            umask: Some(Mode::from_bits_truncate(0o077)),
        };
        let _umask = place.settle();
        fs::create_dir_all(&place.cargo_home).context("make a home for cargo")?;
        for shared in ["registry", "config.toml"] {
            let from = here.cargo_home.join(shared);
            if from.exists() {
                symlink(&from, place.cargo_home.join(shared)).context("share the packages of registries")?;
            }
        }
        shell::run(git(&["clone", "--quiet", "--no-hardlinks", "."]).arg(&place.root))?;
        Ok(place)
    }

    /// Has this process make files as one of this place does, until the value goes away.
    pub(crate) fn settle(&self) -> UmaskGuard {
        UmaskGuard(self.umask.map(umask))
    }

    /// Has `command` run as it would in a shell of this place.
    pub(crate) fn equip(&self, command: &mut Command) {
        command
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_HOME", &self.cargo_home);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
    }
}

/// What another shell has set, and where it finds the compilers all the same.
fn environment(home: &Path) -> Result<Vec<(&'static str, String)>> {
    let own = env::home_dir().context("find the home directory")?;
    let rustup = env::var_os("RUSTUP_HOME").map_or_else(|| own.join(".rustup"), PathBuf::from);
    let tools = tool_root("none", "0").context("find the tools that set-up has installed")?;
    let cache = tools.ancestors().nth(2).context("find the cache")?;
    Ok(vec![
        ("CARGO_BUILD_JOBS", "3".to_owned()),
        ("HOME", home.display().to_string()),
        ("LANG", "tr_TR.UTF-8".to_owned()),
        ("LC_ALL", "C".to_owned()),
        ("LOGNAME", "somebody".to_owned()),
        ("RUSTUP_HOME", rustup.display().to_string()),
        ("TZ", "Pacific/Chatham".to_owned()),
        ("USER", "somebody".to_owned()),
        ("XDG_CACHE_HOME", cache.display().to_string()),
    ])
}

fn cargo_home() -> Option<PathBuf> {
    let said = env::var_os("CARGO_HOME").map(PathBuf::from);
    said.or_else(|| env::home_dir().map(|home| home.join(".cargo")))
}

//! The two Rusts that README names, as a new user has them. Builds nothing.

use std::env;
use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::registries;
use super::room::Room;

/// Whose Rust.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Rust {
    /// Debian's own.
    Debian,
    /// rustup's stable.
    Rustup,
}

/// rustup and its stable toolchain on this host.
#[derive(Clone, Debug)]
pub(super) struct Rustup {
    /// The program.
    pub(super) program: PathBuf,
    /// The toolchain, whose directory has the toolchain's name.
    pub(super) toolchain: PathBuf,
}

impl fmt::Display for Rust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debian => "Debian's Rust",
            Self::Rustup => "rustup's stable",
        })
    }
}

impl Rust {
    /// The packages that README wants there before its first command.
    pub(super) fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Debian => &["rustc-web", "cargo-web"],
            Self::Rustup => &["gcc", "libc6-dev"],
        }
    }
}

impl Rustup {
    /// The toolchain of the user who runs us.
    pub(super) fn find() -> Result<Self> {
        let home = env::var_os("RUSTUP_HOME")
            .map(PathBuf::from)
            .or_else(|| env::home_dir().map(|home| home.join(".rustup")))
            .context("find rustup: there is no home directory")?;
        let toolchain = fs::read_dir(home.join("toolchains"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"stable-")))
            .with_context(|| {
                format!(
                    "find a stable toolchain in {}: try --debian, or rustup install stable",
                    home.display()
                )
            })?;
        let program = registries::cargo_home().join("bin/rustup");
        ensure!(program.is_file(), "find rustup: there is no {}", program.display());
        Ok(Self { program, toolchain })
    }

    /// Puts it into the root `directory` and has `room` show the toolchain, as rustup's installer would leave them.
    pub(super) fn carry_into(&self, directory: &Path, room: &mut Room<'_>) -> Result<()> {
        let name = self.toolchain.file_name().context("name the toolchain")?.to_string_lossy();
        let bin = directory.join("root/.cargo/bin");
        fs::create_dir_all(&bin).with_context(|| format!("create {}", bin.display()))?;
        fs::copy(&self.program, bin.join("rustup")).context("copy rustup")?;
        for proxy in ["cargo", "cargo-clippy", "cargo-fmt", "clippy-driver", "rustc", "rustdoc", "rustfmt"] {
            symlink("rustup", bin.join(proxy)).with_context(|| format!("link {proxy}"))?;
        }
        let home = directory.join("root/.rustup");
        fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
        let settings = format!("version = \"12\"\nprofile = \"default\"\ndefault_toolchain = \"{name}\"\n");
        fs::write(home.join("settings.toml"), settings).context("write rustup's settings")?;
        room.show(&self.toolchain, &Path::new("/root/.rustup/toolchains").join(name.as_ref()));
        room.prefer("/root/.cargo/bin");
        Ok(())
    }
}

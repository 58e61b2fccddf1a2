//! Finds what can compile for BPF: a rustc with the source of its library, a bpf-linker whose LLVM is not older than
//! that rustc's, and an objcopy. Installs nothing, and never compares by name what it can ask the program itself.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The bpf-linker that set-up installs into a directory of its own, and the oldest that fits.
pub const BPF_LINKER_VERSION: &str = "0.13.0";

/// The LLVM that set-up builds bpf-linker with: that of Debian's `rustc-web`.
pub const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Everything one build of the object needs.
#[derive(Debug)]
pub struct Toolchain {
    /// The compiler and its cargo.
    pub compiler: Compiler,
    /// bpf-linker.
    pub linker: PathBuf,
    /// llvm-objcopy, which drops DWARF and keeps BTF.
    pub objcopy: PathBuf,
}

/// A rustc that comes with the source of `core`, and the cargo beside it.
#[derive(Debug)]
pub struct Compiler {
    /// The directory with `rustc`, `cargo` and perhaps `cargo-clippy`.
    pub bin: PathBuf,
    release: Version,
    llvm: Version,
}

/// A part that the machine lacks for building the object, in the order in which set-up adds it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Missing {
    /// No rustc with its library source.
    Compiler,
    /// No bpf-linker that can read what the compiler writes.
    Linker,
    /// No llvm-objcopy.
    Objcopy,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Compiler => "a Rust compiler with the source of its library",
            Self::Linker => "bpf-linker",
            Self::Objcopy => "llvm-objcopy",
        })
    }
}

impl std::error::Error for Missing {}

impl Toolchain {
    /// The first pair of compiler and linker that fit each other.
    ///
    /// # Errors
    /// The first thing that the machine lacks.
    pub fn find() -> Result<Self, Missing> {
        let compilers = compilers();
        if compilers.is_empty() {
            return Err(Missing::Compiler);
        }
        let linkers = linkers();
        for compiler in compilers {
            // LLVM reads the bitcode of its own and of older releases, and may fail on that of a newer one.
            if let Some((linker, _)) = linkers.iter().find(|(_, llvm)| llvm.major >= compiler.llvm.major) {
                let objcopy = objcopy().ok_or(Missing::Objcopy)?;
                return Ok(Self { compiler, linker: linker.clone(), objcopy });
            }
        }
        Err(Missing::Linker)
    }

    /// True if `part` is missing, whatever else is.
    #[must_use]
    pub fn lacks(part: Missing) -> bool {
        match part {
            Missing::Compiler => compilers().is_empty(),
            Missing::Linker => Self::find().err() == Some(Missing::Linker) || linkers().is_empty(),
            Missing::Objcopy => objcopy().is_none(),
        }
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Compiler { bin, release, llvm } = &self.compiler;
        write!(f, "rustc {release} of {}, LLVM {}, {}", bin.display(), llvm.major, self.linker.display())
    }
}

/// The directory in which set-up keeps the version `version` of the cargo-installed tool `name`.
pub fn tool_root(name: &str, version: &str) -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| env::home_dir().map(|home| home.join(".cache")))?;
    Some(cache.join("spectrum").join(format!("{name}-{version}")))
}

/// The first `name` on PATH that is a file.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // A user's PATH often lacks the directories of the commands that root runs.
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

fn compilers() -> Vec<Compiler> {
    let mut sysroots = nightlies();
    sysroots.push(PathBuf::from("/usr"));
    sysroots.iter().filter_map(|sysroot| compiler(sysroot)).collect()
}

/// The directories of rustup's nightly toolchains, the newest first.
pub fn nightlies() -> Vec<PathBuf> {
    let rustup = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".rustup")))
        .map(|home| home.join("toolchains"));
    // The directories are read because asking rustup takes half a second.
    let mut nightlies: Vec<PathBuf> = rustup
        .and_then(|directory| fs::read_dir(directory).ok())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"nightly")))
        .collect();
    // "nightly-x86_64-…", which is the newest, sorts after every dated one.
    nightlies.sort_unstable_by(|a, b| b.cmp(a));
    nightlies
}

fn compiler(sysroot: &Path) -> Option<Compiler> {
    let bin = sysroot.join("bin");
    let source = sysroot.join("lib/rustlib/src/rust/library/Cargo.lock");
    if !source.is_file() || !bin.join("cargo").is_file() {
        return None;
    }
    let about = output(&bin.join("rustc"), ["-vV"])?;
    let release = Version::after("release: ", &about)?;
    let llvm = Version::after("LLVM version: ", &about)?;
    let oldest = Version::parse(env!("CARGO_PKG_RUST_VERSION"))?;
    (release >= oldest).then_some(Compiler { bin, release, llvm })
}

fn linkers() -> Vec<(PathBuf, Version)> {
    let own = tool_root("bpf-linker", BPF_LINKER_VERSION).map(|root| root.join("bin/bpf-linker"));
    own.into_iter()
        .chain(on_path("bpf-linker"))
        .filter_map(|linker| {
            let version = Version::after("bpf-linker ", &output(&linker, ["--version"])?)?;
            // LLVM's own --version answers for what the linker is linked with, statically or not.
            let asking = ["--llvm-args=--version", "--target=bpf", "--output=/dev/null", "/dev/null"];
            let llvm = Version::after("LLVM version ", &output(&linker, asking)?)?;
            (version >= Version::parse(BPF_LINKER_VERSION)?).then_some((linker, llvm))
        })
        .collect()
}

fn objcopy() -> Option<PathBuf> {
    let own = Path::new(LLVM_PREFIX).join("bin/llvm-objcopy");
    if own.is_file() { Some(own) } else { on_path("llvm-objcopy").or_else(|| on_path("rust-objcopy")) }
}

fn output<const N: usize>(program: &Path, arguments: [&str; N]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).env_remove(OsStr::new("RUSTUP_TOOLCHAIN")).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first three numbers of a release; what follows them, as in "1.97.0-nightly", does not count.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(['.', '-', '+', ' ']).map(str::parse);
        let major = numbers.next()?.ok()?;
        let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
        Some(Self { major, minor: next(), patch: next() })
    }

    /// The version that follows `label` in what a program says about itself.
    fn after(label: &str, about: &str) -> Option<Self> {
        let (_, rest) = about.split_once(label)?;
        Self::parse(rest.split_whitespace().next()?)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor, patch } = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_rustc_says() {
        let about =
            "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(Version::after("release: ", about), Version::parse("1.97.0"));
        assert_eq!(Version::after("LLVM version: ", about).map(|llvm| llvm.major), Some(22));
    }

    #[test]
    fn a_short_version_counts_as_its_first_patch() {
        assert_eq!(Version::parse("1.95"), Version::parse("1.95.0"));
        assert!(Version::parse("1.96.0") > Version::parse("1.95"));
    }

    #[test]
    fn what_is_no_version_is_none() {
        assert_eq!(Version::after("LLVM version ", "error: unknown argument"), None);
        assert_eq!(Version::parse("unknown"), None);
    }
}

//! The programs of an upgrade: the one that this process is, and the one that it is to become, both by descriptors, whatever comes in the
//! place of their files meanwhile. Executes neither.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// What the kernel puts behind the path of a program whose file is gone.
const DELETED: &str = " (deleted)";

/// The program that this process is.
#[derive(Clone, Debug)]
pub(crate) struct OwnProgram {
    /// The path that it had when it was started: another version of it may be there now.
    pub(crate) path: PathBuf,
    /// The words that it was started with.
    pub(crate) words: Vec<OsString>,
}

impl OwnProgram {
    /// It, as the kernel has it.
    ///
    /// # Errors
    /// There is no /proc.
    pub(crate) fn now() -> io::Result<Self> {
        let path = fs::read_link("/proc/self/exe")?;
        let shown = path.to_string_lossy();
        let path = shown.strip_suffix(DELETED).map_or_else(|| path.clone(), PathBuf::from);
        Ok(Self { path, words: std::env::args_os().collect() })
    }

    /// Its file, wherever that is by now. Nobody writes to it while a process executes it (ETXTBSY).
    ///
    /// # Errors
    /// There is no /proc.
    pub(super) fn open() -> io::Result<OwnedFd> {
        Ok(File::open("/proc/self/exe")?.into())
    }
}

/// A program that this process is to become.
#[derive(Debug)]
pub(super) struct NewProgram {
    pub(super) path: PathBuf,
    pub(super) file: OwnedFd,
}

impl NewProgram {
    /// The one at `path`.
    ///
    /// # Errors
    /// It is not there, or nothing that is executed.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let op = || format!("open {}", path.display());
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).with_context(op)?;
        let metadata = file.metadata().with_context(op)?;
        if !metadata.is_file() {
            bail!("{}: it is no file; name the program of the other version: --to FILE", op());
        }
        if metadata.permissions().mode() & 0o111 == 0 {
            bail!("{}: it is not executable (chmod +x)", op());
        }
        Ok(Self { path: path.to_owned(), file: file.into() })
    }

    /// A path by which its very file is executed by others than this process.
    pub(super) fn place(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_program_is_refused_with_the_cure() {
        for (path, cure) in
            [("/", "no file"), ("/dev/null", "no file"), ("/etc/passwd", "chmod +x"), ("/nowhere", "No such")]
        {
            let error = format!("{:#}", NewProgram::open(Path::new(path)).unwrap_err());
            assert!(error.starts_with(&format!("open {path}")) && error.contains(cure), "{error}");
        }
    }

    #[test]
    fn the_own_program_is_found_by_its_path() {
        let own = OwnProgram::now().unwrap();
        assert_eq!(own.path, std::env::current_exe().unwrap());
        NewProgram::open(&own.path).unwrap();
    }
}

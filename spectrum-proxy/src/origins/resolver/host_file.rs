//! The files of this host that name resolution reads. Who may not open them may have somebody else do so. Understands neither.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::OnceLock;

/// A file of this host that name resolution reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub enum HostFile {
    /// hosts(5)
    Hosts,
    /// resolv.conf(5)
    ResolvConf,
}

/// Somebody who opens such files for this process.
type Opener = dyn Fn(HostFile) -> io::Result<OwnedFd> + Send + Sync;

/// The one who does, for all threads.
static OPENER: OnceLock<Box<Opener>> = OnceLock::new();

impl HostFile {
    /// All of them.
    pub(super) const ALL: [Self; 2] = [Self::ResolvConf, Self::Hosts];

    /// Has `open` asked, from now on and by any thread of this process, for files that this process is not permitted to open, such as
    /// one that came in the place of another after files were restricted. Name resolution waits for it. Only the first call has an
    /// effect.
    pub fn ask(open: impl Fn(Self) -> io::Result<OwnedFd> + Send + Sync + 'static) {
        let _is_first = OPENER.set(Box::new(open));
    }

    /// The place of the file.
    #[must_use]
    pub fn path(self) -> &'static Path {
        Path::new(match self {
            Self::Hosts => "/etc/hosts",
            Self::ResolvConf => "/etc/resolv.conf",
        })
    }

    /// Opens it for reading.
    ///
    /// # Errors
    /// The system's: `PermissionDenied` where the process may not.
    pub fn open(self) -> io::Result<File> {
        File::open(self.path())
    }

    /// Opens it, or has it opened by whoever may.
    pub(super) fn open_or_ask(self) -> io::Result<File> {
        self.asked(self.open(), OPENER.get().map(Box::as_ref))
    }

    fn asked(self, outcome: io::Result<File>, opener: Option<&Opener>) -> io::Result<File> {
        match (outcome, opener) {
            (Err(error), Some(open)) if error.kind() == io::ErrorKind::PermissionDenied => {
                open(self).map(File::from)
            }
            (outcome, _) => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn only_what_may_not_be_opened_is_asked_for() {
        let opener = |file: HostFile| match file {
            HostFile::Hosts => Ok(File::open("/proc/self/comm")?.into()),
            HostFile::ResolvConf => Err(io::ErrorKind::TimedOut.into()),
        };
        let asked = |file: HostFile, kind: io::ErrorKind| file.asked(Err(kind.into()), Some(&opener));
        let mut heard = String::new();
        asked(HostFile::Hosts, io::ErrorKind::PermissionDenied).unwrap().read_to_string(&mut heard).unwrap();
        assert!(!heard.is_empty());
        let refused = |outcome: io::Result<File>| outcome.unwrap_err().kind();
        assert_eq!(
            refused(asked(HostFile::ResolvConf, io::ErrorKind::PermissionDenied)),
            io::ErrorKind::TimedOut
        );
        assert_eq!(refused(asked(HostFile::Hosts, io::ErrorKind::NotFound)), io::ErrorKind::NotFound);
        let denied = Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(refused(HostFile::Hosts.asked(denied, None)), io::ErrorKind::PermissionDenied);
    }
}

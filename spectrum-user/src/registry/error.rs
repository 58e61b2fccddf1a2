//! Why the registry of instances refused. Does not print: `main` does, once.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::Prefix;

/// The error of registering an instance.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A live instance has a prefix that equals, contains or lies within one of ours.
    #[error("claim prefix {prefix}: process {pid} has {theirs}")]
    Claimed {
        /// The prefix we asked for.
        prefix: Prefix,
        /// Theirs.
        theirs: Prefix,
        /// The other process.
        pid: u32,
    },
    /// A live instance holds its state file, but what it says cannot be understood, so that nobody can know what it
    /// claims.
    #[error("read the state of the running instance in {}: {cause} (stop that instance first)", .path.display())]
    Corrupt {
        /// The state file.
        path: PathBuf,
        /// The fault of it.
        cause: String,
    },
    /// Another instance is starting or being cleaned up, and has been for long.
    #[error("wait for another instance to start: {} is still locked after {} s", .path.display(), .waited.as_secs())]
    Busy {
        /// The lock.
        path: PathBuf,
        /// The time that we waited.
        waited: Duration,
    },
    /// Others could put anything into the run directory.
    #[error(
        "use the run directory {}: {cause} (set SPECTRUM_RUN_DIR to a directory that only root or you may write, mode 0755, \
         and that nobody else can exchange; leave it unset for {default})",
        .path.display()
    )]
    Distrusted {
        /// The directory.
        path: PathBuf,
        /// The fault of it.
        cause: String,
        /// The directory unless another is set.
        default: &'static str,
    },
    /// We were told to stop while waiting for another instance.
    #[error("wait for another instance to start: given up {}, being told to stop", .path.display())]
    GivenUp {
        /// The lock.
        path: PathBuf,
    },
    /// The asker may not know which instances there are.
    #[error("look for instances in {} (needs root or membership of the group spectrum)", .path.display())]
    NotAMember {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// What is pinned has a prefix that equals, contains or lies within one of ours.
    #[error(
        "claim prefix {prefix}: what is pinned in this network namespace has {theirs} (a start over sk_lookup takes it over; spectrum-user \
         bindings --instance pinned lists it, unbind and unload take it away)"
    )]
    Pinned {
        /// The prefix we asked for.
        prefix: Prefix,
        /// Theirs.
        theirs: Prefix,
    },
    /// Something is pinned, and somebody has removed its claim.
    #[error(
        "read the claim of what is pinned in {}: {} is gone (try: spectrum-user clean, which writes it anew)",
        .pins.display(), .path.display()
    )]
    Unclaimed {
        /// What is pinned.
        pins: PathBuf,
        /// The claim.
        path: PathBuf,
    },
    /// The run directory cannot be used.
    #[error("{op} {}", .path.display())]
    RunDir {
        /// The operation that failed, a verb phrase.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: RunDirError,
    },
}

impl RegistryError {
    /// The capability that was missing, if that was the cause.
    #[must_use]
    pub fn not_permitted(&self) -> Option<&'static str> {
        match self {
            Self::RunDir { source: RunDirError::NotPermitted(_), .. } => Some("CAP_DAC_OVERRIDE"),
            _ => None,
        }
    }
}

/// The cause of [`RegistryError::RunDir`], with its cure.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// The directory belongs to somebody else.
    #[error("{0} (run as root, or set SPECTRUM_RUN_DIR to a directory you may write)")]
    NotPermitted(io::Error),
    /// The file system is read-only, or cannot hold the directory.
    #[error("{0} (set SPECTRUM_RUN_DIR to a directory that can be written)")]
    NotWritable(io::Error),
    /// Anything else.
    #[error("{0}")]
    Other(io::Error),
}

impl From<io::Error> for RunDirError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted(error),
            io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::NotFound
            | io::ErrorKind::StorageFull => Self::NotWritable(error),
            _ => Self::Other(error),
        }
    }
}

//! Entering a network namespace, telling namespaces apart, and trying things in one that is thrown away. Leaves none
//! behind.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Socket, Type};

use super::{NetError, sys};

/// The directory in which `ip netns` keeps the namespaces it names.
const NAMED: &str = "/run/netns";

/// The identity of a network namespace among the others that exist at the same time. Prints as the inode, like the
/// target of `/proc/self/ns/net` and `lsns`. The kernel reuses inodes of namespaces that are gone.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NamespaceId(u64);

impl NamespaceId {
    /// The namespace the calling thread is in.
    ///
    /// # Errors
    /// /proc is not there.
    pub fn current() -> Result<Self, NetError> {
        // Not /proc/self, which is the main thread's: tests enter namespaces thread by thread.
        let path = "/proc/thread-self/ns/net";
        fs::metadata(path)
            .map(|metadata| Self(metadata.ino()))
            .map_err(|source| NetError::os("identify network namespace", path, source, "CAP_SYS_PTRACE"))
    }

    /// The namespace called `name` as [`enter_namespace`] takes it. Needs no capability.
    ///
    /// # Errors
    /// There is none of this name in /run/netns.
    pub fn named(name: &str) -> Result<Self, NetError> {
        let path = path_of(name);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Self(metadata.ino())),
            Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
                Err(NetError::NamespaceMissing { path: path.display().to_string() })
            }
            Err(source) => {
                Err(NetError::os("identify network namespace", path.display(), source, "CAP_SYS_PTRACE"))
            }
        }
    }

    /// The inode.
    #[must_use]
    pub fn inode(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of the calling thread's network namespace, which no other has had since the host was started, unlike its inode. `None`
/// before Linux 5.14.
#[must_use]
pub fn namespace_cookie() -> Option<u64> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).ok()?;
    sys::namespace_cookie(&socket).ok()
}

/// Moves the calling thread into the network namespace called `name` (as in `ip netns`), or, when `name` contains a
/// slash, the one at that path. Threads inherit the namespace of the thread that starts them, so this comes before
/// any is started. Needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// There is none of this name, or no `CAP_SYS_ADMIN`.
pub fn enter_namespace(name: &str) -> Result<NamespaceId, NetError> {
    let op = "enter network namespace";
    let path = path_of(name);
    let shown = path.display().to_string();
    let file = File::open(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            NetError::NamespaceMissing { path: shown.clone() }
        }
        _ => NetError::os(op, &shown, source, "CAP_SYS_ADMIN"),
    })?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
        Errno::EINVAL => NetError::NotANamespace { path: shown.clone() },
        _ => NetError::os(op, &shown, errno, "CAP_SYS_ADMIN"),
    })?;
    NamespaceId::current()
}

/// Runs `inside` on a thread in a network namespace of its own, which the kernel takes back with the last thread and
/// process in it. Needs `CAP_SYS_ADMIN`.
///
/// # Errors
/// No `CAP_SYS_ADMIN`. What `inside` returns is no error.
pub fn in_throw_away_namespace<T: Send>(inside: impl FnOnce() -> T + Send) -> Result<T, NetError> {
    let tried = thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| {
                    NetError::os("make", "a network namespace to try things in", errno, "CAP_SYS_ADMIN")
                })?;
                Ok(inside())
            })
            .join()
    });
    tried.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn path_of(name: &str) -> PathBuf {
    if name.contains('/') { PathBuf::from(name) } else { Path::new(NAMED).join(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_told_apart_by_the_slash() {
        assert_eq!(path_of("blue"), Path::new("/run/netns/blue"));
        assert_eq!(path_of("/proc/1/ns/net"), Path::new("/proc/1/ns/net"));
        assert_eq!(path_of("./net"), Path::new("./net"));
    }

    #[test]
    fn a_missing_namespace_is_named_with_the_cure() {
        let message = enter_namespace("there-is-no-such-namespace").unwrap_err().to_string();
        assert!(message.contains("/run/netns/there-is-no-such-namespace"), "{message}");
        assert!(message.contains("ip netns add"), "{message}");
    }

    #[test]
    fn the_current_namespace_is_the_one_proc_shows() {
        let link = fs::read_link("/proc/self/ns/net").unwrap();
        assert_eq!(link.to_str().unwrap(), format!("net:[{}]", NamespaceId::current().unwrap()));
    }
}

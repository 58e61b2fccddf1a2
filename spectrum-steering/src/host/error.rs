//! Why the network did not do as asked. Does not print: `main` does, once.

use std::fmt;
use std::io;

use nix::errno::Errno;

/// The error of an operation on the network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The process lacks a capability.
    #[error("{op} {object}")]
    Denied {
        /// The operation that failed, a verb phrase.
        op: &'static str,
        /// To what.
        object: String,
        /// The refusal and what would lift it.
        source: Denied,
    },
    /// Any other failure of a system call.
    #[error("{op} {object}")]
    Os {
        /// The operation that failed, a verb phrase.
        op: &'static str,
        /// To what.
        object: String,
        /// The cause.
        source: io::Error,
    },
    /// `lo` is down or lacks the loopback address that listeners are bound to and local routes prefer as a source.
    #[error("{op} {object}: the loopback interface {state} (try: {cure})")]
    Loopback {
        /// The operation that failed, a verb phrase.
        op: &'static str,
        /// To what.
        object: String,
        /// The fault of it.
        state: &'static str,
        /// The command that cures it.
        cure: &'static str,
    },
    /// The kernel runs without IPv6.
    #[error(
        "{op} {object}: this kernel runs without IPv6 (boot it without ipv6.disable=1, or leave out the IPv6 prefixes)"
    )]
    Ipv6Missing {
        /// The operation that failed, a verb phrase.
        op: &'static str,
        /// To what.
        object: String,
    },
    /// There is no such network namespace.
    #[error(
        "enter network namespace {path}: there is none (`ip netns list` lists them, `ip netns add NAME` makes one)"
    )]
    NamespaceMissing {
        /// The path at which it was looked for.
        path: String,
    },
    /// The file exists, but is no network namespace.
    #[error("enter network namespace {path}: the file is no network namespace")]
    NotANamespace {
        /// The file.
        path: String,
    },
    /// There is no process with this id.
    #[error("take the sockets of process {pid}: there is no such process")]
    ProcessMissing {
        /// The id.
        pid: u32,
    },
    /// The id is that of a thread.
    #[error("take the sockets of process {pid}: it is a thread of a process, whose own id is wanted")]
    NotAProcess {
        /// The id.
        pid: u32,
    },
    /// Nobody may take anything out of a process.
    #[error(
        "take the sockets of process {pid}: kernel.yama.ptrace_scope = 3 forbids it to everybody, until the next boot (systems that have it \
         in /etc/sysctl.d may have 2)"
    )]
    TracingForbidden {
        /// The process.
        pid: u32,
    },
    /// There is no such unit, or it does not run.
    #[error("find the processes of unit {unit}: {why}")]
    UnitMissing {
        /// Its name.
        unit: String,
        /// What is missing.
        why: &'static str,
    },
    /// There is no `/dev/net/tun`.
    #[error(
        "open /dev/net/tun, by which prefixes are announced: there is none (try: modprobe tun; a unit needs DeviceAllow=/dev/net/tun \
         rw and no PrivateDevices=, a container --device /dev/net/tun)"
    )]
    TunMissing,
    /// The main table holds somebody's route for the very prefix.
    #[error(
        "announce {prefix}: the main table has a route for it that is not ours; remove it, or leave the prefix out of what is \
         announced (see: ip route show table main exact {prefix})"
    )]
    AnnouncementTaken {
        /// The prefix.
        prefix: crate::model::Prefix,
    },
    /// The table of local routes holds a route of another kind for the very prefix.
    #[error(
        "add local route {prefix}: the local table has a route of type {kind} for it (see: ip route show table local)"
    )]
    RouteTaken {
        /// The prefix.
        prefix: crate::model::Prefix,
        /// The type of the route in the way.
        kind: String,
    },
}

impl NetError {
    /// The error of a failed system call, as [`NetError::Denied`] where `capability` would have allowed it.
    pub(crate) fn os(
        op: &'static str,
        object: impl fmt::Display,
        source: impl Into<io::Error>,
        capability: &'static str,
    ) -> Self {
        let (object, source) = (object.to_string(), source.into());
        match source.raw_os_error().map(Errno::from_raw) {
            Some(errno @ (Errno::EPERM | Errno::EACCES)) => {
                Self::Denied { op, object, source: Denied { errno, capability } }
            }
            _ => Self::Os { op, object, source },
        }
    }

    /// The capability that was missing, if that was the cause.
    #[must_use]
    pub fn not_permitted(&self) -> Option<&'static str> {
        match self {
            Self::Denied { source, .. } => Some(source.capability),
            _ => None,
        }
    }
}

/// A refusal by the kernel, and the capability that would lift it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{} (needs {capability}; try sudo)", .errno.desc())]
pub struct Denied {
    errno: Errno,
    /// The missing capability.
    pub capability: &'static str,
}

impl Denied {
    /// The refusal `errno` of something that needs `capability`.
    #[must_use]
    pub fn new(errno: Errno, capability: &'static str) -> Self {
        Self { errno, capability }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn refusals_name_the_capability_once() {
        let error =
            NetError::os("add local route", "192.0.2.0/24", io::Error::from_raw_os_error(1), "CAP_NET_ADMIN");
        assert_eq!(error.not_permitted(), Some("CAP_NET_ADMIN"));
        assert_eq!(
            format!("{error}: {}", error.source().unwrap()),
            "add local route 192.0.2.0/24: Operation not permitted (needs CAP_NET_ADMIN; try sudo)"
        );
    }

    #[test]
    fn other_failures_blame_no_capability() {
        let error = NetError::os("bind", "127.0.0.1:0", io::Error::from_raw_os_error(98), "CAP_NET_ADMIN");
        assert_eq!(error.not_permitted(), None);
    }
}

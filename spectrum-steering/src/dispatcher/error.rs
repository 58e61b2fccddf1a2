//! Why the kernel would not have the dispatcher. Cures are named here; what to do instead is the caller's choice.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use spectrum_common::RegisteredId;

use super::xdp::XdpMode;
use crate::model::{DestinationId, Family, InterfaceName, Protocol};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A failed bpf(2) operation.
#[derive(Debug, thiserror::Error)]
pub enum DispatcherError {
    /// The socket has no place among the registered ones.
    #[error("take in a registered socket{}", cure(.source.as_ref()))]
    Admit {
        /// The kernel's own error, or what is full.
        source: Cause,
    },
    /// The program is not attached.
    #[error("attach the sk_lookup program to the network namespace{}", cure(.source.as_ref()))]
    Attach {
        /// The kernel's own error.
        source: Cause,
    },
    /// What is pinned was made by something else, or is broken.
    #[error("read what is pinned in {}: {cause}", .path.display())]
    Charter {
        /// The directory, or the generation.
        path: PathBuf,
        /// The fault of it.
        cause: &'static str,
    },
    /// Counters were not read.
    #[error("read the counters of destination {id}")]
    Count {
        /// Whose.
        id: DestinationId,
        /// The kernel's own error.
        source: Box<MapError>,
    },
    /// The program is still attached.
    #[error("detach the sk_lookup program")]
    Detach {
        /// The kernel's own error.
        source: Cause,
    },
    /// The place of a registered socket is as it was.
    #[error("empty the place {} of a registered socket", .place.0)]
    Dismiss {
        /// Which.
        place: RegisteredId,
        /// The kernel's own error.
        source: Cause,
    },
    /// The counter of the XDP program was not read.
    #[error("read how many packets the XDP program has dropped")]
    Early {
        /// The kernel's own error.
        source: Box<MapError>,
    },
    /// The maps or the program are not loaded.
    #[error("load the sk_lookup program{}", cure(.source.as_ref()))]
    Load {
        /// The kernel's own error.
        source: Cause,
    },
    /// The interface brings packets without an Ethernet header.
    #[error(
        "look at what comes by interface {interface}: it has no Ethernet header, as of a tunnel; take it out of [policy] xdp"
    )]
    NoEthernet {
        /// Its name.
        interface: InterfaceName,
    },
    /// No interface is called so.
    #[error(
        "look at what comes by interface {interface}: there is none of that name (`ip link` shows those that there are)"
    )]
    NoInterface {
        /// The name.
        interface: InterfaceName,
    },
    /// The embedded object is not the one this loader was built with.
    #[error("the eBPF object has no {name} of the expected type; build it anew")]
    Object {
        /// The map or program.
        name: &'static str,
    },
    /// A file of a BPF file system is not to be had.
    #[error("{op} {}{}", .path.display(), pin_cure(.source.as_ref()))]
    Pin {
        /// The operation that failed, a verb phrase.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's own error.
        source: Cause,
    },
    /// The table is not published: the one before still holds.
    #[error("publish the steering table{}", cure(.source.as_ref()))]
    Publish {
        /// The kernel's own error.
        source: Cause,
    },
    /// The program was not run.
    #[error("run the sk_lookup program on a test packet{}", test_cure(.source))]
    Test {
        /// The kernel's own error.
        source: io::Error,
    },
    /// The socket is not the destination's listener.
    #[error("register the listener of destination {id}{}", cure(.source.as_ref()))]
    Register {
        /// Whose.
        id: DestinationId,
        /// The kernel's own error.
        source: Cause,
    },
    /// The clients are divided as before.
    #[error("divide the clients of destination {id} among its registered sockets{}", cure(.source.as_ref()))]
    Share {
        /// Whose.
        id: DestinationId,
        /// The kernel's own error.
        source: Cause,
    },
    /// Nobody has the packets that are to be denied without a word.
    #[error("register the socket that never answers over {protocol} of {family}{}", cure(.source.as_ref()))]
    Silence {
        /// Its protocol.
        protocol: Protocol,
        /// Its family.
        family: Family,
        /// The kernel's own error.
        source: Cause,
    },
    /// The XDP program is not on the interface.
    #[error("attach the XDP program to interface {interface}{}", xdp_cure(.source, .interface, *.others))]
    Xdp {
        /// Its name.
        interface: InterfaceName,
        /// The mode of the program that is there already, if one is.
        others: XdpMode,
        /// The kernel's own error.
        source: io::Error,
    },
    /// The destination still has its listener.
    #[error("remove the listener of destination {id}")]
    Unregister {
        /// Whose.
        id: DestinationId,
        /// The kernel's own error.
        source: Cause,
    },
}

impl DispatcherError {
    pub(super) fn load(error: EbpfError) -> Self {
        Self::Load { source: Box::new(error) }
    }

    pub(super) fn verify(error: ProgramError) -> Self {
        let source = match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                // The log of a program that the verifier refuses fills screens; the errno is what users can act on.
                tracing::debug!(%verifier_log, "verifier log");
                Box::new(io_error) as Cause
            }
            other => Box::new(other),
        };
        Self::Load { source }
    }

    /// The errno at the bottom of it, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        os_error(self)
    }
}

/// The cure for an errno that has one likely reason.
fn cure(source: &(dyn std::error::Error + Send + Sync + 'static)) -> &'static str {
    match os_error(source) {
        // Of the two, the limit of locked memory answers with EPERM only.
        Some(libc::EPERM) => {
            " (needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and before Linux 5.11 CAP_SYS_RESOURCE or ulimit -l unlimited; \
             try sudo)"
        }
        Some(libc::EACCES) => " (needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; try sudo)",
        Some(libc::EINVAL) => {
            " (needs Linux 5.10 with CONFIG_BPF_SYSCALL and CONFIG_NET; --mode tproxy works without)"
        }
        Some(libc::ENOSYS) => " (this kernel has no bpf(2); --mode tproxy works without)",
        Some(libc::EOPNOTSUPP) => {
            " (this kernel lacks a part of what sk_lookup needs; --mode tproxy works without)"
        }
        Some(libc::E2BIG) => " (64 sk_lookup programs are attached already; see `bpftool link`)",
        Some(libc::ENOMEM) => " (not enough memory, or the memory cgroup's limit is reached)",
        _ => "",
    }
}

fn xdp_cure(source: &io::Error, interface: &InterfaceName, others: XdpMode) -> String {
    match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => {
            let off = if others == XdpMode::Generic { "xdpgeneric" } else { "xdp" };
            format!(
                " (another program is there, which is not replaced: stop who attached it, as `bpftool net` and `bpftool link` show, or \
                 `ip link set dev {interface} {off} off`; or take it out of [policy] xdp)"
            )
        }
        Some(libc::EPERM) => " (needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; try sudo)".to_owned(),
        Some(libc::EINVAL) => " (needs Linux 5.9; take it out of [policy] xdp)".to_owned(),
        _ => " (take it out of [policy] xdp, and it is judged by the socket lookup alone)".to_owned(),
    }
}

fn pin_cure(source: &(dyn std::error::Error + Send + Sync + 'static)) -> &'static str {
    match os_error(source) {
        // Before Linux 5.19 kernel.unprivileged_bpf_disabled forbids whatever is bpf(2).
        Some(libc::EPERM) => " (needs CAP_BPF, to read before Linux 5.19 too; try sudo)",
        Some(libc::EACCES) => " (needs root, or to read membership of the group that `load --group` named)",
        _ => "",
    }
}

fn test_cure(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM) => " (needs CAP_BPF and CAP_NET_ADMIN)",
        // ENOTSUPP, which is no errno of user space's.
        Some(libc::EINVAL | 524) => " (needs Linux 5.13)",
        _ => "",
    }
}

/// The errno at the bottom of an error.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(errno);
        }
        cause = error.source();
    }
    None
}

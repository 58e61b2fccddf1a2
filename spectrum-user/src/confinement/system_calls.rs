//! The system calls that a worker process makes, and none besides: everything else fails with EPERM, and the kernel log says so.
//! Not its end: a call that was forgotten here costs what needs it, and no connection.

mod list;

use std::collections::BTreeMap;
use std::io;

use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::sys::{self, Refusals};
use super::{ConfinementError, Measure};

/// The errno of what is refused.
const REFUSED: u32 = libc::EPERM.cast_unsigned();

/// The errno of what the C library does in another way where the kernel is too old for it.
const UNKNOWN: u32 = libc::ENOSYS.cast_unsigned();

/// Has the kernel refuse what is not on the list, of the calling thread and of those that it starts.
pub(super) fn restrict() -> Result<Measure, ConfinementError> {
    if let Err(error) = sys::has_filters() {
        return Ok(Measure::Lacking(format!("the kernel has no filters of system calls (seccomp): {error}")));
    }
    let Ok(architecture) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok(Measure::Lacking(format!(
            "there is no list of system calls for {}",
            std::env::consts::ARCH
        )));
    };
    let failed = |source| ConfinementError::SystemCalls { op: "restrict system calls (seccomp)", source };
    let unfit = |error: BackendError| failed(io::Error::other(error));
    let allowed = allowed(architecture).map_err(unfit)?;
    let unknown = unknown(architecture).map_err(unfit)?;
    // Of two that refuse, the later one says how; the first allows what the second denies to know.
    sys::install(&unknown, Refusals::Silent).map_err(failed)?;
    sys::install(&allowed, Refusals::Logged).map_err(failed)?;
    Ok(Measure::Whole)
}

/// The filter that lets the list through.
fn allowed(architecture: TargetArch) -> Result<BpfProgram, BackendError> {
    let mut rules = list::conditional(std::process::id())?;
    rules.extend(list::ALLOWED.iter().chain(list::UNKNOWN).map(|call| (*call, Vec::new())));
    SeccompFilter::new(rules, SeccompAction::Errno(REFUSED), SeccompAction::Allow, architecture)?.try_into()
}

/// The filter by which the kernel seems older than it is.
fn unknown(architecture: TargetArch) -> Result<BpfProgram, BackendError> {
    let rules: BTreeMap<_, _> = list::UNKNOWN.iter().map(|call| (*call, Vec::new())).collect();
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(UNKNOWN), architecture)?.try_into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use libc::c_long;

    use super::*;

    #[test]
    fn every_list_is_one_that_kernels_take() {
        // BPF_MAXINSNS of linux/bpf_common.h.
        const LONGEST: usize = 4096;
        for architecture in [TargetArch::aarch64, TargetArch::x86_64] {
            assert!(allowed(architecture).unwrap().len() < LONGEST);
            assert!(unknown(architecture).unwrap().len() < LONGEST);
        }
    }

    /// True if `filter` allows the call of this number without a look at its arguments, as the kernel finds out when it takes the
    /// filter (`seccomp_is_const_allow` of kernel/seccomp.c, Linux 5.11): such a call runs no filter from then on.
    fn allows_unseen(filter: &BpfProgram, architecture: u32, call: c_long) -> bool {
        let (mut next, mut held) = (0, 0);
        loop {
            let seccompiler::sock_filter { code, jt, jf, k } = filter[next];
            next += 1;
            let code = u32::from(code);
            let is = |expected: u32| code == expected;
            if is(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) {
                held = match k {
                    0 => u32::try_from(call).unwrap(),
                    4 => architecture,
                    // The arguments.
                    _ => return false,
                };
            } else if is(libc::BPF_JMP | libc::BPF_JA) {
                next += usize::try_from(k).unwrap();
            } else if code & 0x07 == libc::BPF_JMP && code & 0x08 == libc::BPF_K {
                let holds = match code & 0xf0 {
                    libc::BPF_JEQ => held == k,
                    libc::BPF_JGE => held >= k,
                    libc::BPF_JGT => held > k,
                    libc::BPF_JSET => held & k != 0,
                    other => panic!("a jump by {other:x}"),
                };
                next += usize::from(if holds { jt } else { jf });
            } else if is(libc::BPF_RET | libc::BPF_K) {
                return k == libc::SECCOMP_RET_ALLOW;
            } else {
                return false;
            }
        }
    }

    #[test]
    fn what_is_called_for_every_datagram_runs_no_filter_and_what_is_looked_at_does() {
        const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
        let architecture = TargetArch::x86_64;
        let filters = [unknown(architecture).unwrap(), allowed(architecture).unwrap()];
        let is_unseen = |call| filters.iter().all(|filter| allows_unseen(filter, AUDIT_ARCH_X86_64, call));
        for call in list::ALLOWED {
            assert!(is_unseen(*call), "{call} is looked at");
        }
        let conditional = list::conditional(1).unwrap();
        for call in conditional.keys().chain(list::UNKNOWN) {
            assert!(!is_unseen(*call), "{call} is not looked at");
        }
        // What a connection or a session costs besides: its socket, its options, which may be of any protocol that a module brings,
        // and the size of its pipe. All else that has conditions is for starting and growing.
        let hot = [libc::SYS_fcntl, libc::SYS_ioctl, libc::SYS_setsockopt, libc::SYS_socket];
        let cold = [
            libc::SYS_clone,
            libc::SYS_mmap,
            libc::SYS_mprotect,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_prctl,
            libc::SYS_prlimit64,
            libc::SYS_socketpair,
            libc::SYS_tgkill,
        ];
        let known: BTreeSet<c_long> = hot.into_iter().chain(cold).collect();
        assert_eq!(conditional.into_keys().collect::<BTreeSet<_>>(), known);
    }

    #[test]
    fn what_has_conditions_is_not_allowed_without_them() {
        let conditional = list::conditional(1).unwrap();
        for call in list::ALLOWED.iter().chain(list::UNKNOWN) {
            assert!(!conditional.contains_key(call), "{call}");
        }
    }

    #[test]
    fn nothing_is_on_the_list_that_opens_the_way_to_more() {
        let conditional = list::conditional(1).unwrap();
        for call in [
            libc::SYS_bpf,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_init_module,
            libc::SYS_io_uring_setup,
            libc::SYS_kill,
            libc::SYS_listen,
            libc::SYS_mount,
            libc::SYS_perf_event_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_process_vm_readv,
            libc::SYS_ptrace,
            libc::SYS_setns,
            libc::SYS_setuid,
            libc::SYS_unlinkat,
            libc::SYS_unshare,
            libc::SYS_userfaultfd,
        ] {
            assert!(!list::ALLOWED.contains(&call) && !conditional.contains_key(&call), "{call}");
        }
    }
}

//! The list of the system calls of a worker process, each where it is used. Refuses nothing itself.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

/// The calls that are allowed whatever their arguments are.
pub(super) const ALLOWED: &[c_long] = &[
    // Connections and datagrams.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_dup,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_pipe2,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_splice,
    libc::SYS_write,
    libc::SYS_writev,
    // The runtime: what is ready, and when.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    // Threads, and their memory.
    libc::SYS_brk,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getattr,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // Its own slice of time; a thread of another process is another user's.
    libc::SYS_sched_setattr,
    // What the host is, and files that it may read (`files`).
    libc::SYS_fstat,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    // Where its program is, for who reads of a panic.
    libc::SYS_readlinkat,
    libc::SYS_statx,
    libc::SYS_uname,
    // The elder names that this architecture has besides, some of which musl prefers.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
];

/// The calls that hide their arguments in memory, where no filter can look, or that a new C library tries before an elder way: to the
/// library the kernel seems too old for them.
pub(super) const UNKNOWN: &[c_long] = &[
    libc::SYS_clone3,
    libc::SYS_close_range,
    libc::SYS_epoll_pwait2,
    libc::SYS_faccessat2,
    libc::SYS_openat2,
];

/// The levels of options that sockets are given: SOL_SOCKET, and those of the protocols that are spoken.
const LEVELS: [i32; 6] = [
    libc::SOL_SOCKET,
    libc::IPPROTO_ICMPV6,
    libc::IPPROTO_IP,
    libc::IPPROTO_IPV6,
    libc::IPPROTO_TCP,
    libc::IPPROTO_UDP,
];

/// The kinds of sockets of either family, each with the protocols that it is made for.
const KINDS: [(i32, &[i32]); 3] = [
    (libc::SOCK_STREAM, &[0, libc::IPPROTO_TCP]),
    (libc::SOCK_DGRAM, &[0, libc::IPPROTO_UDP]),
    // Takes CAP_NET_RAW besides.
    (libc::SOCK_RAW, &[libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6, libc::IPPROTO_UDP]),
];

/// The part of a socket's type that says what kind it is; the rest are flags (SOCK_TYPE_MASK of linux/net.h).
const KIND: u64 = 0xf;

/// Everything that open(2) would make or change (`O_TMPFILE` without what it has in common with `O_DIRECTORY`).
const CHANGING: i32 =
    libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);

/// Everything that would make more of a thread than one of this process.
const NAMESPACES: i32 = libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS;

/// The calls that are allowed with some arguments, for the process with this id.
pub(super) fn conditional(process: u32) -> Result<BTreeMap<c_long, Vec<SeccompRule>>, BackendError> {
    let mut sockets = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (kind, protocols) in KINDS {
            for protocol in protocols {
                sockets.push(rule([
                    equal((0, family)),
                    masked(1, KIND, value(kind)),
                    equal((2, *protocol)),
                ])?);
            }
        }
    }
    let one_of = |argument: u8, values: &[i32]| -> Result<Vec<SeccompRule>, BackendError> {
        values.iter().map(|value| rule([equal((argument, *value))])).collect()
    };
    let not_executable = || rule([masked(2, value(libc::PROT_EXEC), 0)]);
    let threads = value(libc::CLONE_THREAD | NAMESPACES);
    Ok(BTreeMap::from([
        (libc::SYS_clone, vec![rule([masked(0, threads, value(libc::CLONE_THREAD))])?]),
        (
            libc::SYS_fcntl,
            one_of(
                1,
                &[
                    libc::F_DUPFD_CLOEXEC,
                    libc::F_GETFD,
                    libc::F_GETFL,
                    libc::F_GETPIPE_SZ,
                    libc::F_SETFD,
                    libc::F_SETFL,
                    libc::F_SETPIPE_SZ,
                ],
            )?,
        ),
        (
            libc::SYS_ioctl,
            // C libraries have integers of their own for them.
            [libc::FIOCLEX as _, libc::FIONBIO as _, libc::FIONREAD as _, libc::TIOCOUTQ as _]
                .map(|request: u64| rule([condition(1, SeccompCmpOp::Eq, request)]))
                .into_iter()
                .collect::<Result<_, _>>()?,
        ),
        (libc::SYS_mmap, vec![not_executable()?]),
        (libc::SYS_mprotect, vec![not_executable()?]),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_open, vec![rule([masked(1, value(CHANGING), value(libc::O_RDONLY))])?]),
        // Reading only; `files` says which.
        (libc::SYS_openat, vec![rule([masked(2, value(CHANGING), value(libc::O_RDONLY))])?]),
        // The names of threads, and of memory; to die with the parent.
        (libc::SYS_prctl, one_of(0, &[libc::PR_SET_NAME, libc::PR_SET_PDEATHSIG, libc::PR_SET_VMA])?),
        // Its own limits, which are to be read.
        (libc::SYS_prlimit64, vec![rule([equal((0, 0)), condition(2, SeccompCmpOp::Eq, 0)])?]),
        (libc::SYS_setsockopt, one_of(1, &LEVELS)?),
        (libc::SYS_socket, sockets),
        // What a signal handler of ours tells the runtime by.
        (
            libc::SYS_socketpair,
            vec![rule([equal((0, libc::AF_UNIX)), masked(1, KIND, value(libc::SOCK_STREAM))])?],
        ),
        // How the C library aborts.
        (libc::SYS_tgkill, vec![rule([word(0, SeccompCmpOp::Eq, process.into())])?]),
    ]))
}

fn rule<const N: usize>(
    conditions: [Result<SeccompCondition, BackendError>; N],
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

/// The bits of an argument of the type int.
fn value(argument: i32) -> u64 {
    argument.cast_unsigned().into()
}

/// An int that is an argument, the first is 0. The kernel looks at 32 bits of it.
fn equal((argument, expected): (u8, i32)) -> Result<SeccompCondition, BackendError> {
    word(argument, SeccompCmpOp::Eq, value(expected))
}

fn masked(argument: u8, mask: u64, expected: u64) -> Result<SeccompCondition, BackendError> {
    word(argument, SeccompCmpOp::MaskedEq(mask), expected)
}

fn word(argument: u8, operation: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operation, value)
}

/// A whole word of the machine that is an argument.
fn condition(argument: u8, operation: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operation, value)
}

//! seccomp(2) as such. The crate that makes the filters sets none of the flags that we want.
#![allow(unsafe_code, reason = "see above; each block says why it is sound")]

use std::ffi::CStr;
use std::io;

use seccompiler::BpfProgram;

/// `struct sock_fprog` of `linux/filter.h`.
#[repr(C)]
struct Program {
    length: libc::c_ushort,
    instructions: *const seccompiler::sock_filter,
}

/// What the kernel log says of what a filter refuses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refusals {
    /// A line for each.
    Logged,
    /// Nothing: they are expected.
    Silent,
}

/// Whether the kernel has filters of system calls, and lets us ask.
pub(super) fn has_filters() -> io::Result<()> {
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the kernel reads 4 bytes from where it is told, which are there.
    let asked =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    if asked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel judge every later system call of the calling thread, and of threads that it starts, by `filter`. The thread
/// must have promised to gain no privileges. Before Linux 5.16 a filter takes the processor's speculative store bypass away
/// from who has it, which is for those that run a stranger's code: here it stays.
pub(super) fn install(filter: &BpfProgram, refusals: Refusals) -> io::Result<()> {
    let length = filter.len().try_into().map_err(|_too_long| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = Program { length, instructions: filter.as_ptr() };
    let flags = match refusals {
        Refusals::Logged => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW | libc::SECCOMP_FILTER_FLAG_LOG,
        Refusals::Silent => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    };
    // SAFETY: the kernel reads the structure, and as many instructions as it says that there are.
    let installed =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if installed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An attempt to make an eBPF map: an array with one number.
pub(super) fn make_map() -> io::Result<()> {
    const BPF_MAP_CREATE: libc::c_int = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    // Type, sizes of a key and of a value, and how many.
    let attributes: [u32; 4] = [BPF_MAP_TYPE_ARRAY, 4, 8, 1];
    // SAFETY: the kernel reads as many bytes from where it is told as it is told.
    done(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const attributes, size_of_val(&attributes))
    })
}

/// An attempt to execute the program at `path`, which must not be there, or this one is gone.
pub(super) fn execute(path: &CStr) -> io::Result<()> {
    let nothing = [std::ptr::null::<libc::c_char>()];
    // SAFETY: the path ends with a zero, and so do both lists.
    done(unsafe { libc::execve(path.as_ptr(), nothing.as_ptr(), nothing.as_ptr()) }.into())
}

/// An attempt to have memory that can be executed.
pub(super) fn map_code() -> io::Result<()> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a fresh mapping at an address of the kernel's choice, which nobody uses.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An attempt to trace the process with the id 0, which no process has.
pub(super) fn trace() -> io::Result<()> {
    // SAFETY: nothing in this process is read or written.
    done(unsafe { libc::ptrace(libc::PTRACE_SEIZE, 0, 0, 0) })
}

fn done(returned: libc::c_long) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

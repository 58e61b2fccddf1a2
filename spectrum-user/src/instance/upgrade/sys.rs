//! Descriptors that came with the process, by their numbers: no crate makes owners of them.
#![allow(unsafe_code, reason = "see above; the block says why it is sound")]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use rustix::io::fcntl_dupfd_cloexec;

/// A copy, closed on exec, of the descriptor with this number.
pub(super) fn copy(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: borrowed for the one call, which only reads what the number stands for, and says so where that is nothing.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    // Not among the standard streams.
    Ok(fcntl_dupfd_cloexec(borrowed, 3)?)
}

/// Owns the descriptor with this number, of which only the program knew that this process was before.
pub(super) fn own(number: RawFd) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd as _;
    // Where it is none that is found here.
    drop(copy(number)?);
    // SAFETY: it is open, as was just found, and came by exec: nobody in this program has taken it, since each number stands once in a
    // document of which there is one.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

//! The numbers of descriptors that another program is to find its sockets at, which no crate gives to owners. What is executed is not
//! decided here.
#![allow(unsafe_code, reason = "see above; each block says why it is sound")]

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::io::fcntl_dupfd_cloexec;

use super::FIRST;

/// Executes `command` in the place of this process, with `files` as its descriptors from the first on. Returns only where that fails: then nothing
/// else is to be done with this process than to end it.
pub(super) fn execute(command: &mut Command, files: &[OwnedFd]) -> io::Error {
    let numbers = FIRST..;
    let Some((behind, _)) = numbers.clone().zip(0..=files.len()).last() else {
        return io::ErrorKind::InvalidInput.into();
    };
    // Behind all numbers that are given, so that none is lost before it is copied.
    let copies = files.iter().map(|file| fcntl_dupfd_cloexec(file, behind)).collect::<Result<Vec<_>, _>>();
    let copies = match copies {
        Ok(copies) => copies,
        Err(errno) => return errno.into(),
    };
    for (copy, number) in copies.iter().zip(numbers) {
        // SAFETY: two numbers and no memory. What has the second one until now is used no more: this process becomes another program, which
        // is to find this there, or ends.
        if unsafe { libc::dup2(copy.as_raw_fd(), number) } < 0 {
            return io::Error::last_os_error();
        }
    }
    command.exec()
}

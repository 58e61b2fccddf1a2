//! The one promise that tokio asks of whoever has it wait for a descriptor. No crate gives it for a socket of ours.
#![allow(unsafe_code, reason = "see above; the block says why it is sound")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the running runtime say when `socket` can be read.
pub(super) fn readable(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd has one number for as long as it lives, and the AsyncFd, which owns it, never gives it away mutably.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(Into::into)
}

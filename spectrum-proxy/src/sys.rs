//! Raw calls of the proxy, of the system and of the C library, and what Rust cannot check of the runtime. No crate sets a
//! thread's time slice, or has the allocator give memory back.
#![allow(unsafe_code, reason = "see above; each block says why it is sound")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The calling thread, as a thread id.
const SELF: libc::c_long = 0;

/// Asks the scheduler to give the calling thread its CPU time in portions of `slice`, of which the kernel makes no less than
/// 0.1 ms and no more than 100 ms. Shorter portions come sooner: a thread that wakes up waits for less of what others have
/// begun. They are not more. For ordinary threads Linux 6.12 and later do so (`sched_runtime` of SCHED_OTHER, EEVDF); earlier
/// ones change nothing and say nothing. Threads of other policies are left alone. Needs no capability.
///
/// # Errors
/// What sched_getattr(2) or sched_setattr(2) said, if something like a system-call filter is in the way.
pub(super) fn ask_for_slice(slice: Duration) -> io::Result<()> {
    let size = u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(u32::MAX);
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel writes to `attributes` no more than the size it is told, which is that of the structure.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, SELF, &raw mut attributes, size, 0) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    if attributes.sched_policy != libc::SCHED_OTHER.cast_unsigned() {
        return Ok(());
    }
    attributes.size = size;
    attributes.sched_runtime = slice.as_nanos().try_into().unwrap_or(u64::MAX);
    // SAFETY: the kernel reads of `attributes` what its first field says, which is the size of the structure.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, SELF, &raw const attributes, 0) };
    if set != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the calling thread's runtime learn of what `interest` names.
pub(super) fn register(socket: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is the runtime's from now on, always the same one, and open until it is dropped with the runtime's
    // entry for it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// The account of a TCP socket of the bytes that it was given (`tcp_info` of `linux/tcp.h`, whose order is for ever; that
/// of the crate `libc` ends before most of these).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct TcpInfo {
    _state_and_sizes: [u32; 6],
    /// Segments that were sent and neither acknowledged nor given up.
    pub(super) unacked: u32,
    _losses: [u32; 4],
    /// The milliseconds since the last byte was sent. Window probes send none, retransmissions do.
    pub(super) last_data_sent: u32,
    _receipts: [u32; 2],
    /// The milliseconds since the last acknowledgement came, of whatever.
    pub(super) last_ack_recv: u32,
    _metrics: [u32; 11],
    _pacing: [u64; 2],
    /// The bytes acknowledged so far.
    pub(super) bytes_acked: u64,
    _traffic: [u64; 9],
    /// The bytes sent so far. Linux 4.19.
    pub(super) bytes_sent: u64,
}

/// The kernel's account of the connection of `socket`.
pub(super) fn tcp_info(socket: impl AsFd) -> io::Result<TcpInfo> {
    let mut info = TcpInfo::default();
    let mut length = libc::socklen_t::try_from(size_of::<TcpInfo>()).unwrap_or(0);
    let (descriptor, to) = (socket.as_fd().as_raw_fd(), (&raw mut info).cast());
    // SAFETY: the kernel writes to `info` no more than the length it is told, which is that of the structure, and any bytes
    // are a value of it.
    let got = unsafe { libc::getsockopt(descriptor, libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut length) };
    if got == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

/// The number of bytes given to `socket` that its peer has not acknowledged, a FIN among them; also after a reset.
pub(super) fn unacknowledged(socket: impl AsFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes an int to where it is told.
    let got = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if got == 0 { Ok(bytes.max(0).cast_unsigned()) } else { Err(io::Error::last_os_error()) }
}

/// Has the C library's allocator, which keeps what was freed for the next who asks, give the system all whole pages of it
/// back, of every thread's (malloc_trim(3)). A thread that allocates meanwhile may wait for it: about 3 ms for 40 MB.
pub fn give_memory_back() {
    // The allocator of musl, which a static build has, gives back by itself.
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks, and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0)
    };
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use super::*;

    /// The slice of the calling thread in nanoseconds, where the kernel tells.
    fn slice() -> Option<u64> {
        let sched = fs::read_to_string("/proc/thread-self/sched").ok()?;
        let line = sched.lines().find(|line| line.starts_with("se.slice"))?;
        line.rsplit(':').next()?.trim().parse().ok()
    }

    fn release() -> (u32, u32) {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }

    #[test]
    fn what_a_socket_tells_stands_where_it_is_looked_for() {
        assert_eq!(std::mem::offset_of!(TcpInfo, unacked), 24);
        assert_eq!(std::mem::offset_of!(TcpInfo, last_data_sent), 44);
        assert_eq!(std::mem::offset_of!(TcpInfo, last_ack_recv), 56);
        assert_eq!(std::mem::offset_of!(TcpInfo, bytes_acked), 120);
        assert_eq!(std::mem::offset_of!(TcpInfo, bytes_sent), 200);
    }

    #[test]
    fn a_thread_has_the_slice_it_asked_for_and_others_keep_theirs() {
        let before = slice();
        let asked = thread::spawn(|| {
            ask_for_slice(Duration::from_micros(100)).unwrap();
            slice()
        });
        let asked = asked.join().unwrap();
        assert_eq!(slice(), before);
        let Some(before) = before else {
            return println!("SKIP a_thread_has_the_slice_it_asked_for: needs a kernel that tells slices");
        };
        let expected = if release() >= (6, 12) { 100_000 } else { before };
        assert_eq!(asked, Some(expected));
    }
}

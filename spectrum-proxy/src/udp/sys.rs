//! Many datagrams by one system call, in and out: recvmmsg(2) and sendmmsg(2), which no crate of ours offers with a length of
//! segments beside each; how much a socket has dropped, and the MTU of a way. Both calls are made without the C library's
//! preparations for cancelling threads. Does not know what the datagrams are for.
#![allow(unsafe_code, reason = "see above; each block says why it is sound")]

use std::fmt;
use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::ptr::null_mut;

use rustix::net::SendFlags;
use socket2::SockAddr;

use super::control::{Control, Notes};
use super::train::{Letter, Train};
use crate::model::Family;

/// The datagrams, or trains of them, that one call takes at most.
pub(super) const BATCH: usize = 64;

/// Room for the longest train, which is the longest datagram, too.
const BUFFER: usize = 64 * 1024;

/// Where a worker's datagrams come in. Its memory is taken when the first one comes, and the pages of it that nothing was ever
/// written to are not there.
pub(super) struct Inbox {
    buffers: Vec<u8>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    /// The number of headers that the kernel has written to.
    used: usize,
    /// Trains that are parts of those that came.
    cuts: Vec<Cut>,
}

/// A train that is a part of another.
#[derive(Clone, Copy, Debug)]
struct Cut {
    of: usize,
    from: usize,
    length: usize,
    segment: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            buffers: Vec::new(),
            names: Vec::new(),
            controls: Vec::new(),
            parts: Vec::new(),
            headers: Vec::new(),
            used: 0,
            cuts: Vec::new(),
        }
    }

    /// Makes room for what comes next, where everything that came has been dealt with.
    pub(super) fn clear(&mut self) {
        self.prepare();
        self.used = 0;
        self.cuts.clear();
    }

    /// The number of trains that there is room for.
    pub(super) fn room(&self) -> usize {
        BATCH - self.used
    }

    /// Receives up to `most` trains from `socket`, as far as there is room, without waiting: which they are. Fewer than that means
    /// that nothing is left.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<Range<usize>> {
        let first = self.used;
        let Some(headers) = self.headers.get_mut(first..) else { return Ok(first..first) };
        let most = u32::try_from(most.min(headers.len())).unwrap_or(1);
        // SAFETY: the headers, as many as that at least, point to buffers of the lengths that they say, all of which belong to
        // `self`, which is borrowed for as long as the call takes.
        let received = unsafe {
            libc::syscall(
                libc::SYS_recvmmsg,
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                most,
                libc::MSG_DONTWAIT,
                null_mut::<libc::timespec>(),
            )
        };
        self.used += usize::try_from(received).map_err(|_negative| io::Error::last_os_error())?;
        Ok(first..self.used)
    }

    /// The train with this number of those that came last, or were cut out of them; `None` where there is none.
    pub(super) fn train(&self, index: usize) -> Option<Train<'_>> {
        let Some(cut) = index.checked_sub(BATCH) else { return self.received(index) };
        let Cut { of, from, length, segment } = *self.cuts.get(cut)?;
        let whole = self.received(of)?;
        Some(Train { payload: whole.payload.get(from..from + length)?, segment, ..whole })
    }

    /// Makes a train of `parts` of the train `index`, which are of one length but for the last, by moving them together: its number.
    /// What stood between them is lost.
    pub(super) fn cut(&mut self, index: usize, parts: &[Range<usize>]) -> Option<usize> {
        let buffer = self.buffers.get_mut(index * BUFFER..(index + 1) * BUFFER)?;
        let first = parts.first()?;
        let mut end = first.start;
        for part in parts {
            if part.start < end || part.end < part.start || part.end > buffer.len() {
                return None;
            }
            if part.start > end {
                buffer.copy_within(part.clone(), end);
            }
            end += part.len();
        }
        let (from, segment) = (first.start, first.len());
        self.cuts.push(Cut { of: index, from, length: end - from, segment });
        Some(BATCH + self.cuts.len() - 1)
    }

    fn received(&self, index: usize) -> Option<Train<'_>> {
        let header = self.headers.get(..self.used)?.get(index)?;
        let from = index * BUFFER;
        let payload = self.buffers.get(from..from + usize::try_from(header.msg_len).ok()?.min(BUFFER))?;
        let control = self.controls.get(index)?.as_bytes(header.msg_hdr.msg_controllen);
        let Notes { dialled, hops, class, segment } = Notes::parse(control);
        Some(Train {
            sender: self.names.get(index).and_then(address),
            dialled,
            hops,
            class,
            payload,
            segment: segment.filter(|segment| *segment > 0).unwrap_or(payload.len()),
            is_whole: header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0,
        })
    }

    /// Has every header say what it lends to the kernel.
    fn prepare(&mut self) {
        if self.headers.is_empty() {
            // SAFETY: an address without a family, and headers of nothing, are zeroes.
            let (name, header): (libc::sockaddr_storage, libc::mmsghdr) =
                unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
            self.buffers = vec![0; BATCH * BUFFER];
            self.names = vec![name; BATCH];
            self.controls = vec![Control::default(); BATCH];
            self.headers = vec![header; BATCH];
            let buffers = self.buffers.chunks_exact_mut(BUFFER);
            self.parts = buffers
                .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
                .collect();
            self.used = BATCH;
        }
        // None of the vectors grows any more, so what they point to stays where it is.
        let lent = self.names.iter_mut().zip(&mut self.controls).zip(&mut self.parts);
        for (header, ((name, control), part)) in self.headers.iter_mut().zip(lent).take(self.used) {
            name.ss_family = 0;
            let to = &mut header.msg_hdr;
            to.msg_name = (&raw mut *name).cast();
            to.msg_namelen = length_of::<libc::sockaddr_storage>();
            to.msg_iov = part;
            to.msg_iovlen = 1;
            to.msg_control = control.as_mut_bytes().as_mut_ptr().cast();
            to.msg_controllen = Control::SIZE as _;
            to.msg_flags = 0;
        }
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("used", &self.used).finish_non_exhaustive()
    }
}

/// Where a worker's datagrams go out: memory that is used again and again.
#[derive(Default)]
pub(super) struct Outbox {
    names: Vec<Option<SockAddr>>,
    controls: Vec<(Control, usize)>,
    parts: Vec<libc::iovec>,
    /// The number of parts of each letter.
    counts: Vec<usize>,
    headers: Vec<libc::mmsghdr>,
}

impl Outbox {
    /// Hands `letters` to `socket` without waiting: how many it took, and what was wrong with the next one.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        letters: &[Letter<'_>],
    ) -> (usize, Option<io::Error>) {
        if let [letter] = letters
            && letter.is_plain()
        {
            // By far the most to origins are such, and this is the shortest way for them.
            return match rustix::net::send(socket, letter.payload, SendFlags::DONTWAIT) {
                Ok(_) => (1, None),
                Err(error) => (0, Some(error.into())),
            };
        }
        let mut sent = 0;
        while let Some(rest) = letters.get(sent..).filter(|rest| !rest.is_empty()) {
            self.fill(rest);
            let count = u32::try_from(self.headers.len()).unwrap_or(u32::MAX);
            let headers = self.headers.as_mut_ptr();
            // SAFETY: the headers point to names, notes and parts in `self`, and to what `letters` borrows; all of them are there
            // until the call is over, and the kernel only reads them.
            let taken = unsafe {
                libc::syscall(libc::SYS_sendmmsg, socket.as_raw_fd(), headers, count, libc::MSG_DONTWAIT)
            };
            match usize::try_from(taken) {
                // An error of a later letter is told when it is the first.
                Ok(taken) if taken > 0 => sent += taken,
                _ => return (sent, Some(io::Error::last_os_error())),
            }
        }
        (sent, None)
    }

    fn fill(&mut self, letters: &[Letter<'_>]) {
        let Self { names, controls, parts, counts, headers } = self;
        names.clear();
        controls.clear();
        parts.clear();
        counts.clear();
        headers.clear();
        for letter in letters {
            let before = parts.len();
            letter.for_each_part(|part| {
                let part = libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
                parts.push(part);
            });
            counts.push(parts.len() - before);
            names.push(letter.to.map(SockAddr::from));
            let mut control = Control::default();
            let length = letter.write_notes(&mut control);
            controls.push((control, length));
        }
        // Only now, since the vectors may have moved while they grew.
        let mut first = 0;
        for ((name, (control, length)), count) in names.iter().zip(controls.iter_mut()).zip(counts.iter()) {
            // SAFETY: a header of nothing is zeroes.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            let to = &mut header.msg_hdr;
            if let Some(name) = name {
                to.msg_name = name.as_ptr().cast_mut().cast();
                to.msg_namelen = name.len();
            }
            to.msg_iov = parts.get_mut(first..).map_or(null_mut(), <[libc::iovec]>::as_mut_ptr);
            to.msg_iovlen = *count as _;
            if *length > 0 {
                to.msg_control = control.as_mut_bytes().as_mut_ptr().cast();
                to.msg_controllen = *length as _;
            }
            first += count;
            headers.push(header);
        }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let name = &raw const *name;
    // SAFETY: whatever its family, an address begins with it, and is as long as the longest.
    match i32::from(unsafe { (*name).ss_family }) {
        libc::AF_INET => {
            // SAFETY: the storage is aligned for every family's address, and the family says that it holds this one.
            let v4 = unsafe { *name.cast::<libc::sockaddr_in>() };
            let ip = u32::from_be(v4.sin_addr.s_addr).into();
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { *name.cast::<libc::sockaddr_in6>() };
            let (ip, port) = (v6.sin6_addr.s6_addr.into(), u16::from_be(v6.sin6_port));
            Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

/// The place among a socket's numbers of memory of how much it has dropped (`sk_meminfo`, include/uapi/linux/sock_diag.h).
const DROPS: usize = 8;

/// The number of datagrams, or trains of them, that came for `socket` and were dropped, most of all for want of room. Linux 4.12.
pub(super) fn drops(socket: &impl AsFd) -> io::Result<u32> {
    let mut numbers = [0_u32; DROPS + 1];
    let mut length = length_of::<[u32; DROPS + 1]>();
    let (fd, to) = (socket.as_fd().as_raw_fd(), numbers.as_mut_ptr().cast());
    // SAFETY: the kernel writes no more bytes than `length` says, which `numbers` has.
    let asked = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, to, &raw mut length) };
    if asked == 0 { Ok(numbers[DROPS]) } else { Err(io::Error::last_os_error()) }
}

/// The longest packet that gets from `socket`, which is connected, to its peer, as far as the kernel knows.
pub(super) fn mtu(socket: &impl AsFd, family: Family) -> io::Result<u16> {
    let (level, name) = match family {
        Family::Ipv4 => (libc::SOL_IP, libc::IP_MTU),
        Family::Ipv6 => (libc::SOL_IPV6, libc::IPV6_MTU),
    };
    let mut mtu: libc::c_int = 0;
    let mut length = length_of::<libc::c_int>();
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes as many bytes as `length` says, which `mtu` has.
    let asked = unsafe { libc::getsockopt(fd, level, name, (&raw mut mtu).cast(), &raw mut length) };
    if asked != 0 {
        return Err(io::Error::last_os_error());
    }
    // Of the loopback's 65,536 no packet has the last.
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

//! Batches of datagrams: many in a system call, each with an address of this host's own that it comes from or goes to, and
//! trains of them as one. No crate sends many with a source address each. Knows nothing of what is in them.
#![allow(unsafe_code, reason = "see above; each block says why it is sound")]

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::ptr;

/// Room for the control messages of a datagram: an address of this host's, and the length of a train's parts.
const CONTROL: usize = 96;

/// So many datagrams, or trains of them, that are received or sent together.
pub(crate) struct Batch {
    slots: Vec<Slot>,
    headers: Vec<libc::mmsghdr>,
    used: usize,
}

/// One of them. Boxed, since the headers point into it.
type Slot = Box<Place>;

#[repr(C)]
struct Place {
    control: Control,
    peer: libc::sockaddr_in,
    vector: libc::iovec,
    buffer: Vec<u8>,
}

#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// A datagram that came, or a train of them.
#[derive(Clone, Copy)]
pub(crate) struct Came<'batch> {
    /// The other end.
    pub(crate) peer: SocketAddrV4,
    /// The address of this host's that it was sent to.
    pub(crate) local: Ipv4Addr,
    /// The length of each part but perhaps the last.
    pub(crate) part: usize,
    pub(crate) bytes: &'batch [u8],
}

/// The way of a datagram.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    /// The address of this host's that it comes from; the kernel's choice if none.
    pub(crate) from: Option<Ipv4Addr>,
    pub(crate) to: SocketAddrV4,
}

impl Batch {
    /// Room for `count`, of `length` bytes each.
    pub(crate) fn new(count: usize, length: usize) -> Self {
        let slot = || {
            Box::new(Place {
                control: Control([0; CONTROL]),
                // SAFETY: a structure of integers, for which zeroes are a value.
                peer: unsafe { mem::zeroed() },
                vector: libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 },
                buffer: vec![0; length],
            })
        };
        // SAFETY: a structure of integers and pointers, for which zeroes are a value.
        let headers = vec![unsafe { mem::zeroed() }; count];
        Self { slots: (0..count).map(|_| slot()).collect(), headers, used: 0 }
    }

    /// True if there is room for no more.
    pub(crate) fn is_full(&self) -> bool {
        self.used == self.slots.len()
    }

    /// Takes in what waits at `socket`, if anything does. Its number.
    pub(crate) fn receive(&mut self, socket: &impl AsRawFd) -> usize {
        for (slot, header) in self.slots.iter_mut().zip(&mut self.headers) {
            slot.point(header, slot.buffer.len(), CONTROL);
        }
        let count = u32::try_from(self.headers.len()).unwrap();
        // SAFETY: every header points to a place's name, vector and control, with their lengths, which outlive the call.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        self.used = usize::try_from(got).unwrap_or_else(|_| {
            let error = io::Error::last_os_error();
            // Nothing, or an ICMP error that a datagram before has brought about.
            let passing =
                [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted, io::ErrorKind::ConnectionRefused];
            assert!(passing.contains(&error.kind()), "receive datagrams: {error}");
            0
        });
        self.used
    }

    /// What came, in its order.
    pub(crate) fn came(&self) -> impl Iterator<Item = Came<'_>> {
        self.slots.iter().zip(&self.headers).take(self.used).map(|(slot, header)| slot.came(header))
    }

    /// Adds one of `bytes` as `write` leaves them, in parts of that length if one is given. There must be room.
    pub(crate) fn add(&mut self, way: Way, bytes: usize, part: Option<usize>, write: impl FnOnce(&mut [u8])) {
        let slot = &mut self.slots[self.used];
        write(&mut slot.buffer[..bytes]);
        slot.peer = libc::sockaddr_in {
            sin_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap(),
            sin_port: way.to.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from(*way.to.ip()).to_be() },
            sin_zero: [0; 8],
        };
        let mut length = 0;
        if let Some(from) = way.from {
            let spec = libc::in_addr { s_addr: u32::from(from).to_be() };
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: spec,
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            length += slot.control.put(length, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        if let Some(part) = part {
            let part = u16::try_from(part).unwrap();
            length += slot.control.put(length, libc::SOL_UDP, libc::UDP_SEGMENT, part);
        }
        slot.point(&mut self.headers[self.used], bytes, length);
        self.used += 1;
    }

    /// Sends what was added. True unless the kernel had no room for some of it.
    pub(crate) fn send(&mut self, socket: &impl AsRawFd) -> bool {
        let mut sent = 0;
        let mut all = true;
        while sent < self.used {
            let rest = &mut self.headers[sent..self.used];
            let count = u32::try_from(rest.len()).unwrap();
            // SAFETY: every header points to a place's name, vector and control, with their lengths, which outlive the call.
            let got = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), count, 0) };
            if let Ok(got) = usize::try_from(got) {
                sent += got;
                continue;
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR | libc::ECONNREFUSED) => {}
                // It is as if it had been lost on the way.
                Some(libc::ENOBUFS | libc::EAGAIN) => (sent, all) = (sent + 1, false),
                _ => panic!("send datagrams: {error}"),
            }
        }
        self.used = 0;
        all
    }
}

impl Place {
    /// Has `header` describe this place.
    fn point(&mut self, header: &mut libc::mmsghdr, length: usize, control: usize) {
        self.vector = libc::iovec { iov_base: self.buffer.as_mut_ptr().cast(), iov_len: length };
        header.msg_hdr.msg_name = (&raw mut self.peer).cast();
        header.msg_hdr.msg_namelen = u32::try_from(size_of::<libc::sockaddr_in>()).unwrap();
        header.msg_hdr.msg_iov = &raw mut self.vector;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_control = self.control.0.as_mut_ptr().cast();
        header.msg_hdr.msg_controllen = control;
        header.msg_hdr.msg_flags = 0;
    }

    fn came(&self, header: &libc::mmsghdr) -> Came<'_> {
        let bytes = &self.buffer[..usize::try_from(header.msg_len).unwrap()];
        let mut came = Came {
            peer: SocketAddrV4::new(
                u32::from_be(self.peer.sin_addr.s_addr).into(),
                u16::from_be(self.peer.sin_port),
            ),
            local: Ipv4Addr::UNSPECIFIED,
            part: bytes.len().max(1),
            bytes,
        };
        // SAFETY: the header describes the control messages that the kernel has written to this place.
        let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const header.msg_hdr) };
        while !at.is_null() {
            // SAFETY: not null, and within the control messages, as the macros of the C library see to.
            let (level, kind, data) = unsafe { ((*at).cmsg_level, (*at).cmsg_type, libc::CMSG_DATA(at)) };
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    // SAFETY: the kernel has written such a structure there; it need not be aligned.
                    let info: libc::in_pktinfo = unsafe { ptr::read_unaligned(data.cast()) };
                    came.local = u32::from_be(info.ipi_addr.s_addr).into();
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    // SAFETY: the kernel has written a number of that size there; it need not be aligned.
                    let part: libc::c_int = unsafe { ptr::read_unaligned(data.cast()) };
                    came.part = usize::try_from(part).unwrap();
                }
                _ => {}
            }
            // SAFETY: both belong together, as above.
            at = unsafe { libc::CMSG_NXTHDR(&raw const header.msg_hdr, at) };
        }
        came
    }
}

impl Control {
    /// Writes a control message at `offset`. The room that it takes.
    fn put<T>(&mut self, offset: usize, level: libc::c_int, kind: libc::c_int, value: T) -> usize {
        let size = u32::try_from(size_of::<T>()).unwrap();
        // SAFETY: these two only compute.
        let (space, length) = unsafe { (libc::CMSG_SPACE(size), libc::CMSG_LEN(size)) };
        let (space, length) = (usize::try_from(space).unwrap(), usize::try_from(length).unwrap());
        let room = &mut self.0[offset..offset + space];
        let header = libc::cmsghdr { cmsg_len: length, cmsg_level: level, cmsg_type: kind };
        // SAFETY: the room is as long as the header, its padding and the value take together; neither need be aligned.
        unsafe {
            ptr::write_unaligned(room.as_mut_ptr().cast(), header);
            ptr::write_unaligned(room.as_mut_ptr().add(length - size_of::<T>()).cast(), value);
        }
        space
    }
}

/// Asks for the address that each datagram was sent to.
pub(crate) fn tell_destinations(socket: &impl AsRawFd) {
    set(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1);
}

/// Asks for trains as such.
pub(crate) fn take_trains(socket: &impl AsRawFd) {
    set(socket, libc::SOL_UDP, libc::UDP_GRO, 1);
}

/// Makes room for `bytes`, whatever the host allows others.
pub(crate) fn make_room(socket: &impl AsRawFd, bytes: libc::c_int) {
    set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes);
}

fn set(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) {
    let length = u32::try_from(size_of::<libc::c_int>()).unwrap();
    // SAFETY: the kernel reads a number of that length.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    assert_eq!(done, 0, "prepare a socket: {}", io::Error::last_os_error());
}

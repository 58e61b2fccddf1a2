//! What the kernel is asked for before datagrams come and go: what it is to tell of each, and how sockets are to be bound. Moves
//! no datagram.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{
    Ipv4OrigDstAddr, Ipv4RecvTtl, Ipv6OrigDstAddr, Ipv6RecvHopLimit, RcvBufForce, SndBufForce, UdpGroSegment,
};
use socket2::{Domain, SockFilter, SockRef, Socket, Type};

use crate::model::Family;

/// What is meant for many clients waits in one socket.
const SEND_BUFFER: usize = 4 << 20;

/// What one session's origin says while its worker is elsewhere: some 400 datagrams of 1,200 bytes, and of 64 more than 1,000. The
/// usual 208 KiB hold less than a hundred, 20 ms at 50 Mbit/s.
const SESSION_BUFFER: usize = 1 << 20;

/// The filter that takes nothing: `ret 0` (BPF_RET | BPF_K).
const NOTHING: [SockFilter; 1] = [SockFilter::new(0x06, 0, 0, 0)];

/// Has the kernel tell the dialled addresses of what `socket` receives, also of what it has received already.
pub(super) fn ask_for_dialled(socket: &impl AsFd, family: Family) -> io::Result<()> {
    match family {
        Family::Ipv4 => setsockopt(socket, Ipv4OrigDstAddr, &true)?,
        Family::Ipv6 => setsockopt(socket, Ipv6OrigDstAddr, &true)?,
    }
    Ok(())
}

/// Has the kernel tell the hop limits and traffic classes of what `socket` receives, and leave trains together where it can
/// (Linux 5.0).
pub(super) fn ask_for_circumstances(socket: &impl AsFd, family: Family) -> io::Result<()> {
    let options = SockRef::from(socket);
    match family {
        Family::Ipv4 => {
            setsockopt(socket, Ipv4RecvTtl, &true)?;
            options.set_recv_tos_v4(true)?;
        }
        Family::Ipv6 => {
            setsockopt(socket, Ipv6RecvHopLimit, &true)?;
            options.set_recv_tclass_v6(true)?;
        }
    }
    ask_for_trains(socket);
    Ok(())
}

/// The same for a socket whose peer may have sent them from afar: how far says nothing to anybody.
pub(super) fn ask_for_class(socket: &impl AsFd, family: Family) -> io::Result<()> {
    let options = SockRef::from(socket);
    match family {
        Family::Ipv4 => options.set_recv_tos_v4(true)?,
        Family::Ipv6 => options.set_recv_tclass_v6(true)?,
    }
    ask_for_trains(socket);
    Ok(())
}

fn ask_for_trains(socket: &impl AsFd) {
    if let Err(error) = setsockopt(socket, UdpGroSegment, &true) {
        tracing::debug!(%error, "ask for trains of datagrams");
    }
}

/// Has `socket` receive nothing.
pub(super) fn take_nothing(socket: &Socket) -> io::Result<()> {
    socket.attach_filter(&NOTHING)
}

/// Gives what `socket` sends more room than usual: as much as is wanted, or as net.core.wmem_max allows.
pub(super) fn widen(socket: &Socket) {
    if setsockopt(socket, SndBufForce, &SEND_BUFFER).is_err() {
        // What is too narrow loses datagrams, which are counted.
        let _ = socket.set_send_buffer_size(SEND_BUFFER);
    }
}

/// Gives what comes to a session's `socket` more room than usual, in the same way. None of it is taken before it is needed.
pub(super) fn make_room(socket: &Socket) {
    if setsockopt(socket, RcvBufForce, &SESSION_BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(SESSION_BUFFER);
    }
}

/// A socket that may be bound to `address` though no interface has it and others of ours are bound there. It receives nothing
/// yet.
pub(super) fn unbound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), None)?;
    take_nothing(&socket)?;
    // Not SO_REUSEPORT, for which all would have to be the same user's.
    socket.set_reuse_address(true)?;
    match Family::of(address.ip()) {
        Family::Ipv4 => socket.set_freebind_v4(true)?,
        Family::Ipv6 => {
            socket.set_only_v6(true)?;
            // For IPv6 a local route is not enough to bind.
            socket.set_freebind_v6(true)?;
        }
    }
    Ok(socket)
}

//! What the kernel tells of its own accord over netlink: sockets that hear some of its groups, and messages in pieces. Asks the
//! kernel for nothing, and knows no message's meaning.

mod attributes;
mod author;
mod sys;

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

pub(crate) use attributes::{attribute, number, text};
pub use author::Author;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket,
};
use tokio::io::unix::AsyncFd;

/// So many bytes may wait to be read. A transaction of nft's tells of each of its elements.
const WAITING: usize = 4 << 20;

/// The kernel puts no more into one message to many.
const LONGEST: usize = 64 << 10;

/// So many messages are read before others have their turn.
const BATCH: usize = 64;

/// A message's header: length, kind, flags, sequence number and port.
const HEADER: usize = 16;

/// A socket that hears groups of one protocol.
#[derive(Debug)]
pub(crate) struct Groups {
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
}

/// A part of what was heard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct NetlinkMessage<'a> {
    /// The kind of news; the numbers are the protocol's.
    pub(crate) kind: u16,
    /// More of the news.
    pub(crate) flags: u16,
    /// The netlink port of who asked for what it tells: a process id most of the time, 0 for the kernel itself.
    pub(crate) port: u32,
    /// The rest, behind the header.
    pub(crate) body: &'a [u8],
}

/// The part of it that was heard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum NoticeReception {
    /// As far as it has been told.
    Whole,
    /// Some was lost, since it was more than may wait.
    Lost,
}

impl Groups {
    /// Begins to hear `groups`, a bit for each, in the network namespace of the calling thread and on the running runtime.
    pub(crate) fn hear(protocol: SockProtocol, groups: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        if setsockopt(&socket, RcvBufForce, &WAITING).is_err() {
            // Without CAP_NET_ADMIN on the host as much as net.core.rmem_max allows.
            setsockopt(&socket, RcvBuf, &WAITING)?;
        }
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self { socket: sys::readable(socket)?, buffer: vec![0; LONGEST] })
    }

    /// Waits until something is told, and has `judge` judge each message of it. Dropped while it waits, it loses nothing.
    pub(crate) async fn next(
        &mut self,
        mut judge: impl FnMut(NetlinkMessage<'_>),
    ) -> io::Result<NoticeReception> {
        let mut ready = self.socket.readable().await?;
        let mut hearing = NoticeReception::Whole;
        for _ in 0..BATCH {
            match recvfrom::<NetlinkAddr>(ready.get_inner().as_raw_fd(), &mut self.buffer) {
                Ok((length, from)) => {
                    // Processes may send to each other, too.
                    if from.is_some_and(|from| from.pid() == 0) {
                        messages(self.buffer.get(..length).unwrap_or_default()).for_each(&mut judge);
                    }
                }
                Err(Errno::ENOBUFS) => hearing = NoticeReception::Lost,
                Err(Errno::EAGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(hearing)
    }
}

/// The messages that came as one.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkMessage<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, _, _, _, _, p0, p1, p2, p3] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(NetlinkMessage {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            port: u32::from_ne_bytes([p0, p1, p2, p3]),
            body,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, port: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 6]);
        bytes.extend(port.to_ne_bytes());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn messages_that_came_as_one_are_told_apart() {
        let bytes = [message(25, 4711, b"abcde"), message(24, 0, b"")].concat();
        let heard: Vec<_> =
            messages(&bytes).map(|message| (message.kind, message.port, message.body)).collect();
        assert_eq!(heard, [(25, 4711, &b"abcde"[..]), (24, 0, &[])]);
    }

    #[test]
    fn what_is_cut_short_is_no_message() {
        let whole = message(25, 4711, b"abcdefgh");
        for length in 0..whole.len() {
            assert_eq!(messages(&whole[..length]).count(), 0, "{length}");
        }
        // A length that leaves no room for its own header would never end.
        let mut wrong = whole;
        wrong[..4].copy_from_slice(&3_u32.to_ne_bytes());
        assert_eq!(messages(&wrong).count(), 0);
    }
}

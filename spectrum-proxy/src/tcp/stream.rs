//! A TCP connection as the runtime sees it, with urgent bytes in their place among the others. Decides nothing about what is
//! read or written.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, SocketFlags, acceptfrom_with, recv, send};
use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};

use crate::sys;

/// A connection, or one in the making.
///
/// `tokio`'s own type does not have the kernel tell of urgent bytes. A receipt ends before one even where more lies behind
/// it, so one that is short of what was asked for means that nothing is left only while there is none.
#[derive(Debug)]
pub(crate) struct Stream(AsyncFd<OwnedFd>);

/// The first thing that has come from a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FirstSign {
    Bytes,
    Fin,
    Nothing,
}

/// Has urgent bytes of `socket`, or of all that a listener accepts, arrive in their place: the kernel keeps them out of the
/// stream otherwise, and whoever just reads never sees them.
pub(crate) fn keep_urgent_bytes(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket).set_out_of_band_inline(true)
}

/// Takes a connection from `listener`'s queue. Neither of them waits for anything.
pub(crate) fn accept(listener: &OwnedFd) -> io::Result<(Stream, SocketAddr)> {
    let (socket, client) = acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let client = client
        .and_then(|client| SocketAddr::try_from(client).ok())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTCONN))?;
    Ok((Stream::new(socket)?, client))
}

impl Stream {
    /// `socket` must not block.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        Ok(Self(sys::register(socket, interest)?))
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = SockRef::from(self).local_addr()?;
        address.as_socket().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
    }

    pub(crate) fn take_error(&self) -> io::Result<Option<io::Error>> {
        SockRef::from(self).take_error()
    }

    /// Has it reset when it is closed.
    pub(crate) fn set_zero_linger(&self) -> io::Result<()> {
        SockRef::from(self).set_linger(Some(Duration::ZERO))
    }

    /// Sends a FIN.
    pub(crate) fn shut_down(&self) -> io::Result<()> {
        SockRef::from(self).shutdown(Shutdown::Write)
    }

    /// Waits for any of what `interest` names.
    pub(crate) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        Ok(self.0.ready(interest).await?.ready())
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx).map_ok(drop)
    }

    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_write_ready(cx).map_ok(drop)
    }

    /// Tries `operation` where the kernel has not said that it would block. What would is not tried again before the kernel
    /// says otherwise.
    pub(crate) fn try_io<R>(
        &self,
        interest: Interest,
        operation: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        self.0.try_io(interest, |_| operation())
    }

    /// True if an urgent byte may lie in the queue, so that what ends there need not be all. A stream that is at its end may
    /// have one, too.
    pub(crate) fn may_hold_urgent_byte(&self) -> bool {
        self.try_io(Interest::PRIORITY, || Ok(())).is_ok()
    }

    /// Receives once, without the C library, whose every call that may block also prepares for its thread being cancelled: a
    /// fiftieth of what passing on a small message costs. A receipt that does not fill the buffer has drained the socket,
    /// unless there is an urgent byte, which is told to the runtime: asking again then costs a system call only where a FIN
    /// or a reset has been seen.
    pub(crate) fn poll_recv(&self, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            let mut drained = None;
            let received = self.try_io(Interest::READABLE, || {
                let bytes = self.receive(buffer)?;
                if bytes > 0 && bytes < buffer.len() && !self.may_hold_urgent_byte() {
                    drained = Some(bytes);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(bytes)
            });
            match (received, drained) {
                (Err(_), Some(bytes)) => return Poll::Ready(Ok(bytes)),
                (Err(error), None) if is_transient(&error) => {}
                (received, _) => return Poll::Ready(received),
            }
        }
    }

    /// Receives what is there. To be called within [`Stream::try_io`].
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let received = recv(self, &mut *buffer, RecvFlags::DONTWAIT);
        if received == Err(rustix::io::Errno::WOULDBLOCK) {
            // Nothing is left, and so no urgent byte. The next one is told of anew.
            let _ = self.try_io(Interest::PRIORITY, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
        Ok(received?.0)
    }

    /// Sends once. What does not take everything is full, which is told to the runtime likewise.
    pub(crate) fn poll_send(
        &self,
        bytes: &[u8],
        flags: SendFlags,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_write_ready(cx))?;
            let mut full = None;
            let sent = self.try_io(Interest::WRITABLE, || {
                let sent = send(self, bytes, flags | SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
                if sent > 0 && sent < bytes.len() {
                    full = Some(sent);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(sent)
            });
            match (sent, full) {
                (Err(_), Some(sent)) => return Poll::Ready(Ok(sent)),
                (Err(error), None) if is_transient(&error) => {}
                (sent, _) => return Poll::Ready(sent),
            }
        }
    }

    /// Looks at what has come, without taking it; 0 at the end. Waits where there is nothing.
    pub(crate) async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0
            .async_io(Interest::READABLE, |_| {
                Ok(recv(self, &mut *buffer, RecvFlags::DONTWAIT | RecvFlags::PEEK)?.0)
            })
            .await
    }

    /// Looks at what has come, if anything, without taking it.
    pub(crate) fn look(&self) -> io::Result<FirstSign> {
        let mut byte = [0];
        loop {
            match recv(self, &mut byte, RecvFlags::DONTWAIT | RecvFlags::PEEK) {
                Ok((0, _)) => return Ok(FirstSign::Fin),
                Ok(_) => return Ok(FirstSign::Bytes),
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(FirstSign::Nothing),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for something to come, without taking it.
    pub(crate) async fn first(&self) -> io::Result<FirstSign> {
        let mut byte = [0];
        Ok(if self.peek(&mut byte).await? == 0 { FirstSign::Fin } else { FirstSign::Bytes })
    }

    /// Fills `buffer`.
    pub(crate) async fn read_exact(&self, buffer: &mut [u8]) -> io::Result<()> {
        let mut rest = buffer;
        while !rest.is_empty() {
            let bytes = std::future::poll_fn(|cx| self.poll_recv(rest, cx)).await?;
            if bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            rest = rest.get_mut(bytes..).unwrap_or_default();
        }
        Ok(())
    }

    /// True if there may be something to receive, as far as the kernel has told.
    pub(crate) fn may_hold_bytes(&self) -> bool {
        self.try_io(Interest::READABLE, || Ok(())).is_ok()
    }

    /// Writes all of `bytes`.
    pub(crate) async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.write_all_with(bytes, SendFlags::empty()).await
    }

    /// Writes all of `bytes`, each time with `flags`.
    pub(crate) async fn write_all_with(&self, mut bytes: &[u8], flags: SendFlags) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = std::future::poll_fn(|cx| self.poll_send(bytes, flags, cx)).await?;
            if sent == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        keep_urgent_bytes(&listener).unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        far.set_nodelay(true).unwrap();
        (far, accept(&listener.into()).unwrap().0)
    }

    #[tokio::test]
    async fn what_lies_behind_an_urgent_byte_is_received_without_another_event() {
        let (mut far, near) = pair();
        far.write_all(b"before").unwrap();
        SockRef::from(&far).send_out_of_band(b"!").unwrap();
        far.write_all(b"behind").unwrap();
        let mut received = Vec::new();
        while received.len() < 13 {
            let mut buffer = [0; 100];
            let receiving = poll_fn(|cx| near.poll_recv(&mut buffer, cx));
            let bytes = tokio::time::timeout(Duration::from_secs(5), receiving).await.unwrap().unwrap();
            received.extend_from_slice(&buffer[..bytes]);
        }
        assert_eq!(received, b"before!behind");
        // That is all, and once that was seen nobody asks in vain again.
        let mut buffer = [0; 100];
        let nothing = poll_fn(|cx| Poll::Ready(near.poll_recv(&mut buffer, cx).is_pending())).await;
        assert!(nothing && !near.may_hold_urgent_byte());
    }

    #[tokio::test]
    async fn a_short_receipt_drains_where_there_is_no_urgent_byte() {
        let (mut far, near) = pair();
        far.write_all(b"all").unwrap();
        let mut buffer = [0; 100];
        assert_eq!(poll_fn(|cx| near.poll_recv(&mut buffer, cx)).await.unwrap(), 3);
        assert!(near.try_io(Interest::READABLE, || Ok(())).is_err(), "the kernel would be asked again");
    }

    #[tokio::test]
    async fn accepted_streams_know_what_was_dialled_and_by_whom() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                println!("SKIP accepted_streams_know_what_was_dialled_and_by_whom: needs IPv6");
                continue;
            };
            let dialled = listener.local_addr().unwrap();
            let far = TcpStream::connect(dialled).unwrap();
            let (near, client) = accept(&listener.into()).unwrap();
            assert_eq!((near.local_addr().unwrap(), client), (dialled, far.local_addr().unwrap()));
        }
    }
}

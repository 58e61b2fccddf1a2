//! One UDP session: its account, and the voice that answers from the address and port that was dialled. Does not know of
//! other sessions; when it is over, others decide.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::Instant;

use super::answer::{Answer, hops_of_answer};
use super::datagram::{self, Envelope};
use super::raw::RawSender;
use crate::model::Family;
use crate::report::{End, Side};
use crate::session::Session;

/// The number of datagrams that a session handles before others have their turn.
const TURN: usize = 32;

/// A client and what it dialled, for as long as datagrams come.
pub(super) struct UdpSession {
    account: Session,
    answer: Answer,
    voice: Voice,
    used: Cell<Instant>,
    reading: RefCell<Option<AbortHandle>>,
}

/// The socket that a session answers with.
pub(super) enum Voice {
    /// A socket of its own, which the session's datagrams come to as well.
    Connected(Connected),
    /// Whatever address and port the answer is to have. Its datagrams keep coming to the listener.
    Raw(Rc<RawSender>),
    /// Nothing. Its datagrams keep coming to the listener, and no descriptor is spent on it.
    Silent,
}

/// A socket bound to the dialled address and port, and connected to the client.
pub(super) struct Connected {
    socket: UdpSocket,
    /// The hop limit that answers are sent with.
    hops: Cell<u8>,
}

impl Connected {
    /// `transparent` as the listener is: TPROXY drops what finds a socket that is not.
    pub(super) fn open(dialled: SocketAddr, client: SocketAddr, transparent: bool) -> io::Result<Self> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(dialled), kind, None)?;
        let family = Family::of(dialled.ip());
        // One address and port, many clients. Not SO_REUSEPORT: until it is connected, the socket would be given a share
        // of what others in its group receive.
        socket.set_reuse_address(true)?;
        match family {
            Family::Ipv4 if transparent => socket.set_ip_transparent_v4(true)?,
            Family::Ipv4 => socket.set_freebind_v4(true)?,
            Family::Ipv6 => {
                socket.set_only_v6(true)?;
                // No interface has the address: for IPv6 a local route is not enough to bind.
                if transparent {
                    socket.set_ip_transparent_v6(true)?;
                } else {
                    socket.set_freebind_v6(true)?;
                }
            }
        }
        datagram::ask_for_hops(&socket, family)?;
        // Between the two calls others' datagrams are steered to the listener as before. But a lookup may find the socket
        // in between, walk a long chain, and then take it for connected to the right client: hence the strays.
        socket.bind(&dialled.into())?;
        socket.connect(&client.into())?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, hops: Cell::new(0) })
    }

    fn send(&self, family: Family, hops: u8, payload: &[u8]) -> io::Result<()> {
        // Not by the runtime: it would not try before it has heard of the socket.
        let socket = SockRef::from(&self.socket);
        if self.hops.get() != hops {
            match family {
                Family::Ipv4 => socket.set_ttl_v4(hops.into())?,
                Family::Ipv6 => socket.set_unicast_hops_v6(hops.into())?,
            }
            self.hops.set(hops);
        }
        match socket.send(payload) {
            // That is about an earlier answer, and this one was not sent.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => socket.send(payload)?,
            sent => sent?,
        };
        Ok(())
    }
}

impl UdpSession {
    pub(super) fn new(account: Session, answer: Answer, voice: Voice) -> Self {
        Self { account, answer, voice, used: Cell::new(Instant::now()), reading: RefCell::new(None) }
    }

    /// The time at which the last datagram came.
    pub(super) fn used(&self) -> Instant {
        self.used.get()
    }

    /// True if datagrams come to a socket of its own.
    pub(super) fn is_connected(&self) -> bool {
        matches!(self.voice, Voice::Connected(_))
    }

    /// Remembers who reads its socket, to be stopped with it.
    pub(super) fn read_by(&self, reader: AbortHandle) {
        self.reading.replace(Some(reader));
    }

    /// Counts and answers a datagram of the client's.
    pub(super) fn take(&self, hops: u8, payload: &[u8]) {
        let Session { client, from_client, to_client, .. } = &self.account;
        let dialled = self.account.dialled.get();
        self.used.set(Instant::now());
        from_client.add(payload.len());
        if self.answer == Answer::Discard {
            return;
        }
        let Some(hops) = hops_of_answer(hops) else {
            tracing::debug!(client = %client.get(), %dialled, "a datagram without hops left is not answered");
            return;
        };
        let sent = match &self.voice {
            Voice::Connected(connected) => connected.send(Family::of(dialled.ip()), hops, payload),
            Voice::Raw(raw) => raw.send(dialled, client.get(), hops, payload),
            Voice::Silent => return,
        };
        match sent {
            Ok(()) => to_client.add(payload.len()),
            Err(error) => tracing::debug!(client = %client.get(), %dialled, %error, "answer datagram"),
        }
    }

    /// Takes what comes to its own socket until that fails. Gives away what is from somebody else.
    pub(super) async fn read(&self, stray: impl Fn(Envelope, &[u8])) -> End {
        let Voice::Connected(Connected { socket, .. }) = &self.voice else { return End::Closed };
        loop {
            let ready = socket.readable().await;
            let taken = ready.and_then(|()| {
                self.take_some(&stray, |buffer| {
                    socket.try_io(Interest::READABLE, || datagram::receive(socket, buffer))
                })
            });
            match taken {
                Ok(()) => yield_now().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return end_of(&error),
            }
        }
    }

    /// Has whoever reads its socket stop, and let go of it when it is their turn.
    pub(super) fn stop_reading(&self) {
        if let Some(reader) = self.reading.take() {
            reader.abort();
        }
    }

    /// Ends it, after taking what had come: dropping the last reference reports it.
    pub(super) fn end(&self, end: End) {
        self.stop_reading();
        if let Voice::Connected(Connected { socket, .. }) = &self.voice {
            // Nothing more to take is how it ends.
            let _ = self.take_some(&|_, _| {}, |buffer| datagram::receive(socket, buffer));
        }
        self.account.ends_as(end);
    }

    fn take_some(
        &self,
        stray: &impl Fn(Envelope, &[u8]),
        receive: impl Fn(&mut [u8]) -> io::Result<Envelope>,
    ) -> io::Result<()> {
        let buffers = &self.account.worker().buffers;
        for _ in 0..TURN {
            buffers.lend(|buffer| {
                match receive(buffer) {
                    Ok(envelope) => {
                        let payload = buffer.get(..envelope.length).unwrap_or_default();
                        if envelope.client == self.account.client.get() {
                            self.take(envelope.hops, payload);
                        } else {
                            let dialled = Some(self.account.dialled.get());
                            stray(Envelope { dialled, ..envelope }, payload);
                        }
                    }
                    Err(error) if is_passing(&error) => {}
                    Err(error) => return Err(error),
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// True if an error is about one datagram, perhaps one that was sent, and not the end.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINTR | libc::EMSGSIZE | libc::ENOBUFS | libc::ENOMEM | libc::EPROTO)
    )
}

fn end_of(error: &io::Error) -> End {
    match error.kind() {
        // Nobody has the client's port open any more: the nearest that UDP has to a reset.
        io::ErrorKind::ConnectionRefused => End::Reset(Side::Downstream),
        _ => End::of(Side::Downstream, error),
    }
}

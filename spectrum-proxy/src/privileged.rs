//! Sockets that take a capability to be made: answers from what clients have dialled, and connections for clients. Who lacks the
//! capability may ask somebody who has it. Decides for nobody whether they may have one.

use std::cell::OnceCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::model::{Family, Protocol};
use crate::udp;

/// A socket that takes a capability to be made, on one host or another.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum PrivilegedSocket {
    /// Speaks for `client`: transparent (`CAP_NET_RAW` or `CAP_NET_ADMIN`), and bound to that address and port
    /// (`CAP_NET_BIND_SERVICE` below 1024).
    Client {
        /// The protocol of the connection.
        protocol: Protocol,
        /// The address and port, where 0 is any.
        client: SocketAddr,
    },
    /// Sends messages of ICMP from any address (`CAP_NET_RAW`).
    Icmp(Family),
    /// Hears one client, and answers it, when nothing is steered any more (`CAP_NET_BIND_SERVICE` below 1024).
    Parted {
        /// The address and port that the client has dialled.
        dialled: SocketAddr,
        /// The client.
        client: SocketAddr,
        /// True if what steered to it asked for a transparent socket (`CAP_NET_RAW`).
        transparent: bool,
    },
    /// Sends datagrams from any address and port (`CAP_NET_RAW`).
    Raw(Family),
    /// Answers datagrams from what clients have dialled (`CAP_NET_BIND_SERVICE` below 1024).
    Voice(SocketAddr),
}

/// Whoever waits for a socket, and is called with it once, or dropped where none will come.
pub type SocketTaker = Box<dyn FnOnce(io::Result<OwnedFd>) + Send>;

/// Somebody who makes such sockets for this process.
type Maker = dyn Fn(PrivilegedSocket, SocketTaker) + Send + Sync;

/// The one who does, for all threads.
static MAKER: OnceLock<Box<Maker>> = OnceLock::new();

/// The time that a worker, and all that it serves, waits for a socket.
const PATIENCE: Duration = Duration::from_secs(1);

/// The time for one that nobody else waits for.
const LONG_PATIENCE: Duration = Duration::from_secs(10);

/// Whoever makes them has not answered in time: until when no worker waits for them.
static SILENT_UNTIL: Mutex<Option<Instant>> = Mutex::new(None);

/// The time until a worker waits again for somebody who has not answered.
const SILENCE: Duration = Duration::from_secs(10);

impl PrivilegedSocket {
    /// Has `make` asked, from now on and by any thread of this process, for sockets that this process is not permitted to make. It
    /// must not block. Only the first call has an effect.
    pub fn ask(make: impl Fn(Self, SocketTaker) + Send + Sync + 'static) {
        let _is_first = MAKER.set(Box::new(make));
    }

    /// True if others make such sockets for this process.
    pub(crate) fn is_asked_for() -> bool {
        MAKER.get().is_some()
    }

    /// Makes it.
    ///
    /// # Errors
    /// The system's: `PermissionDenied` without the capability.
    pub fn open(self) -> io::Result<OwnedFd> {
        match self {
            Self::Client { protocol, client } => for_client(protocol, client),
            Self::Icmp(family) => udp::icmp_socket(family),
            Self::Parted { dialled, client, transparent } => udp::parted_socket(dialled, client, transparent),
            Self::Raw(family) => udp::raw_socket(family),
            Self::Voice(dialled) => udp::voice_socket(dialled),
        }
    }

    /// Makes it, or has it made by whoever may, while this thread waits: for a moment, and not at all for somebody who has just let
    /// another one wait in vain.
    ///
    /// # Errors
    /// The system's; `WouldBlock` ([`is_passing`](Self::is_passing)) where none has come in time.
    pub(crate) fn make(self) -> io::Result<OwnedFd> {
        self.open_or(|make| {
            if silent_until().is_some_and(|until| Instant::now() < until) {
                return Err(late());
            }
            let (tell, answer) = sync_channel(1);
            make(self, taker_of(move |socket| drop(tell.try_send(socket))));
            answer.recv_timeout(PATIENCE).unwrap_or_else(|_error| {
                *silent_until() = Some(Instant::now() + SILENCE);
                Err(late())
            })
        })
    }

    /// The same while others have their turn, for which there is more time.
    ///
    /// # Errors
    /// As for [`make`](Self::make).
    pub(crate) async fn make_meanwhile(self) -> io::Result<OwnedFd> {
        let mut asked = None;
        let opened = self.open_or(|make| {
            let (tell, answer) = oneshot::channel();
            make(self, taker_of(move |socket| drop(tell.send(socket))));
            asked = Some(answer);
            Err(late())
        });
        match asked {
            Some(answer) => timeout(LONG_PATIENCE, answer).await.ok().and_then(Result::ok).unwrap_or(opened),
            None => opened,
        }
    }

    /// The one of `place`, which `open` makes when it is first asked for. One that nobody has made in time is asked for again; of any other
    /// error `complain` hears, and there is none from then on.
    pub(crate) fn once<T>(
        place: &OnceCell<Option<T>>,
        open: impl FnOnce() -> io::Result<T>,
        complain: impl FnOnce(&io::Error),
    ) -> Option<&T> {
        if let Some(known) = place.get() {
            return known.as_ref();
        }
        let opened = match open() {
            Err(error) if Self::is_passing(&error) => return None,
            opened => opened.inspect_err(complain).ok(),
        };
        place.get_or_init(|| opened).as_ref()
    }

    /// True if `error` says only that nobody has made it in time.
    pub(crate) fn is_passing(error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::WouldBlock
    }

    /// Makes it, or has `ask` do so if that takes somebody else.
    fn open_or(self, ask: impl FnOnce(&Maker) -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
        match (self.open(), MAKER.get()) {
            (Err(error), Some(make)) if error.kind() == io::ErrorKind::PermissionDenied => ask(make),
            (outcome, _) => outcome,
        }
    }
}

/// A taker that also notes that somebody has answered.
fn taker_of(take: impl FnOnce(io::Result<OwnedFd>) + Send + 'static) -> SocketTaker {
    Box::new(move |socket| {
        silent_until().take();
        take(socket);
    })
}

fn silent_until() -> MutexGuard<'static, Option<Instant>> {
    SILENT_UNTIL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What we lack ourselves, in a way that says nothing of who was to be reached.
fn late() -> io::Error {
    io::Error::from_raw_os_error(libc::EAGAIN)
}

impl fmt::Display for PrivilegedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client { protocol, client } => write!(f, "a {protocol} socket that speaks for {client}"),
            Self::Icmp(family) => write!(f, "a socket for ICMP over {family}"),
            Self::Parted { dialled, client, .. } => {
                write!(f, "a socket for {client}, which has dialled {dialled}")
            }
            Self::Raw(family) => write!(f, "a raw socket for UDP over {family}"),
            Self::Voice(dialled) => write!(f, "a socket that answers from {dialled}"),
        }
    }
}

fn for_client(protocol: Protocol, client: SocketAddr) -> io::Result<OwnedFd> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(client), kind.nonblocking().cloexec(), None)?;
    if client.is_ipv4() {
        socket.set_ip_transparent_v4(true)?;
    } else {
        socket.set_ip_transparent_v6(true)?;
    }
    if protocol == Protocol::Tcp {
        // Many connections from one address and port, each to another origin.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&client.into())?;
    Ok(socket.into())
}

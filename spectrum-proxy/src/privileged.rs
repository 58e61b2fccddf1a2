//! Sockets that take a capability to be made: answers from what clients have dialled, and connections for clients. Who lacks the
//! capability may ask somebody who has it. Decides for nobody whether they may have one.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

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

/// Somebody who makes such sockets for this process.
type Maker = dyn Fn(PrivilegedSocket) -> io::Result<OwnedFd> + Send + Sync;

/// The one who does, for all threads.
static MAKER: OnceLock<Box<Maker>> = OnceLock::new();

impl PrivilegedSocket {
    /// Has `make` asked, from now on and by any thread of this process, for sockets that this process is not permitted to make. It
    /// blocks a worker, so it must not take long. Only the first call has an effect.
    pub fn ask(make: impl Fn(Self) -> io::Result<OwnedFd> + Send + Sync + 'static) {
        let _is_first = MAKER.set(Box::new(make));
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

    /// Makes it, or has it made by whoever may.
    pub(crate) fn make(self) -> io::Result<OwnedFd> {
        match (self.open(), MAKER.get()) {
            (Err(error), Some(make)) if error.kind() == io::ErrorKind::PermissionDenied => make(self),
            (outcome, _) => outcome,
        }
    }
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

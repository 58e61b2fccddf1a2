//! The address that an origin is dialled from: one of this host, or the client's own. Chooses no origin.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::io::Interest;

use crate::model::{DialSource, Protocol};
use crate::privileged::PrivilegedSocket;
use crate::tcp::stream::{Stream, keep_urgent_bytes};

/// Connects to `origin`, which must be one that [`reaches`] allows, from where `source` says, on behalf of `client`.
///
/// Where another connection of the client's with this origin has the same ports, which is possible because it may dial
/// several addresses of ours from one port, the client's address is kept and the kernel chooses the port. So it does where
/// the client's port is one below 1024 and we lack `CAP_NET_BIND_SERVICE`.
pub(crate) async fn connect(
    origin: SocketAddr,
    source: DialSource,
    client: SocketAddr,
) -> io::Result<Stream> {
    let Some(from) = spoken_for(source, client) else { return connect_from_host(origin).await };
    match dial(origin, from).await {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EACCES | libc::EADDRINUSE | libc::EADDRNOTAVAIL)
            ) =>
        {
            tracing::debug!(%client, %origin, %error, "dial from the client's port; taking another one");
            dial(origin, SocketAddr::new(from.ip(), 0)).await
        }
        dialled => dialled,
    }
}

/// Connects to `origin` from an address of this host, on its own behalf.
pub(crate) async fn connect_from_host(origin: SocketAddr) -> io::Result<Stream> {
    connected(socket(origin)?, origin).await
}

/// True if `origin` can be dialled from where `source` says on behalf of `client`.
pub(crate) fn reaches(origin: SocketAddr, source: DialSource, client: SocketAddr) -> bool {
    spoken_for(source, client).is_none_or(|from| from.is_ipv4() == origin.is_ipv4())
}

/// The error of an origin that [`reaches`] refuses.
pub(crate) fn other_family() -> io::Error {
    io::Error::from_raw_os_error(libc::EAFNOSUPPORT)
}

/// The address of `client`, where origins are to see it and could answer to it.
pub(crate) fn spoken_for(source: DialSource, client: SocketAddr) -> Option<SocketAddr> {
    match source {
        DialSource::Client if is_known_elsewhere(client.ip()) => Some(client),
        DialSource::Client | DialSource::Host => None,
    }
}

/// True if an origin could answer to `address`. A client on this host has a loopback address, since that is what local
/// routes prefer, and one on the link may have an address of the link. A proxy that is trusted may name any, also such as
/// are nobody's.
fn is_known_elsewhere(address: IpAddr) -> bool {
    let is_nobodys = address.is_unspecified() || address.is_multicast() || address.is_loopback();
    !is_nobodys
        && match address {
            IpAddr::V4(address) => !address.is_broadcast() && !address.is_link_local(),
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        }
}

async fn dial(origin: SocketAddr, from: SocketAddr) -> io::Result<Stream> {
    let socket = PrivilegedSocket::Client { protocol: Protocol::Tcp, client: from }.make_meanwhile().await?;
    connected(prepared(socket.into())?, origin).await
}

fn socket(origin: SocketAddr) -> io::Result<Socket> {
    prepared(Socket::new(Domain::for_address(origin), Type::STREAM.nonblocking().cloexec(), None)?)
}

fn prepared(socket: Socket) -> io::Result<Socket> {
    socket.set_tcp_nodelay(true)?;
    keep_urgent_bytes(&socket)?;
    Ok(socket)
}

async fn connected(socket: Socket, origin: SocketAddr) -> io::Result<Stream> {
    match socket.connect(&origin.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let stream = Stream::new(socket.into())?;
    // What woke us tells whether it failed, which spares asking for every one that did not.
    let ready = stream.ready(Interest::WRITABLE | Interest::ERROR).await?;
    if (ready.is_error() || ready.is_write_closed())
        && let Some(error) = stream.take_error()?
    {
        return Err(error);
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_see_addresses_that_they_could_answer_to() {
        for (client, is_seen) in [
            ("203.0.113.5", true),
            ("2001:db8::5", true),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("fe80::1", false),
            ("ff02::1", false),
        ] {
            let client = SocketAddr::new(client.parse().unwrap(), 4000);
            assert_eq!(spoken_for(DialSource::Client, client), is_seen.then_some(client), "{client}");
            assert_eq!(spoken_for(DialSource::Host, client), None);
        }
    }
}

//! The sockets behind a destination: one per worker, all on one loopback address and port. Accepts nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use socket2::{Domain, Socket, Type};

use super::NetError;
use crate::model::{Family, Protocol};

/// The receive buffer of a UDP listener, in bytes: a burst of first datagrams waits here while sockets are made for their
/// sessions, and the usual default holds less than three hundred.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Whether the listener receives packets through TPROXY, which demands a transparent socket.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Transparency {
    /// An ordinary socket: `sk_lookup` asks for nothing else.
    Opaque,
    /// `IP_TRANSPARENT` or `IPV6_TRANSPARENT`, inherited by accepted connections. Needs `CAP_NET_ADMIN`.
    Transparent,
}

/// What to bind.
#[derive(Clone, Copy, Debug)]
pub struct ListenerOptions {
    /// Address family.
    pub family: Family,
    /// Transport protocol.
    pub protocol: Protocol,
    /// How many sockets share the port.
    pub sockets: NonZeroUsize,
    /// Whether TPROXY is to find them.
    pub transparency: Transparency,
}

/// The sockets of one destination: a `SO_REUSEPORT` group, so that the kernel spreads connections over them whichever of
/// them steering chooses. Non-blocking, close-on-exec, IPv6 only or IPv4 only. TCP sockets listen already.
#[derive(Debug)]
pub struct ListenerGroup {
    address: SocketAddr,
    sockets: Vec<Socket>,
}

impl ListenerGroup {
    /// Binds the group to an ephemeral port of the loopback address.
    pub fn bind(options: &ListenerOptions) -> Result<Self, NetError> {
        let loopback = match options.family {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let first = open(options, SocketAddr::new(loopback, 0))?;
        bind(&first, SocketAddr::new(loopback, 0))?;
        let address = first
            .local_addr()
            .map(|address| address.as_socket().unwrap_or(SocketAddr::new(loopback, 0)))
            .map_err(|source| {
                NetError::os("read address of listener on", loopback, source, "CAP_NET_ADMIN")
            })?;
        // Only now: a UDP socket that asks for port 0 with SO_REUSEPORT set may be given the port of another group of
        // the same user, and would share its datagrams (net/ipv4/udp.c, udp_lib_lport_inuse).
        reuse_port(&first, address)?;

        let mut sockets = vec![first];
        for _ in 1..options.sockets.get() {
            let socket = open(options, address)?;
            reuse_port(&socket, address)?;
            bind(&socket, address)?;
            sockets.push(socket);
        }
        if options.protocol == Protocol::Tcp {
            for socket in &sockets {
                // What is accepted inherits it. Without it nobody could bind a port of all addresses (0.0.0.0:22) that a
                // client has dialled here, for as long as the connection lasts and its TIME-WAIT.
                socket
                    .set_reuse_address(true)
                    .map_err(|source| NetError::os("share port of", address, source, "CAP_NET_ADMIN"))?;
                // The kernel lowers it to net.core.somaxconn.
                socket
                    .listen(i32::MAX)
                    .map_err(|source| NetError::os("listen on", address, source, "CAP_NET_ADMIN"))?;
            }
        }
        Ok(Self { address, sockets })
    }

    /// The address and port that all of them have.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The sockets; at least one.
    #[must_use]
    pub fn sockets(&self) -> &[Socket] {
        &self.sockets
    }

    /// The sockets, to be given one to each worker.
    #[must_use]
    pub fn into_sockets(self) -> Vec<Socket> {
        self.sockets
    }

    /// The sockets' cookies (`SO_COOKIE`), by which BPF and `ss -e` know them.
    pub fn cookies(&self) -> Result<Vec<u64>, NetError> {
        self.sockets
            .iter()
            .map(|socket| {
                socket.cookie().map_err(|source| {
                    NetError::os("read cookie of listener on", self.address, source, "CAP_NET_ADMIN")
                })
            })
            .collect()
    }
}

/// A socket with the options that must be set before it is bound.
fn open(options: &ListenerOptions, address: SocketAddr) -> Result<Socket, NetError> {
    let failed = |op| move |source| NetError::os(op, address, source, "CAP_NET_ADMIN");
    let kind = match options.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let op = "open socket for listener on";
    let socket =
        Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), None).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::EAFNOSUPPORT) if options.family == Family::Ipv6 => {
                    NetError::Ipv6Missing { op, object: address.to_string() }
                }
                _ => failed(op)(source),
            }
        })?;
    if options.family == Family::Ipv6 {
        // A socket of both families may be assigned IPv4 packets, whose destination is another one.
        socket.set_only_v6(true).map_err(failed("make IPv6-only the listener on"))?;
    }
    if options.protocol == Protocol::Udp && setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).is_err() {
        // Without CAP_NET_ADMIN as much as net.core.rmem_max allows.
        socket.set_recv_buffer_size(RECEIVE_BUFFER).map_err(failed("size receive buffer of listener on"))?;
    }
    if options.transparency == Transparency::Transparent {
        match options.family {
            Family::Ipv4 => socket.set_ip_transparent_v4(true),
            Family::Ipv6 => socket.set_ip_transparent_v6(true),
        }
        .map_err(failed("make transparent the listener on"))?;
    }
    Ok(socket)
}

fn bind(socket: &Socket, address: SocketAddr) -> Result<(), NetError> {
    socket.bind(&address.into()).map_err(|source| {
        if source.kind() == std::io::ErrorKind::AddrNotAvailable {
            super::routes::loopback_error("bind listener to", address, Family::of(address.ip()))
        } else {
            NetError::os("bind listener to", address, source, "CAP_NET_BIND_SERVICE")
        }
    })
}

fn reuse_port(socket: &Socket, address: SocketAddr) -> Result<(), NetError> {
    socket
        .set_reuse_port(true)
        .map_err(|source| NetError::os("share port of listener on", address, source, "CAP_NET_ADMIN"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::{TcpStream, UdpSocket};

    use super::*;

    fn group(family: Family, protocol: Protocol, sockets: usize) -> ListenerGroup {
        let sockets = NonZeroUsize::new(sockets).unwrap();
        ListenerGroup::bind(&ListenerOptions {
            family,
            protocol,
            sockets,
            transparency: Transparency::Opaque,
        })
        .unwrap()
    }

    #[test]
    fn all_sockets_of_a_group_share_one_loopback_port() {
        for family in [Family::Ipv4, Family::Ipv6] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let group = group(family, protocol, 4);
                assert_ne!(group.address().port(), 0);
                assert!(group.address().ip().is_loopback());
                assert_eq!(group.sockets().len(), 4);
                for socket in group.sockets() {
                    assert_eq!(socket.local_addr().unwrap().as_socket(), Some(group.address()));
                    assert!(socket.nonblocking().unwrap());
                }
                assert_eq!(group.cookies().unwrap().into_iter().collect::<HashSet<_>>().len(), 4);
            }
        }
    }

    #[test]
    fn connections_are_spread_over_the_group() {
        let group = group(Family::Ipv4, Protocol::Tcp, 2);
        let clients: Vec<_> = (0..64).map(|_| TcpStream::connect(group.address()).unwrap()).collect();
        let accepted: Vec<usize> = group
            .sockets()
            .iter()
            .map(|socket| std::iter::from_fn(|| socket.accept().ok()).count())
            .collect();
        assert_eq!(accepted.iter().sum::<usize>(), clients.len());
        assert!(accepted.iter().all(|count| *count > 0), "{accepted:?}");
    }

    #[test]
    fn datagrams_are_spread_over_the_group() {
        let group = group(Family::Ipv6, Protocol::Udp, 2);
        for _ in 0..64 {
            let client = UdpSocket::bind("[::1]:0").unwrap();
            client.send_to(b"x", group.address()).unwrap();
        }
        let received: Vec<usize> = group
            .into_sockets()
            .into_iter()
            .map(UdpSocket::from)
            .map(|socket| std::iter::from_fn(|| socket.recv(&mut [0]).ok()).count())
            .collect();
        assert_eq!(received.iter().sum::<usize>(), 64);
        assert!(received.iter().all(|count| *count > 0), "{received:?}");
    }

    #[test]
    fn groups_do_not_share_ports() {
        let groups: Vec<_> = (0..200).map(|_| group(Family::Ipv4, Protocol::Udp, 2)).collect();
        let ports: HashSet<_> = groups.iter().map(ListenerGroup::address).collect();
        assert_eq!(ports.len(), groups.len());
    }
}

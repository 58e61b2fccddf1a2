//! The sockets behind a destination: one per worker or fewer, all on one address and port. Accepts nothing.

use std::io;
use std::iter;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use socket2::{Domain, Socket, Type};

use super::NetError;
use super::listener_addresses::{ListenerAddresses, loopback};
use super::syn_cookies;
use crate::model::{Family, Protocol};

/// The receive buffer of a UDP listener, in bytes: a burst of first datagrams waits here while sockets are made for their
/// sessions, and the usual default holds less than three hundred.
const RECEIVE_BUFFER: usize = 4 << 20;

/// The transparency of a listener: TPROXY demands a transparent socket.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Transparency {
    /// An ordinary socket: `sk_lookup` asks for nothing else.
    Opaque,
    /// `IP_TRANSPARENT` or `IPV6_TRANSPARENT`, inherited by accepted connections. Needs `CAP_NET_ADMIN`.
    Transparent,
}

/// The options of a listener to be bound.
#[derive(Clone, Copy, Debug)]
pub struct ListenerOptions {
    /// Address family.
    pub family: Family,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The number of sockets that share the port.
    pub sockets: NonZeroUsize,
    /// Their transparency, which TPROXY demands.
    pub transparency: Transparency,
    /// Of TCP: clients are about to answer SYN cookies that other listeners have sent.
    pub are_cookies_about: bool,
}

/// The sockets of one destination: a `SO_REUSEPORT` group if there are several, so that the kernel spreads connections over
/// them whichever of them steering chooses. Non-blocking, close-on-exec, IPv6 only or IPv4 only. TCP sockets listen already.
#[derive(Debug)]
pub struct ListenerGroup {
    address: SocketAddr,
    cookies: Vec<u64>,
    inodes: Vec<u64>,
    /// The first stands for all.
    first: Socket,
    rest: Vec<Socket>,
}

impl ListenerGroup {
    /// Binds the group to the next of `addresses`, where there are `present` others.
    ///
    /// # Errors
    /// [`NetError`]: no IPv6 on this host, out of descriptors, or for a transparent one no `CAP_NET_ADMIN`.
    pub fn bind(
        options: &ListenerOptions,
        addresses: &mut ListenerAddresses,
        present: usize,
    ) -> Result<Self, NetError> {
        let ListenerOptions { family, protocol, .. } = *options;
        let given = addresses.next(family, protocol, present);
        let first = match bound(options, given) {
            // Somebody else has that very address and port: another port, then.
            Err(BindError::Taken) => {
                let fresh = SocketAddr::new(loopback(family), 0);
                bound(options, fresh).map_err(|error| error.of(fresh))?
            }
            outcome => outcome.map_err(|error| error.of(given))?,
        };
        let address = first
            .local_addr()
            .map(|address| address.as_socket().unwrap_or(given))
            .map_err(|source| NetError::os("read address of listener on", given, source, "CAP_NET_ADMIN"))?;
        addresses.bound(family, protocol, address);
        let mut rest = Vec::new();
        if options.sockets.get() > 1 {
            // Only now: a UDP socket that asks for port 0 with SO_REUSEPORT set may be given the port of another group of
            // the same user, and would share its datagrams (net/ipv4/udp.c, udp_lib_lport_inuse).
            reuse_port(&first, address)?;
        }
        for _ in 1..options.sockets.get() {
            let socket = open(options, address)?;
            reuse_port(&socket, address)?;
            bind(&socket, address).map_err(|error| error.of(address))?;
            rest.push(socket);
        }
        if options.protocol == Protocol::Tcp {
            for socket in iter::once(&first).chain(&rest) {
                // What is accepted inherits it. Without it nobody could bind a port of all addresses (0.0.0.0:22) that a
                // client has dialled here, for as long as the connection lasts and its TIME-WAIT.
                socket
                    .set_reuse_address(true)
                    .map_err(|source| NetError::os("share port of", address, source, "CAP_NET_ADMIN"))?;
            }
            let listen = |backlog| {
                iter::once(&first)
                    .chain(&rest)
                    .try_for_each(|socket| socket.listen(backlog))
                    .map_err(|source| NetError::os("listen on", address, source, "CAP_NET_ADMIN"))
            };
            if options.are_cookies_about {
                listen(0)?;
                syn_cookies::have_sent_one(address).map_err(|source| {
                    NetError::os("have a SYN cookie sent by", address, source, "CAP_NET_ADMIN")
                })?;
            }
            // The kernel lowers it to net.core.somaxconn.
            listen(i32::MAX)?;
        }
        let cookies =
            iter::once(&first).chain(&rest).map(Socket::cookie).collect::<io::Result<_>>().map_err(
                |source| NetError::os("read cookie of listener on", address, source, "CAP_NET_ADMIN"),
            )?;
        let inodes =
            iter::once(&first).chain(&rest).map(inode).collect::<io::Result<_>>().map_err(|source| {
                NetError::os("read inode of listener on", address, source, "CAP_NET_ADMIN")
            })?;
        Ok(Self { address, cookies, inodes, first, rest })
    }

    /// The group that consists of `sockets`, which another process has bound: none of them is touched.
    ///
    /// # Errors
    /// There is none, or they are no listeners.
    #[doc(hidden)]
    pub fn adopt(sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let sockets: Vec<Socket> = sockets.into_iter().map(Socket::from).collect();
        let cookies = sockets.iter().map(Socket::cookie).collect::<io::Result<_>>()?;
        let inodes = sockets.iter().map(inode).collect::<io::Result<_>>()?;
        let mut sockets = sockets.into_iter();
        let first = sockets.next().ok_or_else(|| io::Error::other("a listener without sockets"))?;
        let address = first.local_addr()?.as_socket();
        let address = address.ok_or_else(|| io::Error::other("a listener without an address"))?;
        Ok(Self { address, cookies, inodes, first, rest: sockets.collect() })
    }

    /// The address and port that all of them have.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// One that stands for all.
    #[must_use]
    pub fn first(&self) -> &Socket {
        &self.first
    }

    /// All of them.
    #[must_use]
    pub fn into_sockets(self) -> Vec<Socket> {
        iter::once(self.first).chain(self.rest).collect()
    }

    /// Copies of all, for whoever accepts: none of them closes before the group does, whatever becomes of the copies.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn copies(&self) -> io::Result<Vec<OwnedFd>> {
        let all = iter::once(&self.first).chain(&self.rest);
        all.map(|socket| socket.as_fd().try_clone_to_owned()).collect()
    }

    /// The sockets' cookies (`SO_COOKIE`), by which BPF and `ss -e` know them; as many as there are sockets.
    #[must_use]
    pub fn cookies(&self) -> &[u64] {
        &self.cookies
    }

    /// The sockets' inodes, by which [`listening_sockets`](super::listening_sockets) knows them.
    #[must_use]
    pub fn inodes(&self) -> &[u64] {
        &self.inodes
    }
}

/// The error of binding a socket.
enum BindError {
    Net(NetError),
    Os(io::Error),
    /// Somebody else has the address and port, or the address cannot be had.
    Taken,
}

impl BindError {
    fn of(self, address: SocketAddr) -> NetError {
        let source = match self {
            Self::Net(error) => return error,
            Self::Os(source) => source,
            Self::Taken => io::ErrorKind::AddrInUse.into(),
        };
        NetError::os("bind listener to", address, source, "CAP_NET_BIND_SERVICE")
    }
}

fn inode(socket: &Socket) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(socket)?.st_ino)
}

fn bound(options: &ListenerOptions, address: SocketAddr) -> Result<Socket, BindError> {
    let socket = open(options, address).map_err(BindError::Net)?;
    bind(&socket, address)?;
    Ok(socket)
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
    if address.ip() != loopback(options.family) {
        // No interface need have it: steering names the socket, and no packet its address.
        match options.family {
            Family::Ipv4 => socket.set_freebind_v4(true),
            Family::Ipv6 => socket.set_freebind_v6(true),
        }
        .map_err(failed("free from interfaces the listener on"))?;
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

fn bind(socket: &Socket, address: SocketAddr) -> Result<(), BindError> {
    let beside = address.ip() != loopback(Family::of(address.ip()));
    socket.bind(&address.into()).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse if address.port() != 0 => BindError::Taken,
        io::ErrorKind::AddrNotAvailable if beside => BindError::Taken,
        io::ErrorKind::AddrNotAvailable => BindError::Net(super::routes::loopback_error(
            "bind listener to",
            address,
            Family::of(address.ip()),
        )),
        _ => BindError::Os(source),
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

    fn options(family: Family, protocol: Protocol, sockets: usize) -> ListenerOptions {
        let sockets = NonZeroUsize::new(sockets).unwrap();
        ListenerOptions {
            family,
            protocol,
            sockets,
            transparency: Transparency::Opaque,
            are_cookies_about: false,
        }
    }

    fn group(family: Family, protocol: Protocol, sockets: usize) -> ListenerGroup {
        let mut addresses = ListenerAddresses::default();
        ListenerGroup::bind(&options(family, protocol, sockets), &mut addresses, 0).unwrap()
    }

    #[test]
    fn all_sockets_of_a_group_share_one_loopback_port() {
        for family in [Family::Ipv4, Family::Ipv6] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let group = group(family, protocol, 4);
                assert_ne!(group.address().port(), 0);
                assert!(group.address().ip().is_loopback());
                assert_eq!(group.cookies().iter().collect::<HashSet<_>>().len(), 4);
                let address = group.address();
                assert_eq!(group.copies().unwrap().len(), 4);
                let sockets = group.into_sockets();
                assert_eq!(sockets.len(), 4);
                for socket in sockets {
                    assert_eq!(socket.local_addr().unwrap().as_socket(), Some(address));
                    assert!(socket.nonblocking().unwrap());
                }
            }
        }
    }

    #[test]
    fn hundreds_of_groups_take_few_ports() {
        for family in [Family::Ipv4, Family::Ipv6] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let mut addresses = ListenerAddresses::default();
                let options = options(family, protocol, 2);
                let groups: Vec<ListenerGroup> = (0..400)
                    .map(|present| ListenerGroup::bind(&options, &mut addresses, present).unwrap())
                    .collect();
                let places: HashSet<SocketAddr> = groups.iter().map(ListenerGroup::address).collect();
                let ports: HashSet<u16> = places.iter().map(SocketAddr::port).collect();
                assert_eq!(places.len(), 400);
                assert!(ports.len() <= 70, "{}", ports.len());
            }
        }
    }

    #[test]
    fn an_address_that_somebody_else_has_is_passed_over() {
        let mut addresses = ListenerAddresses::default();
        let options = options(Family::Ipv4, Protocol::Tcp, 2);
        let first = ListenerGroup::bind(&options, &mut addresses, 1_000).unwrap();
        let taken = addresses.next(Family::Ipv4, Protocol::Tcp, 1_000);
        assert_eq!(taken.port(), first.address().port());
        let _taken = std::net::TcpListener::bind(taken).unwrap();
        let second = ListenerGroup::bind(&options, &mut addresses, 1_000).unwrap();
        assert_ne!(second.address().port(), first.address().port());
    }

    #[test]
    fn connections_are_spread_over_the_group() {
        let group = group(Family::Ipv4, Protocol::Tcp, 2);
        let clients: Vec<_> = (0..64).map(|_| TcpStream::connect(group.address()).unwrap()).collect();
        let accepted: Vec<usize> = group
            .into_sockets()
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

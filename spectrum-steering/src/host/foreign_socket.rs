//! A socket of another program that packets can be given to, or the reason why one is no such. Takes none out of a process: that is the
//! affair of `process_sockets`.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{Ipv4OrigDstAddr, Ipv4PacketInfo, Ipv6OrigDstAddr, Ipv6RecvPacketInfo};
use socket2::{Domain, Socket, Type};

use super::NamespaceId;
use super::listener_addresses::loopback;
use super::sys;
use crate::model::{Family, Protocol};

/// IPPROTO_MPTCP of linux/in.h.
const MPTCP: i32 = 262;

/// A listening TCP socket or an unconnected UDP one that another program has.
#[derive(Debug)]
pub struct ForeignSocket {
    socket: Socket,
    protocol: Protocol,
    address: SocketAddr,
    families: Vec<Family>,
    cookie: u64,
    inode: u64,
}

/// The reason for which packets cannot be given to a descriptor.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UnfitSocket {
    /// It has its peer already.
    #[error("a connected {protocol} socket, {local} to {peer}")]
    Connected {
        /// Its protocol.
        protocol: Protocol,
        /// Its address.
        local: SocketAddr,
        /// The address of the other side.
        peer: SocketAddr,
    },
    /// It is a file or the like.
    #[error("no socket")]
    NotASocket,
    /// Nobody can connect to it.
    #[error("a TCP socket that does not listen")]
    NotListening,
    /// Packets of this network namespace are none of its business.
    #[error("a socket of another network namespace ({0})")]
    OtherNamespace(u64),
    /// It speaks something else.
    #[error("a socket of {0}, neither TCP nor UDP")]
    OtherProtocol(&'static str),
    /// It has no port.
    #[error("a UDP socket without a port")]
    Unbound,
    /// The kernel does not say what it is.
    #[error("a socket that cannot be looked at: {0}")]
    Unseen(String),
}

impl From<io::Error> for UnfitSocket {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOTSOCK) => Self::NotASocket,
            _ => Self::Unseen(error.to_string()),
        }
    }
}

impl ForeignSocket {
    /// The socket behind `file`, if packets of `namespace` can be given to it.
    ///
    /// # Errors
    /// The reason why they cannot.
    pub fn of(file: OwnedFd, namespace: NamespaceId) -> Result<Self, UnfitSocket> {
        let inode = nix::sys::stat::fstat(&file).map_err(io::Error::from)?.st_ino;
        let socket = Socket::from(file);
        let domain = socket.domain()?;
        if domain != Domain::IPV4 && domain != Domain::IPV6 {
            return Err(UnfitSocket::OtherProtocol(named(domain)));
        }
        let number = socket.protocol()?.map(i32::from);
        let protocol = match (socket.r#type()?, number) {
            (Type::STREAM, Some(libc::IPPROTO_TCP)) => Protocol::Tcp,
            (Type::DGRAM, Some(libc::IPPROTO_UDP)) => Protocol::Udp,
            (Type::STREAM, Some(MPTCP)) => return Err(UnfitSocket::OtherProtocol("MPTCP")),
            (Type::RAW, _) => return Err(UnfitSocket::OtherProtocol("raw IP")),
            _ => return Err(UnfitSocket::OtherProtocol("another protocol of IP")),
        };
        let local = socket.local_addr()?.as_socket();
        let local = local.ok_or_else(|| io::Error::other("it has no address"))?;
        if let Some(peer) = socket.peer_addr().ok().and_then(|peer| peer.as_socket()) {
            return Err(UnfitSocket::Connected { protocol, local, peer });
        }
        match protocol {
            Protocol::Tcp if !socket.is_listener()? => return Err(UnfitSocket::NotListening),
            Protocol::Udp if local.port() == 0 => return Err(UnfitSocket::Unbound),
            Protocol::Tcp | Protocol::Udp => {}
        }
        match sys::namespace_of(&socket) {
            Ok(file) => {
                let inode = nix::sys::stat::fstat(&file).map_err(io::Error::from)?.st_ino;
                if inode != namespace.inode() {
                    return Err(UnfitSocket::OtherNamespace(inode));
                }
            }
            // A kernel with one network namespace alone.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY)) => {}
            Err(error) => return Err(error.into()),
        }
        let address = SocketAddr::new(local.ip().to_canonical(), local.port());
        let families = match (domain == Domain::IPV6, address.ip()) {
            (false, _) | (true, IpAddr::V4(_)) => vec![Family::Ipv4],
            (true, IpAddr::V6(ip)) if ip.is_unspecified() && !socket.only_v6()? => {
                vec![Family::Ipv4, Family::Ipv6]
            }
            (true, IpAddr::V6(_)) => vec![Family::Ipv6],
        };
        let cookie = socket.cookie()?;
        Ok(Self { socket, protocol, address, families, cookie, inode })
    }

    /// Its protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The address that it is bound to; one of IPv4 that is mapped to IPv6 is that of IPv4.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The families of packets that it takes: both, if it is a socket of IPv6 that is not for IPv6 only.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// By which BPF and `ss -e` know it.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// By which /proc knows it.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// True if its program is told which address a datagram was sent to, without which it cannot answer from that.
    #[must_use]
    pub fn is_told_what_is_dialled(&self) -> bool {
        getsockopt(&self.socket, Ipv4PacketInfo).unwrap_or_default()
            || getsockopt(&self.socket, Ipv4OrigDstAddr).unwrap_or_default()
            || getsockopt(&self.socket, Ipv6RecvPacketInfo).unwrap_or_default()
            || getsockopt(&self.socket, Ipv6OrigDstAddr).unwrap_or_default()
    }

    /// Lets its program answer from addresses that no interface has, as those of a local route are: over IPv6 the kernel refuses that
    /// otherwise (EINVAL). That holds for the program whose socket it is.
    ///
    /// # Errors
    /// The kernel has no such option.
    pub fn answer_from_any_address(&self) -> io::Result<()> {
        if self.socket.domain()? == Domain::IPV6 { self.socket.set_freebind_v6(true) } else { Ok(()) }
    }

    /// Has it take connections and datagrams for addresses that are not this host's, as TPROXY demands, or no more. That holds for the
    /// program whose socket it is. Needs `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// The capability is missing.
    pub fn set_transparent(&self, is_transparent: bool) -> io::Result<()> {
        match self.socket.domain()? {
            Domain::IPV6 => self.socket.set_ip_transparent_v6(is_transparent),
            _ => self.socket.set_ip_transparent_v4(is_transparent),
        }
    }
}

impl AsFd for ForeignSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Display for ForeignSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.address)
    }
}

/// The address by which a firewall rule names a socket that is bound to `address`, for packets of `family`.
#[must_use]
pub fn reachable_at(address: SocketAddr, family: Family) -> SocketAddr {
    if address.ip().is_unspecified() { SocketAddr::new(loopback(family), address.port()) } else { address }
}

fn named(domain: Domain) -> &'static str {
    match i32::from(domain) {
        libc::AF_UNIX => "unix",
        libc::AF_NETLINK => "netlink",
        libc::AF_PACKET => "packets",
        libc::AF_VSOCK => "vsock",
        _ => "another family",
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn of(file: impl Into<OwnedFd>) -> Result<ForeignSocket, UnfitSocket> {
        ForeignSocket::of(file.into(), NamespaceId::current().unwrap())
    }

    /// A namespace other than that of another user's cannot be asked for without a right to it.
    fn may_look() -> bool {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let looked = sys::namespace_of(&socket);
        if looked.is_err() {
            println!("SKIP foreign_socket: needs CAP_NET_ADMIN");
        }
        looked.is_ok()
    }

    #[test]
    fn what_packets_can_be_given_to_is_told_with_its_families() {
        if !may_look() {
            return;
        }
        let both = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        both.set_only_v6(false).unwrap();
        both.bind(&"[::]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        both.listen(1).unwrap();
        let mapped = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
        mapped.set_only_v6(false).unwrap();
        mapped.bind(&"[::ffff:127.0.0.1]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        for (file, protocol, families) in [
            (OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap()), Protocol::Tcp, &[Family::Ipv4][..]),
            (UdpSocket::bind("[::1]:0").unwrap().into(), Protocol::Udp, &[Family::Ipv6]),
            (both.into(), Protocol::Tcp, &[Family::Ipv4, Family::Ipv6]),
            (mapped.into(), Protocol::Udp, &[Family::Ipv4]),
        ] {
            let socket = of(file).unwrap();
            assert_eq!((socket.protocol(), socket.families()), (protocol, families), "{socket}");
            assert_ne!(socket.address().port(), 0);
            assert!(socket.cookie() != 0 && socket.inode() != 0);
        }
    }

    #[test]
    fn what_is_unfit_is_told_why() {
        if !may_look() {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        let local = stream.local_addr().unwrap();
        let connected = UnfitSocket::Connected { protocol: Protocol::Tcp, local, peer: address };
        let idle = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let unbound = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        for (file, why) in [
            (OwnedFd::from(stream), connected),
            (File::open("/dev/null").unwrap().into(), UnfitSocket::NotASocket),
            (UnixDatagram::unbound().unwrap().into(), UnfitSocket::OtherProtocol("unix")),
            (idle.into(), UnfitSocket::NotListening),
            (unbound.into(), UnfitSocket::Unbound),
        ] {
            assert_eq!(of(file).unwrap_err(), why);
        }
    }

    #[test]
    fn a_program_that_asks_for_what_is_dialled_is_known() {
        if !may_look() {
            return;
        }
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = socket.try_clone().unwrap();
        assert!(!of(socket.try_clone().unwrap()).unwrap().is_told_what_is_dialled());
        nix::sys::socket::setsockopt(&own, Ipv4PacketInfo, &true).unwrap();
        assert!(of(socket).unwrap().is_told_what_is_dialled());
    }

    #[test]
    fn a_rule_names_the_loopback_address_of_what_is_bound_to_any() {
        for (bound, family, named) in [
            ("0.0.0.0:80", Family::Ipv4, "127.0.0.1:80"),
            ("[::]:80", Family::Ipv4, "127.0.0.1:80"),
            ("[::]:80", Family::Ipv6, "[::1]:80"),
            ("192.0.2.1:80", Family::Ipv4, "192.0.2.1:80"),
        ] {
            assert_eq!(reachable_at(bound.parse().unwrap(), family), named.parse().unwrap());
        }
    }
}

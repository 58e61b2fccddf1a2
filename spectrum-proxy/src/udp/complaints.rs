//! A worker's ICMP: clients hear from the address that they dialled that nobody is there, or how much gets through. What to say and
//! about which datagram is decided elsewhere.

use std::cell::{Cell, OnceCell};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, SockaddrIn6, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::Instant;

use super::icmp::{IcmpFault, message};
use super::options;
use super::raw::nowhere;
use crate::limits::Bucket;
use crate::model::Family;
use crate::privileged::PrivilegedSocket;

/// The most messages a second, as many as the kernel sends by itself (net.ipv4.icmp_msgs_per_sec).
const RATE: NonZeroU32 = NonZeroU32::new(1000).unwrap();

/// What tells clients about their datagrams. Its sockets are opened when they are first needed.
pub(super) struct Complaints {
    sockets: [OnceCell<Option<Socket>>; 2],
    began: Instant,
    bucket: Cell<Bucket>,
}

impl Complaints {
    pub(super) fn new() -> Self {
        Self { sockets: Default::default(), began: Instant::now(), bucket: Cell::default() }
    }

    /// Tells `client` that nobody has the port that it `dialled`. `quoted` is its datagram, or nothing where that is not known any more.
    /// True if it was told.
    pub(super) fn refuse(&self, dialled: SocketAddr, client: SocketAddr, quoted: &[u8]) -> bool {
        self.tell(IcmpFault::PortUnreachable, dialled, client, quoted)
    }

    /// Tells `client` that of what it sends to `dialled` packets of no more than `mtu` bytes get through. True if it was told.
    pub(super) fn too_big(&self, dialled: SocketAddr, client: SocketAddr, mtu: u16, quoted: &[u8]) -> bool {
        self.tell(IcmpFault::TooBig(mtu), dialled, client, quoted)
    }

    fn tell(&self, fault: IcmpFault, dialled: SocketAddr, client: SocketAddr, quoted: &[u8]) -> bool {
        let mut bucket = self.bucket.get();
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let has_room = bucket.take(now, RATE);
        self.bucket.set(bucket);
        if !has_room {
            return false;
        }
        let Some(socket) = self.socket(Family::of(dialled.ip())) else { return false };
        let Some(message) = message(fault, client, dialled, quoted) else { return false };
        let sent = send(socket, dialled, client, &message);
        if let Err(error) = &sent {
            tracing::debug!(%client, %dialled, ?fault, %error, "tell by ICMP");
        }
        sent.is_ok()
    }

    fn socket(&self, family: Family) -> Option<&Socket> {
        let [ipv4, ipv6] = &self.sockets;
        let socket = match family {
            Family::Ipv4 => ipv4,
            Family::Ipv6 => ipv6,
        };
        let complain = |error: &io::Error| {
            tracing::warn!(%family, %error, "open raw socket; clients are not told by ICMP that their datagrams went nowhere");
        };
        PrivilegedSocket::once(socket, || PrivilegedSocket::Icmp(family).make().map(Socket::from), complain)
    }
}

/// A raw socket for ICMP that receives nothing, and sends from any address. Needs `CAP_NET_RAW`.
pub(crate) fn open(family: Family) -> io::Result<OwnedFd> {
    let (nowhere, protocol) = match family {
        Family::Ipv4 => (nowhere(family), Protocol::ICMPV4),
        Family::Ipv6 => (nowhere(family), Protocol::ICMPV6),
    };
    let socket =
        Socket::new(Domain::for_address(nowhere), Type::RAW.nonblocking().cloexec(), Some(protocol))?;
    options::take_nothing(&socket)?;
    match family {
        Family::Ipv4 => socket.set_ip_transparent_v4(true)?,
        Family::Ipv6 => {
            socket.set_freebind_v6(true)?;
            socket.set_ip_transparent_v6(true)?;
        }
    }
    socket.bind(&nowhere.into())?;
    Ok(socket.into())
}

fn send(socket: &Socket, from: SocketAddr, to: SocketAddr, message: &[u8]) -> io::Result<()> {
    let (fd, parts) = (socket.as_raw_fd(), [IoSlice::new(message)]);
    match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            let source = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from(*from.ip()).to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let notes = [ControlMessage::Ipv4PacketInfo(&source)];
            sendmsg(fd, &parts, &notes, MsgFlags::MSG_DONTWAIT, Some(&SockaddrIn::from(to)))?;
        }
        (SocketAddr::V6(from), SocketAddr::V6(mut to)) => {
            let source = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: from.ip().octets() },
                ipi6_ifindex: to.scope_id(),
            };
            let notes = [ControlMessage::Ipv6PacketInfo(&source)];
            // For a raw socket the port is the protocol's number or nothing.
            to.set_port(0);
            sendmsg(fd, &parts, &notes, MsgFlags::MSG_DONTWAIT, Some(&SockaddrIn6::from(to)))?;
        }
        _ => return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::thread;
    use std::time::{Duration, Instant};

    use nix::sched::{CloneFlags, unshare};

    use super::super::sys::mtu;
    use super::*;

    /// Runs `body` on a thread that has a network of its own, in which `lo` is up and owns 127.0.0.0/8 and ::1.
    fn in_a_namespace(body: impl FnOnce() + Send) {
        thread::scope(|scope| {
            let ran = scope.spawn(|| {
                if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                    println!("SKIP: no namespace of its own: {error}");
                    return;
                }
                let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
                if !up.is_ok_and(|status| status.success()) {
                    println!("SKIP: ip(8) cannot set lo up");
                    return;
                }
                body();
            });
            ran.join().unwrap();
        });
    }

    /// A client that has dialled an address where nobody is whom the kernel would let answer.
    fn client(dialled: &str) -> (UdpSocket, SocketAddr, SocketAddr) {
        let dialled: SocketAddr = dialled.parse().unwrap();
        let own = if dialled.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let client = UdpSocket::bind(own).unwrap();
        client.connect(dialled).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let address = client.local_addr().unwrap();
        (client, address, dialled)
    }

    #[test]
    fn a_client_s_socket_learns_that_nobody_is_there() {
        in_a_namespace(|| {
            let complaints = Complaints::new();
            for (dialled, quoted) in
                [("127.77.1.1:4000", &b""[..]), ("127.77.1.1:4000", b"abc"), ("[::1]:4000", b"")]
            {
                let (socket, client, dialled) = client(dialled);
                assert!(complaints.refuse(dialled, client, quoted), "{dialled}");
                let error = socket.recv(&mut [0; 16]).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{dialled}");
            }
        });
    }

    #[test]
    fn a_client_s_way_becomes_as_narrow_as_it_is_told() {
        in_a_namespace(|| {
            let complaints = Complaints::new();
            for dialled in ["127.77.1.1:4000", "[::1]:4000"] {
                let (socket, client, dialled) = client(dialled);
                assert!(mtu(&socket, Family::of(dialled.ip())).unwrap() > 1300);
                assert!(complaints.too_big(dialled, client, 1300, &[0; 1400]));
                let deadline = Instant::now() + Duration::from_secs(5);
                while mtu(&socket, Family::of(dialled.ip())).unwrap() != 1300 {
                    assert!(Instant::now() < deadline, "{dialled}: still wide");
                    thread::sleep(Duration::from_millis(5));
                }
            }
        });
    }

    #[test]
    fn a_flood_is_told_as_much_as_the_kernel_would_tell_it() {
        in_a_namespace(|| {
            let complaints = Complaints::new();
            let (_socket, client, dialled) = client("127.77.1.1:4000");
            let began = Instant::now();
            let told = (0..3000).filter(|_| complaints.refuse(dialled, client, b"")).count();
            let most = 1000 + usize::try_from(began.elapsed().as_millis()).unwrap() + 1;
            assert!((1000..=most).contains(&told), "{told} of {most}");
        });
    }
}

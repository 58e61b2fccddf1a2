//! Servers that know nothing of the program, in a namespace: this process has their sockets, until they are dropped. Registers none.

use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
};
use socket2::{Domain, Socket, Type};

use crate::netns::Netns;

/// More than ever dial at once: a SYN that is sent again, or answered by a cookie, is steered twice.
const BACKLOG: i32 = 1024;

/// Between two looks whether it is over.
const GLANCE: Duration = Duration::from_millis(5);

/// A server with a socket, or several that share a port.
#[derive(Debug)]
pub struct ForeignServer {
    address: SocketAddr,
    sockets: Vec<Serving>,
}

/// A socket and the thread that has it.
#[derive(Debug)]
struct Serving {
    cookie: u64,
    over: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Serving {
    fn of(netns: &Netns, socket: &Socket, serve: impl FnOnce(&AtomicBool) -> usize + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let own = Arc::clone(&over);
        let cookie = socket.cookie().expect("a cookie");
        Self { cookie, over, thread: netns.spawn(move || serve(&own)) }
    }

    fn end(self) -> usize {
        self.over.store(true, Ordering::Release);
        self.thread.join().expect("a server that did not panic")
    }
}

impl ForeignServer {
    /// Says `word`, its own address and that of the client to whoever connects to `address`.
    pub fn tcp(netns: &Netns, address: SocketAddr, word: &'static str) -> Self {
        Self::group(netns, address, word, 1)
    }

    /// The same with so many sockets that share the port, which each have a thread.
    pub fn group(netns: &Netns, address: SocketAddr, word: &'static str, count: usize) -> Self {
        let mut address = address;
        let mut sockets = Vec::new();
        for _ in 0..count {
            let socket = netns.run(|| socket(Type::STREAM, address, count > 1));
            socket.listen(BACKLOG).expect("listen");
            socket.set_nonblocking(true).expect("be told that nobody waits");
            address = socket.local_addr().expect("an address").as_socket().expect("an address of IP");
            sockets.push(socket);
        }
        let serving = sockets.into_iter().map(|socket| {
            let own = socket.try_clone().expect("share a socket");
            Serving::of(netns, &own, move |over| greet(&socket.into(), word, over))
        });
        Self { address, sockets: serving.collect() }
    }

    /// Sends datagrams back from where they came to, as servers do that care.
    pub fn udp(netns: &Netns, address: SocketAddr) -> Self {
        let socket = netns.run(|| socket(Type::DGRAM, address, false));
        let asked = if address.is_ipv4() {
            setsockopt(&socket, Ipv4PacketInfo, &true)
        } else {
            setsockopt(&socket, Ipv6RecvPacketInfo, &true)
        };
        asked.expect("ask what is dialled");
        Self::echoing(netns, socket)
    }

    fn echoing(netns: &Netns, socket: Socket) -> Self {
        socket.set_read_timeout(Some(GLANCE)).expect("limit reading");
        let address = socket.local_addr().expect("an address").as_socket().expect("an address of IP");
        let own = socket.try_clone().expect("share a socket");
        let serving = Serving::of(netns, &own, move |over| echo(&socket.into(), over));
        Self { address, sockets: vec![serving] }
    }

    /// The address that it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes its sockets: how many each has served.
    pub fn end(mut self) -> Vec<usize> {
        self.stop()
    }

    /// Closes the socket with this cookie alone: how many it has served.
    pub fn end_one(&mut self, cookie: u64) -> usize {
        let at = self.sockets.iter().position(|one| one.cookie == cookie).expect("a socket of this server");
        self.sockets.remove(at).end()
    }

    fn stop(&mut self) -> Vec<usize> {
        self.sockets.drain(..).map(Serving::end).collect()
    }
}

impl Drop for ForeignServer {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

/// Any address of the family of `like`, and any port.
pub fn any_of(like: IpAddr) -> SocketAddr {
    let any: IpAddr = match like {
        IpAddr::V4(_) => [0; 4].into(),
        IpAddr::V6(_) => [0_u16; 8].into(),
    };
    SocketAddr::new(any, 0)
}

/// A socket of both families unless that is not asked for by its address.
fn socket(kind: Type, address: SocketAddr, shares: bool) -> Socket {
    let socket = Socket::new(Domain::for_address(address), kind, None).expect("open a socket");
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified()).expect("choose the families");
    }
    socket.set_reuse_port(shares).expect("share the port or not");
    socket.bind(&address.into()).unwrap_or_else(|error| panic!("bind {address}: {error}"));
    socket
}

fn greet(listener: &TcpListener, word: &str, over: &AtomicBool) -> usize {
    let mut served = 0;
    while !over.load(Ordering::Acquire) {
        match listener.accept() {
            Ok((mut stream, client)) => {
                let dialled = stream.local_addr().expect("the dialled address");
                let (dialled, client) = (canonical(dialled), canonical(client));
                // Whoever has hung up need not hear it.
                let _ = writeln!(stream, "{word} {dialled} {client}");
                served += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(GLANCE),
            Err(error) => panic!("accept: {error}"),
        }
    }
    served
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn echo(socket: &UdpSocket, over: &AtomicBool) -> usize {
    let mut served = 0;
    while !over.load(Ordering::Acquire) {
        let mut bytes = [0; 2048];
        let mut space = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::empty();
        let Ok(came) = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)
        else {
            continue;
        };
        let (length, client) = (came.bytes, came.address);
        let info = came.cmsgs().expect("whole control messages").last();
        let said = [IoSlice::new(&bytes[..length])];
        let sent = match info {
            Some(ControlMessageOwned::Ipv4PacketInfo(mut info)) => {
                info.ipi_spec_dst = info.ipi_addr;
                info.ipi_ifindex = 0;
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                sendmsg(socket.as_raw_fd(), &said, &control, flags, client.as_ref())
            }
            Some(ControlMessageOwned::Ipv6PacketInfo(mut info)) => {
                info.ipi6_ifindex = 0;
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                sendmsg(socket.as_raw_fd(), &said, &control, flags, client.as_ref())
            }
            _ => sendmsg(socket.as_raw_fd(), &said, &[], flags, client.as_ref()),
        };
        sent.expect("answer");
        served += 1;
    }
    served
}

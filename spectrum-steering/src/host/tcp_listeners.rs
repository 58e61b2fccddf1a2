//! The listening sockets of TCP, as the kernel's sock_diag(7) lists them: it walks these alone, where proc(5) walks the table of
//! connections to its end. Judges none of them.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use super::ListeningSocket;
use crate::model::{Family, Protocol};
use crate::netlink::{NetlinkMessage, messages};

/// A question about sockets, and each of the answers (SOCK_DIAG_BY_FAMILY).
const BY_FAMILY: u16 = 20;

/// The question is for all of them (NLM_F_REQUEST and NLM_F_DUMP).
const ALL: u16 = 0x1 | 0x300;

/// The answer is an error, and there is no more of them.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A message's header, and struct inet_diag_req_v2.
const HEADER: usize = 16;
const REQUEST: usize = 56;

/// The kernel puts no more into one answer.
const LONGEST: usize = 64 << 10;

/// The queue of connections that wait to be accepted from a listening socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ListenQueue {
    /// The address at which it listens.
    pub address: SocketAddr,
    /// Those that wait.
    pub waiting: u32,
    /// With more than so many it is full, and what comes is dropped.
    pub most: u32,
}

impl ListenQueue {
    /// True if what comes is dropped: nobody accepts, or not fast enough.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting > self.most
    }
}

/// The queues of all listening TCP sockets in the calling thread's namespace, by the sockets' cookies.
///
/// # Errors
/// The kernel does not list them: it may lack inet_diag.
pub fn listen_queues() -> io::Result<BTreeMap<u64, ListenQueue>> {
    let mut queues = BTreeMap::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let listed = diagnosed(family)?;
        queues.extend(listed.into_iter().map(|Diagnosed { socket, cookie, waiting, most }| {
            (cookie, ListenQueue { address: socket.address, waiting, most })
        }));
    }
    Ok(queues)
}

/// Every listening TCP socket of `family` in the calling thread's namespace.
///
/// # Errors
/// The kernel does not list them: it may lack inet_diag.
pub(super) fn tcp_listeners(family: Family) -> io::Result<Vec<ListeningSocket>> {
    Ok(diagnosed(family)?.into_iter().map(|diagnosed| diagnosed.socket).collect())
}

/// A socket as the kernel lists it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Diagnosed {
    socket: ListeningSocket,
    cookie: u64,
    waiting: u32,
    most: u32,
}

fn diagnosed(family: Family) -> io::Result<Vec<Diagnosed>> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    sendto(socket.as_raw_fd(), &question(family), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut found = Vec::new();
    while answers(&socket, &mut found)? {}
    Ok(found)
}

/// Adds what the next message says; whether there may be more. The kernel has it ready before it is asked for.
fn answers(socket: &OwnedFd, found: &mut Vec<Diagnosed>) -> io::Result<bool> {
    let mut buffer = vec![0; LONGEST];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
    let mut is_any = false;
    for message in messages(buffer.get(..length).unwrap_or_default()) {
        is_any = true;
        match message.kind {
            BY_FAMILY => found.extend(listener(message)),
            DONE => return Ok(false),
            ERROR => {
                let code = message.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            _ => {}
        }
    }
    if is_any { Ok(true) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn question(family: Family) -> Vec<u8> {
    const LISTEN: u32 = 1 << 10;
    let family = match family {
        Family::Ipv4 => libc::AF_INET,
        Family::Ipv6 => libc::AF_INET6,
    };
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(u32::try_from(HEADER + REQUEST).unwrap_or_default().to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(ALL.to_ne_bytes());
    // Neither numbered nor from any port.
    bytes.extend([0; 8]);
    let small = |number: i32| u8::try_from(number).unwrap_or_default();
    bytes.extend([small(family), small(libc::IPPROTO_TCP), 0, 0]);
    bytes.extend(LISTEN.to_ne_bytes());
    // Whichever socket.
    bytes.resize(HEADER + REQUEST, 0);
    bytes
}

/// The socket of a struct inet_diag_msg.
fn listener(message: NetlinkMessage<'_>) -> Option<Diagnosed> {
    let body = message.body;
    let port = u16::from_be_bytes(*body.get(4..)?.first_chunk()?);
    let source = body.get(8..)?;
    let ip: IpAddr = match i32::from(*body.first()?) {
        libc::AF_INET => Ipv4Addr::from(*source.first_chunk::<4>()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(*source.first_chunk::<16>()?).into(),
        _ => return None,
    };
    let word = |at: usize| Some(u32::from_ne_bytes(*body.get(at..)?.first_chunk()?));
    let inode = word(68)?;
    let address = SocketAddr::new(ip, port);
    Some(Diagnosed {
        socket: ListeningSocket { protocol: Protocol::Tcp, address, inode: inode.into() },
        cookie: u64::from(word(48)?) << 32 | u64::from(word(44)?),
        waiting: word(56)?,
        most: word(60)?,
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_the_kernel_lists_is_what_proc_shows() {
        let own = ["127.0.0.1:0", "[::1]:0"].map(|address| TcpListener::bind(address).unwrap());
        for (family, listener) in [Family::Ipv4, Family::Ipv6].into_iter().zip(&own) {
            let Ok(listed) = tcp_listeners(family) else {
                println!("SKIP what_the_kernel_lists_is_what_proc_shows: needs inet_diag");
                return;
            };
            let name = if family == Family::Ipv4 { "tcp" } else { "tcp6" };
            let address = listener.local_addr().unwrap();
            let shown =
                super::super::sockets::listed(Protocol::Tcp, &format!("/proc/thread-self/net/{name}"));
            let of = |all: &[ListeningSocket]| all.iter().copied().find(|socket| socket.address == address);
            assert_eq!(of(&listed).unwrap(), of(&shown.unwrap()).unwrap());
        }
    }

    #[test]
    fn who_waits_to_be_accepted_is_counted() {
        let listener = socket2::Socket::from(TcpListener::bind("127.0.0.1:0").unwrap());
        listener.listen(2).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let cookie = listener.cookie().unwrap();
        let clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let Ok(queues) = listen_queues() else {
            println!("SKIP who_waits_to_be_accepted_is_counted: needs inet_diag");
            return;
        };
        let queue = queues[&cookie];
        assert_eq!(queue, ListenQueue { address, waiting: 3, most: 2 });
        assert!(queue.is_full());
        drop(clients);
    }

    #[test]
    fn more_than_one_message_has_is_listed_whole() {
        let own: Vec<TcpListener> = (0..900).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let Ok(listed) = tcp_listeners(Family::Ipv4) else { return };
        for listener in own {
            let address = listener.local_addr().unwrap();
            assert!(listed.iter().any(|socket| socket.address == address), "{address}");
        }
    }

    #[test]
    fn what_is_cut_short_is_no_socket() {
        let mut body = [0; 72];
        body[0] = u8::try_from(libc::AF_INET).unwrap();
        let of = |body| listener(NetlinkMessage { kind: BY_FAMILY, flags: 0, port: 0, body });
        assert!(of(&body).is_some());
        assert!((0..72).all(|length| of(&body[..length]).is_none()));
    }
}

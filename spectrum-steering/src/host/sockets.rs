//! The listening sockets of the network namespace, whoever has them, as proc(5) shows them. Judges none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::NetError;
use super::tcp_listeners::tcp_listeners;
use crate::model::{Family, Protocol, visible};

/// A socket that takes connections or datagrams from anybody.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ListeningSocket {
    /// Its protocol.
    pub protocol: Protocol,
    /// The address at which it listens.
    pub address: SocketAddr,
    /// By which /proc knows it.
    pub inode: u64,
}

/// A process that has a socket.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SocketOwner {
    /// Its process id.
    pub pid: u32,
    /// The name of its program, which it chooses itself, as it can be shown.
    pub command: String,
}

/// Every listening TCP and unconnected UDP socket of the calling thread's namespace.
///
/// # Errors
/// The kernel does not list them.
pub fn listening_sockets() -> Result<Vec<ListeningSocket>, NetError> {
    let mut sockets = Vec::new();
    for (protocol, family, name) in [
        (Protocol::Tcp, Family::Ipv4, "tcp"),
        (Protocol::Tcp, Family::Ipv6, "tcp6"),
        (Protocol::Udp, Family::Ipv4, "udp"),
        (Protocol::Udp, Family::Ipv6, "udp6"),
    ] {
        if protocol == Protocol::Tcp {
            match tcp_listeners(family) {
                Ok(listeners) => {
                    sockets.extend(listeners);
                    continue;
                }
                Err(error) => tracing::debug!(%error, "list sockets by inet_diag"),
            }
        }
        let path = format!("/proc/thread-self/net/{name}");
        match listed(protocol, &path) {
            Ok(listed) => sockets.extend(listed),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(NetError::os("list sockets in", &path, source, "CAP_SYS_PTRACE")),
        }
    }
    Ok(sockets)
}

/// Which processes have the sockets with these inodes; of some, nobody may be found without the right to look.
#[must_use]
pub fn socket_owners(inodes: &BTreeSet<u64>) -> BTreeMap<u64, SocketOwner> {
    let mut owners = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for (pid, path) in
        processes.filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())))
    {
        for inode in socket_inodes(&path.join("fd")).filter(|inode| inodes.contains(inode)) {
            owners.entry(inode).or_insert_with(|| SocketOwner { pid, command: command(&path) });
        }
    }
    owners
}

/// The name by which the process in `directory` calls itself, which it may have chosen to be any bytes
/// (`prctl(PR_SET_NAME)`).
pub(super) fn command(directory: &std::path::Path) -> String {
    let name = fs::read(directory.join("comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name));
    visible(&name).into_owned()
}

/// The inodes of the sockets of this process, and of those that it has started.
#[must_use]
pub fn own_sockets() -> BTreeSet<u64> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let children = threads.flat_map(|thread| {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        children.split_ascii_whitespace().map(|pid| format!("/proc/{pid}/fd")).collect::<Vec<_>>()
    });
    let all = std::iter::once("/proc/self/fd".to_owned()).chain(children);
    all.flat_map(|directory| socket_inodes(directory.as_ref()).collect::<Vec<_>>()).collect()
}

fn socket_inodes(descriptors: &std::path::Path) -> impl Iterator<Item = u64> {
    fs::read_dir(descriptors).into_iter().flatten().flatten().filter_map(|entry| {
        let target = fs::read_link(entry.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

pub(super) fn listed(protocol: Protocol, path: &str) -> io::Result<Vec<ListeningSocket>> {
    let mut sockets = Vec::new();
    for line in BufReader::new(File::open(path)?).lines().skip(1) {
        match listening(protocol, &line?) {
            Some(socket) => sockets.push(socket),
            // TCP's listening sockets come first (net/ipv4/tcp_ipv4.c, tcp_get_idx), and there may be a million others.
            None if protocol == Protocol::Tcp => break,
            None => {}
        }
    }
    Ok(sockets)
}

/// The socket of a line, unless it is one that has its peer already.
fn listening(protocol: Protocol, line: &str) -> Option<ListeningSocket> {
    const TCP_LISTEN: &str = "0A";
    const UDP_UNCONNECTED: &str = "07";
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next()?;
    let state = fields.nth(1)?;
    let listens = match protocol {
        Protocol::Tcp => TCP_LISTEN,
        Protocol::Udp => UDP_UNCONNECTED,
    };
    if state != listens {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    Some(ListeningSocket { protocol, address: address(local)?, inode })
}

/// `0100007F:1F90`: words of 32 bits as the host reads them, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let mut octets = [0; 16];
    for (word, bytes) in octets.chunks_exact_mut(4).zip(0..address.len() / 8) {
        let digits = address.get(bytes * 8..bytes * 8 + 8)?;
        word.copy_from_slice(&u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
    }
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(*octets.first_chunk::<4>()?).into(),
        32 => Ipv6Addr::from(octets).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn lines_of_proc_are_read() {
        let line = "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0";
        let socket = listening(Protocol::Tcp, line).unwrap();
        assert_eq!((socket.address, socket.inode), ("127.0.0.1:8080".parse().unwrap(), 4711));
        assert_eq!(listening(Protocol::Tcp, &line.replace(" 0A ", " 01 ")), None);
        assert_eq!(listening(Protocol::Udp, line), None);
        assert_eq!(
            address("B80D0120000000000000000001000000:0035"),
            Some("[2001:db8::1]:53".parse().unwrap())
        );
        assert_eq!(address("0100007F"), None);
    }

    #[test]
    fn sockets_that_listen_are_found_with_their_owner() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect("127.0.0.1:9").unwrap();
        let sockets = listening_sockets().unwrap();
        let own = own_sockets();
        for (protocol, address, fd) in [
            (Protocol::Tcp, tcp.local_addr().unwrap(), tcp.as_raw_fd()),
            (Protocol::Udp, udp.local_addr().unwrap(), udp.as_raw_fd()),
        ] {
            let found = sockets
                .iter()
                .find(|socket| socket.protocol == protocol && socket.address == address)
                .unwrap();
            let link = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
            assert_eq!(link.to_str().unwrap(), format!("socket:[{}]", found.inode));
            assert!(own.contains(&found.inode));
            let owners = socket_owners(&BTreeSet::from([found.inode]));
            assert_eq!(owners[&found.inode].pid, std::process::id());
        }
        let address = connected.local_addr().unwrap();
        assert!(!sockets.iter().any(|socket| socket.protocol == Protocol::Udp && socket.address == address));
    }
}

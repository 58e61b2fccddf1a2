//! Clients of UDP services. A connected one takes only what comes from the very address and port that it dialled, so that
//! an answer from anywhere else is no answer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::netns::Netns;

/// The time that an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The time after which it is looked whether a datagram was dropped.
const RETRY: Duration = Duration::from_secs(3);

/// The time to wait for what must not come.
const SILENCE: Duration = Duration::from_millis(300);

/// The text that is sent where nothing depends on it.
const HELLO: &[u8] = b"is anybody there?";

/// A socket in `netns` that is connected to `target`.
pub fn client(netns: &Netns, target: SocketAddr) -> UdpSocket {
    client_from(netns, SocketAddr::new(unspecified(target), 0), target)
}

/// A socket in `netns`, bound to `client` and connected to `target`.
pub fn client_from(netns: &Netns, client: SocketAddr, target: SocketAddr) -> UdpSocket {
    let socket = bound(netns, client);
    socket.connect(target).unwrap_or_else(|error| panic!("connect to {target}: {error}"));
    socket
}

/// A socket in `netns`, bound to `address` even if no interface has it.
pub fn bound(netns: &Netns, address: SocketAddr) -> UdpSocket {
    netns.run(|| {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).expect("open a socket");
        if address.is_ipv6() {
            socket.set_freebind_v6(true).expect("allow any address");
        }
        socket.bind(&address.into()).unwrap_or_else(|error| panic!("bind {address}: {error}"));
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(PATIENCE)).expect("limit reading");
        socket
    })
}

/// The address that means none, of the family of `target`.
pub fn unspecified(target: SocketAddr) -> IpAddr {
    if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// The next datagram.
pub fn hear(client: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut heard = vec![0; 65_536];
    // With a limit to reading, the kernel does not resume a call that a signal interrupted.
    let length = loop {
        match client.recv(&mut heard) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => break received?,
        }
    };
    heard.truncate(length);
    Ok(heard)
}

/// The number of packets that the kernel has dropped because a processor had too many before it
/// (net.core.netdev_max_backlog), in any namespace: the one way for a datagram to get lost on the loopback interface that
/// is nobody's fault.
pub fn dropped_by_backlog() -> u64 {
    let statistics = std::fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let of_a_processor = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    statistics.lines().filter_map(of_a_processor).sum()
}

/// `client` says something, and `origin` answers: where the origin has heard it from. Says it again if the kernel has dropped packets
/// meanwhile, whosever they were.
pub fn exchange(client: &UdpSocket, origin: &UdpSocket, said: &[u8], answer: &[u8]) -> SocketAddr {
    let begun = Instant::now();
    loop {
        let dropped = dropped_by_backlog();
        client.send(said).expect("say something");
        let from = loop {
            origin.set_read_timeout(Some(RETRY)).expect("limit reading");
            let mut heard = vec![0; 65_536];
            match origin.recv_from(&mut heard) {
                Ok((length, from)) => {
                    assert_eq!(&heard[..length], said);
                    break Some(from);
                }
                Err(error) => assert!(begun.elapsed() < PATIENCE, "nothing reached the origin: {error}"),
            }
            if dropped_by_backlog() > dropped {
                break None;
            }
        };
        let Some(from) = from else { continue };
        origin.send_to(answer, from).expect("answer");
        assert_eq!(hear(client).expect("hear the answer"), answer);
        return from;
    }
}

/// Sends `said` and expects it back. Says it again if the kernel has dropped packets meanwhile, whosever they were.
pub fn assert_echo(client: &UdpSocket, said: &[u8]) {
    let target = client.peer_addr().expect("a connected client");
    let heard = loop {
        let dropped = dropped_by_backlog();
        client.send(said).unwrap_or_else(|error| panic!("send {} bytes to {target}: {error}", said.len()));
        match hear(client) {
            Ok(heard) => break heard,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && dropped_by_backlog() > dropped => {
                println!("the kernel dropped packets; {target} is asked again");
            }
            Err(error) => panic!("no echo of {} bytes from {target}: {error}", said.len()),
        }
    };
    assert!(heard == said, "{target} sent back {} bytes instead of {}, or others", heard.len(), said.len());
}

/// Expects an echo from each of `targets`, each asked by a client of its own.
pub fn assert_echoes(netns: &Netns, targets: &[SocketAddr]) {
    for target in targets {
        assert_echo(&client(netns, *target), target.to_string().as_bytes());
    }
}

/// Expects an ICMP error, and at once, from each of `targets`.
pub fn assert_refused(netns: &Netns, targets: &[SocketAddr]) {
    for target in targets {
        let client = client(netns, *target);
        client.send(HELLO).unwrap_or_else(|error| panic!("send to {target}: {error}"));
        match hear(&client) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            other => panic!("{target} answered {other:?}"),
        }
    }
}

/// Sends `said` and expects neither an answer nor an error.
pub fn assert_silence_to(client: &UdpSocket, said: &[u8]) {
    client.send(said).unwrap_or_else(|error| panic!("send {} bytes: {error}", said.len()));
    assert_silence(client);
}

/// Expects neither an answer nor an error.
pub fn assert_silence(client: &UdpSocket) {
    client.set_read_timeout(Some(SILENCE)).expect("limit reading");
    match hear(client) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        other => panic!("heard {other:?}"),
    }
    client.set_read_timeout(Some(PATIENCE)).expect("limit reading");
}

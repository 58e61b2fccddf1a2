//! Origins for datagrams, which can die and come back. Know nothing of steering.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::netns::Netns;

/// The time after which it looks whether it is to die.
const LOOK: Duration = Duration::from_millis(20);

/// The ports of the namespace that nobody gets who asks for any.
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The room for what waits at its socket.
const ROOM: usize = 4 << 20;

/// A server of datagrams in a namespace. It answers until it is dropped; from then on its port is closed.
#[derive(Debug)]
pub struct DatagramOrigin {
    address: SocketAddr,
    dying: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DatagramOrigin {
    /// Answers each datagram to `address` (port 0: any) as `answer` says, which is told who sent it.
    pub fn serve(
        netns: &Netns,
        address: SocketAddr,
        mut answer: impl FnMut(&[u8], SocketAddr) -> Option<Vec<u8>> + Send + 'static,
    ) -> Self {
        let socket = netns.run(|| bind(address));
        let address = socket.local_addr().expect("the origin's address");
        let dying = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&dying);
        let thread = netns.spawn(move || {
            let mut said = vec![0; 65_536];
            while !told.load(Ordering::Relaxed) {
                match socket.recv_from(&mut said) {
                    Ok((length, from)) => {
                        if let Some(answer) = answer(&said[..length], from) {
                            // Whoever asked may be gone.
                            let _ = socket.send_to(&answer, from);
                        }
                    }
                    // An ICMP error is about an answer before.
                    Err(error) if is_passing(error.kind()) => {}
                    Err(error) => panic!("receive at the origin: {error}"),
                }
            }
        });
        Self { address, dying, thread: Some(thread) }
    }

    /// Sends everything back.
    pub fn echo(netns: &Netns, address: SocketAddr) -> Self {
        Self::serve(netns, address, |said, _| Some(said.to_vec()))
    }

    /// Answers with the address of whoever asks.
    pub fn observer(netns: &Netns, address: SocketAddr) -> Self {
        Self::serve(netns, address, |_, from| Some(from.to_string().into_bytes()))
    }

    /// The address at which it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for DatagramOrigin {
    fn drop(&mut self) {
        self.dying.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it panicked of has been reported there.
            let _ = thread.join();
        }
    }
}

fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionRefused)
}

fn bind(address: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).expect("open a socket");
    socket.set_recv_buffer_size(ROOM).expect("make room");
    socket.set_read_timeout(Some(LOOK)).expect("limit reading");
    socket.bind(&address.into()).unwrap_or_else(|error| panic!("bind {address}: {error}"));
    reserve(&socket);
    socket.into()
}

/// Has the kernel give the port of `socket` to nobody who asks for any, such as a session of the program's: an origin may come back.
fn reserve(socket: &Socket) {
    let port = socket.local_addr().ok().and_then(|address| Some(address.as_socket()?.port()));
    let reserved = fs::read_to_string(RESERVED).unwrap_or_default();
    let all: Vec<String> =
        reserved.trim().split(',').filter(|one| !one.is_empty()).map(str::to_owned).collect();
    let all: Vec<String> = all.into_iter().chain(port.map(|port| port.to_string())).collect();
    // Without it a port is taken now and then.
    let _ = fs::write(RESERVED, all.join(","));
}

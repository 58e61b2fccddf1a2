//! An origin that says which server it is of, and then sends everything back. It can be taken away and come back. Knows nothing of
//! routers.

use std::io::{self, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use socket2::{Domain, Socket, Type};

use crate::netns::Netns;

/// An origin of one server of a fleet.
#[derive(Debug)]
pub struct FleetOrigin {
    address: SocketAddr,
    name: u8,
    serving: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl FleetOrigin {
    /// One in `netns` that says `name` to everybody.
    pub fn serve(netns: &Netns, address: IpAddr, name: u8) -> Self {
        let mut origin = Self { address: SocketAddr::new(address, 0), name, serving: None };
        origin.come_back(netns);
        origin
    }

    /// The address at which it listens, or did.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens again where it did.
    pub fn come_back(&mut self, netns: &Netns) {
        let listener = netns.run(|| listen(self.address)).expect("listen as an origin");
        self.address = listener.local_addr().expect("the listener's address");
        let is_open = Arc::new(AtomicBool::new(true));
        let (goes_on, name) = (Arc::clone(&is_open), self.name);
        let serving = netns.spawn(move || {
            for stream in listener.incoming() {
                if !goes_on.load(Ordering::Relaxed) {
                    return;
                }
                // The client sees what went wrong; the origin need not tell.
                thread::spawn(move || stream.and_then(|stream| answer(stream, name)));
            }
        });
        self.serving = Some((is_open, serving));
    }

    /// Listens no more. Whoever it serves is served on.
    pub fn go(&mut self, netns: &Netns) {
        let Some((is_open, serving)) = self.serving.take() else { return };
        is_open.store(false, Ordering::Relaxed);
        // It waits for somebody to come.
        netns.run(|| TcpStream::connect(self.address)).expect("wake the origin");
        serving.join().expect("the end of the origin");
    }
}

fn answer(mut stream: TcpStream, name: u8) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(&[name])?;
    io::copy(&mut stream.try_clone()?, &mut stream)?;
    stream.shutdown(Shutdown::Write)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

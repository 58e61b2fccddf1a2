//! The origin: what the first byte of a request asks for, with as few system calls as that takes. Measures nothing.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile;

use crate::station::{Set, place_of};

/// The length of every request, and of every answer but an endless one.
pub(crate) const MESSAGE: usize = 64;

/// Answer and close.
pub(crate) const SHORT: u8 = b's';

/// Answer and wait for the next request.
pub(crate) const KEPT: u8 = b'k';

/// Send for as long as somebody takes it.
pub(crate) const ENDLESS: u8 = b'e';

/// The bytes handed to the kernel at once.
const BLOCK: usize = 1 << 20;

/// The number of connections accepted before others have their turn.
const ACCEPTED: usize = 16;

pub(crate) struct Origin {
    listener: TcpListener,
    /// By descriptor.
    connections: Vec<Option<TcpStream>>,
    open: usize,
    endless: Vec<bool>,
    block: OwnedFd,
    buffer: Vec<u8>,
}

impl Origin {
    pub(crate) fn listen() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.set_tcp_nodelay(true).unwrap();
        socket.listen(i32::MAX).unwrap();
        socket.set_nonblocking(true).unwrap();
        let block = memfd_create("block", MFdFlags::MFD_CLOEXEC).unwrap();
        std::fs::File::from(block.try_clone().unwrap()).write_all(&vec![b'x'; BLOCK]).unwrap();
        Self {
            listener: socket.into(),
            connections: Vec::new(),
            open: 0,
            endless: Vec::new(),
            block,
            buffer: vec![0; 64 * 1024],
        }
    }

    pub(crate) fn listener(&self) -> impl AsFd + '_ {
        &self.listener
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The number of its connections.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    pub(crate) fn accept(&mut self, set: &Set) {
        for _ in 0..ACCEPTED {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true).unwrap();
                    let place = place_of(&stream);
                    set.add_accepted(&stream, place);
                    if self.connections.len() <= place {
                        self.connections.resize_with(place + 1, || None);
                        self.endless.resize(place + 1, false);
                    }
                    self.connections[place] = Some(stream);
                    self.endless[place] = false;
                    self.open += 1;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // A proxy may reset what waits in the queue.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => panic!("accept at the origin: {error}"),
            }
        }
    }

    pub(crate) fn serve(&mut self, set: &Set, place: usize) {
        let Some(stream) = &mut self.connections[place] else { return };
        let ended = if self.endless[place] {
            flood(stream, &self.block)
        } else {
            match stream.read(&mut self.buffer) {
                Ok(0) => true,
                Ok(length) => match self.buffer[0] {
                    SHORT => stream.write(&self.buffer[..MESSAGE]).is_err() || length >= MESSAGE,
                    KEPT => stream.write(&self.buffer[..length]).is_err(),
                    _ => {
                        self.endless[place] = true;
                        set.watch_writing(&*stream, place);
                        false
                    }
                },
                Err(error) => error.kind() != ErrorKind::WouldBlock,
            }
        };
        if ended {
            self.connections[place] = None;
            self.open -= 1;
        }
    }
}

/// Sends until the socket is full. Whether the connection is over.
fn flood(stream: &TcpStream, block: &OwnedFd) -> bool {
    loop {
        let mut offset = 0;
        match sendfile(stream, block, Some(&mut offset), BLOCK) {
            Ok(_) => {}
            Err(nix::errno::Errno::EAGAIN) => return false,
            Err(_) => return true,
        }
    }
}

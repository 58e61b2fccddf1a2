//! One connection of a client: dialled without waiting, a request sent, answers read or thrown away. Keeps no time.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Socket, Type};

use crate::origin::MESSAGE;
use crate::station::{Set, place_of};

/// The part of an answer that came.
pub(crate) enum Came {
    /// So many bytes.
    Bytes(usize),
    /// The end, orderly or not.
    End(Result<(), ErrorKind>),
    /// Nothing.
    Nothing,
}

pub(crate) struct Client {
    stream: TcpStream,
    /// The bytes of the answer that have come.
    pub(crate) answered: usize,
}

impl Client {
    /// Dials `address` and sends a request that begins with `kind`.
    pub(crate) fn dial(set: &Set, address: SocketAddr, kind: u8) -> Self {
        let kind_of_socket = Type::STREAM.nonblocking();
        let socket = Socket::new(Domain::for_address(address), kind_of_socket, None).unwrap();
        // On loopback the handshake is over when the call returns, whatever it says.
        if let Err(error) = socket.connect(&address.into()) {
            assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS), "dial {address}: {error}");
        }
        let mut this = Self { stream: socket.into(), answered: 0 };
        this.ask(kind);
        set.add_client(&this.stream, this.place());
        this
    }

    /// Its place in a table of clients.
    pub(crate) fn place(&self) -> usize {
        place_of(&self.stream)
    }

    /// Sends a request.
    pub(crate) fn ask(&mut self, kind: u8) {
        let sent = self.stream.write(&[kind; MESSAGE]).unwrap();
        assert_eq!(sent, MESSAGE, "a request did not fit");
    }

    /// Reads what has come.
    pub(crate) fn read(&mut self) -> Came {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Came::End(Ok(())),
            Ok(length) => Came::Bytes(length),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Came::Nothing,
            Err(error) => Came::End(Err(error.kind())),
        }
    }

    /// Throws away what has come, without copying it.
    pub(crate) fn discard(&mut self, scratch: &mut [u8]) -> Came {
        match recv(self.stream.as_raw_fd(), scratch, MsgFlags::MSG_TRUNC) {
            Ok(0) => Came::End(Ok(())),
            Ok(length) => Came::Bytes(length),
            Err(nix::errno::Errno::EAGAIN) => Came::Nothing,
            Err(errno) => Came::End(Err(std::io::Error::from(errno).kind())),
        }
    }
}

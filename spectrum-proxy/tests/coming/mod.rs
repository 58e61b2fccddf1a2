//! Origins that go and come back, and what is said to them. Judges nothing of what clients hear.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};

use crate::namespace::Ports;
use crate::origin;

/// An origin that may go and come back.
pub(crate) struct Coming {
    pub(crate) address: SocketAddr,
    socket: Option<UdpSocket>,
    /// For each client and what it dialled: the last number that came.
    last: HashMap<(u8, u8), u32>,
    pub(crate) ports: Ports<(u8, u8)>,
}

impl Coming {
    pub(crate) fn new() -> Self {
        let socket = origin();
        socket.set_nonblocking(true).unwrap();
        Self {
            address: socket.local_addr().unwrap(),
            socket: Some(socket),
            last: HashMap::new(),
            ports: Ports::default(),
        }
    }

    pub(crate) fn go_or_come(&mut self) {
        self.answer();
        if self.socket.take().is_none() {
            // A session may have its port meanwhile.
            let Ok(socket) = UdpSocket::bind(self.address) else { return };
            socket.set_nonblocking(true).unwrap();
            self.socket = Some(socket);
        }
    }

    /// Sends back what has come.
    pub(crate) fn answer(&mut self) {
        let Some(socket) = &self.socket else { return };
        let mut heard = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut heard) {
            let said = Said::read(&heard[..length]);
            let last = self.last.insert((said.client, said.dialled), said.number);
            assert!(last.is_none_or(|last| last < said.number), "{said:?} after {last:?}");
            self.ports.heard(said.number, (said.client, said.dialled), from);
            socket.send_to(&heard[..length], from).unwrap();
        }
    }
}

/// What a client says, and would know again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    pub(crate) client: u8,
    pub(crate) dialled: u8,
    pub(crate) number: u32,
}

impl Said {
    pub(crate) fn bytes(self) -> [u8; 6] {
        let [a, b, c, d] = self.number.to_be_bytes();
        [self.client, self.dialled, a, b, c, d]
    }

    pub(crate) fn read(bytes: &[u8]) -> Self {
        let [client, dialled, a, b, c, d] = *bytes else { panic!("{bytes:?}") };
        Self { client, dialled, number: u32::from_be_bytes([a, b, c, d]) }
    }
}

//! The origin for datagrams: what the first byte of one asks for. Measures nothing.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};

use super::message::{Kind, Message};
use super::sys::{self, Batch, Way};
use super::{AT_ONCE, LONGEST, ROOM};

pub(crate) struct Origin {
    socket: UdpSocket,
    came: Batch,
    answers: Batch,
    /// What has come of the train of each peer.
    trains: HashMap<SocketAddrV4, (u32, usize)>,
    /// The peer by which each client was heard last, by its number.
    pub(crate) peers: HashMap<u32, SocketAddrV4>,
}

impl Origin {
    /// One at `address`.
    pub(crate) fn bind(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        sys::take_trains(&socket);
        sys::make_room(&socket, ROOM);
        Self {
            socket,
            came: Batch::new(AT_ONCE, LONGEST),
            answers: Batch::new(AT_ONCE, LONGEST),
            trains: HashMap::new(),
            peers: HashMap::new(),
        }
    }

    pub(crate) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Answers what waits. Its number.
    pub(crate) fn serve(&mut self) -> usize {
        let count = self.came.receive(&self.socket);
        for came in self.came.came() {
            let way = Way { from: None, to: came.peer };
            for bytes in came.bytes.chunks(came.part) {
                let Some(message) = Message::parse(bytes) else { continue };
                let answer = match message.kind {
                    Kind::Echo => Some((bytes, None)),
                    Kind::Known => {
                        self.peers.insert(message.client, came.peer);
                        Some((bytes, None))
                    }
                    Kind::Silent => {
                        self.peers.insert(message.client, came.peer);
                        None
                    }
                    Kind::Train => {
                        let (number, parts) = self.trains.entry(came.peer).or_default();
                        if *number != message.number {
                            (*number, *parts) = (message.number, 0);
                        }
                        *parts += 1;
                        // The whole of it is answered by a train, however it came.
                        (*parts == message.parts).then_some((bytes, Some(message.parts)))
                    }
                };
                let Some((bytes, parts)) = answer else { continue };
                if self.answers.is_full() {
                    self.answers.send(&self.socket);
                }
                let whole = bytes.len() * parts.unwrap_or(1);
                self.answers.add(way, whole, parts.map(|_| bytes.len()), |answer| {
                    answer.chunks_mut(bytes.len()).for_each(|part| part.copy_from_slice(bytes));
                });
            }
        }
        self.answers.send(&self.socket);
        count
    }
}

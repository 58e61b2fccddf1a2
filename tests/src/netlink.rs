//! Asking the kernel for a list of things without a program that does. Knows nothing of what is in the list.

use std::io::{self, Read as _};

use socket2::{Domain, Protocol, Socket, Type};

/// A subsystem that lists things.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Subsystem {
    /// The tables of nftables.
    NftTables,
    /// Sockets.
    Sockets,
}

const AF_NETLINK: i32 = 16;
const HEADER: usize = 16;

/// `NLM_F_REQUEST` and `NLM_F_DUMP`.
const LIST: u16 = 0x301;

const ERROR: u16 = 2;
const DONE: u16 = 3;

impl Subsystem {
    /// The content of each message with which the kernel answers `question`, for this thread's network
    /// namespace.
    ///
    /// # Errors
    /// Whatever the kernel says, such as that it has nothing of the kind.
    pub fn list(self, question: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        // NETLINK_NETFILTER with NFT_MSG_GETTABLE, NETLINK_SOCK_DIAG with SOCK_DIAG_BY_FAMILY.
        let (protocol, kind): (i32, u16) = match self {
            Self::NftTables => (12, 10 << 8 | 1),
            Self::Sockets => (4, 20),
        };
        let mut socket = Socket::new(Domain::from(AF_NETLINK), Type::RAW, Some(Protocol::from(protocol)))?;
        let length = u32::try_from(HEADER + question.len()).map_err(io::Error::other)?;
        let mut request = length.to_ne_bytes().to_vec();
        request.extend([kind, LIST].map(u16::to_ne_bytes).concat());
        // The sequence and the port may be anything, since one question is asked.
        request.extend([0; 8]);
        request.extend(question);
        socket.send(&request)?;
        let mut listed = Vec::new();
        // The kernel fills no more than this with one answer.
        let mut answer = vec![0; 1 << 15];
        loop {
            let length = socket.read(&mut answer)?;
            let mut messages = &answer[..length];
            while let Some((header, _)) = messages.split_first_chunk::<HEADER>() {
                let length = u32::from_ne_bytes(*header.first_chunk().expect("four bytes")) as usize;
                match u16::from_ne_bytes([header[4], header[5]]) {
                    DONE => return Ok(listed),
                    ERROR => {
                        let number = messages[HEADER..].first_chunk().expect("an error number");
                        return Err(io::Error::from_raw_os_error(-i32::from_ne_bytes(*number)));
                    }
                    _ => listed.push(messages[HEADER..length].to_vec()),
                }
                messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

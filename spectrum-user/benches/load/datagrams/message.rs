//! What a datagram of the load says: what is wanted of the origin, whose it is and which. Sends nothing.

/// The length of a message, without which it is none.
const LENGTH: usize = 12;

/// What is wanted of the origin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// The datagram back.
    Echo,
    /// The datagram back, and that the origin remembers whom it came from.
    Known,
    /// Nothing, but that the origin remembers whom it came from.
    Silent,
    /// The whole train back once it has come.
    Train,
}

/// The beginning of a datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    /// The number of datagrams in the train that it is a part of.
    pub(crate) parts: usize,
    /// The client's number.
    pub(crate) client: u32,
    /// The datagram's, of those of this client.
    pub(crate) number: u32,
}

impl Message {
    /// Writes it at the beginning of `bytes`.
    pub(crate) fn write(self, bytes: &mut [u8]) {
        bytes[0] = match self.kind {
            Kind::Echo => b'e',
            Kind::Known => b'k',
            Kind::Silent => b's',
            Kind::Train => b't',
        };
        bytes[1] = u8::try_from(self.parts).unwrap();
        bytes[4..8].copy_from_slice(&self.client.to_le_bytes());
        bytes[8..LENGTH].copy_from_slice(&self.number.to_le_bytes());
    }

    /// Reads it at the beginning of `bytes`.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, _) = bytes.split_first_chunk::<LENGTH>()?;
        let kind = match head[0] {
            b'e' => Kind::Echo,
            b'k' => Kind::Known,
            b's' => Kind::Silent,
            b't' => Kind::Train,
            _ => return None,
        };
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        Some(Self { kind, parts: usize::from(head[1]), client: number(4), number: number(8) })
    }
}

//! QUIC's connection ids, as far as they can be read by whoever has no key: what holds for every version (RFC 8999), and the header
//! that leaves out how long an id is. Does not know whose connection it is.

use std::fmt;

/// The id that a side of a QUIC connection has chosen for itself, and that the other side writes into what it sends.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct ConnectionId {
    length: u8,
    /// Zeroes behind the end.
    bytes: [u8; Self::LONGEST],
}

/// The bit of the first byte that a long header has.
const LONG: u8 = 0x80;

/// What stands before the ids of a long header: the first byte and the version.
const BEFORE: usize = 5;

impl ConnectionId {
    /// The length of the longest: that of QUIC's version 1.
    pub const LONGEST: usize = 20;

    /// The length of the shortest that is believed to be one client's. A shorter one can be hit upon by trying.
    pub const SHORTEST: usize = 4;

    /// An id of these bytes, if it is neither too short to be believed nor too long to be one.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut id = Self { length: u8::try_from(bytes.len()).ok()?, bytes: [0; Self::LONGEST] };
        id.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        (bytes.len() >= Self::SHORTEST).then_some(id)
    }

    /// The id that the sender of `datagram` has chosen for itself, which a long header tells. One that answers with the versions
    /// that there are repeats what it was sent, and has chosen none.
    #[must_use]
    pub fn of_sender(datagram: &[u8]) -> Option<Self> {
        let (_, source) = long_ids(datagram)?;
        Self::new(source)
    }

    /// The id of whom `datagram` is for. Where its header does not tell how long that is, the first bytes are taken, so many.
    #[must_use]
    pub fn of_receiver(datagram: &[u8], length: usize) -> Option<Self> {
        if is_long(datagram) {
            let (destination, _) = long_ids(datagram)?;
            return Self::new(destination).filter(|id| id.length() == length);
        }
        Self::new(datagram.get(1..)?.get(..length)?)
    }

    /// The number of its bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        usize::from(self.length)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length()).unwrap_or_default()
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// True if `datagram` may begin with a long header.
pub(super) fn is_long(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & LONG != 0)
}

/// The ids of the receiver and the sender in a long header of a version that there is.
fn long_ids(datagram: &[u8]) -> Option<(&[u8], &[u8])> {
    let ids = datagram.get(BEFORE..).filter(|_| is_long(datagram))?;
    let version = datagram.get(1..BEFORE)?;
    let (destination, rest) = counted(ids)?;
    let (source, _) = counted(rest)?;
    (version != [0; 4]).then_some((destination, source))
}

/// What a byte counts, and what follows it.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn long(version: u32, destination: &[u8], source: &[u8], rest: &[u8]) -> Vec<u8> {
        let mut datagram = vec![0xc3];
        datagram.extend(version.to_be_bytes());
        for id in [destination, source] {
            datagram.push(u8::try_from(id.len()).unwrap());
            datagram.extend_from_slice(id);
        }
        datagram.extend_from_slice(rest);
        datagram
    }

    #[test]
    fn the_first_datagrams_of_the_examples_are_read() {
        // RFC 9001, A.2 and A.3: the client's Initial with the id that it made up for the server, and the server's answer.
        let client = [0xc0, 0, 0, 0, 1, 8, 0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08, 0, 0, 0x44, 0x9e];
        let made_up = ConnectionId::of_receiver(&client, 8).unwrap();
        assert_eq!(format!("{made_up:?}"), "8394c8f03e515708");
        assert_eq!(ConnectionId::of_sender(&client), None, "a client need not have one");
        let server = [0xcf, 0, 0, 0, 1, 0, 8, 0xf0, 0x67, 0xa5, 0x50, 0x2a, 0x42, 0x62, 0xb5, 0, 0x40, 0x75];
        let chosen = ConnectionId::of_sender(&server).unwrap();
        assert_eq!(format!("{chosen:?}"), "f067a5502a4262b5");
        // What the client says next, with that id.
        let next = [&[0x43], chosen.as_bytes(), &[0xde, 0xad]].concat();
        assert_eq!(ConnectionId::of_receiver(&next, 8), Some(chosen));
        assert_ne!(ConnectionId::of_receiver(&next, 9), Some(chosen));
    }

    #[test]
    fn whoever_lists_versions_has_chosen_no_id() {
        assert_eq!(ConnectionId::of_sender(&long(0, &[1; 8], &[2; 8], &[0, 0, 0, 1])), None);
        assert!(ConnectionId::of_sender(&long(1, &[1; 8], &[2; 8], &[])).is_some());
        // Other versions than the first keep to the same form.
        assert!(ConnectionId::of_sender(&long(0x6b33_43cf, &[1; 8], &[2; 20], &[])).is_some());
    }

    #[test]
    fn ids_that_can_be_guessed_or_are_none_are_not_believed() {
        for (length, believed) in [(0, false), (3, false), (4, true), (20, true), (21, false), (255, false)] {
            let datagram = long(1, &[], &vec![7; length], &[]);
            assert_eq!(ConnectionId::of_sender(&datagram).is_some(), believed, "{length}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            version in 1..=u32::MAX,
            destination in prop::collection::vec(any::<u8>(), 4..=20),
            source in prop::collection::vec(any::<u8>(), 4..=20),
            rest in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let datagram = long(version, &destination, &source, &rest);
            let (sender, receiver) = (ConnectionId::new(&source), ConnectionId::new(&destination));
            prop_assert_eq!(ConnectionId::of_sender(&datagram), sender);
            prop_assert_eq!(ConnectionId::of_receiver(&datagram, destination.len()), receiver);
            let short = [&[0x40], &destination[..], &rest].concat();
            prop_assert_eq!(ConnectionId::of_receiver(&short, destination.len()), receiver);
            prop_assert_eq!(ConnectionId::of_sender(&short), None);
        }

        #[test]
        fn any_bytes_are_read_within_their_end(datagram in prop::collection::vec(any::<u8>(), 0..64), length in 0..70_usize) {
            for id in [ConnectionId::of_sender(&datagram), ConnectionId::of_receiver(&datagram, length)].into_iter().flatten() {
                prop_assert!((ConnectionId::SHORTEST..=ConnectionId::LONGEST).contains(&id.length()));
                prop_assert!(datagram.windows(id.length()).any(|bytes| bytes == id.as_bytes()));
            }
        }

        #[test]
        fn a_header_that_is_cut_has_no_id_or_the_same(
            destination in prop::collection::vec(any::<u8>(), 0..=20),
            source in prop::collection::vec(any::<u8>(), 4..=20),
        ) {
            let datagram = long(1, &destination, &source, b"");
            for length in 0..datagram.len() {
                prop_assert_eq!(ConnectionId::of_sender(&datagram[..length]), None);
            }
        }
    }
}

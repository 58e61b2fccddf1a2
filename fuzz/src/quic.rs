//! What holds for every datagram of a QUIC client or its origin, and for those that are none. Knows no connection: who follows whom is
//! said by tests with examples.

use spectrum_proxy::ConnectionId;

/// The bytes of the input that are looked at: longer than any header with two ids, and short enough to be cut everywhere.
const LOOKED_AT: usize = 600;

/// Panics unless the ids in `data` are read as every datagram's have to be.
pub(crate) fn holds(data: &[u8]) {
    let data = &data[..data.len().min(LOOKED_AT)];
    let of_sender = ConnectionId::of_sender(data);
    if let Some(id) = of_sender {
        is_in(data, id);
        assert!(
            data[0] & 0x80 != 0 && data[1..5] != [0; 4],
            "only a long header of a version says who sends"
        );
    }
    let lengths = 0..=2 * ConnectionId::LONGEST;
    let of_receiver: Vec<_> = lengths.map(|length| ConnectionId::of_receiver(data, length)).collect();
    for (length, id) in of_receiver.iter().enumerate().filter_map(|(length, id)| Some((length, (*id)?))) {
        assert_eq!(id.length(), length);
        is_in(data, id);
    }
    if data.first().is_some_and(|first| first & 0x80 != 0) {
        assert!(of_receiver.iter().flatten().count() <= 1, "a long header says how long the id is");
    }
    is_the_same_however_it_is_cut(data, of_sender, &of_receiver);
}

fn is_in(data: &[u8], id: ConnectionId) {
    assert!((ConnectionId::SHORTEST..=ConnectionId::LONGEST).contains(&id.length()));
    assert!(data.windows(id.length()).any(|bytes| bytes == id.as_bytes()), "{id:?}");
    assert_eq!(ConnectionId::new(id.as_bytes()), Some(id));
}

/// Of a datagram that is cut the ids are unknown, or those of the whole.
fn is_the_same_however_it_is_cut(
    data: &[u8],
    of_sender: Option<ConnectionId>,
    of_receiver: &[Option<ConnectionId>],
) {
    for length in 0..data.len() {
        let cut = &data[..length];
        assert!(ConnectionId::of_sender(cut).is_none_or(|id| Some(id) == of_sender), "after {length} bytes");
        for (of, whole) in of_receiver.iter().enumerate() {
            let id = ConnectionId::of_receiver(cut, of);
            assert!(id.is_none() || id == *whole, "after {length} bytes");
        }
    }
}

//! What holds for every beginning of a connection, or of a datagram, from a trusted proxy. Knows no header: which bytes mean what is said by
//! tests with examples.

use spectrum_proxy::header::{Extensions, Header, MAX_LENGTH, Parsed, SimpleHeader};
use spectrum_user::model::ProxyVersion;

/// The bytes of the input that are looked at: longer than any header, and short enough to be cut everywhere.
const LOOKED_AT: usize = MAX_LENGTH + 64;

/// Panics unless `data` is understood or refused as every beginning has to be.
pub(crate) fn holds(data: &[u8]) {
    let data = &data[..data.len().min(LOOKED_AT)];
    let answer = Header::parse(data);
    is_the_same_however_it_is_cut(data, answer);
    begins_a_datagram_as_it_begins_a_connection(data, answer);
    match answer {
        Parsed::Complete(header, length) => {
            assert!((1..=data.len().min(MAX_LENGTH)).contains(&length), "{length} of {} bytes", data.len());
            means_the_same_when_passed_on(header, &Header::extensions(&data[..length]));
        }
        Parsed::Incomplete => {
            assert!(data.len() < MAX_LENGTH, "nothing is waited for beyond the longest header");
        }
        Parsed::Malformed => {}
    }
}

/// Every cut answers "incomplete" up to some length, and from there on what the whole answers.
fn is_the_same_however_it_is_cut(data: &[u8], whole: Parsed) {
    let mut answered = false;
    for length in 0..data.len() {
        let answer = Header::parse(&data[..length]);
        if answer == Parsed::Incomplete {
            assert!(!answered, "incomplete again after {length} bytes");
        } else {
            assert_eq!(answer, whole, "after {length} bytes");
            answered = true;
        }
    }
}

fn means_the_same_when_passed_on(header: Header, extensions: &Extensions) {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let bytes = header.bytes_with(version, extensions);
        assert!(bytes.len() <= MAX_LENGTH, "{} bytes", bytes.len());
        assert_eq!(Header::parse(&bytes), Parsed::Complete(header, bytes.len()), "{version}");
        let again = Header::extensions(&bytes);
        assert_eq!(header.bytes_with(version, &again), bytes, "nothing is left out twice");
        if again.unique_id().is_some() {
            assert_eq!(again.unique_id(), extensions.unique_id());
        }
    }
}

/// Of a datagram the same bytes are a header, if they are one of version 2, but for whom it speaks for.
fn begins_a_datagram_as_it_begins_a_connection(data: &[u8], answer: Parsed) {
    let header = Header::parse_datagram(data);
    match answer {
        Parsed::Complete(_, length) if data.first() != Some(&b'P') => {
            assert_eq!(header.map(|(_, length)| length), Some(length));
        }
        _ => assert_eq!(header, None),
    }
    if let Some((header, _)) = header {
        let bytes = header.datagram_bytes();
        assert_eq!(Header::parse_datagram(&bytes), Some((header, bytes.len())));
    }
    if let Some((header, rest)) = SimpleHeader::parse(data) {
        assert_eq!(rest, &data[SimpleHeader::LENGTH..]);
        assert_eq!(SimpleHeader::parse(&header.bytes()), Some((header, &[][..])));
    }
}

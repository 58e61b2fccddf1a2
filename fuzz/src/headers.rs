//! What holds for every beginning of a connection from a trusted proxy. Knows no header: which bytes mean what is said by
//! tests with examples.

use spectrum_proxy::header::{Extensions, Header, MAX_LENGTH, Parsed};
use spectrum_user::model::ProxyVersion;

/// The bytes of the input that are looked at: longer than any header, and short enough to be cut everywhere.
const LOOKED_AT: usize = MAX_LENGTH + 64;

/// Panics unless `data` is understood or refused as every beginning has to be.
pub(crate) fn holds(data: &[u8]) {
    let data = &data[..data.len().min(LOOKED_AT)];
    let answer = Header::parse(data);
    is_the_same_however_it_is_cut(data, answer);
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

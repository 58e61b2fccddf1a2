//! What the datagrams of a trusted proxy begin with, and which of those that came together belong together. Believes nobody: who is
//! trusted, and what becomes of a datagram, is decided elsewhere.

use std::iter::once;
use std::net::SocketAddr;
use std::ops::Range;

use super::table::SessionId;
use super::train::Train;
use crate::header::{Header, Parsed, SimpleHeader};
use crate::report::HeaderFault;

/// The kind of header that the datagrams of a session begin with.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
pub(super) enum HeaderFormat {
    /// None that we can read.
    None,
    /// Simple Proxy Protocol, which answers have, too.
    Spp,
    /// Version 2 of the PROXY protocol.
    V2,
}

/// The header of one datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct IncomingHeader {
    pub(super) format: HeaderFormat,
    /// The client and what it dialled; `None` where the proxy speaks for itself, as in its health checks.
    pub(super) named: Option<(SocketAddr, SocketAddr)>,
    pub(super) length: usize,
}

impl IncomingHeader {
    /// The header that `datagram` begins with, or what is wrong with it.
    pub(super) fn read(datagram: &[u8]) -> Result<Self, HeaderFault> {
        if let Some((SimpleHeader { client, dialled }, _)) = SimpleHeader::parse(datagram) {
            let named = Some((client, dialled));
            return Ok(Self { format: HeaderFormat::Spp, named, length: SimpleHeader::LENGTH });
        }
        match Header::of_datagram(datagram) {
            Parsed::Complete(header, length) => {
                let named = match header {
                    Header::Proxied { client, dialled } => Some((client, dialled)),
                    Header::Local => None,
                };
                Ok(Self { format: HeaderFormat::V2, named, length })
            }
            Parsed::Incomplete => Err(HeaderFault::Missing),
            Parsed::Malformed if SimpleHeader::begins(datagram) => Err(HeaderFault::Missing),
            Parsed::Malformed => Err(HeaderFault::Malformed),
        }
    }
}

/// Datagrams that came one after the other as parts of a train, of one session, behind the same header each, and so alike that they
/// may travel on as a train.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Run {
    pub(super) id: SessionId,
    /// The bytes of the train that are the header of the first.
    pub(super) header: Range<usize>,
    /// Those that are the content of each.
    pub(super) parts: Vec<Range<usize>>,
}

impl Run {
    /// True if a datagram of so many bytes without its header may follow.
    fn has_place_for(&self, length: usize) -> bool {
        let mut lengths = [self.parts.first(), self.parts.last()].into_iter().flatten().map(Range::len);
        // All are of a length, but for the last, and the kernel makes no train of nothing.
        let first = lengths.next().unwrap_or(0);
        lengths.all(|last| last == first) && (1..=first).contains(&length)
    }
}

/// The runs of `train`, in their order. `session_of` finds the session of a datagram with this header, or without one; what has no
/// session is left out.
pub(super) fn runs(
    train: &Train<'_>,
    mut session_of: impl FnMut(Result<IncomingHeader, HeaderFault>, &[u8]) -> Option<SessionId>,
) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let (mut from, mut goes_on) = (0, false);
    for datagram in train.datagrams() {
        let end = from + datagram.len();
        // The same header means the same session, which is not looked for again.
        if goes_on
            && let Some(run) = runs.last_mut()
            && train.payload.get(run.header.clone()).is_some_and(|header| datagram.starts_with(header))
            && run.has_place_for(datagram.len() - run.header.len())
        {
            run.parts.push(from + run.header.len()..end);
        } else {
            let header = IncomingHeader::read(datagram);
            let id = session_of(header, datagram);
            goes_on = false;
            if let (Ok(header), Some(id)) = (header, id) {
                let content = from + header.length;
                runs.push(Run { id, header: from..content, parts: once(content..end).collect() });
                goes_on = true;
            }
        }
        from = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// The headers of three clients, and what is none.
    fn header(of: u8) -> Vec<u8> {
        let client = SocketAddr::from(([192, 0, 2, of], 4096));
        let v6 = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 4096));
        let dialled = "198.51.100.2:443".parse().unwrap();
        match of {
            0 => Vec::new(),
            1 => SimpleHeader { client, dialled }.bytes().to_vec(),
            2 => Header::Proxied { client, dialled }.datagram_bytes(),
            _ => Header::Proxied { client: v6, dialled }.datagram_bytes(),
        }
    }

    fn train(payload: &[u8], segment: usize) -> Train<'_> {
        Train { sender: None, dialled: None, hops: 64, class: 0, payload, segment, is_whole: true }
    }

    /// What each is told from, and where it is.
    fn taken_apart(payload: &[u8], segment: usize) -> Vec<Run> {
        runs(&train(payload, segment), |header, _| {
            Some(SessionId::from_bits(
                header.ok()?.named?.0.ip().to_canonical().to_string().bytes().last()?.into(),
            ))
        })
    }

    #[test]
    fn a_datagram_says_for_whom_it_is_or_what_is_wrong_with_it() {
        let named = |of: u8| {
            let client = if of == 3 { "[2001:db8::1]:4096".to_owned() } else { format!("192.0.2.{of}:4096") };
            Some((client.parse().unwrap(), "198.51.100.2:443".parse().unwrap()))
        };
        for (of, format, length) in
            [(1, HeaderFormat::Spp, 38), (2, HeaderFormat::V2, 28), (3, HeaderFormat::V2, 52)]
        {
            let datagram = [&header(of)[..], b"what the client said"].concat();
            let read = IncomingHeader { format, named: named(of), length };
            assert_eq!(IncomingHeader::read(&datagram), Ok(read));
            assert_eq!(IncomingHeader::read(&datagram[..length]), Ok(read));
            for cut in 0..length {
                assert_eq!(IncomingHeader::read(&datagram[..cut]), Err(HeaderFault::Missing), "{cut}");
            }
        }
        let own = IncomingHeader { format: HeaderFormat::V2, named: None, length: 16 };
        assert_eq!(IncomingHeader::read(&Header::Local.datagram_bytes()), Ok(own));
        let mut of_nothing = header(2);
        of_nothing[12] = 0x31;
        for other in [&b"what the client said"[..], b"PROXY UNKNOWN\r\n", b"\x56\xed", b"V", &of_nothing] {
            let fault = if other == b"V" { HeaderFault::Missing } else { HeaderFault::Malformed };
            assert_eq!(IncomingHeader::read(other), Err(fault), "{other:?}");
        }
    }

    #[test]
    fn what_is_alike_stays_together_and_nothing_is_made_of_nothing() {
        let one = |said: &[u8]| [&header(2)[..], said].concat();
        let parts = |payload: &[u8], segment| -> Vec<usize> {
            taken_apart(payload, segment).iter().map(|run| run.parts.len()).collect()
        };
        assert_eq!(parts(&[one(b"aaaa"), one(b"bbbb"), one(b"cc")].concat(), 32), [3]);
        assert_eq!(parts(&[one(b"aaaa"), one(b"bbbb"), one(b"")].concat(), 32), [2, 1]);
        assert_eq!(parts(&[one(b""), one(b"")].concat(), 28), [1, 1]);
        assert!(taken_apart(b"", 0).is_empty());
        // Of one length with their headers, and not without.
        let simple = [&header(1)[..], b"aa"].concat();
        let longer = [&header(2)[..], b"aaaaaaaaaaaa"].concat();
        assert_eq!(parts(&[longer.clone(), simple, longer].concat(), 40), [1, 1, 1]);
    }

    proptest! {
        #[test]
        fn every_datagram_with_a_header_is_in_one_run_in_its_order(
            whose in vec(0..4_u8, 1..65), room in 0..40_usize, last in 0..40_usize,
        ) {
            let segment = 52 + room;
            let mut payload = Vec::new();
            let mut expected: Vec<(u8, Range<usize>)> = Vec::new();
            for (index, of) in whose.iter().enumerate() {
                let length = if index + 1 == whose.len() { segment.min(52 + last) } else { segment };
                let from = payload.len();
                payload.extend(header(*of));
                let content = payload.len()..from + length;
                payload.resize(from + length, b'x');
                if *of > 0 {
                    expected.push((*of, content));
                }
            }
            let found = taken_apart(&payload, segment);
            let parts: Vec<_> = found.iter().flat_map(|run| run.parts.clone()).collect();
            prop_assert_eq!(&parts, &expected.iter().map(|(_, part)| part.clone()).collect::<Vec<_>>());
            let mut places = expected.iter();
            for run in &found {
                let header_of = places.clone().next().map(|(of, _)| header(*of));
                prop_assert_eq!(payload.get(run.header.clone()), header_of.as_deref());
                let first = run.parts[0].len();
                let (end, all_but_last) = run.parts.split_last().unwrap();
                prop_assert!(all_but_last.iter().all(|part| part.len() == first) && end.len() <= first);
                prop_assert!(run.parts.len() == 1 || !end.is_empty());
                let of: Vec<u8> = places.by_ref().take(run.parts.len()).map(|(of, _)| *of).collect();
                prop_assert!(of.iter().all(|one| *one == of[0]));
            }
        }
    }
}

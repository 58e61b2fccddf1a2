//! What tells an origin whose datagrams they are: a session's header, before which of them it stands, and on answers. What a header
//! looks like is `header`'s affair at the root.

use std::cell::Cell;
use std::net::SocketAddr;

use crate::header::{Extensions, Header, SimpleHeader};
use crate::model::DatagramHeader;

/// The header of one session at one origin.
#[derive(Debug, serde::Deserialize, serde::Serialize)]
pub(super) struct Head {
    kind: DatagramHeader,
    bytes: Box<[u8]>,
    /// That of where the client was before, with which answers may still be on their way.
    former: Option<Box<[u8]>>,
    /// True once the origin was told what it is told but once.
    is_told: Cell<bool>,
}

/// Where a header stands, of the datagrams that go to the origin next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Before<'a> {
    /// Before each of them.
    Each(&'a [u8]),
    /// Before the first of them.
    First(&'a [u8]),
    /// In a datagram of its own, before them.
    Alone(&'a [u8]),
    /// Nowhere any more.
    None,
}

impl Head {
    /// The header that says who dialled what, and in version 2 also what a trusted proxy said besides.
    pub(super) fn new(
        kind: DatagramHeader,
        client: SocketAddr,
        dialled: SocketAddr,
        extensions: &Extensions,
    ) -> Self {
        let bytes = match kind {
            DatagramHeader::Spp => SimpleHeader { client, dialled }.bytes().into(),
            DatagramHeader::V2 | DatagramHeader::V2Alone | DatagramHeader::V2First => {
                Header::Proxied { client, dialled }.datagram_bytes_with(extensions).into()
            }
        };
        Self { kind, bytes, former: None, is_told: Cell::new(false) }
    }

    /// The client has another address. An origin that is told but once would take another header for the client's own words.
    pub(super) fn follow(&mut self, client: SocketAddr, dialled: SocketAddr, extensions: &Extensions) {
        if matches!(self.kind, DatagramHeader::Spp | DatagramHeader::V2) {
            let Self { bytes, .. } = self.with(client, dialled, extensions);
            self.former = Some(std::mem::replace(&mut self.bytes, bytes));
        }
    }

    /// Where it stands now. What is told but once counts as told from here on.
    pub(super) fn next(&self) -> Before<'_> {
        match self.kind {
            DatagramHeader::Spp | DatagramHeader::V2 => Before::Each(&self.bytes),
            _ if self.is_told.replace(true) => Before::None,
            DatagramHeader::V2Alone => Before::Alone(&self.bytes),
            DatagramHeader::V2First => Before::First(&self.bytes),
        }
    }

    /// A datagram of these two parts did not leave: what is told but once is to be told again if it was in there.
    pub(super) fn was_lost(&self, head: &[u8], payload: &[u8]) {
        if [head, payload].contains(&&*self.bytes) {
            self.is_told.set(false);
        }
    }

    /// True if what a trusted proxy says besides stands before every datagram, as it said it of each.
    pub(super) fn repeats_extensions(&self) -> bool {
        self.kind == DatagramHeader::V2
    }

    /// The same with other extensions.
    pub(super) fn with(&self, client: SocketAddr, dialled: SocketAddr, extensions: &Extensions) -> Self {
        Self::new(self.kind, client, dialled, extensions)
    }

    /// The bytes that it takes of every datagram, not only of one.
    pub(super) fn length(&self) -> usize {
        match self.kind {
            DatagramHeader::Spp | DatagramHeader::V2 => self.bytes.len(),
            DatagramHeader::V2Alone | DatagramHeader::V2First => 0,
        }
    }

    /// True if answers have it, too.
    pub(super) fn is_on_answers(&self) -> bool {
        self.kind == DatagramHeader::Spp
    }

    /// What the client is to get of an answer; `None` where it is not this client's.
    pub(super) fn strip<'a>(&self, answer: &'a [u8]) -> Option<&'a [u8]> {
        if !self.is_on_answers() {
            return Some(answer);
        }
        let (_, rest) = SimpleHeader::parse(answer)?;
        let is_its = |head: &[u8]| answer.starts_with(head);
        (is_its(&self.bytes) || self.former.as_deref().is_some_and(is_its)).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(kind: DatagramHeader) -> Head {
        let (client, dialled) = ("192.0.2.1:4096".parse().unwrap(), "198.51.100.2:443".parse().unwrap());
        Head::new(kind, client, dialled, &Extensions::default())
    }

    #[test]
    fn a_header_stands_where_the_word_says() {
        let each = head(DatagramHeader::V2);
        assert!((0..3).all(|_| matches!(each.next(), Before::Each(bytes) if bytes.len() == 28)));
        let simple = head(DatagramHeader::Spp);
        assert!((0..3).all(|_| matches!(simple.next(), Before::Each(bytes) if bytes.len() == 38)));
        let (first, alone) = (head(DatagramHeader::V2First), head(DatagramHeader::V2Alone));
        assert!(matches!(first.next(), Before::First(_)));
        assert!(matches!(alone.next(), Before::Alone(_)));
        for once in [first, alone] {
            assert_eq!(once.next(), Before::None);
            once.was_lost(b"", b"what the client said");
            assert_eq!(once.next(), Before::None);
            let own = once.bytes.clone();
            once.was_lost(&own, b"what the client said");
            assert_ne!(once.next(), Before::None);
            once.was_lost(b"", &own);
            assert_ne!(once.next(), Before::None);
            assert_eq!((once.next(), once.length()), (Before::None, 0));
        }
    }

    #[test]
    fn only_answers_with_the_session_s_own_header_are_its() {
        let simple = head(DatagramHeader::Spp);
        let Before::Each(own) = simple.next() else { panic!("not before each") };
        assert_eq!(simple.strip(&[own, b"answer"].concat()), Some(&b"answer"[..]));
        assert_eq!(simple.strip(own), Some(&b""[..]));
        assert_eq!(simple.strip(b"answer"), None);
        let (client, dialled) = ("192.0.2.9:4096".parse().unwrap(), "198.51.100.2:443".parse().unwrap());
        let other = simple.with(client, dialled, &Extensions::default());
        let Before::Each(others) = other.next() else { panic!("not before each") };
        assert_eq!(simple.strip(&[others, b"answer"].concat()), None);
        assert_eq!(head(DatagramHeader::V2).strip(b"answer"), Some(&b"answer"[..]));
    }

    #[test]
    fn every_datagram_names_where_the_client_is_now() {
        let none = Extensions::default();
        let (moved, dialled) = ("192.0.2.1:5000".parse().unwrap(), "198.51.100.2:443".parse().unwrap());
        for kind in [DatagramHeader::V2, DatagramHeader::Spp] {
            let (mut one, new) = (head(kind), head(kind).with(moved, dialled, &none));
            let before = one.bytes.clone();
            one.follow(moved, dialled, &none);
            assert_eq!(one.next(), new.next());
            assert_ne!(one.bytes, before);
            for own in [&before, &one.bytes] {
                assert!(one.strip(&[own, &b"answer"[..]].concat()).is_some());
            }
        }
        let mut once = head(DatagramHeader::V2First);
        assert_ne!(once.next(), Before::None);
        once.follow(moved, dialled, &none);
        assert_eq!(once.next(), Before::None);
    }
}

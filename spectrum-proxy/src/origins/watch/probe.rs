//! The questions of health checks by UDP, and whether an answer is one to them. Sends none.

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;

use crate::header::{Header, SimpleHeader};
use crate::model::{DatagramHeader, DatagramProbe, ProbeTemplate, Question};

/// QUIC's least size of a first datagram, to which servers answer nothing shorter (RFC 9000, 14.1).
const QUIC_LENGTH: usize = 1200;

/// A version of the pattern that no QUIC will ever have (RFC 9000, 15).
const NO_VERSION: [u8; 4] = [0x1a, 0x2a, 0x3a, 0x4a];

/// The length of QUIC's connection ids here: the shortest that servers must take for a client's first.
const QUIC_ID: usize = 8;

const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

const A2S_INFO: &[u8] = b"\xff\xff\xff\xffTSource Engine Query\0";

/// A question as it is asked once, with ids of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct AskedProbe {
    /// What goes before it, in a datagram of its own.
    pub(super) first: Option<Vec<u8>>,
    /// The datagram that is answered.
    pub(super) datagram: Vec<u8>,
    answer: Expected,
    /// What the answer must begin with, before what is expected.
    head: Vec<u8>,
}

/// What an answer must be.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Expected {
    Beginning(Vec<u8>),
    A2s,
    Dns([u8; 2]),
    Ntp([u8; 8]),
    Quic { own: [u8; QUIC_ID], theirs: [u8; QUIC_ID] },
    Stun([u8; 12]),
}

impl AskedProbe {
    /// What `probe` asks of `origin` from the address `own`.
    pub(super) fn new(probe: &DatagramProbe, own: SocketAddr, origin: SocketAddr) -> Self {
        let (question, answer) = match &probe.question {
            Question::Bytes { send, expect } => {
                (send.as_slice().to_vec(), Expected::Beginning(expect.as_slice().to_vec()))
            }
            Question::Template(template) => ask(*template),
        };
        let mut asked = Self { first: None, datagram: question, answer, head: Vec::new() };
        let before = |head: &[u8], question: &[u8]| [head, question].concat();
        match probe.header {
            None => {}
            Some(DatagramHeader::V2 | DatagramHeader::V2First) => {
                asked.datagram = before(&Header::Local.datagram_bytes(), &asked.datagram);
            }
            Some(DatagramHeader::V2Alone) => asked.first = Some(Header::Local.datagram_bytes()),
            // It has no way of saying that nobody is spoken for.
            Some(DatagramHeader::Spp) => {
                asked.head = SimpleHeader { client: own, dialled: origin }.bytes().to_vec();
                asked.datagram = before(&asked.head, &asked.datagram);
            }
        }
        asked
    }

    /// True if `answer` is one to this very question, from a server that can do its work.
    pub(super) fn is_answered_by(&self, answer: &[u8]) -> bool {
        answer.strip_prefix(self.head.as_slice()).is_some_and(|answer| self.answer.is(answer))
    }
}

/// A question of a protocol, and its answer.
fn ask(template: ProbeTemplate) -> (Vec<u8>, Expected) {
    match template {
        ProbeTemplate::A2s => (A2S_INFO.to_vec(), Expected::A2s),
        ProbeTemplate::Dns => {
            let id = random();
            // Recursion desired, one question: the name servers (2) of the root in the Internet (1).
            let question = [&id[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0], &[0, 0, 2, 0, 1]].concat();
            (question, Expected::Dns(id))
        }
        ProbeTemplate::Ntp => {
            let time = random();
            // Version 4, a client. Servers give the time that we claim to have back as it is.
            let mut question = vec![0; 40];
            question.splice(..1, [0x23]);
            question.extend(time);
            (question, Expected::Ntp(time))
        }
        ProbeTemplate::Quic => {
            let (own, theirs) = (random(), random());
            let mut question = vec![0xc0];
            question.extend(NO_VERSION);
            for id in [theirs, own] {
                question.push(8);
                question.extend(id);
            }
            question.resize(QUIC_LENGTH, 0);
            (question, Expected::Quic { own, theirs })
        }
        ProbeTemplate::Stun => {
            let id = random();
            // A binding request without attributes.
            ([&[0, 1, 0, 0][..], &STUN_COOKIE, &id].concat(), Expected::Stun(id))
        }
    }
}

impl Expected {
    fn is(&self, answer: &[u8]) -> bool {
        self.has_in(answer).is_some()
    }

    /// Something if `answer` is as it must be.
    fn has_in(&self, answer: &[u8]) -> Option<()> {
        let is_good = match self {
            Self::Beginning(beginning) => answer.starts_with(beginning),
            // The information, or a number to ask for it with; servers of the older engine have another letter.
            Self::A2s => {
                matches!(answer.strip_prefix(&[0xff; 4])?, [b'I' | b'm', ..] | [b'A', _, _, _, _, ..])
            }
            Self::Dns(id) => {
                let header = answer.first_chunk::<12>()?;
                let [a, b, flags, code, ..] = header;
                // An answer to a query. Whoever refuses it is there; who fails to serve is not of use (2).
                [*a, *b] == *id && flags & 0xf8 == 0x80 && code & 0x0f != 2
            }
            Self::Ntp(time) => {
                let [first, stratum, ..] = answer.first_chunk::<48>()?;
                // A server's; a stratum of 0 or beyond 15 has no time to tell.
                first & 7 == 4 && (1..16).contains(stratum) && answer.get(24..32)? == time
            }
            Self::Quic { own, theirs } => {
                let (first, rest) = answer.split_first()?;
                let rest = rest.strip_prefix(&[0; 4])?.strip_prefix(&[8])?.strip_prefix(own)?;
                let versions = rest.strip_prefix(&[8])?.strip_prefix(theirs)?;
                first & 0x80 != 0 && versions.len() >= 4
            }
            Self::Stun(id) => {
                let rest = answer.strip_prefix(&[1, 1])?.get(2..)?.strip_prefix(&STUN_COOKIE)?;
                rest.starts_with(id)
            }
        };
        is_good.then_some(())
    }
}

/// Bytes that nobody guesses, as random as the keys of a hash table.
fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let state = RandomState::new();
    let mut bytes = [0; LENGTH];
    for (number, part) in bytes.chunks_mut(8).enumerate() {
        for (place, byte) in part.iter_mut().zip(state.hash_one(number).to_ne_bytes()) {
            *place = byte;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(question: Question, header: Option<DatagramHeader>) -> AskedProbe {
        let probe = DatagramProbe { question, header };
        AskedProbe::new(&probe, "192.0.2.1:4000".parse().unwrap(), "192.0.2.2:53".parse().unwrap())
    }

    fn of(template: ProbeTemplate) -> AskedProbe {
        asked(Question::Template(template), None)
    }

    #[test]
    fn a_name_server_answers_with_the_id_of_the_query() {
        let asked = of(ProbeTemplate::Dns);
        assert_eq!(asked.datagram[2..], [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1]);
        let mut answer = asked.datagram.clone();
        assert!(!asked.is_answered_by(&answer), "the question itself");
        answer[2] = 0x81;
        for (code, is_good) in [(0x80, true), (0x83, true), (0x85, true), (0x82, false)] {
            answer[3] = code;
            assert_eq!(asked.is_answered_by(&answer), is_good, "{code:x}");
        }
        answer[3] = 0x80;
        assert!(!asked.is_answered_by(&answer[..11]));
        answer[0] ^= 1;
        assert!(!asked.is_answered_by(&answer), "another query's");
        assert_ne!(of(ProbeTemplate::Dns).datagram[..2], asked.datagram[..2], "most likely");
    }

    #[test]
    fn a_time_server_gives_back_the_time_that_was_claimed() {
        let asked = of(ProbeTemplate::Ntp);
        assert_eq!((asked.datagram.len(), asked.datagram[0]), (48, 0x23));
        let mut answer = vec![0; 48];
        answer[..2].copy_from_slice(&[0x24, 2]);
        answer[24..32].copy_from_slice(&asked.datagram[40..]);
        assert!(asked.is_answered_by(&answer));
        for stratum in [0, 16] {
            answer[1] = stratum;
            assert!(!asked.is_answered_by(&answer), "has no time to tell");
        }
        answer[1] = 2;
        answer[31] ^= 1;
        assert!(!asked.is_answered_by(&answer), "another question's");
    }

    #[test]
    fn a_stun_server_answers_the_transaction() {
        let asked = of(ProbeTemplate::Stun);
        assert_eq!(asked.datagram[..8], [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
        assert_eq!(asked.datagram.len(), 20);
        let mut answer = asked.datagram.clone();
        answer[..4].copy_from_slice(&[1, 1, 0, 12]);
        answer.extend([0; 12]);
        assert!(asked.is_answered_by(&answer));
        answer[19] ^= 1;
        assert!(!asked.is_answered_by(&answer));
    }

    #[test]
    fn a_quic_server_tells_its_versions_with_the_ids_exchanged() {
        let asked = of(ProbeTemplate::Quic);
        assert_eq!((asked.datagram.len(), asked.datagram[0]), (1200, 0xc0));
        let (theirs, own) = (&asked.datagram[6..14], &asked.datagram[15..23]);
        let answer = [&[0x80, 0, 0, 0, 0, 8][..], own, &[8], theirs, &[0, 0, 0, 1]].concat();
        assert!(asked.is_answered_by(&answer));
        assert!(!asked.is_answered_by(&answer[..answer.len() - 4]), "no version");
        let swapped = [&[0x80, 0, 0, 0, 0, 8][..], theirs, &[8], own, &[0, 0, 0, 1]].concat();
        assert!(!asked.is_answered_by(&swapped));
        assert!(!asked.is_answered_by(&asked.datagram));
    }

    #[test]
    fn a_game_server_tells_of_itself_or_wants_a_number() {
        let asked = of(ProbeTemplate::A2s);
        assert_eq!(asked.datagram, b"\xff\xff\xff\xffTSource Engine Query\0");
        assert!(asked.is_answered_by(b"\xff\xff\xff\xffI\x11name"));
        assert!(asked.is_answered_by(b"\xff\xff\xff\xffA\x01\x02\x03\x04"));
        for other in [&b"\xff\xff\xff\xffA\x01"[..], b"\xff\xff\xff\xff", b"\xff\xff\xff\xffT", b"I", b""] {
            assert!(!asked.is_answered_by(other), "{other:?}");
        }
    }

    #[test]
    fn bytes_are_answered_by_what_begins_as_expected() {
        let bytes = |text: &str| text.parse().unwrap();
        let any = asked(Question::Bytes { send: bytes("ping"), expect: bytes("") }, None);
        assert_eq!(any.datagram, b"ping");
        assert!(any.is_answered_by(b"") && any.is_answered_by(b"whatever"));
        let pong = asked(Question::Bytes { send: bytes("ping"), expect: bytes("pong") }, None);
        assert!(pong.is_answered_by(b"pong!") && !pong.is_answered_by(b"pon"));
    }

    #[test]
    fn origins_that_expect_headers_are_asked_with_one() {
        let question = || Question::Bytes { send: "ping".parse().unwrap(), expect: "pong".parse().unwrap() };
        let nobody = Header::Local.datagram_bytes();
        for header in [DatagramHeader::V2, DatagramHeader::V2First] {
            let asked = asked(question(), Some(header));
            assert_eq!((asked.datagram, asked.first), ([&nobody, &b"ping"[..]].concat(), None));
        }
        let alone = asked(question(), Some(DatagramHeader::V2Alone));
        assert_eq!((alone.datagram, alone.first), (b"ping".to_vec(), Some(nobody)));
        let simple = asked(question(), Some(DatagramHeader::Spp));
        let (header, rest) = SimpleHeader::parse(&simple.datagram).unwrap();
        assert_eq!(rest, b"ping");
        assert_eq!(header.client, "192.0.2.1:4000".parse().unwrap());
        assert!(simple.is_answered_by(&[&header.bytes()[..], b"pong"].concat()));
        assert!(!simple.is_answered_by(b"pong"));
    }
}

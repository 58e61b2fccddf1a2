//! What becomes of a datagram: decisions as values. Sends nothing.

use std::net::SocketAddr;

use crate::model::{Responder, Target};

/// The lowest port that echo answers to. Below it live services that answer whatever comes (RFC 862, RFC 864), or that
/// a stranger would like us to disturb in his name.
const FIRST_CLIENT_PORT: u16 = 1024;

/// The treatment of a session's datagrams.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub(crate) enum Answer {
    /// Read and forget.
    Discard,
    /// Send back what comes.
    Echo,
    /// Take it to an origin, and back what that says.
    Relay,
}

impl Answer {
    /// The treatment of datagrams by `target`, if it can do anything with them.
    pub(crate) fn of(target: &Target) -> Option<Self> {
        match target {
            Target::Respond(Responder::Discard) => Some(Self::Discard),
            Target::Respond(Responder::Echo) => Some(Self::Echo),
            // A greeting longer than the datagram that asks for it would serve those who forge their address.
            Target::Registered | Target::Respond(Responder::Hello) => None,
            Target::Origins(_) => Some(Self::Relay),
        }
    }

    /// True if a session with `client` may begin.
    pub(super) fn accepts(self, client: SocketAddr) -> bool {
        match self {
            Self::Discard | Self::Relay => true,
            Self::Echo => client.port() >= FIRST_CLIENT_PORT,
        }
    }
}

/// The hop limit of an answer is no higher, whatever a forged datagram came with: one less than the usual 64.
const MOST_HOPS: u8 = 63;

/// The hop limit of the answer to a datagram that came with `hops` left, or `None` when it has gone far enough.
///
/// One less than it had, as a router does it, and 63 at most. Two echoes that were made to talk to each other, by a forged address or
/// because a client's own address lies in a binding, would not stop otherwise. A client is reached as long as
/// the way to it is no longer than what remained, which for the usual 64 allows 31 routers.
pub(super) fn hops_of_answer(hops: u8) -> Option<u8> {
    hops.checked_sub(1).map(|left| left.min(MOST_HOPS)).filter(|left| *left > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_take_no_datagrams() {
        assert_eq!(Answer::of(&Target::Respond(Responder::Echo)), Some(Answer::Echo));
        assert_eq!(Answer::of(&Target::Respond(Responder::Discard)), Some(Answer::Discard));
        assert_eq!(Answer::of(&Target::Respond(Responder::Hello)), None);
        assert_eq!(Answer::of(&Target::Registered), None);
        assert_eq!(Answer::of(&Target::Origins(Vec::new().into())), Some(Answer::Relay));
    }

    #[test]
    fn echo_does_not_answer_to_ports_of_services() {
        for (port, accepted) in [(0, false), (7, false), (1023, false), (1024, true), (65535, true)] {
            let client = SocketAddr::from(([192, 0, 2, 1], port));
            assert_eq!(Answer::Echo.accepts(client), accepted, "{port}");
            assert!(Answer::Discard.accepts(client), "{port}");
        }
    }

    #[test]
    fn two_echoes_stop_after_63_datagrams_whatever_the_first_had() {
        for (hops, expected) in [(1, 0), (2, 1), (7, 6), (64, 63), (65, 63), (128, 63), (255, 63)] {
            let datagrams = std::iter::successors(hops_of_answer(hops), |left| hops_of_answer(*left)).count();
            assert_eq!(datagrams, expected, "{hops}");
        }
        assert_eq!(hops_of_answer(0), None);
    }
}

//! What is known of a connection when it is over. How it is written down or counted is not decided here.

use std::cell::OnceCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::traffic::Traffic;
use crate::model::{Protocol, ServiceName};

/// An event that a worker tells its observer.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The first session of a service begins on the worker. Told once, whatever becomes of the service later.
    Serving {
        /// Which.
        service: &'a ServiceName,
        /// Transport protocol.
        protocol: Protocol,
        /// The counters of its sessions' traffic, for whoever is told to put there. Left empty, the worker has its own; an observer
        /// that wants to read these takes a clone of what it puts there.
        traffic: &'a OnceCell<Traffic>,
    },
    /// A connection was accepted, or the first datagram of a UDP session came. [`Event::Ended`] follows for each, whatever happens to it.
    Opened {
        /// The service whose listener accepted it.
        service: &'a ServiceName,
        /// Transport protocol.
        protocol: Protocol,
    },
    /// An open UDP session goes on in another process, or comes from there: nothing ends or begins, only who counts it changes.
    Moved {
        /// Its service.
        service: &'a ServiceName,
        /// Transport protocol.
        protocol: Protocol,
        /// True of one that came.
        is_here: bool,
    },
    /// An origin was connected to, or a responder begins to answer: from now on bytes may flow. Not for every connection.
    Established(&'a Established<'a>),
    /// A connection is over.
    Ended(&'a Report),
}

/// A connection that begins to carry bytes.
#[derive(Clone, Copy, Debug)]
pub struct Established<'a> {
    /// The service whose listener accepted it.
    pub service: &'a ServiceName,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The client.
    pub client: SocketAddr,
    /// The proxy that dialled on the client's behalf.
    pub via: Option<SocketAddr>,
    /// The address and port that the client dialled.
    pub dialled: SocketAddr,
    /// The origin connected to. `None` where we answer ourselves.
    pub origin: Option<SocketAddr>,
    /// Its id, by us or by the trusted proxy.
    pub unique_id: Option<&'a Arc<str>>,
    /// The time that connecting to the origin took; without one, from accept until now.
    pub after: Duration,
}

/// One connection, from accept to end, or one UDP session, from its first datagram to its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// The service whose listener accepted it.
    pub service: ServiceName,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The client: who connected to us, or whom the PROXY header of a trusted proxy named.
    pub client: SocketAddr,
    /// The trusted proxy that connected to us on the client's behalf.
    pub via: Option<SocketAddr>,
    /// The address and port that the client dialled.
    pub dialled: SocketAddr,
    /// The origin connected to, or the last one tried. `None` where we answer ourselves or no name resolved.
    pub origin: Option<SocketAddr>,
    /// Its id, by us or by the trusted proxy. `None` where it is not.
    pub unique_id: Option<Arc<str>>,
    /// The time that connecting to an origin took. `None` where none was connected to, or we answer ourselves.
    pub dial: Option<Duration>,
    /// Bytes received from the client, whether or not the origin took them.
    pub bytes_from_client: u64,
    /// Bytes handed to the client's socket.
    pub bytes_to_client: u64,
    /// The number of these that the client's host had not acknowledged when it was over, perhaps with the FIN behind
    /// them. `None` over UDP, where all was said in order, and where nothing was.
    pub bytes_unacknowledged: Option<u32>,
    /// The number of datagrams. `None` over TCP.
    pub datagrams: Option<Datagrams>,
    /// From accept to end.
    pub duration: Duration,
    /// Its end.
    pub end: End,
}

/// The number of a session's datagrams.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Datagrams {
    /// Received from the client, whether or not the origin took them.
    pub from_client: u64,
    /// Handed to the system for the client.
    pub to_client: u64,
}

/// One of the two sides of a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Side {
    /// The client's.
    Downstream,
    /// The origin's.
    Upstream,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
        })
    }
}

/// The end of a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum End {
    /// Both sides were done: every byte and both FINs were passed on.
    Closed,
    /// We ended it: shut down, or its service removed, before the connection was done.
    Cut,
    /// We would not have it: there were as many as there may be.
    Denied(Limit),
    /// We ended it: a newer UDP session needed its place.
    Evicted,
    /// We ended it: it had its time.
    Expired(Expiry),
    /// We ended it: a trusted proxy did not say whom it speaks for.
    Headless(HeaderFault),
    /// Nothing came for so long that it counts as over, which is how UDP sessions end.
    Idle,
    /// A side failed otherwise than by the ends below.
    Lost(Side),
    /// A side reset the connection.
    Reset(Side),
    /// A side stopped acknowledging, or did not make room for what was sent.
    TimedOut(Side),
    /// No origin was connected to.
    Undialled(DialFailure),
    /// A side cannot be reached any more: a router said so, or the route has gone.
    Unreachable(Side),
}

/// A limit that was reached.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Limit {
    /// Descriptors of this process: what is open needs the rest.
    Descriptors,
    /// Descriptors of the service: the others are for other services.
    DescriptorShare,
    /// Connections of the service.
    Service,
    /// Connections from the client's source prefix.
    Source,
    /// New connections in a second from the client's source prefix.
    SourceRate,
    /// None: the source policy of the service does not let the client in.
    Policy,
    /// The rate of the source policy.
    PolicyRate,
}

impl Limit {
    /// The configuration's key for it; `descriptors` for the one that has none.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::DescriptorShare => "descriptor-share",
            Self::Service => "connections",
            Self::Source => "connections-per-source",
            Self::SourceRate => "rate-per-source",
            Self::Policy => "policy",
            Self::PolicyRate => "policy-rate",
        }
    }
}

/// The time that was over.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Expiry {
    /// The time for the rest after one side's FIN.
    HalfClosed,
    /// The time for a connection as a whole.
    Lifetime,
}

/// The fault of the PROXY header that had to come.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum HeaderFault {
    /// Something else came.
    Malformed,
    /// It did not come in time, or not whole.
    Missing,
}

/// Every end in the order of [`End::index`], with its word in records and metrics, and its status code.
const ENDS: [(End, &str, u16); 33] = {
    use DialFailure as Dial;
    use Side::{Downstream, Upstream};
    [
        (End::Closed, "closed", 200),
        (End::Cut, "cut", 500),
        (End::Denied(Limit::Descriptors), "denied-descriptors", 500),
        (End::Denied(Limit::DescriptorShare), "denied-descriptor-share", 500),
        (End::Denied(Limit::Service), "denied-service", 403),
        (End::Denied(Limit::Source), "denied-source", 403),
        (End::Denied(Limit::SourceRate), "denied-source-rate", 403),
        (End::Denied(Limit::Policy), "denied-policy", 403),
        (End::Denied(Limit::PolicyRate), "denied-policy-rate", 403),
        (End::Evicted, "evicted", 500),
        (End::Expired(Expiry::HalfClosed), "expired-half-closed", 200),
        (End::Expired(Expiry::Lifetime), "expired-lifetime", 200),
        (End::Headless(HeaderFault::Malformed), "header-malformed", 400),
        (End::Headless(HeaderFault::Missing), "header-missing", 400),
        (End::Idle, "idle", 200),
        (End::Lost(Downstream), "downstream-lost", 495),
        (End::Lost(Upstream), "upstream-lost", 447),
        (End::Reset(Downstream), "downstream-reset", 499),
        (End::Reset(Upstream), "upstream-reset", 444),
        (End::TimedOut(Downstream), "downstream-timed-out", 497),
        (End::TimedOut(Upstream), "upstream-timed-out", 445),
        (End::Undialled(Dial::Down), "dial-down", 521),
        (End::Undialled(Dial::Failed), "dial-failed", 520),
        (End::Undialled(Dial::Loop), "dial-loop", 523),
        (End::Undialled(Dial::OtherFamily), "dial-other-family", 523),
        (End::Undialled(Dial::OutOfResources), "dial-out-of-resources", 524),
        (End::Undialled(Dial::Refused), "dial-refused", 521),
        (End::Undialled(Dial::ResolverFailed), "dial-resolver-failed", 530),
        (End::Undialled(Dial::TimedOut), "dial-timed-out", 522),
        (End::Undialled(Dial::Unreachable), "dial-unreachable", 523),
        (End::Undialled(Dial::Unresolved), "dial-unresolved", 531),
        (End::Unreachable(Downstream), "downstream-unreachable", 496),
        (End::Unreachable(Upstream), "upstream-unreachable", 446),
    ]
};

impl End {
    /// Every way to end, in the order of [`End::index`].
    pub const ALL: [Self; ENDS.len()] = {
        let mut all = [Self::Closed; ENDS.len()];
        let mut index = 0;
        while index < ENDS.len() {
            all[index] = ENDS[index].0;
            index += 1;
        }
        all
    };

    #[doc(hidden)]
    /// The place in [`End::ALL`], for tables of counters.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Closed => 0,
            Self::Cut => 1,
            Self::Denied(limit) => 2 + limit as usize,
            Self::Evicted => 9,
            Self::Expired(expiry) => 10 + expiry as usize,
            Self::Headless(fault) => 12 + fault as usize,
            Self::Idle => 14,
            Self::Lost(side) => 15 + side as usize,
            Self::Reset(side) => 17 + side as usize,
            Self::TimedOut(side) => 19 + side as usize,
            Self::Undialled(failure) => 21 + failure as usize,
            Self::Unreachable(side) => 31 + side as usize,
        }
    }

    /// Its name in records and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        ENDS.get(self.index()).map_or("", |(_, word, _)| word)
    }

    /// The status code that Cloudflare's Spectrum gives to such an end in its public event schema, or to the nearest it has.
    #[must_use]
    pub fn status(self) -> u16 {
        ENDS.get(self.index()).map_or(999, |(_, _, status)| *status)
    }

    #[doc(hidden)]
    /// The end that `error` on an established connection's `side` means.
    #[must_use]
    pub fn of(side: Side, error: &io::Error) -> Self {
        match error.raw_os_error() {
            // EPIPE and ENOTCONN: the reset was noticed earlier than this call.
            Some(libc::ECONNRESET | libc::EPIPE | libc::ENOTCONN) => Self::Reset(side),
            Some(libc::ETIMEDOUT) => Self::TimedOut(side),
            Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN | libc::EHOSTDOWN) => {
                Self::Unreachable(side)
            }
            _ => Self::Lost(side),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The failure to connect to an origin: of several tried, what the last one said.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum DialFailure {
    /// Every origin was known to be down, so none was tried.
    Down,
    /// Anything not listed here.
    Failed,
    /// Every address that there is would have led back to a service of ours, so none was tried.
    Loop,
    /// The origin has no address of the client's family, and was to be dialled from the client's address.
    OtherFamily,
    /// This host had no descriptor, memory or local port for it.
    OutOfResources,
    /// The origin refused.
    Refused,
    /// Its name had addresses and lost them, and now no name server answers usefully.
    ResolverFailed,
    /// The origin did not answer in time.
    TimedOut,
    /// No route, or a router said so.
    Unreachable,
    /// Its name has no address, or none yet.
    Unresolved,
}

impl DialFailure {
    #[doc(hidden)]
    /// The failure that `error` from connecting means.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::TimedOut {
            return Self::TimedOut;
        }
        match error.raw_os_error() {
            Some(
                libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EADDRNOTAVAIL
                | libc::EAGAIN,
            ) => Self::OutOfResources,
            Some(libc::EAFNOSUPPORT) => Self::OtherFamily,
            Some(libc::ECONNREFUSED) => Self::Refused,
            Some(libc::ELOOP) => Self::Loop,
            Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN | libc::EHOSTDOWN) => {
                Self::Unreachable
            }
            _ => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_own_index_and_word() {
        for (index, end) in End::ALL.into_iter().enumerate() {
            assert_eq!(end.index(), index, "{end}");
            assert!(end.word().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{end}");
        }
        let words: std::collections::BTreeSet<_> = End::ALL.iter().map(|end| end.word()).collect();
        assert_eq!(words.len(), End::ALL.len());
    }

    #[test]
    fn errors_of_an_established_connection_say_how_it_ended() {
        for (errno, end) in [
            (libc::ECONNRESET, End::Reset(Side::Upstream)),
            (libc::EPIPE, End::Reset(Side::Upstream)),
            (libc::ETIMEDOUT, End::TimedOut(Side::Upstream)),
            (libc::EHOSTUNREACH, End::Unreachable(Side::Upstream)),
            (libc::EIO, End::Lost(Side::Upstream)),
        ] {
            assert_eq!(End::of(Side::Upstream, &io::Error::from_raw_os_error(errno)), end);
        }
    }
}

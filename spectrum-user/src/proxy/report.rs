//! What is known of a connection when it is over. How it is written down or counted is not decided here.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::model::{Protocol, ServiceName};

/// What a worker tells its observer.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A connection was accepted, or the first datagram of a UDP session came. [`Event::Ended`] follows for each, whatever happens to it.
    Opened {
        /// The service whose listener accepted it.
        service: &'a ServiceName,
    },
    /// A connection is over.
    Ended(&'a Report),
}

/// One connection, from accept to end, or one UDP session, from its first datagram to its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// The service whose listener accepted it.
    pub service: ServiceName,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The client.
    pub client: SocketAddr,
    /// What the client dialled.
    pub dialled: SocketAddr,
    /// The origin connected to, or the last one tried. `None` where we answer ourselves or no name resolved.
    pub origin: Option<SocketAddr>,
    /// Bytes received from the client, whether or not the origin took them.
    pub bytes_from_client: u64,
    /// Bytes handed to the client's socket.
    pub bytes_to_client: u64,
    /// From accept to end.
    pub duration: Duration,
    /// How it ended.
    pub end: End,
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

/// How a connection ended.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum End {
    /// Both sides were done: every byte and both FINs were passed on.
    Closed,
    /// We ended it: shut down before the connection was done.
    Cut,
    /// We ended it: a newer UDP session needed its place.
    Evicted,
    /// Nothing came for so long that it counts as over, which is how UDP sessions end.
    Idle,
    /// A side failed otherwise, for example because its network became unreachable.
    Lost(Side),
    /// A side reset the connection.
    Reset(Side),
    /// A side stopped acknowledging.
    TimedOut(Side),
    /// No origin was connected to.
    Undialled(DialFailure),
}

impl End {
    /// Every way to end, in the order of [`End::index`].
    pub const ALL: [Self; 16] = [
        Self::Closed,
        Self::Cut,
        Self::Evicted,
        Self::Idle,
        Self::Lost(Side::Downstream),
        Self::Lost(Side::Upstream),
        Self::Reset(Side::Downstream),
        Self::Reset(Side::Upstream),
        Self::TimedOut(Side::Downstream),
        Self::TimedOut(Side::Upstream),
        Self::Undialled(DialFailure::Failed),
        Self::Undialled(DialFailure::OutOfResources),
        Self::Undialled(DialFailure::Refused),
        Self::Undialled(DialFailure::TimedOut),
        Self::Undialled(DialFailure::Unreachable),
        Self::Undialled(DialFailure::Unresolved),
    ];

    /// The place in [`End::ALL`], for tables of counters.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Closed => 0,
            Self::Cut => 1,
            Self::Evicted => 2,
            Self::Idle => 3,
            Self::Lost(side) => 4 + side as usize,
            Self::Reset(side) => 6 + side as usize,
            Self::TimedOut(side) => 8 + side as usize,
            Self::Undialled(failure) => 10 + failure as usize,
        }
    }

    /// What `error` on an established connection's `side` means.
    #[must_use]
    pub fn of(side: Side, error: &io::Error) -> Self {
        match error.raw_os_error() {
            // EPIPE and ENOTCONN: the reset was noticed earlier than this call.
            Some(libc::ECONNRESET | libc::EPIPE | libc::ENOTCONN) => Self::Reset(side),
            Some(libc::ETIMEDOUT) => Self::TimedOut(side),
            _ => Self::Lost(side),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Cut => "cut",
            Self::Evicted => "evicted",
            Self::Idle => "idle",
            Self::Lost(Side::Downstream) => "downstream-lost",
            Self::Lost(Side::Upstream) => "upstream-lost",
            Self::Reset(Side::Downstream) => "downstream-reset",
            Self::Reset(Side::Upstream) => "upstream-reset",
            Self::TimedOut(Side::Downstream) => "downstream-timed-out",
            Self::TimedOut(Side::Upstream) => "upstream-timed-out",
            Self::Undialled(DialFailure::Failed) => "dial-failed",
            Self::Undialled(DialFailure::OutOfResources) => "dial-out-of-resources",
            Self::Undialled(DialFailure::Refused) => "dial-refused",
            Self::Undialled(DialFailure::TimedOut) => "dial-timed-out",
            Self::Undialled(DialFailure::Unreachable) => "dial-unreachable",
            Self::Undialled(DialFailure::Unresolved) => "dial-unresolved",
        })
    }
}

/// Why no origin was connected to: of several tried, what the last one said.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum DialFailure {
    /// Anything not listed here.
    Failed,
    /// This host had no descriptor, memory or local port for it.
    OutOfResources,
    /// The origin refused.
    Refused,
    /// The origin did not answer in time.
    TimedOut,
    /// No route, or a router said so.
    Unreachable,
    /// Its name did not resolve.
    Unresolved,
}

impl DialFailure {
    /// What `error` from connecting means.
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
            Some(libc::ECONNREFUSED) => Self::Refused,
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
        }
        let words: std::collections::BTreeSet<_> = End::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(words.len(), End::ALL.len());
    }
}

//! Whether what a socket was given gets to its peer. Asks the kernel, and only when somebody is about to conclude that it does
//! not: that a socket has room again is told only when a third of its buffer is free, so a slow peer can seem silent.

use std::time::Duration;

use crate::sys::{TcpInfo, tcp_info};
use crate::tcp::stream::Stream;

/// The kernel's account of one socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Delivery {
    /// The bytes acknowledged so far, for comparison.
    pub(crate) acknowledged: u64,
    /// True if anything was sent ever.
    sent: bool,
    /// True if what was sent is on its way.
    in_flight: bool,
    since_sent: Duration,
    since_heard: Duration,
}

impl Delivery {
    /// `None` where the kernel does not tell.
    pub(crate) fn of(socket: &Stream) -> Option<Self> {
        let TcpInfo { unacked, last_data_sent, last_ack_recv, bytes_acked, bytes_sent, .. } =
            tcp_info(socket).ok()?;
        Some(Self {
            acknowledged: bytes_acked,
            sent: bytes_sent > 0,
            in_flight: unacked > 0,
            since_sent: Duration::from_millis(last_data_sent.into()),
            since_heard: Duration::from_millis(last_ack_recv.into()),
        })
    }

    /// The time since the peer took something, or a little less. `None` where it has not since others were looked at, or
    /// never was given anything. `is_fresh` says whether more was acknowledged since then.
    pub(crate) fn progressed(&self, is_fresh: bool) -> Option<Duration> {
        match self {
            Self { sent: false, .. } => None,
            // All that the peer had room for was taken. So it had room when the last of it was sent; what asks it for room
            // since then counts as nothing.
            Self { in_flight: false, since_sent, .. } => Some(*since_sent),
            // It may be sent again and again to somebody who is gone, or who acknowledges what was acknowledged before.
            Self { in_flight: true, since_heard, .. } => is_fresh.then_some(*since_heard),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_acknowledged_counts_and_what_is_only_sent_or_asked_does_not() {
        let minute = Duration::from_mins(1);
        let stalled = Delivery {
            acknowledged: 9,
            sent: true,
            in_flight: false,
            since_sent: minute,
            since_heard: Duration::ZERO,
        };
        let gone = Delivery { in_flight: true, since_sent: Duration::ZERO, since_heard: minute, ..stalled };
        let busy = Delivery { since_heard: Duration::ZERO, ..gone };
        let silent = Delivery { acknowledged: 0, sent: false, since_sent: Duration::ZERO, ..stalled };
        for (name, delivery, is_fresh, progressed) in [
            ("acknowledges probes, makes no room", stalled, true, Some(minute)),
            ("acknowledges probes, makes no room", stalled, false, Some(minute)),
            ("gone, and sent to again", gone, true, Some(minute)),
            ("gone, and sent to again", gone, false, None),
            ("takes some", busy, true, Some(Duration::ZERO)),
            ("acknowledges again what it had", busy, false, None),
            ("never sent anything", silent, true, None),
        ] {
            assert_eq!(delivery.progressed(is_fresh), progressed, "{name}, {is_fresh}");
        }
    }
}

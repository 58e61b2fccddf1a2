//! Bytes, counted while they move: each session's own, and what all of a service's have come to on one worker; and what else
//! there is to say of a service's datagrams. Reports nothing.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;

use super::counter::Counter;

/// The bytes that a worker's sessions of one service and protocol have carried so far. Clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    from_client: Arc<Counter>,
    to_client: Arc<Counter>,
    datagrams: Arc<DatagramCounters>,
    remarks: Arc<Remarks>,
}

/// What there is to say of datagrams.
#[derive(Debug, Default)]
struct Remarks {
    unreachable: Counter,
    too_big: Counter,
    withheld: Counter,
    headerless: Counter,
    followed: Counter,
}

/// What is to be said of a datagram, or of a session that it would have begun.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Remark {
    /// Its sender was told that nobody is there.
    Unreachable,
    /// Its sender was told that it is too big.
    TooBig,
    /// Its sender was not told either, since that failed, or too many had been told.
    Withheld,
    /// It came from another address than those before it, to which its session follows.
    Followed,
    /// It came from an origin without the header that it must have.
    Headerless,
}

/// The datagrams that a worker's sessions of one service have carried so far.
#[derive(Debug, Default)]
pub(super) struct DatagramCounters {
    pub(super) from_client: Counter,
    pub(super) to_client: Counter,
    /// Those that came and could not be sent on.
    pub(super) lost: Counter,
    /// Those of clients for which a queue had no room.
    pub(super) overflow_from_client: Counter,
    /// Those of origins.
    pub(super) overflow_from_origin: Counter,
}

impl Traffic {
    /// Bytes received from clients.
    #[must_use]
    pub fn from_client(&self) -> u64 {
        self.from_client.get()
    }

    /// Bytes handed to clients' sockets.
    #[must_use]
    pub fn to_client(&self) -> u64 {
        self.to_client.get()
    }

    /// The clients that were told that a port is unreachable.
    #[must_use]
    pub fn unreachable(&self) -> u64 {
        self.remarks.unreachable.get()
    }

    /// The datagrams of which a client was told that they are too big.
    #[must_use]
    pub fn too_big(&self) -> u64 {
        self.remarks.too_big.get()
    }

    /// The messages of either kind that were not sent, most likely because there were too many within a second.
    #[must_use]
    pub fn withheld(&self) -> u64 {
        self.remarks.withheld.get()
    }

    /// The answers of origins that lacked the header of their session, and were not passed on.
    #[must_use]
    pub fn headerless(&self) -> u64 {
        self.remarks.headerless.get()
    }

    /// The times that a client of QUIC had another address, and its session followed.
    #[must_use]
    pub fn followed(&self) -> u64 {
        self.remarks.followed.get()
    }

    /// Counts it. To be called on the worker's own thread.
    pub(super) fn note(&self, remark: Remark) {
        let counter = match remark {
            Remark::Unreachable => &self.remarks.unreachable,
            Remark::TooBig => &self.remarks.too_big,
            Remark::Withheld => &self.remarks.withheld,
            Remark::Followed => &self.remarks.followed,
            Remark::Headerless => &self.remarks.headerless,
        };
        counter.add(1);
    }

    /// Datagrams received from clients.
    #[must_use]
    pub fn datagrams_from_client(&self) -> u64 {
        self.datagrams.from_client.get()
    }

    /// Datagrams handed to the system for clients.
    #[must_use]
    pub fn datagrams_to_client(&self) -> u64 {
        self.datagrams.to_client.get()
    }

    /// Datagrams of clients and origins that came and could not be sent on.
    #[must_use]
    pub fn datagrams_lost(&self) -> u64 {
        self.datagrams.lost.get()
    }

    /// Datagrams of clients, or trains of them, that the system threw away since the queue was full in which they wait for us.
    #[must_use]
    pub fn overflow_from_client(&self) -> u64 {
        self.datagrams.overflow_from_client.get()
    }

    /// The same of origins.
    #[must_use]
    pub fn overflow_from_origin(&self) -> u64 {
        self.datagrams.overflow_from_origin.get()
    }

    /// Counts so many datagrams of clients that found a full queue. To be called on the worker's own thread.
    pub(super) fn overflowed_from_client(&self, count: u64) {
        self.datagrams.overflow_from_client.add(count);
    }

    /// The counters of datagrams, for one more session.
    pub(super) fn datagrams(&self) -> Arc<DatagramCounters> {
        Arc::clone(&self.datagrams)
    }

    #[doc(hidden)]
    /// The traffic of sessions that have carried so many bytes from clients and to them.
    #[must_use]
    pub fn carried(from_client: usize, to_client: usize) -> Self {
        let traffic = Self::default();
        traffic.meter_from_client().add(from_client);
        traffic.meter_to_client().add(to_client);
        traffic
    }

    /// A meter of the bytes that one more session receives from its client.
    pub(super) fn meter_from_client(&self) -> Meter {
        Meter { own: Cell::new(0), all: Arc::clone(&self.from_client), origin: OnceCell::new() }
    }

    /// A meter of the bytes that one more session hands to its client.
    pub(super) fn meter_to_client(&self) -> Meter {
        Meter { own: Cell::new(0), all: Arc::clone(&self.to_client), origin: OnceCell::new() }
    }
}

/// The bytes of one session in one direction.
#[derive(Debug, Default)]
pub(super) struct Meter {
    own: Cell<u64>,
    all: Arc<Counter>,
    /// Those of its origin's address, once there is one.
    origin: OnceCell<Arc<Counter>>,
}

impl Meter {
    /// So many more. To be called on the worker's own thread.
    pub(super) fn add(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.own.set(self.own.get().wrapping_add(bytes));
        self.all.add(bytes);
        if let Some(origin) = self.origin.get() {
            origin.add(bytes);
        }
    }

    /// Counts them for an origin's address as well, with those that have moved already. Once.
    pub(super) fn count_for(&self, origin: Arc<Counter>) {
        origin.add(self.own.get());
        let _ = self.origin.set(origin);
    }

    /// The session's own.
    pub(super) fn get(&self) -> u64 {
        self.own.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_is_counted_for_its_session_and_for_all_at_once() {
        let traffic = Traffic::default();
        let (one, other, back) =
            (traffic.meter_from_client(), traffic.meter_from_client(), traffic.meter_to_client());
        one.add(3);
        other.add(4);
        back.add(5);
        one.add(6);
        drop(other);
        assert_eq!((one.get(), back.get()), (9, 5));
        assert_eq!((traffic.from_client(), traffic.to_client()), (13, 5));
    }

    #[test]
    fn an_origin_counts_from_the_first_byte_whenever_it_is_found() {
        let (traffic, origin) = (Traffic::default(), Arc::<Counter>::default());
        let meter = traffic.meter_from_client();
        meter.add(3);
        meter.count_for(Arc::clone(&origin));
        meter.add(4);
        assert_eq!((meter.get(), traffic.from_client(), origin.get()), (7, 7, 7));
    }
}

//! Bytes and datagrams, counted while they move: each session's own bytes, and what all of a service's have come to on one worker.
//! Whoever embeds the library may say where these counters stand. Reports nothing.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;

use super::counter::Counter;

/// What is counted of the traffic of a service.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum TrafficCount {
    /// Bytes received from clients.
    BytesFromClient,
    /// Bytes handed to clients' sockets.
    BytesToClient,
    /// Datagrams received from clients.
    DatagramsFromClient,
    /// Datagrams handed to the system for clients.
    DatagramsToClient,
    /// Datagrams of clients and origins that came and could not be sent on.
    DatagramsLost,
    /// Datagrams of clients, or trains of them, that the system threw away since the queue was full in which they wait for us.
    OverflowFromClient,
    /// The same of origins.
    OverflowFromOrigin,
    /// Times that a client of QUIC had another address, and its session followed.
    Followed,
    /// Answers of origins that lacked the header of their session, and were not passed on.
    HeaderlessAnswers,
    /// Datagrams of which a client was told that they are too big.
    ToldTooBig,
    /// Clients that were told that a port is unreachable.
    ToldUnreachable,
    /// Messages of either kind that were not sent: that failed, or most likely there were too many within a second.
    Withheld,
}

impl TrafficCount {
    /// All of them, each at its place in [`TrafficCounters`].
    pub const ALL: [Self; 12] = [
        Self::BytesFromClient,
        Self::BytesToClient,
        Self::DatagramsFromClient,
        Self::DatagramsToClient,
        Self::DatagramsLost,
        Self::OverflowFromClient,
        Self::OverflowFromOrigin,
        Self::Followed,
        Self::HeaderlessAnswers,
        Self::ToldTooBig,
        Self::ToldUnreachable,
        Self::Withheld,
    ];

    /// Its name, which stays the same from version to version.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::BytesFromClient => "bytes-from-client",
            Self::BytesToClient => "bytes-to-client",
            Self::DatagramsFromClient => "datagrams-from-client",
            Self::DatagramsToClient => "datagrams-to-client",
            Self::DatagramsLost => "datagrams-lost",
            Self::OverflowFromClient => "overflow-from-client",
            Self::OverflowFromOrigin => "overflow-from-origin",
            Self::Followed => "followed",
            Self::HeaderlessAnswers => "headerless-answers",
            Self::ToldTooBig => "told-too-big",
            Self::ToldUnreachable => "told-unreachable",
            Self::Withheld => "withheld",
        }
    }
}

#[doc(hidden)]
/// The counters of one service and protocol on one worker, in the order of [`TrafficCount::ALL`].
pub type TrafficCounters = [Counter; TrafficCount::ALL.len()];

/// What a worker's sessions of one service and protocol have carried so far. Clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Traffic(Place);

#[derive(Clone, Debug)]
enum Place {
    Own(Arc<TrafficCounters>),
    Lent(&'static TrafficCounters),
}

impl Default for Place {
    fn default() -> Self {
        Self::Own(Arc::default())
    }
}

impl Traffic {
    #[doc(hidden)]
    /// One that is counted in `counters`, from what they say on. While it is counted nobody else may write there.
    #[must_use]
    pub fn counted_in(counters: &'static TrafficCounters) -> Self {
        Self(Place::Lent(counters))
    }

    /// The number so far.
    #[must_use]
    pub fn get(&self, count: TrafficCount) -> u64 {
        self.counter(count).get()
    }

    /// So many more. To be called on the worker's own thread.
    pub(super) fn add(&self, count: TrafficCount, number: u64) {
        self.counter(count).add(number);
    }

    fn counter(&self, count: TrafficCount) -> &Counter {
        let counters = match &self.0 {
            Place::Own(counters) => counters,
            Place::Lent(counters) => *counters,
        };
        // Each has a place.
        &counters[count as usize]
    }

    /// A meter of the bytes that one more session moves in one direction.
    pub(super) fn meter(&self, count: TrafficCount) -> Meter {
        let all = match &self.0 {
            Place::Own(counters) => Counted::Own(Arc::clone(counters), count),
            Place::Lent(counters) => Counted::Lent(&counters[count as usize]),
        };
        Meter { own: Cell::new(0), all, origin: OnceCell::new() }
    }
}

/// The bytes of one session in one direction.
#[derive(Debug)]
pub(super) struct Meter {
    own: Cell<u64>,
    all: Counted,
    /// Those of its origin's address, once there is one.
    origin: OnceCell<Arc<Counter>>,
}

/// The counter of a service's bytes in one direction. A reference is at hand where bytes move.
#[derive(Debug)]
enum Counted {
    Own(Arc<TrafficCounters>, TrafficCount),
    Lent(&'static Counter),
}

impl Meter {
    /// So many more. To be called on the worker's own thread.
    pub(super) fn add(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.own.set(self.own.get().wrapping_add(bytes));
        match &self.all {
            Counted::Lent(counter) => counter.add(bytes),
            Counted::Own(counters, count) => counters[*count as usize].add(bytes),
        }
        if let Some(origin) = self.origin.get() {
            origin.add(bytes);
        }
    }

    /// Counts them for an origin's address as well, with those that have moved already. Once.
    pub(super) fn count_for(&self, origin: Arc<Counter>) {
        origin.add(self.own.get());
        let _ = self.origin.set(origin);
    }

    /// Counts for an origin's address as well from now on, where what has moved already was counted by another process.
    pub(super) fn count_on_for(&self, origin: Arc<Counter>) {
        let _ = self.origin.set(origin);
    }

    /// So many have moved while another process counted.
    pub(super) fn resume(&self, bytes: u64) {
        self.own.set(bytes);
    }

    /// The session's own.
    pub(super) fn get(&self) -> u64 {
        self.own.get()
    }
}

#[cfg(test)]
impl Default for Meter {
    fn default() -> Self {
        Traffic::default().meter(TrafficCount::BytesFromClient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TrafficCount::{BytesFromClient, BytesToClient, Withheld};

    fn lent() -> Traffic {
        Traffic::counted_in(Box::leak(Box::default()))
    }

    #[test]
    fn what_moves_is_counted_for_its_session_and_for_all_at_once_wherever_that_is() {
        for traffic in [Traffic::default(), lent()] {
            let (one, other, back) = (
                traffic.meter(BytesFromClient),
                traffic.meter(BytesFromClient),
                traffic.meter(BytesToClient),
            );
            one.add(3);
            other.add(4);
            back.add(5);
            one.add(6);
            drop(other);
            traffic.add(Withheld, 2);
            assert_eq!((one.get(), back.get()), (9, 5));
            assert_eq!(
                [BytesFromClient, BytesToClient, Withheld].map(|count| traffic.get(count)),
                [13, 5, 2]
            );
        }
    }

    #[test]
    fn an_origin_counts_from_the_first_byte_whenever_it_is_found() {
        let (traffic, origin) = (Traffic::default(), Arc::<Counter>::default());
        let meter = traffic.meter(BytesFromClient);
        meter.add(3);
        meter.count_for(Arc::clone(&origin));
        meter.add(4);
        assert_eq!((meter.get(), traffic.get(BytesFromClient), origin.get()), (7, 7, 7));
    }

    #[test]
    fn every_count_has_its_place_and_its_word() {
        assert!(TrafficCount::ALL.iter().enumerate().all(|(place, count)| *count as usize == place));
        let words: std::collections::BTreeSet<_> = TrafficCount::ALL.map(TrafficCount::word).into();
        assert_eq!(words.len(), TrafficCount::ALL.len());
    }

    #[test]
    fn a_meter_is_small() {
        assert!(size_of::<Meter>() <= 32, "{}", size_of::<Meter>());
    }
}

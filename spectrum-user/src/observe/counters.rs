//! Sessions, bytes and durations per service and protocol, kept by each worker for itself and summed when somebody asks. Exports nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::histogram::{DIAL, Histogram, HistogramCells, SESSION};
use crate::model::{Protocol, ServiceName};
use spectrum_proxy::{Counter, End, Report, Traffic};

/// The counters of all workers. Clones show the same ones.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    registered: Arc<Mutex<Vec<Registered>>>,
    traffic: Arc<Mutex<Vec<(CounterKey, Traffic)>>>,
}

/// Whose counts.
type CounterKey = (ServiceName, Protocol);

/// One worker's counts for one service and protocol.
#[derive(Debug)]
struct Registered {
    key: CounterKey,
    cells: Arc<Cells>,
}

impl Counters {
    /// The counters of one more worker.
    #[must_use]
    pub fn worker(&self) -> WorkerCounters {
        WorkerCounters { all: self.clone(), own: RefCell::default() }
    }

    /// The sums over all workers. A service appears with its first connection and stays, so that its totals never fall.
    #[must_use]
    pub fn totals(&self) -> BTreeMap<(ServiceName, Protocol), Totals> {
        let mut totals: BTreeMap<CounterKey, Totals> = BTreeMap::new();
        for Registered { key, cells } in self.registered.lock().unwrap_or_else(PoisonError::into_inner).iter()
        {
            totals.entry(key.clone()).or_default().add(cells);
        }
        for (key, traffic) in self.traffic.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(totals) = totals.get_mut(key) {
                totals.bytes_from_client += traffic.from_client();
                totals.bytes_to_client += traffic.to_client();
                totals.datagrams_from_client += traffic.datagrams_from_client();
                totals.datagrams_to_client += traffic.datagrams_to_client();
                totals.datagrams_lost += traffic.datagrams_lost();
                totals.overflow_from_client += traffic.overflow_from_client();
                totals.overflow_from_origin += traffic.overflow_from_origin();
                totals.followed += traffic.followed();
                totals.headerless_answers += traffic.headerless();
                totals.told_unreachable += traffic.unreachable();
                totals.told_too_big += traffic.too_big();
                totals.withheld += traffic.withheld();
            }
        }
        totals
    }
}

/// One worker's own counters, and its alone.
#[derive(Debug)]
pub struct WorkerCounters {
    all: Counters,
    own: RefCell<HashMap<ServiceName, [Option<Arc<Cells>>; 2]>>,
}

impl WorkerCounters {
    /// Remembers where the bytes of one more service are counted.
    pub fn serving(&self, service: &ServiceName, protocol: Protocol, traffic: &Traffic) {
        let mut all = self.all.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(((service.clone(), protocol), traffic.clone()));
    }

    /// Counts a connection that was accepted.
    pub fn opened(&self, service: &ServiceName, protocol: Protocol) {
        self.count(service, protocol, |cells| cells.opened.add(1));
    }

    /// Counts a connection that is over.
    pub fn ended(&self, report: &Report) {
        self.count(&report.service, report.protocol, |cells| {
            cells.durations.observe(&SESSION, report.duration);
            if let Some(dial) = report.dial {
                cells.dials.observe(&DIAL, dial);
            }
            if let Some(end) = cells.ends.get(report.end.index()) {
                end.add(1);
            }
        });
    }

    fn count(&self, service: &ServiceName, protocol: Protocol, count: impl FnOnce(&Cells)) {
        let place = usize::from(protocol == Protocol::Udp);
        let mut own = self.own.borrow_mut();
        if let Some(Some(cells)) = own.get(service).and_then(|protocols| protocols.get(place)) {
            return count(cells);
        }
        let cells = Arc::<Cells>::default();
        count(&cells);
        let mut registered = self.all.registered.lock().unwrap_or_else(PoisonError::into_inner);
        registered.push(Registered { key: (service.clone(), protocol), cells: Arc::clone(&cells) });
        if let Some(place) = own.entry(service.clone()).or_default().get_mut(place) {
            *place = Some(cells);
        }
    }
}

/// A service's sums.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Connections accepted so far.
    pub opened: u64,
    /// Connections open now.
    pub open: u64,
    /// Bytes received from clients so far, by open connections too.
    pub bytes_from_client: u64,
    /// Datagrams received from clients so far.
    pub datagrams_from_client: u64,
    /// Datagrams handed to the system for clients so far.
    pub datagrams_to_client: u64,
    /// Datagrams that came and could not be sent on.
    pub datagrams_lost: u64,
    /// Datagrams of clients, or trains of them, that found a full queue.
    pub overflow_from_client: u64,
    /// Those of origins.
    pub overflow_from_origin: u64,
    /// Times that a client of QUIC had another address, and its session followed.
    pub followed: u64,
    /// Answers of origins that lacked the header of their session, and were not passed on.
    pub headerless_answers: u64,
    /// Clients that were told by ICMP that nobody is there.
    pub told_unreachable: u64,
    /// Datagrams of which a client was told by ICMP that they are too big.
    pub told_too_big: u64,
    /// Messages of ICMP of either kind that were not sent.
    pub withheld: u64,
    /// Bytes handed to clients' sockets so far.
    pub bytes_to_client: u64,
    /// The connections that are over, by how they ended; ends that did not occur are absent.
    pub ends: BTreeMap<End, u64>,
    /// The time that connecting to an origin took.
    pub dials: Histogram,
    /// From accept to end.
    pub durations: Histogram,
}

impl Totals {
    fn add(&mut self, cells: &Cells) {
        // The ends are read first: a connection that is over was opened before, so `open` never goes below zero.
        let mut over = 0;
        for (end, cells) in End::ALL.into_iter().zip(&cells.ends) {
            let connections = cells.get();
            if connections > 0 {
                over += connections;
                *self.ends.entry(end).or_default() += connections;
            }
        }
        self.dials.add(&cells.dials);
        self.durations.add(&cells.durations);
        let opened = cells.opened.get();
        self.opened += opened;
        self.open += opened.saturating_sub(over);
    }
}

/// Aligned so that no two workers write to one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Cells {
    opened: Counter,
    ends: [Counter; End::ALL.len()],
    dials: HistogramCells,
    durations: HistogramCells,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::record::tests::report;

    #[test]
    fn totals_are_summed_over_workers() {
        let counters = Counters::default();
        let (one, two) = (counters.worker(), counters.worker());
        let report = report();
        for worker in [&one, &two] {
            worker.serving(&report.service, report.protocol, &Traffic::carried(7, 100));
        }
        one.opened(&report.service, report.protocol);
        one.ended(&report);
        two.opened(&report.service, report.protocol);
        two.ended(&report);
        two.opened(&report.service, report.protocol);
        let totals = counters.totals();
        let totals = &totals[&(report.service, report.protocol)];
        assert_eq!((totals.opened, totals.open), (3, 1));
        assert_eq!((totals.durations.count(), totals.durations.sum()), (2, 2 * report.duration));
        assert_eq!(totals.dials.count(), 0);
        assert_eq!((totals.bytes_from_client, totals.bytes_to_client), (14, 200));
        assert_eq!(totals.ends, BTreeMap::from([(report.end, 2)]));
    }
}

//! Connections and bytes per service, kept by each worker for itself and summed when somebody asks. Exports nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::ServiceName;
use crate::proxy::{End, Report};

/// The counters of all workers. Clones show the same ones.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    registered: Arc<Mutex<Vec<Registered>>>,
}

/// One worker's counts for one service.
#[derive(Debug)]
struct Registered {
    service: ServiceName,
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
    pub fn totals(&self) -> BTreeMap<ServiceName, Totals> {
        let mut totals: BTreeMap<ServiceName, Totals> = BTreeMap::new();
        for Registered { service, cells } in
            self.registered.lock().unwrap_or_else(PoisonError::into_inner).iter()
        {
            totals.entry(service.clone()).or_default().add(cells);
        }
        totals
    }
}

/// One worker's own counters, and its alone.
#[derive(Debug)]
pub struct WorkerCounters {
    all: Counters,
    own: RefCell<HashMap<ServiceName, Arc<Cells>>>,
}

impl WorkerCounters {
    /// Counts a connection that was accepted.
    pub fn opened(&self, service: &ServiceName) {
        self.count(service, |cells| add(&cells.opened, 1));
    }

    /// Counts a connection that is over.
    pub fn ended(&self, report: &Report) {
        self.count(&report.service, |cells| {
            if let Some(end) = cells.ends.get(report.end.index()) {
                add(&end.connections, 1);
                add(&end.bytes_from_client, report.bytes_from_client);
                add(&end.bytes_to_client, report.bytes_to_client);
            }
        });
    }

    fn count(&self, service: &ServiceName, count: impl FnOnce(&Cells)) {
        let mut own = self.own.borrow_mut();
        if let Some(cells) = own.get(service) {
            return count(cells);
        }
        let cells = Arc::<Cells>::default();
        count(&cells);
        let mut registered = self.all.registered.lock().unwrap_or_else(PoisonError::into_inner);
        registered.push(Registered { service: service.clone(), cells: Arc::clone(&cells) });
        own.insert(service.clone(), cells);
    }
}

/// A service's sums.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Connections accepted so far.
    pub opened: u64,
    /// Connections open now.
    pub open: u64,
    /// The connections that are over and their bytes, by how they ended; ends that did not occur are absent.
    pub ends: BTreeMap<End, EndTotals>,
}

impl Totals {
    fn add(&mut self, cells: &Cells) {
        // The ends are read first: a connection that is over was opened before, so `open` never goes below zero.
        let mut over = 0;
        for (end, cells) in End::ALL.into_iter().zip(&cells.ends) {
            let connections = cells.connections.load(Ordering::Acquire);
            if connections > 0 {
                over += connections;
                let totals = self.ends.entry(end).or_default();
                totals.connections += connections;
                totals.bytes_from_client += cells.bytes_from_client.load(Ordering::Relaxed);
                totals.bytes_to_client += cells.bytes_to_client.load(Ordering::Relaxed);
            }
        }
        let opened = cells.opened.load(Ordering::Acquire);
        self.opened += opened;
        self.open += opened.saturating_sub(over);
    }
}

/// The connections that ended in one way.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct EndTotals {
    /// How many.
    pub connections: u64,
    /// Bytes received from their clients.
    pub bytes_from_client: u64,
    /// Bytes handed to their clients' sockets.
    pub bytes_to_client: u64,
}

/// Aligned so that no two workers write to one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Cells {
    opened: AtomicU64,
    ends: [EndCells; End::ALL.len()],
}

#[derive(Debug, Default)]
struct EndCells {
    connections: AtomicU64,
    bytes_from_client: AtomicU64,
    bytes_to_client: AtomicU64,
}

/// Only one thread writes to a cell, so a load and a store do, without the price of a locked addition.
fn add(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::connection_log::tests::report;

    #[test]
    fn totals_are_summed_over_workers() {
        let counters = Counters::default();
        let (one, two) = (counters.worker(), counters.worker());
        let report = report();
        one.opened(&report.service);
        one.ended(&report);
        two.opened(&report.service);
        two.ended(&report);
        two.opened(&report.service);
        let totals = counters.totals();
        let totals = &totals[&report.service];
        assert_eq!((totals.opened, totals.open), (3, 1));
        assert_eq!(
            totals.ends,
            BTreeMap::from([(
                report.end,
                EndTotals { connections: 2, bytes_from_client: 14, bytes_to_client: 200 }
            )])
        );
    }
}

//! Sessions, bytes and durations per service and protocol, counted in the book by each worker for itself and summed when somebody
//! asks. Exports nothing.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::book::{
    ABANDONED, BlockKey, BlockKind, Book, DIALS, DURATIONS, ENDS, HISTOGRAM, MOVED, Numbers, OPENED, TRAFFIC,
    open,
};
use super::histogram::{DIAL, Histogram, SESSION, observe};
use crate::model::{Protocol, ServiceName};
use spectrum_proxy::{Counter, End, Report, Traffic, TrafficCount, TrafficCounters};

/// The counters of all workers of all processes. Clones show the same ones.
#[derive(Clone, Debug)]
pub struct Counters(Book);

/// Whose counts.
type CounterKey = (ServiceName, Protocol);

impl Counters {
    /// Those in `book`.
    #[must_use]
    pub fn of(book: &Book) -> Self {
        Self(book.clone())
    }

    /// The counters of one more worker.
    #[must_use]
    pub fn worker(&self) -> WorkerCounters {
        WorkerCounters { book: self.0.clone(), own: RefCell::default() }
    }

    /// The sums over all workers of the services that are known. A service appears with its first connection and stays, so that its
    /// totals never fall. Of what else there is nothing is taken: a worker process that somebody has broken into could name any.
    #[must_use]
    pub fn totals(
        &self,
        is_known: impl Fn(&ServiceName) -> bool,
    ) -> BTreeMap<(ServiceName, Protocol), Totals> {
        let mut totals = BTreeMap::<CounterKey, Totals>::new();
        self.0.read(|key, numbers| {
            let BlockKind::Sessions(protocol) = key.kind else { return };
            let is_used = [OPENED, MOVED].iter().any(|at| numbers.get(*at).is_some_and(|count| *count > 0));
            if is_used && is_known(&key.name) {
                totals.entry((key.name.clone(), protocol)).or_default().add(numbers);
            }
        });
        totals
    }
}

/// One worker's own counters, and its alone.
#[derive(Debug)]
pub struct WorkerCounters {
    book: Book,
    own: RefCell<HashMap<ServiceName, [Option<Place>; 2]>>,
}

/// Where a worker counts the sessions of one service and protocol.
#[derive(Clone, Copy, Debug)]
enum Place {
    Cells(SessionCells),
    /// There was no room in the book.
    Nowhere,
}

/// One worker's cells for one service and protocol.
#[derive(Clone, Copy, Debug)]
struct SessionCells {
    ends: &'static [Counter; ENDS.end - ENDS.start],
    dials: &'static [Counter; HISTOGRAM],
    durations: &'static [Counter; HISTOGRAM],
    traffic: &'static TrafficCounters,
    opened: &'static Counter,
    moved: &'static Counter,
}

impl SessionCells {
    fn of(cells: &'static [Counter]) -> Option<Self> {
        Some(Self {
            ends: cells.get(ENDS)?.try_into().ok()?,
            dials: cells.get(DIALS)?.try_into().ok()?,
            durations: cells.get(DURATIONS)?.try_into().ok()?,
            traffic: cells.get(TRAFFIC)?.try_into().ok()?,
            opened: cells.get(OPENED)?,
            moved: cells.get(MOVED)?,
        })
    }
}

impl WorkerCounters {
    /// Says where the traffic of one more service is counted.
    pub fn serving(&self, service: &ServiceName, protocol: Protocol, traffic: &OnceCell<Traffic>) {
        if let Place::Cells(cells) = self.place(service, protocol) {
            let _ = traffic.set(Traffic::counted_in(cells.traffic));
        }
    }

    /// Counts a connection that was accepted.
    pub fn opened(&self, service: &ServiceName, protocol: Protocol) {
        match self.place(service, protocol) {
            Place::Cells(cells) => cells.opened.add(1),
            Place::Nowhere => self.book.not_counted(),
        }
    }

    /// Counts a session that another process has from now on, or had until now.
    pub fn moved(&self, service: &ServiceName, protocol: Protocol, is_here: bool) {
        match self.place(service, protocol) {
            Place::Cells(cells) if is_here => cells.moved.subtract(1),
            Place::Cells(cells) => cells.moved.add(1),
            Place::Nowhere => {}
        }
    }

    /// Counts a connection that is over.
    pub fn ended(&self, report: &Report) {
        let Place::Cells(cells) = self.place(&report.service, report.protocol) else { return };
        observe(cells.durations, &SESSION, report.duration);
        if let Some(dial) = report.dial {
            observe(cells.dials, &DIAL, dial);
        }
        if let Some(end) = cells.ends.get(report.end.index()) {
            end.add(1);
        }
    }

    fn place(&self, service: &ServiceName, protocol: Protocol) -> Place {
        let of = usize::from(protocol == Protocol::Udp);
        let mut own = self.own.borrow_mut();
        if let Some(Some(place)) = own.get(service).and_then(|protocols| protocols.get(of)) {
            return *place;
        }
        let key = BlockKey { kind: BlockKind::Sessions(protocol), name: service.clone() };
        let place = self.book.claim(&key).and_then(SessionCells::of).map_or(Place::Nowhere, Place::Cells);
        if let Some(of) = own.entry(service.clone()).or_default().get_mut(of) {
            *of = Some(place);
        }
        place
    }
}

/// A service's sums.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Connections accepted so far.
    pub opened: u64,
    /// Connections open now.
    pub open: u64,
    /// Connections that were open when the process that had them ended.
    pub abandoned: u64,
    /// The traffic so far, of open connections too, in the order of [`TrafficCount::ALL`].
    traffic: [u64; TrafficCount::ALL.len()],
    /// The connections that are over, by how they ended; ends that did not occur are absent.
    pub ends: BTreeMap<End, u64>,
    /// The time that connecting to an origin took.
    pub dials: Histogram,
    /// From accept to end.
    pub durations: Histogram,
}

impl Totals {
    /// So much of its traffic.
    #[must_use]
    pub fn traffic(&self, count: TrafficCount) -> u64 {
        self.traffic.get(count as usize).copied().unwrap_or(0)
    }

    /// Adds one worker's. Whatever it says is no more than numbers.
    fn add(&mut self, numbers: &Numbers) {
        let of = |cells: Range<usize>| numbers.get(cells).unwrap_or_default();
        for (end, count) in End::ALL.into_iter().zip(of(ENDS)) {
            if *count > 0 {
                let sum = self.ends.entry(end).or_default();
                *sum = sum.wrapping_add(*count);
            }
        }
        for (sum, count) in self.traffic.iter_mut().zip(of(TRAFFIC)) {
            *sum = sum.wrapping_add(*count);
        }
        self.dials.add(of(DIALS));
        self.durations.add(of(DURATIONS));
        let number = |at: usize| numbers.get(at).copied().unwrap_or(0);
        self.abandoned = self.abandoned.wrapping_add(number(ABANDONED));
        self.opened = self.opened.wrapping_add(number(OPENED));
        self.open = self.open.wrapping_add(open(numbers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::record::tests::report;

    #[test]
    fn who_moves_to_another_process_is_open_there_and_nowhere_twice() {
        let book = Book::create().unwrap();
        let counters = Counters::of(&book);
        let report = report();
        let (service, protocol) = (&report.service, report.protocol);
        let process = || {
            let process = book.begin_process();
            let file = book.file().try_clone_to_owned().unwrap();
            (Counters::of(&Book::open(file, process).unwrap()).worker(), process)
        };
        let ((former, first), (next, _)) = (process(), process());
        let open = || {
            counters
                .totals(|_| true)
                .into_values()
                .map(|one| (one.opened, one.open, one.abandoned))
                .collect::<Vec<_>>()
        };
        for _ in 0..5 {
            former.opened(service, protocol);
        }
        for _ in 0..3 {
            former.moved(service, protocol, false);
            next.moved(service, protocol, true);
        }
        assert_eq!(open(), [(5, 5, 0)]);
        next.ended(&report);
        former.ended(&report);
        assert_eq!(open(), [(5, 3, 0)]);
        book.end_process(first);
        assert_eq!(open(), [(5, 2, 1)], "what it had open still is abandoned");
    }

    #[test]
    fn totals_are_summed_over_workers() {
        let counters = Counters::of(&Book::create().unwrap());
        let (one, two) = (counters.worker(), counters.worker());
        let report = report();
        for worker in [&one, &two] {
            let traffic = OnceCell::new();
            worker.serving(&report.service, report.protocol, &traffic);
            assert!(traffic.get().is_some());
        }
        assert_eq!(counters.totals(|_| true), BTreeMap::new(), "nobody has come yet");
        one.opened(&report.service, report.protocol);
        one.ended(&report);
        two.opened(&report.service, report.protocol);
        two.ended(&report);
        two.opened(&report.service, report.protocol);
        let totals = counters.totals(|_| true);
        let totals = &totals[&(report.service.clone(), report.protocol)];
        assert_eq!((totals.opened, totals.open), (3, 1));
        assert_eq!((totals.durations.count(), totals.durations.sum()), (2, 2 * report.duration));
        assert_eq!(totals.dials.count(), 0);
        assert_eq!(totals.ends, BTreeMap::from([(report.end, 2)]));
        assert!(counters.totals(|service| *service != report.service).is_empty());
    }
}

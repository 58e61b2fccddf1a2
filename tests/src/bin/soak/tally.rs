//! What was done and what went wrong, over one path. Decides nothing about what is wrong.

use std::any::Any;
use std::fmt;
use std::sync::Mutex;

/// So many errors are kept; of more there is a number.
const KEPT: usize = 20;

/// The results of one path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) connections: u64,
    pub(crate) datagrams: u64,
    /// Of both, those that nothing was bound for, and that were refused as they had to be.
    pub(crate) refused: u64,
    /// Of both, those that a stop or kill came between, so that no answer was owed.
    pub(crate) excused: u64,
    /// Datagrams that got lost where the kernel says that it dropped packets, which it does for all namespaces together.
    pub(crate) lost: u64,
    /// Connection records whose service was compared with the scan.
    pub(crate) records: u64,
    pub(crate) reloads: u64,
    pub(crate) kills: u64,
    pub(crate) stops: u64,
    /// Descriptors and KiB of the long life, before and after.
    pub(crate) descriptors: (usize, usize),
    pub(crate) resident: (u64, u64),
    pub(crate) errors: Vec<String>,
    more: u64,
}

impl Report {
    /// The report of a thread that panicked.
    pub(crate) fn of_a_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Self { errors: vec![text.unwrap_or_else(|| "a panic".to_owned())], ..Self::default() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} connections, {} datagrams ({} refused as they had to be, {} excused, {} lost by the kernel), {} records, {} reloads, {} kills, \
             {} stops, descriptors {} -> {}, memory {} -> {} KiB, {} errors",
            self.connections,
            self.datagrams,
            self.refused,
            self.excused,
            self.lost,
            self.records,
            self.reloads,
            self.kills,
            self.stops,
            self.descriptors.0,
            self.descriptors.1,
            self.resident.0,
            self.resident.1,
            self.errors.len() as u64 + self.more
        )?;
        self.errors.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

/// A report in the making, which several threads add to.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Report>);

impl Tally {
    /// Adds something.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.0.lock().unwrap());
    }

    /// Adds an error.
    pub(crate) fn wrong(&self, error: String) {
        self.note(|report| {
            if report.errors.len() < KEPT {
                report.errors.push(error);
            } else {
                report.more += 1;
            }
        });
    }

    /// The number of exchanges so far.
    pub(crate) fn exchanges(&self) -> u64 {
        let report = self.0.lock().unwrap();
        report.connections + report.datagrams
    }

    pub(crate) fn report(&self) -> Report {
        self.0.lock().unwrap().clone()
    }
}

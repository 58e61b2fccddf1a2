//! What is written down and counted of connections, and how it is looked at from outside. Never slows a connection down: what
//! cannot be kept up with is dropped and the drops are counted.

mod admin;
mod counters;
mod exposition;
mod histogram;
mod output;
mod record;
mod shed_records;

pub use admin::{AdminError, AdminServer, Readiness, ServiceReadiness};
pub use counters::{Counters, Totals, WorkerCounters};
pub use exposition::{Facts, Metrics, NameFacts, OriginFacts, Packets, TableFacts};
pub use histogram::Histogram;
pub use output::{Kind, Lines, Losses, Output};
pub use record::{LogFormat, timestamp};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::proxy::{End, Event};
use shed_records::ShedRecords;

/// Which records there are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Recorded {
    /// One for each connection that is over.
    #[default]
    Ends,
    /// Another one when it begins to carry bytes.
    OpensAndEnds,
}

/// How many records are left out on purpose, because very many connections were shed. Clones are about the same ones.
#[derive(Clone, Debug, Default)]
pub struct Omissions(Arc<AtomicU64>);

impl Omissions {
    /// How many so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A worker's observer: counts every connection, and logs it when it is over. Of those that were shed it logs some.
pub fn observer(
    counters: WorkerCounters,
    output: Output,
    omissions: Omissions,
    recorded: Recorded,
) -> impl Fn(Event<'_>) + Send + 'static {
    let shed = ShedRecords::default();
    move |event| match event {
        Event::Serving { service, protocol, traffic } => counters.serving(service, protocol, traffic),
        Event::Opened { service, protocol } => counters.opened(service, protocol),
        Event::Established(established) => {
            if recorded == Recorded::OpensAndEnds {
                output.record_opened(established);
            }
        }
        Event::Ended(report) => {
            counters.ended(report);
            if matches!(report.end, End::Denied(_) | End::Evicted) && !shed.allow(Instant::now()) {
                omissions.add();
            } else {
                output.record(report);
            }
        }
    }
}

//! What is written down and counted of connections, and how it is looked at from outside. Never slows a connection down: what
//! cannot be kept up with is dropped and the drops are counted.

mod admin;
mod connection_log;
mod counters;
mod exposition;
mod histogram;
mod shed_records;

pub use admin::{AdminError, AdminServer, Readiness};
pub use connection_log::{ConnectionLog, LogFormat, RecordDrops, RecordSender};
pub use counters::{Counters, Totals, WorkerCounters};
pub use exposition::{Facts, Metrics, OriginFacts, Packets, TableFacts};
pub use histogram::Histogram;

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

/// A worker's observer: counts every connection, and logs it when it is over. Of those that were shed it logs some.
pub fn observer(
    counters: WorkerCounters,
    log: RecordSender,
    recorded: Recorded,
) -> impl Fn(Event<'_>) + Send + 'static {
    let shed = ShedRecords::default();
    move |event| match event {
        Event::Serving { service, protocol, traffic } => counters.serving(service, protocol, traffic),
        Event::Opened { service, protocol } => counters.opened(service, protocol),
        Event::Established(established) => {
            if recorded == Recorded::OpensAndEnds {
                log.send_opened(established);
            }
        }
        Event::Ended(report) => {
            counters.ended(report);
            if matches!(report.end, End::Denied(_)) && !shed.allow(Instant::now()) {
                log.omit();
            } else {
                log.send(report);
            }
        }
    }
}

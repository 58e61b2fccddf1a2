//! What is written down and counted of connections. Never slows a connection down: what cannot be kept up with is dropped
//! and the drops are counted.

mod connection_log;
mod counters;

pub use connection_log::{ConnectionLog, LogFormat, RecordSender};
pub use counters::{Counters, EndTotals, Totals, WorkerCounters};

use crate::proxy::Event;

/// A worker's observer: counts every connection, and logs it when it is over.
pub fn observer(counters: WorkerCounters, log: RecordSender) -> impl Fn(Event<'_>) + Send + 'static {
    move |event| match event {
        Event::Opened { service } => counters.opened(service),
        Event::Established(_) => {}
        Event::Ended(report) => {
            counters.ended(report);
            log.send(report);
        }
    }
}

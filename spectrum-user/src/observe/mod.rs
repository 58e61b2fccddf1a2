//! What is written down and counted of connections, and how it is looked at from outside. Never slows a connection down: what
//! cannot be kept up with is dropped and the drops are counted.

mod book;
mod counters;
mod histogram;
mod journal;
mod omissions;
mod output;
mod record;
mod recorder;
mod shed_records;
mod top_sources;

pub use book::{Book, BookError, ProcessNumber};
pub use counters::{Counters, Totals, WorkerCounters};
pub use histogram::{Bounds, DIAL, Histogram, SESSION};
pub use journal::{Priority, is_journal};
pub use omissions::{Omission, Omissions};
pub use output::{Lines, LossKind, Losses, Output};
pub use record::timestamp;
pub use recorder::{RecordRules, Recorder};
pub use top_sources::{DeniedClient, ServiceSources, SourceCount, TopSources, TopSourcesAnswer};

use spectrum_proxy::Event;

/// A worker's observer: counts every connection, and has it recorded as `recorder` says.
pub fn observer(counters: WorkerCounters, recorder: &Recorder) -> impl Fn(Event<'_>) + Send + 'static {
    let recorder = recorder.worker();
    move |event| match event {
        Event::Serving { service, protocol, traffic } => counters.serving(service, protocol, traffic),
        Event::Opened { service, protocol } => counters.opened(service, protocol),
        Event::Moved { service, protocol, is_here } => counters.moved(service, protocol, is_here),
        Event::Established(established) => recorder.established(established),
        Event::Ended(report) => {
            counters.ended(report);
            recorder.ended(report);
        }
    }
}

//! The error of serving connections. Errors of single connections are in their reports, not here.

use std::io;

use crate::model::{Destination, ServiceName};
use crate::origins::WatchError;

/// The error of serving connections.
#[derive(Debug, thiserror::Error)]
pub enum WorkersError {
    /// A listener broke.
    #[error("accept connections for {destination}")]
    Accept {
        /// The service whose listener it is.
        destination: Destination,
        /// The error of accept(2).
        #[source]
        source: io::Error,
    },
    /// A worker's thread ended unasked.
    #[error("worker {worker} ended unexpectedly")]
    Died {
        /// Its index.
        worker: usize,
    },
    /// A listener could not be handed over.
    #[error("listen for {destination}")]
    Listen {
        /// The service whose listener it is.
        destination: Destination,
        /// The system's own error.
        #[source]
        source: io::Error,
    },
    /// Datagrams of one service were to be handed on to another, among whose sessions their clients have none.
    #[error(
        "hand the datagrams of {from} on to service {to}: sessions are of their service, which gets listeners of its own"
    )]
    Moved {
        /// Whose they are.
        from: Destination,
        /// Whose they were to be.
        to: ServiceName,
    },
    /// The origins' thread could not be started.
    #[error(transparent)]
    Origins(#[from] WatchError),
    /// A UDP destination whose target has no answer to datagrams.
    #[error("answer datagrams of {destination}: only origins, echo and discard can")]
    Unanswerable {
        /// Whose.
        destination: Destination,
    },
    /// A worker's thread or runtime could not be made.
    #[error("start worker {worker}")]
    Start {
        /// Its index.
        worker: usize,
        /// The system's own error.
        #[source]
        source: io::Error,
    },
}

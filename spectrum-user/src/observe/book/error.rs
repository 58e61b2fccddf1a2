//! What is wrong with memory of counters. Says nothing of what is done about it.

use std::io;

/// The failure to make or to map memory of counters.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The system refused.
    #[error("{op} the memory of counters")]
    System {
        /// The thing to do.
        op: &'static str,
        /// The refusal.
        source: io::Error,
    },
    /// It is not what this version of the program shares.
    #[error("the memory of counters is not what this version shares: {0}")]
    Foreign(&'static str),
}

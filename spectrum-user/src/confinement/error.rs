//! Why a process could not be confined. A kernel that lacks a measure is no error: the report says so.

use std::io;

use super::UserError;

/// A measure that the kernel has failed, so that the process must not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfinementError {
    /// Capabilities could not be given up.
    #[error("{op}")]
    Capabilities {
        /// The operation that failed.
        op: &'static str,
        /// The system's own error.
        source: io::Error,
    },
    /// The files that the process may open could not be restricted.
    #[error("restrict the files that may be opened (landlock): {0}")]
    Files(landlock::RulesetError),
    /// The process could not promise to gain no privileges by what it executes.
    #[error("promise to gain no new privileges (PR_SET_NO_NEW_PRIVS)")]
    NoNewPrivs(#[source] io::Error),
    /// The system calls of the process could not be restricted.
    #[error("{op}")]
    SystemCalls {
        /// The operation that failed.
        op: &'static str,
        /// The system's own error, or what is wrong with the list.
        source: io::Error,
    },
    /// Threads run already, and would keep what this one gives up.
    #[error("give up privileges: {0} threads run, and each would keep its own; begin with it")]
    Threads(usize),
    /// The process could not become the user that it is to be.
    #[error(transparent)]
    User(#[from] UserError),
}

impl From<landlock::RulesetError> for ConfinementError {
    /// It tells its own cause.
    fn from(error: landlock::RulesetError) -> Self {
        Self::Files(error)
    }
}

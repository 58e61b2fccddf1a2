//! Why a running instance could not be asked, or would not do what it was asked.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::Problem;

/// A conversation with a running instance that failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The instance closed the connection, or what it said cannot be understood.
    #[error("understand the instance's answer: {cause}")]
    Answer {
        /// The fault of it.
        cause: String,
    },
    /// There are more who ask than it has places for.
    #[error(
        "reach the instance at {}: for {} s there was no place for one more who asks (who else does? ss -xp src {})",
        .path.display(), .waited.as_secs(), .path.display()
    )]
    Busy {
        /// The socket.
        path: PathBuf,
        /// The time that we waited.
        waited: Duration,
    },
    /// It has closed the connection without an answer.
    #[error("hear the instance at {}: it has ended, or another version of it is taking over; ask again", .path.display())]
    Unanswered {
        /// The socket.
        path: PathBuf,
    },
    /// It says nothing.
    #[error("hear the instance at {}: it has said nothing for {} s (see its log)", .path.display(), .waited.as_secs())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// The time that we waited.
        waited: Duration,
    },
    /// No instance listens there.
    #[error("reach the instance at {} (is it running? needs root or membership of the group spectrum)", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The socket could not be made.
    #[error("listen on {}", .path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The instance refused; its words.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
        /// The exit code that fits.
        code: u8,
        /// The problems of its file, where these are why.
        problems: Vec<Problem>,
    },
    /// The conversation broke off.
    #[error("speak with the instance")]
    Speak {
        /// The cause.
        source: io::Error,
    },
}

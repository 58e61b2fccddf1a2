//! The asking side. Blocking: a command has nothing else to do.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use socket2::{Domain, SockAddr, Socket, Type};

use super::passing::send;
use super::{ControlError, Request};
use crate::config::Problem;

/// The answer that a server writes.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ReadAnswer<T> {
    Done(T),
    Refused {
        message: String,
        code: u8,
        #[serde(default)]
        problems: Vec<Problem>,
    },
}

/// The time until there is a place for one more who asks.
const CONNECT: Duration = Duration::from_secs(30);

/// The time that the instance may be silent.
const ANSWER: Duration = Duration::from_mins(2);

/// The same while it reloads.
const RELOAD: Duration = Duration::from_mins(15);

/// So often is asked what changes nothing where nobody answers, and the pause between.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Asks the instance whose socket is at `path`, and waits for its answer.
pub fn ask<T: DeserializeOwned>(path: &Path, request: &Request) -> Result<T, ControlError> {
    ask_with(path, request, &[])
}

/// The same with `files`, of which the instance gets copies; at most [`MOST_FILES`](super::MOST_FILES).
pub fn ask_with<T: DeserializeOwned>(
    path: &Path,
    request: &Request,
    files: &[BorrowedFd<'_>],
) -> Result<T, ControlError> {
    // A reload resolves names and may wait for another instance; all else is there at once.
    let is_slow = matches!(request, Request::Reload(_) | Request::Renew | Request::Upgrade(_));
    let patience = if is_slow { RELOAD } else { ANSWER };
    let mut left = ATTEMPTS;
    loop {
        left -= 1;
        match ask_once(path, request, files, patience) {
            // Another version of the program is taking over, and knows nothing of it.
            Err(ControlError::Unanswered { .. }) if left > 0 && request.changes_nothing() => sleep(PAUSE),
            answer => return answer,
        }
    }
}

/// The same, for an answer that comes within `patience`.
pub fn ask_within<T: DeserializeOwned>(
    path: &Path,
    request: &Request,
    patience: Duration,
) -> Result<T, ControlError> {
    ask_once(path, request, &[], patience)
}

fn ask_once<T: DeserializeOwned>(
    path: &Path,
    request: &Request,
    files: &[BorrowedFd<'_>],
    patience: Duration,
) -> Result<T, ControlError> {
    let unreachable = |source| ControlError::Connect { path: path.to_owned(), source };
    let mut stream = connect(path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => ControlError::Busy { path: path.to_owned(), waited: CONNECT },
        _ => unreachable(error),
    })?;
    stream.set_read_timeout(Some(patience)).map_err(unreachable)?;
    let mut line =
        serde_json::to_vec(request).map_err(|error| ControlError::Speak { source: error.into() })?;
    line.push(b'\n');
    let mut answer = String::new();
    let written =
        send(&stream, &line, files).and_then(|sent| stream.write_all(line.get(sent..).unwrap_or_default()));
    written.and_then(|()| BufReader::new(stream).read_line(&mut answer)).map_err(|source| {
        match source.kind() {
            io::ErrorKind::WouldBlock => ControlError::Silent { path: path.to_owned(), waited: patience },
            _ => ControlError::Speak { source },
        }
    })?;
    if answer.is_empty() {
        return Err(ControlError::Unanswered { path: path.to_owned() });
    }
    match serde_json::from_str(&answer) {
        Ok(ReadAnswer::Done(value)) => Ok(value),
        Ok(ReadAnswer::Refused { message, code, problems }) => {
            Err(ControlError::Refused { message, code, problems })
        }
        Err(error) => Err(ControlError::Answer { cause: error.to_string() }),
    }
}

/// Waits for a place in the queue, which the kernel does for as long as the socket may take to send.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(CONNECT))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(OwnedFd::from(socket).into())
}

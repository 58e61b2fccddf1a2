//! The asking side. Blocking: a command has nothing else to do.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{ControlError, Request};
use crate::config::Problem;

/// What a server writes.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer<T> {
    Done(T),
    Refused {
        message: String,
        code: u8,
        #[serde(default)]
        problems: Vec<Problem>,
    },
}

/// Asks the instance whose socket is at `path`, and waits for its answer.
pub fn ask<T: DeserializeOwned>(path: &Path, request: &Request) -> Result<T, ControlError> {
    let mut stream = UnixStream::connect(path)
        .map_err(|source| ControlError::Connect { path: path.to_owned(), source })?;
    let mut line =
        serde_json::to_vec(request).map_err(|error| ControlError::Speak { source: error.into() })?;
    line.push(b'\n');
    let mut answer = String::new();
    stream
        .write_all(&line)
        .and_then(|()| BufReader::new(stream).read_line(&mut answer))
        .map_err(|source| ControlError::Speak { source })?;
    match serde_json::from_str(&answer) {
        Ok(Answer::Done(value)) => Ok(value),
        Ok(Answer::Refused { message, code, problems }) => {
            Err(ControlError::Refused { message, code, problems })
        }
        Err(error) => Err(ControlError::Answer { cause: error.to_string() }),
    }
}

//! The answering side: reads requests and hands them to whoever runs the instance, one after the other.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Group, chown};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{ControlError, Request};
use crate::config::Problem;
use crate::instance::GROUP;

/// Who asks has this long to say what, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// No request is longer, in bytes.
const LONGEST: u64 = 64 * 1024;
/// Requests that may wait for their turn.
const WAITING: usize = 16;

/// The control socket of a running instance. It is removed when dropped.
#[derive(Debug)]
pub struct ControlServer {
    path: PathBuf,
    requests: mpsc::Receiver<Asked>,
    accepting: JoinHandle<()>,
}

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub request: Request,
    /// Who asks; `None` where the kernel would not say.
    pub peer: Option<Peer>,
    answer: oneshot::Sender<Vec<u8>>,
}

/// A process that asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Its id as this process sees it; `None` where it does not.
    pub pid: Option<i32>,
    /// Its user.
    pub uid: u32,
}

impl Asked {
    /// Answers it.
    pub fn done(self, value: &impl Serialize) {
        // Who asked may have gone.
        let _ = self.answer.send(line(&Answer::Done(value)));
    }

    /// Refuses it, with the exit code that fits, and what is wrong with the file where that is why.
    pub fn refused(self, message: &str, code: u8, problems: &[Problem]) {
        let _ = self.answer.send(refusal(message, code, problems));
    }
}

/// What is written. A million bindings are written as they are, without another copy in between.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Answer<'a, T: Serialize> {
    Done(&'a T),
    Refused {
        message: &'a str,
        code: u8,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        problems: &'a [Problem],
    },
}

fn refusal(message: &str, code: u8, problems: &[Problem]) -> Vec<u8> {
    let refused: Answer<'_, ()> = Answer::Refused { message, code, problems };
    line(&refused)
}

fn line(answer: &Answer<'_, impl Serialize>) -> Vec<u8> {
    let mut line = serde_json::to_vec(answer).unwrap_or_else(|error| refusal(&error.to_string(), 1, &[]));
    line.push(b'\n');
    line
}

impl ControlServer {
    /// Listens at `path`, readable and writable for its owner and, where there is one, for the group `spectrum`. A socket
    /// that is there already is that of a dead instance: the caller has made sure. Must be called on a tokio runtime.
    pub fn listen(path: &Path) -> Result<Self, ControlError> {
        let listener = bind(path).map_err(|source| ControlError::Listen { path: path.to_owned(), source })?;
        let (sender, requests) = mpsc::channel(WAITING);
        let accepting = tokio::spawn(accept(listener, sender));
        Ok(Self { path: path.to_owned(), requests, accepting })
    }

    /// The next request. Never ends by itself.
    pub async fn next(&mut self) -> Asked {
        match self.requests.recv().await {
            Some(asked) => asked,
            None => std::future::pending().await,
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.accepting.abort();
        let _ = fs::remove_file(&self.path);
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let bound = UnixListener::bind(path).and_then(|listener| admit(path).map(|()| listener));
    if bound.is_err() {
        // The file is there as soon as the socket is bound, though it may never listen.
        let _ = fs::remove_file(path);
    }
    bound
}

fn admit(path: &Path) -> io::Result<()> {
    // Until here the directory, which only root and the group may enter, is what protects it.
    fs::set_permissions(path, Permissions::from_mode(0o660))?;
    if let Ok(Some(group)) = Group::from_name(GROUP) {
        chown(path, None, Some(group.gid))?;
    }
    Ok(())
}

async fn accept(listener: UnixListener, requests: mpsc::Sender<Asked>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let requests = requests.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &requests).await {
                        tracing::debug!(%error, "answer a request");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept a request");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, requests: &mpsc::Sender<Asked>) -> io::Result<()> {
    let peer =
        stream.peer_cred().ok().map(|credentials| Peer { pid: credentials.pid(), uid: credentials.uid() });
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    timeout(PATIENCE, BufReader::new(reader.take(LONGEST)).read_line(&mut line)).await??;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            let stopping = || refusal("the instance is stopping", 1, &[]);
            match requests.send(Asked { request, peer, answer }).await {
                Ok(()) => answered.await.unwrap_or_else(|_dropped| stopping()),
                Err(_closed) => stopping(),
            }
        }
        Err(error) => refusal(&format!("understand the request: {error}"), 2, &[]),
    };
    // Long answers take their time; a reader that stopped does not hold this task for ever.
    for chunk in answer.chunks(1 << 20) {
        timeout(PATIENCE, writer.write_all(chunk)).await??;
    }
    Ok(())
}

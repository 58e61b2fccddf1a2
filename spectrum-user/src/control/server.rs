//! The answering side: few conversations at once, each with a bound to its time, whatever the others do. Reads requests and
//! hands them to whoever runs the instance; what the answers are is not decided here.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Group, chown};
use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{sleep, timeout};

use super::ControlError;
use super::conversation::{Asked, Conversations};
use crate::registry::GROUP;

/// The number of those who may ask at once. One more has the place of who has been silent longest, or of who has been
/// slow to take their answer; where there is no such, it waits in the kernel's queue.
pub(super) const AT_ONCE: usize = 16;

/// The time between two looks whether somebody has become slow, while more wait.
const GLANCE: Duration = Duration::from_millis(250);

/// The time to wait while the host is out of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// The control socket of a running instance. It is removed when dropped, and who asks then hears no more.
#[derive(Debug)]
pub struct ControlServer {
    path: PathBuf,
    /// The file, by device and inode.
    file: (u64, u64),
    /// The listener, for a program that this process becomes.
    listener: OwnedFd,
    accepting: JoinHandle<()>,
    close: Option<oneshot::Sender<()>>,
}

impl ControlServer {
    /// The number of descriptors that it ever has: the listener, the conversations, and the one that is about to take
    /// another's place.
    pub const DESCRIPTORS: usize = AT_ONCE + 3;

    /// Listens at `path`, readable and writable for its owner and, where there is one, for the group `spectrum`. A socket
    /// that is there already is that of a dead instance: the caller has made sure. What is asked is sent to `requests`, by
    /// tasks on the runtime of `host`.
    pub fn listen(path: &Path, host: &Handle, requests: mpsc::Sender<Asked>) -> Result<Self, ControlError> {
        let _on_it = host.enter();
        let failed = |source| ControlError::Listen { path: path.to_owned(), source };
        let listener = bind(path).map_err(failed)?;
        Self::hear(path, listener, host, requests).map_err(failed)
    }

    /// The same with a socket that listens there already: who has asked meanwhile is heard now.
    pub fn adopt(
        path: &Path,
        listener: OwnedFd,
        host: &Handle,
        requests: mpsc::Sender<Asked>,
    ) -> Result<Self, ControlError> {
        let _on_it = host.enter();
        let failed = |source| ControlError::Listen { path: path.to_owned(), source };
        let listener = std::os::unix::net::UnixListener::from(listener);
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        Self::hear(path, listener, host, requests).map_err(failed)
    }

    fn hear(
        path: &Path,
        listener: UnixListener,
        host: &Handle,
        requests: mpsc::Sender<Asked>,
    ) -> io::Result<Self> {
        // Where somebody has removed it, it is not found, which is what the repair looks for.
        let file = at(path).unwrap_or_default();
        let own = listener.as_fd().try_clone_to_owned()?;
        let (close, closed) = oneshot::channel();
        let accepting = host.spawn(accept(listener, requests, closed));
        Ok(Self { path: path.to_owned(), file, listener: own, accepting, close: Some(close) })
    }

    /// The path and the listener.
    #[must_use]
    pub fn place(&self) -> (&Path, BorrowedFd<'_>) {
        (&self.path, self.listener.as_fd())
    }

    /// True while its path leads to it: others may remove it, or put something else there.
    #[must_use]
    pub fn is_found(&self) -> bool {
        at(&self.path).is_ok_and(|file| file == self.file)
    }

    /// Hears nobody any more, and lets those who have their answers take them.
    pub async fn close(mut self) {
        drop(self.close.take());
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.accepting.abort();
        let _ = fs::remove_file(&self.path);
    }
}

fn at(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
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

async fn accept(listener: UnixListener, requests: mpsc::Sender<Asked>, mut closed: oneshot::Receiver<()>) {
    let mut conversations = Conversations::new(requests);
    let mut is_short = false;
    loop {
        if !conversations.has_room() {
            // Others wait in the kernel's queue, where they cost no descriptor.
            tokio::select! {
                biased;
                _ = &mut closed => break,
                _ = timeout(GLANCE, conversations.one_ended()) => continue,
            }
        }
        let accepted = tokio::select! {
            biased;
            _ = &mut closed => break,
            () = conversations.one_ended() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                is_short = false;
                conversations.begin(stream);
                // Who has asked already is heard before more are accepted.
                yield_now().await;
            }
            Err(error) => {
                if !std::mem::replace(&mut is_short, true) {
                    tracing::warn!(%error, "accept a request");
                }
                sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    conversations.farewell().await;
}

//! What the worker process asks the steerer for: what this instance binds, which it does not know itself, and sockets that it is
//! not permitted to make. Decides nothing.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::message::{DialPlace, FromWorker, Told, WorkerQuestion};
use super::wire::Frame;
use spectrum_proxy::{HostFile, OwnBindings, PrivilegedSocket};

/// The time for an answer. The thread that looks origins up waits for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The time for a socket, for which a worker and all that it serves wait.
const SOCKET_PATIENCE: Duration = Duration::from_millis(250);

/// Asks the steerer.
#[derive(Debug)]
pub(super) struct Asking {
    frames: UnboundedSender<Frame>,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, Asker>>,
}

/// Who waits for an answer, and the files that come with it.
type Asker = SyncSender<(Told, Vec<OwnedFd>)>;

impl Asking {
    /// One whose questions go by `frames`.
    pub(super) fn by(frames: UnboundedSender<Frame>) -> Self {
        Self { frames, next: AtomicU64::default(), waiting: Mutex::default() }
    }

    /// The answer to the question of this number.
    pub(super) fn told(&self, number: u64, told: Told, files: Vec<OwnedFd>) {
        let asker = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        // Who asked may have lost patience.
        if let Some(asker) = asker {
            let _ = asker.try_send((told, files));
        }
    }

    /// The bindings as the steerer knows them.
    pub(super) fn own_bindings(self: &Arc<Self>) -> OwnBindings {
        let (asking, of_addresses) = (Arc::clone(self), Arc::clone(self));
        OwnBindings::new(
            move |service, address, port, record| {
                let bound = DialPlace { service: service.clone(), address, port, record };
                match asking.ask(WorkerQuestion::Hops(bound), PATIENCE) {
                    Some((Told::Hops(hops), _)) => hops,
                    _ => Vec::new(),
                }
            },
            move || match of_addresses.ask(WorkerQuestion::Interfaces, PATIENCE) {
                Some((Told::Interfaces(addresses), _)) => addresses,
                _ => BTreeSet::new(),
            },
        )
    }

    /// Has the steerer make the sockets, and open the files, that this process is not permitted to.
    pub(super) fn ask_for_what_is_not_permitted(self: &Arc<Self>) {
        let (asking, of_files) = (Arc::clone(self), Arc::clone(self));
        PrivilegedSocket::ask(move |socket| asking.opened(WorkerQuestion::Socket(socket), SOCKET_PATIENCE));
        HostFile::ask(move |file| of_files.opened(WorkerQuestion::File(file), PATIENCE));
    }

    fn opened(&self, question: WorkerQuestion, patience: Duration) -> io::Result<OwnedFd> {
        match self.ask(question, patience) {
            Some((Told::Opened(Ok(())), files)) => {
                files.into_iter().next().ok_or_else(|| io::ErrorKind::InvalidData.into())
            }
            Some((Told::Opened(Err(errno)), _)) => Err(io::Error::from_raw_os_error(errno)),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// The answer to `question`. Without one the steerer is on its way out, or stopped.
    fn ask(&self, question: WorkerQuestion, patience: Duration) -> Option<(Told, Vec<OwnedFd>)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let frame = Frame::of(&FromWorker::Ask(number, question), Vec::new()).ok()?;
        let (asker, answer) = sync_channel(1);
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(number, asker);
        let told = self.frames.send(frame).ok().and_then(|()| answer.recv_timeout(patience).ok());
        if told.is_none() {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
            tracing::debug!("the steerer does not answer");
        }
        told
    }
}

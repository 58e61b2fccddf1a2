//! The steerer's end of the stream to its worker process: what is asked there, and answers to what is asked here. Any thread
//! may ask. Every wait for an answer has a bound; who does not answer is of no use any more.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::message::{FromWorker, Order, ToWorker, Told, WorkerAnswer, WorkerQuestion};
use super::wire::{Frame, Incoming, Outgoing, halves};

/// The longest message that is taken from the worker process, in bytes: the states of the origins of thousands of services.
const LONGEST: usize = 64 << 20;

/// Messages that wait for the worker process to take them.
const WAITING: usize = 65_536;

/// So many messages may wait before questions go unanswered whose answers are files.
const UNHEARD: usize = 512;

/// The time for an answer to what takes none. With thousands of listeners some take seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Answers the questions of the worker process.
pub(crate) type Answering = dyn Fn(&WorkerQuestion) -> (Told, Option<OwnedFd>) + Send + Sync;

/// The reason for which there is no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum LinkError {
    /// It has ended.
    #[error("the worker process has ended")]
    Ended,
    /// It could not do it.
    #[error("{0}")]
    Failed(String),
    /// It does not answer.
    #[error("the worker process has not answered within {} s", .0.as_secs())]
    Silent(Duration),
    /// It could not be told.
    #[error("tell the worker process: {0}")]
    Untold(String),
}

/// The way to a worker process. Clones lead to the same one.
#[derive(Clone, Debug)]
pub(crate) struct Link(Arc<Ends>);

#[derive(Debug)]
struct Ends {
    frames: mpsc::Sender<Frame>,
    shared: Arc<Shared>,
    tasks: [AbortHandle; 2],
}

/// The things that both tasks and whoever asks know.
#[derive(Debug)]
struct Shared {
    next: AtomicU64,
    /// Those who wait for an answer; `None` when there will be no more.
    waiting: Mutex<Option<HashMap<u64, Asker>>>,
    /// The reason for which it is over, once it is.
    over: watch::Sender<Option<String>>,
}

/// Who waits for an answer: a task, or a thread that does nothing meanwhile.
#[derive(Debug)]
enum Asker {
    Task(oneshot::Sender<WorkerAnswer>),
    Thread(SyncSender<WorkerAnswer>),
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.close();
    }
}

impl Ends {
    fn close(&self) {
        for task in &self.tasks {
            task.abort();
        }
        self.shared.end("nobody speaks with it any more".to_owned());
    }
}

impl Link {
    /// Speaks on `stream`, by tasks on the runtime of `host`, and has `answering` answer what is asked there.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn speak(
        stream: std::os::unix::net::UnixStream,
        host: &Handle,
        answering: Arc<Answering>,
    ) -> io::Result<Self> {
        let _on_it = host.enter();
        stream.set_nonblocking(true)?;
        let (outgoing, incoming) = halves(UnixStream::from_std(stream)?, LONGEST);
        let (frames, to_send) = mpsc::channel(WAITING);
        let shared = Arc::new(Shared {
            next: AtomicU64::default(),
            waiting: Mutex::new(Some(HashMap::new())),
            over: watch::Sender::new(None),
        });
        let sending = host.spawn(send(outgoing, to_send, Arc::clone(&shared)));
        let hearing = host.spawn(hear(incoming, frames.downgrade(), Arc::clone(&shared), answering));
        let tasks = [sending.abort_handle(), hearing.abort_handle()];
        Ok(Self(Arc::new(Ends { frames, shared, tasks })))
    }

    /// Closes the stream, whoever still has the link.
    pub(super) fn close(&self) {
        self.0.close();
    }

    /// Waits until nothing can be asked any more: why.
    pub(super) async fn over(&self) -> String {
        let mut over = self.0.shared.over.subscribe();
        match over.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// Has the worker process do something, and waits for its answer, but no longer than `patience`.
    ///
    /// # Errors
    /// [`LinkError`].
    pub(super) async fn ask(
        &self,
        command: Order,
        files: Vec<OwnedFd>,
        patience: Duration,
    ) -> Result<WorkerAnswer, LinkError> {
        let outcome = self.begin(command, files, patience)?.end().await;
        if matches!(outcome, Err(LinkError::Silent(_))) && patience >= PATIENCE {
            // Whoever does not do what it is told is of no use: another one takes its place.
            self.0.shared.end(format!("it has not answered within {} s", patience.as_secs()));
        }
        outcome
    }

    /// Has it do something, and does not wait. The order of what is begun is kept.
    ///
    /// # Errors
    /// [`LinkError`], if it cannot be told.
    pub(super) fn begin(
        &self,
        command: Order,
        files: Vec<OwnedFd>,
        patience: Duration,
    ) -> Result<Begun, LinkError> {
        let (tell, answer) = oneshot::channel();
        self.tell(command, files, Asker::Task(tell))?;
        Ok(Begun { answer, patience })
    }

    /// Has it do something while this thread waits, which must not be one that the link's tasks are on.
    ///
    /// # Errors
    /// [`LinkError`].
    pub(super) fn ask_and_block(
        &self,
        command: Order,
        patience: Duration,
    ) -> Result<WorkerAnswer, LinkError> {
        let (tell, answer) = sync_channel(1);
        self.tell(command, Vec::new(), Asker::Thread(tell))?;
        match answer.recv_timeout(patience) {
            Ok(answer) => settled(answer),
            Err(RecvTimeoutError::Timeout) => Err(LinkError::Silent(patience)),
            Err(RecvTimeoutError::Disconnected) => Err(LinkError::Ended),
        }
    }

    fn tell(&self, command: Order, files: Vec<OwnedFd>, asker: Asker) -> Result<(), LinkError> {
        let Ends { frames, shared, .. } = &*self.0;
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let frame = Frame::of(&ToWorker::Do(number, command), files)
            .map_err(|error| LinkError::Untold(error.to_string()))?;
        match shared.waiting().as_mut() {
            Some(waiting) => waiting.insert(number, asker),
            None => return Err(LinkError::Ended),
        };
        frames.try_send(frame).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LinkError::Untold("it takes nothing".to_owned()),
            mpsc::error::TrySendError::Closed(_) => LinkError::Ended,
        })
    }
}

/// A thing that the worker process is doing.
#[derive(Debug)]
pub(crate) struct Begun {
    answer: oneshot::Receiver<WorkerAnswer>,
    patience: Duration,
}

impl Begun {
    /// Waits until it is done, for a bounded time.
    ///
    /// # Errors
    /// [`LinkError`].
    pub(super) async fn end(self) -> Result<WorkerAnswer, LinkError> {
        match tokio::time::timeout(self.patience, self.answer).await {
            Ok(Ok(answer)) => settled(answer),
            Ok(Err(_)) => Err(LinkError::Ended),
            Err(_) => Err(LinkError::Silent(self.patience)),
        }
    }

    /// The same where nothing comes of it but that it is done.
    ///
    /// # Errors
    /// [`LinkError`].
    pub(crate) async fn done(self) -> Result<(), LinkError> {
        self.end().await.map(drop)
    }
}

fn settled(answer: WorkerAnswer) -> Result<WorkerAnswer, LinkError> {
    match answer {
        WorkerAnswer::Failed(error) => Err(LinkError::Failed(error)),
        answer => Ok(answer),
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, Asker>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody will get an answer any more. The first reason is the one that is told.
    fn end(&self, why: String) {
        // Those who wait hear of it by what is dropped.
        drop(self.waiting().take());
        self.over.send_if_modified(|now| {
            let is_first = now.is_none();
            now.get_or_insert(why);
            is_first
        });
    }
}

async fn send(outgoing: Outgoing, mut frames: mpsc::Receiver<Frame>, shared: Arc<Shared>) {
    while let Some(frame) = frames.recv().await {
        if let Err(error) = outgoing.send(&frame).await {
            // Whatever it said last is still to be read.
            tracing::debug!(%error, "tell the worker process");
            return;
        }
    }
    drop(shared);
}

async fn hear(
    mut incoming: Incoming,
    frames: mpsc::WeakSender<Frame>,
    shared: Arc<Shared>,
    answering: Arc<Answering>,
) {
    let why = loop {
        match incoming.next().await {
            Ok(Some((FromWorker::Answer(number, answer), _files))) => {
                let asker = shared.waiting().as_mut().and_then(|waiting| waiting.remove(&number));
                // Who asked may have lost patience.
                match asker {
                    Some(Asker::Task(asker)) => drop(asker.send(answer)),
                    Some(Asker::Thread(asker)) => drop(asker.try_send(answer)),
                    None => {}
                }
            }
            // Of one that asks and does not listen no more files wait than there is use for.
            Ok(Some((FromWorker::Ask(_, WorkerQuestion::File(_) | WorkerQuestion::Socket(_)), _files)))
                if frames
                    .upgrade()
                    .is_none_or(|frames| frames.max_capacity() - frames.capacity() > UNHEARD) => {}
            Ok(Some((FromWorker::Ask(number, question), _files))) => {
                let (told, file) = answering(&question);
                let told = Frame::of(&ToWorker::Told(number, told), file.into_iter().collect());
                if let (Ok(frame), Some(frames)) = (told, frames.upgrade()) {
                    // One that takes nothing waits for its answer in vain, and goes on without.
                    let _ = frames.try_send(frame);
                }
            }
            Ok(Some((FromWorker::Failed(why), _files))) => break why,
            Ok(None) => break "it ended unexpectedly".to_owned(),
            Err(error) => break format!("what it says makes no sense: {error}"),
        }
    };
    shared.end(why);
}

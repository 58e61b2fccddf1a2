//! The steerer's end of the stream to its worker process: what is asked there, and answers to what is asked here. Any thread
//! may ask. Every wait for an answer has a bound; who does not answer is of no use any more.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::message::{FromWorker, Order, ToWorker, Told, WorkerAnswer, WorkerQuestion};
use super::waiters::{Unwaited, Waiters};
use super::wire::{Frame, HeardPart, Incoming, Outgoing, halves_after};

/// The longest message that is taken from the worker process, in bytes: the states of the origins of thousands of services.
const LONGEST: usize = 64 << 20;

/// Messages that wait for the worker process to take them.
const WAITING: usize = 65_536;

/// So many messages may wait before questions go unanswered whose answers are files.
const UNHEARD: usize = 512;

/// The time for an answer to what takes none. With thousands of listeners some take seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// So often a sign of life is asked for, for which there is the same time. One that lacks the CPU gives it late, and stays.
pub(super) const SIGN_PAUSE: Duration = Duration::from_secs(5);

/// The parts of a wait. Whoever was stopped meanwhile, by itself or with the host, has waited for one of them and no more.
const TURNS: u32 = 6;

/// The time for what was begun to be said to its end.
const SETTLING: Duration = Duration::from_secs(3);

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
    tasks: Vec<AbortHandle>,
    watching: Option<AbortHandle>,
    /// Moves once another process is to speak on.
    leaving: watch::Sender<Leaving>,
    /// What both tasks leave behind then.
    left: Mutex<Option<(oneshot::Receiver<Incoming>, oneshot::Receiver<Said>)>>,
    /// The answers to what another process has begun.
    awaited: Mutex<Vec<oneshot::Receiver<WorkerAnswer>>>,
}

/// How far the leaving of a link is, on which another process is to speak.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Leaving {
    Not,
    /// Nothing is heard any more.
    Hearing,
    /// What was begun to be said is said to its end, and nothing more.
    Saying,
}

/// The mark that everything was said to its end.
#[derive(Debug)]
struct Said;

/// A link as another process speaks on by it.
#[derive(Debug)]
pub(crate) struct HandedLink {
    pub(crate) stream: OwnedFd,
    /// The number of the next message.
    pub(crate) next: u64,
    pub(crate) heard: HeardPart,
    /// The numbers of what is to be answered yet.
    pub(crate) awaited: Vec<u64>,
}

/// The things that both tasks and whoever asks know.
#[derive(Debug)]
struct Shared {
    waiters: Waiters<Asker>,
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
        for task in self.tasks.iter().chain(&self.watching) {
            task.abort();
        }
        self.shared.end("nobody speaks with it any more".to_owned());
    }
}

impl Link {
    /// Speaks on `stream`, by tasks on the runtime of `host`, and has `answering` answer what is asked there. A sign of life is
    /// asked for whenever `sign_pause` has passed, if it is one that can be ended when it gives none.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn speak(
        stream: std::os::unix::net::UnixStream,
        host: &Handle,
        answering: Arc<Answering>,
        sign_pause: Option<Duration>,
    ) -> io::Result<Self> {
        let handed =
            HandedLink { stream: stream.into(), next: 0, heard: HeardPart::default(), awaited: Vec::new() };
        Self::speak_on(handed, host, answering, sign_pause)
    }

    /// The same where another process has spoken before.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn speak_on(
        handed: HandedLink,
        host: &Handle,
        answering: Arc<Answering>,
        sign_pause: Option<Duration>,
    ) -> io::Result<Self> {
        let _on_it = host.enter();
        let HandedLink { stream, next, heard, awaited } = handed;
        let (waiting, awaited): (Vec<_>, Vec<_>) = awaited
            .into_iter()
            .map(|number| {
                let (tell, answer) = oneshot::channel();
                ((number, Asker::Task(tell)), answer)
            })
            .unzip();
        let stream = std::os::unix::net::UnixStream::from(stream);
        stream.set_nonblocking(true)?;
        let (outgoing, incoming) = halves_after(UnixStream::from_std(stream)?, LONGEST, heard);
        let (frames, to_send) = mpsc::channel(WAITING);
        let shared =
            Arc::new(Shared { waiters: Waiters::after(next, waiting), over: watch::Sender::new(None) });
        let leaving = watch::Sender::new(Leaving::Not);
        let (all_said, said) = oneshot::channel();
        let (all_heard, heard) = oneshot::channel();
        let sending = send(outgoing, to_send, Arc::clone(&shared), leaving.subscribe());
        let sending = host.spawn(async move {
            if let Some(said) = sending.await {
                let _ = all_said.send(said);
            }
        });
        let hearing = hear(incoming, frames.downgrade(), Arc::clone(&shared), answering, leaving.subscribe());
        let hearing = host.spawn(async move {
            if let Some(incoming) = hearing.await {
                let _ = all_heard.send(incoming);
            }
        });
        let watching =
            sign_pause.map(|pause| host.spawn(watch(frames.downgrade(), Arc::clone(&shared), pause)));
        let watching = watching.map(|task| task.abort_handle());
        let tasks = [sending, hearing].into_iter().map(|task| task.abort_handle()).collect();
        let left = Mutex::new(Some((heard, said)));
        Ok(Self(Arc::new(Ends {
            frames,
            shared,
            tasks,
            watching,
            leaving,
            left,
            awaited: Mutex::new(awaited),
        })))
    }

    /// Says what was begun to be said, and hears no more: from then on another process speaks. Whoever waits for an answer here
    /// gets none.
    ///
    /// # Errors
    /// [`LinkError`]: it is over, or the other side takes nothing.
    pub(super) async fn hand_on(&self) -> Result<HandedLink, LinkError> {
        let Ends { shared, leaving, left, watching, .. } = &*self.0;
        watching.iter().for_each(AbortHandle::abort);
        let left = left.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (heard, said) = left.ok_or(LinkError::Ended)?;
        let both = async {
            leaving.send_replace(Leaving::Hearing);
            let heard = heard.await?;
            // What was heard last is answered before.
            leaving.send_replace(Leaving::Saying);
            Ok::<_, oneshot::error::RecvError>((heard, said.await?))
        };
        let outcome = tokio::time::timeout(SETTLING, both).await;
        let (incoming, Said) = match outcome {
            Ok(Ok(both)) => both,
            Ok(Err(_gone)) => return Err(LinkError::Ended),
            Err(_elapsed) => return Err(LinkError::Silent(SETTLING)),
        };
        let awaited = shared.waiters.numbers();
        shared.end("another process speaks with it".to_owned());
        let (stream, heard) = incoming.hand_on().map_err(|error| LinkError::Untold(error.to_string()))?;
        Ok(HandedLink { stream, next: shared.waiters.next(), heard, awaited })
    }

    /// The answers to what another process has begun; once.
    pub(super) fn awaited(&self) -> Vec<oneshot::Receiver<WorkerAnswer>> {
        std::mem::take(&mut *self.0.awaited.lock().unwrap_or_else(PoisonError::into_inner))
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
        self.begin(command, files, patience)?.end().await
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
        begin(&self.0.frames, &self.0.shared, command, files, patience)
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
        self.0.shared.tell(&self.0.frames, command, Vec::new(), Asker::Thread(tell))?;
        match answer.recv_timeout(patience) {
            Ok(answer) => settled(answer),
            Err(RecvTimeoutError::Timeout) => Err(LinkError::Silent(patience)),
            Err(RecvTimeoutError::Disconnected) => Err(LinkError::Ended),
        }
    }
}

/// Has the worker process at the other end of `frames` do something.
fn begin(
    frames: &mpsc::Sender<Frame>,
    shared: &Arc<Shared>,
    command: Order,
    files: Vec<OwnedFd>,
    patience: Duration,
) -> Result<Begun, LinkError> {
    let (tell, answer) = oneshot::channel();
    shared.tell(frames, command, files, Asker::Task(tell))?;
    Ok(Begun { answer, patience, shared: Arc::clone(shared) })
}

/// A thing that the worker process is doing.
#[derive(Debug)]
pub(crate) struct Begun {
    answer: oneshot::Receiver<WorkerAnswer>,
    patience: Duration,
    shared: Arc<Shared>,
}

impl Begun {
    /// Waits until it is done, for a bounded time. Whoever does not do in [`PATIENCE`] what it is told is of no use: another one
    /// takes its place.
    ///
    /// # Errors
    /// [`LinkError`].
    pub(super) async fn end(mut self) -> Result<WorkerAnswer, LinkError> {
        for _ in 0..TURNS {
            match tokio::time::timeout(self.patience / TURNS, &mut self.answer).await {
                Ok(Ok(answer)) => return settled(answer),
                Ok(Err(_)) => return Err(LinkError::Ended),
                Err(_) => {}
            }
        }
        if self.patience >= PATIENCE {
            self.shared.end(format!("it has not answered within {} s", self.patience.as_secs()));
        }
        Err(LinkError::Silent(self.patience))
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
    /// Tells it by `frames` what to do. `asker` gets the answer.
    fn tell(
        &self,
        frames: &mpsc::Sender<Frame>,
        command: Order,
        files: Vec<OwnedFd>,
        asker: Asker,
    ) -> Result<(), LinkError> {
        let number = self.waiters.number();
        let frame = Frame::of(&ToWorker::Do(number, command), files)
            .map_err(|error| LinkError::Untold(error.to_string()))?;
        self.waiters.enter(number, asker).map_err(|why| match why {
            Unwaited::Ended => LinkError::Ended,
            Unwaited::TooMany => LinkError::Untold("too much waits for an answer".to_owned()),
        })?;
        frames.try_send(frame).map_err(|error| {
            drop(self.waiters.take(number));
            match error {
                mpsc::error::TrySendError::Full(_) => LinkError::Untold("it takes nothing".to_owned()),
                mpsc::error::TrySendError::Closed(_) => LinkError::Ended,
            }
        })
    }

    /// Nobody will get an answer any more. The first reason is the one that is told.
    fn end(&self, why: String) {
        // Those who wait hear of it by what is dropped.
        self.waiters.end();
        self.over.send_if_modified(|now| {
            let is_first = now.is_none();
            now.get_or_insert(why);
            is_first
        });
    }
}

async fn send(
    outgoing: Outgoing,
    mut frames: mpsc::Receiver<Frame>,
    shared: Arc<Shared>,
    mut leaving: watch::Receiver<Leaving>,
) -> Option<Said> {
    loop {
        let frame = tokio::select! {
            biased;
            frame = frames.recv() => frame?,
            _ = leaving.wait_for(|leaves| *leaves >= Leaving::Saying) => {
                drop(shared);
                return Some(Said);
            }
        };
        if let Err(error) = outgoing.send(&frame).await {
            // Whatever it said last is still to be read.
            tracing::debug!(%error, "tell the worker process");
            return None;
        }
    }
}

async fn hear(
    mut incoming: Incoming,
    frames: mpsc::WeakSender<Frame>,
    shared: Arc<Shared>,
    answering: Arc<Answering>,
    mut leaving: watch::Receiver<Leaving>,
) -> Option<Incoming> {
    let why = loop {
        let came = tokio::select! {
            biased;
            left = leaving.wait_for(|leaves| *leaves >= Leaving::Hearing) => match left {
                Ok(_) => return Some(incoming),
                // Nobody has the link any more, and this task ends with it.
                Err(_gone) => return None,
            },
            came = incoming.next() => came,
        };
        match came {
            Ok(Some((FromWorker::Answer(number, answer), _files))) => {
                // Who asked may have lost patience.
                match shared.waiters.take(number) {
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
    None
}

/// Asks for a sign of life again and again: one that hangs is to be noticed while nobody wants anything of it.
async fn watch(frames: mpsc::WeakSender<Frame>, shared: Arc<Shared>, pause: Duration) {
    loop {
        tokio::time::sleep(pause).await;
        let Some(frames) = frames.upgrade() else { return };
        let asked = begin(&frames, &shared, Order::Sign, Vec::new(), PATIENCE);
        drop(frames);
        let outcome = match asked {
            Ok(begun) => begun.end().await.map(drop),
            Err(error) => Err(error),
        };
        if matches!(outcome, Err(LinkError::Ended | LinkError::Silent(_))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link, and the other end of its stream.
    fn link(sign_pause: Option<Duration>) -> (Link, Outgoing, Incoming) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let answering: Arc<Answering> = Arc::new(|_| (Told::Hops(Vec::new()), None));
        let link = Link::speak(ours, &Handle::current(), answering, sign_pause).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let (outgoing, incoming) =
            crate::worker_process::wire::halves(UnixStream::from_std(theirs).unwrap(), LONGEST);
        (link, outgoing, incoming)
    }

    fn is_over(link: &Link) -> bool {
        link.0.shared.over.borrow().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_do_what_it_is_told_is_given_up_however_it_is_waited_for() {
        let (glanced_at, _outgoing, _incoming) = link(None);
        let short = Duration::from_secs(1);
        let outcome = glanced_at.begin(Order::Abort, Vec::new(), short).unwrap().done().await;
        assert_eq!((outcome, is_over(&glanced_at)), (Err(LinkError::Silent(short)), false));
        let (begun, _outgoing, _incoming) = link(None);
        let outcome = begun.begin(Order::Abort, Vec::new(), PATIENCE).unwrap().done().await;
        assert_eq!((outcome, is_over(&begun)), (Err(LinkError::Silent(PATIENCE)), true));
        let (asked, _outgoing, _incoming) = link(None);
        let outcome = asked.ask(Order::Abort, Vec::new(), PATIENCE).await;
        assert_eq!(outcome.unwrap_err(), LinkError::Silent(PATIENCE));
        assert_eq!(asked.over().await, "it has not answered within 30 s");
        assert_eq!(asked.begin(Order::Abort, Vec::new(), short).unwrap_err(), LinkError::Ended);
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_whom_nobody_wants_anything_is_missed_as_well() {
        let (silent, _outgoing, _incoming) = link(Some(SIGN_PAUSE));
        let begun = tokio::time::Instant::now();
        assert_eq!(silent.over().await, "it has not answered within 30 s");
        assert!(begun.elapsed() >= PATIENCE, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn one_that_gives_signs_of_life_stays() {
        let (alive, outgoing, mut incoming) = link(Some(Duration::from_millis(1)));
        for _ in 0..20 {
            let (asked, _files) = incoming.next().await.unwrap().unwrap();
            let ToWorker::Do(number, Order::Sign) = asked else { panic!("{asked:?}") };
            let answer = FromWorker::Answer(number, WorkerAnswer::Done);
            outgoing.send(&Frame::of(&answer, Vec::new()).unwrap()).await.unwrap();
        }
        assert!(!is_over(&alive));
    }
}

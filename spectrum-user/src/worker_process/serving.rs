//! The worker process itself, from its first message to its last: does what it is told, and says what only it knows. Ends with
//! whoever tells it.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::runtime;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use super::asking::Asking;
use super::message::{
    FromWorker, HandoverOf, JudgeForm, JudgeOrder, Order, ToWorker, WorkerAnswer, WorkersLook,
};
use super::moving::{MOVING, adopt, leave};
use super::node_file;
use super::wire::{Frame, Incoming, Outgoing, halves};
use crate::confinement::WorkerReport;
use crate::model::{Protocol, ResolverOptions};
use crate::observe::{Counters, Recorder, observer};
use spectrum_proxy::{
    Handover, JudgeChange, Listener, OriginWatch, PreparedHandovers, Served, SourceJudge, Workers,
};

/// The longest message that is taken, in bytes.
const LONGEST: usize = 256 << 20;

/// The time for saying why it ends.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// The worker process.
struct Serving {
    origins: OriginWatch,
    workers: RefCell<Option<Rc<Workers>>>,
    prepared: RefCell<Option<PreparedHandovers>>,
    recorder: Recorder,
    counters: Counters,
    asking: Arc<Asking>,
    frames: mpsc::UnboundedSender<Frame>,
    confinement: Option<WorkerReport>,
}

/// Does what comes on `stream`, until it closes, in the network namespace that the calling thread is in.
///
/// # Errors
/// What must not happen: a message that makes no sense, a thread that died.
pub(crate) fn serve(
    stream: UnixStream,
    recorder: Recorder,
    counters: Counters,
    confinement: Option<WorkerReport>,
) -> anyhow::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    LocalSet::new().block_on(&runtime, async {
        stream.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(stream).context("speak with the steerer")?;
        let (outgoing, incoming) = halves(stream, LONGEST);
        let (frames, to_send) = mpsc::unbounded_channel();
        let asking = Arc::new(Asking::by(frames.clone()));
        asking.ask_for_what_is_not_permitted();
        let origins = OriginWatch::start(ResolverOptions::default())?;
        let serving = Rc::new(Serving {
            origins,
            workers: RefCell::default(),
            prepared: RefCell::default(),
            recorder,
            counters,
            asking,
            frames,
            confinement,
        });
        let sending = spawn_local(send(outgoing, to_send));
        let outcome = hear(&serving, incoming).await;
        if let Err(error) = &outcome {
            serving.say(&FromWorker::Failed(format!("{error:#}")));
            // Whoever might hear it is not waited for any longer.
            drop(timeout(LAST_WORDS, sending).await);
        }
        outcome
    })
}

async fn send(outgoing: Outgoing, mut frames: mpsc::UnboundedReceiver<Frame>) {
    while let Some(frame) = frames.recv().await {
        if let Err(error) = outgoing.send(&frame).await {
            // There is nobody who would hear it.
            tracing::debug!(%error, "tell the steerer");
            return;
        }
    }
}

async fn hear(serving: &Rc<Serving>, mut incoming: Incoming) -> anyhow::Result<()> {
    let (failed, mut failure) = mpsc::unbounded_channel();
    loop {
        let came = tokio::select! {
            came = incoming.next() => came.context("hear the steerer")?,
            failure = failure.recv() => return failure.unwrap_or(Ok(())),
        };
        match came {
            Some((ToWorker::Do(number, command), files)) => {
                let (serving, failed) = (Rc::clone(serving), failed.clone());
                // Those that take time do not hold up the next.
                spawn_local(async move {
                    let answer = match serving.obey(command, files, &failed).await {
                        Ok(answer) => answer,
                        Err(error) => WorkerAnswer::Failed(format!("{error:#}")),
                    };
                    serving.say(&FromWorker::Answer(number, answer));
                });
            }
            Some((ToWorker::Told(number, told), files)) => serving.asking.told(number, told, files),
            None => return Ok(()),
        }
    }
}

/// The change that `order` and the file that comes with it are.
fn judge_change(order: JudgeOrder, files: Vec<OwnedFd>) -> anyhow::Result<JudgeChange> {
    let file = files.into_iter().next().context("judge by no file");
    let of = "read whom services let in";
    Ok(match order {
        JudgeOrder::Amend(count) => {
            let [run_time] = node_file::read(file?, [count]).context(of)?;
            JudgeChange::Amend(run_time)
        }
        JudgeOrder::Forget => JudgeChange::Forget,
        JudgeOrder::Overlap => JudgeChange::Overlap,
        JudgeOrder::Prepare(None) => JudgeChange::Prepare(SourceJudge::default()),
        JudgeOrder::Prepare(Some(JudgeForm { gates, nodes, run_time, judges_all })) => {
            let [nodes, run_time] = node_file::read(file?, [nodes, run_time]).context(of)?;
            JudgeChange::Prepare(SourceJudge::new(gates, nodes, run_time, judges_all))
        }
        JudgeOrder::Settle => JudgeChange::Settle,
    })
}

impl Serving {
    fn say(&self, message: &FromWorker) {
        match Frame::of(message, Vec::new()) {
            // Who does not hear it any more is gone, and so are we.
            Ok(frame) => drop(self.frames.send(frame)),
            Err(error) => tracing::error!(%error, "tell the steerer"),
        }
    }

    async fn obey(
        &self,
        command: Order,
        files: Vec<OwnedFd>,
        failed: &mpsc::UnboundedSender<anyhow::Result<()>>,
    ) -> anyhow::Result<WorkerAnswer> {
        match command {
            Order::Configure(options) => self.origins.configure(options),
            Order::Place(places) => self.origins.place(places),
            Order::Follow(rules) => self.recorder.follow(rules),
            Order::Avoid => self.origins.avoid(self.asking.own_bindings()).await?,
            Order::LookUp(origins, patience) => {
                let origins = origins.iter().map(|(origin, local)| (origin, *local));
                let unresolved = self.origins.look_up(origins, patience).unresolved().await?;
                tracing::debug!(count = unresolved.len(), "origins have no address yet");
            }
            Order::Start(count) => self.start(count, failed)?,
            Order::Judge(order) => self.workers()?.judge(judge_change(order, files)?),
            Order::Listen(destination, served) => {
                let listeners = files.into_iter().map(|file| match destination.protocol {
                    Protocol::Tcp => Listener::Tcp(file.into()),
                    Protocol::Udp => Listener::Udp(file.into()),
                });
                self.workers()?.listen(&destination, listeners.collect(), Arc::new(*served)).await?;
            }
            Order::Prepare(handovers) => {
                let handovers = handovers.into_iter().map(|HandoverOf { from, to, served }| Handover {
                    from,
                    to,
                    served: Arc::<Served>::new(served),
                });
                let prepared = self.workers()?.prepare(handovers.collect()).await?;
                self.prepared.replace(Some(prepared));
            }
            Order::HandOver => {
                let prepared = self.prepared.take().context("hand over what was not prepared")?;
                self.workers()?.hand_over(prepared).await;
            }
            Order::Remove(destination) => self.workers()?.remove(&destination).await,
            Order::Part(destinations) => self.workers()?.part(&destinations).await,
            Order::Cut(destination) => return Ok(WorkerAnswer::Cut(self.workers()?.cut(&destination).await)),
            Order::Hold => self.workers()?.hold(),
            Order::Begin(protocol) => self.workers()?.begin(protocol),
            Order::Leave => return self.moved(files, leave).await,
            Order::Adopt => return self.moved(files, adopt).await,
            Order::Drain(time) => {
                let Some(workers) = self.workers.borrow().clone() else { return Ok(WorkerAnswer::Done) };
                return Ok(WorkerAnswer::Drained(workers.drain(time).await));
            }
            Order::Abort => self.workers()?.abort(),
            Order::Sign => {
                let workers = self.workers.borrow().clone();
                if let Some(workers) = workers {
                    workers.attend().await;
                }
            }
            Order::Set(service, typed, setting) => {
                return Ok(WorkerAnswer::Set(self.origins.set(&service, &typed, setting).await));
            }
            Order::Keep(origins) => {
                self.origins.keep(origins.iter().map(|(service, origin)| (service, origin)));
            }
            Order::Look(services, share) => {
                let workers = self.workers.borrow().clone();
                let origins = services.into_iter().map(|service| {
                    let states = self.origins.states(&service);
                    (service, states)
                });
                return Ok(WorkerAnswer::Seen(WorkersLook {
                    descriptors: workers.as_ref().map_or(0, |workers| workers.descriptors()),
                    descriptors_of_each: workers.map_or(0, |workers| workers.descriptors_of_each(share)),
                    confinement: self.confinement.clone(),
                    origins: origins.collect(),
                }));
            }
        }
        Ok(WorkerAnswer::Done)
    }

    /// Has UDP sessions go over by the stream that is the first of `files`, for a bounded time: what has not gone then stays.
    async fn moved(
        &self,
        files: Vec<OwnedFd>,
        how: impl AsyncFnOnce(&Workers, OwnedFd) -> anyhow::Result<usize>,
    ) -> anyhow::Result<WorkerAnswer> {
        let stream = files.into_iter().next().context("move sessions without a stream")?;
        let workers = self.workers()?;
        let count = timeout(MOVING, how(&workers, stream)).await.context("move all sessions in time")??;
        Ok(WorkerAnswer::Moved(count))
    }

    fn workers(&self) -> anyhow::Result<Rc<Workers>> {
        self.workers.borrow().clone().context("serve without workers")
    }

    fn start(&self, count: usize, failed: &mpsc::UnboundedSender<anyhow::Result<()>>) -> anyhow::Result<()> {
        if self.workers.borrow().is_some() {
            bail!("start the workers twice");
        }
        let count = NonZeroUsize::new(count).context("start no workers")?;
        let observer = |_| observer(self.counters.worker(), &self.recorder);
        let workers = Rc::new(Workers::start(count, self.origins.clone(), observer)?);
        self.workers.replace(Some(Rc::clone(&workers)));
        let failed = failed.clone();
        spawn_local(async move {
            // Without an error they have been told to end.
            if let Some(error) = workers.failure().await {
                let _ = failed.send(Err(error.into()));
            }
        });
        Ok(())
    }
}

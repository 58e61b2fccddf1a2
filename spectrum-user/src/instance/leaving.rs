//! Worker processes that have left their listeners to another one: what they have open still may end, then they go. Has none leave.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::view::LeavingWorker;
use crate::worker_process::{Link, LinkError, WorkerProcess};
use spectrum_proxy::DrainOutcome;

/// The most that there are at once.
const MOST: usize = 16;

/// Those that are on their way out.
#[derive(Debug)]
pub(super) struct LeavingWorkers {
    workers: BTreeMap<u64, (WorkerProcess, Instant)>,
    next: u64,
    done: mpsc::UnboundedSender<Left>,
    over: mpsc::UnboundedReceiver<Left>,
}

/// One of them whose time is over.
#[derive(Debug)]
pub(super) struct Left {
    number: u64,
    outcome: Result<DrainOutcome, LinkError>,
}

impl Default for LeavingWorkers {
    fn default() -> Self {
        let (done, over) = mpsc::unbounded_channel();
        Self { workers: BTreeMap::new(), next: 0, done, over }
    }
}

impl LeavingWorkers {
    /// True if there are as many as there may be.
    pub(super) fn are_many(&self) -> bool {
        self.workers.len() >= MOST
    }

    /// Gives what `worker` has open so much time, from now on.
    pub(super) fn add(&mut self, worker: WorkerProcess, drain: Duration) {
        self.watch(worker, drain, |link| async move { link.drain(drain).await });
    }

    /// The same for one that another program has had leave, and that still has so much time.
    pub(super) fn adopt(&mut self, worker: WorkerProcess, drain: Duration) {
        self.watch(worker, drain, |link| async move { link.drain_on(drain).await });
    }

    /// All of them, each with the time that it has: they live on.
    pub(super) fn take(&mut self) -> Vec<(WorkerProcess, Duration)> {
        let now = Instant::now();
        let all = std::mem::take(&mut self.workers).into_values();
        all.map(|(worker, cut_at)| (worker, cut_at.saturating_duration_since(now))).collect()
    }

    fn watch<D>(&mut self, mut worker: WorkerProcess, drain: Duration, end: impl FnOnce(Link) -> D)
    where
        D: Future<Output = Result<DrainOutcome, LinkError>> + Send + 'static,
    {
        let link = match worker.link() {
            Ok(link) => link.clone(),
            Err(error) => {
                tracing::debug!("{error:#}");
                worker.end();
                return;
            }
        };
        let (number, done) = (self.next, self.done.clone());
        self.next += 1;
        // A time that nobody lives to see is as good as any that is longer.
        let cut_at = Instant::now().checked_add(drain).unwrap_or_else(|| Instant::now() + LONGEST);
        self.workers.insert(number, (worker, cut_at));
        let end = end(link);
        tokio::spawn(async move {
            let outcome = end.await;
            // Who does not hear it has ended the process.
            let _ = done.send(Left { number, outcome });
        });
    }

    /// Waits until the time of one is over.
    pub(super) async fn over(&mut self) -> Left {
        match self.over.recv().await {
            Some(left) => left,
            // One sender is our own.
            None => std::future::pending().await,
        }
    }

    /// Has one go.
    pub(super) fn end(&mut self, Left { number, outcome }: Left) {
        let Some((mut worker, _)) = self.workers.remove(&number) else { return };
        match outcome {
            Ok(DrainOutcome { cut: 0, .. }) => {}
            Ok(DrainOutcome { cut, finished }) => tracing::warn!(cut, finished, "connections were cut"),
            Err(error) => tracing::warn!("connections were cut: {error}"),
        }
        if let Some(how) = worker.end() {
            tracing::warn!(how, "the worker process did not end well");
        }
    }

    /// Has all go, each when its time is over.
    pub(super) async fn all_over(&mut self) {
        while !self.workers.is_empty() {
            let left = self.over().await;
            self.end(left);
        }
    }

    /// The ways to them.
    pub(super) fn links(&self) -> Vec<Link> {
        self.workers.values().filter_map(|(worker, _)| worker.link().ok().cloned()).collect()
    }

    /// What is shown of them.
    pub(super) fn shown(&self) -> Vec<LeavingWorker> {
        let shown = |(worker, cut_at): &(WorkerProcess, Instant)| {
            Some(LeavingWorker { pid: worker.pid()?, cut_at: *cut_at })
        };
        self.workers.values().filter_map(shown).collect()
    }
}

/// Some thirty years.
const LONGEST: Duration = Duration::from_secs(1 << 30);

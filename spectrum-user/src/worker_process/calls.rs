//! What the steerer has its worker process do, a function each. Knows nothing of how it is told.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::{join, join_all, try_join_all};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use spectrum_common::Node;
use tokio::time::timeout;

use super::link::{Begun, Link, LinkError, PATIENCE};
use super::message::{HandoverOf, JudgeForm, JudgeOrder, Order, RecordRules, WorkerAnswer, WorkersLook};
use super::moving::MOVING;
use super::node_file;
use super::wire::MOST_FILES;
use crate::model::{
    Destination, Family, LocalOrigins, Origin, OriginSetting, Protocol, ResolverOptions, ServiceName,
};
use spectrum_proxy::{DrainOutcome, Served, SetOrigin, SetOriginError};

/// The time for telling how things are: who asks has a bound of its own.
const GLANCE: Duration = Duration::from_secs(1);

/// So many copies of listeners are under way at once.
const COPIES: usize = 64;

/// The time that an answer may take beyond what the doing was given.
const GRACE: Duration = Duration::from_secs(5);

/// New listeners of a destination, and what they serve.
#[derive(Debug)]
pub(crate) struct NewListeners {
    pub(crate) destination: Destination,
    pub(crate) sockets: Vec<OwnedFd>,
    pub(crate) served: Served,
}

/// Whom services let in, as a worker process is told.
#[derive(Debug)]
pub(crate) struct NewJudge<'a> {
    /// The gate of each service and family that has one, by its index.
    pub(crate) gates: Vec<(ServiceName, Family, u32)>,
    /// The table that has the gates.
    pub(crate) nodes: &'a [Node],
    /// The lists of what was said at run time.
    pub(crate) run_time: &'a [Node],
    /// True if nobody judges clients before they are accepted.
    pub(crate) judges_all: bool,
}

impl NewJudge<'_> {
    fn written(self) -> io::Result<(JudgeForm, OwnedFd)> {
        let Self { gates, nodes, run_time, judges_all } = self;
        let form = JudgeForm { gates, nodes: nodes.len(), run_time: run_time.len(), judges_all };
        Ok((form, node_file::written(&[nodes, run_time])?))
    }
}

impl Link {
    /// Has names looked up in this way from now on.
    pub(crate) fn configure(&self, options: ResolverOptions) {
        self.mention(Order::Configure(options));
    }

    /// Says where each service's origins were typed.
    pub(crate) fn place(&self, places: HashMap<ServiceName, Vec<String>>) {
        self.mention(Order::Place(places));
    }

    /// Has connections recorded by these rules from now on.
    pub(crate) fn follow(&self, rules: RecordRules) {
        self.mention(Order::Follow(rules));
    }

    /// Has it ask anew where what is dialled leads.
    pub(crate) async fn avoid(&self) -> Result<(), LinkError> {
        self.ask(Order::Avoid, Vec::new(), PATIENCE).await.map(drop)
    }

    /// Begins to look up the names of `origins`; done when all are looked up, or after `patience`.
    pub(crate) fn look_up(
        &self,
        origins: Vec<(Origin, LocalOrigins)>,
        patience: Duration,
    ) -> Result<Begun, LinkError> {
        self.begin(Order::LookUp(origins, patience), Vec::new(), patience + GRACE)
    }

    /// Has whom services let in be ready to be judged by `next`; by nobody where there is none.
    pub(crate) async fn prepare_judge(&self, next: Option<NewJudge<'_>>) -> anyhow::Result<()> {
        let written = next.map(NewJudge::written).transpose().context("hand on whom services let in")?;
        let (form, file) = written.unzip();
        self.judge(JudgeOrder::Prepare(form), file).await.map_err(Into::into)
    }

    /// Has clients judged by what was prepared as well, until that is settled or forgotten.
    pub(crate) async fn overlap_judges(&self) -> Result<(), LinkError> {
        self.judge(JudgeOrder::Overlap, None).await
    }

    /// Has clients judged by what was prepared alone.
    pub(crate) async fn settle_judge(&self) -> Result<(), LinkError> {
        self.judge(JudgeOrder::Settle, None).await
    }

    /// Has clients judged as before something was prepared.
    pub(crate) async fn forget_judge(&self) -> Result<(), LinkError> {
        self.judge(JudgeOrder::Forget, None).await
    }

    /// Has clients judged by other lists of what was said at run time, which stand in the same places.
    pub(crate) async fn amend_judge(&self, run_time: &[Node]) -> anyhow::Result<()> {
        let file = node_file::written(&[run_time]).context("hand on whom services let in at run time")?;
        self.judge(JudgeOrder::Amend(run_time.len()), Some(file)).await.map_err(Into::into)
    }

    async fn judge(&self, order: JudgeOrder, file: Option<OwnedFd>) -> Result<(), LinkError> {
        self.ask(Order::Judge(order), file.into_iter().collect(), PATIENCE).await.map(drop)
    }

    /// Starts so many workers.
    pub(crate) async fn start(&self, workers: usize) -> Result<(), LinkError> {
        self.ask(Order::Start(workers), Vec::new(), PATIENCE).await.map(drop)
    }

    /// Has all of `listeners` served: many at once, since there may be thousands, and no more than descriptors last for copies that are
    /// under way.
    pub(crate) async fn listen(
        &self,
        listeners: impl IntoIterator<Item = anyhow::Result<NewListeners>>,
    ) -> anyhow::Result<()> {
        let (mut begun, mut under_way, mut outcome) = (Vec::new(), 0, Ok(()));
        for listeners in listeners {
            outcome = listeners.and_then(|listeners| {
                under_way += listeners.sockets.len();
                self.begin_to_listen(listeners, &mut begun)
            });
            if outcome.is_ok() && under_way >= COPIES {
                under_way = 0;
                outcome = done(begun.drain(..)).await.map_err(Into::into);
            }
            if outcome.is_err() {
                break;
            }
        }
        // Also after an error: what is told next, such as to remove them, must not overtake any.
        let rest = done(begun.drain(..)).await;
        outcome?;
        Ok(rest?)
    }

    fn begin_to_listen(&self, listeners: NewListeners, begun: &mut Vec<Begun>) -> anyhow::Result<()> {
        let NewListeners { destination, sockets, served } = listeners;
        let mut sockets = sockets.into_iter().peekable();
        while sockets.peek().is_some() {
            let some: Vec<_> = sockets.by_ref().take(MOST_FILES).collect();
            let command = Order::Listen(destination.clone(), Box::new(served.clone()));
            begun.push(self.begin(command, some, PATIENCE)?);
        }
        Ok(())
    }

    /// Prepares to hand over, in place of what was prepared before. Changes nothing that is served.
    pub(crate) async fn prepare(&self, handovers: Vec<HandoverOf>) -> Result<(), LinkError> {
        self.ask(Order::Prepare(handovers), Vec::new(), PATIENCE).await.map(drop)
    }

    /// Hands over what was prepared.
    pub(crate) async fn hand_over(&self) -> Result<(), LinkError> {
        self.ask(Order::HandOver, Vec::new(), PATIENCE).await.map(drop)
    }

    /// Has the listeners of `destinations` closed, after what waits in their queues is accepted.
    pub(crate) async fn remove(
        &self,
        destinations: impl IntoIterator<Item = &Destination>,
    ) -> Result<(), LinkError> {
        let begun = destinations.into_iter().map(|destination| {
            Ok(self.begin(Order::Remove(destination.clone()), Vec::new(), PATIENCE)?.done())
        });
        try_join_all(begun.collect::<Result<Vec<_>, LinkError>>()?).await.map(drop)
    }

    /// Has the UDP sessions of `destinations` go on by themselves.
    pub(crate) async fn part(&self, destinations: Vec<Destination>) -> Result<(), LinkError> {
        if destinations.is_empty() {
            return Ok(());
        }
        self.ask(Order::Part(destinations), Vec::new(), PATIENCE).await.map(drop)
    }

    /// Cuts what is open of a destination that was removed: how much that was.
    pub(crate) async fn cut(&self, destination: Destination) -> Result<usize, LinkError> {
        match self.ask(Order::Cut(destination), Vec::new(), PATIENCE).await? {
            WorkerAnswer::Cut(count) => Ok(count),
            _ => Ok(0),
        }
    }

    /// Has listeners that come from now on not be read before [`Link::begin_reading`].
    pub(crate) async fn hold(&self) -> Result<(), LinkError> {
        self.ask(Order::Hold, Vec::new(), PATIENCE).await.map(drop)
    }

    /// Has those of `protocol` be read.
    pub(crate) async fn begin_reading(&self, protocol: Protocol) -> Result<(), LinkError> {
        self.ask(Order::Begin(protocol), Vec::new(), PATIENCE).await.map(drop)
    }

    /// Has it leave all listeners, and its UDP sessions, to `next`: how many of these that goes on with. Whatever goes wrong, it reads
    /// nothing any more.
    pub(crate) async fn leave_to(&self, next: &Self) -> anyhow::Result<usize> {
        let (giver, taker) = UnixStream::pair().context("make a way for UDP sessions")?;
        let patience = MOVING + GRACE;
        let adopting = next.begin(Order::Adopt, vec![taker.into()], patience)?;
        let leaving = self.begin(Order::Leave, vec![giver.into()], patience)?;
        let (left, adopted) = join(leaving.end(), adopting.end()).await;
        match (left?, adopted?) {
            (_, WorkerAnswer::Moved(count)) => Ok(count),
            _ => Ok(0),
        }
    }

    /// Lets what is open end for up to `time`, then cuts it.
    pub(crate) async fn drain(&self, time: Duration) -> Result<DrainOutcome, LinkError> {
        match self.ask(Order::Drain(time), Vec::new(), time.saturating_add(GRACE)).await? {
            WorkerAnswer::Drained(outcome) => Ok(outcome),
            _ => Ok(DrainOutcome::default()),
        }
    }

    /// The same where another process has begun it, and this one hears the end.
    pub(crate) async fn drain_on(&self, time: Duration) -> Result<DrainOutcome, LinkError> {
        let patience = time.saturating_add(GRACE);
        let mut answers: FuturesUnordered<_> = self.awaited().into_iter().collect();
        let drained = async {
            while let Some(answer) = answers.next().await {
                if let Ok(WorkerAnswer::Drained(outcome)) = answer {
                    return Ok(outcome);
                }
            }
            Err(LinkError::Ended)
        };
        timeout(patience, drained).await.unwrap_or(Err(LinkError::Silent(patience)))
    }

    /// Cuts everything.
    pub(crate) fn abort(&self) {
        self.mention(Order::Abort);
    }

    /// Drains or weighs an origin.
    pub(super) async fn set(
        &self,
        service: ServiceName,
        typed: String,
        setting: OriginSetting,
    ) -> Result<Result<SetOrigin, SetOriginError>, LinkError> {
        match self.ask(Order::Set(service, typed, setting), Vec::new(), GRACE).await? {
            WorkerAnswer::Set(outcome) => Ok(outcome),
            _ => Ok(Err(SetOriginError::Died)),
        }
    }

    /// Forgets what is set of others than these.
    pub(super) fn keep(&self, origins: Vec<(ServiceName, Origin)>) {
        self.mention(Order::Keep(origins));
    }

    /// How things are with these services, of which so many share the descriptors.
    pub(super) async fn look(
        &self,
        services: Vec<ServiceName>,
        share: usize,
    ) -> Result<WorkersLook, LinkError> {
        let asked = services.clone();
        self.ask(Order::Look(services, share), Vec::new(), GLANCE).await.map(|answer| seen(answer, &asked))
    }

    /// The same while this thread waits, which must not be one that the link's tasks are on.
    pub(super) fn look_and_block(
        &self,
        services: Vec<ServiceName>,
        share: usize,
    ) -> Result<WorkersLook, LinkError> {
        let asked = services.clone();
        self.ask_and_block(Order::Look(services, share), GLANCE).map(|answer| seen(answer, &asked))
    }

    /// Says something that nobody waits for. Whoever comes in the place of one that cannot be told is told everything.
    fn mention(&self, command: Order) {
        if let Err(error) = self.begin(command, Vec::new(), PATIENCE) {
            tracing::debug!("{error}");
        }
    }
}

/// Waits until all of `begun` are done: the first error.
async fn done(begun: impl Iterator<Item = Begun>) -> Result<(), LinkError> {
    join_all(begun.map(Begun::done)).await.into_iter().collect()
}

/// What was asked for: whoever has broken in there may tell of anything.
fn seen(answer: WorkerAnswer, asked: &[ServiceName]) -> WorkersLook {
    let WorkerAnswer::Seen(mut look) = answer else { return WorkersLook::default() };
    let asked: HashSet<&ServiceName> = asked.iter().collect();
    look.origins.retain(|service, _| asked.contains(service));
    look
}

//! The life of an instance: starts, serves until told to stop, goes over to other configurations meanwhile, undoes. What it has in the
//! system, the ledger knows; this only waits for what is next.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use futures_util::FutureExt as _;
use sd_notify::NotifyState;
use tokio::runtime::{self, Runtime};
use tokio::time::Instant;

use super::beside::{CHANGING, RepairEvent};
use super::denying::DenyEvent;
use super::exempting::{Looked, Looks};
use super::exit_code;
use super::firewall_looks::LOOKING;
use super::hearing::{ChangeAsked, Hearing, refuse_reload};
use super::leaving::Left;
use super::notifying::{self, notify};
use super::ready::Ready;
use super::reload::Reloaded;
use super::running::{Running, Settings, WorkerPlace, joined};
use super::standby::{ASIDE, aside};
use super::upgrade::Takeover;
use super::worker::worker_over;
use crate::config::{Config, ConfigText, Planned};
use crate::control::{Asked, Asker, ReloadQuery, Request};
use crate::observe::{Book, Counters, Omissions, Output, Recorder};
use crate::plan::Plan;
use crate::view::{InstanceState, Published};
use crate::worker_process::Host;
use spectrum_proxy::give_memory_back;
use spectrum_steering::tproxy::InterruptGuard;

/// Reads the configuration once more, or, of texts that it was read as before, the lists that they name.
pub(crate) type ReadAgain = Arc<dyn Fn(Option<&[ConfigText]>) -> anyhow::Result<Planned> + Send + Sync>;

/// The things that are there when the life of an instance begins.
#[derive(Debug)]
pub(crate) enum Inheritance {
    /// Nothing is there.
    Nothing,
    /// All that the version before had, which this process was.
    Everything(Box<Takeover>),
}

impl Inheritance {
    /// Has the version before go on, where there is one: `error` is why. Returns where that cannot be.
    pub(crate) fn give_back(&self, error: anyhow::Error) -> anyhow::Error {
        match self {
            Self::Nothing => error,
            Self::Everything(takeover) => takeover.go_back(error),
        }
    }
}

/// Serves what is `planned` from start to end, in the network namespace that the calling thread is in, and has `announce` say when
/// connections would succeed. For a reload the configuration is what `read_again` reads.
pub(crate) fn live(
    planned: Planned,
    settings: Settings,
    output: &Output,
    read_again: &ReadAgain,
    inheritance: Inheritance,
    announce: impl FnOnce(&Ready),
) -> anyhow::Result<()> {
    ASIDE.begin();
    LOOKING.begin();
    CHANGING.begin();
    // The workers carry the traffic; this thread only steers.
    let begun = begin(planned, &settings, output, &inheritance);
    let Begun { runtime, config, plan, published, host, mut hearing } =
        begun.map_err(|error| inheritance.give_back(error))?;
    runtime.block_on(async {
        notifying::begin(&published);
        let mut running = Running::new(config, plan, settings, host, published, &hearing);
        let outcome = {
            let _given_up = InterruptGuard::by(hearing.stop().flag());
            match inheritance {
                Inheritance::Nothing => match start(&mut running, &hearing, announce).await {
                    Ok(Started::Serving) => serve(&mut running, read_again, &mut hearing, output).await,
                    Ok(Started::Stopped) => Ok(()),
                    Err(error) => Err(error),
                },
                Inheritance::Everything(takeover) => {
                    let adopted = AssertUnwindSafe(running.adopt(&takeover)).catch_unwind().await;
                    let adopted = adopted.unwrap_or_else(|_panic| Err(anyhow!("it panicked")));
                    match adopted.map_err(|error| takeover.go_back(error)) {
                        Ok(()) => {
                            told_over(&takeover, &running.published);
                            if takeover.reload_waits() {
                                hearing.remember_reload();
                            }
                            drop(takeover);
                            serve(&mut running, read_again, &mut hearing, output).await
                        }
                        Err(error) => Err(error),
                    }
                }
            }
        };
        finish(running, outcome, &mut hearing).await
    })
}

/// The means of an instance that neither has nor does anything yet.
struct Begun {
    runtime: Runtime,
    config: Arc<Config>,
    plan: Arc<Plan>,
    published: Published,
    host: Host,
    hearing: Hearing,
}

fn begin(
    planned: Planned,
    settings: &Settings,
    output: &Output,
    inheritance: &Inheritance,
) -> anyhow::Result<Begun> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let Planned { config, plan } = planned;
    let plan = match inheritance {
        Inheritance::Nothing => plan,
        Inheritance::Everything(takeover) => takeover.renumbered(&config, plan),
    };
    let (config, plan) = (Arc::new(config), Arc::new(plan));
    let book = match inheritance {
        Inheritance::Nothing => Book::create()?,
        Inheritance::Everything(takeover) => takeover.book()?,
    };
    output.losses().enter(&book);
    let published = Published::new(Arc::clone(&config), Arc::clone(&plan), book.clone())?;
    let host = match &settings.worker {
        WorkerPlace::Process(user) => {
            Host::Process { log_format: config.log.format.unwrap_or_default(), user: user.clone(), book }
        }
        WorkerPlace::Thread => {
            Host::Thread(Recorder::new(output.clone(), Omissions::of(&book)), Counters::of(&book))
        }
    };
    let hearing = Hearing::begin(published.clone())?;
    Ok(Begun { runtime, config, plan, published, host, hearing })
}

/// The end of a start.
enum Started {
    Serving,
    /// Told to.
    Stopped,
}

async fn start(
    running: &mut Running,
    hearing: &Hearing,
    announce: impl FnOnce(&Ready),
) -> anyhow::Result<Started> {
    match running.start().await {
        Ok(ready) => {
            announce(&ready);
            notify(&[NotifyState::Ready], &running.published);
            Ok(Started::Serving)
        }
        Err(error) if hearing.stop().is_asked() => {
            tracing::info!("told to stop while starting, which is undone: {error:#}");
            Ok(Started::Stopped)
        }
        Err(error) => Err(error),
    }
}

/// Says that this version serves what the one before had, or that it does so again.
fn told_over(takeover: &Takeover, published: &Published) {
    let (from, to) = (takeover.from(), env!("CARGO_PKG_VERSION"));
    match takeover.failure() {
        None => tracing::info!(from, to, "upgraded"),
        Some(failure) => tracing::error!("not upgraded, and nothing has changed: {failure}"),
    }
    notify(&[NotifyState::Ready], published);
}

/// Announces and serves until asked to stop, or until something that must not happen does; then serves on as a lame duck.
async fn serve(
    running: &mut Running,
    read_again: &ReadAgain,
    hearing: &mut Hearing,
    output: &Output,
) -> anyhow::Result<()> {
    let chain = running.chain()?.clone();
    running.repairing.begin(&chain);
    running.denying.hear(hearing.denials());
    running.lists.begin(running.config.policy_places.lists().to_vec());
    running.begin_announcing(hearing.announces()).await;
    // What a start takes is never asked for again.
    give_memory_back();
    serve_until(Until::Stop, running, read_again, hearing, output).await?;
    serve_as_lame_duck(running, read_again, hearing, output).await
}

/// Withdraws what is announced, and serves on while routers may still send clients: for the time that was said, or until asked to stop
/// once more.
async fn serve_as_lame_duck(
    running: &mut Running,
    read_again: &ReadAgain,
    hearing: &mut Hearing,
    output: &Output,
) -> anyhow::Result<()> {
    let announcing = &running.config.announcing;
    let (time, is_said) = (announcing.lame_duck(), announcing.lame_duck.is_some());
    if time.is_zero() {
        return Ok(());
    }
    hearing.stop().heed();
    running.published.change(|now| now.state = InstanceState::LameDuck);
    hearing.refuse_reloads();
    if !running.withdraw_all().await && !is_said {
        // Nothing is announced, so that nobody need be waited for.
        return Ok(());
    }
    let shown = humantime::format_duration(time);
    tracing::info!("told to stop: nothing is announced any more, and everything served for {shown}");
    notify(&[NotifyState::Stopping], &running.published);
    serve_until(Until::LameDuck(Instant::now() + time), running, read_again, hearing, output).await
}

/// The end of serving, beside the order to stop and what must not happen.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// None.
    Stop,
    /// Routers have had the time to hear that everything is withdrawn. Who wants a reload is refused.
    LameDuck(Instant),
    /// They have had it for what a reload removes. Other changes wait for their turn.
    Removal(Instant),
}

/// Until asked to stop, until the `end`, or until something that must not happen does.
async fn serve_until(
    end: Until,
    running: &mut Running,
    read_again: &ReadAgain,
    hearing: &mut Hearing,
    output: &Output,
) -> anyhow::Result<()> {
    let stop = hearing.stop();
    let mut looks = Looks::new(running.repairing.watch.elsewhere());
    loop {
        running.settle_places();
        let due = running.ledger.next_due();
        let next_worker = running.ends.due();
        let next_look = running.others.due();
        let next_finding = running.next_finding();
        let event = tokio::select! {
            biased;
            () = stop.asked() => return Ok(()),
            () = until(end.at()) => return Ok(()),
            asked = hearing.reload(), if !matches!(end, Until::Removal(_)) => ServeEvent::Reload(asked?),
            () = until(due) => ServeEvent::Due,
            event = running.repairing.next() => ServeEvent::Repair(event),
            looked = looks.next(&running.plan, running.config.nat) => ServeEvent::Looked(looked),
            () = until(next_worker) => ServeEvent::NextWorker,
            () = until(next_look) => ServeEvent::Sockets,
            () = until(next_finding) => ServeEvent::Finding,
            why = worker_over(running.worker.as_ref()) => ServeEvent::WorkerEnded(why),
            left = running.leaving.over() => ServeEvent::Left(left),
            event = running.denying.next() => ServeEvent::Deny(event),
            () = running.lists.changed(), if end.at().is_none() => ServeEvent::Lists,
            () = running.interfaces.changed() => ServeEvent::Interfaces,
        };
        match event {
            ServeEvent::Due => running.retire_due().await,
            ServeEvent::Finding => running.find_sockets().await,
            ServeEvent::Sockets => running.look_at_sockets().await,
            ServeEvent::NextWorker => running.replace_worker().await,
            ServeEvent::WorkerEnded(why) => running.worker_ended(&why).await,
            ServeEvent::Left(left) => {
                running.leaving.end(left);
                running.publish();
            }
            ServeEvent::Repair(event) => running.repair(event).await,
            ServeEvent::Looked(looked) => running.looked(looked).await,
            ServeEvent::Deny(event) => running.deny(event).await,
            ServeEvent::Lists => read_lists(running, read_again).await,
            ServeEvent::Interfaces => running.follow_interfaces().await,
            ServeEvent::Reload(asked) if end.at().is_some() => refuse_reload(asked, InstanceState::LameDuck),
            ServeEvent::Reload(ChangeAsked::Asker(asked)) if asked.request.is_about_sockets() => {
                running.settle_sockets(asked).await;
            }
            ServeEvent::Reload(ChangeAsked::Asker(asked)) if asked.request == Request::Renew => {
                let outcome = running.renew_worker().await;
                if let Err(error) = &outcome {
                    tracing::error!("the worker process serves on: {error:#}");
                }
                settle(outcome, asked);
            }
            ServeEvent::Reload(ChangeAsked::Asker(asked)) if matches!(asked.request, Request::Upgrade(_)) => {
                upgrade(running, hearing, output, Some(asked)).await;
            }
            ServeEvent::Reload(ChangeAsked::Upgrade) => upgrade(running, hearing, output, None).await,
            ServeEvent::Reload(ChangeAsked::Asker(asked)) => {
                let query = match &asked.request {
                    Request::Reload(query) => query.clone(),
                    _ => ReloadQuery::default(),
                };
                let outcome = reload(running, read_again, &query, hearing, output).await;
                running.repairing.watch.reloaded(outcome.is_ok());
                settle(outcome, asked);
            }
            // Who sent the signal reads the log.
            ServeEvent::Reload(ChangeAsked::Reload) => {
                let query = ReloadQuery::default();
                let outcome = reload(running, read_again, &query, hearing, output).await;
                running.repairing.watch.reloaded(outcome.is_ok());
            }
        }
    }
}

impl Until {
    fn at(self) -> Option<Instant> {
        match self {
            Self::Stop => None,
            Self::LameDuck(at) | Self::Removal(at) => Some(at),
        }
    }
}

/// An event that [`serve`] waits for.
enum ServeEvent {
    Due,
    NextWorker,
    Sockets,
    Finding,
    Repair(RepairEvent),
    WorkerEnded(String),
    Left(Left),
    Looked(Looked),
    Deny(DenyEvent),
    Interfaces,
    Lists,
    Reload(ChangeAsked),
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

pub(super) fn settle(outcome: anyhow::Result<impl serde::Serialize>, asked: Asked) {
    match outcome {
        Ok(value) => asked.done(&value),
        Err(error) => {
            asked.refused(&format!("{error:#}"), exit_code::code(&error), exit_code::problems(&error));
        }
    }
}

/// Reads the configuration anew and goes over to it; says in the log how that went.
async fn reload(
    running: &mut Running,
    read_again: &ReadAgain,
    query: &ReloadQuery,
    hearing: &mut Hearing,
    output: &Output,
) -> anyhow::Result<Reloaded> {
    running.published.change(|now| now.state = InstanceState::Reloading);
    let now = NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Reloading);
    notify(&[NotifyState::Reloading, now], &running.published);
    let outcome = read_and_reload(running, read_again, query, hearing, output).await;
    running.forget_leaving().await;
    running.published.change(|now| {
        now.state = InstanceState::Ready;
        now.reloaded(outcome.is_ok());
        if outcome.is_ok() {
            now.lists_damage = None;
        }
    });
    notify(&[NotifyState::Ready], &running.published);
    give_memory_back();
    match &outcome {
        Ok(Reloaded { revision, services, bindings, added, removed, switched }) => {
            tracing::info!(revision, services, bindings, added, removed, switched, "reloaded");
        }
        Err(error) => tracing::error!("not reloaded, nothing has changed: {error:#}"),
    }
    outcome
}

/// Becomes another version of the program, if that is to be. Returns where it is not, with everything as it was.
async fn upgrade(running: &mut Running, hearing: &mut Hearing, output: &Output, asked: Option<Asked>) {
    notify(
        &[NotifyState::Reloading, NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Reloading)],
        &running.published,
    );
    running.published.change(|now| now.state = InstanceState::Upgrading);
    let (to, peer) = match asked.as_ref().map(|asked| (&asked.request, asked.peer)) {
        Some((Request::Upgrade(query), peer)) => (query.to.clone(), peer),
        _ => (None, None),
    };
    let prepared = match refuse_strangers(to.as_ref(), asked.is_some(), peer) {
        Ok(()) => running.prepare_upgrade(to).await,
        Err(error) => Err(error),
    };
    let error = match prepared {
        Ok(prepared) => {
            tracing::info!(to = prepared.version(), program = %prepared.path().display(), "upgrading");
            if let Some(asked) = asked {
                // What becomes of it, the status tells: there is nobody to answer before that.
                asked.done(&running.published.now().upgrades);
            }
            running.go_over_to(prepared, hearing, output).await
        }
        Err(error) => {
            if let Some(asked) = asked {
                let refusal = format!("upgrade: {error:#}");
                asked.refused(&refusal, exit_code::code(&error), exit_code::problems(&error));
            }
            error
        }
    };
    tracing::error!("not upgraded, and nothing has changed: {error:#}");
    running.published.upgraded(env!("CARGO_PKG_VERSION"), Some(&format!("{error:#}")));
    notify(&[NotifyState::Ready], &running.published);
}

/// Whoever names a program has it executed with what this one may do.
fn refuse_strangers(to: Option<&PathBuf>, is_asked: bool, peer: Option<Asker>) -> anyhow::Result<()> {
    let own = nix::unistd::Uid::effective();
    let is_trusted = peer.is_some_and(Asker::is_trusted);
    match to {
        Some(path) if is_asked && !is_trusted => bail!(
            "only root and user {own} may name a program ({}), which would get what this instance may do; put it in the place of the \
             running one, and leave --to out",
            path.display()
        ),
        _ => Ok(()),
    }
}

async fn read_and_reload(
    running: &mut Running,
    read_again: &ReadAgain,
    query: &ReloadQuery,
    hearing: &mut Hearing,
    output: &Output,
) -> anyhow::Result<Reloaded> {
    let reading = Arc::clone(read_again);
    // A pipe may keep us waiting, and a large file takes its time.
    let stop = running.stop_asked.clone();
    let planned = running.meanwhile(stop.unless(aside(move || reading(None)))).await???;
    let time = running.config.announcing.lame_duck();
    running.refuse_what_takes_a_start(&planned.config)?;
    if !time.is_zero() && running.withdraw_leaving(&planned.config, &planned.plan).await {
        let shown = humantime::format_duration(time);
        tracing::info!(
            "what the reload removes is announced no more, and served for {shown} until it is removed"
        );
        let end = Until::Removal(Instant::now() + time);
        Box::pin(serve_until(end, running, read_again, hearing, output)).await?;
    }
    running.reload(planned, query).await
}

/// Reads the lists of prefixes anew, since one has changed, and goes over to what they say. Of the configuration nothing else is read: its
/// author says when it holds.
async fn read_lists(running: &mut Running, read_again: &ReadAgain) {
    let begun = Instant::now();
    let (reading, stop) = (Arc::clone(read_again), running.stop_asked.clone());
    let texts = Arc::clone(&running.config.texts);
    let planned = running.meanwhile(stop.unless(aside(move || reading(Some(&texts))))).await;
    let planned = match planned {
        Ok(planned) => planned.and_then(|planned| planned),
        Err(_stopped) => return,
    };
    let outcome = match planned {
        Ok(planned) if planned.plan.policies == running.plan.policies => Ok(()),
        Ok(planned) => running.reload(planned, &ReloadQuery::default()).await.map(|reloaded| {
            running.published.now().reloaded(true);
            tracing::info!(
                revision = reloaded.revision,
                "lists of prefixes have changed, and were read anew"
            );
        }),
        Err(error) => Err(error),
    };
    let damage = outcome
        .err()
        .map(|error| format!("lists of prefixes have changed, and what they said before holds: {error:#}"));
    if let Some(damage) = &damage {
        tracing::error!("{damage}");
    }
    running.published.change(|now| now.lists_damage = damage);
    running.lists.rest(begun.elapsed());
}

/// Undoes everything, whatever the outcome; a second request to stop cuts what is still open.
async fn finish(running: Running, outcome: anyhow::Result<()>, hearing: &mut Hearing) -> anyhow::Result<()> {
    running.published.change(|now| now.state = InstanceState::Draining);
    hearing.refuse_reloads();
    let undone = running.stop().await;
    match (outcome, undone.is_empty()) {
        (outcome, true) => outcome,
        (Ok(()), false) => Err(joined(undone).context("stop")),
        (Err(error), false) => bail!("{error:#}; then, while undoing: {:#}", joined(undone)),
    }
}

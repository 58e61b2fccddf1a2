//! The default command: start, serve until asked to stop, undo. The steps in their order are in `running`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use sd_notify::NotifyState;
use tokio::runtime;
use tokio::time::Instant;

use super::exempting::{Looked, Looks};
use super::exit;
use super::hearing::{Hearing, ReloadAsked};
use super::logging::{self, Log};
use super::privileges::require_net_admin;
use super::ready::Ready;
use super::reload::Reloaded;
use super::repairing::{FirewallFinds, FirewallLooks, LOOKING};
use super::running::{Running, Settings};
use super::standby::Standby;
use crate::cli::RunArgs;
use crate::config::{Config, RepairLimit};
use crate::control::{Asked, ReloadQuery, Request};
use crate::instance::view::{InstanceState, Published};
use crate::instance::{ResourceKind, Watch};
use crate::observe::{Counters, LossKind, Recorder};
use crate::plan;
use spectrum_steering::host;
use spectrum_steering::tproxy::InterruptGuard;

/// Runs until SIGINT or SIGTERM.
pub(super) fn run(args: &RunArgs) -> ExitCode {
    let config = configured(args);
    let format = match &config {
        Ok(config) => config.log.format.unwrap_or_default(),
        Err(_) => args.log_format.unwrap_or_default(),
    };
    let log = match logging::init(format) {
        Ok(log) => log,
        Err(error) => return exit::failure(&error, format),
    };
    match config.and_then(|config| serve_from_start_to_end(args, config, &log)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::logged_failure(&error, &log),
    }
}

fn serve_from_start_to_end(args: &RunArgs, config: Config, log: &Log) -> anyhow::Result<()> {
    let plan =
        plan::of(&config.services).map_err(|errors| joined(errors.into_iter().map(anyhow::Error::from)))?;
    require_net_admin("serve")?;
    // Before any thread exists that asks the network for anything: each is in the namespace that its parent was in.
    if let Some(netns) = &args.netns {
        host::enter_namespace(netns)?;
    }
    raise_file_limit()?;
    ASIDE.begin();
    LOOKING.begin();
    let settings = Settings { workers: args.workers, force: args.force.clone().into(), drain: args.drain };
    // The workers carry the traffic; this thread only steers.
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let config = Arc::new(config);
    let plan = Arc::new(plan);
    let counters = Counters::default();
    let recorder = Recorder::new(log.output.clone());
    let (losses, omissions) = (log.output.losses(), recorder.omissions());
    let published =
        Published::new(Arc::clone(&config), Arc::clone(&plan), counters.clone(), losses, omissions)?;
    let mut hearing = Hearing::begin(published.clone())?;
    runtime.block_on(async {
        let mut running = Running::new(config, plan, settings, recorder, counters, published, &hearing);
        let outcome = {
            let _given_up = InterruptGuard::by(hearing.stop().flag());
            live(&mut running, args, log, &mut hearing).await
        };
        finish(running, outcome, &mut hearing).await
    })
}

/// The configuration that the command line asks for, as its file reads now that it has been read before.
fn configured_again(args: &RunArgs) -> anyhow::Result<Config> {
    match &args.config {
        None => bail!("reload: there is no configuration file; start with --config FILE"),
        Some(path) if Config::is_read_once(path) => bail!(
            "reload: the configuration came through a pipe, {}, which cannot be read again; start with a file that is kept: \
             --config FILE",
            path.display()
        ),
        Some(_) => configured(args),
    }
}

/// From the start until asked to stop.
async fn live(running: &mut Running, args: &RunArgs, log: &Log, hearing: &mut Hearing) -> anyhow::Result<()> {
    match running.start().await {
        Ok(ready) => announce(&ready, log),
        Err(error) if hearing.stop().is_asked() => {
            tracing::info!("told to stop while starting, which is undone: {error:#}");
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    serve(running, args, hearing).await
}

/// The configuration that the command line asks for, as its file reads now.
fn configured(args: &RunArgs) -> anyhow::Result<Config> {
    let mut config = match &args.config {
        Some(path) => Config::load(path)?,
        None => args.short_form()?,
    };
    config.log.format = args.log_format.or(config.log.format);
    config.log.general = args.record_keys().or(config.log.general);
    if let Some(mode) = args.mode {
        config.mode = mode;
    }
    if let Some(firewall) = args.firewall {
        config.firewall = firewall;
    }
    if args.no_repair {
        config.repairs = RepairLimit::NONE;
    }
    if let Some(nat) = args.nat {
        config.nat = nat;
    }
    if let Some(admin) = args.admin {
        config.admin = Some(admin);
    }
    Ok(config)
}

/// Until asked to stop, or until something that must not happen does.
async fn serve(running: &mut Running, args: &RunArgs, hearing: &mut Hearing) -> anyhow::Result<()> {
    let stop = hearing.stop();
    let mut looks = Looks::new();
    let mut watch = Watch::begin(running.chain()?);
    let mut firewall = FirewallLooks::default();
    loop {
        let due = running.ledger.next_due();
        let event = tokio::select! {
            biased;
            () = stop.asked() => return Ok(()),
            asked = hearing.reload() => ServeEvent::Reload(asked?),
            () = until(due) => ServeEvent::Due,
            kinds = watch.next() => ServeEvent::Look(kinds),
            finds = firewall.next() => ServeEvent::Seen(finds),
            looked = looks.next(&running.plan, running.config.nat) => ServeEvent::Looked(looked),
            failure = running.failure() => return Err(failure),
        };
        match event {
            ServeEvent::Due => running.retire_due().await,
            ServeEvent::Look(kinds) => running.look(kinds, &mut watch, &mut firewall).await,
            ServeEvent::Seen(finds) => running.seen(finds, &mut watch, &mut firewall).await,
            ServeEvent::Looked(looked) => running.looked(looked),
            ServeEvent::Reload(ReloadAsked::Asker(asked)) => {
                let query = match &asked.request {
                    Request::Reload(query) => query.clone(),
                    _ => ReloadQuery::default(),
                };
                let outcome = reload(running, args, &query).await;
                watch.reloaded(outcome.is_ok());
                settle(outcome, asked);
            }
            // Who sent the signal reads the log.
            ServeEvent::Reload(ReloadAsked::Signal) => {
                watch.reloaded(reload(running, args, &ReloadQuery::default()).await.is_ok());
            }
        }
    }
}

/// An event that [`serve`] waits for.
enum ServeEvent {
    Due,
    Look(Vec<ResourceKind>),
    Seen(FirewallFinds),
    Looked(Looked),
    Reload(ReloadAsked),
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn settle(outcome: anyhow::Result<impl serde::Serialize>, asked: Asked) {
    match outcome {
        Ok(value) => asked.done(&value),
        Err(error) => asked.refused(&format!("{error:#}"), exit::code(&error), exit::problems(&error)),
    }
}

/// Reads the configuration anew and goes over to it; says in the log how that went.
async fn reload(running: &mut Running, args: &RunArgs, query: &ReloadQuery) -> anyhow::Result<Reloaded> {
    notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Reloading)]);
    running.published.change(|now| now.state = InstanceState::Reloading);
    let outcome = read_and_reload(running, args, query).await;
    running.published.change(|now| {
        now.state = InstanceState::Ready;
        let count = if outcome.is_ok() { &mut now.reloads.done } else { &mut now.reloads.refused };
        *count += 1;
    });
    notify(&[NotifyState::Ready]);
    match &outcome {
        Ok(Reloaded { revision, services, bindings, added, removed }) => {
            tracing::info!(revision, services, bindings, added, removed, "reloaded");
        }
        Err(error) => tracing::error!("not reloaded, nothing has changed: {error:#}"),
    }
    outcome
}

async fn read_and_reload(
    running: &mut Running,
    args: &RunArgs,
    query: &ReloadQuery,
) -> anyhow::Result<Reloaded> {
    let args = args.clone();
    // A pipe may keep us waiting, and a large file takes its time.
    let config = running.stop_asked.unless(aside(move || configured_again(&args))).await???;
    running.reload(config, query).await
}

/// For what takes long and nobody must wait for.
static ASIDE: Standby = Standby::new("aside");

/// Does on another thread what takes long and leaves nothing behind. It goes on where nobody waits for it any more.
pub(super) async fn aside<T: Send + 'static>(
    doing: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    // Not one of the runtime's, which panics where the system has no thread to spare.
    let outcome = ASIDE.send(doing).context("start a thread")?;
    outcome.await.context("wait for a thread of our own, which died")
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

/// Tells who waits that a connection would now succeed.
fn announce(ready: &Ready, log: &Log) {
    log.output.write(LossKind::Answer, ready.line(log.format).as_bytes());
    notify(&[NotifyState::Ready]);
}

/// Tells systemd, if it started us.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "notify systemd");
    }
}

/// Each connection takes a file descriptor or two; the usual soft limit of 1,024 is for programs that use select(2).
fn raise_file_limit() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let op = "raise the limit of open files";
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context(op)?;
    // With fewer, what catches signals panics instead of saying what is wrong.
    if hard < FEWEST_FILES {
        bail!("{op}: {hard} are allowed, and it takes {FEWEST_FILES} to begin with (see ulimit -n)");
    }
    if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        tracing::warn!(%error, op);
    }
    Ok(())
}

/// Several errors as one line.
pub(super) fn joined(errors: impl IntoIterator<Item = anyhow::Error>) -> anyhow::Error {
    let texts: Vec<String> = errors.into_iter().map(|error| format!("{error:#}")).collect();
    anyhow!("{}", texts.join("; "))
}

/// Enough to start far enough to report every later shortage.
const FEWEST_FILES: u64 = 32;

/// Longer than any start takes; a start that waits longer than this waits for one that hangs.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(10);

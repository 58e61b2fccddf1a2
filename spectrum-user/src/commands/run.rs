//! The default command: start, serve until asked to stop, undo. The steps in their order are in `running`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use sd_notify::NotifyState;
use tokio::runtime;
use tokio::time::Instant;

use super::exempting::{Looked, Looks};
use super::exit;
use super::logging::{self, Log};
use super::privileges::require_net_admin;
use super::ready::Ready;
use super::reload::Reloaded;
use super::running::{Running, Settings};
use super::signals::{Signalled, Signals};
use crate::cli::RunArgs;
use crate::config::Config;
use crate::control::{Asked, ControlServer, Request};
use crate::net;
use crate::observe::Kind;
use crate::plan::Plan;

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
        Plan::of(&config.services).map_err(|errors| joined(errors.into_iter().map(anyhow::Error::from)))?;
    require_net_admin("serve")?;
    // Before any thread exists that asks the network for anything: each is in the namespace that its parent was in.
    if let Some(netns) = &args.netns {
        net::enter_namespace(netns)?;
    }
    raise_file_limit()?;
    let settings = Settings { workers: args.workers, force: args.force, drain: args.drain };
    // The workers carry the traffic; this thread only steers, so it needs no others.
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let mut signals = Signals::catch().context("catch signals")?;
        let mut running = Running::new(config, plan, settings, &log.output);
        let outcome = match running.start().await {
            Ok(ready) => {
                announce(&ready, log);
                serve(&mut running, args, &mut signals).await
            }
            Err(error) => Err(error),
        };
        finish(running, outcome, &mut signals).await
    })
}

/// What the command line asks for, as its file reads now that it has been read before.
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

/// What the command line asks for, as its file reads now.
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
    if let Some(nat) = args.nat {
        config.nat = nat;
    }
    if let Some(admin) = args.admin {
        config.admin = Some(admin);
    }
    Ok(config)
}

/// Until asked to stop, or until something that must not happen does.
async fn serve(running: &mut Running, args: &RunArgs, signals: &mut Signals) -> anyhow::Result<()> {
    // Apart from the rest, so that waiting for a request leaves the rest free to be changed.
    let mut control = running.control.take();
    let mut looks = Looks::new();
    loop {
        let due = running.retiring.next();
        let event = tokio::select! {
            asked = signals.next() => match asked {
                Signalled::Reload => Event::Reload,
                Signalled::Stop => Event::Stop,
            },
            asked = asked(control.as_mut()) => Event::Asked(asked),
            () = until(due) => Event::Due,
            looked = looks.next(&running.plan, running.config.nat) => Event::Looked(looked),
            failure = running.failure() => return Err(failure),
        };
        match event {
            Event::Asked(asked) => answer(running, args, asked).await,
            Event::Due => running.retire_due().await,
            Event::Looked(looked) => running.looked(looked),
            // Who sent the signal reads the log.
            Event::Reload => drop(reload(running, args).await),
            Event::Stop => return Ok(()),
        }
    }
}

/// What [`serve`] waits for.
enum Event {
    Asked(Asked),
    Due,
    Looked(Looked),
    Reload,
    Stop,
}

async fn asked(control: Option<&mut ControlServer>) -> Asked {
    match control {
        Some(control) => control.next().await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn answer(running: &mut Running, args: &RunArgs, asked: Asked) {
    match &asked.request {
        Request::Reload => settle(reload(running, args).await, asked),
        Request::Bindings(query) => settle(running.bindings(query).map_err(Into::into), asked),
        Request::Explain(query) => settle(running.explain(query).map_err(Into::into), asked),
        Request::Origin(query) => settle(running.set_origin(query, asked.peer).await, asked),
        Request::Status => settle(running.status(), asked),
    }
}

fn settle(outcome: anyhow::Result<impl serde::Serialize>, asked: Asked) {
    match outcome {
        Ok(value) => asked.done(&value),
        Err(error) => asked.refused(&format!("{error:#}"), exit::code(&error), exit::problems(&error)),
    }
}

/// Reads the configuration anew and goes over to it; says in the log how that went.
async fn reload(running: &mut Running, args: &RunArgs) -> anyhow::Result<Reloaded> {
    notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now().unwrap_or(NotifyState::Reloading)]);
    let outcome = match configured_again(args) {
        Ok(config) => running.reload(config).await,
        Err(error) => Err(error),
    };
    notify(&[NotifyState::Ready]);
    running.facts.reloaded(outcome.is_ok());
    match &outcome {
        Ok(Reloaded { revision, services, bindings, added, removed }) => {
            tracing::info!(revision, services, bindings, added, removed, "reloaded");
        }
        Err(error) => tracing::error!("not reloaded, nothing has changed: {error:#}"),
    }
    outcome
}

/// Undoes everything, whatever the outcome; a second request to stop cuts what is still open.
async fn finish(running: Running, outcome: anyhow::Result<()>, signals: &mut Signals) -> anyhow::Result<()> {
    let undone = running.stop(signals.stop()).await;
    match (outcome, undone.is_empty()) {
        (outcome, true) => outcome,
        (Ok(()), false) => Err(joined(undone).context("stop")),
        (Err(error), false) => bail!("{error:#}; then, while undoing: {:#}", joined(undone)),
    }
}

/// Tells who waits that a connection would now succeed.
fn announce(ready: &Ready, log: &Log) {
    log.output.write(Kind::Answer, ready.line(log.format).as_bytes());
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
const FEWEST_FILES: u64 = 24;

/// Longer than any start takes; a start that waits longer than this waits for one that hangs.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(10);

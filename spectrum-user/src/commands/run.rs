//! The default command: reads what was typed, and has an instance live until it is told to stop. Knows nothing of its life.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use nix::unistd::{AccessFlags, eaccess};

use super::exit;
use super::logging::{self, Log};
use crate::cli::RunArgs;
use crate::config::{Config, ConfigText, InstanceKeys, Planned, RepairLimit};
use crate::confinement::{Circumstances, Needs, WorkerUser, confine_steerer, take_up_capabilities};
use crate::instance::{
    Inheritance, OwnProgram, ReadAgain, Ready, Settings, Takeover, WorkerPlace, hold_signals, live,
    require_net_admin,
};
use crate::observe::LossKind;
use crate::registry::GROUP;
use spectrum_steering::host;

/// Runs until SIGINT or SIGTERM.
pub(super) fn run(args: &RunArgs) -> ExitCode {
    let takeover = match Takeover::begin() {
        Ok(takeover) => takeover,
        Err(error) => return exit::failure(&error, args.log_format.unwrap_or_default()),
    };
    let planned = match &takeover {
        None => configured(args),
        Some(takeover) => configured_as(args, takeover.config()),
    };
    let format = match &planned {
        Ok(Planned { config, .. }) => config.log.format.unwrap_or_default(),
        Err(_) => args.log_format.unwrap_or_default(),
    };
    // Before there is a thread, the log's too: each has the namespace and the capabilities that its parent had.
    let confined = planned.and_then(|planned| {
        hold_signals().context("hold signals")?;
        let user = confined(&planned.config, takeover.is_some())?;
        Ok((planned, user))
    });
    let confined = match (confined, &takeover) {
        (Err(error), Some(takeover)) => Err(takeover.go_back(error)),
        (confined, _) => confined,
    };
    let log = match logging::init(format) {
        Ok(log) => log,
        Err(error) => return exit::failure(&error, format),
    };
    match confined.and_then(|(planned, user)| serve_from_start_to_end(args, planned, user, takeover, &log)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::logged_failure(&error, &log),
    }
}

/// Goes to where it works, and keeps the capabilities that this takes. The user that the worker process is to be.
fn confined(config: &Config, is_there: bool) -> anyhow::Result<WorkerUser> {
    take_up_capabilities()?;
    require_net_admin("serve")?;
    // Whoever takes over is where the version before was, whatever bears that name now.
    if let Some(netns) = &config.instance.netns
        && !is_there
    {
        host::enter_namespace(netns)?;
    }
    let user = WorkerUser::choose(config.instance.user.as_deref())?;
    confine_steerer(&Needs::of_steerer(config, Circumstances::of_host(&user, GROUP)))?;
    Ok(user)
}

fn serve_from_start_to_end(
    args: &RunArgs,
    planned: Planned,
    user: WorkerUser,
    takeover: Option<Takeover>,
    log: &Log,
) -> anyhow::Result<()> {
    let inheritance =
        takeover.map_or(Inheritance::Nothing, |takeover| Inheritance::Everything(Box::new(takeover)));
    raise_file_limit().map_err(|error| inheritance.give_back(error))?;
    warn_of_unreadable(&planned.config);
    tell_overridden(args);
    let keys = &planned.config.instance;
    let is_single = keys.single_process.unwrap_or_default();
    let settings = Settings {
        workers: keys.workers,
        force: args.force.clone().into(),
        drain: keys.drain.unwrap_or(InstanceKeys::DRAIN),
        worker: if is_single { WorkerPlace::Thread } else { WorkerPlace::Process(user) },
        program: OwnProgram::now()
            .context("find the own program")
            .map_err(|error| inheritance.give_back(error))?,
    };
    let again = args.clone();
    let read_again: ReadAgain = Arc::new(move |texts| match texts {
        None => configured_again(&again),
        Some(texts) => configured_as(&again, texts),
    });
    live(planned, settings, &log.output, &read_again, inheritance, |ready| announce(ready, log))
}

/// The configuration that the command line asks for, as its file reads now that it has been read before.
fn configured_again(args: &RunArgs) -> anyhow::Result<Planned> {
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

/// The configuration that the command line asks for, as its file reads now.
fn configured(args: &RunArgs) -> anyhow::Result<Planned> {
    match &args.config {
        Some(path) => Ok(overruled(args, Config::load(path)?)),
        None => Ok(overruled(args, args.short_form()?)),
    }
}

/// The same as the file read when the version before of this program read it.
pub(super) fn configured_as(args: &RunArgs, texts: &[ConfigText]) -> anyhow::Result<Planned> {
    if texts.is_empty() { configured(args) } else { Ok(overruled(args, Config::parse_again(texts)?)) }
}

/// What flags say goes before what the file says.
fn overruled(args: &RunArgs, planned: Planned) -> Planned {
    let Planned { mut config, plan } = planned;
    config.instance = args.instance_keys().or(std::mem::take(&mut config.instance));
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
    if args.lame_duck.is_some() {
        config.announcing.lame_duck = args.lame_duck;
    }
    if let Some(admin) = args.admin {
        config.admin = Some(admin);
    }
    for (flag, key, value) in args.overriding() {
        config.keys.override_by(flag, key, value);
    }
    Planned { config, plan }
}

/// Says, to who looks for it, which keys of the file are of no effect.
fn tell_overridden(args: &RunArgs) {
    if args.config.is_some() {
        for (flag, key, _) in args.overriding() {
            tracing::debug!(flag, key, "the flag wins, whatever the file says");
        }
    }
}

/// Says which files a reload could not read with the rights that this process has kept.
fn warn_of_unreadable(config: &Config) {
    for path in &config.files {
        if let Err(error) = eaccess(&**path, AccessFlags::R_OK) {
            tracing::warn!(path = %path.display(), %error, "a reload could not read this file; let who runs spectrum-user read it");
        }
    }
}

/// Tells who waits that a connection would now succeed.
fn announce(ready: &Ready, log: &Log) {
    log.output.write(LossKind::Answer, ready.line(log.format).as_bytes());
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

/// Enough to start far enough to report every later shortage.
const FEWEST_FILES: u64 = 32;

//! One file per verb. Errors end here as one line and an exit code.

mod announce;
mod answer;
mod ask;
mod check;
mod clean;
mod columns;
mod config;
mod confined;
mod difference;
mod doctor;
mod exit;
mod held_denials;
mod logging;
mod pinned;
mod run;
mod upgrade_trial;
mod worker_process;

pub use exit::usage;

use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::model::LogFormat;

/// Carries out what was typed, and says by its exit code what kind of end that was.
#[must_use]
pub fn execute(cli: &Cli) -> ExitCode {
    let done = match &cli.command {
        Some(Command::Allow(args)) => ask::allow(args),
        Some(Command::Announce(args)) => announce::announce(args),
        Some(Command::Bind(args)) => pinned::bind(args),
        Some(Command::Bindings(args)) => ask::bindings(args),
        Some(Command::Check(args)) if args.diff => return check::difference(args),
        Some(Command::Check(args)) => check::check(args),
        Some(Command::Complete(args)) => ask::complete(args),
        Some(Command::Config(args)) => config::config(args),
        Some(Command::Confined(args)) => confined::confined(args),
        Some(Command::Deny(args)) => ask::deny(args),
        Some(Command::Denied(args)) => ask::denied(args),
        Some(Command::Doctor(args)) => doctor::doctor(args),
        Some(Command::Explain(args)) => ask::explain(args),
        Some(Command::Load(args)) => pinned::load(args),
        Some(Command::LoadBindings(args)) => pinned::load_bindings(args),
        Some(Command::Metrics(args)) => pinned::metrics(args),
        Some(Command::Origin(args)) => ask::origin(args),
        Some(Command::Register(args)) => ask::register(args),
        Some(Command::Reload(args)) => ask::reload(args),
        Some(Command::Status(args)) => ask::status(args),
        Some(Command::TopSources(args)) => ask::top_sources(args),
        Some(Command::Unbind(args)) => pinned::unbind(args),
        Some(Command::Unload(args)) => pinned::unload(args),
        Some(Command::Unregister(args)) => ask::unregister(args),
        Some(Command::Upgrade(args)) => ask::upgrade(args),
        Some(Command::UpgradeTrial(args)) => upgrade_trial::upgrade_trial(args),
        Some(Command::Weight(args)) => ask::weight(args),
        Some(Command::Withdraw(args)) => ask::withdraw(args),
        Some(Command::Clean(args)) => logging::init(LogFormat::Text).and_then(|_log| clean::clean(args)),
        Some(Command::WorkerProcess) => return worker_process::run(),
        None => return run::run(&cli.run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if cli.command.as_ref().is_some_and(refuses_in_json) => exit::refusal(&error),
        Err(error) => exit::failure(&error, LogFormat::Text),
    }
}

/// True if who asks is to read in JSON what is wrong with a file.
fn refuses_in_json(command: &Command) -> bool {
    match command {
        Command::Check(args) => args.instance.json,
        Command::Config(args) => args.instance.json,
        Command::Reload(args) => args.instance.json,
        _ => false,
    }
}

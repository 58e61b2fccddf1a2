//! One file per verb. Errors end here as one line and an exit code.

mod ask;
mod check;
mod clean;
mod columns;
mod conflicts;
mod doctor;
mod exit;
mod facts;
mod logging;
mod own_bindings;
mod privileges;
mod reload;
mod replies;
mod run;
mod running;
mod seeing;
mod signals;
mod sweep;
mod target;

pub use exit::{failure, usage};

use crate::cli::{Cli, Command};

/// Carries out what was typed.
pub fn execute(cli: &Cli) -> anyhow::Result<()> {
    match &cli.command {
        Some(Command::Bindings(args)) => ask::bindings(args),
        Some(Command::Check(args)) => check::check(args),
        Some(Command::Doctor(args)) => doctor::doctor(args),
        Some(Command::Explain(args)) => ask::explain(args),
        Some(Command::Reload(args)) => ask::reload(args),
        Some(Command::Status(args)) => ask::status(args),
        Some(Command::Clean(args)) => {
            logging::init(crate::cli::LogFormatArg::Text);
            clean::clean(args)
        }
        None => {
            logging::init(cli.run.log_format);
            run::run(&cli.run)
        }
    }
}

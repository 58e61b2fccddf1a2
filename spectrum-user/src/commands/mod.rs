//! One file per verb. Errors end here as one line and an exit code.

mod check;
mod clean;
mod exit;
mod logging;
mod privileges;
mod reload;
mod run;
mod running;
mod signals;
mod sweep;

pub use exit::{failure, usage};

use crate::cli::{Cli, Command};

/// Carries out what was typed.
pub fn execute(cli: &Cli) -> anyhow::Result<()> {
    match &cli.command {
        Some(Command::Check(args)) => check::check(args),
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

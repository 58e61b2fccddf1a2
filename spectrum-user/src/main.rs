//! The program: parses, logs, runs, prints the error once, and says by its exit code what kind of end it was.

use std::process::ExitCode;

use spectrum_user::cli::Cli;
use spectrum_user::commands;

fn main() -> ExitCode {
    let cli = match Cli::parse_words(std::env::args_os()) {
        Ok(cli) => cli,
        Err(usage) => return commands::usage(&usage),
    };
    match commands::execute(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => commands::failure(&error),
    }
}

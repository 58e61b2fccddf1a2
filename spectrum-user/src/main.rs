//! The program: parses, runs, and says by its exit code what kind of end it was.

use std::ffi::OsString;
use std::process::ExitCode;

use spectrum_user::cli::Cli;
use spectrum_user::commands;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    match Cli::parse_words(words.iter().cloned()) {
        Ok(cli) => commands::execute(&cli),
        Err(usage) => commands::usage(&usage, &words),
    }
}

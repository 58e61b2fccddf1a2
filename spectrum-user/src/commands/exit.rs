//! How a command's end becomes an exit code and, if it failed, a message.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use serde::Serialize;

use super::logging::Log;
use crate::config::{ConfigError, Problem};
use crate::instance::{Takeover, USAGE, code, problems};
use crate::model::{LogFormat, visible};
use crate::observe::{Priority, is_journal, timestamp};

/// More lines than this hide the first one, as in [`ConfigError`].
const SHOWN: usize = 100;

/// An error as one line of JSON; those of a configuration have a place.
#[derive(Serialize)]
struct JsonError<'a> {
    timestamp: String,
    level: &'static str,
    event: &'static str,
    #[serde(flatten)]
    told: ToldProblem<'a>,
    exit_code: u8,
}

/// The part of it that is told.
#[derive(Serialize)]
#[serde(untagged)]
enum ToldProblem<'a> {
    Message { message: &'a str },
    Problem(&'a Problem),
}

/// Why there is no answer, as who asked for JSON gets it in its place.
#[derive(Serialize)]
struct JsonRefusal<'a> {
    error: String,
    exit_code: u8,
    problems: &'a [Problem],
}

impl<'a> JsonError<'a> {
    fn of(message: &'a str, exit_code: u8) -> Self {
        Self::telling(ToldProblem::Message { message }, exit_code)
    }

    fn telling(told: ToldProblem<'a>, exit_code: u8) -> Self {
        Self { timestamp: timestamp(), level: "ERROR", event: "error", told, exit_code }
    }

    fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// Prints what clap has to say of `words`; help and version are no failure.
#[must_use]
pub fn usage(error: &clap::Error, words: &[OsString]) -> ExitCode {
    if let Ok(Some(takeover)) = Takeover::begin() {
        // The version before understood them.
        let error =
            takeover.go_back(anyhow::anyhow!("{}", error.to_string().lines().next().unwrap_or_default()));
        return failure(&error, LogFormat::Text);
    }
    if !error.use_stderr() {
        return match error.print() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                print(&lines(&anyhow::Error::from(error).context("write the help"), LogFormat::Text));
                ExitCode::FAILURE
            }
            // The reader has seen enough.
            _ => ExitCode::SUCCESS,
        };
    }
    if asks_for_json(words) {
        print(&JsonError::of(error.to_string().trim_end(), USAGE).line());
    } else {
        print_usage(error);
    }
    ExitCode::from(USAGE)
}

/// True if a command line that cannot be understood asks for JSON wherever something is to be said of it.
fn asks_for_json(words: &[OsString]) -> bool {
    let is = |word: Option<&OsString>, text: &str| word.is_some_and(|word| word == text);
    words.iter().any(|word| word == "--log-format=json")
        || words.windows(2).any(|pair| is(pair.first(), "--log-format") && is(pair.last(), "json"))
}

/// Prints `error` with its causes, once, and says what kind it is.
pub(super) fn failure(error: &anyhow::Error, format: LogFormat) -> ExitCode {
    match error.downcast_ref::<clap::Error>() {
        Some(usage) if format == LogFormat::Text => print_usage(usage),
        _ => print(&lines(error, format)),
    }
    ExitCode::from(code(error))
}

/// The same for a program that has been logging.
pub(super) fn logged_failure(error: &anyhow::Error, log: &Log) -> ExitCode {
    log.output.tell(Priority::Error, &lines(error, log.format));
    ExitCode::from(code(error))
}

/// The same for who asked for JSON on standard output: one object there.
pub(super) fn refusal(error: &anyhow::Error) -> ExitCode {
    let exit_code = code(error);
    let refusal = JsonRefusal { error: format!("{error:#}"), exit_code, problems: problems(error) };
    let line = serde_json::to_string(&refusal).unwrap_or_default() + "\n";
    match io::stdout().write_all(line.as_bytes()) {
        // The exit code says it to who does not read on.
        Err(unwritten) if unwritten.kind() != io::ErrorKind::BrokenPipe => {
            failure(&anyhow::Error::from(unwritten).context(refusal.error), LogFormat::Text);
        }
        _ => {}
    }
    ExitCode::from(exit_code)
}

/// Prints what clap says, in colours if somebody sees them.
fn print_usage(usage: &clap::Error) {
    if is_journal(io::stderr()) {
        print(&usage.to_string());
    } else {
        // Nobody is left to tell when standard error is gone.
        let _ = usage.print();
    }
}

fn print(lines: &str) {
    let marked = is_journal(io::stderr()).then(|| Priority::Error.mark(lines));
    let lines = marked.as_deref().unwrap_or(lines);
    // Nobody is left to tell when standard error is gone.
    let _ = io::stderr().write_all(lines.as_bytes());
}

/// A line for each problem of a configuration, and one for any other error.
fn lines(error: &anyhow::Error, format: LogFormat) -> String {
    if let (LogFormat::Text, Some(usage)) = (format, error.downcast_ref::<clap::Error>()) {
        // It says itself that it is an error, and in several lines.
        return usage.to_string();
    }
    let code = code(error);
    let text = format!("{error:#}");
    match (format, error.downcast_ref()) {
        (LogFormat::Json, Some(ConfigError::Invalid { problems })) => {
            let mut lines: String = problems
                .iter()
                .take(SHOWN)
                .map(|problem| JsonError::telling(ToldProblem::Problem(problem), code).line())
                .collect();
            if let Some(more) = problems.len().checked_sub(SHOWN).filter(|more| *more > 0) {
                lines += &JsonError::of(&format!("and {more} more problems"), code).line();
            }
            lines
        }
        (LogFormat::Json, _) => JsonError::of(text.trim_end(), code).line(),
        (LogFormat::Text, _) => {
            text.lines().fold(String::new(), |lines, line| lines + "error: " + &visible(line) + "\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn what_clap_says_is_called_an_error_once() {
        let error = Cli::command().error(ErrorKind::ValueValidation, "hello is for TCP");
        let told = lines(&error.into(), LogFormat::Text);
        assert!(told.starts_with("error: hello is for TCP\n"), "{told}");
        assert_eq!(told.matches("error: ").count(), 1, "{told}");
    }
}

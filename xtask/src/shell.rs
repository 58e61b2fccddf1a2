//! Commands as a person would type them: printed, run, their failure named. Decides nothing about what to run.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::process::{Command, ExitStatus, Output};

use anyhow::{Context as _, Result, ensure};

/// `command` as it could be typed.
#[must_use]
pub fn line(command: &Command) -> String {
    let mut line = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let _ = write!(line, "{}={} ", name.display(), quoted(value));
        }
    }
    line.push_str(&quoted(command.get_program()));
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&quoted(argument));
    }
    line
}

/// Says `command`, then runs it.
pub fn announce_and_run(command: &mut Command) -> Result<()> {
    println!("+ {}", line(command));
    run(command)
}

/// Runs `command` with our input and output; any exit but success is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    ensure!(status.success(), "{}: {status}", line(command));
    Ok(())
}

/// Runs `command` with our input and output.
pub fn status(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| format!("run {}", line(command)))
}

/// Runs `command` and keeps what it printed.
pub fn output(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("run {}", line(command)))
}

/// The standard output of `command`; any exit but success is an error that quotes standard error.
pub fn stdout(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    ensure!(
        output.status.success(),
        "{}: {}: {}",
        line(command),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_command_can_be_typed() {
        let mut command = Command::new("env");
        command.args(["a b", "it's", "", "--plain=1"]).env("LLVM_PREFIX", "/usr/lib/llvm-22");
        assert_eq!(line(&command), r"LLVM_PREFIX=/usr/lib/llvm-22 env 'a b' 'it'\''s' '' --plain=1");
    }
}

//! Where log lines go: by the one queue to standard error, as text or JSON, from level `info` on unless RUST_LOG says
//! otherwise. Panics are said there too.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::panic::{self, PanicHookInfo};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, LevelFilter};

use crate::model::LogFormat;
use crate::observe::{Output, Priority, timestamp};

/// The time that writing the last lines may take.
const FINISH: Duration = Duration::from_secs(1);

/// The output of a program that runs on.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) output: Output,
    pub(super) format: LogFormat,
}

impl Drop for Log {
    /// However it ends, by a panic too: what was said last is what somebody wants to know.
    fn drop(&mut self) {
        let _is_written = self.output.finish(FINISH);
    }
}

/// A line of this program's own that is no event.
#[derive(Serialize)]
struct JsonLine<'a> {
    timestamp: String,
    level: &'static str,
    message: &'a str,
    thread: &'a str,
}

/// Begins to log.
///
/// # Errors
/// When there is no thread for it.
pub(super) fn init(format: LogFormat) -> anyhow::Result<Log> {
    let output = Output::start(format, io::stdout(), io::stderr()).context("start the log")?;
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    let (filter, refused) = filter(&wanted);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        // It would say so by a macro that panics when nobody reads.
        .log_internal_errors(false)
        .with_writer(output.clone());
    match format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.init(),
    }
    let panics = output.clone();
    panic::set_hook(Box::new(move |info| panics.tell(Priority::Error, &panic_line(format, info))));
    for directive in refused {
        tracing::warn!(
            directive,
            "RUST_LOG: not understood; write it as in debug, or info,spectrum_user=debug"
        );
    }
    Ok(Log { output, format })
}

/// The filter that `wanted` means, and the parts of it that mean nothing. Not by the lossy way that there is, which tells
/// by that macro.
fn filter(wanted: &str) -> (EnvFilter, Vec<&str>) {
    let (good, bad): (Vec<&str>, Vec<&str>) = wanted
        .split(',')
        .filter(|directive| !directive.is_empty())
        .partition(|directive| directive.parse::<Directive>().is_ok());
    let builder = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    (builder.parse(good.join(",")).unwrap_or_default(), bad)
}

/// As the standard library says it, but for the order of things.
fn panic_line(format: LogFormat, info: &PanicHookInfo<'_>) -> String {
    let current = thread::current();
    let thread = current.name().unwrap_or("unnamed");
    let mut message = format!("thread '{thread}' panicked");
    // Writing to a String cannot fail.
    if let Some(location) = info.location() {
        let _ = write!(message, " at {location}");
    }
    let _ = write!(message, ": {}", info.payload_as_str().unwrap_or("no message"));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        let _ = write!(message, "\n{backtrace}");
    }
    let timestamp = timestamp();
    match format {
        LogFormat::Json => {
            let line = JsonLine { timestamp, level: "ERROR", message: &message, thread };
            serde_json::to_string(&line).unwrap_or_default() + "\n"
        }
        LogFormat::Text => format!("{timestamp} ERROR {message}\n"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _, pipe};
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use super::*;
    use crate::observe::LossKind;

    /// Set in the process that is to panic.
    const PANICKING: &str = "SPECTRUM_TEST_PANICKING";

    #[test]
    fn what_is_not_understood_of_a_filter_leaves_the_rest() {
        for (wanted, understood, refused) in [
            ("", "info", vec![]),
            ("debug", "debug", vec![]),
            ("spectrum_user=lolwut,warn", "warn", vec!["spectrum_user=lolwut"]),
            ("info=x=y", "info", vec!["info=x=y"]),
        ] {
            let (filter, bad) = filter(wanted);
            assert_eq!((filter.to_string().as_str(), bad), (understood, refused), "{wanted}");
        }
    }

    /// The other process of the tests below: a thread panics, which must not take longer than that.
    #[test]
    fn a_process_for_the_tests_of_panics() {
        if std::env::var_os(PANICKING).is_none() {
            return;
        }
        let log = init(LogFormat::Json).unwrap();
        let began = Instant::now();
        let worker = thread::Builder::new().name("worker-7".into()).spawn(|| panic!("out of cheese"));
        assert!(worker.unwrap().join().is_err());
        let line = format!("took {}\n", began.elapsed().as_millis());
        log.output.write(LossKind::Answer, line.as_bytes());
    }

    fn panicking(stderr: impl Into<Stdio>) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "--nocapture", "commands::logging::tests::a_process_for_the_tests_of_panics"])
            .env(PANICKING, "1")
            .env_remove("RUST_BACKTRACE")
            .stdout(Stdio::piped())
            .stderr(stderr);
        command
    }

    #[test]
    fn a_panic_is_a_line_of_the_log() {
        let output = panicking(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        let line = text.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{text}"));
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["level"], &line["thread"]), (&"ERROR".into(), &"worker-7".into()));
        let message = line["message"].as_str().unwrap();
        assert!(message.starts_with("thread 'worker-7' panicked at "), "{message}");
        assert!(message.ends_with(": out of cheese"), "{message}");
    }

    #[test]
    fn a_panic_waits_for_no_reader() {
        let (reader, mut writer) = pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        while writer.write(&[b'x'; 4096]).is_ok() {}
        rustix::io::ioctl_fionbio(&writer, false).unwrap();
        let mut child = panicking(writer).spawn().unwrap();
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(child.wait().unwrap().success());
        drop(reader);
        let took = said.lines().find_map(|line| line.strip_prefix("took ")?.parse::<u64>().ok());
        assert!(took.is_some_and(|took| took < 5000), "{said}");
    }
}

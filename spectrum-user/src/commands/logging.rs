//! Where log lines go: standard error, as text or JSON, from level `info` on unless RUST_LOG says otherwise.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::LogFormatArg;

/// Begins to log.
pub(super) fn init(format: LogFormatArg) {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    match format {
        LogFormatArg::Json => builder.json().flatten_event(true).init(),
        LogFormatArg::Text => builder.init(),
    }
}

//! Writing what was asked for to standard output, as JSON or for people. Errors are another matter.

use std::io::{self, BufWriter, Write};

use anyhow::Context as _;
use serde::Serialize;

use crate::model::VisibleWriter;

/// Prints `answer` as JSON if that is wanted, else as `text` writes it; `op` is what that is, a verb phrase.
pub(super) fn print(
    op: &'static str,
    answer: &impl Serialize,
    json: bool,
    text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    let mut stdout = BufWriter::new(io::stdout().lock());
    let written = if json {
        serde_json::to_writer(&mut stdout, answer).map_err(io::Error::from).and_then(|()| writeln!(stdout))
    } else {
        text(&mut VisibleWriter::new(&mut stdout))
    };
    match written.and_then(|()| stdout.flush()) {
        // The reader has seen enough: a million bindings are more than a screen.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context(op),
    }
}

//! The program that is client and origin, `spectrum-user/benches/load`, seen from outside: an order, an answer. Measures
//! nothing itself.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// The running program. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Load {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
    /// The address of its origin.
    pub(crate) origin: SocketAddr,
}

impl Load {
    /// Starts `program`.
    pub(crate) fn start(program: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("run {}", program.display()))?;
        let orders = child.stdin.take();
        let stdout = child.stdout.take().context("read from the load")?;
        let mut answers = BufReader::new(stdout).lines();
        let ready = answers.next().context("wait for the load: it ended")?.context("read from the load")?;
        let origin = ready.strip_prefix("ready ").and_then(|address| address.parse().ok());
        let origin = origin.with_context(|| format!("read the origin's address in {ready:?}"))?;
        Ok(Self { child, orders, answers, origin })
    }

    /// Has `order` done.
    pub(crate) fn obey(&mut self, order: &str) -> Result<Answer> {
        let orders = self.orders.as_mut().context("tell the load")?;
        writeln!(orders, "{order}").and_then(|()| orders.flush()).context("tell the load")?;
        let Some(answer) = self.answers.next() else {
            let status = self.child.wait().context("wait for the load")?;
            bail!("{order}: the load ended: {status}");
        };
        let answer = answer.context("read from the load")?;
        let answer = Answer(serde_json::from_str(&answer).with_context(|| format!("read {answer:?}"))?);
        ensure!(answer.number("failed").unwrap_or(0.0) < 1.0, "{order}: connections failed: {}", answer.0);
        Ok(answer)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // The end of its input ends it; it may have ended before.
        self.orders = None;
        let _ = self.child.wait();
    }
}

/// The findings of the load.
#[derive(Debug)]
pub(crate) struct Answer(Value);

impl Answer {
    /// One of its numbers.
    pub(crate) fn number(&self, name: &str) -> Result<f64> {
        self.0.get(name).and_then(Value::as_f64).with_context(|| format!("find {name} in {}", self.0))
    }
}

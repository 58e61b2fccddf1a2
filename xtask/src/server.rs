//! A server that runs while we look at it: started, waited for until it is ready, stopped, and stopped in any case when
//! dropped. Knows of spectrum-user only that it says `ready`.

use std::io::{BufRead as _, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::interrupt::Interrupt;
use crate::shell;

/// The time that a server may take to be ready, and to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// The lines of its log that are kept: enough to say why it did not start, not a line for every connection of a
/// benchmark.
const LOG_LINES: usize = 100;

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Its words when it was ready.
    pub ready: String,
    /// The time from exec until then.
    pub ready_after: Duration,
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts `command` and waits for a line on its standard output that begins with `ready`.
    ///
    /// # Errors
    /// When it ends or stays silent instead; the message has what it said on standard error.
    pub fn start(command: &mut Command, interrupt: &Interrupt) -> Result<Self> {
        let (mut server, lines, started) = Self::spawn(command)?;
        server.ready = server.wait_until_ready(&lines, started, interrupt)?;
        server.ready_after = started.elapsed();
        Ok(server)
    }

    /// Starts `command`, another's program that says nothing, and waits until `address` can be dialled.
    ///
    /// # Errors
    /// When it ends or does not listen; the message has what it said on standard error.
    pub fn start_listening(
        command: &mut Command,
        address: SocketAddr,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let (mut server, _lines, started) = Self::spawn(command)?;
        while TcpStream::connect(address).is_err() {
            interrupt.check()?;
            if let Some(status) = server.child.try_wait().context("wait for the server")? {
                bail!("start the server: {status}: {}", server.said());
            }
            ensure!(
                started.elapsed() < PATIENCE,
                "start the server: nothing at {address}: {}",
                server.said()
            );
            thread::sleep(Duration::from_millis(5));
        }
        server.ready_after = started.elapsed();
        Ok(server)
    }

    fn spawn(command: &mut Command) -> Result<(Self, Receiver<String>, Instant)> {
        let started = Instant::now();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("run {}", shell::line(command)))?;
        let log = Arc::new(Mutex::new(Vec::new()));
        if let Some(stderr) = child.stderr.take() {
            let log = Arc::clone(&log);
            each_line(stderr, move |line| {
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                if log.len() < LOG_LINES {
                    log.push(line);
                }
            });
        }
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            each_line(stdout, move |line| {
                // Nobody listens any more once it is ready.
                let _ = sender.send(line);
            });
        }
        Ok((Self { child, ready: String::new(), ready_after: Duration::ZERO, log }, lines, started))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first lines that it said on standard error.
    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks it to end and returns how it did and how long that took.
    pub fn stop(mut self) -> Result<(ExitStatus, Duration)> {
        let asked = Instant::now();
        self.signal(Signal::SIGTERM);
        let status = self.wait(PATIENCE)?.context("stop the server: it does not end after SIGTERM")?;
        Ok((status, asked.elapsed()))
    }

    fn wait_until_ready(
        &mut self,
        lines: &Receiver<String>,
        started: Instant,
        interrupt: &Interrupt,
    ) -> Result<String> {
        loop {
            interrupt.check()?;
            match lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) if line.starts_with("ready") => return Ok(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    ensure!(
                        started.elapsed() < PATIENCE,
                        "start the server: it says nothing: {}",
                        self.said()
                    );
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let ended = self.wait(Duration::from_secs(1))?;
                    let how =
                        ended.map_or_else(|| "closed its output".to_owned(), |status| status.to_string());
                    bail!("start the server: {how}: {}", self.said());
                }
            }
        }
    }

    fn said(&self) -> String {
        // Its last lines may still be on their way to the thread that reads them.
        thread::sleep(Duration::from_millis(20));
        self.log().join("\n").trim_start_matches("error: ").to_owned()
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended by itself; its id is not reused before we have waited for it.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    fn wait(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().context("wait for the server")? {
                return Ok(Some(status));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.signal(Signal::SIGTERM);
        if !matches!(self.wait(PATIENCE), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn each_line(stream: impl Read + Send + 'static, mut act: impl FnMut(String) + Send + 'static) {
    thread::spawn(move || BufReader::new(stream).lines().map_while(Result::ok).for_each(&mut act));
}

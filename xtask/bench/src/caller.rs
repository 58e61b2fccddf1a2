//! Clients that call a server one after the other, and what one of them costs. Does not know what is dialled.

use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

use xtask::interrupt::Interrupt;
use xtask::namespace;
use xtask::server::Server;

use super::cpu::Meter;
use super::slices::Sample;
use super::station::Station;

/// The fate of the client that a slice repeats.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Caller {
    /// It connects and reads an answer to its end.
    Served,
    /// It is refused, or reset once connected; now and then it may be served.
    Refused,
    /// It sends a SYN and leaves, since nobody answers.
    Unanswered,
}

impl Station {
    /// One in a new namespace, where `serve` starts the server; `target` is what the client dials, and `caller` how it fares.
    pub(super) fn open(
        name: &'static str,
        target: SocketAddr,
        caller: Caller,
        interrupt: &Interrupt,
        serve: impl FnOnce(&Interrupt) -> Result<Server> + Send + 'static,
    ) -> Result<Self> {
        let set_up = |interrupt: &Interrupt| {
            namespace::enter_another()?;
            Ok((serve(interrupt)?, ()))
        };
        Self::of(name, interrupt, set_up, move |(), length, meter| slice(target, caller, length, meter))
    }
}

/// Calls `target` for `length`, one client after the other.
pub(super) fn slice(target: SocketAddr, caller: Caller, length: Duration, meter: &Meter) -> Result<Sample> {
    let started = Instant::now();
    let before = meter.read()?;
    let mut connections = 0_u32;
    while started.elapsed() < length {
        match caller {
            Caller::Served => connect(target)?,
            Caller::Refused => be_refused(target)?,
            Caller::Unanswered => be_unanswered(target)?,
        }
        connections += 1;
    }
    let used = meter.read()?.saturating_sub(before);
    let count = f64::from(connections);
    Ok(Sample { cost: used.as_secs_f64() * 1e9 / count, rate: count / started.elapsed().as_secs_f64() })
}

/// Connects, reads the answer to its end and leaves nothing in TIME-WAIT, which would use up the ports.
fn connect(target: SocketAddr) -> Result<()> {
    let mut socket = Socket::new(Domain::for_address(target), Type::STREAM, None).context("open a socket")?;
    socket.set_linger(Some(Duration::ZERO)).context("prepare a socket")?;
    socket.connect(&target.into()).with_context(|| format!("dial {target}"))?;
    let mut answer = [0; 256];
    let mut length = 0;
    loop {
        let read = socket.read(&mut answer).with_context(|| format!("read the answer of {target}"))?;
        if read == 0 {
            break;
        }
        length += read;
    }
    ensure!(length > 0, "dial {target}: no answer");
    Ok(())
}

/// Connects, which fails, or reads to an end that comes too early.
fn be_refused(target: SocketAddr) -> Result<()> {
    let mut socket = Socket::new(Domain::for_address(target), Type::STREAM, None).context("open a socket")?;
    socket.set_linger(Some(Duration::ZERO)).context("prepare a socket")?;
    match socket.connect(&target.into()) {
        Ok(()) => {
            // Nobody asks how it ends.
            let _ = socket.read(&mut [0; 256]);
            Ok(())
        }
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) => {
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("dial {target}")),
    }
}

/// Sends a SYN and closes: over loopback it has been judged when connect(2) returns, which fails where anybody answered.
fn be_unanswered(target: SocketAddr) -> Result<()> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None).context("open a socket")?;
    socket.set_nonblocking(true).context("prepare a socket")?;
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
        outcome => bail!("dial {target}: {outcome:?}, though nobody answers"),
    }
    ensure!(socket.take_error().context("ask a socket")?.is_none(), "dial {target}: somebody answered");
    Ok(())
}

//! Which origin, and connecting to it. Does not judge whether an origin is healthy: it tries, in turn.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::dial_source::connect;
use super::report::DialFailure;
use super::session::Session;
use crate::model::Origins;

/// How long one address may take to answer.
const ATTEMPT: Duration = Duration::from_secs(5);

/// How long all attempts for one connection may take together.
const ATTEMPTS: Duration = Duration::from_secs(15);

/// How often failures of one service's origins are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// One worker's way to the origins of one service: each connection begins with the next one.
#[derive(Debug)]
pub(super) struct Dialler {
    next: Cell<usize>,
    logged: Cell<Option<Instant>>,
    unlogged: Cell<u64>,
}

impl Dialler {
    /// `first` is the origin to begin with: workers that all began with the same one would crowd it after a start.
    pub(super) fn new(first: usize) -> Self {
        Self { next: Cell::new(first), logged: Cell::new(None), unlogged: Cell::new(0) }
    }

    /// Connects to one of `origins`: the next in turn, or the one after it where that fails. Notes in `session` what is
    /// tried.
    pub(super) async fn dial(&self, origins: &Origins, session: &Session) -> Result<TcpStream, DialFailure> {
        let first = self.next.get();
        self.next.set(first.wrapping_add(1));
        let mut failure = DialFailure::Unresolved;
        let deadline = Instant::now() + ATTEMPTS;
        let pivot = first.checked_rem(origins.list.len()).unwrap_or(0);
        let (before, from) = origins.list.split_at(pivot);
        for origin in from.iter().chain(before) {
            let Some(port) = origins.port(origin, session.dialled.get().port()) else { continue };
            for address in session.worker().resolver.resolve(&origin.host).await.iter() {
                let address = SocketAddr::new(*address, port);
                session.origin.set(Some(address));
                let left = deadline.saturating_duration_since(Instant::now()).min(ATTEMPT);
                let dialled = connect(address, origins.source, session.client.get());
                match timeout(left, dialled).await.unwrap_or(Err(io::ErrorKind::TimedOut.into())) {
                    Ok(stream) => return Ok(stream),
                    Err(error) => {
                        failure = DialFailure::of(&error);
                        self.log(session, address, &error);
                    }
                }
                if Instant::now() >= deadline {
                    return Err(failure);
                }
            }
        }
        Err(failure)
    }

    fn log(&self, session: &Session, origin: SocketAddr, error: &io::Error) {
        if self.logged.get().is_some_and(|logged| logged.elapsed() < LOG_INTERVAL) {
            self.unlogged.set(self.unlogged.get() + 1);
            return;
        }
        self.logged.set(Some(Instant::now()));
        let unlogged = self.unlogged.replace(0);
        tracing::warn!(service = %session.service(), %origin, %error, unlogged, "dial origin");
    }
}

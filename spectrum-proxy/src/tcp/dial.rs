//! A connected origin, from the choices of a session: the first is dialled, and where that fails the next. Does not choose:
//! whose turn it is, and what an outcome means for others, is known to `origins`.

use std::cell::Cell;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{sleep_until, timeout};

use super::dial_source;
use super::stream::Stream;
use crate::model::Protocol;
use crate::origins::{Choices, Chooser, CurrentRoster, Member, OpenGuard, Place};
use crate::report::DialFailure;
use crate::session::Session;

/// The head start of each address of a name (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// The number of members tried for one connection, and the times of one that all of them may take together.
const MEMBERS: usize = 8;
const TIMES: u32 = 3;

/// The number of addresses tried for one connection, of all members together, and of one.
const ADDRESSES: usize = 16;
const ADDRESSES_OF_MEMBER: usize = 8;

/// The shortest time between two log lines about failures of one service's origins.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// One worker's way to the origins of one service.
#[derive(Debug)]
pub(crate) struct Dialler {
    chooser: Chooser,
    connect: Duration,
    logged: Cell<Option<Instant>>,
    unlogged: Cell<u64>,
}

/// A connected origin.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) stream: Stream,
    /// To be kept for as long as the connection is open.
    pub(crate) open: OpenGuard,
}

impl Dialler {
    /// `worker` is the index of the worker; an origin may take `connect` to answer.
    pub(crate) fn new(current: Arc<CurrentRoster>, connect: Duration, worker: usize) -> Self {
        Self {
            chooser: Chooser::new(current, worker),
            connect,
            logged: Cell::new(None),
            unlogged: Cell::new(0),
        }
    }

    /// The choice among the origins.
    pub(crate) fn chooser(&self) -> &Chooser {
        &self.chooser
    }

    /// Connects to one of the origins. Notes in `session` what is tried.
    pub(crate) async fn dial(&self, session: &Session) -> Result<Dialled, DialFailure> {
        let choices = self.chooser.choices(Protocol::Tcp, session.client.get().ip());
        match choices.sole() {
            Some((member, place)) => {
                if !place.is_usable(Protocol::Tcp) {
                    return Err(DialFailure::Down);
                }
                let port = self.chooser.port(member, session.bound_port).ok_or(DialFailure::Failed)?;
                if place.bars(port) {
                    return Err(DialFailure::Loop);
                }
                let stream = self.dial_place(place, port, self.connect, session).await;
                let open = |stream| Dialled { stream, open: choices.open(place) };
                stream.map(open).map_err(|error| DialFailure::of(&error))
            }
            // Apart and on the heap, so that a connection with but one way to go carries none of it.
            None => Box::pin(self.dial_members(&choices, session)).await,
        }
    }

    async fn dial_members(&self, choices: &Choices<'_>, session: &Session) -> Result<Dialled, DialFailure> {
        let mut failure = choices.absence();
        let deadline = Instant::now() + self.connect * TIMES;
        let mut dials = 0;
        let addresses = Cell::new(ADDRESSES);
        while dials < MEMBERS && addresses.get() > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let Some(member) = choices.another() else { break };
            let Some(port) = self.chooser.port(member, session.bound_port) else { continue };
            match self.dial_member(choices, member, port, left.min(self.connect), &addresses, session).await {
                Ok((stream, place)) => return Ok(Dialled { stream, open: choices.open(place) }),
                Err(error) => match DialFailure::of(&error) {
                    // It was not dialled at all, and what became of another one says more.
                    DialFailure::Loop | DialFailure::OtherFamily if dials > 0 => continue,
                    other @ (DialFailure::Loop | DialFailure::OtherFamily) => {
                        failure = other;
                        continue;
                    }
                    other => failure = other,
                },
            }
            dials += 1;
            if failure == DialFailure::OutOfResources {
                // The next one would need the same.
                break;
            }
        }
        Err(failure)
    }

    /// Dials the addresses of a member, each with a head start before the next one, and takes the first that answers. Takes
    /// those that it tries from the `allowed` ones.
    async fn dial_member<'a>(
        &self,
        choices: &Choices<'_>,
        member: &'a Member,
        port: u16,
        patience: Duration,
        allowed: &Cell<usize>,
        session: &Session,
    ) -> io::Result<(Stream, &'a Place)> {
        if member.places.iter().all(|place| place.bars(port)) {
            return Err(comes_back());
        }
        if let [place] = &member.places[..] {
            allowed.update(|allowed| allowed.saturating_sub(1));
            return Ok((self.dial_place(place, port, patience, session).await?, place));
        }
        let source = self.chooser.source();
        let mut waiting = choices
            .places(member)
            .into_iter()
            .filter(|place| !place.bars(port))
            .filter(|place| dial_source::reaches(place.at(port), source, session.client.get()))
            .take(allowed.get().min(ADDRESSES_OF_MEMBER))
            .peekable();
        if waiting.peek().is_none() {
            return Err(dial_source::other_family());
        }
        let mut dialling = FuturesUnordered::new();
        // Those that are being dialled, in the order of their beginning, and when.
        let mut begun: Vec<(&'a Place, Instant)> = Vec::new();
        let deadline = Instant::now() + patience;
        let mut failure = io::Error::from(io::ErrorKind::TimedOut);
        let mut due = Some(Instant::now());
        loop {
            tokio::select! {
                biased;
                Some((place, outcome)) = dialling.next(), if !dialling.is_empty() => match outcome {
                    Ok(stream) => {
                        for (slow, since) in begun {
                            if !is_same(slow, place) && since.elapsed() >= HEAD_START {
                                slow.overtaken();
                            }
                        }
                        session.origin.set(Some(place.at(port)));
                        self.chooser.succeeded(place, port);
                        return Ok((stream, place));
                    }
                    Err(error) => {
                        begun.retain(|(one, _)| !is_same(one, place));
                        self.failed(place, port, &error, session);
                        failure = error;
                        due = Some(Instant::now());
                    }
                },
                () = wait_until(due) => match waiting.next() {
                    Some(place) => {
                        let address = place.at(port);
                        session.origin.set(Some(address));
                        allowed.update(|allowed| allowed.saturating_sub(1));
                        begun.push((place, Instant::now()));
                        dialling.push(async move { (place, self.connect(address, session).await) });
                        due = Some(Instant::now() + HEAD_START);
                    }
                    None if dialling.is_empty() => return Err(failure),
                    None => due = None,
                },
                () = sleep_until(deadline.into()) => {
                    let error = io::Error::from(io::ErrorKind::TimedOut);
                    for (place, _) in begun {
                        self.failed(place, port, &error, session);
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn dial_place(
        &self,
        place: &Place,
        port: u16,
        patience: Duration,
        session: &Session,
    ) -> io::Result<Stream> {
        let address = place.at(port);
        // Which clients it is not for says nothing of it, and is nothing to warn of.
        if !dial_source::reaches(address, self.chooser.source(), session.client.get()) {
            return Err(dial_source::other_family());
        }
        session.origin.set(Some(address));
        let outcome = timeout(patience, self.connect(address, session)).await;
        match outcome.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => {
                self.chooser.succeeded(place, port);
                Ok(stream)
            }
            Err(error) => {
                self.failed(place, port, &error, session);
                Err(error)
            }
        }
    }

    async fn connect(&self, origin: SocketAddr, session: &Session) -> io::Result<Stream> {
        if session.worker().listens_on(Protocol::Tcp, origin) {
            self.log(
                session,
                origin,
                &io::Error::other("a listener of our own is there: the connection would go round"),
            );
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        dial_source::connect(origin, self.chooser.source(), session.client.get()).await
    }

    fn failed(&self, place: &Place, port: u16, error: &io::Error, session: &Session) {
        let origin = place.at(port);
        let failure = DialFailure::of(error);
        if failure == DialFailure::Loop {
            return;
        }
        self.log(session, origin, error);
        // What we lack ourselves, and which clients it cannot be dialled for, says nothing about the origin.
        if matches!(failure, DialFailure::OtherFamily | DialFailure::OutOfResources) {
            return;
        }
        self.chooser.failed(Protocol::Tcp, place, port, error);
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

/// The error of an address that [`Place::bars`] for a port.
fn comes_back() -> io::Error {
    io::Error::from_raw_os_error(libc::ELOOP)
}

fn is_same(one: &Place, other: &Place) -> bool {
    std::ptr::eq(one, other)
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => pending().await,
    }
}

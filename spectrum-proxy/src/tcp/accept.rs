//! One worker's accept loop on one listener. No failure of a connection gets past this file: it becomes the end in that
//! connection's report.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;

use super::dial::{Dialled, Dialler};
use super::first_move::{self, Manners};
use super::peer::Peer;
use super::proxy_header::{self, Patience};
use super::relay::{ConnectionTimer, keep, relay};
use super::respond::respond;
use super::stream::{Stream, accept, keep_urgent_bytes};
use crate::address::canonical;
use crate::assignment::{Assignment, Credit, CurrentAssignment};
use crate::hold::{Hold, Stopping};
use crate::model::{Destination, Origins, Protocol, Target, Timeouts};
use crate::report::{DialFailure, End, HeaderFault, Side};
use crate::session::Session;
use crate::sys::register;
use crate::worker::Worker;

/// The first and the longest pause while the host is out of descriptors or memory.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// The time that accepting must have gone well before a shortage counts as over: one that comes and goes is one shortage.
const CALM: Duration = Duration::from_secs(1);

/// A running accept loop.
pub(crate) struct Acceptor {
    stop: oneshot::Sender<Stopping>,
    task: JoinHandle<()>,
}

impl Acceptor {
    /// Starts accepting from `listener`, once `hold` lets go. Must be called within the worker's runtime.
    pub(crate) fn start(
        worker: Rc<Worker>,
        listener: TcpListener,
        assignment: CurrentAssignment,
        hold: Hold,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        // Linux hands the options on to accepted sockets: two system calls here instead of two for each of them.
        socket2::SockRef::from(&listener).set_tcp_nodelay(true)?;
        keep_urgent_bytes(&listener)?;
        let address = listener.local_addr()?;
        let listener = register(listener.into(), Interest::READABLE)?;
        let listening = Listening::begin(Rc::clone(&worker), address);
        let (stop, stopped) = oneshot::channel();
        let queue = AcceptQueue { worker, assignment, _listening: listening };
        Ok(Self { stop, task: spawn_local(queue.accept(listener, hold, stopped)) })
    }

    /// Serves what sits in the accept queue, then closes the listener.
    pub(crate) async fn stop(self) {
        // Fails where the loop has ended by itself, and that was reported then.
        let _ = self.stop.send(Stopping::Drained);
        let _ = self.task.await;
    }

    /// Accepts nothing more from the listener's queue, which another process does from now on.
    pub(crate) async fn abandon(self) {
        let _ = self.stop.send(Stopping::Abandoned);
        let _ = self.task.await;
    }
}

/// The queue of accepted connections, and what becomes of them.
struct AcceptQueue {
    worker: Rc<Worker>,
    assignment: CurrentAssignment,
    _listening: Listening,
}

/// A worker's listener at an address, known for as long as it is there.
struct Listening {
    worker: Rc<Worker>,
    address: SocketAddr,
}

impl Listening {
    fn begin(worker: Rc<Worker>, address: SocketAddr) -> Self {
        worker.listener_opened(Protocol::Tcp, address);
        Self { worker, address }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.worker.listener_closed(Protocol::Tcp, self.address);
    }
}

impl AcceptQueue {
    async fn accept(self, listener: AsyncFd<OwnedFd>, hold: Hold, mut stopped: oneshot::Receiver<Stopping>) {
        let mut early = tokio::select! {
            biased;
            stopping = &mut stopped => Some(stopping),
            () = hold.over() => None,
        };
        let mut shortage = None;
        let mut kept = self.assignment.get().served.policy.timeouts;
        self.keep(listener.get_ref(), &kept);
        let stopping = loop {
            if let Some(stopping) = early.take() {
                break stopping;
            }
            let accepted = tokio::select! {
                biased;
                stopping = &mut stopped => break stopping,
                accepted = listener.async_io(Interest::READABLE, accept) => accepted,
            };
            match accepted {
                Ok((stream, client)) => {
                    let assignment = self.assignment.get();
                    Shortage::relieve(&mut shortage, &assignment.destination);
                    let timeouts = assignment.served.policy.timeouts;
                    if timeouts != kept {
                        kept = timeouts;
                        self.keep(listener.get_ref(), &kept);
                        self.keep(&stream, &kept);
                    }
                    self.open(stream, client);
                    if matches!(assignment.served.target, Target::Origins(_)) {
                        // Lets the connection dial first. When descriptors are scarce, accepting all that waits would
                        // leave none to dial with, and serve nobody.
                        let_others_go().await;
                    }
                }
                Err(error) => match AcceptFailure::of(&error) {
                    AcceptFailure::Connection => {
                        tracing::debug!(destination = %self.destination(), %error, "accept connection");
                    }
                    AcceptFailure::Listener => {
                        self.worker.listener_failed(self.destination(), error);
                        return;
                    }
                    AcceptFailure::Resources => {
                        let pause = Shortage::worsen(&mut shortage, &self.destination(), &error);
                        tokio::select! {
                            biased;
                            stopping = &mut stopped => break stopping,
                            () = sleep(pause) => {}
                        }
                    }
                },
            }
        };
        if stopping != Ok(Stopping::Abandoned) {
            self.drain(listener.get_ref());
        }
    }

    fn destination(&self) -> Destination {
        self.assignment.get().destination.clone()
    }

    /// Linux hands these options, too, on to accepted sockets.
    fn keep(&self, socket: impl AsFd, timeouts: &Timeouts) {
        if let Err(error) = keep(socket, timeouts) {
            tracing::warn!(destination = %self.destination(), %error, "set timeouts of connections");
        }
    }

    /// Closing a listener resets what waits in its queue, though those clients were already told that they are
    /// connected. The runtime's idea of readiness may lag behind the kernel's, so the kernel is asked.
    fn drain(&self, listener: &OwnedFd) {
        loop {
            match accept(listener) {
                Ok((stream, client)) => self.open(stream, client),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if matches!(AcceptFailure::of(&error), AcceptFailure::Connection) => {}
                Err(error) => {
                    tracing::warn!(destination = %self.destination(), %error, "accept the last connections");
                    return;
                }
            }
        }
    }

    fn open(&self, stream: Stream, client: SocketAddr) {
        let dialled = match stream.local_addr() {
            Ok(address) => canonical(address),
            Err(error) => {
                tracing::debug!(destination = %self.destination(), %error, "read dialled address");
                return;
            }
        };
        let assignment = self.assignment.get();
        let session = assignment.account(canonical(client), dialled);
        let peer = Peer::new(stream);
        let credit = match assignment.admit(&session) {
            Ok(credit) => credit,
            Err(limit) => {
                // The client sees a RST: dialling again later may help, waiting will not.
                drop(peer);
                session.end(End::Denied(limit));
                return;
            }
        };
        // A session dropped before its task's first poll is reported all the same.
        let connections = Rc::clone(&assignment.connections);
        connections.serve(|place| async move {
            let end = serve(&peer, &assignment, &session, credit).await;
            // The peer is closed before its end is told.
            drop(peer);
            session.end(end);
            drop(place);
        });
    }
}

impl Drop for AcceptQueue {
    /// The runtime keeps a panic to the task, and nobody would notice a listener that is never accepted from.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.worker.died();
        }
    }
}

/// Has a session know what its client had not acknowledged, however serving it ends.
struct Reckoning<'a> {
    downstream: &'a Peer,
    session: &'a Session,
}

impl Drop for Reckoning<'_> {
    fn drop(&mut self) {
        // Where all was said in order, the kernel sees to the rest, whatever becomes of us.
        if !self.downstream.is_finished() {
            self.session.reckon(self.downstream);
        }
    }
}

async fn serve(downstream: &Peer, assignment: &Assignment, session: &Session, credit: Option<Credit>) -> End {
    let _reckoning = Reckoning { downstream, session };
    let watch = ConnectionTimer::start(&assignment.served.policy.timeouts);
    // First of all: everything else, limits among it, is about the client that it names.
    if assignment.awaits_header(session) {
        let trusted = &assignment.served.policy.trusted_proxies;
        let to_origin = match &assignment.served.target {
            Target::Origins(origins) => origins.header,
            Target::Registered | Target::Respond(_) => None,
        };
        let patience = if credit.is_some() { Patience::Short } else { Patience::Usual };
        if let Err(end) = proxy_header::receive(downstream, trusted, session, to_origin, patience).await {
            if let (Some(Credit(limit)), End::Headless(HeaderFault::Missing)) = (credit, end) {
                assignment.complain(session, limit);
                return End::Denied(limit);
            }
            return end;
        }
        if let Err(limit) = assignment.readmit(session, credit) {
            return End::Denied(limit);
        }
    }
    let end = match (&assignment.served.target, &assignment.dialler) {
        (Target::Origins(origins), Some(dialler)) => {
            proxy(downstream, origins, dialler, &assignment.manners, session, &watch).await
        }
        // Who serves origins has a way to them, and what others answer nobody hands to the proxy.
        (Target::Origins(_), None) | (Target::Registered, _) => End::Undialled(DialFailure::Failed),
        (Target::Respond(responder), _) => {
            session.established();
            respond(*responder, downstream, session, &watch).await
        }
    };
    if end == End::Closed {
        downstream.finish();
    }
    end
}

async fn proxy(
    downstream: &Peer,
    origins: &Origins,
    dialler: &Dialler,
    manners: &Manners,
    session: &Session,
    watch: &ConnectionTimer<'_>,
) -> End {
    // On the heap, since it is over soon: it would be the largest part of every connection for as long as that lasts.
    let attempt = Box::pin(async {
        first_move::wait(downstream, origins.dial_on, manners, watch).await?;
        let began = Instant::now();
        let reached = tokio::select! {
            biased;
            attempt = dialler.dial(session) => attempt.map_err(End::Undialled),
            // A client that gives up while the origin is slow to answer need not hold the attempt open.
            _ = downstream.ready(Interest::ERROR) => Err(End::Reset(Side::Downstream)),
        }?;
        session.dialled_in(began.elapsed());
        Ok(reached)
    });
    let (upstream, open) = match attempt.await {
        Ok(Dialled { stream, open }) => (Peer::new(stream), open),
        Err(end) => return end,
    };
    session.count_for(&open);
    if let Err(end) = proxy_header::send(downstream, &upstream, origins, session).await {
        open.ended(end);
        return end;
    }
    session.established();
    let means = session.worker().means();
    let end = relay(downstream, &upstream, &session.from_client, &session.to_client, means, watch).await;
    open.ended(end);
    if end == End::Closed {
        upstream.finish();
    }
    end
}

/// Lets every task that is ready go first. `yield_now` would have the runtime look for events, too: a system call for each
/// connection.
async fn let_others_go() {
    let mut gone = false;
    poll_fn(|cx| {
        if gone {
            return Poll::Ready(());
        }
        gone = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The class of an error of accept(2), which says what to do next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum AcceptFailure {
    /// The connection that would have been accepted: take the next one at once.
    Connection,
    /// The listener: it will never accept again.
    Listener,
    /// The host, for now: wait a little.
    Resources,
}

impl AcceptFailure {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            // accept(2): Linux hands pending network errors of the new socket to its caller.
            Some(
                libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::EINTR
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EPROTO
                | libc::ETIMEDOUT,
            ) => Self::Connection,
            // EPERM comes from a security module, which may change its mind; retrying at once would spin.
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EPERM) => Self::Resources,
            _ => Self::Listener,
        }
    }
}

/// A time during which accepting fails for want of resources. Logged once when it begins and once when it is over.
struct Shortage {
    began: Instant,
    last: Instant,
    pause: Duration,
}

impl Shortage {
    /// Notes a failure: how long to wait before the next attempt.
    fn worsen(shortage: &mut Option<Self>, destination: &Destination, error: &io::Error) -> Duration {
        let now = Instant::now();
        let this = shortage.get_or_insert_with(|| {
            tracing::error!(%destination, %error, "accept connection; trying again until it succeeds");
            Self { began: now, last: now, pause: BACKOFF.0 }
        });
        this.last = now;
        let pause = this.pause;
        this.pause = (pause * 2).min(BACKOFF.1);
        pause
    }

    /// Notes a success.
    fn relieve(shortage: &mut Option<Self>, destination: &Destination) {
        let Some(this) = shortage else { return };
        this.pause = BACKOFF.0;
        if this.last.elapsed() >= CALM {
            let lasted = this.last.duration_since(this.began);
            tracing::info!(%destination, ?lasted, "accepting connections again");
            *shortage = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_accept_errors_end_the_listener() {
        for (errno, failure) in [
            (libc::ECONNABORTED, AcceptFailure::Connection),
            (libc::EMFILE, AcceptFailure::Resources),
            (libc::EBADF, AcceptFailure::Listener),
            (libc::EINVAL, AcceptFailure::Listener),
        ] {
            assert_eq!(AcceptFailure::of(&io::Error::from_raw_os_error(errno)), failure);
        }
    }

    #[test]
    fn accepted_sockets_inherit_nodelay_from_their_listener() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&listener).set_tcp_nodelay(true).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(accepted.nodelay().unwrap());
    }

    #[test]
    fn pauses_grow_to_their_limit_and_begin_anew_after_a_success() {
        let destination = crate::model::Destination {
            service: crate::model::ServiceName::default(),
            revision: 0,
            family: crate::model::Family::Ipv4,
            protocol: crate::model::Protocol::Tcp,
        };
        let error = io::Error::from_raw_os_error(libc::EMFILE);
        let mut shortage = None;
        let mut pauses: Vec<_> =
            (0..9).map(|_| Shortage::worsen(&mut shortage, &destination, &error).as_millis()).collect();
        Shortage::relieve(&mut shortage, &destination);
        assert!(shortage.is_some(), "a success in the middle of a shortage does not end it");
        pauses.push(Shortage::worsen(&mut shortage, &destination, &error).as_millis());
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000, 10]);
    }
}

//! Workers behind a loopback listener, and the clients and origins that try them. Uses blocking sockets throughout: the
//! other side of a test should not share the runtime's idea of readiness.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use spectrum_proxy::model::{
    Destination, Family, Origin, Origins, Policy, Protocol, ResolverOptions, Responder, ServiceName, Target,
};
use spectrum_proxy::{DrainOutcome, Event, OriginWatch, Report, Served, Workers};

/// Long enough for anything that is going to happen at all.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Workers that serve one destination.
pub(crate) struct Running {
    pub(crate) workers: Workers,
    pub(crate) origins: OriginWatch,
    pub(crate) address: SocketAddr,
    pub(crate) destination: Destination,
    reports: Receiver<Report>,
    runtime: tokio::runtime::Runtime,
}

impl Running {
    pub(crate) fn serve(target: Target) -> Self {
        Self::serve_from(TcpListener::bind("127.0.0.1:0").unwrap(), target)
    }

    pub(crate) fn respond(responder: Responder) -> Self {
        Self::serve(Target::Respond(responder))
    }

    /// Proxies to `origins`, each as typed.
    pub(crate) fn proxy(origins: &[String]) -> Self {
        Self::serve(origins_of(origins))
    }

    pub(crate) fn serve_from(listener: TcpListener, target: Target) -> Self {
        let running = Self::idle(listener.local_addr().unwrap());
        running.listen(listener, target);
        running
    }

    /// Serves `target` as `policy` allows.
    pub(crate) fn serve_under(policy: Policy, target: Target) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let running = Self::idle(listener.local_addr().unwrap());
        running.listen_under(policy, listener, target);
        running
    }

    /// Workers that listen to nothing yet.
    pub(crate) fn idle(address: SocketAddr) -> Self {
        let (sender, reports) = mpsc::channel();
        let sender = Arc::new(Mutex::new(sender));
        let origins = OriginWatch::start(ResolverOptions::default()).unwrap();
        let workers = Workers::start(NonZeroUsize::new(2).unwrap(), origins.clone(), |_| {
            let sender = Arc::clone(&sender);
            move |event: Event<'_>| {
                if let Event::Ended(report) = event {
                    let _ = sender.lock().unwrap().send(report.clone());
                }
            }
        })
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let destination = Destination {
            service: ServiceName::default(),
            revision: 0,
            family: Family::of(address.ip()),
            protocol: Protocol::Tcp,
        };
        Self { workers, origins, address, destination, reports, runtime }
    }

    pub(crate) fn listen(&self, listener: TcpListener, target: Target) {
        self.listen_under(Policy::default(), listener, target);
    }

    fn listen_under(&self, policy: Policy, listener: TcpListener, target: Target) {
        let served = Arc::new(Served { service: ServiceName::default(), target, policy });
        self.runtime.block_on(self.workers.listen(&self.destination, vec![listener], served)).unwrap();
    }

    pub(crate) fn replace(&self, target: Target) {
        self.block_on(self.workers.replace(&self.destination, served(target))).unwrap();
    }

    /// Waits until the names of `origins` are known, which serving does not.
    pub(crate) fn await_names(&self, origins: &Origins) {
        let named = origins.list.iter().map(|origin| (origin, origins.local));
        let lookups = self.origins.look_up(named, DEADLINE);
        assert!(self.block_on(lookups.unresolved()).unwrap().is_empty());
    }

    pub(crate) fn remove(&self) {
        self.runtime.block_on(self.workers.remove(&self.destination));
    }

    pub(crate) fn drain(&self, timeout: Duration) -> DrainOutcome {
        self.runtime.block_on(self.workers.drain(timeout))
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    pub(crate) fn dial(&self) -> TcpStream {
        dial(self.address)
    }

    /// The next report.
    pub(crate) fn report(&self) -> Report {
        self.reports.recv_timeout(DEADLINE).expect("a connection is reported when it is over")
    }

    pub(crate) fn no_report(&self) {
        assert!(self.reports.try_recv().is_err(), "a connection was reported twice, or too early");
    }
}

pub(crate) fn origins_of(origins: &[String]) -> Target {
    Target::Origins(Origins::from(
        origins.iter().map(|origin| origin.parse().unwrap()).collect::<Vec<Origin>>(),
    ))
}

fn served(target: Target) -> Arc<Served> {
    Arc::new(Served { service: ServiceName::default(), target, policy: Policy::default() })
}

pub(crate) fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// An origin's listener, and the text that configures it.
pub(crate) fn origin() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Closes with a RST.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

pub(crate) fn read_to_end(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text).map(|_| text)
}

/// Sends `text` and awaits its arrival, which also proves that everything before it was handled.
pub(crate) fn pass(text: &str, from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(text.as_bytes()).unwrap();
    let mut arrived = vec![0; text.len()];
    to.read_exact(&mut arrived).unwrap();
    assert_eq!(String::from_utf8(arrived).unwrap(), text);
}

pub(crate) fn assert_reset<T: std::fmt::Debug>(result: io::Result<T>) {
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// Polls until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

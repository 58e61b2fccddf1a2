//! UDP sessions as far as they go without privileges: a listener on every address of the host stands in for steering,
//! and loopback's addresses for a prefix.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use spectrum_proxy::model::{
    Destination, Family, Policy, Protocol, ResolverOptions, Responder, ServiceName, Target,
};
use spectrum_proxy::{End, Event, OriginWatch, Report, Served, Workers};

const DEADLINE: Duration = Duration::from_secs(20);

struct Running {
    workers: Workers,
    port: u16,
    destination: Destination,
    reports: Receiver<Report>,
    runtime: tokio::runtime::Runtime,
}

impl Running {
    fn respond(responder: Responder) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        // Otherwise what outlives it could not be bound beside it. A steered listener is never at an address that is dialled.
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from(([0, 0, 0, 0], 0)).into()).unwrap();
        let listener = UdpSocket::from(socket);
        let port = listener.local_addr().unwrap().port();
        let (sender, reports) = mpsc::channel();
        let sender = Arc::new(Mutex::new(sender));
        let workers = Workers::start(NonZeroUsize::MIN, origins(), |_| {
            let sender = Arc::clone(&sender);
            move |event: Event<'_>| {
                if let Event::Ended(report) = event {
                    let _ = sender.lock().unwrap().send(report.clone());
                }
            }
        })
        .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let destination = destination();
        runtime.block_on(workers.listen(&destination, vec![listener], served(responder))).unwrap();
        Self { workers, port, destination, reports, runtime }
    }

    fn dialled(&self, last: u8) -> SocketAddr {
        SocketAddr::from(([127, 77, 0, last], self.port))
    }

    fn client(&self, last: u8) -> UdpSocket {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.connect(self.dialled(last)).unwrap();
        client
    }

    fn report(&self) -> Report {
        self.reports.recv_timeout(DEADLINE).unwrap()
    }
}

fn origins() -> OriginWatch {
    OriginWatch::start(ResolverOptions::default()).unwrap()
}

fn destination() -> Destination {
    Destination {
        service: ServiceName::default(),
        revision: 0,
        family: Family::Ipv4,
        protocol: Protocol::Udp,
    }
}

fn served(responder: Responder) -> Arc<Served> {
    Arc::new(Served {
        service: ServiceName::default(),
        target: Target::Respond(responder),
        policy: Policy::default(),
    })
}

fn assert_echo(client: &UdpSocket, said: &[u8]) {
    client.send(said).unwrap();
    let mut heard = [0; 2048];
    let length = client.recv(&mut heard).unwrap();
    assert_eq!(&heard[..length], said);
}

#[test]
fn echo_answers_from_what_was_dialled_and_reports_a_session_each() {
    let running = Running::respond(Responder::Echo);
    for last in 1..=3 {
        let client = running.client(last);
        assert_echo(&client, b"");
        assert_echo(&client, b"hello");
        assert_echo(&client, b"again");
    }
    let outcome = running.runtime.block_on(running.workers.drain(DEADLINE));
    assert_eq!((outcome.finished, outcome.cut), (3, 0));
    let mut dialled: Vec<_> = (0..3)
        .map(|_| {
            let report = running.report();
            assert_eq!((report.bytes_from_client, report.bytes_to_client), (10, 10));
            assert_eq!((report.protocol, report.end), (Protocol::Udp, End::Idle));
            report.dialled
        })
        .collect();
    dialled.sort_unstable();
    assert_eq!(dialled, [1, 2, 3].map(|last| running.dialled(last)));
}

#[test]
fn a_session_outlives_its_listener() {
    let running = Running::respond(Responder::Echo);
    let client = running.client(1);
    assert_echo(&client, b"before");
    running.runtime.block_on(running.workers.remove(&running.destination));
    assert_echo(&client, b"after");
    let other = running.client(2);
    other.send(b"too late").unwrap();
    assert_eq!(other.recv(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn sessions_that_are_open_when_the_workers_go_are_cut() {
    let running = Running::respond(Responder::Echo);
    assert_echo(&running.client(1), b"hello");
    running.workers.abort();
    assert_eq!(running.report().end, End::Cut);
}

#[test]
fn a_changed_target_is_for_new_sessions() {
    let running = Running::respond(Responder::Echo);
    let old = running.client(1);
    assert_echo(&old, b"echo");
    let replaced = running.workers.replace(&running.destination, served(Responder::Discard));
    running.runtime.block_on(replaced).unwrap();
    // Commands are obeyed in order, so this one's answer shows that the other was.
    let other = Destination { protocol: Protocol::Tcp, ..destination() };
    running.runtime.block_on(running.workers.remove(&other));
    let new = running.client(2);
    new.send(b"nothing").unwrap();
    assert_echo(&old, b"echo still");
    running.runtime.block_on(running.workers.drain(DEADLINE));
    let mut answered: Vec<_> = (0..2).map(|_| running.report().bytes_to_client).collect();
    answered.sort_unstable();
    assert_eq!(answered, [0, 14]);
}

#[test]
fn greeting_datagrams_is_refused() {
    let workers = Workers::start(NonZeroUsize::MIN, origins(), |_| |_: Event<'_>| {}).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
    let refused = runtime
        .block_on(workers.listen(&destination(), vec![listener], served(Responder::Hello)))
        .unwrap_err();
    assert_eq!(refused.to_string(), "answer datagrams of default udp ipv4: only echo and discard can");
}

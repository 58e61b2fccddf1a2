//! UDP sessions as far as they go without privileges: a listener on every address of the host stands in for steering,
//! and loopback's addresses for a prefix.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code panics, and says so")]

mod coming;
mod namespace;

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::num::{NonZeroU32, NonZeroUsize};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coming::{Coming, Said};
use nix::sys::socket::sockopt::IpMtu;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, getsockopt, recvmsg, sendmsg,
};
use socket2::{Domain, Socket, Type};
use spectrum_proxy::header::{Header, SimpleHeader};
use spectrum_proxy::model::{
    DatagramHeader, DatagramProbe, Destination, Family, HealthCheck, HealthProbe, Limits, Origins, Policy,
    Protocol, Question, ResolverOptions, Responder, ServiceName, Target, UdpPolicy,
};
use spectrum_proxy::{
    Datagrams, DialFailure, End, Event, Expiry, Handover, OriginWatch, Report, Served, Workers,
};

#[path = "renewed/mod.rs"]
mod renewed;

use renewed::renew;

const DEADLINE: Duration = Duration::from_secs(20);

struct Running {
    workers: Workers,
    port: u16,
    destination: Destination,
    reports: Receiver<Report>,
    runtime: tokio::runtime::Runtime,
    /// As another process keeps it, which outlives the workers.
    listener: Option<UdpSocket>,
}

impl Running {
    fn respond(responder: Responder) -> Self {
        Self::serve(Target::Respond(responder), Policy::default())
    }

    /// Relays to `origins`, in turn.
    fn relay(origins: &[&UdpSocket]) -> Self {
        Self::serve(target(origins), Policy::default())
    }

    fn serve(target: Target, policy: Policy) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        // Otherwise what outlives it could not be bound beside it. A steered listener is never at an address that is dialled.
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from(([0, 0, 0, 0], 0)).into()).unwrap();
        let listener = UdpSocket::from(socket);
        let port = listener.local_addr().unwrap().port();
        let kept = listener.try_clone().unwrap();
        let (workers, reports) = Self::workers();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let destination = destination();
        runtime.block_on(workers.listen(&destination, vec![listener], served(target, policy))).unwrap();
        Self { workers, port, destination, reports, runtime, listener: Some(kept) }
    }

    fn workers() -> (Workers, Receiver<Report>) {
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
        (workers, reports)
    }

    /// Goes on with other workers, as another process does: how many sessions went over. The former ones, and what they report.
    fn renew(&mut self, target: Target, policy: Policy) -> (usize, Workers, Receiver<Report>) {
        let (next, reports) = Self::workers();
        let listener = self.listener.as_ref().unwrap().try_clone().unwrap();
        let served = served(target, policy);
        let renewed = renew(&self.workers, &next, &self.destination, vec![listener], served);
        let count = self.runtime.block_on(renewed);
        (count, std::mem::replace(&mut self.workers, next), std::mem::replace(&mut self.reports, reports))
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

fn served(target: Target, policy: Policy) -> Arc<Served> {
    Arc::new(Served { service: ServiceName::default(), target, policy })
}

fn responding(responder: Responder) -> Arc<Served> {
    served(Target::Respond(responder), Policy::default())
}

fn target(origins: &[&UdpSocket]) -> Target {
    let origins = origins.iter().map(|origin| origin.local_addr().unwrap().to_string().parse().unwrap());
    Target::Origins(Origins::from(origins.collect::<Vec<_>>()))
}

fn origin() -> UdpSocket {
    let origin = UdpSocket::bind("127.0.0.1:0").unwrap();
    origin.set_read_timeout(Some(DEADLINE)).unwrap();
    origin
}

/// A socket that nobody has any more.
fn gone() -> UdpSocket {
    let (gone, other) = (origin(), origin());
    let address = gone.local_addr().unwrap();
    drop(gone);
    // Connected to nothing that sends, so that it takes nothing.
    drop(other);
    let keeper = UdpSocket::bind(address).unwrap();
    keeper.connect("127.0.0.1:9").unwrap();
    keeper
}

/// The next datagram, and who sent it.
fn hear(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut heard = vec![0; 65_536];
    let (length, from) = socket.recv_from(&mut heard).unwrap();
    heard.truncate(length);
    (heard, from)
}

/// `client` says something, and `origin` answers: the session's address at the origin.
fn assert_relayed(client: &UdpSocket, origin: &UdpSocket, said: &[u8]) -> SocketAddr {
    client.send(said).unwrap();
    let (heard, from) = hear(origin);
    assert_eq!(heard, said);
    let answer = [b"re: ", said].concat();
    origin.send_to(&answer, from).unwrap();
    assert_eq!(hear(client).0, answer);
    from
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
    let mut running = Running::respond(Responder::Echo);
    running.listener = None;
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
fn sessions_go_on_in_another_process_with_the_ports_that_they_have() {
    let (first, second) = (origin(), origin());
    let mut running = Running::relay(&[&first, &second]);
    let clients = [running.client(1), running.client(2)];
    let before =
        [assert_relayed(&clients[0], &first, b"hello"), assert_relayed(&clients[1], &second, b"hello")];
    for life in 1..=3 {
        // What is said while nobody reads it waits, on either side.
        let (count, former, reports) = running.renew(target(&[&first, &second]), Policy::default());
        assert_eq!(count, 2, "life {life}");
        first.send_to(b"unasked", before[0]).unwrap();
        assert_eq!(hear(&clients[0]).0, b"unasked");
        let after = [assert_relayed(&clients[0], &first, b"1"), assert_relayed(&clients[1], &second, b"1")];
        assert_eq!(after, before, "life {life}");
        let outcome = running.runtime.block_on(former.drain(DEADLINE));
        assert_eq!((outcome.finished, outcome.cut), (0, 0), "nothing is left there");
        drop(former);
        reports.recv_timeout(DEADLINE).unwrap_err();
    }
    running.workers.abort();
    let mut reports = [running.report(), running.report()];
    reports.sort_by_key(|report| report.dialled);
    let [one, other] = &reports;
    assert_eq!((one.origin, other.origin), (first.local_addr().ok(), second.local_addr().ok()));
    assert_eq!((one.bytes_from_client, one.bytes_to_client), (8, 9 + 3 * (7 + 5)));
    let datagrams = |from_client, to_client| Some(Datagrams { from_client, to_client });
    assert_eq!((one.datagrams, other.datagrams), (datagrams(4, 7), datagrams(4, 4)));
    running.reports.try_recv().unwrap_err();
}

#[test]
fn what_waits_while_sessions_go_over_is_answered_once_and_limits_count_on() {
    let limits = Limits { connections: NonZeroU32::new(20), ..Limits::default() };
    let policy = || Policy { limits, ..Policy::default() };
    let origin = origin();
    let mut running = Running::serve(target(&[&origin]), policy());
    let clients: Vec<UdpSocket> = (0..20).map(|_| running.client(1)).collect();
    let before: Vec<_> = clients.iter().map(|client| assert_relayed(client, &origin, b"before")).collect();
    let next = {
        let said: Vec<_> = clients.iter().map(|client| client.try_clone().unwrap()).collect();
        std::thread::spawn(move || {
            for client in said {
                assert_eq!(client.send(b"waits").unwrap(), 5);
            }
        })
    };
    let (count, former, _reports) = running.renew(target(&[&origin]), policy());
    next.join().unwrap();
    assert_eq!(count, 20);
    let mut came: Vec<_> = (0..20).map(|_| hear(&origin)).collect();
    came.sort_unstable_by_key(|(_, from)| *from);
    let mut expected: Vec<_> = before.iter().map(|from| (b"waits".to_vec(), *from)).collect();
    expected.sort_unstable_by_key(|(_, from)| *from);
    assert_eq!(came, expected, "each once, from where it came before");
    // One more makes another end.
    assert_relayed(&running.client(2), &origin, b"one more");
    assert_eq!(running.report().end, End::Evicted);
    drop(former);
}

#[test]
fn who_is_answered_by_us_keeps_its_account_in_another_process() {
    let mut running = Running::respond(Responder::Echo);
    let client = running.client(1);
    assert_echo(&client, b"before");
    let (count, _former, _reports) = running.renew(Target::Respond(Responder::Echo), Policy::default());
    assert_eq!(count, 1);
    assert_echo(&client, b"after");
    running.workers.abort();
    assert_eq!(running.report().bytes_to_client, 11);
}

#[test]
fn datagrams_wait_only_while_the_sessions_of_their_own_listener_go_over() {
    let mut running = Running::respond(Responder::Echo);
    let client = running.client(1);
    assert_echo(&client, b"before");
    let (next, _reports) = Running::workers();
    let copy = running.listener.take().unwrap();
    let Running { workers, destination, runtime, .. } = &running;
    next.hold();
    runtime.block_on(next.listen(destination, vec![copy], responding(Responder::Echo))).unwrap();
    runtime.block_on(workers.leave());
    assert_echo(&client, b"by the former");
    let moved = runtime.block_on(async {
        let (mut given, mut count) = (workers.give(), 0);
        while let Some((moving, sockets)) = given.recv().await {
            count += next.adopt(moving, sockets).await;
        }
        count
    });
    assert_eq!(moved, 1);
    assert_echo(&client, b"by the next, which nobody has told that all are there");
    assert_eq!(runtime.block_on(workers.drain(DEADLINE)).finished, 0);
}

#[test]
fn a_session_that_comes_without_its_sockets_ends_and_no_other_does() {
    let origin = origin();
    let mut running = Running::relay(&[&origin]);
    let client = running.client(1);
    assert_relayed(&client, &origin, b"before");
    let (next, reports) = Running::workers();
    let copy = running.listener.take().unwrap();
    let Running { workers, destination, runtime, .. } = &running;
    next.hold();
    let served = served(target(&[&origin]), Policy::default());
    runtime.block_on(next.listen(destination, vec![copy], served)).unwrap();
    let adopted = runtime.block_on(async {
        workers.leave().await;
        let (mut given, mut count) = (workers.give(), 0);
        while let Some((moving, sockets)) = given.recv().await {
            drop(sockets);
            count += next.adopt(moving, Vec::new()).await;
        }
        count
    });
    assert_eq!(adopted, 0);
    assert_eq!(reports.recv_timeout(DEADLINE).unwrap().end, End::Evicted);
    // It begins anew.
    assert_relayed(&client, &origin, b"after");
    next.abort();
    assert_eq!(reports.recv_timeout(DEADLINE).unwrap().bytes_from_client, 5);
}

#[test]
fn what_nobody_has_answered_goes_to_the_next_origin_from_another_process_too() {
    let (silent, there) = (origin(), origin());
    let mut running = Running::relay(&[&silent, &there]);
    let client = running.client(1);
    client.send(b"first").unwrap();
    assert_eq!(hear(&silent).0, b"first");
    let (count, _former, _reports) = running.renew(target(&[&silent, &there]), Policy::default());
    assert_eq!(count, 1);
    drop(silent);
    client.send(b"second").unwrap();
    let heard = [hear(&there), hear(&there)];
    assert_eq!(heard.each_ref().map(|(said, _)| said.as_slice()), [&b"first"[..], b"second"]);
    assert_relayed(&client, &there, b"third");
}

#[test]
fn a_session_that_has_parted_from_its_listener_goes_over_with_both_sockets() {
    let origin = origin();
    let mut running = Running::relay(&[&origin]);
    let clients = [running.client(1), running.client(2)];
    let before = clients.each_ref().map(|client| assert_relayed(client, &origin, b"before"));
    running.runtime.block_on(running.workers.part([&running.destination]));
    assert_relayed(&clients[0], &origin, b"by a socket of its own");
    let (count, former, _reports) = running.renew(target(&[&origin]), Policy::default());
    assert_eq!(count, 2);
    drop(former);
    running.runtime.block_on(running.workers.remove(&running.destination));
    for _ in 0..3 {
        let after = clients.each_ref().map(|client| assert_relayed(client, &origin, b"after"));
        assert_eq!(after, before);
    }
}

/// True if there is a socket that only `client` is heard by.
fn is_heard_alone(client: &UdpSocket) -> bool {
    let shown = |address: SocketAddr| {
        let SocketAddr::V4(address) = address else { panic!("{address}") };
        format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
    };
    let (dialled, client) = (shown(client.peer_addr().unwrap()), shown(client.local_addr().unwrap()));
    let sockets = std::fs::read_to_string("/proc/self/net/udp").unwrap();
    sockets.contains(&format!(" {dialled} {client} "))
}

#[test]
fn who_begins_while_a_listener_is_parted_from_has_a_socket_too() {
    let origin = origin();
    let running = Running::relay(&[&origin]);
    let clients = [1, 2, 3].map(|number| running.client(number));
    let before = assert_relayed(&clients[0], &origin, b"before");
    assert!(!is_heard_alone(&clients[0]));
    running.runtime.block_on(running.workers.part([&running.destination]));
    let after = assert_relayed(&clients[1], &origin, b"after");
    assert!(is_heard_alone(&clients[0]) && is_heard_alone(&clients[1]));
    assert!(!is_heard_alone(&clients[2]), "it has said nothing");
    assert_eq!(assert_relayed(&clients[0], &origin, b"again"), before);
    assert_eq!(assert_relayed(&clients[1], &origin, b"again"), after);
}

#[test]
fn an_origin_is_told_whom_it_serves_as_before_from_another_process() {
    for kind in [DatagramHeader::V2, DatagramHeader::V2First, DatagramHeader::V2Alone, DatagramHeader::Spp] {
        let there = origin();
        let Target::Origins(mut origins) = target(&[&there]) else { panic!("no origins") };
        origins.datagram_header = Some(kind);
        let mut running = Running::serve(Target::Origins(origins.clone()), Policy::default());
        let client = running.client(1);
        client.send(b"one").unwrap();
        if kind == DatagramHeader::V2Alone {
            hear(&there);
        }
        let (first, session) = hear(&there);
        let header = first.strip_suffix(b"one").unwrap();
        let (count, _former, _reports) = running.renew(Target::Origins(origins), Policy::default());
        assert_eq!(count, 1, "{kind}");
        client.send(b"two").unwrap();
        let is_repeated = matches!(kind, DatagramHeader::V2 | DatagramHeader::Spp);
        let expected = [if is_repeated { header } else { b"" }, b"two"].concat();
        assert_eq!(hear(&there), (expected, session), "{kind}");
        let before = if kind == DatagramHeader::Spp { header } else { b"" };
        there.send_to(&[before, b"answer"].concat(), session).unwrap();
        assert_eq!(hear(&client).0, b"answer", "{kind}");
    }
}

#[test]
fn a_changed_target_is_for_new_sessions() {
    let running = Running::respond(Responder::Echo);
    let old = running.client(1);
    assert_echo(&old, b"echo");
    let replaced = running.workers.replace(&running.destination, responding(Responder::Discard));
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
        .block_on(workers.listen(&destination(), vec![listener], responding(Responder::Hello)))
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "answer datagrams of default udp ipv4: only origins, echo and discard can"
    );
}

#[test]
fn datagrams_are_not_handed_on_to_another_service_whose_sessions_are_others() {
    let running = Running::respond(Responder::Echo);
    let client = running.client(1);
    assert_echo(&client, b"before");
    let to = Destination { service: "other".parse().unwrap(), ..destination() };
    let handover = Handover { from: destination(), to, served: responding(Responder::Echo) };
    let refused = running.runtime.block_on(running.workers.prepare(vec![handover])).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "hand the datagrams of default udp ipv4 on to service other: sessions are of their service, which gets listeners of its own"
    );
    assert_echo(&client, b"after");
}

#[test]
fn each_session_has_a_port_of_its_own_at_its_origin_and_keeps_it_over_a_reload() {
    let (first, second) = (origin(), origin());
    let running = Running::relay(&[&first, &second]);
    let clients = [running.client(1), running.client(2)];
    let before =
        [assert_relayed(&clients[0], &first, b"hello"), assert_relayed(&clients[1], &second, b"hello")];
    assert_ne!(before[0], before[1]);
    let third = origin();
    let replaced =
        running.workers.replace(&running.destination, served(target(&[&third]), Policy::default()));
    running.runtime.block_on(replaced).unwrap();
    let newcomer = running.client(3);
    assert_relayed(&newcomer, &third, b"new");
    let after =
        [assert_relayed(&clients[0], &first, b"and again"), assert_relayed(&clients[1], &second, b"")];
    assert_eq!(before, after);
    running.workers.abort();
    let mut reports: Vec<_> = (0..3).map(|_| running.report()).collect();
    reports.sort_by_key(|report| report.dialled);
    assert_eq!(reports[0].origin, Some(first.local_addr().unwrap()));
    assert_eq!((reports[0].bytes_from_client, reports[0].bytes_to_client), (14, 22));
    assert_eq!(reports[2].origin, Some(third.local_addr().unwrap()));
}

#[test]
fn an_origin_that_is_not_there_is_passed_over_and_nothing_of_the_client_s_is_lost() {
    let (gone, there) = (gone(), origin());
    let running = Running::relay(&[&gone, &there]);
    for last in 1..=4 {
        let client = running.client(last);
        assert_relayed(&client, &there, b"first");
        assert_relayed(&client, &there, b"second");
    }
}

#[test]
fn a_session_without_any_origin_is_over() {
    let gone = gone();
    let running = Running::relay(&[&gone]);
    running.client(1).send(b"anybody?").unwrap();
    let report = running.report();
    assert_eq!(report.end, End::Undialled(DialFailure::Refused));
    assert_eq!((report.bytes_from_client, report.origin), (8, Some(gone.local_addr().unwrap())));
}

#[test]
fn a_client_whose_origin_is_not_there_is_told_so_from_what_it_dialled() {
    if let Err(error) = Socket::new(Domain::IPV4, Type::RAW, Some(socket2::Protocol::ICMPV4)) {
        println!("SKIP: no raw socket: {error}");
        return;
    }
    let gone = gone();
    let running = Running::relay(&[&gone]);
    let client = running.client(1);
    for _ in 0..3 {
        client.send(b"anybody?").unwrap();
        // Only what comes from the dialled address and port is about a connected socket.
        match client.recv(&mut [0; 16]) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            other => panic!("{other:?}"),
        }
        running.report();
    }
}

/// Relays to `there`, which is told whom it serves.
fn with_header(there: &UdpSocket, header: DatagramHeader) -> Running {
    let Target::Origins(mut origins) = target(&[there]) else { panic!("no origins") };
    origins.datagram_header = Some(header);
    Running::serve(Target::Origins(origins), Policy::default())
}

#[test]
fn origins_are_told_whom_they_serve_where_they_expect_it() {
    for kind in [DatagramHeader::V2, DatagramHeader::V2First, DatagramHeader::V2Alone] {
        let there = origin();
        let running = with_header(&there, kind);
        let client = running.client(1);
        let proxied = Header::Proxied { client: client.local_addr().unwrap(), dialled: running.dialled(1) };
        let header = proxied.datagram_bytes();
        let behind = |said: &[u8]| [&header, said].concat();
        client.send(b"one").unwrap();
        if kind == DatagramHeader::V2Alone {
            assert_eq!(hear(&there).0, header);
            assert_eq!(hear(&there).0, b"one");
        } else {
            assert_eq!(hear(&there).0, behind(b"one"), "{kind}");
        }
        for said in [&b"two"[..], b""] {
            client.send(said).unwrap();
            let (heard, session) = hear(&there);
            assert_eq!(
                heard,
                if kind == DatagramHeader::V2 { behind(said) } else { said.to_vec() },
                "{kind}"
            );
            there.send_to(b"answer", session).unwrap();
            assert_eq!(hear(&client).0, b"answer", "{kind}: answers are what they are");
        }
    }
}

#[test]
fn a_train_has_its_header_where_it_belongs() {
    let payload: Vec<u8> = (0..4000_u32).map(|at| (at % 251) as u8).collect();
    for kind in [DatagramHeader::V2, DatagramHeader::V2First, DatagramHeader::Spp] {
        let there = origin();
        let running = with_header(&there, kind);
        let client = running.client(1);
        let whole = [IoSlice::new(&payload)];
        let segments = [ControlMessage::UdpGsoSegments(&1200)];
        sendmsg::<()>(client.as_raw_fd(), &whole, &segments, MsgFlags::empty(), None).unwrap();
        for (number, part) in payload.chunks(1200).enumerate() {
            let heard = hear(&there).0;
            let length = match kind {
                DatagramHeader::Spp => SimpleHeader::LENGTH,
                DatagramHeader::V2First if number > 0 => 0,
                _ => 28,
            };
            assert!(heard[length..] == *part, "{kind}, {number}");
        }
    }
}

#[test]
fn answers_without_the_simple_header_of_their_session_go_no_further() {
    let there = origin();
    let running = with_header(&there, DatagramHeader::Spp);
    let (client, other) = (running.client(1), running.client(2));
    let mut sessions = Vec::new();
    for (socket, last) in [(&client, 1), (&other, 2)] {
        socket.send(b"game").unwrap();
        let (heard, session) = hear(&there);
        let (header, rest) = SimpleHeader::parse(&heard).unwrap();
        assert_eq!(rest, b"game");
        assert_eq!((header.client, header.dialled), (socket.local_addr().unwrap(), running.dialled(last)));
        sessions.push((header.bytes(), session));
    }
    let (own, others) = (&sessions[0], &sessions[1]);
    for answer in [b"bare".to_vec(), [&others.0[..], b"of another"].concat(), [&own.0[..], b"good"].concat()]
    {
        there.send_to(&answer, own.1).unwrap();
    }
    assert_eq!(hear(&client).0, b"good");
    running.workers.abort();
    let reports = [running.report(), running.report()];
    let of_client = reports.iter().find(|report| report.client == client.local_addr().unwrap()).unwrap();
    assert_eq!(of_client.bytes_to_client, 4);
}

#[test]
fn a_client_learns_how_much_gets_through_beside_a_header_and_loses_nothing() {
    namespace::alone(1500, || {
        let there = origin();
        let running = with_header(&there, DatagramHeader::V2);
        let client = running.client(1);
        let mtu = || getsockopt(&client, IpMtu).unwrap();
        client.send(&[7; 1444]).unwrap();
        assert_eq!(hear(&there).0.len(), 1472);
        assert_eq!(mtu(), 1500);
        client.send(&[7; 1445]).unwrap();
        assert_eq!(hear(&there).0.len(), 1473, "in fragments");
        let deadline = Instant::now() + DEADLINE;
        while mtu() != 1472 {
            assert!(Instant::now() < deadline, "still {}", mtu());
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

/// An origin that answers checks, and everything else with "served".
fn serving() -> SocketAddr {
    let origin = origin();
    let address = origin.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut heard = [0; 64];
        while let Ok((length, from)) = origin.recv_from(&mut heard) {
            let answer: &[u8] = if &heard[..length] == b"ping" { b"pong" } else { b"served" };
            origin.send_to(answer, from).unwrap();
        }
    });
    address
}

#[test]
fn origins_that_do_not_answer_their_checks_get_no_sessions() {
    let (mute, serving) = (origin(), serving());
    let list = [mute.local_addr().unwrap(), serving].map(|address| address.to_string().parse().unwrap());
    let mut origins = Origins::from(list.to_vec());
    let question = Question::Bytes { send: "ping".parse().unwrap(), expect: "pong".parse().unwrap() };
    origins.health = Some(HealthCheck {
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(500),
        rise: 1,
        fall: 1,
        probe: HealthProbe::Datagram(Box::new(DatagramProbe { question, header: None })),
        ..HealthCheck::default()
    });
    let running = Running::serve(Target::Origins(origins), Policy::default());
    let is_served = |last: u8| {
        let client = running.client(last);
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        client.send(b"hello").unwrap();
        client.recv(&mut [0; 16]).is_ok_and(|length| length == 6)
    };
    let deadline = Instant::now() + DEADLINE;
    while !(1..=6).all(is_served) {
        assert!(Instant::now() < deadline, "the mute one still gets sessions");
    }
}

#[test]
fn trains_arrive_as_the_datagrams_that_they_are_made_of() {
    let there = origin();
    let running = Running::relay(&[&there]);
    let client = running.client(1);
    let payload: Vec<u8> = (0..25_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let whole = [IoSlice::new(&payload)];
    let sent = sendmsg::<()>(
        client.as_raw_fd(),
        &whole,
        &[ControlMessage::UdpGsoSegments(&1200)],
        MsgFlags::empty(),
        None,
    );
    assert_eq!(sent.unwrap(), payload.len());
    let mut session = None;
    for part in payload.chunks(1200) {
        let (heard, from) = hear(&there);
        assert!(heard == part && *session.get_or_insert(from) == from);
    }
    there.connect(session.unwrap()).unwrap();
    let answer = [ControlMessage::UdpGsoSegments(&1000)];
    sendmsg::<()>(there.as_raw_fd(), &whole, &answer, MsgFlags::empty(), None).unwrap();
    for part in payload.chunks(1000) {
        assert!(hear(&client).0 == part);
    }
    running.workers.abort();
    let report = running.report();
    assert_eq!((report.bytes_from_client, report.bytes_to_client), (25_000, 25_000));
    assert_eq!(report.datagrams, Some(Datagrams { from_client: 21, to_client: 25 }));
}

#[test]
fn datagrams_of_every_size_pass() {
    let there = origin();
    let running = Running::relay(&[&there]);
    let client = running.client(1);
    for length in [0, 1, 1472, 1473, 9000, 65_000] {
        assert_relayed(&client, &there, &vec![7; length]);
    }
}

#[test]
fn marks_of_congestion_and_of_class_pass_both_ways() {
    let there = origin();
    let running = Running::relay(&[&there]);
    let client = running.client(1);
    let sockets = [&client, &there].map(socket2::SockRef::from);
    for (socket, class) in sockets.iter().zip([0xb9, 0x2a]) {
        socket.set_recv_tos_v4(true).unwrap();
        socket.set_tos_v4(class).unwrap();
    }
    let class = |socket: &UdpSocket| {
        let mut buffer = [0; 64];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let mut notes = nix::cmsg_space!(u8, u8);
        let flags = MsgFlags::empty();
        let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut notes), flags).unwrap();
        let from = message.address.map(SocketAddrV4::from);
        let class = message.cmsgs().unwrap().find_map(|note| match note {
            ControlMessageOwned::Ipv4Tos(class) => Some(class),
            _ => None,
        });
        (class, from)
    };
    client.send(b"hello").unwrap();
    let (heard, from) = class(&there);
    assert_eq!(heard, Some(0xb9));
    there.send_to(b"hello", from.unwrap()).unwrap();
    assert_eq!(class(&client).0, Some(0x2a));
}

#[test]
fn who_was_answered_stays_when_a_service_has_all_its_sessions() {
    let there = origin();
    let limits = Limits { connections: NonZeroU32::new(3), ..Limits::default() };
    let running = Running::serve(target(&[&there]), Policy { limits, ..Policy::default() });
    let honest = [running.client(1), running.client(2)];
    for client in &honest {
        assert_relayed(client, &there, b"play");
    }
    for _ in 0..10 {
        running.client(3).send(b"flood").unwrap();
        hear(&there);
    }
    for _ in 0..9 {
        let report = running.report();
        assert_eq!((report.end, report.dialled), (End::Evicted, running.dialled(3)));
    }
    for client in &honest {
        assert_relayed(client, &there, b"still here");
    }
}

#[test]
fn a_source_has_as_many_sessions_as_it_may() {
    let there = origin();
    let limits = Limits { connections_per_source: NonZeroU32::new(2), ..Limits::default() };
    let running = Running::serve(target(&[&there]), Policy { limits, ..Policy::default() });
    let clients: Vec<_> = (1..=3).map(|last| running.client(last)).collect();
    assert_relayed(&clients[0], &there, b"one");
    assert_relayed(&clients[1], &there, b"two");
    clients[2].send(b"three").unwrap();
    assert_eq!(running.report().end, End::Denied(spectrum_proxy::Limit::Source));
}

#[test]
fn a_session_ends_when_it_has_had_its_time_however_busy_it_is() {
    let there = origin();
    let udp = UdpPolicy { lifetime: Some(Duration::from_millis(300)), ..UdpPolicy::default() };
    let running = Running::serve(target(&[&there]), Policy { udp, ..Policy::default() });
    let client = running.client(1);
    let begun = Instant::now();
    let report = loop {
        assert!(begun.elapsed() < DEADLINE);
        assert_relayed(&client, &there, b"busy");
        if let Ok(report) = running.reports.recv_timeout(Duration::from_millis(20)) {
            break report;
        }
    };
    assert_eq!(report.end, End::Expired(Expiry::Lifetime));
    assert!(report.duration >= Duration::from_millis(300));
}

#[test]
fn sessions_with_origins_go_on_without_their_listener() {
    let there = origin();
    let running = Running::relay(&[&there]);
    let client = running.client(1);
    let before = assert_relayed(&client, &there, b"before");
    running.runtime.block_on(running.workers.remove(&running.destination));
    assert_eq!(assert_relayed(&client, &there, b"after"), before);
}

#[test]
fn a_session_is_over_after_as_many_answers_as_it_may_have() {
    let there = origin();
    let udp = UdpPolicy { responses: NonZeroU32::new(2), ..UdpPolicy::default() };
    let running = Running::serve(target(&[&there]), Policy { udp, ..Policy::default() });
    let client = running.client(1);
    let first = assert_relayed(&client, &there, b"one");
    assert_eq!(assert_relayed(&client, &there, b"two"), first);
    let report = running.report();
    assert_eq!((report.end, report.bytes_from_client, report.bytes_to_client), (End::Closed, 6, 14));
    assert_relayed(&client, &there, b"three");
}

#[test]
fn a_silent_session_lasts_as_long_as_its_service_says() {
    let there = origin();
    let udp = UdpPolicy { idle: Duration::from_millis(200), ..UdpPolicy::default() };
    let running = Running::serve(target(&[&there]), Policy { udp, ..Policy::default() });
    assert_relayed(&running.client(1), &there, b"hello");
    let report = running.report();
    assert_eq!(report.end, End::Idle);
    assert!(report.duration >= Duration::from_millis(200), "{:?}", report.duration);
}

#[test]
fn a_service_has_as_many_sessions_as_it_may() {
    let there = origin();
    let udp = UdpPolicy { sessions: NonZeroU32::new(3), ..UdpPolicy::default() };
    let running = Running::serve(target(&[&there]), Policy { udp, ..Policy::default() });
    let honest = running.client(1);
    assert_relayed(&honest, &there, b"play");
    for _ in 0..10 {
        running.client(2).send(b"flood").unwrap();
        hear(&there);
    }
    for _ in 0..8 {
        assert_eq!(running.report().dialled, running.dialled(2));
    }
    assert_relayed(&honest, &there, b"still here");
}

/// Whatever happens meanwhile, a client hears what was said to it alone, in its order, from what it dialled.
#[test]
fn evictions_reloads_and_refusals_mix_nobody_s_datagrams() {
    namespace::alone_if_possible(evict_reload_and_refuse);
}

fn evict_reload_and_refuse() {
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    println!("seed {seed}");
    let mut state = seed | 1;
    let mut draw = |below: u64| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let udp = UdpPolicy { sessions: NonZeroU32::new(9), ..UdpPolicy::default() };
    let policy = Policy { udp, ..Policy::default() };
    let mut origins = [Coming::new(), Coming::new(), Coming::new()];
    let target = |origins: &[Coming]| {
        let typed = origins.iter().map(|origin| origin.address.to_string().parse().unwrap());
        Target::Origins(Origins::from(typed.collect::<Vec<_>>()))
    };
    let running = Running::serve(target(&origins), policy.clone());
    let clients: Vec<UdpSocket> = (0..8).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for client in &clients {
        client.set_nonblocking(true).unwrap();
    }
    let mut heard: HashMap<(u8, u8), u32> = HashMap::new();
    let (mut answers, mut strays) = (0, Vec::new());
    for number in 0..6000 {
        match draw(200) {
            0 => {
                let replaced =
                    running.workers.replace(&running.destination, served(target(&origins), policy.clone()));
                running.runtime.block_on(replaced).unwrap();
                origins.rotate_left(1);
            }
            1 => origins[usize::try_from(draw(3)).unwrap()].go_or_come(),
            _ => {
                let (client, dialled) = (u8::try_from(draw(8)).unwrap(), u8::try_from(1 + draw(3)).unwrap());
                let said = Said { client, dialled, number };
                let _ = clients[usize::from(client)].send_to(&said.bytes(), running.dialled(dialled));
            }
        }
        if draw(4) == 0 {
            std::thread::yield_now();
            origins.iter_mut().for_each(Coming::answer);
        }
        for (index, client) in clients.iter().enumerate() {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = client.recv_from(&mut buffer) {
                let said = Said::read(&buffer[..length]);
                if (usize::from(said.client), running.dialled(said.dialled)) != (index, from) {
                    strays.push((said, index, from));
                    continue;
                }
                let last = heard.insert((said.client, said.dialled), said.number);
                assert!(last.is_none_or(|last| last < said.number), "{said:?} after {last:?}");
                answers += 1;
            }
        }
    }
    assert!(answers > 100, "{answers} answers");
    let dialled = |last| running.dialled(last);
    for (said, index, from) in strays {
        origins.iter_mut().for_each(Coming::answer);
        let is_hearer = |session: &(u8, u8)| (usize::from(session.0), dialled(session.1)) == (index, from);
        let had_its_port = origins.iter().any(|origin| origin.ports.was_also(said.number, is_hearer));
        assert!(had_its_port, "another's: {said:?} came to {index} from {from}");
    }
}

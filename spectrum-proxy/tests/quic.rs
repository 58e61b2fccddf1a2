//! QUIC's clients whose address changes, as far as they go without privileges: what two workers make of connection ids. Loopback's
//! addresses stand for clients and for a prefix; nothing is encrypted, and nothing steered.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::net::{SocketAddr, UdpSocket};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use spectrum_proxy::header::{Header, SimpleHeader};
use spectrum_proxy::model::{
    DatagramHeader, Destination, DialSource, Family, Limits, Origins, Policy, Protocol, Quic,
    ResolverOptions, ServiceName, Target, UdpPolicy,
};
use spectrum_proxy::{End, Event, OriginWatch, Report, Served, Traffic, TrafficCount, Workers};

#[path = "renewed/mod.rs"]
mod renewed;

use renewed::renew;

const DEADLINE: Duration = Duration::from_secs(20);

/// The time to wait for what must not come.
const SILENCE: Duration = Duration::from_millis(200);

/// A service with two workers.
struct Running {
    workers: Workers,
    port: u16,
    reports: Receiver<Report>,
    traffic: Arc<Mutex<Vec<Traffic>>>,
    runtime: tokio::runtime::Runtime,
    /// As another process keeps them, which outlives the workers.
    listeners: Vec<UdpSocket>,
    destination: Destination,
    served: Arc<Served>,
}

impl Running {
    fn relay(origins: &[&UdpSocket]) -> Self {
        Self::serve(target(origins), Policy { udp: quic(), ..Policy::default() })
    }

    fn serve(origins: Origins, policy: Policy) -> Self {
        let (workers, reports, traffic) = Self::workers();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let first = listener(0);
        let port = first.local_addr().unwrap().port();
        let service = ServiceName::default();
        let destination = Destination {
            service: service.clone(),
            revision: 0,
            family: Family::Ipv4,
            protocol: Protocol::Udp,
        };
        let served = Arc::new(Served { service, target: Target::Origins(origins), policy });
        let listeners = vec![first, listener(port)];
        let running = Self { workers, port, reports, traffic, runtime, listeners, destination, served };
        let listening =
            running.workers.listen(&running.destination, running.copies(), running.served.clone());
        running.runtime.block_on(listening).unwrap();
        running
    }

    fn copies(&self) -> Vec<UdpSocket> {
        self.listeners.iter().map(|listener| listener.try_clone().unwrap()).collect()
    }

    /// Goes on with other workers, as another process does: the former ones.
    fn renew(&mut self) -> Workers {
        let (next, reports, traffic) = Self::workers();
        let copies = self.copies();
        let renewed = renew(&self.workers, &next, &self.destination, copies, self.served.clone());
        assert_eq!(self.runtime.block_on(renewed), 1);
        (self.reports, self.traffic) = (reports, traffic);
        std::mem::replace(&mut self.workers, next)
    }

    fn workers() -> (Workers, Receiver<Report>, Arc<Mutex<Vec<Traffic>>>) {
        let (sender, reports) = mpsc::channel();
        let (sender, traffic) = (Arc::new(Mutex::new(sender)), Arc::<Mutex<Vec<Traffic>>>::default());
        let watch = OriginWatch::start(ResolverOptions::default()).unwrap();
        let workers = Workers::start(NonZeroUsize::new(2).unwrap(), watch, |_| {
            let (sender, traffic) = (Arc::clone(&sender), Arc::clone(&traffic));
            move |event: Event<'_>| match event {
                Event::Ended(report) => drop(sender.lock().unwrap().send(report.clone())),
                Event::Serving { traffic: one, .. } => {
                    traffic.lock().unwrap().push(one.get_or_init(Traffic::default).clone());
                }
                _ => {}
            }
        })
        .unwrap();
        (workers, reports, traffic)
    }

    fn dialled(&self, last: u8) -> SocketAddr {
        SocketAddr::from(([127, 77, 0, last], self.port))
    }

    /// A client at this address of loopback's, with a port of its own.
    fn client(&self, address: [u8; 4]) -> UdpSocket {
        let client = UdpSocket::bind(SocketAddr::from((address, 0))).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.connect(self.dialled(1)).unwrap();
        client
    }

    fn followed(&self) -> u64 {
        self.traffic.lock().unwrap().iter().map(|one| one.get(TrafficCount::Followed)).sum()
    }

    fn lost(&self) -> u64 {
        self.traffic.lock().unwrap().iter().map(|one| one.get(TrafficCount::DatagramsLost)).sum()
    }

    /// All reports, now that everything ends.
    fn reports(self) -> Vec<Report> {
        let Self { workers, reports, traffic, .. } = self;
        drop((workers, traffic));
        reports.into_iter().collect()
    }
}

fn quic() -> UdpPolicy {
    UdpPolicy { quic: Quic::Followed, ..UdpPolicy::default() }
}

/// One of two sockets that the kernel chooses from by the client's address and port.
fn listener(port: u16) -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into()).unwrap();
    socket.into()
}

fn target(origins: &[&UdpSocket]) -> Origins {
    let origins = origins.iter().map(|origin| origin.local_addr().unwrap().to_string().parse().unwrap());
    Origins::from(origins.collect::<Vec<_>>())
}

fn origin() -> UdpSocket {
    let origin = UdpSocket::bind("127.0.0.1:0").unwrap();
    origin.set_read_timeout(Some(DEADLINE)).unwrap();
    origin
}

fn hear(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut heard = vec![0; 65_536];
    let (length, from) = socket.recv_from(&mut heard).unwrap();
    heard.truncate(length);
    (heard, from)
}

fn is_silent(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let silent = socket.recv(&mut [0; 2048]).is_err();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    silent
}

/// A datagram with a long header.
fn long(destination: &[u8], source: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0xc0, 0, 0, 0, 1];
    for id in [destination, source] {
        datagram.push(u8::try_from(id.len()).unwrap());
        datagram.extend_from_slice(id);
    }
    datagram.extend_from_slice(b"a part of a handshake");
    datagram
}

/// One with a short header.
fn short(id: &[u8], said: &[u8]) -> Vec<u8> {
    [&[0x41], id, said].concat()
}

/// The first exchange of a connection, in which `origin` chooses `id`: where the origin hears the client from.
fn handshake(client: &UdpSocket, origin: &UdpSocket, id: &[u8]) -> SocketAddr {
    let hello = long(b"made up!", b"client");
    client.send(&hello).unwrap();
    let (heard, from) = hear(origin);
    assert_eq!(heard, hello);
    origin.send_to(&long(b"client", id), from).unwrap();
    assert_eq!(hear(client).0, long(b"client", id));
    from
}

/// One more exchange: where the origin hears the client from.
fn exchange(client: &UdpSocket, origin: &UdpSocket, id: &[u8]) -> SocketAddr {
    let said = short(id, b"says the client");
    client.send(&said).unwrap();
    let (heard, from) = hear(origin);
    assert_eq!(heard, said);
    origin.send_to(b"\x41client: answer", from).unwrap();
    assert_eq!(hear(client).0, b"\x41client: answer");
    from
}

#[test]
fn a_client_keeps_its_session_whichever_worker_hears_of_its_new_port() {
    const MOVES: u64 = 24;
    let (origin, other) = (origin(), origin());
    let running = Running::relay(&[&origin, &other]);
    let mut client = running.client([127, 0, 0, 1]);
    // Whichever has the first turn with this worker.
    client.send(&long(b"made up!", b"client")).unwrap();
    origin.set_read_timeout(Some(SILENCE)).unwrap();
    let mut heard = [0; 2048];
    let (origin, from) = match origin.recv_from(&mut heard) {
        Ok((_, from)) => (origin, from),
        Err(_) => (other.try_clone().unwrap(), hear(&other).1),
    };
    origin.set_read_timeout(Some(DEADLINE)).unwrap();
    origin.send_to(&long(b"client", b"chosen id"), from).unwrap();
    hear(&client);
    let mut former = Vec::new();
    for _ in 0..MOVES {
        former.push(std::mem::replace(&mut client, running.client([127, 0, 0, 1])));
        for _ in 0..3 {
            assert_eq!(exchange(&client, &origin, b"chosen id"), from);
        }
    }
    assert!(
        former.iter().all(|client| client.set_nonblocking(true).is_ok() && client.recv(&mut heard).is_err())
    );
    assert_eq!((running.followed(), running.lost()), (MOVES, 0));
    let reports = running.reports();
    let [report] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!(report.client, client.local_addr().unwrap());
    let datagrams = report.datagrams.unwrap();
    assert_eq!((datagrams.from_client, datagrams.to_client), (1 + MOVES * 3, 1 + MOVES * 3));
}

#[test]
fn a_client_is_followed_after_its_session_went_over_to_another_process() {
    let origin = origin();
    let mut running = Running::relay(&[&origin]);
    let from = handshake(&running.client([127, 0, 0, 1]), &origin, b"chosen id");
    let mut former = Vec::new();
    for life in 1..=3 {
        former.push(running.renew());
        // Either worker hears of some of these.
        for _ in 0..8 {
            let client = running.client([127, 0, 0, 1]);
            assert_eq!(exchange(&client, &origin, b"chosen id"), from, "life {life}");
        }
        assert_eq!((running.followed(), running.lost()), (8, 0), "life {life}");
    }
    drop(former);
    let reports = running.reports();
    let [report] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!(report.datagrams.unwrap().from_client, 1 + 3 * 8);
}

#[test]
fn an_address_is_believed_no_more_by_another_process() {
    let origin = origin();
    let mut running = Running::relay(&[&origin]);
    let from = handshake(&running.client([127, 0, 0, 1]), &origin, b"chosen id");
    let elsewhere = running.client([127, 0, 0, 2]);
    let said = short(b"chosen id", b"from elsewhere");
    elsewhere.send(&said).unwrap();
    assert_eq!(hear(&origin), (said.clone(), from));
    let _former = running.renew();
    origin.send_to(&vec![7; said.len() * 3 + 1], from).unwrap();
    assert!(is_silent(&elsewhere), "more than three times what came from there");
    origin.send_to(&vec![7; said.len() * 3], from).unwrap();
    assert_eq!(hear(&elsewhere).0.len(), said.len() * 3);
}

#[test]
fn an_id_that_nobody_chose_begins_a_session() {
    let origin = origin();
    let running = Running::relay(&[&origin]);
    let from = handshake(&running.client([127, 0, 0, 1]), &origin, b"chosen id");
    assert_ne!(exchange(&running.client([127, 0, 0, 1]), &origin, b"another i"), from);
    // What the client made up is no origin's, even if that repeats it as one does that speaks another version.
    let client = running.client([127, 0, 0, 1]);
    client.send(&long(b"mine alone", b"client")).unwrap();
    let (_, from) = hear(&origin);
    let mut versions = long(b"client", b"mine alone");
    versions[1..5].fill(0);
    origin.send_to(&versions, from).unwrap();
    hear(&client);
    assert_ne!(exchange(&running.client([127, 0, 0, 1]), &origin, b"mine alone"), from);
    assert_eq!(running.followed(), 0);
}

#[test]
fn an_id_means_nothing_where_another_address_was_dialled_or_nobody_wants_it() {
    let origin = origin();
    let running = Running::relay(&[&origin]);
    let from = handshake(&running.client([127, 0, 0, 1]), &origin, b"chosen id");
    let elsewhere = running.client([127, 0, 0, 1]);
    elsewhere.connect(running.dialled(2)).unwrap();
    assert_ne!(exchange(&elsewhere, &origin, b"chosen id"), from);
    for (source, quic) in [(DialSource::Host, Quic::Ignored), (DialSource::Client, Quic::Followed)] {
        let origins = Origins { source, ..target(&[&origin]) };
        let udp = UdpPolicy { quic, ..UdpPolicy::default() };
        let ignoring = Running::serve(origins, Policy { udp, ..Policy::default() });
        // Only who may take any address can speak for its clients.
        if source == DialSource::Client && !nix::unistd::geteuid().is_root() {
            continue;
        }
        let from = handshake(&ignoring.client([127, 0, 0, 1]), &origin, b"chosen id");
        assert_ne!(exchange(&ignoring.client([127, 0, 0, 1]), &origin, b"chosen id"), from);
        assert_eq!(ignoring.followed(), 0);
    }
}

#[test]
fn an_id_that_two_sessions_have_leads_to_neither() {
    let origin = origin();
    let running = Running::relay(&[&origin]);
    let clients = [(); 2].map(|()| running.client([127, 0, 0, 1]));
    let froms = clients.each_ref().map(|client| handshake(client, &origin, b"same"));
    let other = exchange(&running.client([127, 0, 0, 1]), &origin, b"same");
    assert!(!froms.contains(&other));
    // Those go on as they were.
    assert_eq!(clients.each_ref().map(|client| exchange(client, &origin, b"same")), froms);
}

#[test]
fn to_another_address_goes_little_until_the_client_has_kept_to_it() {
    let origin = origin();
    let running = Running::relay(&[&origin]);
    let home = running.client([127, 0, 0, 1]);
    let from = handshake(&home, &origin, b"chosen id");
    let elsewhere = running.client([127, 0, 0, 2]);
    let said = short(b"chosen id", &[7; 90]);
    elsewhere.send(&said).unwrap();
    assert_eq!(hear(&origin), (said.clone(), from));
    let answer = vec![9; 300];
    for _ in 0..3 {
        origin.send_to(&answer, from).unwrap();
    }
    assert_eq!(hear(&elsewhere).0, answer);
    assert!(is_silent(&elsewhere) && is_silent(&home), "a stranger would get more than was sent in its name");
    assert_eq!(running.lost(), 2);
    // Home is where it was believed to be all the time.
    assert_eq!(exchange(&home, &origin, b"chosen id"), from);
    origin.send_to(&answer, from).unwrap();
    assert_eq!(hear(&home).0, answer);
    let begun = Instant::now();
    let believed = loop {
        elsewhere.send(&said).unwrap();
        hear(&origin);
        for _ in 0..3 {
            origin.send_to(&answer, from).unwrap();
        }
        hear(&elsewhere);
        let believed = !is_silent(&elsewhere) && !is_silent(&elsewhere);
        if believed || begun.elapsed() > DEADLINE {
            break believed;
        }
    };
    assert!(believed);
}

#[test]
fn limits_count_a_client_where_it_is() {
    let origin = origin();
    let limits = Limits { connections_per_source: NonZeroU32::new(1), source_ipv4: 32, ..Limits::default() };
    let running = Running::serve(target(&[&origin]), Policy { udp: quic(), limits, ..Policy::default() });
    let from = handshake(&running.client([127, 0, 0, 1]), &origin, b"chosen id");
    let resident = running.client([127, 0, 0, 2]);
    handshake(&resident, &origin, b"other id");
    // There is one already: it is not let in, neither as a session that goes on nor as a new one.
    let moved = running.client([127, 0, 0, 2]);
    moved.send(&short(b"chosen id", b"let me in")).unwrap();
    assert!(is_silent(&origin));
    assert_eq!(exchange(&running.client([127, 0, 0, 3]), &origin, b"chosen id"), from);
    // Where it was, somebody else may be now.
    handshake(&running.client([127, 0, 0, 1]), &origin, b"third id");
    let ends: Vec<End> = running.reports().into_iter().map(|report| report.end).collect();
    assert_eq!(ends.iter().filter(|end| **end == End::Cut).count(), 3, "{ends:?}");
}

#[test]
fn the_origin_is_told_where_the_client_is_now() {
    let origin = origin();
    for kind in [DatagramHeader::V2, DatagramHeader::Spp] {
        let origins = Origins { datagram_header: Some(kind), ..target(&[&origin]) };
        let running = Running::serve(origins, Policy { udp: quic(), ..Policy::default() });
        let mut said = long(b"made up!", b"client");
        let mut froms = Vec::new();
        for turn in 0..8_u8 {
            let client = running.client([127, 0, 0, 1]);
            client.send(&said).unwrap();
            let (heard, from) = hear(&origin);
            let (named, own) = match kind {
                DatagramHeader::Spp => {
                    let (header, rest) = SimpleHeader::parse(&heard).unwrap();
                    assert_eq!(rest, said);
                    (header.client, header.bytes().to_vec())
                }
                _ => match Header::parse_datagram(&heard) {
                    Some((Header::Proxied { client, .. }, length)) => {
                        assert_eq!(heard[length..], said);
                        (client, Vec::new())
                    }
                    other => panic!("{other:?}"),
                },
            };
            assert_eq!(named, client.local_addr().unwrap(), "{turn}");
            let answer = long(b"client", b"chosen id");
            origin.send_to(&[&own[..], &answer].concat(), from).unwrap();
            assert_eq!(hear(&client).0, answer);
            froms.push(from);
            said = short(b"chosen id", b"what else");
        }
        assert!(froms.iter().all(|from| *from == froms[0]), "{froms:?}");
    }
}

#[test]
fn a_session_is_followed_after_it_had_to_part_from_its_listener() {
    let origin = origin();
    let running = Running::relay(&[&origin]);
    let destination = Destination {
        service: ServiceName::default(),
        revision: 0,
        family: Family::Ipv4,
        protocol: Protocol::Udp,
    };
    let from = handshake(&running.client([127, 0, 0, 1]), &origin, b"chosen id");
    running.runtime.block_on(running.workers.part([&destination]));
    for _ in 0..6 {
        let client = running.client([127, 0, 0, 1]);
        for _ in 0..2 {
            assert_eq!(exchange(&client, &origin, b"chosen id"), from);
        }
    }
    assert_eq!(running.lost(), 0);
}

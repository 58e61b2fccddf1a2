//! Datagrams of trusted proxies, each of which says whose it is, as far as that goes without privileges. Which bytes are a header is
//! tested beside the codec, and what holds for datagrams of anybody in `udp.rs`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code panics, and says so")]

mod namespace;

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::num::{NonZeroU32, NonZeroUsize};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use namespace::Ports;
use nix::sys::socket::sockopt::IpMtu;
use nix::sys::socket::{ControlMessage, MsgFlags, getsockopt, sendmsg};
use socket2::{Domain, Socket, Type};
use spectrum_proxy::header::{Header, SimpleHeader};
use spectrum_proxy::model::{
    DatagramHeader, Destination, Family, Limits, Origins, Policy, Protocol, ProxyVersion, Quic,
    ResolverOptions, Responder, ServiceName, Target, TrustedProxies, UdpPolicy,
};
use spectrum_proxy::{Datagrams, End, Event, HeaderFault, Limit, OriginWatch, Report, Served, Workers};

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
    listener: UdpSocket,
    served: Arc<Served>,
}

/// Trusts 127.0.0.1.
fn trusting() -> Policy {
    let trusted_proxies = TrustedProxies { prefixes: vec!["127.0.0.1".parse().unwrap()] };
    Policy { trusted_proxies, ..Policy::default() }
}

impl Running {
    fn serve(target: Target, policy: Policy) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from(([0, 0, 0, 0], 0)).into()).unwrap();
        let listener = UdpSocket::from(socket);
        let port = listener.local_addr().unwrap().port();
        let kept = listener.try_clone().unwrap();
        let (workers, reports) = Self::workers();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let service = ServiceName::default();
        let destination = Destination {
            service: service.clone(),
            revision: 0,
            family: Family::Ipv4,
            protocol: Protocol::Udp,
        };
        let served = Arc::new(Served { service, target, policy });
        runtime.block_on(workers.listen(&destination, vec![listener], Arc::clone(&served))).unwrap();
        Self { workers, port, destination, reports, runtime, listener: kept, served }
    }

    /// Goes on with other workers, as another process does: how many sessions went over, and the former ones.
    fn renew(&mut self) -> (usize, Workers) {
        let (next, reports) = Self::workers();
        let copy = self.listener.try_clone().unwrap();
        let renewed = renew(&self.workers, &next, &self.destination, vec![copy], Arc::clone(&self.served));
        let count = self.runtime.block_on(renewed);
        self.reports = reports;
        (count, std::mem::replace(&mut self.workers, next))
    }

    fn workers() -> (Workers, Receiver<Report>) {
        let (sender, reports) = mpsc::channel();
        let sender = Arc::new(Mutex::new(sender));
        let origins = OriginWatch::start(ResolverOptions::default()).unwrap();
        let workers = Workers::start(NonZeroUsize::MIN, origins, |_| {
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

    fn relay(there: &UdpSocket) -> Self {
        Self::serve(target(there, None), trusting())
    }

    fn dialled(&self, last: u8) -> SocketAddr {
        SocketAddr::from(([127, 77, 0, last], self.port))
    }

    fn proxy(&self, last: u8) -> UdpSocket {
        self.sender("127.0.0.1:0", last)
    }

    fn sender(&self, address: &str, last: u8) -> UdpSocket {
        let sender = UdpSocket::bind(address).unwrap();
        sender.set_read_timeout(Some(DEADLINE)).unwrap();
        sender.connect(self.dialled(last)).unwrap();
        sender
    }

    /// Ends everything. So many reports, by client.
    fn reports(&self, count: usize) -> Vec<Report> {
        self.workers.abort();
        let mut reports: Vec<_> = (0..count).map(|_| self.reports.recv_timeout(DEADLINE).unwrap()).collect();
        reports.sort_by_key(|report| report.client);
        reports
    }
}

fn origin() -> UdpSocket {
    let origin = UdpSocket::bind("127.0.0.1:0").unwrap();
    origin.set_read_timeout(Some(DEADLINE)).unwrap();
    origin
}

fn target(origin: &UdpSocket, header: Option<DatagramHeader>) -> Target {
    let mut origins = Origins::from(vec![origin.local_addr().unwrap().to_string().parse().unwrap()]);
    origins.datagram_header = header;
    Target::Origins(origins)
}

fn hear(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut heard = vec![0; 65_536];
    let (length, from) = socket.recv_from(&mut heard).unwrap();
    heard.truncate(length);
    (heard, from)
}

/// A client whom a proxy speaks for, and what it dialled there.
fn named(last: u8) -> (SocketAddr, SocketAddr) {
    (SocketAddr::from(([192, 0, 2, last], 4000)), SocketAddr::from(([198, 51, 100, 7], 27_015)))
}

fn v2(last: u8) -> Vec<u8> {
    let (client, dialled) = named(last);
    Header::Proxied { client, dialled }.datagram_bytes()
}

fn spp(last: u8) -> Vec<u8> {
    let (client, dialled) = named(last);
    SimpleHeader { client, dialled }.bytes().to_vec()
}

/// The same with extensions.
fn v2_with(last: u8, extensions: &[u8]) -> Vec<u8> {
    let mut bytes = v2(last);
    bytes.extend(extensions);
    let length = u16::try_from(bytes.len() - 16).unwrap();
    bytes[14..16].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// The proxy says something `behind` a header and hears what the origin answers, behind `before`: the session's address there.
fn assert_relayed(
    proxy: &UdpSocket,
    there: &UdpSocket,
    behind: &[u8],
    before: &[u8],
    said: &[u8],
) -> SocketAddr {
    proxy.send(&[behind, said].concat()).unwrap();
    let (heard, session) = hear(there);
    assert_eq!(heard, said);
    there.send_to(&[b"re: ", said].concat(), session).unwrap();
    assert_eq!(hear(proxy).0, [before, b"re: ", said].concat());
    session
}

#[test]
fn one_socket_of_a_proxy_speaks_for_many_clients() {
    let there = origin();
    let running = Running::relay(&there);
    let (proxy, other) = (running.proxy(1), running.proxy(1));
    let mut sessions = Vec::new();
    for _ in 0..2 {
        for last in 1..=3 {
            sessions.push(assert_relayed(&proxy, &there, &v2(last), b"", b"hello"));
        }
    }
    assert_eq!(sessions[..3], sessions[3..], "each has its port");
    assert!(sessions[0] != sessions[1] && sessions[1] != sessions[2]);
    // What another socket says is answered there.
    assert_ne!(assert_relayed(&other, &there, &v2(1), b"", b""), sessions[0]);
    let reports = running.reports(4);
    let by = proxy.local_addr().unwrap();
    for (report, last) in reports.iter().filter(|report| report.via == Some(by)).zip(1..) {
        assert_eq!((report.client, report.dialled), named(last));
        // Headers are nobody's bytes.
        assert_eq!((report.bytes_from_client, report.bytes_to_client), (10, 18));
        assert_eq!(report.datagrams, Some(Datagrams { from_client: 2, to_client: 2 }));
        assert_eq!(report.end, End::Cut);
    }
    assert_eq!(reports.iter().filter(|report| report.via == Some(by)).count(), 3);
}

#[test]
fn answers_to_a_proxy_of_spp_have_the_header_again() {
    let there = origin();
    let running = Running::relay(&there);
    let proxy = running.proxy(1);
    for said in [&b"game"[..], b"", b"again"] {
        for last in 1..=2 {
            assert_relayed(&proxy, &there, &spp(last), &spp(last), said);
        }
    }
    // The same client by the other header is answered as that is.
    assert_relayed(&proxy, &there, &v2(1), b"", b"bare");
    let reports = running.reports(3);
    assert_eq!(reports[2].client, named(2).0);
    assert_eq!((reports[2].bytes_from_client, reports[2].bytes_to_client), (9, 21));
}

#[test]
fn whom_a_proxy_speaks_for_is_known_to_another_process() {
    let there = origin();
    let mut running = Running::relay(&there);
    let proxy = running.proxy(1);
    let exchange = |last: u8| {
        let by_spp = assert_relayed(&proxy, &there, &spp(last), &spp(last), b"hello");
        [by_spp, assert_relayed(&proxy, &there, &v2(last), b"", b"hello")]
    };
    let before = [1, 2, 3].map(exchange);
    // Of which there is only an account, which ends here.
    proxy.send(b"without a header").unwrap();
    let (count, _former) = running.renew();
    assert_eq!(count, 6);
    assert_eq!([1, 2, 3].map(exchange), before);
    let reports = running.reports(6);
    let by = proxy.local_addr().ok();
    for report in &reports {
        assert_eq!((report.via, report.bytes_from_client, report.bytes_to_client), (by, 10, 18));
    }
    assert_eq!(reports[5].client, named(3).0);
}

#[test]
fn echo_answers_a_proxy_as_it_was_asked() {
    let running = Running::serve(Target::Respond(Responder::Echo), trusting());
    let proxy = running.proxy(1);
    for header in [v2(1), spp(2)] {
        proxy.send(&[&header[..], b"hello"].concat()).unwrap();
        let before = if header.len() == SimpleHeader::LENGTH { &header[..] } else { b"" };
        assert_eq!(hear(&proxy).0, [before, b"hello"].concat());
    }
}

#[test]
fn an_origin_is_told_of_the_client_that_a_proxy_named() {
    let (client, dialled) = named(9);
    let by_v2 = Header::Proxied { client, dialled }.datagram_bytes();
    for (kind, expected) in [(DatagramHeader::V2, by_v2), (DatagramHeader::Spp, spp(9))] {
        for incoming in [v2(9), spp(9)] {
            let there = origin();
            let running = Running::serve(target(&there, Some(kind)), trusting());
            let proxy = running.proxy(1);
            proxy.send(&[&incoming[..], b"hello"].concat()).unwrap();
            let (heard, session) = hear(&there);
            assert_eq!(heard, [&expected[..], b"hello"].concat());
            let answered = if kind == DatagramHeader::Spp { &expected[..] } else { b"" };
            there.send_to(&[answered, b"answer"].concat(), session).unwrap();
            let before = if incoming.len() == SimpleHeader::LENGTH { &incoming[..] } else { b"" };
            assert_eq!(hear(&proxy).0, [before, b"answer"].concat(), "{kind}");
        }
    }
}

#[test]
fn what_a_proxy_says_besides_is_passed_on_with_the_datagram_that_it_said_it_of() {
    let there = origin();
    let running = Running::serve(target(&there, Some(DatagramHeader::V2)), trusting());
    let proxy = running.proxy(1);
    let headers: Vec<_> = [&b"\xe0\0\x01a"[..], b"\xe0\0\x01b", b"", b"\x05\0\x04name\xe0\0\x02cc"]
        .map(|said| v2_with(1, said))
        .into();
    // One train, of which every part has its own, and then one by one.
    for header in &headers {
        proxy.send(&[&header[..], b"hello"].concat()).unwrap();
    }
    let mut session = None;
    for header in &headers {
        let (heard, from) = hear(&there);
        assert_eq!(heard, [&header[..], b"hello"].concat());
        assert_eq!(*session.get_or_insert(from), from);
    }
    let alike: Vec<Vec<u8>> =
        (b'a'..=b'f').map(|letter| [&v2_with(1, &[0xe0, 0, 1, letter])[..], &[letter; 9]].concat()).collect();
    send_train(&proxy, &alike.concat(), alike[0].len());
    for expected in &alike {
        assert_eq!(hear(&there).0, *expected);
    }
    let own = v2_with(2, b"\x05\0\x04name");
    proxy.send(&own).unwrap();
    assert_eq!(hear(&there).0, own);
    assert_eq!(running.reports(2)[1].unique_id.as_deref(), Some("name"));
}

fn send_train(from: &UdpSocket, payload: &[u8], segment: usize) {
    let whole = [IoSlice::new(payload)];
    let notes = [ControlMessage::UdpGsoSegments(&u16::try_from(segment).unwrap())];
    sendmsg::<()>(from.as_raw_fd(), &whole, &notes, MsgFlags::empty(), None).unwrap();
}

#[test]
fn a_train_of_a_proxy_is_taken_apart_by_its_headers() {
    let there = origin();
    let running = Running::relay(&there);
    let proxy = running.proxy(1);
    // Each is as long as the others, by whatever header, but for the last; one is nobody's.
    let whose = [1, 1, 1, 2, 0, 2, 11, 11, 1, 12, 12, 12, 12, 3, 3];
    let mut train = Vec::new();
    for (number, of) in (0_u8..).zip(whose) {
        let from = train.len();
        match of {
            0 => {}
            1..10 => train.extend(v2(of)),
            _ => train.extend(spp(of)),
        }
        train.push(number);
        train.resize(from + 1000, number);
    }
    train.truncate(train.len() - 300);
    send_train(&proxy, &train, 1000);
    let mut sessions = HashMap::new();
    for (number, of) in (0_u8..).zip(whose).filter(|(_, of)| *of > 0) {
        let (heard, session) = hear(&there);
        let header = if of < 10 { 28 } else { SimpleHeader::LENGTH };
        let length = if usize::from(number) == whose.len() - 1 { 700 } else { 1000 };
        assert_eq!((heard[0], heard.len()), (number, length - header), "of {of}");
        assert!(heard.iter().all(|byte| *byte == number));
        assert_eq!(*sessions.entry(of).or_insert(session), session, "of {of}");
    }
    // An origin's train becomes one behind a header each.
    there.connect(sessions[&12]).unwrap();
    send_train(&there, &[7; 2500], 1000);
    for length in [1000, 1000, 500] {
        assert_eq!(hear(&proxy).0, [&spp(12)[..], &vec![7; length]].concat());
    }
    let reports = running.reports(6);
    let by = |last: u8| reports.iter().find(|report| report.client == named(last).0).unwrap();
    assert_eq!(by(1).datagrams, Some(Datagrams { from_client: 4, to_client: 0 }));
    assert_eq!((by(12).bytes_from_client, by(12).bytes_to_client), (4 * 962, 2500));
}

#[test]
fn a_proxy_that_does_not_say_for_whom_it_speaks_is_not_heard() {
    let there = origin();
    let running = Running::relay(&there);
    let (with, without, cut) = (running.proxy(1), running.proxy(1), running.proxy(2));
    for _ in 0..3 {
        without.send(b"what is this?").unwrap();
        cut.send(&v2(1)[..27]).unwrap();
        assert_relayed(&with, &there, &v2(1), b"", b"hello");
    }
    // Nor what comes behind one datagram with a header.
    with.send(b"without one").unwrap();
    assert_relayed(&with, &there, &v2(1), b"", b"again");
    let reports = running.reports(4);
    let of = |socket: &UdpSocket| {
        let address = socket.local_addr().unwrap();
        reports.iter().find(|report| report.client == address).unwrap()
    };
    for (socket, fault, count, length) in [
        (&without, HeaderFault::Malformed, 3, 13),
        (&cut, HeaderFault::Missing, 3, 27),
        (&with, HeaderFault::Malformed, 1, 11),
    ] {
        let report = of(socket);
        assert_eq!((report.end, report.via, report.origin), (End::Headless(fault), None, None));
        assert_eq!(report.datagrams, Some(Datagrams { from_client: count, to_client: 0 }));
        assert_eq!(report.bytes_from_client, count * length);
        assert_eq!(report.dialled, socket.peer_addr().unwrap());
    }
}

#[test]
fn a_proxy_that_speaks_for_itself_is_a_client_like_others() {
    let there = origin();
    let running = Running::relay(&there);
    let proxy = running.proxy(1);
    let own = Header::Local.datagram_bytes();
    assert_relayed(&proxy, &there, &own, b"", b"are you well?");
    let reports = running.reports(1);
    assert_eq!((reports[0].client, reports[0].via), (proxy.local_addr().unwrap(), None));
    assert_eq!(reports[0].dialled, running.dialled(1));
}

#[test]
fn whom_a_resolver_heard_by_tcp_is_named_by_datagram_as_well() {
    let there = origin();
    let running = Running::relay(&there);
    let (client, dialled) = named(5);
    let by_tcp = Header::Proxied { client, dialled }.bytes(ProxyVersion::V2);
    assert_relayed(&running.proxy(1), &there, &by_tcp, b"", b"question");
    assert_eq!(running.reports(1)[0].client, client);
}

#[test]
fn a_header_from_elsewhere_is_data() {
    let there = origin();
    let running = Running::relay(&there);
    let stranger = running.sender("127.0.0.2:0", 1);
    let said = [&v2(1)[..], b"trust me"].concat();
    stranger.send(&said).unwrap();
    assert_eq!(hear(&there).0, said);
    let report = &running.reports(1)[0];
    assert_eq!((report.client, report.via), (stranger.local_addr().unwrap(), None));
}

#[test]
fn limits_are_about_the_client_that_is_named() {
    let there = origin();
    let limits = Limits { connections_per_source: NonZeroU32::new(1), ..Limits::default() };
    let running = Running::serve(target(&there, None), Policy { limits, ..trusting() });
    let (proxy, other) = (running.proxy(1), running.proxy(1));
    for last in 1..=5 {
        assert_relayed(&proxy, &there, &v2(last), b"", b"one each");
    }
    other.send(&[&v2(3)[..], b"one more"].concat()).unwrap();
    let report = running.reports.recv_timeout(DEADLINE).unwrap();
    assert_eq!((report.end, report.client), (End::Denied(Limit::Source), named(3).0));
    // Who names nobody counts itself.
    for socket in [&proxy, &other] {
        socket.send(b"nobody").unwrap();
    }
    let report = running.reports.recv_timeout(DEADLINE).unwrap();
    assert_eq!((report.end, report.client), (End::Denied(Limit::Source), other.local_addr().unwrap()));
}

#[test]
fn sessions_behind_one_socket_of_a_proxy_go_on_without_their_listener() {
    let there = origin();
    let running = Running::relay(&there);
    let proxy = running.proxy(1);
    let headers = [(v2(1), vec![]), (v2(2), vec![]), (spp(3), spp(3))];
    let relay = |said: &[u8]| {
        let each = headers.each_ref();
        each.map(|(behind, before)| assert_relayed(&proxy, &there, behind, before, said))
    };
    let before = relay(b"before");
    running.runtime.block_on(running.workers.remove(&running.destination));
    assert_eq!(relay(b"after"), before);
    // New ones have nowhere to go, and what has no header has not either.
    proxy.send(&[&v2(4)[..], b"too late"].concat()).unwrap();
    proxy.send(b"nobody").unwrap();
    assert_eq!(relay(b"still"), before);
    let train: Vec<u8> = [1, 2, 1].iter().flat_map(|last| [&v2(*last)[..], &[*last; 100]].concat()).collect();
    send_train(&proxy, &train, 128);
    for (last, session) in [(1, before[0]), (2, before[1]), (1, before[0])] {
        assert_eq!(hear(&there), (vec![last; 100], session));
    }
    running.reports(3);
}

#[test]
fn nobody_waits_for_the_account_of_what_went_nowhere() {
    let running = Running::serve(target(&origin(), None), trusting());
    running.proxy(1).send(b"nobody").unwrap();
    // It takes its turn behind what came before.
    let begun = Instant::now();
    let outcome = running.runtime.block_on(running.workers.drain(DEADLINE));
    assert_eq!((outcome.finished, outcome.cut), (1, 0));
    assert!(begun.elapsed() < DEADLINE / 2);
    assert_eq!(running.reports.recv_timeout(DEADLINE).unwrap().end, End::Headless(HeaderFault::Malformed));
}

#[test]
fn a_proxy_hears_that_the_origin_of_whom_it_speaks_for_is_not_there() {
    if let Err(error) = Socket::new(Domain::IPV4, Type::RAW, Some(socket2::Protocol::ICMPV4)) {
        println!("SKIP: no raw socket: {error}");
        return;
    }
    // Connected to nothing that sends, so that it takes nothing.
    let gone = origin();
    gone.connect("127.0.0.1:9").unwrap();
    let running = Running::relay(&gone);
    for header in [v2(1), spp(2)] {
        let proxy = running.proxy(1);
        proxy.send(&[&header[..], b"anybody?"].concat()).unwrap();
        // Only what comes from where it sent to is about a connected socket.
        match proxy.recv(&mut [0; 16]) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_proxy_learns_how_much_gets_through_beside_both_headers() {
    namespace::alone(1500, || {
        let there = origin();
        let running = Running::serve(target(&there, Some(DatagramHeader::Spp)), trusting());
        let proxy = running.proxy(1);
        let mtu = || getsockopt(&proxy, IpMtu).unwrap();
        // Ten bytes more than ours come before each, and both are in one packet.
        for (length, told) in [(1434, 1500), (1435, 1490)] {
            proxy.send(&[v2(1), vec![7; length]].concat()).unwrap();
            assert_eq!(hear(&there).0.len(), length + SimpleHeader::LENGTH);
            let deadline = Instant::now() + DEADLINE;
            while mtu() != told {
                assert!(Instant::now() < deadline, "{length}: still {}", mtu());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
}

/// What is said in a datagram: by which proxy, for whom, to what, behind which header, and how many were before.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Said {
    by: u8,
    client: u8,
    dialled: u8,
    is_spp: bool,
}

impl Said {
    fn header(self) -> Vec<u8> {
        if self.is_spp { spp(self.client) } else { v2(self.client) }
    }

    /// With its header so long that it may be a part of a train.
    fn bytes(self, number: u32) -> Vec<u8> {
        let fields = [self.by, self.client, self.dialled, self.is_spp.into()];
        let mut bytes = [&self.header()[..], &fields, &number.to_be_bytes()].concat();
        bytes.resize(60, 0);
        bytes
    }

    fn read(bytes: &[u8]) -> (Self, u32) {
        let [by, client, dialled, is_spp, a, b, c, d, ..] = *bytes else { panic!("{bytes:?}") };
        (Self { by, client, dialled, is_spp: is_spp == 1 }, u32::from_be_bytes([a, b, c, d]))
    }
}

/// Whatever happens meanwhile, a proxy hears what was said to whom it speaks for behind the header that it used, in its order.
#[test]
fn evictions_and_trains_mix_nobody_s_datagrams() {
    namespace::alone_if_possible(evict_and_send_trains);
}

fn evict_and_send_trains() {
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    println!("seed {seed}");
    let mut state = seed | 1;
    let mut draw = |below: u64| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u8::try_from(state % below).unwrap()
    };
    let udp = UdpPolicy { sessions: NonZeroU32::new(9), ..UdpPolicy::default() };
    let there = origin();
    let running = Running::serve(target(&there, None), Policy { udp, ..trusting() });
    // Two of each speak to the same.
    let proxies: Vec<UdpSocket> = (0..4).map(|which| running.proxy(which % 2)).collect();
    for socket in proxies.iter().chain([&there]) {
        socket.set_nonblocking(true).unwrap();
    }
    let (mut asked, mut heard) = (HashMap::<Said, u32>::new(), HashMap::<Said, u32>::new());
    let (mut number, mut answers) = (0, 0);
    let (mut ports, mut strays) = (Ports::default(), Vec::new());
    for _ in 0..3000 {
        let by = draw(4);
        let mut train = Vec::new();
        for _ in 0..=draw(4) {
            number += 1;
            if draw(20) == 0 {
                train.extend([0xee; 60]);
            } else {
                let said = Said { by, client: 1 + draw(3), dialled: by % 2, is_spp: draw(2) == 0 };
                train.extend(said.bytes(number));
            }
        }
        // One that is lost tells of itself by the next.
        let whole = [IoSlice::new(&train)];
        let notes = [ControlMessage::UdpGsoSegments(&60)];
        let socket = proxies[usize::from(by)].as_raw_fd();
        let _ = sendmsg::<()>(socket, &whole, &notes, MsgFlags::empty(), None);
        if draw(4) == 0 {
            std::thread::yield_now();
            let mut buffer = [0; 64];
            while let Ok((length, from)) = there.recv_from(&mut buffer) {
                let (said, number) = Said::read(&buffer[..length]);
                let last = asked.insert(said, number);
                assert!(last.is_none_or(|last| last < number), "{said:?} {number} after {last:?}");
                ports.heard(number, said, from);
                let _ = there.send_to(&buffer[..length], from);
            }
        }
        for (index, socket) in proxies.iter().enumerate() {
            let mut buffer = [0; 128];
            while let Ok(length) = socket.recv(&mut buffer) {
                let answer = &buffer[..length];
                let is_spp = answer.starts_with(&[0x56, 0xec]);
                let content = if is_spp { &answer[SimpleHeader::LENGTH..] } else { answer };
                let (said, number) = Said::read(content);
                if (usize::from(said.by), said.is_spp) != (index, is_spp)
                    || is_spp && !answer.starts_with(&said.header())
                {
                    strays.push((number, index, answer.to_vec(), is_spp));
                    continue;
                }
                let last = heard.insert(said, number);
                assert!(last.is_none_or(|last| last < number), "{said:?} {number} after {last:?}");
                answers += 1;
            }
        }
    }
    assert!(answers > 100, "{answers} answers");
    drop(running);
    let mut buffer = [0; 64];
    while let Ok((length, from)) = there.recv_from(&mut buffer) {
        let (said, number) = Said::read(&buffer[..length]);
        ports.heard(number, said, from);
    }
    for (number, index, answer, is_spp) in strays {
        let is_hearer = |said: &Said| {
            (usize::from(said.by), said.is_spp) == (index, is_spp)
                && (!is_spp || answer.starts_with(&said.header()))
        };
        assert!(ports.was_also(number, is_hearer), "another's: {number} came to {index} in {answer:?}");
    }
}

/// A datagram of QUIC with a long header, from who wants to be called `source`.
fn long(source: &[u8]) -> Vec<u8> {
    let length = u8::try_from(source.len()).unwrap();
    [&[0xc0, 0, 0, 0, 1, 6][..], b"client", &[length], source, b"a part of a handshake"].concat()
}

#[test]
fn a_client_of_quic_that_moves_behind_its_proxy_goes_on_with_its_session() {
    let there = origin();
    let udp = UdpPolicy { quic: Quic::Followed, ..UdpPolicy::default() };
    let policy = Policy { udp, ..trusting() };
    let running = Running::serve(target(&there, Some(DatagramHeader::V2)), policy);
    let proxy = running.proxy(1);
    proxy.send(&[v2(1), long(b"client")].concat()).unwrap();
    let (heard, session) = hear(&there);
    assert_eq!(heard, [v2(1), long(b"client")].concat());
    there.send_to(&long(b"chosen id"), session).unwrap();
    assert_eq!(hear(&proxy).0, long(b"chosen id"));
    // Another client by the same proxy, and one that says the same id without it.
    let short = |last: u8| [&v2(last)[..], b"\x41chosen id says the client"].concat();
    for last in [2, 3, 2] {
        proxy.send(&short(last)).unwrap();
        assert_eq!(hear(&there), (short(last), session), "{last}");
        there.send_to(b"\x41client: answer", session).unwrap();
        assert_eq!(hear(&proxy).0, b"\x41client: answer");
    }
    let other = running.proxy(1);
    other.send(&short(2)).unwrap();
    assert_ne!(hear(&there).1, session, "by another socket it is another's");
    let reports = running.reports(2);
    assert!(reports.iter().all(|report| report.client == named(2).0));
}

#[test]
fn a_session_s_time_is_over_for_who_is_spoken_for_too() {
    let there = origin();
    let udp = UdpPolicy { responses: NonZeroU32::new(1), ..UdpPolicy::default() };
    let running = Running::serve(target(&there, None), Policy { udp, ..trusting() });
    let proxy = running.proxy(1);
    for last in [1, 1, 2] {
        assert_relayed(&proxy, &there, &v2(last), b"", b"question");
        let report = running.reports.recv_timeout(DEADLINE).unwrap();
        assert_eq!((report.end, report.client), (End::Closed, named(last).0));
    }
}

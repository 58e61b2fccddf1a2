//! The judgement of single packets, by a scan that is obviously right, by the compiled table, and by the loaded program in
//! the kernel. Opens no connection.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use socket2::{Domain, Socket, Type};
use spectrum_common::{Packet, Verdict};
use spectrum_steering::dispatcher::{Dispatcher, Steered};
use spectrum_steering::plan::Plan;
use spectrum_steering::plan::table::{Table, domain_of};
use spectrum_tests::case::Case;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::netns::Netns;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::random::Random;
use spectrum_tests::require::{self, Need};
use spectrum_tests::scan::{self, winner};
use spectrum_tests::share;
use spectrum_tests::state::BpfObjects;
use spectrum_tests::test_run::{Judgement, Lookup, judge};
use spectrum_user::model::{
    self, Binding, Destination, DestinationId, Policy, Prefix, Responder, Service, Target,
};

const TCP: u32 = 6;
const UDP: u32 = 17;

const PREFIXES: [(&str, u8); 8] = [
    ("192.0.2.0", 24),
    ("10.0.0.0", 8),
    ("10.2.0.0", 15),
    ("203.0.113.77", 32),
    ("198.51.100.128", 25),
    ("2001:db8::", 64),
    ("2001:db8:6::", 47),
    ("2001:db8:ff::1", 128),
];
const PORTS: [RangeInclusive<u16>; 4] = [1..=100, 443..=443, 8000..=9000, 65_535..=65_535];

/// True if the first `length` bits are those of `network`, bit by bit.
fn is_within(address: IpAddr, network: IpAddr, length: u8) -> bool {
    let bits = |address: IpAddr| -> Vec<bool> {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1)).collect()
    };
    address.is_ipv4() == network.is_ipv4()
        && bits(address).iter().zip(bits(network)).take(length.into()).all(|(ours, theirs)| *ours == theirs)
}

fn expected(lookup: &Lookup) -> Judgement {
    let is_bound = lookup.protocol == TCP
        && PORTS.iter().any(|ports| ports.contains(&lookup.dialled.port()))
        && PREFIXES
            .iter()
            .any(|(network, length)| is_within(lookup.dialled.ip(), network.parse().unwrap(), *length));
    if is_bound { Judgement::Assigned } else { Judgement::Passed }
}

/// An address in or around one of the prefixes: drawn from a prefix a little shorter.
fn near_address(random: &mut Random) -> IpAddr {
    let (network, length) = PREFIXES[usize::try_from(random.bits() % 8).unwrap()];
    let network: IpAddr = network.parse().unwrap();
    let shorter = length.saturating_sub(u8::try_from(random.bits() % 4).unwrap());
    let host = random.address(network, length);
    // Bits between the shorter and the full length come from a second draw.
    match (host, random.address(network, shorter)) {
        (_, other) if random.bits().is_multiple_of(2) => other,
        (host, _) => host,
    }
}

fn near_port(random: &mut Random) -> u16 {
    let edges = PORTS.each_ref().map(|ports| [*ports.start(), *ports.end()]).concat();
    let edge = edges[usize::try_from(random.bits() % 8).unwrap()];
    match random.bits() % 4 {
        0 => random.port(),
        1 => edge.saturating_add(1),
        2 => edge.saturating_sub(1).max(1),
        _ => edge,
    }
}

#[test]
fn kernel_agrees_with_a_slow_scan() {
    let test = "kernel_agrees_with_a_slow_scan";
    if !require::met(test, Path::SkLookup.needs()) || !require::met(test, &[Need::Bpftool, Need::TestRun]) {
        return;
    }
    let mut case = Case::new(Path::SkLookup, Family::V4);
    let prefixes = PREFIXES.map(|(network, length)| format!("--prefix {network}/{length}")).join(" ");
    let ports = PORTS.each_ref().map(|ports| format!("{}-{}", ports.start(), ports.end())).join(",");
    let instance = case.start(&format!("{prefixes} --ports {ports}"));
    let program = BpfObjects::of_process(instance.pid()).ids("prog").next().unwrap();
    let mut tally = [0; 2];
    let draws = share::of(400).max(40);
    for _ in 0..draws {
        let dialled = SocketAddr::new(near_address(&mut case.random), near_port(&mut case.random));
        let client = if dialled.is_ipv4() { "198.18.0.1:999" } else { "[2001:2::1]:999" }.parse().unwrap();
        let protocol = if case.random.bits().is_multiple_of(10) { UDP } else { TCP };
        let lookup = Lookup { protocol, client, dialled };
        let expected = expected(&lookup);
        tally[usize::from(expected == Judgement::Assigned)] += 1;
        assert_eq!(judge(&case.server, program, lookup), expected, "{lookup:?}");
    }
    assert!(tally.iter().all(|count| *count > draws / 8), "a one-sided draw: {tally:?}");
}

/// The number of configurations that are drawn, and of packets that each judges.
const CONFIGURATIONS: usize = 24;
const PACKETS: usize = 4_000;

/// The same services, as the program has them.
fn modelled(services: &[scan::Service]) -> Vec<Service> {
    let binding = |binding: &scan::Binding| Binding {
        protocol: protocol(binding.protocol),
        prefix: Prefix::containing(binding.network, binding.length).unwrap(),
        ports: format!("{}-{}", binding.ports.start(), binding.ports.end()).parse().unwrap(),
    };
    services
        .iter()
        .map(|service| Service {
            name: service.name.parse().unwrap(),
            bindings: service.bindings.iter().map(binding).collect(),
            target: Target::Respond(Responder::Echo),
            policy: Policy::default(),
        })
        .collect()
}

fn protocol(protocol: scan::Protocol) -> model::Protocol {
    match protocol {
        scan::Protocol::Tcp => model::Protocol::Tcp,
        scan::Protocol::Udp => model::Protocol::Udp,
    }
}

/// A listener alone: of a group that shares its port a test run cannot choose one.
fn listener(destination: &Destination) -> Socket {
    let (domain, loopback) = match destination.family {
        model::Family::Ipv4 => (Domain::IPV4, "127.0.0.1:0"),
        model::Family::Ipv6 => (Domain::IPV6, "[::1]:0"),
    };
    let kind = if destination.protocol == model::Protocol::Tcp { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(domain, kind, None).unwrap();
    if domain == Domain::IPV6 {
        socket.set_only_v6(true).unwrap();
    }
    socket.bind(&loopback.parse::<SocketAddr>().unwrap().into()).unwrap();
    if kind == Type::STREAM {
        socket.listen(1).unwrap();
    }
    socket
}

/// Services with bindings of any length, and with many crowded into few addresses.
fn drawn(random: &mut Random) -> Vec<scan::Service> {
    let networks: Vec<(IpAddr, u8, u8)> = [
        ("0.0.0.0", 0, 32),
        ("192.0.2.64", 28, 4),
        ("192.0.2.0", 23, 9),
        ("10.0.0.0", 8, 24),
        ("::", 0, 128),
        ("2001:db8::40", 124, 4),
        ("2001:db8::", 60, 68),
        ("2001:db8:0:1::", 64, 1),
    ]
    .map(|(network, length, host)| (network.parse().unwrap(), length, host))
    .to_vec();
    let (services, bindings) = (2 + 2 * random.below::<usize>(12), 1 + random.below::<usize>(24));
    scan::Service::draw(random, "s", services, bindings, &networks)
}

#[test]
fn scan_table_and_kernel_agree() {
    let test = "scan_table_and_kernel_agree";
    if !require::met(test, &[Need::Netns, Need::Bpf, Need::TestRun]) {
        return;
    }
    let mut random = Random::seeded();
    let netns = Netns::create().unwrap();
    netns.run(|| {
        let mut dispatcher = Dispatcher::load(false, 0).unwrap();
        let mut tally: HashMap<bool, usize> = HashMap::new();
        for _ in 0..share::of(CONFIGURATIONS) {
            let services = drawn(&mut random);
            judge_all(&mut dispatcher, &services, &mut random, &mut tally);
        }
        assert!(
            tally.values().all(|count| *count > share::of(CONFIGURATIONS) * share::of(PACKETS) / 20),
            "a one-sided draw: {tally:?}"
        );
    });
}

/// Publishes `services`, and has packets in and around their bindings judged.
fn judge_all(
    dispatcher: &mut Dispatcher,
    services: &[scan::Service],
    random: &mut Random,
    tally: &mut HashMap<bool, usize>,
) {
    let plan = Plan::of(&modelled(services)).unwrap();
    let table = Table::compile(&plan.bindings).unwrap();
    let mut cookies: HashMap<u64, DestinationId> = HashMap::new();
    let listeners: Vec<Socket> = plan
        .destinations
        .iter()
        .map(|(id, destination)| {
            let socket = listener(destination);
            dispatcher.register(*id, &socket).unwrap();
            cookies.insert(socket.cookie().unwrap(), *id);
            socket
        })
        .collect();
    dispatcher.publish(table.nodes()).unwrap();
    let bindings: Vec<&scan::Binding> = services.iter().flat_map(|service| &service.bindings).collect();
    for _ in 0..share::of(PACKETS) {
        let binding = bindings[random.below::<usize>(bindings.len() as u64)];
        let dialled = binding.target_near(random);
        let sent_by = scan::Protocol::ALL[random.below::<usize>(2)];
        let expected = winner(services, sent_by, dialled).map(|service| service.name.as_str());
        let about = || format!("{sent_by:?} {dialled} over {:#?}", scan::configuration(services));

        let name = |id: DestinationId| plan.destinations[&id].service.as_str();
        let planned = plan.winner(protocol(sent_by), dialled.ip(), dialled.port());
        assert_eq!(planned.map(|planned| name(planned.destination)), expected, "the plan: {}", about());

        let domain = domain_of(protocol(sent_by), model::Family::of(dialled.ip()));
        let packet = Packet { domain, address: dialled.ip().into(), port: dialled.port() };
        let steered = match table.steer(&packet, dialled.ip()) {
            Verdict::Assign(id) => Some(name(id)),
            Verdict::Pass => None,
            denied => panic!("{denied:?} of one without a policy: {}", about()),
        };
        assert_eq!(steered, expected, "the table: {}", about());

        let from = if dialled.is_ipv4() { "198.18.0.1:999" } else { "[2001:2::1]:999" }.parse().unwrap();
        let judged = match dispatcher.probe().test(protocol(sent_by), from, dialled).unwrap() {
            Steered::Assigned { cookie: Some(cookie) } => Some(name(cookies[&cookie])),
            Steered::Passed => None,
            other => panic!("{other:?} by the kernel: {}", about()),
        };
        assert_eq!(judged, expected, "the kernel: {}", about());
        *tally.entry(expected.is_some()).or_default() += 1;
    }
    // Without its listener a destination refuses, and passes nothing on.
    drop(listeners);
    for binding in bindings {
        let dialled = SocketAddr::new(binding.network, *binding.ports.start());
        let from = if dialled.is_ipv4() { "198.18.0.1:999" } else { "[2001:2::1]:999" }.parse().unwrap();
        // Not at once: what other tests of this process fork off has the sockets until it is another program.
        eventually(&format!("refusal of {binding}"), PATIENCE, || {
            let judged = dispatcher.probe().test(protocol(binding.protocol), from, dialled).unwrap();
            (judged == Steered::Dropped).then_some(())
        });
    }
}

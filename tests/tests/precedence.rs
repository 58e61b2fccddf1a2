//! Which binding decides on a packet: every rule as a case of its own, dialled over every path, both families and both
//! protocols. What a service does with what it gets is tested elsewhere.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};

use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure};
use spectrum_tests::datagram::{self, assert_echo, assert_silence, bound};
use spectrum_tests::dial::{assert_refused, dial, dial_all};
use spectrum_tests::instance::Instance;
use spectrum_tests::maps::{counts, forget_listener};
use spectrum_tests::on_every_path;
use spectrum_tests::origin::Origin;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::random::Random;
use spectrum_tests::record::records;
use spectrum_tests::require::{self, Need};
use spectrum_tests::scan::{Protocol, Service, configuration, masked, winner};
use spectrum_tests::share;

on_every_path!(
    longer_prefix_beats_narrower_port_range,
    narrower_port_range_wins_within_one_prefix,
    longer_prefix_hides_only_the_ports_it_binds,
    every_longer_prefix_hides_the_shorter_ones,
    order_in_the_file_does_not_matter,
    families_never_shadow_each_other,
    protocols_are_separate,
    what_no_binding_matches_reaches_other_listeners,
    random_configurations_steer_as_the_slow_scan_says,
);

/// A service of which there are two, one for connections and one for datagrams: its name and its bindings, written
/// `LAST/BITS PORTS` for the addresses that differ from the one ending in LAST in as many bits from the right.
type Pair<'a> = (&'a str, &'a [&'a str]);

/// An address (by what it ends in) with a port, and the service that should get it, if any should.
type Expected<'a> = (u8, u16, Option<&'a str>);

fn pairs(case: &Case, pairs: &[Pair]) -> Vec<Service> {
    let whole = case.family.pick(32, 128);
    let binding = |protocol: &str, text: &str| {
        let (prefix, ports) = text.split_once(' ').unwrap();
        let (last, bits) = prefix.split_once('/').unwrap();
        let length = whole - bits.parse::<u8>().unwrap();
        format!("{protocol} {}/{length} {ports}", masked(case.address(last.parse().unwrap()), length))
    };
    let service = |name: &str, respond, protocol, bindings: &[&str]| {
        let texts: Vec<String> = bindings.iter().map(|text| binding(protocol, text)).collect();
        Service::new(name, respond, &texts.iter().map(String::as_str).collect::<Vec<_>>())
    };
    pairs
        .iter()
        .flat_map(|(name, bindings)| {
            [
                service(name, "hello", "tcp", bindings),
                service(&format!("{name}-udp"), "echo", "udp", bindings),
            ]
        })
        .collect()
}

fn serve(case: &Case, services: &[Service]) -> Instance {
    configure(&case.server, &configuration(services));
    case.start(CONFIG)
}

/// Serves `services` and expects of each packet, sent over TCP and over UDP, that it comes where it should.
fn check(case: &Case, services: &[Pair], expected: &[Expected]) {
    let services = pairs(case, services);
    let instance = serve(case, &services);
    let mut targets = Vec::new();
    for (last, port, service) in expected {
        let target = SocketAddr::new(case.address(*last), *port);
        let name = |protocol| winner(&services, protocol, target).map(|service| service.name.as_str());
        assert_eq!(name(Protocol::Tcp), *service, "the scan does not expect that of {target}");
        targets.push(target);
    }
    assert_steered(case, instance, &services, &targets);
}

/// Sends to each of `targets` over TCP and UDP, and expects what the slow scan says of it.
fn assert_steered(case: &Case, instance: Instance, services: &[Service], targets: &[SocketAddr]) {
    for (target, heard) in dial_all(&case.server, targets) {
        match (winner(services, Protocol::Tcp, target), heard) {
            (Some(service), Ok(heard)) => assert_eq!(
                heard.text,
                format!(
                    "hello world\nservice={} protocol=tcp dialled={target} client={}\n",
                    service.name, heard.client
                )
            ),
            (None, Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            (expected, heard) => panic!("tcp {target}: {heard:?} instead of {expected:?}"),
        }
    }
    let mut asked: HashMap<(String, String), String> = HashMap::new();
    for target in targets {
        let client = datagram::client(&case.server, *target);
        match winner(services, Protocol::Udp, *target) {
            Some(service) => {
                assert_echo(&client, target.to_string().as_bytes());
                let client = client.local_addr().unwrap();
                asked.insert((client.to_string(), target.to_string()), service.name.clone());
            }
            None => datagram::assert_refused(&case.server, &[*target]),
        }
    }
    // Which service echoed, only the log tells.
    let finished = instance.stop();
    let mut told = 0;
    for record in records(&finished.stderr).iter().filter(|record| record["protocol"] == "udp") {
        let session = (record["client"].to_owned(), record["dialled"].to_owned());
        assert_eq!(record["service"], asked[&session], "{record:?}");
        told += 1;
    }
    assert_eq!(told, asked.len(), "{finished}");
}

fn longer_prefix_beats_narrower_port_range(case: &mut Case) {
    check(
        case,
        &[("host", &["7/0 1-65535"]), ("wide", &["0/8 80", "0/8 1000-2000"])],
        &[
            (7, 80, Some("host")),
            (7, 1500, Some("host")),
            (7, 1, Some("host")),
            (8, 80, Some("wide")),
            (8, 2000, Some("wide")),
            (6, 81, None),
        ],
    );
}

fn narrower_port_range_wins_within_one_prefix(case: &mut Case) {
    check(
        case,
        &[
            ("any", &["0/8 1-65535"]),
            ("some", &["0/8 8000-9000"]),
            ("few", &["0/8 8100-8199", "0/8 8201-8299"]),
            ("one", &["0/8 8150"]),
        ],
        &[
            (1, 8150, Some("one")),
            (1, 8149, Some("few")),
            (1, 8151, Some("few")),
            (1, 8100, Some("few")),
            (2, 8200, Some("some")),
            (2, 8300, Some("some")),
            (2, 9000, Some("some")),
            (3, 7999, Some("any")),
            (3, 9001, Some("any")),
            (3, 65_535, Some("any")),
        ],
    );
}

fn longer_prefix_hides_only_the_ports_it_binds(case: &mut Case) {
    check(
        case,
        &[("net", &["0/8 22", "0/8 80-90", "0/8 443"]), ("half", &["0/7 85-100"]), ("host", &["7/0 80"])],
        &[
            (7, 80, Some("host")),
            (7, 81, Some("net")),
            (7, 85, Some("half")),
            (7, 100, Some("half")),
            (7, 443, Some("net")),
            (7, 101, None),
            (8, 80, Some("net")),
            (8, 86, Some("half")),
            (200, 86, Some("net")),
            (200, 91, None),
        ],
    );
}

fn every_longer_prefix_hides_the_shorter_ones(case: &mut Case) {
    let prefixes: Vec<String> = (0..=8).map(|bits| format!("77/{bits} 1-65535")).collect();
    let names: Vec<String> = (0..=8).map(|bits| format!("less-{bits}")).collect();
    let bindings: Vec<[&str; 1]> = prefixes.iter().map(|text| [text.as_str()]).collect();
    let services: Vec<Pair> =
        names.iter().zip(&bindings).map(|(name, bindings)| (name.as_str(), &bindings[..])).collect();
    // 77 with its bit `bits - 1` flipped is in the prefix that leaves out `bits` bits, and in none that is longer.
    let expected: Vec<Expected> = (1..=8)
        .map(|bits| (flipped(77, bits - 1), 4000, Some(names[bits].as_str())))
        .chain([(77, 4000, Some("less-0"))])
        .collect();
    check(case, &services, &expected);
}

/// `number` with that bit the other way round.
fn flipped(number: u8, bit: usize) -> u8 {
    number ^ 1 << bit
}

fn order_in_the_file_does_not_matter(case: &mut Case) {
    let expected = [
        (7, 80, Some("host")),
        (7, 443, Some("port")),
        (7, 444, Some("wide")),
        (9, 80, Some("wide")),
        (9, 443, Some("port")),
    ];
    let services: [Pair; 3] = [("wide", &["0/8 1-65535"]), ("port", &["0/8 443"]), ("host", &["7/0 80"])];
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        check(case, &order.map(|at| services[at]), &expected);
    }
}

fn families_never_shadow_each_other(case: &mut Case) {
    let Some(other) = [Family::V4, Family::V6].into_iter().find(|family| *family != case.family) else {
        return;
    };
    let everything = other.pick("0.0.0.0/0", "::/0");
    let other_prefix = other.pick("198.51.100.0/24", "2001:db8:7::/64");
    let prefix = case.prefix();
    // What matches every address of the one family matches none of the other, and one port's binding there leaves the
    // same port here alone.
    // Not all ports of UDP: where rules of iptables decide, the answers to a client on one of them would be its own.
    let services = [
        Service::new("others", "hello", &[&format!("tcp {everything} 1-65535")]),
        Service::new("others-udp", "echo", &[&format!("udp {everything} 1-1000")]),
        Service::new("near", "hello", &[&format!("tcp {other_prefix} 443")]),
        Service::new("ours", "hello", &[&format!("tcp {prefix} 80")]),
        Service::new("ours-udp", "echo", &[&format!("udp {prefix} 80")]),
    ];
    configure(&case.server, &configuration(&services));
    let instance = case.start(&format!("{CONFIG} --force"));
    let of_other = |last: u16, port| {
        let text = other.pick(format!("198.51.100.{last}"), format!("2001:db8:7::{last:x}"));
        SocketAddr::new(text.parse().unwrap(), port)
    };
    let ours = |last, port| SocketAddr::new(case.address(last), port);
    let targets = [
        ours(1, 80),
        ours(2, 443),
        ours(2, 81),
        of_other(1, 80),
        of_other(1, 443),
        of_other(2, 81),
        SocketAddr::new(case.loopback(), 81),
    ];
    assert_steered(case, instance, &services, &targets);
}

fn protocols_are_separate(case: &mut Case) {
    let prefix = case.prefix();
    let host = SocketAddr::new(case.address(7), 80);
    let length = case.family.pick(32, 128);
    let services = [
        Service::new("connections", "hello", &[&format!("tcp {prefix} 1-1000")]),
        Service::new("datagrams", "echo", &[&format!("udp {prefix} 500-2000")]),
        Service::new("one", "echo", &[&format!("udp {}/{length} 80", host.ip())]),
    ];
    let instance = serve(case, &services);
    let mut targets = vec![host];
    targets.extend([1, 499, 500, 1000, 1001, 2000, 2001].map(|port| SocketAddr::new(case.address(7), port)));
    assert_steered(case, instance, &services, &targets);
}

fn what_no_binding_matches_reaches_other_listeners(case: &mut Case) {
    let services = pairs(case, &[("host", &["7/0 80"]), ("net", &["0/8 1-100"])]);
    let instance = serve(case, &services);
    let foreign = Origin::saying(&case.server, SocketAddr::new(case.address(7), 101), "foreign");
    let hidden = Origin::saying(&case.server, SocketAddr::new(case.address(7), 100), "hidden");
    let (free, taken) = (bound(&case.server, foreign.address()), bound(&case.server, hidden.address()));
    assert_eq!(dial(&case.server, foreign.address()).unwrap().text, "foreign");
    let client = datagram::client(&case.server, foreign.address());
    client.send(b"for whom?").unwrap();
    assert_eq!(datagram::hear(&free).unwrap(), b"for whom?");
    assert_steered(case, instance, &services, &[hidden.address()]);
    assert_silence(&taken);
    // The program is gone, and what it hid is not hidden any more.
    case.server.ip(&format!("{} add local {} dev lo", case.family.pick("route", "-6 route"), case.prefix()));
    assert_eq!(dial(&case.server, hidden.address()).unwrap().text, "hidden");
}

/// Services, and addresses near what they bind.
fn drawn(random: &mut Random, networks: &[(IpAddr, u8, u8)]) -> (Vec<Service>, Vec<SocketAddr>) {
    let services = Service::draw(random, "s", 8, 6, networks);
    let bindings: Vec<_> = services.iter().flat_map(|service| &service.bindings).collect();
    let near = |_| bindings[random.below::<usize>(bindings.len() as u64)].target_near(random);
    let targets = (0..share::of(300).max(40)).map(near).collect();
    (services, targets)
}

/// The services that win any of the targets, and nobody if that does.
fn winners(services: &[Service], targets: &[SocketAddr]) -> usize {
    let won = |target| winner(services, Protocol::Tcp, target).map(|service| service.name.as_str());
    targets.iter().map(|target| won(*target)).collect::<BTreeSet<_>>().len()
}

fn random_configurations_steer_as_the_slow_scan_says(case: &mut Case) {
    case.own_surroundings();
    let whole = case.family.pick(32, 128);
    let (network, length) = (case.address(0), case.family.pick(24, 64));
    // Some prefixes of any length, and many that are crowded into few addresses.
    let crowd = (case.address(64), whole - 4, 4);
    for _ in 0..share::of(3) {
        let networks = [(network, length, whole - length), crowd, crowd];
        // Few targets may all fall to few services: such a draw says little.
        let mut draws = (0..20).map(|_| drawn(&mut case.random, &networks));
        let (services, targets) = draws.find(|(services, targets)| winners(services, targets) > 3).unwrap();
        let instance = serve(case, &services);
        assert_steered(case, instance, &services, &targets);
    }
}

#[test]
fn binding_without_a_listener_refuses_and_counts() {
    let test = "binding_without_a_listener_refuses_and_counts";
    if !require::met(test, Path::SkLookup.needs()) || !require::met(test, &[Need::Bpftool]) {
        return;
    }
    let case = Case::new(Path::SkLookup, Family::V4);
    let [orphan, sound] = ["192.0.2.7:80", "192.0.2.8:80"].map(|target| target.parse().unwrap());
    let services = [
        Service::new("orphan", "hello", &["tcp 192.0.2.7/32 80"]),
        Service::new("orphan-udp", "echo", &["udp 192.0.2.7/32 80"]),
        Service::new("sound", "hello", &["tcp 192.0.2.8/32 80"]),
    ];
    configure(&case.server, &configuration(&services));
    let instance = case.start(&format!("{CONFIG} --no-repair"));
    let squatter = Origin::saying(&case.server, orphan, "squatter");
    let squatting = bound(&case.server, orphan);
    // Destinations are numbered as they stand in the file.
    for destination in 0..2 {
        forget_listener(&case.server, &instance, destination);
    }
    assert_refused(&case.server, &[squatter.address()]);
    datagram::assert_refused(&case.server, &[orphan]);
    assert_silence(&squatting);
    assert!(dial(&case.server, sound).unwrap().text.contains("service=sound"));

    for destination in 0..2 {
        let counts = counts(&case.server, &instance, destination);
        assert!((1..=4).contains(&counts.missed) && counts.steered == 0, "{counts:?} of {destination}");
    }
    instance.stop();
}

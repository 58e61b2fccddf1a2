//! What is dropped before the stack sees it, and what is not; the program on interfaces that come and go, beside others' programs, through
//! reloads and upgrades. Whom a policy denies is tested in `policy.rs`.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::Value;
use spectrum_common::{DenyReason, Packet, Verdict};
use spectrum_steering::dispatcher::{Dispatcher, Steered};
use spectrum_steering::model::{
    Binding, Family as Kind, InterfaceName, OnDeny, Prefix, Protocol, SourceEntry, SourcePolicy, SourceRule,
    domain_of,
};
use spectrum_steering::plan::table::Table;
use spectrum_steering::plan::{Bound, OwnPolicy, Plan};
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, connect, reload};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::frame::{Frame, Inside, SYN};
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::netns::Netns;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::random::Random;
use spectrum_tests::require::{self, Need};
use spectrum_tests::state::{BpfObjects, State};
use spectrum_tests::{on_every_path, share, veth};

const ACK: u8 = 0x10;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;

/// The interface of the server's that leads to its client.
const UPLINK: &str = "to-client";

/// A plan of three services: `silent` on port 80, `told` on 81, `open` on 82, with the same deny list.
fn plan(denied: &[Prefix], rate: Option<&str>) -> Plan {
    let service = |name: &str, port: u16, policy: OwnPolicy| {
        let of = |protocol, prefix: &str| Binding {
            protocol,
            prefix: prefix.parse().unwrap(),
            ports: port.to_string().parse().unwrap(),
        };
        let bindings = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .flat_map(|protocol| [of(protocol, "192.0.2.0/24"), of(protocol, "2001:db8::/64")]);
        Bound { name: name.parse().unwrap(), bindings: bindings.collect(), policy: Some(policy) }
    };
    let everybody = ["0.0.0.0/0", "::/0"]
        .map(|prefix| SourceEntry { prefix: prefix.parse().unwrap(), rule: SourceRule::Allow });
    let told = OwnPolicy { on_deny: Some(OnDeny::Refuse), ..OwnPolicy::default() };
    // As long as any that denies, so that its own word decides.
    let open = denied.iter().map(|prefix| SourceEntry { prefix: *prefix, rule: SourceRule::Allow });
    let open: Vec<SourceEntry> = open.chain(everybody).collect();
    let open = OwnPolicy { sources: SourcePolicy::of(&open).unwrap(), ..OwnPolicy::default() };
    let services =
        [service("silent", 80, OwnPolicy::default()), service("told", 81, told), service("open", 82, open)];
    let mut plan = Plan::of(&services).unwrap();
    let entries = denied.iter().map(|prefix| SourceEntry { prefix: *prefix, rule: SourceRule::Deny });
    plan.policies.common = SourcePolicy::of(&entries.collect::<Vec<_>>()).unwrap();
    plan.policies.on_deny = OnDeny::Silent;
    plan.policies.rate = rate.map(|rate| rate.parse().unwrap());
    plan
}

/// A loaded dispatcher with this plan, which steers nothing.
fn dispatcher(plan: &Plan) -> Dispatcher {
    let mut dispatcher = Dispatcher::load(false, 0).unwrap();
    dispatcher.publish(Table::of(plan).unwrap().nodes()).unwrap();
    dispatcher
}

fn ends(family: Family, source: u8, port: u16) -> (SocketAddr, SocketAddr) {
    let from = family.parse(&format!("198.51.100.{source}"), &format!("2001:db8:77:{source:x}::1"));
    (SocketAddr::new(from, 4000), SocketAddr::new(family.parse("192.0.2.7", "2001:db8::7"), port))
}

fn denied() -> [Prefix; 2] {
    ["198.51.100.0/28", "2001:db8:77::/60"].map(|prefix| prefix.parse().unwrap())
}

#[test]
fn only_plain_syns_and_datagrams_of_the_silenced_are_dropped() {
    let test = "only_plain_syns_and_datagrams_of_the_silenced_are_dropped";
    if !require::met(test, &[Need::Netns, Need::Bpf]) {
        return;
    }
    let plan = plan(&denied(), None);
    Netns::create().unwrap().run(|| {
        let mut dispatcher = dispatcher(&plan);
        let mut drops = 0;
        let mut check = |frame: &Frame, expected: bool, about: &str| {
            assert_eq!(dispatcher.test_frame(&frame.bytes()).unwrap(), expected, "{about}: {frame:?}");
            drops += u64::from(expected);
            assert_eq!(dispatcher.probe().dropped_early().unwrap(), drops, "{about}: {frame:?}");
        };
        for family in [Family::V4, Family::V6] {
            let (from, to) = ends(family, 1, 80);
            let syn = Frame::new(from, to, Inside::Tcp(SYN));
            let datagram = Frame::new(from, to, Inside::Udp);
            for plain in [&syn, &datagram] {
                check(plain, true, "denied");
                for tags in 1..=3 {
                    check(&plain.clone().tagged(tags), tags < 3, "with tags");
                }
                for options in 1..=10 {
                    check(
                        &plain.clone().with_options(options),
                        family == Family::V4 || options < 4,
                        "with options",
                    );
                }
                check(&plain.clone().tagged(2).with_options(3), true, "with tags and options");
                check(&plain.clone().fragment(0, true), false, "a first fragment");
                check(&plain.clone().fragment(185, true), false, "a fragment");
                check(&plain.clone().fragment(185, false), false, "the last fragment");
                check(&plain.clone().routed(), family == Family::V4, "with a routing header");
                for length in 14..plain.bytes().len() {
                    check(&plain.clone().cut(length), length >= plain.needed(), "cut off");
                }
            }
            for flags in [0, ACK, SYN | ACK, FIN, RST, FIN | ACK, RST | ACK, 0x29] {
                check(&Frame::new(from, to, Inside::Tcp(flags)), false, "no SYN, or an answer");
            }
            for flags in [SYN | 0x08, SYN | 0xc0, SYN | FIN] {
                check(&Frame::new(from, to, Inside::Tcp(flags)), true, "a SYN");
            }
            check(
                &Frame::new(from, to, Inside::Other(if family == Family::V4 { 1 } else { 58 })),
                false,
                "ICMP",
            );
            check(&Frame::new(from, to, Inside::Other(132)), false, "SCTP");
            for inside in [Inside::Tcp(SYN), Inside::Udp] {
                for port in [81, 82, 83, 0] {
                    let to = SocketAddr::new(to.ip(), port);
                    check(&Frame::new(from, to, inside), false, "told, let in, or not bound");
                }
                let (other, _) = ends(family, 16, 80);
                check(&Frame::new(other, to, inside), false, "not denied");
                check(&Frame::new(to, from, inside), false, "the other way");
            }
        }
        let arp = [&[0xff; 12][..], &[0x08, 0x06], &[0; 46]].concat();
        assert!(!dispatcher.test_frame(&arp).unwrap());
        let by_reason = plan.destinations.keys().map(|id| dispatcher.probe().counts(*id).unwrap());
        let sum: u64 = by_reason.map(|counts| counts.denied[DenyReason::Denied as usize]).sum();
        assert_eq!(sum, drops, "each is counted as denied, too");
    });
}

#[test]
fn frames_are_judged_as_the_socket_lookup_judges() {
    let test = "frames_are_judged_as_the_socket_lookup_judges";
    if !require::met(test, &[Need::Netns, Need::Bpf]) {
        return;
    }
    let mut random = Random::seeded();
    let mut tally = [0; 2];
    Netns::create().unwrap().run(|| {
        for _ in 0..share::of(8).max(2) {
            let mut prefixes: Vec<Prefix> = Vec::new();
            for _ in 0..random.below::<usize>(60) {
                let family = if random.bits().is_multiple_of(2) { Family::V4 } else { Family::V6 };
                let (from, _) = ends(family, random.below(64), 80);
                let length = random.below::<u8>(if from.is_ipv4() { 17 } else { 65 })
                    + if from.is_ipv4() { 16 } else { 64 };
                let prefix = Prefix::containing(from.ip(), length).unwrap();
                if !prefixes.contains(&prefix) {
                    prefixes.push(prefix);
                }
            }
            let plan = plan(&prefixes, None);
            let table = Table::of(&plan).unwrap();
            let mut dispatcher = dispatcher(&plan);
            for _ in 0..share::of(2_000) {
                let family = if random.bits().is_multiple_of(2) { Family::V4 } else { Family::V6 };
                let (from, to) = ends(family, random.below(64), 79 + random.below::<u16>(5));
                let (protocol, inside) = if random.bits().is_multiple_of(2) {
                    (Protocol::Tcp, Inside::Tcp(SYN))
                } else {
                    (Protocol::Udp, Inside::Udp)
                };
                let domain = domain_of(protocol, Kind::of(to.ip()));
                let packet = Packet { domain, address: to.ip().into(), port: to.port() };
                let is_silenced = matches!(table.steer(&packet, from.ip()), Verdict::Silence(..));
                let frame =
                    Frame::new(from, to, inside).tagged(random.below(3)).with_options(random.below(4));
                assert_eq!(dispatcher.test_frame(&frame.bytes()).unwrap(), is_silenced, "{frame:?}");
                tally[usize::from(is_silenced)] += 1;
            }
        }
    });
    assert!(tally.iter().all(|count| *count > 0), "a one-sided draw: {tally:?}");
}

#[test]
fn whoever_is_over_the_rate_is_dropped_and_nobody_is_charged() {
    let test = "whoever_is_over_the_rate_is_dropped_and_nobody_is_charged";
    if !require::met(test, &[Need::Netns, Need::Bpf, Need::TestRun]) {
        return;
    }
    let plan = plan(&[], Some("3/h burst 3 per /32 /64"));
    Netns::create().unwrap().run(|| {
        let mut dispatcher = dispatcher(&plan);
        for family in [Family::V4, Family::V6] {
            let (from, to) = ends(family, 1, 80);
            let (other, _) = ends(family, 2, 80);
            for (protocol, inside) in [(Protocol::Tcp, Inside::Tcp(SYN)), (Protocol::Udp, Inside::Udp)] {
                let from_port = |port| SocketAddr::new(from.ip(), port);
                let mut drops =
                    |from, to| dispatcher.test_frame(&Frame::new(from, to, inside).bytes()).unwrap();
                for port in 1..20 {
                    assert!(!drops(from_port(port), to), "{protocol} {port}: nobody was counted yet");
                }
                for port in 1..=3 {
                    // There is no listener: whoever is let in is refused all the same, and counted.
                    let judged = dispatcher.probe().test(protocol, from_port(port), to).unwrap();
                    assert_eq!(judged, Steered::Dropped);
                }
                let mut drops =
                    |from, to| dispatcher.test_frame(&Frame::new(from, to, inside).bytes()).unwrap();
                assert!(drops(from_port(4), to), "{protocol}: a fourth");
                // A SYN that was let in, once more: the SYN-ACK may have been lost. Every datagram counts.
                assert_eq!(drops(from_port(3), to), protocol == Protocol::Udp, "{protocol}: once more");
                assert_eq!(drops(from_port(3), to), protocol == Protocol::Udp, "{protocol}: and once more");
                assert!(!drops(other, to), "{protocol}: somebody else");
                // Those who are told so are told so by the stack, and share the rate.
                assert!(!drops(from_port(4), SocketAddr::new(to.ip(), 81)), "{protocol}: told");
            }
        }
    });
}

on_every_path!(whom_a_policy_silences_is_dropped_before_the_stack_and_others_are_served);

macro_rules! on_sk_lookup {
    ($($case:ident),+ $(,)?) => {$(
        mod $case {
            spectrum_tests::on_every_path!(@test sk_lookup_ipv4, $case, SkLookup, V4, Few);
            spectrum_tests::on_every_path!(@test sk_lookup_ipv6, $case, SkLookup, V6, Few);
        }
    )+};
}

on_sk_lookup!(
    what_is_open_stays_open_where_new_connections_are_dropped,
    an_interface_with_another_program_is_refused_with_a_cure_that_works,
    an_interface_that_loses_the_program_or_comes_again_gets_it_back,
    what_is_dropped_is_dropped_through_an_upgrade,
);

/// A client on a link of its own, with two addresses.
struct Visitor {
    netns: Netns,
    denied: IpAddr,
    welcome: IpAddr,
    target: SocketAddr,
}

impl Visitor {
    fn of(case: &Case) -> Self {
        let netns = veth::client_of(&case.server);
        let welcome = case.family.pick("198.51.100.3/24", "2001:db8:ffff::3/64 nodad");
        netns.ip(&format!("addr add {welcome} dev to-server"));
        Self {
            netns,
            denied: veth::client_address(case.family),
            welcome: case.family.parse("198.51.100.3", "2001:db8:ffff::3"),
            target: SocketAddr::new(case.address(7), 80),
        }
    }

    /// A connection from `source`; none where nobody answers.
    fn dial(&self, source: IpAddr) -> Option<TcpStream> {
        let patience = if source == self.denied { Duration::from_millis(1500) } else { PATIENCE };
        let dialled = self.netns.run(|| {
            let socket =
                socket2::Socket::new(socket2::Domain::for_address(self.target), socket2::Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
            socket.connect_timeout(&self.target.into(), patience)?;
            Ok::<_, std::io::Error>(TcpStream::from(socket))
        });
        match dialled {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Some(stream)
            }
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => None,
            Err(error) => panic!("{source} dials {}: {error}", self.target),
        }
    }

    /// True if a datagram from `source` is answered.
    fn asks(&self, source: IpAddr) -> bool {
        let socket = self.netns.run(|| UdpSocket::bind(SocketAddr::new(source, 0))).unwrap();
        socket.connect(self.target).unwrap();
        let patience = if source == self.denied { Duration::from_millis(300) } else { PATIENCE };
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.send(b"anybody?").unwrap();
        socket.recv(&mut [0; 16]).is_ok()
    }

    fn assert_told(&self) {
        assert!(self.dial(self.denied).is_none() && !self.asks(self.denied));
        assert!(self.asks(self.welcome));
        assert!(talks(&mut self.dial(self.welcome).unwrap()));
    }
}

fn talks(stream: &mut TcpStream) -> bool {
    stream.write_all(b"still there?").is_ok() && stream.read_exact(&mut [0; 12]).is_ok()
}

/// Denies the address of a [`Visitor`] that is to be denied.
const DENIES: &str = "deny = [\"198.51.100.2\", \"2001:db8:ffff::2\"]\n";

fn text(case: &Case, policy: &str) -> String {
    format!(
        "[policy]\n{policy}\n[[service]]\nname = \"web\"\nrespond = \"echo\"\n\
         bindings = [{{ prefix = \"{}\", ports = 80, protocol = \"both\" }}]\n",
        case.prefix()
    )
}

fn silent(case: &Case, xdp: &str) -> String {
    text(case, &format!("{DENIES}on-deny = \"silent\"\n{xdp}"))
}

const XDP: &str = "xdp = [\"to-client\"]";

fn status(case: &Case, instance: &Instance) -> Value {
    connect(&case.server, instance).ask("status").unwrap()
}

fn dropped_early(case: &Case, instance: &Instance) -> u64 {
    let status = status(case, instance);
    status["dropped_early"].as_u64().unwrap_or_else(|| panic!("{status}"))
}

/// True if a program is on the uplink, by whomever.
fn has_program(case: &Case) -> bool {
    case.server.ip(&format!("-d link show dev {UPLINK}")).contains("prog/xdp")
}

fn whom_a_policy_silences_is_dropped_before_the_stack_and_others_are_served(case: &mut Case) {
    configure(&case.server, &silent(case, XDP));
    if case.path != Path::SkLookup {
        let refused = case.launch(CONFIG).finish();
        assert_eq!(refused.code(), 1, "{refused}");
        assert!(refused.stderr.contains("policy.xdp: that takes the maps of sk_lookup"), "{refused}");
        return;
    }
    let visitor = Visitor::of(case);
    let before = State::of(&case.server);
    let instance = case.start(CONFIG);
    assert!(has_program(case));
    assert_eq!(
        status(case, &instance)["xdp"],
        serde_json::json!([{ "interface": UPLINK, "mode": "native" }])
    );
    assert_eq!(dropped_early(case, &instance), 0);
    visitor.assert_told();
    let dropped = dropped_early(case, &instance);
    let denied: u64 = status(case, &instance)["destinations"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["denied"]["denied"].as_u64())
        .sum();
    assert!(dropped >= 3 && dropped == denied, "{dropped} of {denied} were dropped before the stack");
    let shown = Launch::new(&case.server).arguments("status").finish().stdout;
    assert!(shown.contains(&format!("XDP: {UPLINK} (native), {dropped} packets dropped")), "{shown}");
    // Nobody comes by this way, and is judged all the same.
    case.server.ip("link set lo up");
    instance.stop();
    assert!(!has_program(case), "the program is left");
    before.assert_restored(&case.server, "the end");
}

fn what_is_open_stays_open_where_new_connections_are_dropped(case: &mut Case) {
    let visitor = Visitor::of(case);
    configure(&case.server, &text(case, ""));
    let instance = case.start(CONFIG);
    let mut open = visitor.dial(visitor.denied).unwrap();
    assert!(talks(&mut open) && visitor.asks(visitor.denied) && !has_program(case));
    configure(&case.server, &silent(case, XDP));
    reload(&case.server, &instance).unwrap();
    visitor.assert_told();
    assert!(talks(&mut open), "an open connection was touched");
    assert!(dropped_early(case, &instance) >= 3);
    // A policy may change without the program.
    configure(&case.server, &text(case, &format!("on-deny = \"silent\"\n{XDP}")));
    reload(&case.server, &instance).unwrap();
    assert!(talks(&mut visitor.dial(visitor.denied).unwrap()) && visitor.asks(visitor.denied));
    configure(&case.server, &silent(case, ""));
    reload(&case.server, &instance).unwrap();
    assert!(!has_program(case));
    assert_eq!(status(case, &instance).get("xdp"), None);
    visitor.assert_told();
    assert!(talks(&mut open));
    drop(open);
    instance.stop();
}

fn an_interface_with_another_program_is_refused_with_a_cure_that_works(case: &mut Case) {
    if !require::met("an_interface_with_another_program", &[Need::Bpftool]) {
        return;
    }
    let visitor = Visitor::of(case);
    let uplink: InterfaceName = UPLINK.parse().unwrap();
    configure(&case.server, &silent(case, XDP));
    // Somebody's: a program with a link, then the same without one, in either mode.
    let mut others = dispatcher(&plan(&[], None));
    let link = case.server.run(|| others.attach_xdp(&uplink)).unwrap();
    let refused = case.launch(CONFIG).finish();
    assert_eq!(refused.code(), 1, "{refused}");
    assert!(refused.stderr.contains("another program is there, which is not replaced"), "{refused}");
    assert!(has_program(case));
    drop(link);
    let programs: Value =
        serde_json::from_str(&case.server.command("bpftool -j prog show name spectrum_xdp")).unwrap();
    let id = programs.as_array().map_or(&programs["id"], |all| &all.last().unwrap()["id"]).clone();
    for mode in ["xdpgeneric", "xdpdrv"] {
        case.server.command(&format!("bpftool net attach {mode} id {id} dev {UPLINK}"));
        let refused = case.launch(CONFIG).finish();
        assert_eq!(refused.code(), 1, "{refused}");
        assert!(has_program(case), "another's program was removed: {refused}");
        let cure = refused.stderr.split('`').find(|quoted| quoted.starts_with("ip link set dev")).unwrap();
        case.server.command(cure);
        assert!(!has_program(case), "{cure}");
    }
    let instance = case.start(CONFIG);
    visitor.assert_told();
    // Nor is ours replaced.
    assert!(case.server.run(|| others.attach_xdp(&uplink)).is_err());
    // A reload that cannot have it changes nothing.
    configure(&case.server, &silent(case, "xdp = [\"to-client\", \"lo\"]"));
    let link = case.server.run(|| others.attach_xdp(&"lo".parse().unwrap())).unwrap();
    let refused = reload(&case.server, &instance).unwrap_err();
    assert!(
        refused.message.contains("interface lo") && refused.message.contains("xdpgeneric off"),
        "{refused:?}"
    );
    visitor.assert_told();
    drop(link);
    reload(&case.server, &instance).unwrap();
    assert_eq!(status(case, &instance)["xdp"][0]["mode"], "generic");
    instance.stop();
}

fn an_interface_that_loses_the_program_or_comes_again_gets_it_back(case: &mut Case) {
    if !require::met("an_interface_that_loses_the_program", &[Need::Bpftool]) {
        return;
    }
    let visitor = Visitor::of(case);
    configure(&case.server, &silent(case, "xdp = [\"to-client\", \"later0\"]"));
    let instance = case.start(CONFIG);
    let mode = |name: &str| {
        let status = status(case, &instance);
        let all = status["xdp"].as_array().unwrap().clone();
        all.into_iter().find(|one| one["interface"] == name).unwrap()["mode"].clone()
    };
    assert_eq!(mode("later0"), Value::Null);
    let missing = || status(case, &instance)["missing"].to_string();
    eventually("that it is told missing", PATIENCE, || missing().contains("later0").then_some(()));
    // Clients are served without it.
    assert_eq!(status(case, &instance)["hindrances"].as_array().map_or(0, Vec::len), 0);
    case.server.ip("link add later0 type veth peer name later1");
    eventually("the program on what has come", PATIENCE, || (mode("later0") == "native").then_some(()));
    eventually("that nothing is missing", PATIENCE, || (!missing().contains("later0")).then_some(()));

    let links: Value = serde_json::from_str(&case.server.command("bpftool -j link show")).unwrap();
    let held: Vec<u32> = BpfObjects::of_process(instance.pid()).ids("link").collect();
    let is_own = |id: &u64| held.iter().any(|held| u64::from(*held) == *id);
    let links = links.as_array().unwrap().iter().filter(|link| link["type"] == "xdp");
    // The one on the interface that was there first.
    let id = links.filter_map(|link| link["id"].as_u64()).filter(is_own).min().unwrap();
    case.server.command(&format!("bpftool link detach id {id}"));
    eventually("the program once more", PATIENCE, || has_program(case).then_some(()));
    visitor.assert_told();
    let repaired = status(case, &instance)["repairs"]["xdp"].as_u64().unwrap();
    assert!(repaired >= 2, "{repaired}");

    // Another interface of the same name.
    case.server.ip("link del later0");
    eventually("that it is told missing", PATIENCE, || missing().contains("later0").then_some(()));
    case.server.ip("link add later0 type veth peer name later1");
    eventually("the program on what came again", PATIENCE, || {
        case.server.ip("-d link show dev later0").contains("prog/xdp").then_some(())
    });
    instance.stop();
}

fn what_is_dropped_is_dropped_through_an_upgrade(case: &mut Case) {
    let visitor = Visitor::of(case);
    configure(&case.server, &silent(case, XDP));
    let instance = case.start(CONFIG);
    visitor.assert_told();
    let mut dropped = dropped_early(case, &instance);
    assert!(dropped > 0);
    for _ in 0..2 {
        let upgraded = Launch::new(&case.server).arguments("upgrade").finish();
        assert_eq!(upgraded.code(), 0, "{upgraded}\n{}", instance.stderr());
        visitor.assert_told();
        let now = dropped_early(case, &instance);
        assert!(now >= dropped + 3, "{now} after {dropped}");
        dropped = now;
        assert_eq!(status(case, &instance)["xdp"][0]["mode"], "native");
    }
    instance.stop();
    assert!(!has_program(case));
}

//! Whom services let in: the judgement of random sources by a scan that is obviously right, by the compiled table and by the
//! loaded program in the kernel. Which entries may be configured is tested where they are read.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Socket, Type};
use spectrum_common::{Packet, Verdict};
use spectrum_steering::dispatcher::{Dispatcher, Steered};
use spectrum_steering::model::{
    Binding, Family, OnDeny, Prefix, Protocol, Rule, SourceEntry, SourcePolicy, domain_of,
};
use spectrum_steering::plan::table::Table;
use spectrum_steering::plan::{Bound, OwnPolicy, Plan};
use spectrum_tests::netns::Netns;
use spectrum_tests::random::Random;
use spectrum_tests::require::{self, Need};
use spectrum_tests::share;

/// The number of configurations that are drawn, and of packets that each judges.
const CONFIGURATIONS: usize = 16;
const PACKETS: usize = 1_500;

const SOURCES: [(&str, u8); 8] = [
    ("0.0.0.0", 0),
    ("198.18.0.0", 15),
    ("198.18.1.0", 24),
    ("198.18.1.64", 28),
    ("::", 0),
    ("2001:2::", 48),
    ("2001:2:0:1::", 64),
    ("2001:2:0:1::40", 124),
];

/// A listener alone, since of a group that shares its port a test run cannot choose one.
fn listener(protocol: Protocol, family: Family) -> Socket {
    let (domain, loopback) = match family {
        Family::Ipv4 => (Domain::IPV4, "127.0.0.1:0"),
        Family::Ipv6 => (Domain::IPV6, "[::1]:0"),
    };
    let kind = if protocol == Protocol::Tcp { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(domain, kind, None).unwrap();
    socket.bind(&loopback.parse::<SocketAddr>().unwrap().into()).unwrap();
    if protocol == Protocol::Tcp {
        socket.listen(1).unwrap();
    }
    socket
}

fn source(random: &mut Random) -> IpAddr {
    let (network, length) = SOURCES[random.below::<usize>(SOURCES.len() as u64)];
    random.address(network.parse().unwrap(), length)
}

fn policy(random: &mut Random) -> SourcePolicy {
    let mut entries: Vec<SourceEntry> = Vec::new();
    for _ in 0..random.below::<usize>(40) {
        let address = source(random);
        let longest = if address.is_ipv4() { 33 } else { 129 };
        let prefix = Prefix::containing(address, random.below(longest)).unwrap();
        let rule = if random.bits().is_multiple_of(2) { Rule::Allow } else { Rule::Deny };
        if !entries.iter().any(|other| other.prefix == prefix) {
            entries.push(SourceEntry { prefix, rule });
        }
    }
    SourcePolicy::of(&entries).unwrap()
}

fn on_deny(random: &mut Random) -> OnDeny {
    if random.bits().is_multiple_of(2) { OnDeny::Refuse } else { OnDeny::Silent }
}

/// A service for each number, which binds one port of both protocols and families.
fn services(random: &mut Random) -> Vec<Bound> {
    let bound = |number: u16, random: &mut Random| {
        let of = |protocol, prefix: &str| Binding {
            protocol,
            prefix: prefix.parse().unwrap(),
            ports: number.to_string().parse().unwrap(),
        };
        let bindings = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .flat_map(|protocol| [of(protocol, "192.0.2.0/24"), of(protocol, "2001:db8::/64")]);
        let has_own = random.bits().is_multiple_of(2);
        let policy = has_own.then(|| OwnPolicy {
            sources: policy(random),
            on_deny: random.bits().is_multiple_of(2).then(|| on_deny(random)),
        });
        Bound { name: format!("s{number}").parse().unwrap(), bindings: bindings.collect(), policy }
    };
    (1..=6).map(|number| bound(number, random)).collect()
}

/// The word of the longest prefix that contains `source`.
fn scanned(policy: &SourcePolicy, source: IpAddr) -> Option<(u8, Rule)> {
    let containing = policy.entries().iter().filter(|entry| entry.prefix.contains(source));
    containing.map(|entry| (entry.prefix.length(), entry.rule)).max_by_key(|(length, _)| *length)
}

#[test]
fn scan_table_and_kernel_agree_on_whom_services_let_in() {
    let test = "scan_table_and_kernel_agree_on_whom_services_let_in";
    if !require::met(test, &[Need::Netns, Need::Bpf, Need::TestRun]) {
        return;
    }
    let mut random = Random::seeded();
    let netns = Netns::create().unwrap();
    netns.run(|| {
        let mut dispatcher = Dispatcher::load(false, 0).unwrap();
        let silent: Vec<(Protocol, Family, Socket)> = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .flat_map(|protocol| [(protocol, Family::Ipv4), (protocol, Family::Ipv6)])
            .map(|(protocol, family)| (protocol, family, listener(protocol, family)))
            .collect();
        for (protocol, family, socket) in &silent {
            dispatcher.register_silent(*protocol, *family, socket).unwrap();
        }
        let cookie = |protocol, family| {
            let of = |one: &&(Protocol, Family, Socket)| one.0 == protocol && one.1 == family;
            silent.iter().find(of).unwrap().2.cookie().unwrap()
        };
        let mut tally = [0; 3];
        for _ in 0..share::of(CONFIGURATIONS).max(2) {
            let mut plan = Plan::of(&services(&mut random)).unwrap();
            plan.policies.common = policy(&mut random);
            plan.policies.on_deny = on_deny(&mut random);
            let table = Table::of(&plan).unwrap();
            let listeners: Vec<Socket> = plan
                .destinations
                .iter()
                .map(|(id, destination)| {
                    let socket = listener(destination.protocol, destination.family);
                    dispatcher.register(*id, &socket).unwrap();
                    socket
                })
                .collect();
            dispatcher.publish(table.nodes()).unwrap();
            for _ in 0..share::of(PACKETS) {
                let from = source(&mut random);
                let family = Family::of(from);
                let protocol = if random.bits().is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp };
                let address: IpAddr =
                    if from.is_ipv4() { "192.0.2.7" } else { "2001:db8::7" }.parse().unwrap();
                let port = 1 + random.below::<u16>(6);
                let winner = plan.winner(protocol, address, port).unwrap();
                let service = &plan.destinations[&winner.destination].service;
                let own = plan.policies.own.get(service);
                let by_common = scanned(&plan.policies.common, from);
                let by_own = own.and_then(|own| scanned(&own.sources, from));
                let is_longer = by_common.map(|(length, _)| length) > by_own.map(|(length, _)| length);
                let said = if is_longer { by_common } else { by_own };
                let on_deny = own.and_then(|own| own.on_deny).unwrap_or(plan.policies.on_deny);
                let expected = match (said, on_deny) {
                    (Some((_, Rule::Deny)), OnDeny::Refuse) => Verdict::Refuse(winner.destination),
                    (Some((_, Rule::Deny)), OnDeny::Silent) => Verdict::Silence(winner.destination),
                    _ => Verdict::Assign(winner.destination),
                };
                let about = || format!("{service} {protocol} from {from} by {:#?}", plan.policies);
                let denies = plan.denies(protocol, from, address, port);
                let denied = (!matches!(expected, Verdict::Assign(_))).then_some(on_deny);
                assert_eq!(denies, denied, "the plan: {}", about());
                let packet = Packet { domain: domain_of(protocol, family), address: address.into(), port };
                assert_eq!(table.steer(&packet, from), expected, "the table: {}", about());
                let before = dispatcher.probe().counts(winner.destination).unwrap();
                let (from, to) = (SocketAddr::new(from, 999), SocketAddr::new(address, port));
                let judged = dispatcher.probe().test(protocol, from, to).unwrap();
                let after = dispatcher.probe().counts(winner.destination).unwrap();
                let (verdict, at) = match judged {
                    Steered::Dropped => (Verdict::Refuse(winner.destination), 1),
                    Steered::Assigned { cookie: Some(chosen) } if chosen == cookie(protocol, family) => {
                        (Verdict::Silence(winner.destination), 2)
                    }
                    Steered::Assigned { .. } => (Verdict::Assign(winner.destination), 0),
                    Steered::Passed => (Verdict::Pass, 0),
                };
                assert_eq!(verdict, expected, "the kernel: {}", about());
                let counted = (after.steered - before.steered, after.denied - before.denied);
                assert_eq!(counted, if at == 0 { (1, 0) } else { (0, 1) }, "{}", about());
                tally[at] += 1;
            }
            drop(listeners);
        }
        assert!(tally.iter().all(|count| *count > 0), "a one-sided draw: {tally:?}");
    });
}

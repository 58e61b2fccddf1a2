//! Whom services let in: the judgement of random sources by a scan that is obviously right, by the compiled table and by the
//! loaded program in the kernel; and what clients are told, on every path. Which entries may be configured is tested where they are read.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use spectrum_common::{DenyReason, Packet, Verdict};
use spectrum_steering::dispatcher::{Dispatcher, Steered};
use spectrum_steering::model::{
    Binding, Family, OnDeny, Prefix, Protocol, ServiceName, SourceEntry, SourcePolicy, SourceRule, domain_of,
};
use spectrum_steering::plan::table::Table;
use spectrum_steering::plan::{Bound, OwnPolicy, Plan, RunTimeSources};
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, connect, reload};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::judged::{
    Told, await_denied, client, connected, denied, judges_after_accept, own_clients, prefix_of,
    services_with, talks, told, told_by_datagram,
};
use spectrum_tests::netns::Netns;
use spectrum_tests::on_every_path;
use spectrum_tests::path::Path;
use spectrum_tests::random::Random;
use spectrum_tests::require::{self, Need};
use spectrum_tests::share;

/// The number of configurations that are drawn, and of packets that each judges.
const CONFIGURATIONS: usize = 16;
const PACKETS: usize = 1_500;

/// The number of times that two policies take turns.
const SWAPS: usize = 1_000;

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
        let rule = if random.bits().is_multiple_of(2) { SourceRule::Allow } else { SourceRule::Deny };
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
            ..OwnPolicy::default()
        });
        Bound { name: format!("s{number}").parse().unwrap(), bindings: bindings.collect(), policy }
    };
    (1..=6).map(|number| bound(number, random)).collect()
}

/// What is said at run time of all services, and of one of them.
fn said_at_run_time(random: &mut Random) -> RunTimeSources {
    let name = format!("s{}", 1 + random.below::<u16>(6)).parse().unwrap();
    let own = std::sync::Arc::new([(name, policy(random))].into());
    RunTimeSources { common: policy(random), own, is_in_use: true }
}

/// The word of the longest prefix that contains `source`.
fn scanned(policy: &SourcePolicy, source: IpAddr) -> Option<(u8, SourceRule)> {
    let containing = policy.entries().iter().filter(|entry| entry.prefix.contains(source));
    containing.map(|entry| (entry.prefix.length(), entry.rule)).max_by_key(|(length, _)| *length)
}

/// The word of the longest prefix of all lists; of those as long, that of what was said at run time, then of the service's own.
fn longest_of_all(
    plan: &Plan,
    run_time: &RunTimeSources,
    service: &ServiceName,
    source: IpAddr,
) -> Option<SourceRule> {
    let lists = [
        Some(&plan.policies.common),
        plan.policies.own.get(service).map(|own| &own.sources),
        Some(&run_time.common),
        run_time.own.get(service),
    ];
    let said = lists.into_iter().zip(0..).filter_map(|(list, rank)| {
        let (length, rule) = scanned(list?, source)?;
        Some((length, rank, rule))
    });
    said.max_by_key(|(length, rank, _)| (*length, *rank)).map(|(.., rule)| rule)
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
            let mut run_time = match random.below::<u8>(3) {
                0 => RunTimeSources::default(),
                _ => said_at_run_time(&mut random),
            };
            let mut table = Table::on(&plan, &run_time, &|_name| None).unwrap();
            let listeners: Vec<Socket> = plan
                .destinations
                .iter()
                .map(|(id, destination)| {
                    let socket = listener(destination.protocol, destination.family);
                    dispatcher.register(*id, &socket).unwrap();
                    socket
                })
                .collect();
            dispatcher.publish_with(table.nodes(), table.run_time().nodes()).unwrap();
            let packets = share::of(PACKETS);
            for number in 0..packets {
                if number == packets / 2 && run_time.is_in_use {
                    // Of the same services something else is said.
                    run_time.common = policy(&mut random);
                    let own = run_time.own.keys().map(|name| (name.clone(), policy(&mut random)));
                    run_time.own = std::sync::Arc::new(own.collect());
                    let lists = table.run_time().refilled(&run_time).unwrap().unwrap();
                    dispatcher.amend(lists.nodes()).unwrap();
                    table = Table::on(&plan, &run_time, &|_name| None).unwrap();
                }
                let from = source(&mut random);
                let family = Family::of(from);
                let protocol = if random.bits().is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp };
                let address: IpAddr =
                    if from.is_ipv4() { "192.0.2.7" } else { "2001:db8::7" }.parse().unwrap();
                let port = 1 + random.below::<u16>(6);
                let winner = plan.winner(protocol, address, port).unwrap();
                let service = &plan.destinations[&winner.destination].service;
                let own = plan.policies.own.get(service);
                let said = longest_of_all(&plan, &run_time, service, from);
                let on_deny = own.and_then(|own| own.on_deny).unwrap_or(plan.policies.on_deny);
                let expected = match (said, on_deny) {
                    (Some(SourceRule::Deny), OnDeny::Refuse) => {
                        Verdict::Refuse(winner.destination, DenyReason::Denied)
                    }
                    (Some(SourceRule::Deny), OnDeny::Silent) => {
                        Verdict::Silence(winner.destination, DenyReason::Denied)
                    }
                    _ => Verdict::Assign(winner.destination),
                };
                let about =
                    || format!("{service} {protocol} from {from} by {:#?} and {run_time:#?}", plan.policies);
                let denies = run_time.denies(&plan, protocol, from, address, port);
                let refusal = (!matches!(expected, Verdict::Assign(_))).then_some(on_deny);
                assert_eq!(denies, refusal, "the plan: {}", about());
                let packet = Packet { domain: domain_of(protocol, family), address: address.into(), port };
                assert_eq!(table.steer(&packet, from), expected, "the table: {}", about());
                let before = dispatcher.probe().counts(winner.destination).unwrap();
                let (from, to) = (SocketAddr::new(from, 999), SocketAddr::new(address, port));
                let judged = dispatcher.probe().test(protocol, from, to).unwrap();
                let after = dispatcher.probe().counts(winner.destination).unwrap();
                let (verdict, at) = match judged {
                    Steered::Dropped => (Verdict::Refuse(winner.destination, DenyReason::Denied), 1),
                    Steered::Assigned { cookie: Some(chosen) } if chosen == cookie(protocol, family) => {
                        (Verdict::Silence(winner.destination, DenyReason::Denied), 2)
                    }
                    Steered::Assigned { .. } => (Verdict::Assign(winner.destination), 0),
                    Steered::Passed => (Verdict::Pass, 0),
                };
                assert_eq!(verdict, expected, "the kernel: {}", about());
                let counted = (after.steered - before.steered, after.denied[0] - before.denied[0]);
                assert_eq!(counted, if at == 0 { (1, 0) } else { (0, 1) }, "{}", about());
                tally[at] += 1;
            }
            drop(listeners);
        }
        assert!(tally.iter().all(|count| *count > 0), "a one-sided draw: {tally:?}");
    });
}

/// A plan of one service on port 80, whose policies are these.
fn policed(common: &[(SourceRule, &str)], own: &[(SourceRule, &str)]) -> Plan {
    let entries = |listed: &[(SourceRule, &str)]| {
        let entry = |(rule, prefix): &(SourceRule, &str)| SourceEntry {
            prefix: prefix.parse().unwrap(),
            rule: *rule,
        };
        SourcePolicy::of(&listed.iter().map(entry).collect::<Vec<_>>()).unwrap()
    };
    let binding = |prefix: &str| Binding {
        protocol: Protocol::Tcp,
        prefix: prefix.parse().unwrap(),
        ports: "80".parse().unwrap(),
    };
    let bindings = vec![binding("192.0.2.0/24"), binding("2001:db8::/64")];
    let policy = Some(OwnPolicy { sources: entries(own), ..OwnPolicy::default() });
    let mut plan = Plan::of(&[Bound { name: "web".parse().unwrap(), bindings, policy }]).unwrap();
    plan.policies.common = entries(common);
    plan
}

#[test]
fn a_packet_is_judged_by_one_of_two_policies_and_by_no_mixture() {
    use SourceRule::{Allow, Deny};
    let test = "a_packet_is_judged_by_one_of_two_policies_and_by_no_mixture";
    if !require::met(test, &[Need::Netns, Need::Bpf, Need::TestRun]) {
        return;
    }
    // Either lets `.1` in and denies `.2`. The list for all of the one beside the own list of the other does not.
    let one = policed(
        &[(Deny, "198.51.100.0/24"), (Deny, "2001:db8:77::/48")],
        &[(Allow, "198.51.100.1"), (Allow, "2001:db8:77::1")],
    );
    let other = policed(&[(Deny, "203.0.113.0/24")], &[(Deny, "198.51.100.2"), (Deny, "2001:db8:77::2")]);
    let tables = [&one, &other].map(|plan| Table::of(plan).unwrap());
    let netns = Netns::create().unwrap();
    netns.run(|| {
        let mut dispatcher = Dispatcher::load(false, 0).unwrap();
        let listeners: Vec<Socket> = one
            .destinations
            .iter()
            .map(|(id, destination)| {
                let socket = listener(destination.protocol, destination.family);
                dispatcher.register(*id, &socket).unwrap();
                socket
            })
            .collect();
        dispatcher.publish(tables[1].nodes()).unwrap();
        let is_over = AtomicBool::new(false);
        let (probe, is_over) = (dispatcher.probe().clone(), &is_over);
        let judged: usize = std::thread::scope(|scope| {
            let judges = ["198.51.100", "2001:db8:77:"].map(|sources| {
                let probe = probe.clone();
                scope.spawn(move || {
                    let separator = if sources.contains(':') { ":" } else { "." };
                    let [welcome, denied]: [IpAddr; 2] =
                        [1, 2].map(|number| format!("{sources}{separator}{number}").parse().unwrap());
                    let address = if welcome.is_ipv4() { "192.0.2.7" } else { "2001:db8::7" };
                    let target = SocketAddr::new(address.parse().unwrap(), 80);
                    let mut judged = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        let judge =
                            |from| probe.test(Protocol::Tcp, SocketAddr::new(from, 999), target).unwrap();
                        let (first, second) = (judge(welcome), judge(denied));
                        let is_over_for_all =
                            !matches!(first, Steered::Assigned { .. }) || second != Steered::Dropped;
                        if is_over_for_all {
                            return Err(format!("after {judged}: {welcome} {first:?}, {denied} {second:?}"));
                        }
                        judged += 1;
                    }
                    Ok(judged)
                })
            });
            for round in 0..share::of(SWAPS).max(10) {
                dispatcher.publish(tables[round % 2].nodes()).unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
            judges
                .into_iter()
                .map(|judge| judge.join().unwrap().unwrap_or_else(|error| panic!("{error}")))
                .sum()
        });
        assert!(judged > 20, "{judged} packets were judged meanwhile");
        drop(listeners);
    });
}

on_every_path!(
    whom_a_policy_denies_is_refused_and_the_longest_prefix_decides,
    whom_a_policy_denies_without_a_word_hears_nothing,
    a_reload_changes_whom_a_service_lets_in_and_touches_nothing_open,
    whom_a_policy_denies_is_denied_during_an_upgrade_and_after_it,
    a_source_comes_no_oftener_than_its_rate_and_others_are_let_in,
    the_ack_of_a_syn_cookie_is_not_counted,
    clients_come_by_the_interfaces_that_a_policy_names,
    whom_a_service_turns_away_most_is_told_and_recorded,
    a_list_that_changes_is_read_again_and_a_wrong_one_changes_nothing,
);

/// The program with this configuration.
fn serve(case: &Case, text: &str) -> Instance {
    configure(&case.server, text);
    case.start(CONFIG)
}

/// Whom `web` and `open` deny: by the policy for all, a list, and the service's own.
fn deny_some(case: &Case, on_deny: &str) -> Instance {
    own_clients(case);
    case.server.run(|| {
        let list = format!("# somebody's list\n\n{} ; SBL1\n", prefix_of(case, 32, 2));
        std::fs::write("/run/denied.txt", list).unwrap();
    });
    let common = format!(
        "[policy]\ndeny = [\"{}\", {{ file = \"denied.txt\" }}]\non-deny = \"{on_deny}\"",
        prefix_of(case, 0, 4)
    );
    let own = format!(
        "policy = {{ allow = [\"{}\"], deny = \"{}\" }}",
        prefix_of(case, 8, 3),
        prefix_of(case, 9, 0)
    );
    serve(case, &services_with(case, &common, &own))
}

/// Each client of `web`, and what it is told.
fn assert_told(case: &Case, denied: Told) {
    let target = SocketAddr::new(case.address(7), 80);
    for (number, expected) in [
        (1, denied),
        (8, Told::LetIn),
        (9, denied),
        (15, Told::LetIn),
        (16, Told::LetIn),
        (33, denied),
        (36, Told::LetIn),
    ] {
        assert_eq!(told(case, client(case, number), target, expected), expected, "client {number} by TCP");
        assert_eq!(
            told_by_datagram(case, client(case, number), target, expected),
            expected,
            "client {number} by UDP"
        );
    }
    // The other service's own word on everybody is shorter than the list's.
    let open = SocketAddr::new(case.address(7), 81);
    assert_eq!(told(case, client(case, 8), open, denied), denied);
    assert_eq!(told(case, client(case, 16), open, Told::LetIn), Told::LetIn);
}

fn whom_a_policy_denies_is_refused_and_the_longest_prefix_decides(case: &mut Case) {
    let instance = deny_some(case, "refuse");
    assert_told(case, Told::Refused);
    let target = SocketAddr::new(case.address(7), 80);
    let from = SocketAddr::new(client(case, 33), 999);
    let explained =
        Launch::new(&case.server).arguments(&format!("explain tcp {target} --from {from}")).finish().stdout;
    assert!(explained.contains("denied.txt:3"), "{explained}");
    await_denied(case, &instance, "denied", 7);
}

fn whom_a_policy_denies_without_a_word_hears_nothing(case: &mut Case) {
    let instance = deny_some(case, "silent");
    assert_told(case, Told::Nothing);
    instance.stop();
}

fn a_reload_changes_whom_a_service_lets_in_and_touches_nothing_open(case: &mut Case) {
    own_clients(case);
    let text = |denied: u8| {
        let common = format!("[policy]\ndeny = \"{}\"", prefix_of(case, denied, 0));
        services_with(case, &common, "")
    };
    let instance = serve(case, &text(1));
    let target = SocketAddr::new(case.address(7), 80);
    let mut open = connected(case, 2, target);
    for round in 0..6_u8 {
        let denied = 1 + round % 2;
        if round > 0 {
            configure(&case.server, &text(denied));
            reload(&case.server, &instance).unwrap();
        }
        assert_eq!(told(case, client(case, denied), target, Told::Refused), Told::Refused, "round {round}");
        assert_eq!(told(case, client(case, 3 - denied), target, Told::LetIn), Told::LetIn, "round {round}");
        assert!(talks(&mut open), "an open connection was touched in round {round}");
    }
    let idle = services_with(case, "", "policy = { allow = [\"0.0.0.0/0\"] }");
    configure(&case.server, &idle);
    let error = reload(&case.server, &instance).unwrap_err();
    assert!(error.message.contains("nobody is denied"), "{error:?}");
}

fn whom_a_policy_denies_is_denied_during_an_upgrade_and_after_it(case: &mut Case) {
    let instance = deny_some(case, "refuse");
    let target = SocketAddr::new(case.address(7), 80);
    let is_over = AtomicBool::new(false);
    let case = &*case;
    std::thread::scope(|scope| {
        for (number, expected) in [(33, Told::Refused), (36, Told::LetIn)] {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(told(case, client(case, number), target, expected), expected);
                }
            });
        }
        for _ in 0..2 {
            let upgraded = Launch::new(&case.server).arguments("upgrade").finish();
            is_over.store(upgraded.code() != 0, Ordering::Relaxed);
            assert_eq!(upgraded.code(), 0, "{upgraded}\n{}", instance.stderr());
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_told(case, Told::Refused);
    instance.stop();
}

/// Three at once, and one more in twenty minutes.
const RATE: &str = "rate = \"3/h burst 3 per /32 /64\"";

fn a_source_comes_no_oftener_than_its_rate_and_others_are_let_in(case: &mut Case) {
    own_clients(case);
    let instance = serve(case, &services_with(case, &format!("[policy]\n{RATE}"), ""));
    let target = SocketAddr::new(case.address(7), 80);
    for round in 0..5 {
        let expected = if round < 3 { Told::LetIn } else { Told::Refused };
        assert_eq!(told(case, client(case, 1), target, expected), expected, "round {round} by TCP");
        assert_eq!(
            told_by_datagram(case, client(case, 1), target, expected),
            expected,
            "round {round} by UDP"
        );
    }
    // The services that have no rate of their own have one together.
    let other = SocketAddr::new(case.address(7), 81);
    assert_eq!(told(case, client(case, 1), other, Told::Refused), Told::Refused);
    assert_eq!(told(case, client(case, 2), target, Told::LetIn), Told::LetIn);
    await_denied(case, &instance, "rate", 5);
    assert_eq!(denied(case, &instance, "denied"), 0);
}

fn the_ack_of_a_syn_cookie_is_not_counted(case: &mut Case) {
    own_clients(case);
    case.server.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap());
    let _instance = serve(case, &services_with(case, "", &format!("policy = {{ {RATE} }}")));
    let target = SocketAddr::new(case.address(7), 80);
    for round in 0..5 {
        let expected = if round < 3 { Told::LetIn } else { Told::Refused };
        assert_eq!(told(case, client(case, 1), target, expected), expected, "round {round}");
    }
    let other = SocketAddr::new(case.address(7), 81);
    assert_eq!(told(case, client(case, 1), other, Told::LetIn), Told::LetIn, "who has no rate counts nobody");
}

fn clients_come_by_the_interfaces_that_a_policy_names(case: &mut Case) {
    own_clients(case);
    let common = "[policy]\ninterfaces = [\"lo\", \"uplink0\"]";
    let own = "policy = { interfaces = [\"uplink0\"] }";
    let instance = serve(case, &services_with(case, common, own));
    let [web, open] = [80, 81].map(|port| SocketAddr::new(case.address(7), port));
    assert_eq!(told(case, client(case, 1), open, Told::LetIn), Told::LetIn);
    // Linux before 5.17 does not tell a program by which interface a packet comes.
    let refused = if case.path == Path::SkLookup && !tells_interface() { Told::LetIn } else { Told::Refused };
    // Rules of iptables have no word for those.
    let refused = if judges_after_accept(case) { Told::Nothing } else { refused };
    assert_eq!(told(case, client(case, 1), web, refused), refused);
    assert_eq!(told_by_datagram(case, client(case, 1), web, refused), refused);
    if refused == Told::Refused {
        await_denied(case, &instance, "interface", 2);
    }
}

fn tells_interface() -> bool {
    Dispatcher::load(false, 0).unwrap().knows_interface()
}

fn whom_a_service_turns_away_most_is_told_and_recorded(case: &mut Case) {
    let instance = deny_some(case, "refuse");
    let target = SocketAddr::new(case.address(7), 80);
    let ask = |words: &str| Launch::new(&case.server).arguments(&format!("top-sources {words}")).finish();
    if case.path != Path::SkLookup {
        let refused = ask("");
        assert_eq!(refused.code(), 1);
        assert!(refused.stderr.contains("over tproxy the firewall"), "{refused}");
        return;
    }
    let nobody = ask("");
    assert!(nobody.stdout.contains("nobody was turned away"), "{nobody}");
    for number in [33, 33, 1, 33, 33, 9] {
        assert_eq!(told(case, client(case, number), target, Told::Refused), Told::Refused);
        // Of those that come within a tick one is told for all.
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(told_by_datagram(case, client(case, 33), target, Told::Refused), Told::Refused);
    let answer = eventually("all of them", PATIENCE, || {
        let answer: serde_json::Value = serde_json::from_str(&ask("web --json").stdout).unwrap();
        (answer["services"][0]["packets"].as_u64() >= Some(7)).then_some(answer)
    });
    let [service] = &answer["services"].as_array().unwrap()[..] else { panic!("{answer}") };
    let source = &service["sources"][0];
    let name = source["source"].as_str().unwrap();
    let prefix: Prefix = name.parse().unwrap();
    assert!(prefix.contains(client(case, 33)) && prefix.length() == case.family.pick(32, 64), "{answer}");
    assert!(source["packets"].as_u64() >= Some(4) && source["reason"] == "denied", "{answer}");
    assert_eq!(source["dialled"], target.to_string());
    let shown = ask("").stdout;
    assert!(shown.contains("web: ") && shown.contains(name), "{shown}");
    let unknown = ask("nobody");
    assert!(unknown.code() != 0 && unknown.stderr.contains("no service is called \"nobody\""), "{unknown}");
    // One line a second at most.
    let lines = || instance.stderr().lines().filter(|line| line.contains("denied service=web")).count();
    eventually("a record", PATIENCE, || (lines() >= 1).then_some(()));
    assert!(lines() < 7, "{}", instance.stderr());
    let client = format!("client={}", SocketAddr::new(client(case, 33), 0)).replace(":0", ":");
    assert!(
        instance.stderr().contains(&client) && instance.stderr().contains("reason=\"denied\""),
        "{}",
        instance.stderr()
    );
}

fn a_list_that_changes_is_read_again_and_a_wrong_one_changes_nothing(case: &mut Case) {
    own_clients(case);
    let write = |text: &str| {
        case.server.run(|| {
            std::fs::write("/run/denied.new", text).unwrap();
            std::fs::rename("/run/denied.new", "/run/denied.txt").unwrap();
        });
    };
    write(&prefix_of(case, 1, 0));
    let common = "[policy]\ndeny = [{ file = \"denied.txt\" }]";
    let text = services_with(case, common, "");
    let instance = serve(case, &text);
    let target = SocketAddr::new(case.address(7), 80);
    let is_denied = |number| told(case, client(case, number), target, Told::Refused) == Told::Refused;
    assert!(is_denied(1) && !is_denied(2));
    // What else stands in the configuration waits for a reload.
    configure(&case.server, &text.replace("echo", "hello"));
    write(&prefix_of(case, 2, 0));
    eventually("the list that has changed", PATIENCE, || is_denied(2).then_some(()));
    assert!(!is_denied(1));
    write("nobody");
    let status = || connect(&case.server, &instance).ask("status").unwrap();
    eventually("word of the wrong list", PATIENCE, || {
        let unseen = status()["unseen"].to_string();
        (unseen.contains("denied.txt:1") && unseen.contains("what they said before holds")).then_some(())
    });
    assert!(is_denied(2));
    write(&format!("{}\n{}", prefix_of(case, 2, 0), prefix_of(case, 3, 0)));
    eventually("the list that is right again", PATIENCE, || is_denied(3).then_some(()));
    assert!(is_denied(2));
    eventually("nothing to tell", PATIENCE, || status()["unseen"].is_null().then_some(()));
}

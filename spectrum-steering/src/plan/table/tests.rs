//! The compiled table against the slow scan.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use spectrum_common::DenyReason;

use super::*;
use crate::model::{
    Binding, Destination, DestinationId, OnDeny, PortRange, Prefix, Protocol, SourceEntry, SourcePolicy,
    SourceRule,
};
use crate::plan::{Bound, OwnPolicy, Plan, RunTimeSources};

fn service(name: usize, bindings: Vec<Binding>) -> Bound {
    Bound { name: format!("s{name}").parse().unwrap(), bindings, policy: None }
}

fn packet(protocol: Protocol, address: IpAddr, port: u16) -> Packet {
    Packet { domain: domain_of(protocol, Family::of(address)), address: address.into(), port }
}

/// Every answer of the table is that of the scan, for packets at and around every edge of the bindings.
fn check(plan: &Plan, extra: &[(Protocol, IpAddr, u16)]) {
    let table = Table::compile(&plan.bindings).unwrap();
    let mut packets = extra.to_vec();
    for planned in &plan.bindings {
        let Binding { protocol, prefix, ports } = planned.binding;
        for address in edges(prefix) {
            for port in [
                ports.first().wrapping_sub(1),
                ports.first(),
                ports.last(),
                ports.last().wrapping_add(1),
                1,
                65535,
            ] {
                packets.push((protocol, address, port));
            }
        }
    }
    for (protocol, address, port) in packets {
        let expected = plan
            .winner(protocol, address, port)
            .map_or(Verdict::Pass, |planned| Verdict::Assign(planned.destination));
        let steered = table.steer(&packet(protocol, address, port), address);
        assert_eq!(steered, expected, "{protocol} {address} {port} over {:#?}", plan.bindings);
    }
}

/// The first and last address of a prefix and their neighbours.
fn edges(prefix: Prefix) -> Vec<IpAddr> {
    let around = |first: u128, last: u128| [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
    match prefix.address() {
        IpAddr::V4(v4) => {
            let first = v4.to_bits();
            let last = first | u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
            around(first.into(), last.into())
                .map(|bits| {
                    IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits & u128::from(u32::MAX)).unwrap()))
                })
                .to_vec()
        }
        IpAddr::V6(v6) => {
            let first = v6.to_bits();
            let last = first | u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
            around(first, last).map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))).to_vec()
        }
    }
}

fn binding(text: &str) -> Binding {
    let [protocol, prefix, ports] = text.split(' ').collect::<Vec<_>>().try_into().unwrap();
    Binding {
        protocol: if protocol == "tcp" { Protocol::Tcp } else { Protocol::Udp },
        prefix: prefix.parse().unwrap(),
        ports: ports.parse().unwrap(),
    }
}

#[test]
fn no_bindings_pass_everything() {
    check(&Plan::default(), &[(Protocol::Tcp, "192.0.2.1".parse().unwrap(), 80)]);
}

#[test]
fn named_cases() {
    for bindings in [
        &["tcp 192.0.2.0/24 1-65535"][..],
        &["tcp 0.0.0.0/0 1-65535", "tcp ::/0 80", "udp 0.0.0.0/0 53"],
        &["tcp 0.0.0.0/0 80", "tcp 128.0.0.0/1 443", "tcp 192.0.2.1 1-65535", "tcp 192.0.2.0/24 22"],
        &["tcp 2001:db8::/32 1-1000", "tcp 2001:db8::/64 500-600", "tcp 2001:db8::1 550"],
        // The marker of a longer prefix where a shorter one stands, and a gap between lengths.
        &[
            "tcp 10.0.0.0/8 80",
            "tcp 10.1.0.0/16 81",
            "tcp 10.1.1.0/24 82",
            "tcp 10.1.1.1 83",
            "tcp 11.1.1.1 84",
        ],
        &["udp 192.0.2.0/24 27000-27100", "udp 192.0.2.0/24 3478", "udp 192.0.2.128/25 1-65535"],
        &["tcp ff00:: 80", "tcp 255.255.255.255 80"],
    ] {
        // The last case is no prefix a user can type; the table must not care.
        let bindings: Vec<Binding> = bindings
            .iter()
            .filter(|text| text.split(' ').nth(1).unwrap().parse::<Prefix>().is_ok())
            .map(|text| binding(text))
            .collect();
        let services: Vec<Bound> =
            bindings.into_iter().enumerate().map(|(name, binding)| service(name, vec![binding])).collect();
        check(&Plan::of(&services).unwrap(), &[]);
    }
}

#[test]
fn every_length_of_both_families_nested() {
    let mut services = Vec::new();
    for length in 0..=32 {
        let prefix = Prefix::containing("203.0.113.77".parse().unwrap(), length).unwrap();
        services.push(service(
            services.len(),
            vec![Binding { protocol: Protocol::Tcp, prefix, ports: PortRange::ALL }],
        ));
    }
    for length in 0..=128 {
        let prefix = Prefix::containing("2001:db8:5:6:7:8:9:abcd".parse().unwrap(), length).unwrap();
        services.push(service(
            services.len(),
            vec![Binding { protocol: Protocol::Udp, prefix, ports: PortRange::ALL }],
        ));
    }
    check(&Plan::of(&services).unwrap(), &[]);
}

#[test]
fn one_prefix_with_every_port_apart() {
    let bindings = (1..=65535_u16)
        .map(|port| Binding {
            protocol: Protocol::Tcp,
            prefix: "192.0.2.1".parse().unwrap(),
            ports: port.to_string().parse().unwrap(),
        })
        .collect::<Vec<_>>();
    let (even, odd): (Vec<_>, Vec<_>) =
        bindings.into_iter().partition(|binding| binding.ports.first() % 2 == 0);
    let plan = Plan::of(&[service(0, even), service(1, odd)]).unwrap();
    let table = Table::compile(&plan.bindings).unwrap();
    for port in 1..=65535_u16 {
        assert_eq!(
            table.steer(
                &packet(Protocol::Tcp, "192.0.2.1".parse().unwrap(), port),
                "198.51.100.1".parse().unwrap()
            ),
            Verdict::Assign(DestinationId(u32::from(port % 2))),
            "port {port}"
        );
    }
}

#[test]
fn random_hosts_cost_less_than_a_hundred_bytes_each() {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let count = 100_000;
    for v6 in [false, true] {
        let bindings: Vec<PlannedBinding> = (0..count)
            .map(|_| {
                let address: IpAddr = if v6 {
                    Ipv6Addr::from_bits(
                        u128::from(next()) << 64 | u128::from(next()) | 0x20 << 120 & !(0xc0 << 120),
                    )
                    .into()
                } else {
                    Ipv4Addr::from_bits(u32::try_from(next() >> 33).unwrap()).into()
                };
                let binding =
                    Binding { protocol: Protocol::Tcp, prefix: Prefix::host(address), ports: PortRange::ALL };
                PlannedBinding { binding, destination: DestinationId(0) }
            })
            .collect();
        let table = Table::compile(&bindings).unwrap();
        let bytes = table.bytes() / count;
        assert!(bytes < if v6 { 32 } else { 16 }, "{bytes} bytes for each binding");
    }
}

/// Addresses from few bits, so that prefixes nest and packets hit.
fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits & 0x0303_8101))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(
            bits & 0x0003_0000_0000_0001_8000_0000_0000_0003 | 0x2001 << 112
        ))),
    ]
}

fn bindings() -> impl Strategy<Value = Binding> {
    let ports = prop_oneof![
        Just(PortRange::ALL),
        (1_u16..20, 0_u16..10)
            .prop_map(|(first, width)| format!("{first}-{}", first + width).parse().unwrap()),
        (1_u16..=65535, 1_u16..=65535)
            .prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b)).parse().unwrap()),
    ];
    (any::<bool>(), addresses(), 0_u8..=128, ports).prop_map(|(udp, address, length, ports)| Binding {
        protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
        prefix: Prefix::containing(address, if address.is_ipv4() { length % 33 } else { length }).unwrap(),
        ports,
    })
}

proptest! {
    #[test]
    fn table_agrees_with_the_scan(
        bindings in prop::collection::vec(bindings(), 0..40),
        packets in prop::collection::vec((any::<bool>(), addresses(), 0_u16..40), 200),
    ) {
        let mut untied: Vec<Binding> = Vec::new();
        for binding in bindings {
            if !untied.iter().any(|other| other.ties(&binding)) {
                untied.push(binding);
            }
        }
        let services: Vec<Bound> =
            untied.into_iter().enumerate().map(|(name, binding)| service(name, vec![binding])).collect();
        let packets: Vec<_> = packets
            .into_iter()
            .map(|(udp, address, port)| (if udp { Protocol::Udp } else { Protocol::Tcp }, address, port))
            .collect();
        check(&Plan::of(&services).unwrap(), &packets);
    }
}

#[test]
fn destinations_are_numbered_by_service_protocol_and_family() {
    let plan = Plan::of(&[service(0, vec![binding("tcp 192.0.2.0/24 80"), binding("tcp 192.0.2.0/24 443")])])
        .unwrap();
    assert_eq!(
        plan.destinations.into_values().collect::<Vec<_>>(),
        [Destination {
            service: "s0".parse().unwrap(),
            revision: 0,
            family: Family::Ipv4,
            protocol: Protocol::Tcp
        }]
    );
}

/// Entries of which none ties.
fn source_policy(entries: Vec<SourceEntry>) -> SourcePolicy {
    let mut untied: Vec<SourceEntry> = Vec::new();
    for entry in entries {
        if !untied.iter().any(|other| other.prefix == entry.prefix) {
            untied.push(entry);
        }
    }
    SourcePolicy::of(&untied).unwrap()
}

fn source_entries() -> impl Strategy<Value = Vec<SourceEntry>> {
    let entry = (any::<bool>(), addresses(), 0_u8..=128).prop_map(|(denied, address, length)| SourceEntry {
        prefix: Prefix::containing(address, if address.is_ipv4() { length % 33 } else { length }).unwrap(),
        rule: if denied { SourceRule::Deny } else { SourceRule::Allow },
    });
    prop::collection::vec(entry, 0..30)
}

/// The word of the list that decides, by a look at every entry.
fn scanned(policy: &SourcePolicy, source: IpAddr) -> Option<(u8, SourceRule)> {
    let containing = policy.entries().iter().filter(|entry| entry.prefix.contains(source));
    containing.map(|entry| (entry.prefix.length(), entry.rule)).max_by_key(|(length, _)| *length)
}

/// What is said at run time of all services, and of the first of them.
fn said_at_run_time(common: Vec<SourceEntry>, own: Vec<SourceEntry>) -> RunTimeSources {
    let own = [("s0".parse().unwrap(), source_policy(own))].into();
    RunTimeSources { common: source_policy(common), own: std::sync::Arc::new(own), is_in_use: true }
}

proptest! {
    #[test]
    fn what_is_said_at_run_time_goes_before_a_policy_of_the_same_length(
        configured in [source_entries(), source_entries()],
        said in [source_entries(), source_entries()],
        said_next in [source_entries(), source_entries()],
        sources in prop::collection::vec((0_usize..2, addresses()), 100),
    ) {
        let [common, own] = configured;
        let policy = Some(OwnPolicy { sources: source_policy(own), ..OwnPolicy::default() });
        let bound = |name, port: &str| service(name, ["192.0.2.0/24", "2001:db8::/64"].map(|prefix| binding(&format!("tcp {prefix} {port}"))).into());
        let mut plan = Plan::of(&[Bound { policy, ..bound(0, "80") }, bound(1, "81")]).unwrap();
        plan.policies.common = source_policy(common);
        let [first, next] = [said, said_next].map(|[common, own]| said_at_run_time(common, own));
        let mut table = Table::on(&plan, &first, &|_name| None).unwrap();
        for run_time in [&first, &next] {
            table.run_time = table.run_time.refilled(run_time).unwrap().unwrap();
            for (at, source) in &sources {
                let (at, source) = (*at, *source);
                let address: IpAddr = if source.is_ipv4() { "192.0.2.7" } else { "2001:db8::7" }.parse().unwrap();
                let port = [80, 81][at];
                let name = format!("s{at}").parse().unwrap();
                let nothing = SourcePolicy::default();
                let lists = [
                    &plan.policies.common,
                    plan.policies.own.get(&name).map_or(&nothing, |own| &own.sources),
                    &run_time.common,
                    run_time.own.get(&name).unwrap_or(&nothing),
                ];
                let said = lists.into_iter().zip(0..).filter_map(|(list, rank)| {
                    scanned(list, source).map(|(length, rule)| (length, rank, rule))
                });
                let is_denied = said.max_by_key(|(length, rank, _)| (*length, *rank)).is_some_and(|(.., rule)| rule == SourceRule::Deny);
                let steered = table.steer(&packet(Protocol::Tcp, address, port), source);
                let id = plan.winner(Protocol::Tcp, address, port).unwrap().destination;
                let expected = if is_denied { Verdict::Refuse(id, DenyReason::Denied) } else { Verdict::Assign(id) };
                prop_assert_eq!(steered, expected, "{} of s{} over {:#?} and {:#?}", source, at, plan.policies, run_time);
                let denies = run_time.denies(&plan, Protocol::Tcp, source, address, port);
                prop_assert_eq!(denies.is_some(), is_denied);
            }
        }
        let more = RunTimeSources {
            own: std::sync::Arc::new([("s1".parse().unwrap(), SourcePolicy::default())].into()),
            ..next.clone()
        };
        prop_assert_eq!(table.run_time.refilled(&more).unwrap(), None, "a list that has no place");
    }

    #[test]
    fn sources_are_judged_as_a_scan_of_both_lists_judges_them(
        common in source_entries(),
        owns in prop::collection::vec(prop::option::of((source_entries(), any::<Option<bool>>())), 4),
        bindings in prop::collection::vec(bindings(), 4),
        silent in any::<bool>(),
        packets in prop::collection::vec((0_usize..4, addresses()), 100),
    ) {
        let on_deny = |silent: bool| if silent { OnDeny::Silent } else { OnDeny::Refuse };
        let mut services: Vec<Bound> = Vec::new();
        for (name, (binding, own)) in bindings.iter().zip(owns).enumerate() {
            if !services.iter().flat_map(|service| &service.bindings).any(|other| other.ties(binding)) {
                let policy = own.map(|(entries, silent)| OwnPolicy {
                    sources: source_policy(entries),
                    on_deny: silent.map(on_deny),
                    ..OwnPolicy::default()
                });
                services.push(Bound { policy, ..service(name, vec![*binding]) });
            }
        }
        let mut plan = Plan::of(&services).unwrap();
        plan.policies.common = source_policy(common);
        plan.policies.on_deny = on_deny(silent);
        let table = Table::of(&plan).unwrap();
        for (at, source) in packets {
            let Binding { protocol, prefix, ports } = services[at % services.len()].bindings[0];
            if source.is_ipv4() != prefix.address().is_ipv4() {
                continue;
            }
            let winner = plan.winner(protocol, prefix.address(), ports.first()).unwrap();
            let own = plan.policies.own.get(&plan.destinations[&winner.destination].service);
            let by_common = scanned(&plan.policies.common, source);
            let by_own = own.and_then(|own| scanned(&own.sources, source));
            let is_longer = by_common.map(|(length, _)| length) > by_own.map(|(length, _)| length);
            let said = if is_longer { by_common } else { by_own };
            let expected = match said {
                Some((_, SourceRule::Deny)) => match own.and_then(|own| own.on_deny).unwrap_or(on_deny(silent)) {
                    OnDeny::Refuse => Verdict::Refuse(winner.destination, DenyReason::Denied),
                    OnDeny::Silent => Verdict::Silence(winner.destination, DenyReason::Denied),
                },
                _ => Verdict::Assign(winner.destination),
            };
            let steered = table.steer(&packet(protocol, prefix.address(), ports.first()), source);
            prop_assert_eq!(steered, expected, "{} over {:#?}", source, plan.policies);
            let denies = plan.denies(protocol, source, prefix.address(), ports.first());
            prop_assert_eq!(denies.is_some(), !matches!(expected, Verdict::Assign(_)));
        }
    }
}

#[test]
fn a_million_denied_sources_cost_no_more_than_forty_bytes_each() {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let count = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
    for v6 in [false, true] {
        let entries: Vec<SourceEntry> = (0..count)
            .map(|_| {
                let (address, lengths): (IpAddr, _) = if v6 {
                    (
                        Ipv6Addr::from_bits(u128::from(next()) << 64 | u128::from(next())).into(),
                        [48, 56, 64, 128],
                    )
                } else {
                    (Ipv4Addr::from_bits(u32::try_from(next() >> 32).unwrap()).into(), [24, 32, 32, 32])
                };
                let length = lengths[usize::try_from(next() % 4).unwrap()];
                SourceEntry { prefix: Prefix::containing(address, length).unwrap(), rule: SourceRule::Deny }
            })
            .collect();
        let family = if v6 { "tcp 2001:db8::/64 80" } else { "tcp 192.0.2.0/24 80" };
        let mut plan = Plan::of(&[service(0, vec![binding(family)])]).unwrap();
        plan.policies.common = SourcePolicy::of(&entries).unwrap();
        let table = Table::of(&plan).unwrap();
        let bytes = table.bytes() / count;
        assert!(bytes <= 40, "{bytes} bytes for each source prefix");
    }
}

//! The maps and chains against the slow scan, and the shape of the texts.

use proptest::prelude::*;

use super::*;
use crate::model::{Binding, Prefix};

fn rule(protocol: Protocol, prefix: &str, ports: &str, listener: &str) -> Rule {
    Rule {
        binding: Binding { protocol, prefix: prefix.parse().unwrap(), ports: ports.parse().unwrap() },
        listener: listener.parse().unwrap(),
    }
}

fn compiled(rules: &[Rule]) -> Ruleset {
    Ruleset::compile(&Chain::of(7), &Firewall::of(rules.to_vec())).unwrap()
}

#[test]
fn all_ports_of_a_prefix_are_one_element() {
    assert_eq!(
        compiled(&[rule(Protocol::Tcp, "192.0.2.0/24", "1-65535", "127.0.0.1:40001")]).creation(),
        "table ip spectrum-7\n\
         delete table ip spectrum-7\n\
         table ip spectrum-7 {\n\
         chain gen1-to-tcp-40001 {\n\
         meta l4proto tcp tproxy to 127.0.0.1:40001\n\
         }\n\
         map gen1-tcp { type ipv4_addr : verdict; flags interval; elements = { \
         192.0.2.0-192.0.2.255 : goto gen1-to-tcp-40001,\n}; }\n\
         chain prerouting {\n\
         type filter hook prerouting priority mangle; policy accept;\n\
         }\n\
         }\n\
         flush chain ip spectrum-7 prerouting\n\
         table ip spectrum-7 {\n\
         chain prerouting {\n\
         meta l4proto tcp ip daddr vmap @gen1-tcp\n\
         }\n\
         }\n"
    );
}

/// Two sockets, of which the first has three slots of four.
fn shared(protocol: Protocol) -> Firewall {
    let sockets = ["127.0.0.1:8001", "127.0.0.1:8002"].map(|text| text.parse().unwrap());
    let [one, other] = [[0, 1], [1, 0]]
        .map(|[first, next]: [usize; 2]| SharedSlot { first: sockets[first], next: Some(sockets[next]) });
    let listener = Sharing::name(DestinationId(0), Family::Ipv4).unwrap();
    let slots = vec![one, other, one, one];
    Firewall::of(vec![rule(protocol, "192.0.2.0/24", "443", &listener.to_string())]).sharing(vec![Sharing {
        protocol,
        listener,
        slots,
    }])
}

#[test]
fn clients_are_divided_by_a_hash_and_go_on_where_a_socket_is_closed() {
    let text = Ruleset::compile(&Chain::of(7), &shared(Protocol::Tcp)).unwrap().creation();
    let seed = seed(&Chain::of(7));
    let refuse = "tcp flags & (fin | syn | rst | ack) == syn reject with tcp reset";
    for lines in [
        format!(
            "chain gen1-to-tcp-registered-0-1 {{\nmeta l4proto tcp tproxy to 127.0.0.1:8001 accept\n\
             meta l4proto tcp tproxy to 127.0.0.1:8002 accept\n{refuse}\n}}\n"
        ),
        format!(
            "chain gen1-to-tcp-registered-0-2 {{\nmeta l4proto tcp tproxy to 127.0.0.1:8002 accept\n\
             meta l4proto tcp tproxy to 127.0.0.1:8001 accept\n{refuse}\n}}\n"
        ),
        format!(
            "chain gen1-to-tcp-registered-0 {{\njhash ip saddr . tcp sport mod 4 seed {seed:#x} vmap {{ \
             0 : goto gen1-to-tcp-registered-0-1, 1 : goto gen1-to-tcp-registered-0-2, \
             2 : goto gen1-to-tcp-registered-0-1, 3 : goto gen1-to-tcp-registered-0-1 }}\n}}\n"
        ),
    ] {
        assert!(text.contains(&lines), "{lines}\nis not in\n{text}");
    }
    let text = Ruleset::compile(&Chain::of(7), &shared(Protocol::Udp)).unwrap().creation();
    assert!(text.contains("udp sport mod 4") && !text.contains("reject"), "{text}");
}

#[test]
fn the_seed_of_a_chain_stays() {
    let [one, same, other] = [7, 7, 8].map(|id| seed(&Chain::of(id)));
    assert_eq!(one, same);
    assert_ne!(one, other);
    let (chain, first) = (Chain::of(7), Ruleset::compile(&Chain::of(7), &shared(Protocol::Tcp)).unwrap());
    let next = first.next(&chain, &shared(Protocol::Tcp)).unwrap().creation();
    assert_eq!(next.replace("gen2", "gen1"), first.creation());
}

#[test]
fn a_longer_prefix_keeps_the_ports_of_the_shorter_that_it_does_not_bind() {
    let text = compiled(&[
        rule(Protocol::Udp, "2001:db8::/64", "1-65535", "[::1]:40001"),
        rule(Protocol::Udp, "2001:db8::7", "53", "[::1]:40002"),
    ])
    .creation();
    for line in [
        "udp dport vmap { 1-52 : goto gen1-to-udp-40001, 53 : goto gen1-to-udp-40002, 54-65535 : goto gen1-to-udp-40001 }\n",
        "2001:db8::-2001:db8::6 : goto gen1-to-udp-40001,\n2001:db8::7 : goto gen1-ports-udp-2,\n\
         2001:db8::8-2001:db8::ffff:ffff:ffff:ffff : goto gen1-to-udp-40001,\n",
        "meta l4proto udp tproxy to [::1]:40002\n",
    ] {
        assert!(text.contains(line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn everything_means_the_addresses_of_the_host() {
    let text = compiled(&[
        rule(Protocol::Tcp, "0.0.0.0/0", "22", "127.0.0.1:40001"),
        rule(Protocol::Tcp, "192.0.2.0/24", "80", "127.0.0.1:40002"),
    ])
    .creation();
    assert!(text.contains("meta l4proto tcp fib daddr type local goto gen1-ports-tcp-1\n"), "{text}");
    assert!(text.contains("{ 192.0.2.0-192.0.2.255 : goto gen1-ports-tcp-2,\n}"), "{text}");
    assert!(text.contains("{ 22 : goto gen1-to-tcp-40001, 80 : goto gen1-to-tcp-40002 }"), "{text}");
}

#[test]
fn equal_neighbours_are_one_element() {
    let rules: Vec<Rule> =
        (0..=255).map(|i| rule(Protocol::Tcp, &format!("192.0.2.{i}"), "80", "127.0.0.1:40001")).collect();
    let text = compiled(&rules).creation();
    assert!(text.contains("{ 192.0.2.0-192.0.2.255 : goto gen1-ports-tcp-1,\n}"), "{text}");
}

#[test]
fn a_replacement_exchanges_the_rules_and_then_removes_the_old_maps() {
    let chain = Chain::of(7);
    let before = compiled(&[
        rule(Protocol::Tcp, "192.0.2.0/24", "80", "127.0.0.1:40001"),
        rule(Protocol::Tcp, "2001:db8::/64", "80", "[::1]:40002"),
    ]);
    let firewall = Firewall::of(vec![rule(Protocol::Tcp, "192.0.2.0/24", "81", "127.0.0.1:40001")]);
    let after = before.next(&chain, &firewall).unwrap();
    let Replacement { preparation, exchange, cleanup, retreat } = after.replacement(&before);
    assert!(
        preparation.contains("map gen2-tcp {") && !preparation.contains("vmap @gen2-tcp"),
        "{preparation}"
    );
    assert_eq!(
        exchange,
        "flush chain ip spectrum-7 prerouting\n\
         table ip spectrum-7 {\n\
         chain prerouting {\n\
         meta l4proto tcp ip daddr vmap @gen2-tcp\n\
         }\n\
         }\n\
         delete table ip6 spectrum-7\n"
    );
    assert_eq!(retreat, cleanup.replace("gen1", "gen2"));
    assert_eq!(
        cleanup,
        "delete map ip spectrum-7 gen1-tcp\n\
         flush chain ip spectrum-7 gen1-ports-tcp-1\n\
         flush chain ip spectrum-7 gen1-to-tcp-40001\n\
         delete chain ip spectrum-7 gen1-ports-tcp-1\n\
         delete chain ip spectrum-7 gen1-to-tcp-40001\n"
    );
    assert_eq!(after.families().collect::<Vec<_>>(), [Family::Ipv4]);
}

#[test]
fn only_our_tables_are_listed() {
    let ours = [
        "table ip spectrum-7",
        "table ip6 spectrum-7",
        "table inet spectrum-8",
        "table inet spectrum-nat-3fa2c1",
    ];
    let others = "table ip mangle\ntable bridge spectrum-9\ntable ip spectral-1\ntable ip spectrum-nat-1\n";
    let listed = others.to_owned() + &ours.join("\n");
    assert_eq!(tables(&listed).map(|part| part.to_string()).collect::<Vec<_>>(), ours);
}

#[test]
fn more_elements_than_load_in_seconds_are_refused_with_the_number() {
    let count = u32::try_from(MAX_ELEMENTS).unwrap();
    // Every second address, so that none are neighbours.
    let rules = (0..=count)
        .map(|i| Rule {
            binding: Binding {
                protocol: Protocol::Tcp,
                prefix: Prefix::host(Ipv4Addr::from_bits(0x0a00_0000 + 2 * i).into()),
                ports: crate::model::PortRange::ALL,
            },
            listener: "127.0.0.1:40001".parse().unwrap(),
        })
        .collect();
    let error = Ruleset::compile(&Chain::of(7), &Firewall::of(rules)).unwrap_err().to_string();
    assert!(error.contains("200001") && error.contains("sk_lookup"), "{error}");
}

#[test]
fn whom_it_denies_changes_by_the_elements_that_differ_alone() {
    let listener = "127.0.0.1:40001".parse().unwrap();
    let rules = vec![Rule {
        binding: Binding {
            protocol: Protocol::Tcp,
            prefix: "192.0.2.0/24".parse().unwrap(),
            ports: "80".parse().unwrap(),
        },
        listener,
    }];
    let denying = |ranges: &[(&str, &str)], may_change| {
        let range = |(first, last): &(&str, &str)| (first.parse().unwrap(), last.parse().unwrap());
        Firewall::of(rules.clone()).denying(vec![Denial {
            family: Family::Ipv4,
            listeners: vec![(Protocol::Tcp, listener)],
            on_deny: crate::model::OnDeny::Refuse,
            ranges: ranges.iter().map(range).collect(),
            rate: None,
            interfaces: BTreeSet::new(),
            may_change,
        }])
    };
    let chain = Chain::of(7);
    let nobody = Ruleset::compile(&chain, &denying(&[], true)).unwrap();
    let some = denying(&[("10.0.0.0", "10.0.0.9"), ("10.0.1.1", "10.0.1.1")], true);
    let (text, some) = nobody.amended(&chain, &some).unwrap();
    assert_eq!(text, "add element ip spectrum-7 gen1-denied-1 { 10.0.0.0-10.0.0.9, 10.0.1.1 }\n");
    let fewer = denying(&[("10.0.0.0", "10.0.0.5"), ("10.0.1.1", "10.0.1.1")], true);
    let (text, fewer) = some.amended(&chain, &fewer).unwrap();
    assert_eq!(
        text,
        "delete element ip spectrum-7 gen1-denied-1 { 10.0.0.0-10.0.0.9 }\n\
         add element ip spectrum-7 gen1-denied-1 { 10.0.0.0-10.0.0.5 }\n"
    );
    let (text, none) = fewer.amended(&chain, &denying(&[], true)).unwrap();
    assert_eq!(text, "delete element ip spectrum-7 gen1-denied-1 { 10.0.0.0-10.0.0.5, 10.0.1.1 }\n");
    assert_eq!(none, nobody);
    assert_eq!(nobody.amended(&chain, &denying(&[], false)), None, "no rule asks a set any more");
    assert_eq!(nobody.amended(&chain, &Firewall::of(Vec::new())), None);
}

/// The decision of the text on a packet, read as the kernel reads it.
fn decided(text: &str, address: Ipv4Addr, port: u16) -> Option<String> {
    let within = |range: &str, wanted: u64, number: &dyn Fn(&str) -> u64| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        (number(first)..=number(last)).contains(&wanted)
    };
    let bits = |text: &str| u64::from(text.parse::<Ipv4Addr>().unwrap().to_bits());
    let elements = |list: &str| -> Vec<(String, String)> {
        list.split(',')
            .filter_map(|element| element.split_once(" : goto "))
            .map(|(range, chain)| (range.trim().to_owned(), chain.trim().to_owned()))
            .collect()
    };
    let map = text.split_once("elements = {")?.1.split_once('}')?.0;
    let found: Vec<(String, String)> = elements(map)
        .into_iter()
        .filter(|(range, _)| within(range, address.to_bits().into(), &bits))
        .collect();
    assert!(found.len() <= 1, "pieces overlap: {found:?}");
    let chain = &found.first()?.1;
    if chain.contains("-to-") {
        return Some(chain.clone());
    }
    let ports = text.split_once(&format!("chain {chain} {{\n"))?.1.split_once("{ ")?.1.split_once(" }")?.0;
    elements(ports)
        .into_iter()
        .find(|(range, _)| within(range, port.into(), &|text| text.parse().unwrap()))
        .map(|(_, chain)| chain)
}

proptest! {
    #[test]
    fn the_text_decides_as_the_scan_does(
        specs in prop::collection::vec((0_u32..64, 26_u8..=32, 0_usize..5, 40001_u16..40005), 1..24),
        dials in prop::collection::vec((0_u32..80, 1_u16..12), 40),
    ) {
        const RANGES: [&str; 5] = ["1-65535", "2-9", "3", "5-8", "9"];
        let base = 0x0a00_0000;
        let mut rules: Vec<Rule> = Vec::new();
        for (host, length, ports, listener) in specs {
            let binding = Binding {
                protocol: Protocol::Tcp,
                prefix: Prefix::containing(Ipv4Addr::from_bits(base + host).into(), length).unwrap(),
                ports: RANGES[ports].parse().unwrap(),
            };
            if !rules.iter().any(|rule| rule.binding.ties(&binding)) {
                rules.push(Rule { binding, listener: format!("127.0.0.1:{listener}").parse().unwrap() });
            }
        }
        let firewall = Firewall::of(rules);
        let text = Ruleset::compile(&Chain::of(7), &firewall).unwrap().creation();
        for (host, port) in dials {
            let address = Ipv4Addr::from_bits(base + host);
            let expected = firewall
                .rules()
                .iter()
                .find(|rule| rule.binding.matches(Protocol::Tcp, address.into(), port))
                .map(|rule| to(1, Protocol::Tcp, rule.listener));
            prop_assert_eq!(decided(&text, address, port), expected, "{} {} in\n{}", address, port, text);
        }
    }
}

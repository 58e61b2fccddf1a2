//! The loaded program's judgement of single packets, against a scan that is obviously right. Opens no connection.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use spectrum_tests::case::Case;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::random::Random;
use spectrum_tests::require::{self, Need};
use spectrum_tests::state::BpfObjects;
use spectrum_tests::test_run::{Judgement, Lookup, judge};

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

/// Whether the first `length` bits are those of `network`, bit by bit.
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
    if !require::met(test, Path::SkLookup.needs()) || !require::met(test, &[Need::Bpftool]) {
        return;
    }
    let mut case = Case::new(Path::SkLookup, Family::V4);
    let prefixes = PREFIXES.map(|(network, length)| format!("--prefix {network}/{length}")).join(" ");
    let ports = PORTS.each_ref().map(|ports| format!("{}-{}", ports.start(), ports.end())).join(",");
    let instance = case.start(&format!("{prefixes} --ports {ports}"));
    let program = BpfObjects::of_process(instance.pid()).ids("prog").next().unwrap();
    let mut tally = [0; 2];
    for _ in 0..400 {
        let dialled = SocketAddr::new(near_address(&mut case.random), near_port(&mut case.random));
        let client = if dialled.is_ipv4() { "198.18.0.1:999" } else { "[2001:2::1]:999" }.parse().unwrap();
        let protocol = if case.random.bits().is_multiple_of(10) { UDP } else { TCP };
        let lookup = Lookup { protocol, client, dialled };
        let expected = expected(&lookup);
        tally[usize::from(expected == Judgement::Assigned)] += 1;
        assert_eq!(judge(&case.server, program, lookup), expected, "{lookup:?}");
    }
    assert!(tally.iter().all(|count| *count > 50), "a one-sided draw: {tally:?}");
}

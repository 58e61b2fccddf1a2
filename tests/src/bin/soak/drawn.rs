//! Random configurations whose addresses the namespace owns anyway, so that what is not bound is refused and not lost.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use spectrum_tests::netns::Netns;
use spectrum_tests::random::Random;
use spectrum_tests::scan::{Binding, Protocol, Service, masked};

/// Everything that is dialled lies in one of these, and clients in the others.
const OWNED: [(&str, u8); 2] = [("192.0.0.0", 16), ("2001:db8::", 32)];
const CLIENTS: &str = "fd7a::/64";

/// Networks where bindings crowd, with the bits they may leave open.
const NETWORKS: [(&str, u8, u8); 6] = [
    ("192.0.2.0", 24, 8),
    ("192.0.2.64", 28, 4),
    ("192.0.64.0", 18, 14),
    ("2001:db8::", 64, 64),
    ("2001:db8::40", 124, 4),
    ("2001:db8:7::", 48, 80),
];

const MOST_SERVICES: u64 = 6;
const MOST_BINDINGS: u64 = 40;

/// Makes `netns` own what is dialled and what dials.
pub(crate) fn own(netns: &Netns) {
    for (address, length) in OWNED {
        let family = if address.contains(':') { "-6 " } else { "" };
        netns.ip(&format!("{family}route add local {address}/{length} dev lo"));
    }
    netns.ip(&format!("-6 route add local {CLIENTS} dev lo"));
}

/// Services that overlap each other as they please, but do not tie. A name has another answer every now and then.
pub(crate) fn services(random: &mut Random) -> Vec<Service> {
    let count = 1 + random.below::<usize>(MOST_SERVICES);
    let mut services: BTreeMap<usize, Service> = BTreeMap::new();
    let answers: Vec<&'static str> =
        (0..count).map(|_| if random.below::<u8>(2) == 0 { "hello" } else { "echo" }).collect();
    let mut taken: Vec<Binding> = Vec::new();
    for _ in 0..=random.below::<usize>(MOST_BINDINGS) {
        let (network, length, host) = NETWORKS[random.below::<usize>(NETWORKS.len() as u64)];
        let binding = Binding::draw(random, network.parse().expect("an address"), length, host);
        let number = random.below::<usize>(count as u64);
        // The greeting is for connections alone.
        let fits = binding.protocol == Protocol::Tcp || answers[number] == "echo";
        if !fits || taken.iter().any(|other| other.ties(&binding)) {
            continue;
        }
        taken.push(binding.clone());
        services
            .entry(number)
            .or_insert_with(|| Service {
                name: format!("s{number}"),
                respond: answers[number],
                bindings: Vec::new(),
            })
            .bindings
            .push(binding);
    }
    if services.is_empty() {
        return vec![Service::new("s0", "echo", &["tcp 192.0.2.0/24 1-65535", "udp 2001:db8::/64 1-65535"])];
    }
    services.into_values().collect()
}

/// A target to dial: in, around or beside what is bound, mostly by the protocol that is bound, and owned.
pub(crate) fn target(random: &mut Random, services: &[Service]) -> (Protocol, SocketAddr) {
    let bindings: Vec<&Binding> = services.iter().flat_map(|service| &service.bindings).collect();
    let binding = bindings[random.below::<usize>(bindings.len() as u64)];
    let protocol =
        if random.below::<u8>(8) == 0 { Protocol::ALL[random.below::<usize>(2)] } else { binding.protocol };
    let target = binding.target_near(random);
    let is_owned = OWNED.iter().any(|(owned, length)| {
        let owned: IpAddr = owned.parse().expect("an address");
        owned.is_ipv4() == target.is_ipv4() && masked(target.ip(), *length) == owned
    });
    let owned = if is_owned { target.ip() } else { "192.0.2.7".parse().expect("an address") };
    (protocol, SocketAddr::new(owned, target.port()))
}

/// The client of this number. No two that are near in time share an address, so that no session or TIME-WAIT of one is
/// another's.
pub(crate) fn client(number: u32, target: SocketAddr) -> IpAddr {
    let [_, a, b, c] = number.to_be_bytes();
    if target.is_ipv4() {
        // 127.0.0.x is for others.
        IpAddr::from([127, 1 + a % 254, b, c])
    } else {
        IpAddr::from([0xfd7a, 0, 0, 0, 0, 1, (number >> 16) as u16, (number & 0xffff) as u16])
    }
}

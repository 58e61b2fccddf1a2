//! Bindings as the tests know them, and which one wins by a scan that is obviously right. Shares nothing with the program.

use std::cmp::Reverse;
use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use crate::random::Random;

/// A protocol that is steered.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A protocol, a prefix and a range of ports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Binding {
    /// The protocol.
    pub protocol: Protocol,
    /// The first address of the prefix.
    pub network: IpAddr,
    /// The number of its bits that count.
    pub length: u8,
    /// The ports.
    pub ports: RangeInclusive<u16>,
}

/// A service of a configuration file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// `hello`, `echo` or `discard`.
    pub respond: &'static str,
    /// The bindings that are steered to it.
    pub bindings: Vec<Binding>,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];
}

impl Binding {
    /// Reads `tcp 192.0.2.0/24 80-443`.
    pub fn parse(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let [protocol, prefix, ports] = words[..] else { panic!("not a binding: {text}") };
        let (network, length) = prefix.split_once('/').expect("a prefix length");
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        Self {
            protocol: if protocol == "udp" { Protocol::Udp } else { Protocol::Tcp },
            network: network.parse().expect("an address"),
            length: length.parse().expect("a prefix length"),
            ports: first.parse().expect("a port")..=last.parse().expect("a port"),
        }
    }

    /// Any binding within `network`/`length`, whose prefix is at most `host` bits shorter than an address.
    pub fn draw(random: &mut Random, network: IpAddr, length: u8, host: u8) -> Self {
        let whole = whole(network);
        let own = whole - random.below::<u8>(u64::from(host.min(whole - length)) + 1);
        let (first, other) = (random.port(), random.port());
        let ports = match random.below(4) {
            0_u8 => 1..=u16::MAX,
            1 => first..=first,
            2 => first..=first.saturating_add(random.below(100)),
            _ => first.min(other)..=first.max(other),
        };
        Self {
            protocol: Protocol::ALL[random.below::<usize>(2)],
            network: masked(random.address(network, length), own),
            length: own,
            ports,
        }
    }

    /// True if a packet to `dialled` is one of its own.
    pub fn matches(&self, protocol: Protocol, dialled: SocketAddr) -> bool {
        self.protocol == protocol
            && self.ports.contains(&dialled.port())
            && is_within(dialled.ip(), self.network, self.length)
    }

    /// True if neither wins over the other where both match.
    pub fn ties(&self, other: &Self) -> bool {
        let ((a, b), (c, d)) = (self.edges(), other.edges());
        let nests = (a <= c && d <= b) || (c <= a && b <= d);
        (self.protocol, self.network, self.length) == (other.protocol, other.network, other.length)
            && a <= d
            && c <= b
            && (!nests || (a, b) == (c, d))
    }

    fn edges(&self) -> (u16, u16) {
        (*self.ports.start(), *self.ports.end())
    }

    /// An address and port in it, or right beside it, or a little way off.
    pub fn target_near(&self, random: &mut Random) -> SocketAddr {
        let (first, last) = self.edges();
        let port = match random.below(8) {
            0_u8 => random.port(),
            1 => last.saturating_add(1),
            2 => first.saturating_sub(1).max(1),
            3 => first,
            4 => last,
            _ => first + random.below::<u16>(u64::from(last - first) + 1),
        };
        let shorter = self.length - random.below::<u8>(u64::from(self.length.min(3)) + 1);
        let length = if random.below::<u8>(2) == 0 { self.length } else { shorter };
        SocketAddr::new(random.address(self.network, length), port)
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.edges();
        let protocol = if self.protocol == Protocol::Tcp { "tcp" } else { "udp" };
        write!(f, "{protocol} {}/{} {first}-{last}", self.network, self.length)
    }
}

impl Service {
    /// A service with these bindings, as [`Binding::parse`] reads them.
    pub fn new(name: &str, respond: &'static str, bindings: &[&str]) -> Self {
        let bindings = bindings.iter().map(|text| Binding::parse(text)).collect();
        Self { name: name.to_owned(), respond, bindings }
    }

    /// `count` services named `prefix` and a number, for either protocol, with `each` bindings of each drawn from the
    /// networks, of which no two tie.
    pub fn draw(
        random: &mut Random,
        prefix: &str,
        count: usize,
        each: usize,
        networks: &[(IpAddr, u8, u8)],
    ) -> Vec<Self> {
        let mut services: Vec<Self> = (0..count)
            .map(|number| {
                let respond = if number % 2 == 0 { "hello" } else { "echo" };
                Self { name: format!("{prefix}{number}"), respond, bindings: Vec::new() }
            })
            .collect();
        let mut taken: Vec<Binding> = Vec::new();
        while taken.len() < count * each {
            let (network, length, host) = networks[random.below::<usize>(networks.len() as u64)];
            let binding = Binding::draw(random, network, length, host);
            if taken.iter().any(|other| other.ties(&binding)) {
                continue;
            }
            // The greeting is for connections alone.
            let wanted = if binding.protocol == Protocol::Tcp { "hello" } else { "echo" };
            let service = random.below::<usize>(count as u64 / 2) * 2 + usize::from(wanted == "echo");
            services[service].bindings.push(binding.clone());
            taken.push(binding);
        }
        services.retain(|service| !service.bindings.is_empty());
        services
    }
}

/// The service that a packet to `dialled` goes to: of all bindings that match, the one of the longest prefix, and of
/// those the one of the narrowest range.
pub fn winner(services: &[Service], protocol: Protocol, dialled: SocketAddr) -> Option<&Service> {
    services
        .iter()
        .flat_map(|service| service.bindings.iter().map(move |binding| (binding, service)))
        .filter(|(binding, _)| binding.matches(protocol, dialled))
        .max_by_key(|(binding, _)| (binding.length, Reverse(binding.ports.len())))
        .map(|(_, service)| service)
}

/// The services as a configuration file.
pub fn configuration(services: &[Service]) -> String {
    let mut text = String::new();
    for Service { name, respond, bindings } in services {
        let _ = writeln!(text, "[[service]]\nname = \"{name}\"\nrespond = \"{respond}\"\nbindings = [");
        for binding in bindings {
            let protocol = if binding.protocol == Protocol::Tcp { "tcp" } else { "udp" };
            let (Binding { network, length, .. }, (first, last)) = (binding, binding.edges());
            let _ = writeln!(
                text,
                "  {{ protocol = \"{protocol}\", prefix = \"{network}/{length}\", ports = \"{first}-{last}\" }},"
            );
        }
        text.push_str("]\n");
    }
    text
}

/// `address` with all but its first `length` bits cleared.
pub fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            IpAddr::V4((v4.to_bits() & !u32::MAX.checked_shr(length.into()).unwrap_or(0)).into())
        }
        IpAddr::V6(v6) => {
            IpAddr::V6((v6.to_bits() & !u128::MAX.checked_shr(length.into()).unwrap_or(0)).into())
        }
    }
}

/// True if the first `length` bits are those of `network`, bit by bit.
fn is_within(address: IpAddr, network: IpAddr, length: u8) -> bool {
    address.is_ipv4() == network.is_ipv4()
        && bits(address).zip(bits(network)).take(length.into()).all(|(ours, theirs)| ours == theirs)
}

fn bits(address: IpAddr) -> impl Iterator<Item = bool> {
    let bits = match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    (0..128).map(move |bit| bits >> (127 - bit) & 1 == 1)
}

fn whole(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

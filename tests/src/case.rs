//! One case on one path with one address family, in a namespace of its own. What is checked is the case's affair.

use std::net::{IpAddr, SocketAddr};

use crate::instance::{Instance, Launch};
use crate::netns::Netns;
use crate::path::{Family, Path};
use crate::random::Random;
use crate::require::{self, Need};
use crate::share::{self, Variants};

/// The prefixes of both families, as arguments.
pub const BOTH_PREFIXES: &str = "--prefix 192.0.2.0/24 --prefix 2001:db8::/64";

/// The means of a steering case.
#[derive(Debug)]
pub struct Case {
    /// The path that is tried.
    pub path: Path,
    /// The family of everything that is dialled.
    pub family: Family,
    /// The namespace in which the program runs.
    pub server: Netns,
    /// The source of all that is drawn.
    pub random: Random,
}

/// Runs `case`, which has no other variants that count, if the machine can.
pub fn check(test: &str, path: Path, family: Family, case: impl FnOnce(&mut Case)) {
    check_variant(test, Variants::Few, path, family, case);
}

/// Runs `case`, one of these variants, if the machine can and it is its turn.
pub fn check_variant(
    test: &str,
    variants: Variants,
    path: Path,
    family: Family,
    case: impl FnOnce(&mut Case),
) {
    let needs_of_family: &[Need] = family.pick(&[], &[Need::Ipv6]);
    let is_possible = require::met(test, path.needs()) && require::met(test, needs_of_family);
    if is_possible && share::takes(test, variants, path, family) {
        case(&mut Case::new(path, family));
    }
}

impl Case {
    /// A fresh namespace with the path's tools in it.
    pub fn new(path: Path, family: Family) -> Self {
        let server = Netns::create().expect("make the server's namespace");
        assert!(path.install(&server), "no tools for {path}");
        Self { path, family, server, random: Random::seeded() }
    }

    /// The program with the path's flags and tools and these arguments (split at spaces), not yet started.
    pub fn launch(&self, arguments: &str) -> Launch<'_> {
        Launch::new(&self.server).arguments(self.path.flags()).arguments(arguments)
    }

    /// The program, started with these arguments and ready.
    pub fn start(&self, arguments: &str) -> Instance {
        let instance = self.launch(arguments).start();
        assert_eq!(instance.ready().mode, self.path.mode());
        instance
    }

    /// The program, started on the case's prefix with nothing else said, and ready.
    pub fn start_on_prefix(&self) -> Instance {
        self.start(&format!("--prefix {}", self.prefix()))
    }

    /// The program, started on a prefix of each family, and ready.
    pub fn start_on_both(&self, arguments: &str) -> Instance {
        self.start(&format!("{BOTH_PREFIXES} {arguments}"))
    }

    /// One target of each of [`BOTH_PREFIXES`].
    pub fn targets_of_both(&self) -> [SocketAddr; 2] {
        ["192.0.2.9:4443", "[2001:db8::9]:4443"].map(|target| target.parse().expect("an address and a port"))
    }

    /// A /24 or a /64.
    pub fn prefix(&self) -> &'static str {
        self.family.pick("192.0.2.0/24", "2001:db8::/64")
    }

    /// A larger prefix around [`Case::prefix`].
    pub fn surroundings(&self) -> &'static str {
        self.family.pick("192.0.0.0/16", "2001:db8::/48")
    }

    /// Some address of the prefix, always the same for the same `last`.
    pub fn address(&self, last: u8) -> IpAddr {
        self.family.parse(&format!("192.0.2.{last}"), &format!("2001:db8::{last:x}"))
    }

    /// Any address of the prefix.
    pub fn any_address(&mut self) -> IpAddr {
        let network = self.address(0);
        self.random.address(network, self.family.pick(24, 64))
    }

    /// Any address of the prefix with any port.
    pub fn any_target(&mut self) -> SocketAddr {
        SocketAddr::new(self.any_address(), self.random.port())
    }

    /// Addresses right below and right above the prefix, within the surroundings.
    pub fn just_outside(&self) -> [IpAddr; 2] {
        // Nothing of 2001:db8::/32 lies below the prefix itself, so the lower neighbour is the one before it.
        [
            self.family.parse("192.0.1.255", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff"),
            self.family.parse("192.0.3.0", "2001:db8:0:1::"),
        ]
    }

    /// The loopback address.
    pub fn loopback(&self) -> IpAddr {
        self.family.parse("127.0.0.1", "::1")
    }

    /// Makes the namespace own the surroundings of the prefix, so that what is dialled there reaches a socket lookup.
    pub fn own_surroundings(&self) {
        let ip = self.family.pick("route", "-6 route");
        self.server.ip(&format!("{ip} add local {} dev lo", self.surroundings()));
        for outside in self.just_outside() {
            let _ = self.server.output(&format!("ip {ip} add local {outside} dev lo"));
        }
    }
}

impl Family {
    /// The first for IPv4, the second for IPv6.
    pub fn pick<T>(self, v4: T, v6: T) -> T {
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
    }

    /// The address that the first or the second text is.
    pub fn parse(self, v4: &str, v6: &str) -> IpAddr {
        let text = self.pick(v4, v6);
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }
}

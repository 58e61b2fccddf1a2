//! Three servers of one prefix behind a router, and clients before it, each in a namespace of its own: BIRD on the router, which spreads
//! by layer 4, and BIRD or FRR on the servers, told what the program under test prints for them. Judges nothing.

pub mod daemon;
pub mod event;
pub mod follower;
pub mod load;
pub mod origin;
pub mod route_watch;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use self::daemon::{Daemon, Speaker};
use self::follower::Follower;
use self::load::{Load, LoadSize};
use self::origin::FleetOrigin;
use crate::case::Case;
use crate::control::{CONFIG, configure};
use crate::deadline::{PATIENCE, eventually};
use crate::instance::{Instance, Launch};
use crate::netns::Netns;
use crate::path::{Family, Path};
use crate::veth::join;

/// So many servers are there.
pub const SERVERS: usize = 3;

/// The port that is dialled.
const PORT: u16 = 443;

/// Clients whom the router leads elsewhere never say that they are gone, so that it passes in vain.
pub const DRAIN: &str = "1s";

/// How the router spreads what comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spreading {
    /// By a route with several next hops, as BIRD makes it.
    Hashed,
    /// By a group of next hops that keeps what flows through those that stay.
    Resilient,
}

/// A router, its clients and its servers.
#[derive(Debug)]
pub struct Fleet {
    /// Of the prefix.
    pub family: Family,
    /// Where clients are.
    pub client: Netns,
    /// What spreads them.
    pub router: Netns,
    /// Who serves them.
    pub servers: Vec<Server>,
    _follower: Option<Follower>,
    _router_daemon: Daemon,
}

/// A server of a fleet.
#[derive(Debug)]
pub struct Server {
    /// Its number, which its origin says.
    pub number: u8,
    /// Its namespace.
    pub case: Case,
    /// Its BGP daemon.
    pub daemon: Daemon,
    /// Its only origin.
    pub origin: FleetOrigin,
    /// The program under test.
    pub instance: Option<Instance>,
}

impl Server {
    /// What it serves at first.
    pub fn prefixes(&self) -> [&'static str; 2] {
        [self.case.prefix(), self.case.family.pick("198.18.7.0/24", "2001:db8:7::/64")]
    }

    /// Puts a configuration in place that serves `prefixes`, with so long a `drain`, and `more` of the service.
    pub fn configure(&self, prefixes: &[&str], drain: &str, more: &str) {
        let bindings: Vec<String> =
            prefixes.iter().map(|prefix| format!("{{ prefix = \"{prefix}\", ports = {PORT} }}")).collect();
        let text = format!(
            "[instance]\ndrain = \"{drain}\"\n\
             [announce]\nlame-duck = \"5s\"\nrise = \"500ms\"\nfall = \"500ms\"\nhold = \"2s\"\n\
             [[service]]\nname = \"web\"\nannounce = true\nannounce-when = \"origins >= 1\"\n\
             bindings = [{}]\norigins = [\"{}\"]\n\
             health = {{ interval = \"100ms\", timeout = \"10s\", rise = 1, fall = 2 }}\n{more}",
            bindings.join(", "),
            self.origin.address()
        );
        configure(&self.case.server, &text);
    }

    /// Starts the program under test.
    pub fn start(&mut self) {
        self.instance = Some(self.case.start(CONFIG));
    }

    /// The program that is there.
    pub fn instance(&self) -> &Instance {
        self.instance.as_ref().expect("an instance that runs")
    }
}

impl Fleet {
    /// Three servers that steer by `path` and speak BGP by `speaker`, all of them learned by the router.
    pub fn start(path: Path, family: Family, speaker: Speaker, spreading: Spreading) -> Self {
        let router = Netns::create().expect("make the router's namespace");
        let client = Netns::create().expect("make the clients' namespace");
        join(
            &router,
            &client,
            ["clients", "router"],
            &[("10.9.9.254", "10.9.9.1", 24), ("fd00:9:9::fe", "fd00:9:9::1", 64)],
        );
        client.ip("route add default via 10.9.9.254");
        client.ip("-6 route add default via fd00:9:9::fe");
        for (name, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/fib_multipath_hash_policy", "1"),
            ("net/ipv6/fib_multipath_hash_policy", "1"),
        ] {
            router.sysctl(name, value);
        }
        // BIRD removes an IPv6 route before it adds the next one, and who comes between is to wait and not to be refused.
        router.ip("-6 route add blackhole default metric 9999");
        let cases: Vec<Case> = (0..SERVERS).map(|_| Case::new(path, family)).collect();
        for (number, case) in cases.iter().enumerate() {
            let [ours, theirs] = [address(family, number, true), address(family, number, false)];
            let length = family.pick(24, 64);
            join(&router, &case.server, [&format!("server{number}"), "router"], &[(&ours, &theirs, length)]);
            case.server.ip(&format!("{} route add default via {ours}", family.pick("-4", "-6")));
        }
        let router_daemon = Daemon::start(&router, Speaker::Bird, &router_config(family, spreading));
        let servers: Vec<Server> = cases
            .into_iter()
            .enumerate()
            .map(|(number, case)| Server::begin(number, case, speaker))
            .collect();
        let follower = (spreading == Spreading::Resilient)
            .then(|| Follower::start(&router, family, servers[0].case.prefix()));
        let fleet =
            Self { family, client, router, servers, _follower: follower, _router_daemon: router_daemon };
        fleet.await_learned(&(0..SERVERS).collect());
        eventually("the other prefix by way of all", PATIENCE, || {
            let is_learned =
                spreading == Spreading::Resilient || fleet.hops(fleet.prefixes()[1]).len() == SERVERS;
            is_learned.then_some(())
        });
        fleet
    }

    /// The prefix that all serve.
    pub fn prefix(&self) -> &'static str {
        self.servers[0].case.prefix()
    }

    /// This one and another, which all serve as well.
    pub fn prefixes(&self) -> [&'static str; 2] {
        self.servers[0].prefixes()
    }

    /// Begins so much load on `prefix`.
    pub fn load(&self, prefix: &str, size: LoadSize) -> Load {
        let (network, length) = prefix.split_once('/').expect("a prefix");
        let network = SocketAddr::new(network.parse().expect("an address"), PORT);
        Load::start(&self.client, network, length.parse().expect("a length"), size)
    }

    /// The servers to which the router sends packets to `prefix`.
    pub fn hops(&self, prefix: &str) -> BTreeSet<usize> {
        let family = self.family.pick("-4", "-6");
        servers_of(&self.router.ip(&format!("-o {family} route show {prefix}")))
    }

    /// Waits until the router sends to these servers and to no other.
    pub fn await_learned(&self, servers: &BTreeSet<usize>) {
        let prefix = self.prefix();
        eventually(&format!("{prefix} by way of {servers:?}"), PATIENCE, || {
            (self.hops(prefix) == *servers).then_some(())
        });
    }
}

impl Server {
    fn begin(number: usize, case: Case, speaker: Speaker) -> Self {
        let name = u8::try_from(number).expect("few servers");
        let origin = FleetOrigin::serve(&case.server, case.loopback(), name);
        let bare = Daemon::none(speaker);
        let mut server = Self { number: name, case, daemon: bare, origin, instance: None };
        server.configure(&server.prefixes(), DRAIN, "");
        let config = server.daemon_config(speaker);
        server.daemon = Daemon::start(&server.case.server, speaker, &config);
        server.start();
        server
    }

    /// Starts its daemon anew, with BFD beside BGP.
    pub fn watch_by_bfd(&mut self, speaker: Speaker) {
        let config = speaker.with_bfd(&self.daemon_config(speaker));
        self.daemon = Daemon::none(speaker);
        self.daemon = Daemon::start(&self.case.server, speaker, &config);
    }

    /// What the program under test prints for its daemon, with the addresses of this fleet in it.
    fn daemon_config(&self, speaker: Speaker) -> String {
        let family = self.case.family;
        let printed =
            Launch::new(&self.case.server).arguments(&format!("announce --{speaker} {CONFIG}")).finish();
        assert_eq!(printed.code(), 0, "{printed}");
        let router = address(family, usize::from(self.number), true);
        let text = printed
            .stdout
            .replace(family.pick("198.51.100.254", "2001:db8:ffff::254"), &router)
            .replace("198.51.100.1", &format!("10.9.0.{}", self.number + 1));
        assert!(text.contains(&router), "{text}");
        text
    }
}

/// The servers that `text` of `ip` or `birdc` names, by their links: the address of an IPv6 next hop may be one that a link gave itself.
fn servers_of(text: &str) -> BTreeSet<usize> {
    (0..SERVERS).filter(|number| text.contains(&format!("server{number} "))).collect()
}

/// The address of the router or of the server on the link between them.
fn address(family: Family, server: usize, of_router: bool) -> String {
    let last = match (family, of_router) {
        (Family::V4, true) => "254",
        (Family::V6, true) => "fe",
        (_, false) => "1",
    };
    match family {
        Family::V4 => format!("10.9.{server}.{last}"),
        Family::V6 => format!("fd00:9:{server}::{last}"),
    }
}

fn router_config(family: Family, spreading: Spreading) -> String {
    let channel = family.pick("ipv4", "ipv6");
    let export = match spreading {
        Spreading::Hashed => "where source = RTS_BGP",
        Spreading::Resilient => "none",
    };
    let sessions = (0..SERVERS).map(|number| {
        let neighbor = address(family, number, false);
        format!("protocol bgp server{number} from server {{ neighbor {neighbor} as 64511; }}\n")
    });
    let text = format!(
        "router id 10.9.9.254;\nprotocol device {{ scan time 1; }}\nprotocol bfd {{ }}\n\
         protocol kernel {{ merge paths on; {channel} {{ import none; export {export}; }}; }}\n\
         template bgp server {{\n  local as 64496;\n  connect delay time 1;\n  connect retry time 1;\n  error wait time 1, 2;\n  \
         graceful restart on;\n  bfd graceful;\n  {channel} {{ import all; export none; }};\n}}\n"
    );
    text + &sessions.collect::<String>()
}

//! Every cure that doctor, status or a refused start prints as a command, taken from what is printed and given to a shell
//! where the fault is: the finding goes, and traffic flows. Cures in words are read by people; those that load modules or
//! install packages are for a whole host, and only their form is tested, with the program's own parts.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;
use spectrum_tests::case::Case;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_answered, dial};
use spectrum_tests::instance::{Launch, program};
use spectrum_tests::netns::Netns;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::require::{self, Need};
use spectrum_tests::veth;

/// NAT is heeded, so that it is the cure that heals.
const CONFIG: &str = r#"
[dispatcher]
mode = "tproxy"
firewall = "nftables"
nat = "heed"
[[service]]
name = "default"
respond = "hello"
bindings = [{ prefix = ["192.0.2.0/24", "2001:db8::/64"], ports = "80,8000-9000" }]
"#;

/// A host that serves [`CONFIG`] or is to, with a client.
struct Host {
    server: Netns,
    client: Netns,
}

impl Host {
    fn new(test: &str) -> Option<Self> {
        let needs = [Need::Netns, Need::Program, Need::Nftables, Need::IptablesNft, Need::Ipv6];
        if !require::met(test, &needs) {
            return None;
        }
        let case = Case::new(Path::TproxyNftables, Family::V4);
        case.server.run(|| fs::write("/run/spectrum.toml", CONFIG)).unwrap();
        let client = veth::client_of(&case.server);
        Some(Self { server: case.server, client })
    }

    /// Runs a command line as whoever pastes it; false where it fails.
    fn paste(&self, line: &str) -> bool {
        let directory = program().unwrap().parent().unwrap().display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).env("PATH", format!("{directory}:{path}:/usr/sbin:/sbin"));
        let output = self.server.run(|| shell.output()).unwrap();
        if !output.status.success() {
            eprintln!("{line}: {}", String::from_utf8_lossy(&output.stderr));
        }
        output.status.success()
    }

    /// The cures that doctor names for `check`.
    fn cures(&self, check: &str) -> Vec<String> {
        let said = Launch::new(&self.server).arguments("doctor --config /run/spectrum.toml --json").finish();
        let said: Value =
            serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
        let findings = said["findings"].as_array().unwrap().iter();
        findings
            .filter(|finding| finding["check"] == check && finding["verdict"] != "ok")
            .map(|finding| finding["cure"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The obstacles that status names.
    fn obstacles(&self) -> Vec<String> {
        let said = Launch::new(&self.server).arguments("status --json").finish();
        let said: Value =
            serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
        said["obstacles"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    }

    fn assert_serves(&self) {
        assert_answered(&self.client, &targets());
    }
}

fn targets() -> [SocketAddr; 4] {
    ["192.0.2.7:80", "192.0.2.7:8080", "[2001:db8::7]:80", "[2001:db8::7]:8080"]
        .map(|target| target.parse().unwrap())
}

/// The commands that make each fault, and the check of doctor's that finds it.
const FAULTS: &[(&str, &str)] = &[
    ("ip link set lo down", "lo"),
    ("ip addr del 127.0.0.1/8 dev lo", "lo"),
    ("sysctl -qw net.ipv6.conf.lo.disable_ipv6=1", "lo"),
    ("sysctl -qw net.ipv4.conf.to-client.rp_filter=1", "rp_filter"),
    ("sysctl -qw net.ipv4.tcp_syncookies=0", "tcp_syncookies"),
    ("sysctl -qw net.ipv4.tcp_syncookies=2", "tcp_syncookies"),
    ("sysctl -qw net.core.somaxconn=128", "somaxconn"),
    ("iptables-nft -A INPUT -p tcp --dport 8080 -j DROP", "obstacle"),
    ("iptables-nft -N x && iptables-nft -A INPUT -j x && iptables-nft -A x -j REJECT", "obstacle"),
    ("iptables-legacy -A INPUT -d 192.0.2.0/24 -j DROP", "obstacle"),
    ("ip6tables-nft -P INPUT DROP && ip6tables-nft -A INPUT -p ipv6-icmp -j ACCEPT", "obstacle"),
    (
        "nft 'table inet fw { chain in { type filter hook input priority 0; policy drop; icmpv6 type != 255 accept; }; }'",
        "obstacle",
    ),
    (
        "nft 'table inet fw { chain early { type filter hook prerouting priority -300; tcp dport { 80, 443 } drop; }; }'",
        "obstacle",
    ),
    (
        "nft 'table inet fw { chain in { type filter hook input priority 0; tcp dport vmap { 22 : accept, 8080 : drop }; }; }'",
        "obstacle",
    ),
    (PUBLISHED, "obstacle"),
    (PUBLISHED_IN_LEGACY, "obstacle"),
    (
        "nft 'table inet nv { chain p { type nat hook prerouting priority -100; fib daddr type local jump x; }; chain x { tcp dport 8080 dnat ip to 198.51.100.9:80; }; }'",
        "obstacle",
    ),
    (
        "nft 'table ip mine { chain p { type nat hook prerouting priority -150; tcp dport 8080 redirect to :22; }; }'",
        "obstacle",
    ),
];

const PUBLISHED: &str = "for t in iptables-nft ip6tables-nft; do $t -t nat -N DOCKER && \
     $t -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER && $t -t nat -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER \
     || exit; done; iptables-nft -t nat -A DOCKER -p tcp --dport 8080 -j DNAT --to-destination 198.51.100.9:80 && \
     ip6tables-nft -t nat -A DOCKER -p tcp --dport 8080 -j DNAT --to-destination [2001:db8:ffff::9]:80";

const PUBLISHED_IN_LEGACY: &str = "iptables-legacy -t nat -A PREROUTING -m addrtype --dst-type LOCAL -p tcp --dport 8080 -j DNAT \
     --to-destination 198.51.100.9:80";

#[test]
fn what_doctor_prints_heals_what_it_finds() {
    for (fault, check) in FAULTS {
        let Some(host) = Host::new("what_doctor_prints_heals_what_it_finds") else { return };
        // What is strict there already is another fault.
        if *check != "rp_filter" {
            assert!(
                host.paste("sysctl -qw net.ipv4.conf.to-client.rp_filter=0 net.ipv4.conf.all.rp_filter=0")
            );
        }
        if !host.paste(fault) {
            // A kernel or machine without the legacy tables, or without NAT.
            eprintln!("SKIP what_doctor_prints_heals_what_it_finds: needs {fault}");
            continue;
        }
        let cures = host.cures(check);
        assert!(!cures.is_empty(), "{fault}: not found");
        for cure in &cures {
            assert!(host.paste(cure), "{fault}: {cure}");
        }
        assert_eq!(host.cures(check), [""; 0], "{fault}, after {cures:?}");
        let _instance = Launch::new(&host.server).arguments("--config /run/spectrum.toml").start();
        host.assert_serves();
    }
}

#[test]
fn conntrack_is_left_with_no_entry_by_the_cure() {
    let Some(host) = Host::new("conntrack_is_left_with_no_entry_by_the_cure") else { return };
    let tracking = "for t in iptables-nft ip6tables-nft; do $t -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT || exit; done";
    if !host.paste(tracking) {
        eprintln!("SKIP conntrack_is_left_with_no_entry_by_the_cure: needs conntrack");
        return;
    }
    let entries = || {
        let count = "/proc/sys/net/netfilter/nf_conntrack_count";
        host.server.run(|| fs::read_to_string(count)).unwrap().trim().parse::<u64>().unwrap()
    };
    let _instance = Launch::new(&host.server).arguments("--config /run/spectrum.toml").start();
    host.assert_serves();
    assert!(entries() >= 4, "{}", entries());
    let cures = host.cures("conntrack");
    assert_eq!(cures.len(), 1);
    assert!(host.paste(&cures[0]), "{cures:?}");
    assert_eq!(host.cures("conntrack"), [""; 0]);
    // What was followed before has its time; nothing comes on top.
    let before = entries();
    for _ in 0..5 {
        host.assert_serves();
    }
    assert!(entries() <= before, "{before} entries became {}", entries());
}

#[test]
fn a_firewall_that_accepts_by_state_is_told_of_instead_of_cut_off() {
    let Some(host) = Host::new("a_firewall_that_accepts_by_state_is_told_of_instead_of_cut_off") else {
        return;
    };
    let stateful = "iptables-nft -A INPUT -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT && iptables-nft -P INPUT DROP";
    if !host.paste(stateful) {
        eprintln!("SKIP a_firewall_that_accepts_by_state_is_told_of_instead_of_cut_off: needs conntrack");
        return;
    }
    let cure = &host.cures("conntrack")[0];
    assert!(cure.starts_with("first a rule by which untracked packets"), "{cure}");
    assert!(cure.contains("iptables filter INPUT: policy DROP"), "{cure}");
    // Done as it says, the next one is a command, and traffic flows.
    assert!(host.paste("iptables-nft -A INPUT -p tcp -m multiport --dports 80,8000:9000 -m conntrack --ctstate UNTRACKED -j ACCEPT"));
    let cure = host.cures("conntrack").remove(0);
    assert!(host.paste(&cure), "{cure}");
    assert_eq!(host.cures("conntrack"), [""; 0]);
    let _instance = Launch::new(&host.server).arguments("--config /run/spectrum.toml").start();
    host.assert_serves();
}

#[test]
fn what_status_prints_heals_what_it_names() {
    let Some(host) = Host::new("what_status_prints_heals_what_it_names") else { return };
    let _instance = Launch::new(&host.server).arguments("--config /run/spectrum.toml").start();
    assert!(host.paste(PUBLISHED));
    assert!(host.paste("iptables-nft -A INPUT -p tcp --dport 80 -j DROP"));
    assert!(host.paste(
        "nft 'table inet fw { chain in { type filter hook input priority 0; ip6 daddr 2001:db8::7 drop; }; }'"
    ));
    let bridged = "net/bridge/bridge-nf-call-iptables";
    let has_bridges = host.server.run(|| fs::exists(format!("/proc/sys/{bridged}")).unwrap());
    if has_bridges {
        host.server.sysctl(bridged, "1");
    }
    assert!(targets().iter().all(|target| host.client.run(|| {
        std::net::TcpStream::connect_timeout(target, std::time::Duration::from_secs(1)).is_err()
    })));
    let obstacles = host.obstacles();
    let about = [
        "rp_filter is strict",
        "DNAT --to-destination 198.51",
        "DNAT --to-destination [2001",
        "--dport 80 -j DROP",
        "ip6 daddr",
    ];
    for about in about.into_iter().chain(has_bridges.then_some(bridged)) {
        assert!(obstacles.iter().any(|obstacle| obstacle.contains(about)), "{about}: {obstacles:#?}");
    }
    for obstacle in &obstacles {
        let (_, cure) = obstacle.split_once("; cure: ").unwrap_or_else(|| panic!("no cure: {obstacle}"));
        assert!(host.paste(cure), "{cure}");
    }
    // The cure of one rule of NAT makes the table that another's would make.
    assert_eq!(host.obstacles(), [""; 0]);
    host.assert_serves();
}

#[test]
fn what_a_refused_start_prints_heals_it() {
    for fault in [
        "ip link set lo down",
        "ip addr del 127.0.0.1/8 dev lo",
        "sysctl -qw net.ipv6.conf.lo.disable_ipv6=1",
    ] {
        let Some(host) = Host::new("what_a_refused_start_prints_heals_it") else { return };
        assert!(host.paste(fault));
        let refused = Launch::new(&host.server).arguments("--config /run/spectrum.toml").finish();
        assert_eq!(refused.code(), 1, "{fault}: {refused}");
        let (_, cure) = refused.stderr.split_once("(try: ").unwrap_or_else(|| panic!("{fault}: {refused}"));
        let (cure, _) = cure.split_once(')').unwrap();
        assert!(host.paste(cure), "{cure}");
        let _instance = Launch::new(&host.server).arguments("--config /run/spectrum.toml").start();
        host.assert_serves();
    }
}

#[test]
fn leftovers_go_by_the_cure() {
    let Some(host) = Host::new("leftovers_go_by_the_cure") else { return };
    let instance = Launch::new(&host.server).arguments("--config /run/spectrum.toml").start();
    eventually("an answer", PATIENCE, || dial(&host.client, targets()[0]).ok());
    instance.kill();
    let cures = host.cures("leftovers");
    assert_eq!(cures, ["spectrum-user clean"]);
    assert!(host.paste(&cures[0]));
    assert_eq!(host.cures("leftovers"), [""; 0]);
}

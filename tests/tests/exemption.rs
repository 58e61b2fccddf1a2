//! Rules of NAT that would take connections to what is bound, as container engines and firewall managers make them, and
//! what an instance does about them. How rules are understood is tested with the program's own parts.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use spectrum_tests::case::Case;
use spectrum_tests::control::{await_logged, configure, reload};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_answered, dial};
use spectrum_tests::instance::Launch;
use spectrum_tests::netns::Netns;
use spectrum_tests::nft_fault::NftFault;
use spectrum_tests::on_every_path;
use spectrum_tests::origin::Origin;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::require::{self, Need};
use spectrum_tests::state::State;
use spectrum_tests::veth;

on_every_path!(
    a_port_that_a_container_publishes_stays_ours,
    a_client_in_a_container_is_answered,
    what_container_engines_do_takes_nothing,
);

/// A host of which a container publishes port 8080, on every local address.
struct Publishing {
    client: Netns,
    /// The namespace of the container.
    _container: (Netns, Origin),
}

impl Publishing {
    fn by(case: &Case, program: &str) -> Option<Self> {
        let client = veth::client_of(&case.server);
        let container = veth::origin_of(&case.server);
        case.server.sysctl("net/ipv4/ip_forward", "1");
        case.server.sysctl("net/ipv6/conf/all/forwarding", "1");
        let address = SocketAddr::new(veth::origin_address(case.family), 80);
        let origin = Origin::saying(&container, address, "the container");
        let publishes = publish(&case.server, case.family, program, address);
        publishes.then_some(Self { client, _container: (container, origin) })
    }
}

/// Adds Docker's rules, by that program of the family; false where the kernel has no such NAT.
fn publish(server: &Netns, family: Family, program: &str, to: SocketAddr) -> bool {
    let tool = family.pick(program.to_owned(), program.replace("iptables", "ip6tables"));
    let loopback = family.pick("127.0.0.0/8", "::1/128");
    [
        "-N DOCKER".to_owned(),
        "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER".to_owned(),
        format!("-A OUTPUT ! -d {loopback} -m addrtype --dst-type LOCAL -j DOCKER"),
        "-A DOCKER -i docker0 -j RETURN".to_owned(),
        format!("-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination {to}"),
    ]
    .iter()
    .all(|rule| server.output(&format!("{tool} -t nat {rule}")).status.success())
}

/// The case's prefix, and an address and port of it that a container publishes.
fn dialled(case: &mut Case) -> (SocketAddr, SocketAddr) {
    let address = case.any_address();
    ((address, 8080).into(), (address, 8081).into())
}

fn says_the_container(netns: &Netns, target: SocketAddr) -> bool {
    dial(netns, target).is_ok_and(|heard| heard.text == "the container")
}

fn status(case: &Case) -> String {
    Launch::new(&case.server).arguments("status").finish().stdout
}

fn a_port_that_a_container_publishes_stays_ours(case: &mut Case) {
    let test = "a_port_that_a_container_publishes_stays_ours";
    if !require::met(test, &[Need::Nftables, Need::IptablesNft]) {
        return;
    }
    for program in ["iptables-nft", "iptables-legacy"] {
        let mut case = Case::new(case.path, case.family);
        let Some(host) = Publishing::by(&case, program) else {
            assert_eq!(program, "iptables-legacy", "every kernel with nftables here has its NAT");
            continue;
        };
        let (published, beside) = dialled(&mut case);
        let before = State::of(&case.server);
        let instance = case.start_on_prefix();
        assert_answered(&host.client, &[published, beside]);
        assert_answered(&case.server, &[published, beside]);
        // What is not bound is the container's as before.
        let own = SocketAddr::new(veth::server_address(case.family), 8080);
        assert!(says_the_container(&host.client, own));
        let seen = status(&case);
        assert!(seen.contains(&format!("table inet spectrum-nat-{}", instance.id(&case.server))), "{seen}");
        assert!(seen.contains("would take connections to") && seen.contains("exempted"), "{seen}");
        let explained =
            Launch::new(&case.server).arguments(&format!("explain tcp {published}")).finish().stdout;
        assert!(explained.contains("nat DOCKER: `-A DOCKER ! -i docker0 -p tcp"), "{explained}");
        await_logged(&instance, "exempted what is bound from NAT", 1);
        instance.stop();
        before.assert_restored(&case.server, "a stop");
        assert!(!case.server.command("nft list tables").contains("spectrum"));
    }
}

/// Docker's bridge with a container on it: its packets come in by the bridge, and are masqueraded elsewhere.
fn a_client_in_a_container_is_answered(case: &mut Case) {
    let test = "a_client_in_a_container_is_answered";
    if !require::met(test, &[Need::Nftables, Need::IptablesNft]) {
        return;
    }
    let server = &case.server;
    if !server.output("ip link add docker0 type bridge").status.success() {
        assert!(!require::met(test, &[]), "no bridges here");
        return;
    }
    let Some(_host) = Publishing::by(case, "iptables-nft") else { panic!("no NAT") };
    let container = Netns::create().unwrap();
    for netns in [server, &container] {
        netns.sysctl("net/ipv6/conf/default/accept_dad", "0");
    }
    let (ours, theirs, bits) = case.family.pick(("172.17.0.1", "172.17.0.2", 16), ("fd17::1", "fd17::2", 64));
    server.ip(&format!("link add in type veth peer name eth0 netns {}", container.path().display()));
    server.ip("link set in master docker0 up");
    let nodad = case.family.pick("", " nodad");
    server.ip(&format!("addr add {ours}/{bits} dev docker0{nodad}"));
    server.ip("link set docker0 up");
    container.ip(&format!("addr add {theirs}/{bits} dev eth0{nodad}"));
    container.ip("link set eth0 up");
    let ip = case.family.pick("", "-6 ");
    container.ip(&format!("{ip}route add default via {ours}"));
    let tool = case.family.pick("iptables-nft", "ip6tables-nft");
    server.command(&format!("{tool} -t nat -A POSTROUTING -s {theirs}/{bits} ! -o docker0 -j MASQUERADE"));
    // Where the kernel has it, packets meet the rules while they are on the bridge.
    let bridged =
        case.family.pick("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables");
    let may_be_bridged = server.run(|| fs::exists(format!("/proc/sys/{bridged}")).unwrap());
    if may_be_bridged {
        server.sysctl(bridged, "1");
    }
    let instance = case.start_on_prefix();
    if may_be_bridged {
        let cure = format!("sysctl -w {bridged}=0");
        let is_named = status(case).contains(&cure);
        assert_eq!(is_named, case.path != Path::SkLookup, "{}", status(case));
        let pid = instance.pid();
        let explained = |case: &Case| {
            let dialled = SocketAddr::new(case.address(7), 8080);
            let words = format!("explain tcp {dialled} --instance {pid}");
            Launch::new(&case.server).arguments(&words).finish().stdout
        };
        assert_eq!(explained(case).contains(&cure), is_named, "{}", explained(case));
        let configuration = format!(
            "[dispatcher]\nmode = \"{}\"\n[[service]]\nname = \"a\"\nrespond = \"hello\"\nbindings = [{{ prefix = \"{}\" }}]\n",
            case.path.mode(),
            case.prefix()
        );
        case.server.run(|| fs::write("/run/judged.toml", configuration)).unwrap();
        let doctor = "doctor --config /run/judged.toml";
        let judged = Launch::new(&case.server).arguments(doctor).finish().stdout;
        assert_eq!(judged.contains(&format!("cure: {cure}")), is_named, "{judged}");
        if is_named {
            case.server.command(&cure);
            assert!(!status(case).contains(&cure), "{}", status(case));
        }
    }
    let address = case.any_address();
    let targets = [(address, 8080).into(), (address, 8081).into()];
    // The bridge forwards once its port is.
    eventually("an answer in the container", PATIENCE, || dial(&container, targets[1]).ok());
    assert_answered(&container, &targets);
}

/// Rule sets of other engines, which lead to addresses that nobody has here.
fn what_container_engines_do_takes_nothing(case: &mut Case) {
    let test = "what_container_engines_do_takes_nothing";
    if case.family == Family::V6 || !require::met(test, &[Need::Nftables, Need::IptablesNft]) {
        return;
    }
    macro_rules! rules {
        ($($name:literal),+) => {
            [$(($name, include_str!(concat!("../../spectrum-steering/src/plan/obstacles/tests/", $name)))),+]
        };
    }
    let sets = rules!(
        "docker.nft",
        "netavark.nft",
        "kube-proxy.nft",
        "netavark.rules",
        "cni.rules",
        "kube-proxy.rules"
    );
    for (name, text) in sets {
        let mut case = Case::new(case.path, case.family);
        let client = veth::client_of(&case.server);
        case.server.run(|| fs::write("/run/rules", text)).unwrap();
        // Only what iptables-save printed begins so.
        let program = if text.starts_with('*') { "iptables-nft-restore" } else { "nft -f" };
        let loaded = case.server.output(&format!("{program} /run/rules"));
        assert!(loaded.status.success(), "{name}: {}", String::from_utf8_lossy(&loaded.stderr));
        let _instance = case.start_on_prefix();
        let (published, beside) = dialled(&mut case);
        assert_answered(&client, &[published, beside]);
        assert_answered(&case.server, &[published, beside]);
    }
}

/// Less than the pause between looks that nobody asks for, and enough for a busy machine.
const SOON: Duration = Duration::from_secs(8);

/// A host with every tool, on whose path nothing depends.
fn host(test: &str) -> Option<Case> {
    let needs = [Need::Netns, Need::Program, Need::Nftables, Need::IptablesNft];
    require::met(test, &needs).then(|| Case::new(Path::TproxyNftables, Family::V4))
}

#[test]
fn a_container_that_comes_later_is_found() {
    let Some(mut case) = host("a_container_that_comes_later_is_found") else { return };
    let instance = case.start_on_prefix();
    let host = Publishing::by(&case, "iptables-nft").unwrap();
    let (published, _) = dialled(&mut case);
    // The kernel tells of its rules: they are not found by looking from time to time.
    let begun = Instant::now();
    await_logged(&instance, "exempted what is bound from NAT", 1);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_answered(&host.client, &[published]);
    // Somebody takes it away, and it is put back.
    case.server.command(&format!("nft delete table inet spectrum-nat-{}", instance.id(&case.server)));
    await_logged(&instance, "put back what was removed: the table that exempts from NAT", 1);
    assert_answered(&host.client, &[published]);
    case.server.command("iptables-nft -t nat -F DOCKER");
    eventually("nothing to exempt", SOON, || {
        let tables = case.server.command("nft list tables");
        (!tables.contains("spectrum-nat")).then_some(())
    });
}

#[test]
fn what_a_killed_instance_exempted_is_swept() {
    let Some(mut case) = host("what_a_killed_instance_exempted_is_swept") else { return };
    let _host = Publishing::by(&case, "iptables-nft").unwrap();
    let before = State::of(&case.server);
    let (_, beside) = dialled(&mut case);
    let instance = case.start_on_prefix();
    assert_answered(&case.server, &[beside]);
    let table = format!("table inet spectrum-nat-{}", instance.id(&case.server));
    instance.kill();
    assert!(case.server.command("nft list tables").contains(&table));
    let clean = Launch::new(&case.server).arguments("clean").finish();
    assert!(clean.stdout.contains(&format!("removed firewall {table}")), "{clean}");
    before.assert_restored(&case.server, "clean");
    assert!(!case.server.command("nft list tables").contains("spectrum"));
}

#[test]
fn rules_that_are_to_be_heeded_take_what_they_say() {
    let Some(mut case) = host("rules_that_are_to_be_heeded_take_what_they_say") else { return };
    let host = Publishing::by(&case, "iptables-nft").unwrap();
    let (published, beside) = dialled(&mut case);
    let config = |nat: &str, prefix: &str| {
        format!(
            "[dispatcher]\nmode = \"tproxy\"\nfirewall = \"nftables\"\nnat = \"{nat}\"\n[[service]]\nname = \"default\"\nrespond = \"hello\"\n\
             bindings = [{{ prefix = [{prefix}], ports = \"8000-9000\" }}]\n"
        )
    };
    let (one, two) = ("\"192.0.2.0/24\"", "\"192.0.2.0/24\", \"10.7.0.0/16\"");
    configure(&case.server, &config("heed", one));
    let instance = case.launch("--config /run/spectrum.toml").start();
    // TPROXY has the packet go to our socket, NAT elsewhere, and the kernel drops what is both.
    assert!(!reaches(&host.client, published));
    assert_answered(&host.client, &[beside]);
    assert!(
        status(&case).contains("takes connections to") || status(&case).contains("may take connections to")
    );
    configure(&case.server, &config("exempt", two));
    reload(&case.server, &instance).unwrap();
    assert_answered(&host.client, &[published, beside, "10.7.8.9:8080".parse().unwrap()]);
    // A reload that is refused leaves what was exempted.
    configure(&case.server, &config("heed", "\"192.0.2.1/24\""));
    assert!(reload(&case.server, &instance).is_err());
    assert_answered(&host.client, &[published]);
    configure(&case.server, &config("heed", one));
    reload(&case.server, &instance).unwrap();
    assert!(!case.server.command("nft list tables").contains("spectrum-nat"));
}

fn reaches(client: &Netns, target: SocketAddr) -> bool {
    client.run(|| std::net::TcpStream::connect_timeout(&target, Duration::from_secs(2))).is_ok()
}

#[test]
fn without_nft_a_start_goes_on_and_says_what_is_taken() {
    let test = "without_nft_a_start_goes_on_and_says_what_is_taken";
    if !require::met(test, &[Need::Netns, Need::Program, Need::Nftables, Need::IptablesNft]) {
        return;
    }
    let mut case = Case::new(Path::TproxyIptablesNft, Family::V4);
    let _host = Publishing::by(&case, "iptables-nft").unwrap();
    let (_, beside) = dialled(&mut case);
    let without = NftFault::absent(&case.server);
    let instance = case.start_on_prefix();
    assert_answered(&case.server, &[beside]);
    await_logged(&instance, "NAT takes connections to what is bound: exempt it: find nft", 1);
    assert!(instance.stderr().contains("exempting from NAT takes it"), "{}", instance.stderr());
    assert!(status(&case).contains("take connections to"), "{}", status(&case));
    instance.stop();
    drop(without);
}

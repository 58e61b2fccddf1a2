//! Instances that pin what steers, and such that take over what is pinned: registered sockets are reached whatever becomes of the processes of
//! ours, and what comes next goes on where the last one stopped. Only sk_lookup has anything to pin.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use spectrum_tests::control::{CONFIG, configure, count_logged, reload};
use spectrum_tests::datagram;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_refused, dial};
use spectrum_tests::foreign_server::ForeignServer;
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::netns::Netns;
use spectrum_tests::require::{self, Need};
use spectrum_tests::state::State;
use spectrum_tests::verbs::{done, refused, status};

const NEEDS: [Need; 5] = [Need::Netns, Need::Program, Need::Bpf, Need::Bpftool, Need::Ipv6];

/// What other programs answer, over both protocols and families.
const REGISTERED: &str = "[[service]]\nname = \"web\"\nregistered = true\n\
                          bindings = [{ prefix = [\"192.0.2.0/25\", \"2001:db8:1::/64\"], protocol = \"both\" }]\n";

/// What the instance answers itself.
const OWN: &str = "[[service]]\nname = \"own\"\nrespond = \"hello\"\n\
                   bindings = [{ prefix = [\"192.0.2.128/25\", \"2001:db8:2::/64\"], ports = 8080 }]\n";

const WEB: [&str; 2] = ["192.0.2.9:80", "[2001:db8:1::9]:80"];
/// Answers of datagrams leave from the server's own port.
const DATAGRAMS: [&str; 2] = ["192.0.2.9:53", "[2001:db8:1::9]:53"];
const OF_OWN: [&str; 2] = ["192.0.2.200:8080", "[2001:db8:2::9]:8080"];

fn server(test: &str) -> Option<Netns> {
    require::met(test, &NEEDS).then(|| {
        let netns = Netns::create().unwrap();
        netns.run(|| fs::create_dir_all(spectrum_tests::path::TOOLS).unwrap());
        netns
    })
}

fn packets(netns: &Netns, service: &str, protocol: &str, family: &str) -> Value {
    let status = status(netns);
    let all = status["destinations"].as_array().unwrap();
    let found = all
        .iter()
        .find(|one| one["service"] == service && one["protocol"] == protocol && one["family"] == family);
    found.unwrap_or_else(|| panic!("{service} {protocol} {family} in {status}"))["packets"].clone()
}

fn targets(of: [&str; 2]) -> [SocketAddr; 2] {
    of.map(|target| target.parse().unwrap())
}

/// Starts an instance with what is configured, and these flags.
fn start(netns: &Netns, flags: &str) -> Instance {
    Launch::new(netns).arguments(&format!("--mode sk-lookup {CONFIG} {flags}")).start()
}

/// The servers of the service `web`.
struct Servers {
    tcp: ForeignServer,
    udp: [ForeignServer; 2],
}

impl Servers {
    /// Some that are registered.
    fn registered(netns: &Netns) -> Self {
        let tcp = ForeignServer::tcp(netns, "[::]:0".parse().unwrap(), "web");
        let udp =
            ["127.0.0.1:53", "[::1]:53"].map(|address| ForeignServer::udp(netns, address.parse().unwrap()));
        let servers = Self { tcp, udp };
        for address in [servers.tcp.address(), servers.udp[0].address(), servers.udp[1].address()] {
            done(netns, &format!("register web --pid {} {address}", std::process::id()));
        }
        servers
    }
}

fn assert_web(netns: &Netns) {
    for target in targets(WEB) {
        let heard = dial(netns, target).unwrap_or_else(|error| panic!("{target}: {error}"));
        assert!(heard.text.starts_with(&format!("web {target} ")), "{heard:?}");
    }
    datagram::assert_echoes(netns, &targets(DATAGRAMS));
}

/// Has clients of `web` come one after another, over both families, while `doing` does something: how many came, of whom all were answered.
fn under_clients(netns: &Netns, doing: impl FnOnce()) -> [u64; 2] {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let dial = |target: SocketAddr| {
            let over = &over;
            move || {
                let mut dialled = 0_u64;
                while !over.load(Ordering::Acquire) {
                    let heard = dial(netns, target).unwrap_or_else(|error| panic!("{target}: {error}"));
                    assert!(heard.text.starts_with("web "), "{heard:?}");
                    dialled += 1;
                }
                dialled
            }
        };
        let clients = targets(WEB).map(|target| scope.spawn(dial(target)));
        doing();
        over.store(true, Ordering::Release);
        clients.map(|client| client.join().unwrap())
    })
}

fn pins(netns: &Netns) -> PathBuf {
    format!("/sys/fs/bpf/spectrum/{}", netns.inode()).into()
}

#[test]
fn who_is_killed_leaves_registered_sockets_reached_and_the_next_goes_on() {
    let Some(netns) = server("who_is_killed_leaves_registered_sockets_reached_and_the_next_goes_on") else {
        return;
    };
    let before = State::of(&netns);
    configure(&netns, &format!("{REGISTERED}{OWN}"));
    let instance = start(&netns, "--pin");
    let servers = Servers::registered(&netns);
    assert_web(&netns);
    assert!(done(&netns, "status").contains("\npinned: /sys/fs/bpf/spectrum/"));
    let id = instance.id(&netns);

    let counted = under_clients(&netns, || instance.kill());
    assert_web(&netns);
    let steered = |family| packets(&netns, "web", "tcp", family)["steered"].as_u64().unwrap();
    assert!(steered("ipv4") >= counted[0] && steered("ipv6") >= counted[1]);
    // What it answered itself is refused at once, and falls to nobody else.
    let other = netns.run(|| TcpListener::bind("[::]:8080").unwrap());
    assert_refused(&netns, &targets(OF_OWN));
    for family in ["ipv4", "ipv6"] {
        assert_eq!(packets(&netns, "own", "tcp", family)["missed"], 1, "{family}");
    }
    drop(other);

    // The verbs that need no process.
    let shown = status(&netns);
    assert_eq!((&shown["id"], &shown["pid"]), (&"pinned".into(), &0.into()), "{shown}");
    assert!(shown["services"][1]["target"].as_str().unwrap().starts_with("nobody: "), "{shown}");
    assert!(done(&netns, "bindings").contains("2001:db8:2::/64"));
    assert!(done(&netns, "metrics").contains("spectrum_steered_packets_total{service=\"web\""));
    let canary = ForeignServer::tcp(&netns, "127.0.0.1:0".parse().unwrap(), "web");
    let line = format!("register own --pid {} {}", std::process::id(), canary.address());
    refused(&netns, &line, &["an instance answers for it itself"]);
    let line = format!("register web --pid {} {} --weight 3", std::process::id(), canary.address());
    assert!(done(&netns, &line).contains("gets what is for web tcp ipv4"));
    done(&netns, &format!("unregister web {}", canary.address()));
    drop(canary);
    done(&netns, "clean");
    assert_web(&netns);

    // The next one, which pins nothing, takes it all over.
    let (mut next, before_it) = (None, ["ipv4", "ipv6"].map(steered));
    let counted = under_clients(&netns, || next = Some(start(&netns, "")));
    let next = next.unwrap();
    assert_eq!(count_logged(&next, &format!("from=\"instance {id}\"")), 1, "{}", next.stderr());
    assert_web(&netns);
    for (family, (was, more)) in ["ipv4", "ipv6"].into_iter().zip(before_it.into_iter().zip(counted)) {
        let packets = packets(&netns, "web", "tcp", family);
        assert!(packets["steered"].as_u64().unwrap() >= was + more, "{family}: {packets}");
        assert_eq!(packets["missed"], 0, "{family}");
    }
    for target in targets(OF_OWN) {
        assert!(dial(&netns, target).unwrap().text.contains("service=own "));
    }
    let sockets = status(&netns)["services"][0]["sockets"].clone();
    assert!(sockets.as_array().unwrap().iter().all(|one| one["condition"] == "up"), "{sockets}");
    assert!(!netns.run(|| pins(&netns).exists()));
    next.stop();
    drop(servers);
    before.assert_restored(&netns, "a kill, a start and a stop");
}

#[test]
fn what_was_loaded_is_taken_over_without_a_packet_missed() {
    let Some(netns) = server("what_was_loaded_is_taken_over_without_a_packet_missed") else { return };
    let before = State::of(&netns);
    configure(&netns, REGISTERED);
    done(&netns, "load --config /run/spectrum.toml");
    let servers = Servers::registered(&netns);
    let mut dialled = [0, 0];
    for flags in ["--pin", "--pin --workers 1", "--pin"] {
        let counted = under_clients(&netns, || drop(start(&netns, flags).stop()));
        assert_web(&netns);
        for ((sum, count), family) in dialled.iter_mut().zip(counted).zip(["ipv4", "ipv6"]) {
            *sum += count + 1;
            let packets = packets(&netns, "web", "tcp", family);
            assert_eq!(
                (packets["steered"].as_u64(), &packets["missed"]),
                (Some(*sum), &0.into()),
                "{family}"
            );
        }
    }
    let mut last = None;
    under_clients(&netns, || last = Some(start(&netns, "")));
    assert_web(&netns);
    last.unwrap().stop();
    drop(servers);
    before.assert_restored(&netns, "four starts and stops");
}

#[test]
fn who_stops_leaves_what_is_registered_and_nothing_else() {
    let Some(netns) = server("who_stops_leaves_what_is_registered_and_nothing_else") else { return };
    let before = State::of(&netns);
    configure(&netns, &format!("{REGISTERED}{OWN}"));
    let instance = start(&netns, "--pin");
    let servers = Servers::registered(&netns);
    let finished = instance.stop();
    assert!(finished.stderr.contains("what is registered stays pinned"), "{finished}");
    assert_web(&netns);
    // What it answered itself is not bound any more, and is anybody's.
    let routes = netns.ip("route show table local proto 83");
    assert!(routes.contains("192.0.2.0/25") && !routes.contains("192.0.2.128/25"), "{routes}");
    let listed = done(&netns, "bindings");
    assert!(listed.contains("web") && !listed.contains("own"), "{listed}");
    assert_eq!(status(&netns)["missing"], Value::Null);
    done(&netns, "clean");
    assert_web(&netns);
    // By the key as well as by the flag.
    configure(&netns, &format!("[instance]\npin = true\n{REGISTERED}{OWN}"));
    start(&netns, "").stop();
    assert_web(&netns);
    done(&netns, "unload");
    drop(servers);
    before.assert_restored(&netns, "a stop and unload");
    // Of what it answers alone nothing stays.
    configure(&netns, OWN);
    start(&netns, "--pin").stop();
    before.assert_restored(&netns, "a stop of an instance without registered services");
}

#[test]
fn an_upgrade_and_a_reload_keep_what_is_pinned_right() {
    let Some(netns) = server("an_upgrade_and_a_reload_keep_what_is_pinned_right") else { return };
    configure(&netns, &format!("{REGISTERED}{OWN}"));
    let instance = start(&netns, "--pin");
    let _servers = Servers::registered(&netns);
    let counted = under_clients(&netns, || {
        for _ in 0..3 {
            assert!(done(&netns, "upgrade").starts_with("upgraded process="));
        }
    });
    let objects = netns.run(|| {
        fs::read_dir(pins(&netns)).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
    });
    assert_eq!(objects.len(), 2, "{objects:?}");
    for (family, counted) in ["ipv4", "ipv6"].into_iter().zip(counted) {
        assert_eq!(packets(&netns, "web", "tcp", family)["steered"].as_u64(), Some(counted), "{family}");
    }
    let more =
        "[[service]]\nname = \"more\"\nregistered = true\nbindings = [{ prefix = \"198.51.100.0/24\" }]\n";
    configure(&netns, &format!("{REGISTERED}{more}"));
    reload(&netns, &instance).unwrap();
    let server = ForeignServer::tcp(&netns, "127.0.0.1:0".parse().unwrap(), "more");
    done(&netns, &format!("register more --pid {} {}", std::process::id(), server.address()));
    instance.kill();
    assert_web(&netns);
    assert!(dial(&netns, "198.51.100.7:4711".parse().unwrap()).unwrap().text.starts_with("more "));
    let listed = done(&netns, "bindings");
    assert!(listed.contains("more") && !listed.contains("own"), "{listed}");
    for (family, counted) in ["ipv4", "ipv6"].into_iter().zip(counted) {
        assert_eq!(packets(&netns, "web", "tcp", family)["steered"].as_u64(), Some(counted + 1), "{family}");
    }
    // Also by a version that comes while nobody runs.
    done(&netns, "upgrade");
    assert_web(&netns);
}

#[test]
fn verbs_talk_to_the_instance_that_has_what_is_pinned() {
    let Some(netns) = server("verbs_talk_to_the_instance_that_has_what_is_pinned") else { return };
    configure(&netns, REGISTERED);
    let instance = start(&netns, "--pin");
    let pid = instance.pid();
    for line in ["bind more tcp 198.51.100.0/24", "unbind web tcp 192.0.2.0/25", "unload", "load"] {
        refused(&netns, line, &[&format!("process {pid} has it"), "spectrum-user reload"]);
    }
    for line in ["status --json", "status --instance pinned --json"] {
        let shown: Value = serde_json::from_str(&done(&netns, line)).unwrap();
        assert_eq!(
            (&shown["pid"], &shown["pins"]),
            (&pid.into(), &pins(&netns).display().to_string().into())
        );
    }
    let web = ForeignServer::tcp(&netns, "127.0.0.1:0".parse().unwrap(), "web");
    for name in ["", "--instance pinned"] {
        done(&netns, &format!("register web --pid {} {} {name}", std::process::id(), web.address()));
        assert!(done(&netns, &format!("weight web 7 {name}")).contains("has weight 7 in"));
    }
    assert_eq!(count_logged(&instance, "registered socket has another weight"), 2);
    done(&netns, "clean");
    // Another one may serve other prefixes, and has nothing to do with it.
    let other = Launch::new(&netns).arguments("--mode sk-lookup --prefix 198.51.100.0/24").start();
    refused(
        &netns,
        "--mode sk-lookup --pin --prefix 203.0.113.0/24",
        &[&format!("process {pid} has pinned what it steers"), "leave --pin out"],
    );
    other.stop();
    // What was changed by the instance is what the next command finds.
    instance.kill();
    let shown = status(&netns)["services"][0]["sockets"].clone();
    let ipv4 =
        shown.as_array().unwrap().iter().find(|one| one["protocol"] == "tcp" && one["family"] == "ipv4");
    assert_eq!(ipv4.unwrap()["weight"], 7, "{shown}");
    assert!(done(&netns, "bind more tcp 198.51.100.0/24").contains("bound"));
}

#[test]
fn what_cannot_be_taken_over_is_refused_with_words() {
    let Some(netns) = server("what_cannot_be_taken_over_is_refused_with_words") else { return };
    let before = State::of(&netns);
    configure(&netns, REGISTERED);
    refused(&netns, &format!("--mode tproxy {CONFIG} --pin"), &["only sk_lookup can be pinned"]);
    done(&netns, "load --config /run/spectrum.toml");
    done(&netns, "bind mail tcp 192.0.2.200 25");
    let pinned = State::of(&netns);
    for (line, words) in [
        (
            &format!("--mode tproxy {CONFIG}"),
            &["claim prefix ", "what is pinned", "a start over sk_lookup"][..],
        ),
        (
            &format!("--mode sk-lookup {CONFIG}"),
            &["take over what is pinned", "also steers mail", "spectrum-user unload"],
        ),
        (&"--mode sk-lookup --pin --prefix 203.0.113.0/24".to_owned(), &["also steers web, mail"]),
    ] {
        refused(&netns, line, words);
        pinned.assert_restored(&netns, line);
    }
    // A start that fails later has left it as it was, too.
    let servers = Servers::registered(&netns);
    done(&netns, "unbind mail tcp 192.0.2.200 25");
    netns.ip("route add blackhole 192.0.2.0/24 table local");
    configure(&netns, &format!("{REGISTERED}{OWN}"));
    let pinned = State::of(&netns);
    for flags in ["", "--pin"] {
        refused(&netns, &format!("--mode sk-lookup {CONFIG} {flags}"), &["192.0.2.0/24"]);
        pinned.assert_restored(&netns, "a start that failed");
        assert_web(&netns);
    }
    netns.ip("route del blackhole 192.0.2.0/24 table local");
    // One route takes the place of several.
    start(&netns, "--pin").stop();
    let instance = start(&netns, "");
    let routes = netns.ip("route show table local proto 83");
    assert!(routes.contains("192.0.2.0/24") && !routes.contains("192.0.2.0/25"), "{routes}");
    assert_web(&netns);
    instance.stop();
    drop(servers);
    configure(&netns, REGISTERED);
    done(&netns, "load --config /run/spectrum.toml");
    netns.run(|| fs::remove_file(pins(&netns).join("1/TABLES")).unwrap());
    refused(&netns, &format!("--mode sk-lookup {CONFIG}"), &["take over what is pinned", "unload"]);
    done(&netns, "unload");
    before.assert_restored(&netns, "unload");
}

#[test]
fn what_others_remove_of_it_is_pinned_again() {
    let Some(netns) = server("what_others_remove_of_it_is_pinned_again") else { return };
    configure(&netns, REGISTERED);
    let instance = start(&netns, "--pin");
    let _servers = Servers::registered(&netns);
    let claim = format!("/run/spectrum/{}/pinned.claim", netns.inode());
    let remove = [
        pins(&netns).join("link"),
        pins(&netns).join("1/LISTENERS"),
        pins(&netns).join("1/program"),
        pins(&netns),
        claim.into(),
    ];
    for path in remove {
        netns.run(|| {
            if path.is_dir() {
                for directory in [path.join("1"), path.clone()] {
                    for file in fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()) {
                        if file.is_dir() {
                            fs::remove_dir(file).unwrap();
                        } else {
                            fs::remove_file(file).unwrap();
                        }
                    }
                }
                fs::remove_dir(&path).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
        });
        eventually("it to be there again", PATIENCE, || netns.run(|| path.exists()).then_some(()));
    }
    // And the attachment, whose link's file is another one's then.
    let links: Value = serde_json::from_str(&netns.command("bpftool -j link show")).unwrap();
    let ours = links.as_array().unwrap().iter().find(|link| link["netns_ino"] == netns.inode()).unwrap();
    netns.command(&format!("bpftool link detach id {}", ours["id"]));
    eventually("an attachment", PATIENCE, || {
        dial(&netns, targets(WEB)[0]).ok().filter(|heard| heard.text.starts_with("web ")).map(drop)
    });
    thread::sleep(Duration::from_millis(50));
    instance.kill();
    assert_web(&netns);
}

#[test]
fn a_policy_holds_without_a_process() {
    let Some(netns) = server("a_policy_holds_without_a_process") else { return };
    let policy = "policy = { deny = [\"127.0.0.2\", \"192.0.2.77\"] }\n";
    configure(&netns, &format!("{policy}{REGISTERED}policy = {{ rate = \"3/h burst 3 per /32 /128\" }}\n"));
    for (key, words) in [
        (
            "policy = { deny = [\"127.0.0.2\"], on-deny = \"silent\" }\n",
            &["on-deny = \"silent\" takes a process"][..],
        ),
        ("admin = { listen = \"127.0.0.1:9180\" }\n", &["[admin] takes a process"]),
        ("announce = { prefixes = [\"192.0.2.0/24\"] }\n", &["announces it"]),
    ] {
        netns.run(|| fs::write("/run/refused.toml", format!("{key}{REGISTERED}")).unwrap());
        refused(&netns, "load --config /run/refused.toml", &[words, &["spectrum-user --config"]].concat());
    }
    done(&netns, "load --config /run/spectrum.toml");
    let _servers = Servers::registered(&netns);
    let [ipv4, ipv6] = targets(WEB);
    let is_refused = |client: &str, target: SocketAddr| {
        spectrum_tests::dial::dial_from(&netns, client.parse().unwrap(), target).is_err()
    };
    assert!(is_refused("127.0.0.2", ipv4) && !is_refused("127.0.0.3", ipv4));
    for (client, target) in [("127.0.0.4", ipv4), ("::1", ipv6)] {
        let let_in = (0..6).filter(|_| !is_refused(client, target)).count();
        assert_eq!(let_in, 3, "{client}");
    }
    let denied = |family: &str| {
        let status = status(&netns);
        let all = status["destinations"].as_array().unwrap().clone();
        let found =
            all.iter().find(|one| one["protocol"] == "tcp" && one["family"] == family).unwrap().clone();
        found["denied"].to_string()
    };
    assert!(denied("ipv4").contains("\"source\":1") || denied("ipv4").contains('1'), "{}", denied("ipv4"));
    // It is kept by what changes nothing of it, and an instance judges by its own.
    done(&netns, "bind more tcp 198.51.100.0/24");
    done(&netns, "upgrade");
    assert!(is_refused("127.0.0.2", ipv4) && !is_refused("127.0.0.5", ipv4));
    configure(&netns, REGISTERED);
    done(&netns, "load-bindings /run/spectrum.toml");
    assert!(!is_refused("127.0.0.2", ipv4) && !is_refused("127.0.0.4", ipv4));
    // That of an instance holds on, and what was said at run time with it.
    configure(&netns, &format!("{policy}{REGISTERED}"));
    let instance = start(&netns, "--pin");
    done(&netns, "deny 127.0.0.6");
    instance.kill();
    for client in ["127.0.0.2", "127.0.0.6"] {
        assert!(is_refused(client, ipv4), "{client}");
    }
    done(&netns, "weight web 2");
    assert!(is_refused("127.0.0.6", ipv4) && !is_refused("127.0.0.7", ipv4));
}

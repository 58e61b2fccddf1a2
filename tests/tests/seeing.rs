//! What `status`, `explain` and `bindings` say of a running instance, against what the kernel and other programs say of
//! it. Does not test how they print it for people.

#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;
use spectrum_tests::case::Case;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_refused, call, dial};
use spectrum_tests::instance::{Finished, Instance, Launch};
use spectrum_tests::netns::Netns;
use spectrum_tests::origin::Origin;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::require::{self, Need};
use spectrum_tests::state::State;
use spectrum_tests::{on_each_path, on_every_path, on_one_path, veth};

on_every_path!(
    status_shows_what_the_kernel_shows,
    explanations_are_what_happens,
    listeners_of_others_are_conflicts,
    rules_that_drop_are_obstacles,
);

on_each_path!(
    bindings_are_filtered_by_overlap,
    asking_changes_nothing,
    a_removed_service_is_shown_until_what_it_has_open_is_cut,
    names_that_strangers_chose_move_no_cursor,
    questions_that_make_no_sense_are_usage_errors
);

on_one_path!(status_shows_what_was_asked_for, a_status_of_very_many_services_is_a_summary);

/// Services of which one has an address and ports of the other's prefix.
const CONFIG: &str = r#"
[[service]]
name = "wide"
bindings = [{ prefix = ["192.0.2.0/24", "2001:db8::/64"] }]
respond = "hello"
[[service]]
name = "narrow"
bindings = [{ prefix = ["192.0.2.7", "2001:db8::7"], ports = "22,8000-9000" }]
respond = "hello"
[[service]]
name = "datagrams"
bindings = [{ protocol = "udp", prefix = ["192.0.2.0/24", "2001:db8::/64"], ports = "53,1000-2000" }]
respond = "echo"
"#;

fn start(case: &Case) -> Instance {
    case.server.run(|| fs::write("/run/spectrum.toml", CONFIG)).unwrap();
    case.start("--config /run/spectrum.toml")
}

fn run(netns: &Netns, words: &str) -> Finished {
    Launch::new(netns).arguments(words).finish()
}

fn ask(netns: &Netns, words: &str) -> Value {
    let finished = run(netns, &format!("{words} --json"));
    assert_eq!(finished.code(), 0, "{finished}");
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"))
}

fn assert_answered_by(netns: &Netns, service: &str, dialled: SocketAddr) {
    let heard = dial(netns, dialled).unwrap();
    assert!(heard.text.contains(&format!("service={service} protocol=tcp dialled={dialled} ")), "{heard:?}");
}

fn texts(values: &Value) -> BTreeSet<String> {
    values.as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

/// The parts of an instance of both families in the firewall, as the firewall's own programs call it.
fn rules(path: Path, id: &str) -> [String; 2] {
    match path {
        Path::TproxyNftables => ["ip", "ip6"].map(|family| format!("table {family} spectrum-{id}")),
        other => {
            let variant = if other == Path::TproxyIptablesLegacy { "legacy" } else { "nft" };
            ["iptables", "ip6tables"].map(|tool| format!("chain SPECTRUM-{id} of {tool} ({variant})"))
        }
    }
}

/// The destination of a service for TCP and the case's family.
fn destination<'a>(case: &Case, status: &'a Value, service: &str) -> &'a Value {
    let family = case.family.pick("ipv4", "ipv6");
    let destinations = status["destinations"].as_array().unwrap().iter();
    let mut found = destinations.filter(|destination| {
        destination["service"] == service
            && destination["protocol"] == "tcp"
            && destination["family"] == family
    });
    found.next().unwrap()
}

fn a_removed_service_is_shown_until_what_it_has_open_is_cut(case: &mut Case) {
    let service = |name: &str, port: u16| {
        let prefix = case.prefix();
        format!(
            "[[service]]\nname = \"{name}\"\nbindings = [{{ prefix = \"{prefix}\", ports = {port} }}]\n\
             respond = \"echo\"\n"
        )
    };
    let write = |text: String| case.server.run(|| fs::write("/run/spectrum.toml", text)).unwrap();
    write(service("stays", 80) + &service("goes", 81));
    let _instance = case.start("--config /run/spectrum.toml --drain 4s");
    let mut open = call(&case.server, SocketAddr::new(case.address(7), 81)).unwrap();
    open.write_all(b"x").unwrap();
    open.read_exact(&mut [0]).unwrap();
    write(service("stays", 80));
    assert_eq!(run(&case.server, "reload").code(), 0);
    let status = ask(&case.server, "status");
    let gone = &status["services"][1];
    assert_eq!(
        (&gone["name"], &gone["open"], &gone["bindings"]),
        (&"goes".into(), &1.into(), &0.into()),
        "{status}"
    );
    assert!((1..=4000).contains(&gone["draining"]["cut_in_ms"].as_u64().unwrap()), "{gone}");
    assert_eq!(status["services"][0].get("draining"), None);
    let shown = run(&case.server, "status").stdout;
    assert!(shown.contains("removed and draining: what is open is cut in "), "{shown}");
    let shown = eventually("the end of the service", PATIENCE, || {
        let status = ask(&case.server, "status");
        (status["services"].as_array().unwrap().len() == 1).then_some(status)
    });
    assert_eq!(shown["services"][0]["name"], "stays");
    assert!(open.read(&mut [0]).map_or(true, |read| read == 0), "it was cut");
}

fn status_shows_what_the_kernel_shows(case: &mut Case) {
    let instance = start(case);
    let open = call(&case.server, SocketAddr::new(case.address(7), 80)).unwrap();
    for port in [22, 8000, 9000] {
        assert_answered_by(&case.server, "narrow", SocketAddr::new(case.address(7), port));
    }
    let status = eventually("the connections to be over", PATIENCE, || {
        let status = ask(&case.server, "status");
        (status["services"][1]["open"] == 0).then_some(status)
    });
    drop(open);
    assert_eq!(status["pid"], instance.pid());
    assert_eq!(status["mode"], case.path.mode());
    assert_eq!(status["namespace"], case.server.inode());
    assert_eq!(status["generation"], 1);
    assert_eq!(status["services"][1]["name"], "narrow");
    assert_eq!(status["services"][1]["bindings"], 4);
    assert_eq!((&status["services"][0]["total"], &status["services"][1]["total"]), (&1.into(), &3.into()));
    assert_eq!(status["unknown"], Value::Array(Vec::new()));
    assert_eq!(status["conflicts"], Value::Array(Vec::new()));

    let sockets = case.server.command("ss -Hlnet") + &case.server.command("ss -Hlneu");
    for destination in status["destinations"].as_array().unwrap() {
        let address = destination["listener"]["address"].as_str().unwrap();
        let listed: BTreeSet<String> = sockets
            .lines()
            .filter(|line| line.split_whitespace().any(|word| word == address))
            .map(|line| line.split_once(" sk:").unwrap().1.split(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(texts(&destination["listener"]["cookies"]), listed, "{destination}\n{sockets}");
    }
    let narrow = destination(case, &status, "narrow");
    if case.path == Path::SkLookup {
        assert_eq!(narrow["packets"]["steered"], 3);
        assert_eq!(narrow["packets"]["missed"], 0);
        assert_eq!(status["program"]["name"], "spectrum");
        assert!(status["table"]["bytes"].as_u64().unwrap() > 0);
        assert_eq!(status.get("firewall"), None);
    } else {
        assert_eq!(narrow.get("packets"), None);
        assert_eq!(texts(&status["firewall"]), rules(case.path, &instance.id(&case.server)).into());
    }
}

fn explanations_are_what_happens(case: &mut Case) {
    case.own_surroundings();
    let _instance = start(case);
    let asks_the_kernel = case.path == Path::SkLookup && Need::TestRun.is_met();
    let decided_by = if asks_the_kernel { "kernel" } else { "host" };
    let not_asked = match case.path {
        Path::SkLookup => "needs Linux 5.13",
        _ => "no program to ask",
    };
    let status = ask(&case.server, "status");
    let outside = case.just_outside()[0];
    for (last, port, service, hides, why) in [
        (7, 8443, "narrow", 1, "longest prefix that binds the port"),
        (7, 22, "narrow", 1, "longest prefix that binds the port"),
        (7, 23, "wide", 0, "only binding that matches"),
        (8, 22, "wide", 0, "only binding that matches"),
    ] {
        let dialled = SocketAddr::new(case.address(last), port);
        let explained = ask(&case.server, &format!("explain tcp {dialled}"));
        assert_eq!(explained["outcome"], "steered", "{explained}");
        assert_eq!(explained["decided_by"], decided_by);
        let why_not = explained.get("not_asked").map(|why| why.as_str().unwrap().to_owned());
        assert_eq!(why_not.is_none(), asks_the_kernel, "{explained}");
        assert!(why_not.is_none_or(|why| why.contains(not_asked)), "{explained}");
        assert_eq!(explained["binding"]["service"], service);
        assert_eq!(explained["why"], why);
        assert_eq!(explained["hides"].as_array().unwrap().len(), hides);
        assert_eq!(explained.get("disagreement"), None);
        assert_eq!(explained["listener"], destination(case, &status, service)["listener"]);
        assert_answered_by(&case.server, service, dialled);
    }
    for (protocol, dialled, nearest) in [
        ("udp", SocketAddr::new(case.address(7), 54), Some("53")),
        ("udp", SocketAddr::new(case.address(7), 1999), None),
        ("tcp", SocketAddr::new(outside, 80), None),
    ] {
        let from = SocketAddr::new(case.address(77), 4000);
        let explained = ask(&case.server, &format!("explain {protocol} {dialled} --from {from}"));
        assert_eq!(explained["decided_by"], decided_by, "{explained}");
        assert_eq!(explained["from"], from.to_string());
        assert_eq!(explained.get("disagreement"), None);
        if dialled.port() == 1999 {
            assert_eq!(explained["outcome"], "steered", "{explained}");
            continue;
        }
        assert_eq!(explained["outcome"], "passed", "{explained}");
        assert_eq!(explained["binding"], Value::Null);
        assert_eq!(explained.get("nearest").map(|nearest| nearest["ports"].as_str().unwrap()), nearest);
    }
    assert_refused(&case.server, &[SocketAddr::new(outside, 80)]);
}

fn listeners_of_others_are_conflicts(case: &mut Case) {
    let any = case.family.parse("0.0.0.0", "::");
    let early = Origin::saying(&case.server, SocketAddr::new(case.address(7), 8080), "early");
    let _instance = start(case);
    let everywhere = Origin::saying(&case.server, SocketAddr::new(any, 0), "everywhere");
    let elsewhere = Origin::saying(&case.server, SocketAddr::new(case.loopback(), 0), "elsewhere");
    let status = ask(&case.server, "status");
    let conflicts = status["conflicts"].as_array().unwrap();
    let of =
        |address: SocketAddr| conflicts.iter().find(|conflict| conflict["address"] == address.to_string());
    let hidden = of(early.address()).unwrap();
    assert_eq!(hidden["wholly"], true);
    assert_eq!(hidden["pid"], std::process::id());
    assert!(hidden["hidden"].as_str().unwrap().contains("(service narrow)"), "{hidden}");
    let in_part = of(everywhere.address()).unwrap();
    assert_eq!(in_part["wholly"], false);
    assert!(in_part["hidden"].as_str().unwrap().contains(case.prefix()), "{in_part}");
    assert_eq!(of(elsewhere.address()), None);
    assert_eq!(conflicts.len(), 2, "{status}");
}

/// A process calls itself what it likes, and status is read at root's terminal.
fn names_that_strangers_chose_move_no_cursor(case: &mut Case) {
    let instance = start(case);
    let listener = format!("{}:8080", case.family.pick("192.0.2.7", "[2001:db8::7]"));
    let family = case.family.pick("AF_INET", "AF_INET6");
    let script = format!(
        "import ctypes, socket, time\n\
         ctypes.CDLL(None).prctl(15, b'a\\x1b[2J\\nready\\xff', 0, 0, 0)\n\
         s = socket.socket(socket.{family}); s.bind(('{}', 8080)); s.listen()\n\
         time.sleep(600)",
        case.address(7)
    );
    let mut python = Command::new("python3");
    let mut stranger = case.server.run(|| python.args(["-c", &script]).spawn()).unwrap();
    let shown = eventually("the listener of another program", PATIENCE, || {
        let status = run(&case.server, "status");
        status.stdout.contains(&listener).then_some(status.stdout)
    });
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(shown.contains(r"a\u{1b}[2J\nready\u{fffd}") || shown.contains(r"a\u{1b}[2J\nready�"), "{shown}");
    assert!(!shown.contains('\u{1b}') && !shown.contains("\nready"), "{shown:?}");
    instance.stop();
}

fn rules_that_drop_are_obstacles(case: &mut Case) {
    let _client = veth::client_of(&case.server);
    let _instance = start(case);
    let tool = case.family.pick("iptables", "ip6tables");
    for variant in ["nft", "legacy"] {
        let rule = format!("{tool}-{variant} -A INPUT -d {}", case.address(7));
        if case.server.output(&format!("{rule} -p tcp --dport 8001 -j DROP")).status.success() {
            let status = ask(&case.server, "status");
            let obstacles = texts(&status["obstacles"]);
            assert!(
                obstacles.iter().any(|obstacle| obstacle.starts_with(tool)
                    && obstacle.contains(" filter INPUT: `-A INPUT -d")
                    && obstacle.contains("--dport 8001 -j DROP` may drop")),
                "{variant}: {status}"
            );
            case.server.command(&format!("{rule} -p tcp --dport 8001 -j DROP").replace("-A", "-D"));
        }
    }
    if case.server.output("nft add table inet fw").status.success() {
        case.server.command("nft add chain inet fw in { type filter hook input priority 0; policy drop; }");
        let status = ask(&case.server, "status");
        let obstacles = texts(&status["obstacles"]);
        assert!(
            obstacles.iter().any(|obstacle| obstacle.starts_with("nft inet fw in: policy drop")),
            "{status}"
        );
    }
    let status = ask(&case.server, "status");
    let strict = texts(&status["obstacles"])
        .iter()
        .any(|obstacle| obstacle.starts_with("rp_filter is strict on to-client:"));
    assert!(strict, "{status}");
}

fn bindings_are_filtered_by_overlap(case: &mut Case) {
    let _instance = start(case);
    let listed = |words: &str| -> Vec<String> {
        let bindings = ask(&case.server, &format!("bindings {words}"));
        let text = |binding: &Value| {
            ["protocol", "prefix", "ports", "service"].map(|name| binding[name].as_str().unwrap()).join(" ")
        };
        bindings.as_array().unwrap().iter().map(text).collect()
    };
    assert_eq!(listed("").len(), 10);
    assert_eq!(
        listed("tcp 192.0.2.0/24 8000"),
        ["tcp 192.0.2.7/32 8000-9000 narrow", "tcp 192.0.2.0/24 1-65535 wide"]
    );
    assert_eq!(
        listed("1500 udp"),
        ["udp 192.0.2.0/24 1000-2000 datagrams", "udp 2001:db8::/64 1000-2000 datagrams"]
    );
    assert_eq!(listed("198.51.100.1"), [""; 0]);
}

fn asking_changes_nothing(case: &mut Case) {
    let _instance = start(case);
    let tables = || {
        let legacy = case.server.run(|| fs::read_to_string("/proc/thread-self/net/ip_tables_names"));
        (legacy.unwrap_or_default(), case.server.output("nft list tables").stdout)
    };
    let before = (State::of(&case.server), tables());
    ask(&case.server, "status");
    ask(&case.server, "explain tcp 192.0.2.7:80");
    ask(&case.server, "bindings");
    assert_eq!(tables(), before.1);
    before.0.assert_restored(&case.server, "status, explain and bindings");
}

fn questions_that_make_no_sense_are_usage_errors(case: &mut Case) {
    let _instance = start(case);
    for (words, expected) in [
        ("bindings 192.0.2.7/24", "write 192.0.2.0/24 for the whole prefix"),
        ("bindings tcp udp", "leave the protocol out for both"),
        ("bindings icmp", "icmp: a protocol is tcp or udp"),
        ("bindings 0-7", "no packet has port 0; write 1-7"),
        ("explain tcp 192.0.2.7:80 --from [2001:db8::1]:80", "different families"),
        ("explain tcp [::ffff:192.0.2.7]:80", "ask for 192.0.2.7:80"),
        ("explain icmp 192.0.2.7:80", "tcp or udp"),
        ("explain tcp 192.0.2.7", "the port is missing; write 192.0.2.7:PORT"),
    ] {
        let finished = run(&case.server, words);
        assert_eq!(finished.code(), 2, "{finished}");
        assert!(finished.stderr.contains(expected), "{finished}");
        assert_eq!(finished.stderr.matches("error:").count(), 1, "{finished}");
    }
}

#[test]
fn instances_are_told_apart() {
    let test = "instances_are_told_apart";
    if !require::met(test, Path::SkLookup.needs()) {
        return;
    }
    let case = Case::new(Path::SkLookup, Family::V4);
    let nobody = run(&case.server, "status");
    assert_eq!(nobody.code(), 1, "{nobody}");
    assert!(nobody.stderr.contains("none runs in network namespace"), "{nobody}");

    let killed = case.start("--prefix 203.0.113.0/24");
    killed.kill();
    let first = case.start("--prefix 192.0.2.0/24");
    let second = case.start("--prefix 198.51.100.0/24");
    let several = run(&case.server, "status");
    assert_eq!(several.code(), 1, "{several}");
    assert!(several.stderr.contains("there are several, say which by --instance: "), "{several}");
    let candidates = [(&first, "192.0.2.0/24"), (&second, "198.51.100.0/24")];
    let assert_listed = |finished: &Finished| {
        for (instance, prefix) in candidates {
            let (id, pid) = (instance.id(&case.server), instance.pid());
            let told = format!("{id} (process {pid}; {prefix}; sk-lookup since 20");
            assert!(finished.stderr.contains(&told), "{told} is missing: {finished}");
        }
        assert!(!finished.stderr.contains("203.0.113.0/24"), "of a dead one: {finished}");
        assert_eq!(finished.stderr.matches("error:").count(), 1, "{finished}");
    };
    assert_listed(&several);
    let nobodys = run(&case.server, "status --instance 1");
    assert_eq!(nobodys.code(), 1, "{nobodys}");
    assert!(nobodys.stderr.contains("find instance 1: it does not run in network namespace"), "{nobodys}");
    assert_listed(&nobodys);

    let of = |instance: &Instance| ask(&case.server, &format!("status --instance {}", instance.pid()));
    let (one, other) = (of(&first), of(&second));
    assert_eq!(one["other_programs"][0]["id"], other["program"]["id"]);
    assert_eq!(other["other_programs"][0]["id"], one["program"]["id"]);
    assert_eq!(other["other_programs"][0]["name"], "spectrum");
    let explained =
        ask(&case.server, &format!("explain tcp 192.0.2.1:80 --instance {}", first.id(&case.server)));
    assert!(
        explained["notes"][0].as_str().unwrap().contains(&other["program"]["id"].to_string()),
        "{explained}"
    );
}

fn status_shows_what_was_asked_for(case: &mut Case) {
    let (anywhere, origin) = (case.prefix(), SocketAddr::new(case.loopback(), 9));
    let lost = format!(
        "[[service]]\nname = \"lost\"\norigins = [\"{origin}\"]\nhealth = {{ interval = \"1s\", fall = 1 }}\n\
         bindings = [{{ prefix = \"{anywhere}\", ports = 99 }}]\n"
    );
    case.server.run(|| fs::write("/run/spectrum.toml", format!("{CONFIG}{lost}"))).unwrap();
    let _instance = case.start("--config /run/spectrum.toml");
    let shown = |words: &str| {
        let status = ask(&case.server, &format!("status {words}"));
        let names = |list: &str, key: &str| -> BTreeSet<String> {
            let values = status[list].as_array().unwrap().iter();
            values.map(|value| value[key].as_str().unwrap().to_owned()).collect()
        };
        let (services, steered) = (names("services", "name"), names("destinations", "service"));
        assert_eq!(services, steered, "status {words}");
        services.into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(shown(""), "datagrams lost narrow wide");
    assert_eq!(shown("narrow"), "narrow");
    assert_eq!(shown("wide narrow"), "narrow wide");
    assert_eq!(shown("--protocol udp"), "datagrams");
    assert_eq!(shown("wide --protocol udp"), "");
    let narrow = case.family.pick("192.0.2.7", "2001:db8::7");
    assert_eq!(shown(&format!("--prefix {narrow} --protocol tcp")), "lost narrow wide");
    let far = case.family.pick("198.51.100.0/24", "2001:db8:7::/48");
    assert_eq!(shown(&format!("--prefix {far}")), "");
    // Its origin listens nowhere, which the first check says.
    eventually("a service without its origin is all that is wrong", PATIENCE, || {
        (shown("--only-wrong") == "lost").then_some(())
    });

    let misspelt = run(&case.server, "status narow");
    assert_eq!(misspelt.code(), 1, "{misspelt}");
    assert!(
        misspelt.stderr.contains("there is no service \"narow\"; did you mean \"narrow\"?"),
        "{misspelt}"
    );
}

fn a_status_of_very_many_services_is_a_summary(case: &mut Case) {
    let prefix = case.prefix();
    let service = |port: usize| {
        format!(
            "[[service]]\nname = \"s{port}\"\nrespond = \"hello\"\nbindings = [{{ prefix = \"{prefix}\", ports = {port} }}]\n"
        )
    };
    let text: String = (1..=201).map(service).collect();
    case.server.run(|| fs::write("/run/spectrum.toml", text)).unwrap();
    let _instance = case.start("--config /run/spectrum.toml");
    let said = |words: &str| run(&case.server, &format!("status {words}")).stdout;
    let (summary, all, one) = (said(""), said("--all"), said("s7"));
    assert!(summary.contains("\nservices: 201, with 0 open connections and 0 so far\n"), "{summary}");
    assert!(!summary.contains("\n  s7 "), "{summary}");
    assert!(
        all.contains("\nservices: 201\n") && all.contains("\n  s7 ") && all.contains("\n  s201 "),
        "{all}"
    );
    assert!(one.contains("\nservices: 1\n") && one.contains("\n  s7 "), "{one}");
    // A program gets all of them.
    assert_eq!(ask(&case.server, "status")["services"].as_array().unwrap().len(), 201);
}

//! What `doctor` says of a host, against what the host then does. Does not test how facts are judged that no kernel here
//! gives; that is in the program's own tests.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs::{self, File};
use std::net::SocketAddr;

use nix::mount::{MsFlags, mount};
use serde_json::Value;
use spectrum_steering::dispatcher::Dispatcher;
use spectrum_tests::case::{BOTH_PREFIXES, Case};
use spectrum_tests::control::configure;
use spectrum_tests::instance::{Finished, Launch};
use spectrum_tests::netns::Netns;
use spectrum_tests::nft_fault::NftFault;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::require::{self, Need, find_in_path};
use spectrum_tests::scene::transparent_service;
use spectrum_tests::state::State;
use spectrum_tests::{on_each_path, veth};

on_each_path!(
    doctor_names_the_path_that_a_start_takes,
    doctor_finds_leftovers_and_leaves_them,
    doctor_without_bpf_finds_tproxy,
    doctor_changes_nothing,
    doctor_works_with_the_rights_of_a_service,
    doctor_tries_the_reply_mark,
    doctor_names_what_a_running_instance_has_claimed,
);

fn launch<'netns>(netns: &'netns Netns, words: &str) -> Launch<'netns> {
    Launch::new(netns).arguments(words)
}

/// The answer of `doctor`, and its exit code.
fn diagnosis(launch: Launch<'_>) -> (Value, i32) {
    let finished = launch.arguments("--json").finish();
    let said = serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished}"));
    (said, finished.code())
}

/// The answer of `doctor` about `netns`.
fn doctor(netns: &Netns, words: &str) -> Value {
    diagnosis(launch(netns, &format!("doctor {words}"))).0
}

/// The findings about a check.
fn found<'a>(diagnosis: &'a Value, check: &str) -> Vec<&'a Value> {
    let findings = diagnosis["findings"].as_array().unwrap();
    findings.iter().filter(|finding| finding["check"].as_str().unwrap().starts_with(check)).collect()
}

/// The verdict of the one finding about a check.
fn verdict<'a>(diagnosis: &'a Value, check: &str) -> &'a str {
    let found = found(diagnosis, check);
    let [only] = found[..] else { panic!("{} findings of {check}: {diagnosis:#}", found.len()) };
    only["verdict"].as_str().unwrap()
}

/// The configuration of one prefix of each family with what the case insists on.
fn configured(case: &Case, besides: &str) -> &'static str {
    let (mode, firewall) = match case.path {
        Path::SkLookup => ("sk-lookup", "auto"),
        Path::TproxyIptablesLegacy | Path::TproxyIptablesNft => ("tproxy", "iptables"),
        Path::TproxyNftables => ("tproxy", "nftables"),
    };
    let text = format!(
        "[dispatcher]\nmode = \"{mode}\"\nfirewall = \"{firewall}\"\n\
         [[service]]\nname = \"a\"\nrespond = \"hello\"\n\
         bindings = [{{ prefix = [\"192.0.2.0/24\", \"2001:db8::/64\"], ports = \"80,8000-9000\" }}{besides}]\n"
    );
    case.server.run(|| fs::write("/run/spectrum.toml", text)).unwrap();
    "--config /run/spectrum.toml"
}

fn doctor_names_the_path_that_a_start_takes(case: &mut Case) {
    let said = doctor(&case.server, configured(case, ""));
    assert_eq!(said["path"]["mode"], case.path.mode(), "{said:#}");
    let firewall = match case.path {
        Path::SkLookup => None,
        Path::TproxyIptablesLegacy | Path::TproxyIptablesNft => Some("iptables"),
        Path::TproxyNftables => Some("nftables"),
    };
    assert_eq!(said["path"].get("firewall").map(|name| name.as_str().unwrap()), firewall, "{said:#}");
    assert_eq!(said["path"]["families"], serde_json::json!(["ipv4", "ipv6"]));
    case.start("--config /run/spectrum.toml").stop();

    // And of its own accord, with whatever this kernel has.
    let said = doctor(&case.server, "");
    assert_eq!(said["path"]["asked"], "auto");
    let arguments = format!("--mode auto {BOTH_PREFIXES}");
    match launch(&case.server, &arguments).spawn().await_ready_or_end() {
        Ok(instance) => {
            assert_eq!(said["path"]["mode"], instance.ready().mode, "{said:#}");
            assert_eq!(said["path"]["families"], serde_json::json!(["ipv4", "ipv6"]), "{said:#}");
            instance.stop();
        }
        Err(finished) => panic!("{finished}"),
    }
}

fn doctor_names_what_a_running_instance_has_claimed(case: &mut Case) {
    let words = configured(case, "");
    assert_eq!(verdict(&doctor(&case.server, words), "claims"), "ok");
    let instance = case.start("--prefix 192.0.2.128/25");
    let said = doctor(&case.server, words);
    assert_eq!(verdict(&said, "claims"), "missing", "{said:#}");
    let meaning = found(&said, "claims")[0]["meaning"].as_str().unwrap();
    // As a start says it.
    let refused = launch(&case.server, words).finish();
    let claimed = format!("claim prefix 192.0.2.0/24: process {} has 192.0.2.128/25", instance.pid());
    assert!(meaning.contains(&claimed) && refused.stderr.contains(&claimed), "{meaning}\n{refused}");
    assert_eq!(said["path"]["mode"], case.path.mode());
}

/// Words before the program that make bpf(2) answer what kernels without it do.
fn without_bpf() -> String {
    let strace = find_in_path("strace").unwrap();
    format!("{} -f -o /run/strace -e trace=bpf -e inject=bpf:error=ENOSYS", strace.display())
}

/// Leaves the namespace without the directories in which the program looks for tools beyond its search path.
fn hide_tools(netns: &Netns) {
    netns.run(|| {
        fs::create_dir("/run/empty").unwrap();
        for directory in ["/usr/local/sbin", "/usr/sbin", "/sbin"] {
            // Where it is not there, nothing is in it.
            let _ = mount(Some("/run/empty"), directory, None::<&str>, MsFlags::MS_BIND, None::<&str>);
        }
    });
}

fn doctor_without_bpf_finds_tproxy(case: &mut Case) {
    if !require::met("doctor_without_bpf_finds_tproxy", &[Need::Strace]) {
        return;
    }
    if case.path == Path::SkLookup {
        hide_tools(&case.server);
    }
    let (said, code) = diagnosis(launch(&case.server, "doctor").through(&without_bpf()));
    assert_eq!(verdict(&said, "bpf(2)"), "missing", "{said:#}");
    assert_eq!(verdict(&said, "program"), "missing");
    if case.path == Path::SkLookup {
        assert_eq!((code, &said["path"]["mode"]), (1, &Value::Null), "{said:#}");
        let why = said["path"]["why"].as_str().unwrap();
        assert!(why.contains("nft is not installed") && why.contains("iptables-restore is not"), "{why}");
        assert!(found(&said, "nft ")[0]["cure"].as_str().unwrap().contains("apt install nftables"));
    } else {
        assert_eq!((code, &said["path"]["mode"]), (0, &Value::from("tproxy")), "{said:#}");
        assert!(said["path"]["why"].as_str().unwrap().contains("Function not implemented"), "{said:#}");
    }
}

const NONE_LEFT: &str = "ok: no route or rule of a dead instance is there";

fn leftovers(netns: &Netns) -> String {
    let said = doctor(netns, "");
    let finding = found(&said, "leftovers")[0];
    format!("{}: {}", finding["verdict"].as_str().unwrap(), finding["meaning"].as_str().unwrap())
}

fn doctor_finds_leftovers_and_leaves_them(case: &mut Case) {
    assert_eq!(leftovers(&case.server), NONE_LEFT);
    let instance = case.start_on_both("");
    assert_eq!(leftovers(&case.server), NONE_LEFT, "it lives");
    assert_eq!(verdict(&doctor(&case.server, ""), "other programs"), "ok");
    let of_firewall = match case.path {
        Path::SkLookup => None,
        Path::TproxyNftables => Some(format!("firewall table ip6 spectrum-{}", instance.id(&case.server))),
        _ => Some(format!("firewall chain SPECTRUM-{} of ip6tables (", instance.id(&case.server))),
    };
    instance.kill();
    let before = State::of(&case.server);
    let found = leftovers(&case.server);
    assert!(found.starts_with("warning: a dead instance left "), "{found}");
    assert!(found.contains("local route 192.0.2.0/24, local route 2001:db8::/64"), "{found}");
    match of_firewall {
        Some(left) => assert!(found.contains(&left), "{found}"),
        None => assert!(!found.contains("firewall"), "{found}"),
    }
    before.assert_restored(&case.server, "a look at leftovers");
    assert_eq!(launch(&case.server, "clean").finish().code(), 0);
    assert_eq!(leftovers(&case.server), NONE_LEFT);
}

fn doctor_changes_nothing(case: &mut Case) {
    let registry = || {
        case.server
            .run(|| fs::read_dir("/run").unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>())
    };
    let arguments = configured(case, "");
    let (before, files) = (State::of(&case.server), registry());
    for words in [String::new(), arguments.to_owned()] {
        let said = doctor(&case.server, &words);
        assert_ne!(said["path"]["mode"], Value::Null, "{said:#}");
    }
    assert_eq!(registry(), files);
    before.assert_restored(&case.server, "a diagnosis");
    let _instance = case.start(arguments);
    let during = State::of(&case.server);
    doctor(&case.server, arguments);
    during.assert_restored(&case.server, "a diagnosis beside an instance");
}

fn doctor_works_with_the_rights_of_a_service(case: &mut Case) {
    if !require::met("doctor_works_with_the_rights_of_a_service", &[Need::Setpriv]) {
        return;
    }
    let setpriv = find_in_path("setpriv").unwrap();
    let with = |words: &str, capabilities: &str| {
        let words_before = format!("{} --inh-caps=-all --bounding-set=-all{capabilities}", setpriv.display());
        launch(&case.server, words).through(&words_before)
    };
    // As few as a start by sk_lookup needs, which before Linux 5.11 may not be enough for the memory of its maps.
    let few = ",+bpf,+net_admin,+perfmon";
    let (said, code) = diagnosis(with("doctor", few));
    assert!(said["unknown"].to_string().contains("needs CAP_SYS_ADMIN; try sudo"), "{said:#}");
    let started = with(&format!("--mode sk-lookup {BOTH_PREFIXES}"), few).spawn().await_ready_or_end();
    let (expected, mode) = if started.is_ok() { (0, Value::from("sk-lookup")) } else { (1, Value::Null) };
    assert_eq!((code, &said["path"]["mode"]), (expected, &mode), "{said:#}");
    drop(started);

    let (said, code) = diagnosis(with("doctor", ""));
    assert_eq!((code, verdict(&said, "capabilities")), (1, "missing"), "{said:#}");
    assert_eq!(said["path"]["mode"], Value::Null);
    for check in ["kernel", "lo", "IPv6"] {
        assert_eq!(verdict(&said, check), "ok");
    }
}

fn doctor_tries_the_reply_mark(case: &mut Case) {
    if !require::met("doctor_tries_the_reply_mark", &[Need::Nftables]) {
        return;
    }
    let config = configured(case, "");
    let judged = |words: &str| {
        let said = doctor(&case.server, words);
        let cure = found(&said, "reply mark")[0]["cure"].as_str().unwrap_or_default().to_owned();
        (verdict(&said, "reply mark").to_owned(), cure)
    };
    assert_eq!(judged("").0, "ok");
    assert_eq!(judged(config).0, "ok");
    let before = State::of(&case.server);
    let without = NftFault::refusing(&case.server);
    for (words, expected) in [("", "warning"), (config, "ok")] {
        let (verdict, cure) = judged(words);
        assert_eq!(verdict, expected);
        assert_eq!(cure.contains("modprobe -a nft_socket nft_fib_inet"), expected != "ok", "{cure}");
    }
    let origin = SocketAddr::new(veth::origin_address(case.family), 80);
    configure(&case.server, &transparent_service("games", case.prefix(), origin));
    let (verdict, cure) = judged(config);
    assert_eq!(verdict, "missing");
    assert!(cure.contains("apt install nftables"), "{cure}");
    drop(without);
    assert_eq!(judged(config).0, "ok");
    before.assert_restored(&case.server, "trials of the mark");
}

/// A namespace with every tool there is.
fn with_all_tools(test: &str) -> Option<Case> {
    if !require::met(test, &[Need::Netns, Need::Program, Need::Nftables]) {
        return None;
    }
    Some(Case::new(Path::TproxyNftables, Family::V4))
}

#[test]
fn doctor_sees_the_settings_of_the_namespace_it_looks_at() {
    let Some(case) = with_all_tools("doctor_sees_the_settings_of_the_namespace_it_looks_at") else { return };
    let server = &case.server;
    let _client = veth::client_of(server);
    server.sysctl("net/ipv4/tcp_syncookies", "0");
    server.sysctl("net/core/somaxconn", "128");
    let outside = Netns::create().unwrap();
    Path::TproxyNftables.install(&outside);
    for (netns, words) in
        [(server, String::new()), (&outside, format!("--netns {}", server.path().display()))]
    {
        let said = doctor(netns, &words);
        let rp_filter = found(&said, "rp_filter")[0];
        assert_eq!(rp_filter["value"], "strict on to-client", "{said:#}");
        for check in ["rp_filter", "tcp_syncookies", "somaxconn"] {
            assert_eq!(verdict(&said, check), "warning", "{said:#}");
        }
    }
    let said = doctor(&outside, "");
    for check in ["rp_filter", "tcp_syncookies", "somaxconn"] {
        assert_eq!(verdict(&said, check), "ok", "{said:#}");
    }
    let said = doctor(server, configured(&case, ", { prefix = \"198.51.100.1\", ports = \"22\" }"));
    let covered = found(&said, "addresses")[0];
    assert_eq!(covered["verdict"], "missing");
    assert!(covered["meaning"].as_str().unwrap().contains("covers 198.51.100.1, an address of to-client"));
}

#[test]
fn doctor_finds_rules_that_track_or_drop_what_is_served() {
    let Some(case) = with_all_tools("doctor_finds_rules_that_track_or_drop_what_is_served") else { return };
    let server = &case.server;
    let nft = |words: &str| server.output(&format!("nft {words}")).status.success();
    assert!(nft("add table inet fw"));
    assert!(nft("add chain inet fw in { type filter hook input priority 0 ; }"));
    assert!(nft("add chain inet fw answers { type filter hook output priority -300 ; }"));
    assert!(nft("add chain inet fw early { type filter hook prerouting priority -300 ; }"));
    assert!(nft("add rule inet fw in ip daddr 192.0.2.7 tcp dport 80 drop"));
    let said = doctor(server, configured(&case, ""));
    assert_eq!(found(&said, "obstacle")[0]["value"], "nft inet fw in", "{said:#}");
    // A kernel without conntrack refuses the rule, and then has nothing to say.
    if nft("add rule inet fw in ct state established accept") {
        let said = doctor(server, configured(&case, ""));
        assert_eq!(verdict(&said, "conntrack"), "warning", "{said:#}");
        assert!(nft("add rule inet fw early notrack"));
        let said = doctor(server, configured(&case, ""));
        assert_eq!(verdict(&said, "conntrack"), "warning", "answers are tracked: {said:#}");
        assert!(nft("add rule inet fw answers notrack"));
        let said = doctor(server, configured(&case, ""));
        assert_eq!(verdict(&said, "conntrack"), "ok", "{said:#}");
    } else {
        assert_eq!(verdict(&doctor(server, ""), "conntrack"), "ok");
    }
}

#[test]
fn doctor_knows_that_nothing_works_without_loopback() {
    let Some(case) = with_all_tools("doctor_knows_that_nothing_works_without_loopback") else { return };
    case.server.ip("link set lo down");
    let finished = launch(&case.server, "doctor").finish();
    assert_eq!(finished.code(), 1, "{finished}");
    assert!(finished.stdout.contains("ip link set lo up"), "{finished}");
    assert!(finished.stderr.starts_with("error: no path works here: lo is down"), "{finished}");
}

#[test]
fn doctor_sees_the_programs_of_others() {
    let test = "doctor_sees_the_programs_of_others";
    if !require::met(test, Path::SkLookup.needs()) {
        return;
    }
    let case = Case::new(Path::SkLookup, Family::V4);
    assert_eq!(verdict(&doctor(&case.server, ""), "other programs"), "ok");
    let mut dispatcher = case.server.run(|| {
        let mut dispatcher = Dispatcher::load(false, 0).unwrap();
        dispatcher.attach(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
        dispatcher
    });
    let said = doctor(&case.server, "");
    let others = found(&said, "other programs")[0];
    assert_eq!(others["verdict"], "warning", "{said:#}");
    let id = dispatcher.probe().program_id();
    assert_eq!(others["value"], format!("{id} (spectrum)"));
    dispatcher.detach().unwrap();
}

#[test]
fn doctor_refuses_a_bad_file_and_a_missing_namespace() {
    let test = "doctor_refuses_a_bad_file_and_a_missing_namespace";
    if !require::met(test, &[Need::Netns, Need::Program]) {
        return;
    }
    let netns = Netns::create().unwrap();
    netns.run(|| fs::write("/run/spectrum.toml", "[[service]]\nname = 7\n")).unwrap();
    let said = |words: &str| -> Finished { launch(&netns, &format!("doctor {words}")).finish() };
    assert_eq!(said("--config /run/spectrum.toml").code(), 78);
    let missing = said("--netns there-is-none");
    assert_eq!(missing.code(), 1, "{missing}");
    assert!(missing.stderr.contains("ip netns add"), "{missing}");
}

#[test]
fn every_row_of_a_diagnosis_is_in_the_document_s_sample() {
    const SAMPLE: &str = include_str!("../../docs/operations.md");
    let test = "every_row_of_a_diagnosis_is_in_the_document_s_sample";
    let needs =
        [Need::Netns, Need::Program, Need::Bpf, Need::Nftables, Need::IptablesNft, Need::IptablesLegacy];
    if !require::met(test, &needs) {
        return;
    }
    // One row for each obstacle, or one that there is none.
    let check = |name: &str| name.replace("obstacles", "obstacle");
    let table = SAMPLE.lines().skip_while(|line| !line.starts_with("VERDICT  CHECK ")).skip(1);
    let shown = table.take_while(|line| !line.is_empty()).map(|line| {
        let (_verdict, rest) = line.split_once(' ').unwrap();
        check(rest.trim_start().split_once("  ").unwrap().0)
    });
    let server = Netns::create().unwrap();
    // It is shown in the first network namespace alone.
    let is_there = |check: &str| {
        check != "netdev_max_backlog" || fs::exists("/proc/sys/net/core/netdev_max_backlog").unwrap()
    };
    let shown = server.run(|| shown.filter(|check| is_there(check)).collect::<Vec<_>>());
    server.run(|| fs::write("/run/spectrum.toml", include_str!("../../config/spectrum.toml"))).unwrap();
    let said = doctor(&server, "--config /run/spectrum.toml");
    let findings = said["findings"].as_array().unwrap();
    let printed = findings.iter().map(|finding| check(finding["check"].as_str().unwrap()));
    assert_eq!(printed.collect::<Vec<_>>(), shown, "{said:#}");
}

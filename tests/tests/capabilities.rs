//! The least that each operation may do, and that no less will do. Does not test the operations themselves.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::io::Read as _;
use std::net::SocketAddr;

use spectrum_tests::case::{BOTH_PREFIXES, Case};
use spectrum_tests::control::{CONFIG, configure};
use spectrum_tests::dial::assert_answered;
use spectrum_tests::instance::Launch;
use spectrum_tests::netns::Netns;
use spectrum_tests::on_each_path;
use spectrum_tests::path::Path;
use spectrum_tests::require::{self, Need, find_in_path};
use spectrum_tests::scene::{Scene, assert_sees_the_client, call_from, transparent_service};
use spectrum_tests::state::State;
use spectrum_tests::veth::client_address;

const FAILURE: i32 = 1;
const NOT_PERMITTED: i32 = 77;

on_each_path!(
    run_needs_no_more_and_no_less,
    transparent_needs_no_more_and_no_less,
    run_in_another_namespace_needs_sys_admin_too,
    clean_needs_net_admin,
    nothing_at_all_is_refused,
);

fn needed_to_run(path: Path) -> &'static [&'static str] {
    match path {
        // And the memory of maps is locked memory, of which there is a limit.
        Path::SkLookup if charges_maps_as_locked_memory() => &["bpf", "net_admin", "perfmon", "sys_resource"],
        // Without perfmon the verifier guards against speculation, and refuses pointers it cannot guard.
        Path::SkLookup => &["bpf", "net_admin", "perfmon"],
        // The legacy interface is a socket option of a raw socket.
        Path::TproxyIptablesLegacy => &["net_admin", "net_raw"],
        Path::TproxyIptablesNft | Path::TproxyNftables => &["net_admin"],
    }
}

/// As kernels before 5.11 do, by their own list of their functions.
fn charges_maps_as_locked_memory() -> bool {
    fs::read_to_string("/proc/kallsyms").unwrap().contains(" bpf_map_charge_init\n")
}

/// Words before the program that leave it these capabilities.
fn with(capabilities: &[&str]) -> String {
    let setpriv = find_in_path("setpriv").unwrap();
    let kept = [&["-all"], capabilities].concat().join(",+");
    format!("{} --inh-caps=-all --bounding-set={kept}", setpriv.display())
}

/// Panics unless `launch` ends for want of `capability`, having changed nothing.
fn assert_wants(launch: Launch<'_>, netns: &Netns, capability: &str) {
    let before = State::of(netns);
    let finished = launch.finish();
    // The legacy iptables does not say why it got no table: it may be the kernel's lack, and that is a failure.
    let code = if capability == "net_raw" { FAILURE } else { NOT_PERMITTED };
    assert_eq!(finished.code(), code, "without {capability}: {finished}");
    let name = format!("CAP_{}", capability.to_uppercase());
    assert!(finished.stderr.contains(&name), "{name} is not named: {finished}");
    before.assert_restored(netns, &format!("a start without {capability}"));
}

fn run_needs_no_more_and_no_less(case: &mut Case) {
    if !require::met("run_needs_no_more_and_no_less", &[Need::Setpriv]) {
        return;
    }
    let before = State::of(&case.server);
    let needed = needed_to_run(case.path);
    let instance = case.launch(BOTH_PREFIXES).through(&with(needed)).start();
    assert_answered(&case.server, &case.targets_of_both());
    instance.stop();
    before.assert_restored(&case.server, "start and stop with few capabilities");
    for missing in needed {
        let rest: Vec<&str> = needed.iter().copied().filter(|capability| capability != missing).collect();
        assert_wants(case.launch(BOTH_PREFIXES).through(&with(&rest)), &case.server, missing);
    }
}

fn transparent_needs_no_more_and_no_less(case: &mut Case) {
    if !require::met("transparent_needs_no_more_and_no_less", &[Need::Setpriv, Need::Nftables]) {
        return;
    }
    let scene = Scene::of(case);
    let origin = scene.observer(case);
    configure(&case.server, &transparent_service("games", case.prefix(), origin.address()));
    let before = State::of(&case.server);
    let needed = needed_to_run(case.path);
    let mut low = |capabilities: &[&str], number: u16| {
        let instance = case.launch(CONFIG).through(&with(capabilities)).start();
        assert_sees_the_client(&scene.client, case.any_target());
        let from = SocketAddr::new(client_address(case.family), number);
        let mut seen = String::new();
        call_from(&scene.client, from, case.any_target()).read_to_string(&mut seen).unwrap();
        instance.stop();
        (from, seen.parse::<SocketAddr>().unwrap())
    };
    // A port below 1024 is not for everybody to have.
    let (from, seen) = low(needed, 901);
    assert_eq!(seen.ip(), from.ip());
    assert!(seen.port() >= 1024, "{seen}");
    let (from, seen) = low(&[needed, &["net_bind_service"]].concat(), 902);
    assert_eq!(seen, from);
    before.assert_restored(&case.server, "start and stop with few capabilities");
    for missing in needed {
        let rest: Vec<&str> = needed.iter().copied().filter(|capability| capability != missing).collect();
        assert_wants(case.launch(CONFIG).through(&with(&rest)), &case.server, missing);
    }
}

fn run_in_another_namespace_needs_sys_admin_too(case: &mut Case) {
    if !require::met("run_in_another_namespace_needs_sys_admin_too", &[Need::Setpriv]) {
        return;
    }
    let outside = Netns::create().unwrap();
    assert!(case.path.install(&outside));
    let needed = needed_to_run(case.path);
    // Another process's descriptors are not for everybody; a mounted namespace is.
    outside.run(|| std::fs::write("/run/inside", "").unwrap());
    outside.command(&format!("mount --bind {} /run/inside", case.server.path().display()));
    let arguments = format!("{} {BOTH_PREFIXES} --netns /run/inside", case.path.flags());
    let launch =
        |capabilities: &[&str]| Launch::new(&outside).arguments(&arguments).through(&with(capabilities));
    assert_wants(launch(needed), &case.server, "sys_admin");
    let instance = launch(&[needed, &["sys_admin"]].concat()).start();
    assert_answered(&case.server, &case.targets_of_both());
    instance.stop();
}

fn clean_needs_net_admin(case: &mut Case) {
    if !require::met("clean_needs_net_admin", &[Need::Setpriv]) {
        return;
    }
    let before = State::of(&case.server);
    case.start_on_both("").kill();
    let clean =
        |capabilities: &[&str]| Launch::new(&case.server).arguments("clean").through(&with(capabilities));
    assert_wants(clean(&[]), &case.server, "net_admin");
    let needed: &[&str] = match case.path {
        Path::TproxyIptablesLegacy => &["net_admin", "net_raw"],
        Path::SkLookup | Path::TproxyIptablesNft | Path::TproxyNftables => &["net_admin"],
    };
    let finished = clean(needed).finish();
    assert_eq!(finished.code(), 0, "{finished}");
    before.assert_restored(&case.server, "SIGKILL and clean");
}

fn nothing_at_all_is_refused(case: &mut Case) {
    if !require::met("nothing_at_all_is_refused", &[Need::Setpriv]) {
        return;
    }
    let before = State::of(&case.server);
    for flags in ["--mode auto", case.path.flags()] {
        let finished = Launch::new(&case.server)
            .arguments(&format!("{BOTH_PREFIXES} {flags}"))
            .through(&with(&[]))
            .finish();
        assert_eq!(finished.code(), NOT_PERMITTED, "{finished}");
        assert!(finished.stderr.contains("CAP_NET_ADMIN"), "{finished}");
        assert!(finished.stderr.contains("sudo"), "no cure: {finished}");
    }
    before.assert_restored(&case.server, "starts without capabilities");
}

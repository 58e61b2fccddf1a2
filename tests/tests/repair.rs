//! What others take away of what an instance has raised: that it comes back, that it is said, and that nobody is fought for
//! ever. How the program decides is tested beside its code.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use spectrum_tests::admin::{get, metrics, value};
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, await_logged, configure, connect, count_logged, reload};
use spectrum_tests::datagram;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_answered, dial};
use spectrum_tests::instance::{Instance, Launch};
use spectrum_tests::maps::forget_listener;
use spectrum_tests::nft_fault::NftFault;
use spectrum_tests::on_every_path;
use spectrum_tests::origin::Origin;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::require::{self, Need, find_in_path};
use spectrum_tests::scene::{Scene, assert_sees_the_client, transparent_service};
use spectrum_tests::state::{BpfObjects, State};

on_every_path!(
    what_steers_comes_back,
    routes_come_back,
    routes_come_back_with_the_loopback_interface,
    what_brings_answers_back_comes_back,
    what_is_left_alone_is_told,
    nothing_is_repaired_that_nobody_broke,
    nothing_answers_datagrams_while_nothing_steers_them,
);

/// The words of the log for each repair.
const PUT_BACK: &str = "put back what was removed";

/// A repair takes no longer, on a machine that does other things too.
const SOON: Duration = Duration::from_secs(5);

fn admin_config(case: &Case, more: &str) -> String {
    format!(
        "[admin]\nlisten = \"127.0.0.1:9180\"\n[dispatcher]\n{more}\n[[service]]\nname = \"default\"\nrespond = \"hello\"\nbindings = \
         [{{ prefix = \"{}\" }}]\n",
        case.prefix()
    )
}

fn admin() -> SocketAddr {
    "127.0.0.1:9180".parse().unwrap()
}

/// True if the machine has what takes away what steers on the case's path.
fn can_break_steering(test: &str, case: &Case) -> bool {
    case.path != Path::SkLookup || require::met(test, &[Need::Bpftool])
}

/// Takes away what steers, as somebody does who knows of nobody else.
fn break_steering(case: &Case, instance: &Instance) {
    match case.path {
        Path::SkLookup => {
            let link = BpfObjects::of_process(instance.pid()).ids("link").next().unwrap();
            case.server.command(&format!("bpftool link detach id {link}"));
        }
        Path::TproxyNftables => drop(case.server.command("nft flush ruleset")),
        Path::TproxyIptablesLegacy | Path::TproxyIptablesNft => {
            let tool = case.family.pick("iptables", "ip6tables");
            let status = case.server.run(|| case.path.command(&format!("{tool} -t mangle -F")).status());
            assert!(status.unwrap().success());
        }
    }
}

/// Waits until `target` is answered; how long that took.
fn answered_again(case: &Case, target: SocketAddr) -> Duration {
    answered_again_within(case, target, SOON)
}

fn answered_again_within(case: &Case, target: SocketAddr, patience: Duration) -> Duration {
    let begun = Instant::now();
    eventually("an answer", patience, || dial(&case.server, target).is_ok().then_some(()));
    begun.elapsed()
}

fn status(case: &Case, instance: &Instance) -> Value {
    connect(&case.server, instance).ask("status").unwrap()
}

fn missing(case: &Case, instance: &Instance) -> String {
    status(case, instance)["missing"].to_string()
}

fn what_steers_comes_back(case: &mut Case) {
    if !can_break_steering("what_steers_comes_back", case) {
        return;
    }
    configure(&case.server, &admin_config(case, ""));
    let before = State::of(&case.server);
    let instance = case.start(CONFIG);
    let target = case.any_target();
    assert_answered(&case.server, &[target]);
    for turn in 1..=2 {
        break_steering(case, &instance);
        answered_again(case, target);
        await_logged(&instance, PUT_BACK, turn);
    }
    let what = if case.path == Path::SkLookup { "attachment" } else { "rules" };
    let sample = format!("repairs_total{{what=\"{what}\"}}");
    assert_eq!(value(&metrics(&case.server, admin()), &sample), Some(2.0));
    assert_eq!(get(&case.server, admin(), "/readyz").unwrap().0, 200);
    // Who did it is known where the kernel knows.
    if matches!(case.path, Path::TproxyNftables | Path::TproxyIptablesNft) {
        assert_eq!(count_logged(&instance, "by=\"process"), 2, "{}", instance.stderr());
    }
    // A generation of ours that follows is whole.
    reload(&case.server, &instance).unwrap();
    assert_answered(&case.server, &[target]);
    instance.stop();
    if case.path != Path::TproxyIptablesLegacy {
        before.assert_restored(&case.server, "repairs");
    }
}

fn routes_come_back(case: &mut Case) {
    let instance = case.start_on_prefix();
    let target = case.any_target();
    let ip = case.family.pick("", "-6 ");
    for turn in 1..=3 {
        let words = match turn {
            1 => format!("{ip}route del local {} dev lo table local", case.prefix()),
            2 => format!("{ip}route flush table local proto 83"),
            // A replacement is not told of as a removal.
            _ => format!("{ip}route replace unreachable {} table local", case.prefix()),
        };
        if turn == 3 && case.family == Family::V6 {
            // The kernel puts it beside ours.
            break;
        }
        case.server.ip(&words);
        if turn == 3 {
            // It is in the way, and somebody else's.
            await_logged(&instance, "missing, and not put back", 1);
            case.server.ip(&format!("route del unreachable {} table local", case.prefix()));
        }
        answered_again(case, target);
        await_logged(&instance, PUT_BACK, turn);
    }
    assert!(instance.stderr().contains("by=\"process"), "{}", instance.stderr());
}

fn routes_come_back_with_the_loopback_interface(case: &mut Case) {
    let scene = Scene::of(case);
    let before = State::of(&case.server);
    let instance = case.start_on_both("");
    let targets = case.targets_of_both();
    assert_answered(&scene.client, &targets[case.family.pick(0, 1)..][..1]);
    case.server.ip("link set lo down");
    await_logged(&instance, "lo is down", 1);
    case.server.ip("link set lo up");
    eventually("an answer", SOON, || {
        targets.iter().all(|target| dial(&case.server, *target).is_ok()).then_some(())
    });
    instance.stop();
    if case.path != Path::TproxyIptablesLegacy {
        before.assert_restored(&case.server, "the loopback interface was down");
    }
}

fn what_brings_answers_back_comes_back(case: &mut Case) {
    let scene = Scene::of(case);
    let origin = scene.observer(case);
    if find_in_path("nft").is_none() {
        return;
    }
    configure(&case.server, &transparent_service("games", case.prefix(), origin.address()));
    let instance = case.start(CONFIG);
    let target = case.any_target();
    assert_sees_the_client(&scene.client, target);
    let ip = case.family.pick("", "-6 ");
    let table = status(case, &instance)["firewall"].to_string();
    let table = table.split('"').find(|part| part.starts_with("table inet")).unwrap().to_owned();
    let rule = case.server.ip(&format!("{ip}rule"));
    let number = rule.lines().find_map(|line| line.split("lookup ").nth(1)).unwrap_or_default();
    assert!(!number.is_empty(), "{rule}");
    let number = rule.lines().rev().find_map(|line| {
        line.contains("proto 83").then(|| line.split("lookup ").nth(1)?.split(' ').next()).flatten()
    });
    let number = number.unwrap();
    for (turn, words) in [
        format!("ip {ip}route flush table {number}"),
        format!("ip {ip}rule del lookup {number}"),
        format!("nft delete {table}"),
        format!("nft flush {table}"),
    ]
    .iter()
    .enumerate()
    {
        case.server.command(words);
        await_logged(&instance, PUT_BACK, turn + 1);
        assert_sees_the_client(&scene.client, target);
    }
}

fn what_is_left_alone_is_told(case: &mut Case) {
    if !can_break_steering("what_is_left_alone_is_told", case) {
        return;
    }
    configure(&case.server, &admin_config(case, ""));
    let instance = case.start(&format!("{CONFIG} --no-repair"));
    let target = case.any_target();
    assert_answered(&case.server, &[target]);
    let ready = || get(&case.server, admin(), "/readyz").unwrap();
    assert_eq!(ready(), (200, "ready\n".to_owned()));
    break_steering(case, &instance);
    let ip = case.family.pick("", "-6 ");
    case.server.ip(&format!("{ip}route flush table local proto 83"));
    let told = |text: &str| text.contains("local route") && text.contains(case.path.pick_steering());
    eventually("readiness that tells", SOON, || {
        let (code, text) = ready();
        (code == 503 && told(&text)).then_some(())
    });
    assert!(told(&missing(case, &instance)));
    let explained = connect(&case.server, &instance).explain(&target.to_string()).unwrap();
    assert_eq!(explained["outcome"], "passed", "{explained}");
    assert!(told(&explained["notes"].to_string()), "{explained}");
    let doctor = Launch::new(&case.server).arguments("doctor").finish();
    assert!(doctor.stdout.contains("missing"), "{doctor}");
    dial(&case.server, target).unwrap_err();
    assert_eq!(count_logged(&instance, PUT_BACK), 0);
    // Whoever asks for a reload asks for all of it.
    reload(&case.server, &instance).unwrap();
    assert_answered(&case.server, &[target]);
    assert_eq!(missing(case, &instance), "null");
    assert_eq!(ready(), (200, "ready\n".to_owned()));
}

fn nothing_answers_datagrams_while_nothing_steers_them(case: &mut Case) {
    if !can_break_steering("nothing_answers_datagrams_while_nothing_steers_them", case) {
        return;
    }
    let config = format!(
        "[[service]]\nname = \"default\"\nrespond = \"echo\"\nbindings = [{{ protocol = \"udp\", prefix = \"{}\" }}]\n",
        case.prefix()
    );
    configure(&case.server, &config);
    let instance = case.start(&format!("{CONFIG} --no-repair --workers 1"));
    let target = case.any_target();
    let known = datagram::client(&case.server, target);
    datagram::assert_echo(&known, b"steered");
    break_steering(case, &instance);
    // What has a voice hears nothing, and says nothing.
    datagram::assert_silence_to(&known, b"anybody?");
    datagram::assert_silence_to(&datagram::client(&case.server, target), b"anybody else?");
    reload(&case.server, &instance).unwrap();
    datagram::assert_echo(&known, b"steered again");
}

/// Ours are the changes of reloads, and of instances beside.
fn nothing_is_repaired_that_nobody_broke(case: &mut Case) {
    configure(&case.server, &admin_config(case, ""));
    let instance = case.start(CONFIG);
    for turn in 0..4 {
        let other = case.start("--prefix 198.51.100.0/24 --prefix 2001:db8:ffff::/64");
        let respond = if turn % 2 == 0 { "echo" } else { "hello" };
        configure(&case.server, &admin_config(case, "").replace("\"hello\"", &format!("\"{respond}\"")));
        reload(&case.server, &instance).unwrap();
        other.stop();
    }
    // So long that something that is looked at every second has been.
    let begun = Instant::now();
    eventually("a while", PATIENCE, || (begun.elapsed() > Duration::from_millis(1500)).then_some(()));
    assert_eq!(count_logged(&instance, "WARN"), 0, "{}", instance.stderr());
    instance.stop();
}

trait PickSteering {
    /// The thing that is said to be missing where nothing steers.
    fn pick_steering(self) -> &'static str;
}

impl PickSteering for Path {
    fn pick_steering(self) -> &'static str {
        if self == Self::SkLookup {
            "attachment of the sk_lookup program"
        } else {
            "firewall rules that steer"
        }
    }
}

fn case_on(path: Path, test: &str, more: &[Need]) -> Option<Case> {
    let is_possible = require::met(test, path.needs()) && require::met(test, more);
    is_possible.then(|| Case::new(path, Family::V4))
}

#[test]
fn a_listener_that_is_taken_out_of_the_map_comes_back() {
    let test = "a_listener_that_is_taken_out_of_the_map_comes_back";
    let Some(case) = case_on(Path::SkLookup, test, &[Need::Bpftool]) else { return };
    configure(&case.server, &admin_config(&case, ""));
    let instance = case.start(CONFIG);
    forget_listener(&case.server, &instance, 0);
    await_logged(&instance, PUT_BACK, 1);
    assert_answered(&case.server, &case.targets_of_both()[..1]);
    instance.stop();
    let instance = case.start(&format!("{CONFIG} --no-repair"));
    forget_listener(&case.server, &instance, 0);
    eventually("word of it", SOON, || {
        missing(&case, &instance).contains("listener of destination 0").then_some(())
    });
    dial(&case.server, case.targets_of_both()[0]).unwrap_err();
}

#[test]
fn elements_that_are_taken_out_of_a_map_come_back() {
    let test = "elements_that_are_taken_out_of_a_map_come_back";
    let Some(case) = case_on(Path::TproxyNftables, test, &[]) else { return };
    let instance = case.start_on_both("");
    let tables = case.server.command("nft list tables");
    let table = tables.lines().find_map(|line| line.strip_prefix("table ip ")).unwrap();
    let listed = case.server.command(&format!("nft list table ip {table}"));
    let map = listed.lines().find_map(|line| line.trim().strip_prefix("map ")?.split(' ').next()).unwrap();
    case.server.command(&format!("nft flush map ip {table} {map}"));
    await_logged(&instance, PUT_BACK, 1);
    assert_answered(&case.server, &case.targets_of_both());
    // A table beside ours is somebody else's affair.
    case.server.command("nft add table ip other");
    case.server.command("nft delete table ip other");
    assert_eq!(count_logged(&instance, PUT_BACK), 1, "{}", instance.stderr());
}

#[test]
fn the_run_directory_and_what_is_in_it_come_back() {
    let test = "the_run_directory_and_what_is_in_it_come_back";
    let Some(case) = case_on(Path::TproxyNftables, test, &[]) else { return };
    configure(&case.server, &admin_config(&case, ""));
    let before = State::of(&case.server);
    let instance = case.start(CONFIG);
    let directory = format!("/run/spectrum/{}", case.server.inode());
    for turn in 1..=3 {
        case.server.run(|| match turn {
            1 => fs::remove_dir_all("/run/spectrum").unwrap(),
            2 => {
                for entry in fs::read_dir(&directory).unwrap() {
                    fs::remove_file(entry.unwrap().path()).unwrap();
                }
            }
            _ => {
                for entry in fs::read_dir(&directory).unwrap() {
                    let path = entry.unwrap().path();
                    if path.extension().is_some_and(|extension| extension == "sock") {
                        fs::remove_file(&path).unwrap();
                        fs::write(&path, "").unwrap();
                    }
                }
            }
        });
        await_logged(&instance, "the control socket", turn);
        eventually("a status", SOON, || {
            let asked = Launch::new(&case.server).arguments("status").finish();
            asked.stdout.contains("ready").then_some(())
        });
        // Others still see what is claimed.
        let refused = case.launch(&format!("--prefix {}", case.prefix())).finish();
        assert!(refused.stderr.contains("claim prefix"), "{refused}");
        assert_eq!(get(&case.server, admin(), "/readyz").unwrap().0, 200);
    }
    await_logged(&instance, "the state file", 2);
    instance.stop();
    before.assert_restored(&case.server, "the run directory was removed");
}

#[test]
fn who_removes_the_same_again_and_again_is_left_alone() {
    let test = "who_removes_the_same_again_and_again_is_left_alone";
    let Some(case) = case_on(Path::TproxyNftables, test, &[]) else { return };
    configure(&case.server, &admin_config(&case, "repairs-per-minute = 3"));
    let instance = case.start(CONFIG);
    let target = case.targets_of_both()[0];
    for turn in 1..=4 {
        case.server.command("nft flush ruleset");
        if turn < 4 {
            await_logged(&instance, PUT_BACK, turn);
        }
    }
    await_logged(&instance, "put back 3 times within a minute, it is left alone for another", 1);
    let (code, said) = get(&case.server, admin(), "/readyz").unwrap();
    assert!(code == 503 && said.contains("removed by process"), "{said}");
    assert!(missing(&case, &instance).contains("left alone"));
    dial(&case.server, target).unwrap_err();
    reload(&case.server, &instance).unwrap();
    assert_answered(&case.server, &[target]);
    assert_eq!(get(&case.server, admin(), "/readyz").unwrap(), (200, "ready\n".to_owned()));
}

#[test]
fn what_is_open_stays_open_while_everything_is_removed() {
    let test = "what_is_open_stays_open_while_everything_is_removed";
    let Some(case) = case_on(Path::TproxyNftables, test, &[]) else { return };
    let scene = Scene::of(&case);
    let origin = Origin::echo(&scene.origins, spectrum_tests::veth::origin_address(case.family));
    configure(&case.server, &transparent_service("games", case.prefix(), origin.address()));
    let instance = case.start(CONFIG);
    let target = case.targets_of_both()[0];
    let stream = spectrum_tests::dial::call(&scene.client, target).unwrap();
    let mut said = 0_u8;
    let mut exchange = || {
        use std::io::{Read as _, Write as _};
        said += 1;
        (&stream).write_all(&[said]).unwrap();
        let mut answer = [0];
        (&stream).read_exact(&mut answer).unwrap();
        assert_eq!(answer, [said]);
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    exchange();
    for (turn, words) in
        ["nft flush ruleset", "ip route flush table local proto 83", "ip link set lo down"].iter().enumerate()
    {
        case.server.command(words);
        case.server.ip("link set lo up");
        await_logged(&instance, PUT_BACK, turn + 1);
        exchange();
    }
}

#[test]
fn a_look_that_hangs_is_told_and_keeps_no_other_waiting() {
    let test = "a_look_that_hangs_is_told_and_keeps_no_other_waiting";
    let Some(case) = case_on(Path::TproxyNftables, test, &[]) else { return };
    configure(&case.server, &admin_config(&case, ""));
    let instance = case.start(CONFIG);
    let target = case.targets_of_both()[0];
    let fault = NftFault::mute(&case.server);
    let (real, table) = (fault.real(), format!("ip spectrum-{}", instance.id(&case.server)));
    // It is looked at, since somebody touched it.
    case.server.command(&format!("{real} add chain {table} others"));
    let unknown = "could not look whether anything is missing of rules: ";
    eventually("a look that hangs", PATIENCE, || {
        instance.stderr().contains("cannot be looked at").then_some(())
    });
    let unseen = || status(&case, &instance)["unseen"].to_string();
    assert!(unseen().contains(unknown), "{}", unseen());
    let looks = value(&metrics(&case.server, admin()), "failed_looks_total{what=\"rules\"}");
    assert!(looks >= Some(2.0), "{looks:?}");
    // Clients are served all the same.
    let (code, said) = get(&case.server, admin(), "/readyz").unwrap();
    assert!(code == 200 && said.contains(unknown), "{code} {said}");
    for turn in 1..=3 {
        case.server.command(&format!("{real} delete chain {table} others"));
        case.server.command(&format!("{real} add chain {table} others"));
        let begun = Instant::now();
        case.server.command("ip route flush table local proto 83");
        answered_again(&case, target);
        await_logged(&instance, "put back what was removed: local route", turn);
        assert!(begun.elapsed() < Duration::from_millis(2500), "it waited for nft: {:?}", begun.elapsed());
    }
    drop(fault);
    // What was touched is made anew.
    await_logged(&instance, "put back what was removed: the firewall rules", 1);
    eventually("knowledge", PATIENCE, || (!unseen().contains(unknown)).then_some(()));
    instance.stop();
}

/// Takes routes away while something else is waited for: they come back, and who asks is answered.
fn assert_routes_come_back(
    case: &Case,
    instance: &Instance,
    state: &str,
    turns: std::ops::RangeInclusive<usize>,
) {
    for turn in turns {
        let begun = Instant::now();
        case.server.ip("route flush table local proto 83");
        await_logged(instance, "put back what was removed: local route", turn);
        assert!(begun.elapsed() < Duration::from_millis(2500), "it waited: {:?}", begun.elapsed());
        assert_eq!(status(case, instance)["state"], state);
    }
}

/// Waits until `text` is part of the command line of a process that the instance has started.
fn await_child(instance: &Instance, text: &str) {
    eventually("a program that is run", PATIENCE, || {
        let children =
            fs::read_dir(format!("/proc/{}/task", instance.pid())).unwrap().flatten().flat_map(|thread| {
                let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                children.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
            });
        let is_it = |pid: String| {
            fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(text))
        };
        children.into_iter().any(is_it).then_some(())
    });
}

#[test]
fn a_repair_that_hangs_keeps_no_other_waiting_and_is_given_up_at_the_end() {
    let test = "a_repair_that_hangs_keeps_no_other_waiting_and_is_given_up_at_the_end";
    let Some(case) = case_on(Path::TproxyNftables, test, &[]) else { return };
    configure(&case.server, &admin_config(&case, ""));
    let before = State::of(&case.server);
    let instance = case.start(CONFIG);
    let target = case.targets_of_both()[0];
    {
        let slow = NftFault::slow(&case.server, 6);
        case.server.command(&format!("{} flush ruleset", slow.real()));
        await_child(&instance, "nft\0-f");
        assert_routes_come_back(&case, &instance, "ready", 1..=3);
        dial(&case.server, target).unwrap_err();
        answered_again_within(&case, target, PATIENCE);
        await_logged(&instance, "put back what was removed: the firewall rules", 1);
    }
    let hanging = NftFault::hanging(&case.server);
    case.server.command(&format!("{} flush ruleset", hanging.real()));
    await_child(&instance, "sleep");
    assert_routes_come_back(&case, &instance, "ready", 4..=5);
    let begun = Instant::now();
    instance.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(instance.finish(SOON).code(), 0);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    before.assert_restored(&case.server, "a repair that hung");
}

#[test]
fn a_reload_whose_repair_hangs_keeps_no_other_waiting_and_is_given_up_at_the_end() {
    let test = "a_reload_whose_repair_hangs_keeps_no_other_waiting_and_is_given_up_at_the_end";
    let Some(case) = case_on(Path::TproxyNftables, test, &[]) else { return };
    configure(&case.server, &admin_config(&case, "repairs-per-minute = 0"));
    let before = State::of(&case.server);
    let instance = case.start(CONFIG);
    let hanging = NftFault::hanging(&case.server);
    case.server.command(&format!("{} flush ruleset", hanging.real()));
    let mut asked = connect(&case.server, &instance);
    asked.send("reload");
    await_child(&instance, "sleep");
    eventually("a state", PATIENCE, || (status(&case, &instance)["state"] == "reloading").then_some(()));
    let begun = Instant::now();
    instance.signal(nix::sys::signal::Signal::SIGTERM);
    let refused = asked.answer().unwrap_err();
    assert!(refused.message.contains("being told to stop"), "{refused:?}");
    assert_eq!(instance.finish(SOON).code(), 0);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    before.assert_restored(&case.server, "a reload whose repair hung");
}

#[test]
fn a_reload_that_waits_for_its_file_keeps_no_repair_waiting() {
    let test = "a_reload_that_waits_for_its_file_keeps_no_repair_waiting";
    let Some(case) = case_on(Path::TproxyNftables, test, &[]) else { return };
    configure(&case.server, &admin_config(&case, ""));
    let instance = case.start(CONFIG);
    let pipe = "/run/spectrum.toml";
    case.server.run(|| {
        fs::remove_file(pipe).unwrap();
        nix::unistd::mkfifo(pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    });
    let mut asked = connect(&case.server, &instance);
    asked.send("reload");
    eventually("a state", PATIENCE, || (status(&case, &instance)["state"] == "reloading").then_some(()));
    assert_routes_come_back(&case, &instance, "reloading", 1..=2);
    case.server.command("nft flush ruleset");
    await_logged(&instance, "put back what was removed: the firewall rules", 1);
    assert_answered(&case.server, &case.targets_of_both()[..1]);
    case.server.run(|| fs::write(pipe, admin_config(&case, "")).unwrap());
    asked.answer().unwrap();
    assert_answered(&case.server, &case.targets_of_both()[..1]);
}

#[test]
fn of_hundreds_of_listeners_each_comes_back() {
    let test = "of_hundreds_of_listeners_each_comes_back";
    let Some(case) = case_on(Path::SkLookup, test, &[Need::Bpftool]) else { return };
    let count = 1500;
    let service = |n: u32| {
        let address = format!("10.9.{}.{}", n / 250, n % 250);
        let bindings = format!("bindings = [{{ prefix = \"{address}\", ports = 80 }}]");
        format!("[[service]]\nname = \"s{n}\"\nrespond = \"hello\"\n{bindings}\n")
    };
    let services = (0..count).map(service).collect::<Vec<_>>().concat();
    configure(&case.server, &services);
    let instance = case.launch(&format!("{CONFIG} --workers 1")).start();
    for (turn, id) in [0, 255, 256, 700, 1023, 1024, count - 1].into_iter().enumerate() {
        forget_listener(&case.server, &instance, id);
        await_logged(&instance, PUT_BACK, turn + 1);
    }
}

#[test]
fn what_went_amid_more_notices_than_can_wait_comes_back() {
    let test = "what_went_amid_more_notices_than_can_wait_comes_back";
    let Some(case) = case_on(Path::TproxyNftables, test, &[]) else { return };
    let instance = case.start_on_both("");
    let route = |verb: &str, n: u32| format!("route {verb} 10.{}.{}.1/32 dev lo\n", n / 250, n % 250);
    let routes = |verb: &str| (0..40_000).map(|n| route(verb, n)).collect::<Vec<_>>().concat();
    let batch = routes("add") + &routes("del");
    case.server.run(|| fs::write("/run/batch", batch).unwrap());
    // It hears nothing while others are busy, until the kernel has no room left for what there is to tell.
    instance.signal(nix::sys::signal::Signal::SIGSTOP);
    case.server.command("ip -batch /run/batch");
    case.server.command("ip route flush table local proto 83");
    case.server.command("nft flush ruleset");
    let dropped = case.server.run(|| fs::read_to_string("/proc/thread-self/net/netlink").unwrap());
    assert!(dropped.lines().any(lost), "nothing was lost:\n{dropped}");
    instance.signal(nix::sys::signal::Signal::SIGCONT);
    await_logged(&instance, "put back what was removed: local route", 1);
    await_logged(&instance, "put back what was removed: the firewall rules", 1);
    assert_answered(&case.server, &case.targets_of_both());
}

/// True of a socket of /proc/net/netlink that has lost something: its ninth word is how much.
fn lost(line: &str) -> bool {
    line.split_whitespace().nth(8).and_then(|drops| drops.parse().ok()).is_some_and(|drops: u64| drops > 0)
}

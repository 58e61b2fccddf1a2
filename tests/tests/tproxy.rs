//! What is peculiar to the firewalls that carry the rules of TPROXY: the choice among them, and what they refuse. The
//! cases that all paths share are in `steering.rs`.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use spectrum_tests::case::Case;
use spectrum_tests::dial::assert_answered;
use spectrum_tests::instance::Launch;
use spectrum_tests::nft_fault::NftFault;
use spectrum_tests::path::{Family, Path, TOOLS};
use spectrum_tests::require;
use spectrum_tests::state::State;

/// A case on `path`, unless the machine lacks something that it needs.
fn case(test: &str, path: Path) -> Option<Case> {
    require::met(test, path.needs()).then(|| Case::new(path, Family::V4))
}

#[test]
fn auto_takes_nftables_and_leaves_nothing() {
    let Some(case) = case("auto_takes_nftables_and_leaves_nothing", Path::TproxyNftables) else { return };
    let before = State::of(&case.server);
    let instance = Launch::new(&case.server)
        .arguments("--mode tproxy --prefix 192.0.2.0/24 --prefix 2001:db8::/64")
        .start();
    let rules = State::of(&case.server).section("nft list ruleset").join("\n");
    for family in ["ip", "ip6"] {
        assert!(rules.contains(&format!("\"family\":\"{family}\",\"name\":\"gen1-to-tcp-")), "{rules}");
    }
    assert_answered(&case.server, &case.targets_of_both());
    instance.stop();
    before.assert_restored(&case.server, "start and stop");
}

#[test]
fn auto_takes_iptables_where_nft_refuses_and_says_why() {
    let test = "auto_takes_iptables_where_nft_refuses_and_says_why";
    let Some(case) = case(test, Path::TproxyIptablesLegacy) else { return };
    let _without = NftFault::refusing(&case.server);
    let instance = Launch::new(&case.server)
        .arguments("--mode tproxy --prefix 192.0.2.0/24 --prefix 2001:db8::/64")
        .start();
    assert_answered(&case.server, &case.targets_of_both());
    let finished = instance.stop();
    for words in ["firewall rules are in iptables", "modprobe nft_tproxy"] {
        assert!(finished.stderr.contains(words), "{words:?} is missing: {finished}");
    }
}

#[test]
fn auto_takes_iptables_for_all_addresses_where_nft_cannot_tell_which_are_local() {
    let test = "auto_takes_iptables_for_all_addresses_where_nft_cannot_tell_which_are_local";
    let Some(case) = case(test, Path::TproxyIptablesLegacy) else { return };
    // All addresses that are local anyway: no route comes with that.
    case.server.ip("route add local 192.0.2.0/24 dev lo");
    let _without = NftFault::without_fib(&case.server);
    let start = |prefix: &str| {
        let arguments = format!("--mode tproxy --force --ports 4443 --prefix {prefix}");
        let instance = Launch::new(&case.server).arguments(&arguments).start();
        assert_answered(&case.server, &case.targets_of_both()[..1]);
        instance.stop().stderr
    };
    let log = start("0.0.0.0/0");
    for words in ["firewall rules are in iptables", "nft_fib_ipv4"] {
        assert!(log.contains(words), "{words:?} is missing: {log}");
    }
    let log = start("192.0.2.0/24");
    assert!(!log.contains("firewall rules are in iptables"), "{log}");
}

#[test]
fn both_refusals_are_named() {
    let Some(case) = case("both_refusals_are_named", Path::TproxyIptablesLegacy) else { return };
    let _without = NftFault::refusing(&case.server);
    for tool in ["iptables-restore", "ip6tables-restore"] {
        case.server.run(|| {
            let file = format!("{TOOLS}/{tool}");
            fs::remove_file(&file).unwrap();
            fs::write(&file, "#!/bin/sh\necho 'No chain/target/match by that name.' >&2; exit 1\n").unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        });
    }
    let finished = Launch::new(&case.server).arguments("--mode tproxy --prefix 192.0.2.0/24").finish();
    assert_eq!(finished.code(), 1, "{finished}");
    for words in ["modprobe nft_tproxy", "modprobe -a xt_TPROXY xt_socket"] {
        assert!(finished.stderr.contains(words), "{words:?} is missing: {finished}");
    }
}

#[test]
fn a_killed_instance_leaves_a_table_that_clean_removes_and_live_ones_keep_theirs() {
    let test = "a_killed_instance_leaves_a_table_that_clean_removes_and_live_ones_keep_theirs";
    let Some(case) = case(test, Path::TproxyNftables) else { return };
    let live = case.launch("--prefix 198.51.100.0/24").start();
    let before = State::of(&case.server);
    case.launch("--prefix 192.0.2.0/24").start().kill();
    assert_ne!(State::of(&case.server), before);
    let finished = Launch::new(&case.server).arguments("clean").finish();
    assert_eq!(finished.code(), 0, "{finished}");
    before.assert_restored(&case.server, "SIGKILL and clean");
    assert_answered(&case.server, &["198.51.100.9:443".parse().unwrap()]);
    live.stop();
}

#[test]
fn more_bindings_than_iptables_can_carry_are_refused_and_nftables_takes_them() {
    let test = "more_bindings_than_iptables_can_carry_are_refused_and_nftables_takes_them";
    let Some(case) = case(test, Path::TproxyNftables) else { return };
    let before = State::of(&case.server);
    let addresses = (0..6000).fold(String::new(), |mut list, i| {
        let _ = write!(list, "\"10.1.{}.{}\", ", i / 128, i % 128 * 2);
        list
    });
    let file = format!(
        "[[service]]\nname = \"default\"\nrespond = \"hello\"\nbindings = [{{ prefix = [{addresses}], ports = \"80,443\" }}]\n"
    );
    case.server.run(|| fs::write("/run/many.toml", file)).unwrap();
    let launch = |firewall: &str| {
        Launch::new(&case.server)
            .arguments(&format!("--mode tproxy --firewall {firewall} --config /run/many.toml"))
    };
    let finished = launch("iptables").finish();
    assert_eq!(finished.code(), 1, "{finished}");
    for word in ["12000", "5000", "--firewall nftables"] {
        assert!(finished.stderr.contains(word), "{word:?} is missing: {finished}");
    }
    before.assert_restored(&case.server, "too many bindings for iptables");
    let instance = launch("nftables").start();
    assert_answered(&case.server, &["10.1.0.0:80", "10.1.46.222:443"].map(|target| target.parse().unwrap()));
    instance.stop();
    before.assert_restored(&case.server, "start and stop");
}

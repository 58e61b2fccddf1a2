//! What the program refuses to do, what it says then, and with which exit code. Failures of the machine are in
//! `failed_start.rs`.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure, connect, reload};
use spectrum_tests::dial::assert_answered;
use spectrum_tests::instance::{Finished, Launch};
use spectrum_tests::netns::Netns;
use spectrum_tests::on_each_path;
use spectrum_tests::origin::Origin;
use spectrum_tests::path::TOOLS;
use spectrum_tests::require::{self, Need};
use spectrum_tests::state::State;
use spectrum_tests::veth;

const FAILURE: i32 = 1;
const USAGE: i32 = 2;
const NOT_PERMITTED: i32 = 77;

/// Panics unless the program ended with `code` and one message that has all of `words` in it.
fn assert_says(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code(), code, "{finished}");
    assert_eq!(finished.stdout, "", "{finished}");
    for word in words {
        assert!(finished.stderr.contains(word), "{word:?} is missing: {finished}");
        let repeated = finished.stderr.matches(word).count() > 1 && word.contains(' ');
        assert!(!repeated, "{word:?} is said twice: {finished}");
    }
    assert!(!finished.stderr.contains("panicked"), "{finished}");
}

#[test]
fn what_cannot_be_meant_is_refused_as_usage() {
    if !require::met("what_cannot_be_meant_is_refused_as_usage", &[Need::Netns, Need::Program]) {
        return;
    }
    let netns = Netns::create().unwrap();
    let before = State::of(&netns);
    let cases: &[(&str, &[&str])] = &[
        ("", &["--prefix"]),
        ("--prefix", &["--prefix"]),
        ("--prefix banana", &["banana"]),
        ("--prefix 192.0.2/24", &["192.0.2"]),
        ("--prefix 192.0.2.0/33", &["33", "from 0 to 32"]),
        ("--prefix 192.0.2.0/24/1", &["192.0.2.0/24/1"]),
        ("--prefix 192.0.2.1/24", &["192.0.2.1/24", "write 192.0.2.0/24 for the whole"]),
        ("--prefix 2001:db8::1/64", &["2001:db8::1/64", "write 2001:db8::/64 for the whole"]),
        ("--prefix ::ffff:192.0.2.0/120", &["IPv4-mapped", "write 192.0.2.0/24"]),
        ("--prefix 224.0.0.0/4", &["multicast"]),
        ("--prefix 192.0.2.0/24 --ports 0", &["--ports", "0"]),
        ("--prefix 192.0.2.0/24 --ports 0-80", &["--ports", "0-80"]),
        ("--prefix 192.0.2.0/24 --ports 70000", &["--ports", "70000"]),
        ("--prefix 192.0.2.0/24 --ports 1-70000", &["--ports", "1-70000"]),
        ("--prefix 192.0.2.0/24 --ports 9-3", &["--ports", "9-3"]),
        ("--prefix 192.0.2.0/24 --ports http", &["--ports", "http"]),
        ("--prefix 192.0.2.0/24 --ports 80,", &["--ports"]),
        ("--prefix 192.0.2.0/24 --mode magic", &["--mode", "magic", "sk-lookup", "tproxy"]),
        ("--prefix 192.0.2.0/24 --drain soon", &["--drain", "soon", "not a time; write it as in 10s"]),
        ("--prefix 192.0.2.0/24 --drain 9999999y", &["--drain", "9999999y", "not a time up to 1year"]),
        (
            "--prefix 192.0.2.0/24 --workers 0",
            &["--workers", "not a number from 1 to 4096; leave --workers out"],
        ),
        ("status --instance web", &["--instance", "web", "as in 3fa2c1"]),
        ("explain tcp 2001:db8:7::5:80", &["<ADDRESS:PORT>", "write [2001:db8:7::5]:80"]),
        ("--prefix 192.0.2.0/24 --origin :80", &["--origin"]),
        ("--prefix 192.0.2.0/24 --origin host:0", &["--origin", "host:0"]),
        ("--prefix 192.0.2.0/24 --origin host:99999", &["--origin", "host:99999"]),
        ("--prefix 192.0.2.0/24 --log-format prose", &["--log-format", "prose", "text", "json"]),
        ("--prefix 192.0.2.0/24 --unheard-of", &["--unheard-of"]),
        ("--prefix 192.0.2.0/24 --prefix 192.0.2.0/24", &["192.0.2.0/24"]),
        ("--prefix 192.0.2.0/24 --ports 80,80", &["80"]),
        ("--prefix 192.0.2.0/24 --ports 1-100,50-150", &["1-100", "50-150"]),
    ];
    for (arguments, words) in cases {
        let finished = Launch::new(&netns).arguments(arguments).finish();
        assert_says(&finished, USAGE, words);
    }
    before.assert_restored(&netns, "refusals");
}

#[test]
fn help_and_version_are_on_standard_output() {
    if !require::met("help_and_version_are_on_standard_output", &[Need::Netns, Need::Program]) {
        return;
    }
    let netns = Netns::create().unwrap();
    for (arguments, word) in [
        ("--help", "--prefix"),
        ("-h", "--prefix"),
        ("--version", "spectrum-user"),
        ("clean --help", "clean"),
    ] {
        let finished = Launch::new(&netns).arguments(arguments).finish();
        assert_eq!(finished.code(), 0, "{finished}");
        assert!(finished.stdout.contains(word), "{finished}");
        assert_eq!(finished.stderr, "", "{finished}");
    }
}

/// Others who can write there can put links, and what looks like a live instance.
#[test]
fn run_directory_that_others_may_write_is_refused() {
    if !require::met("run_directory_that_others_may_write_is_refused", &[Need::Netns, Need::Program]) {
        return;
    }
    let netns = Netns::create().unwrap();
    netns.run(|| {
        fs::create_dir_all("/run/own").unwrap();
        fs::create_dir_all("/run/open/below").unwrap();
        fs::set_permissions("/run/open", Permissions::from_mode(0o777)).unwrap();
        symlink("/run/own", "/run/link").unwrap();
    });
    let before = State::of(&netns);
    for (dir, cause) in [
        ("/run/open", "others may write it (mode 0777)"),
        ("/run/open/below", "/run/open above it may be written by others"),
        ("/run/link", "it is a link"),
    ] {
        for words in ["--prefix 192.0.2.0/24", "clean"] {
            let finished = Launch::new(&netns).arguments(words).environment("SPECTRUM_RUN_DIR", dir).finish();
            assert_says(
                &finished,
                NOT_PERMITTED,
                &[&format!("use the run directory {dir}: {cause}"), "mode 0755"],
            );
        }
    }
    before.assert_restored(&netns, "refusals");
    let clean = Launch::new(&netns).arguments("clean").environment("SPECTRUM_RUN_DIR", "/run/own").finish();
    assert_eq!(clean.code(), 0, "{clean}");
}

on_each_path!(
    prefix_of_an_address_of_the_host_needs_force,
    ports_of_the_host_that_cut_nobody_need_no_force,
    what_is_forced_by_name_by_file_or_by_reload_is_served,
    prefix_of_the_loopback_needs_no_force,
    unknown_namespace_is_refused,
    namespace_can_be_named_or_given_by_path,
);

fn prefix_of_an_address_of_the_host_needs_force(case: &mut Case) {
    let client = veth::client_of(&case.server);
    let before = State::of(&case.server);
    for (prefix, address) in [
        ("198.51.100.0/24", veth::SERVER_V4),
        ("198.51.100.1", veth::SERVER_V4),
        ("2001:db8:ffff::/64", veth::SERVER_V6),
        ("2001:db8::/32", veth::SERVER_V6),
    ] {
        let finished = case.launch(&format!("--prefix {prefix}")).finish();
        assert_says(&finished, FAILURE, &[prefix, address, "to-client", "--force"]);
        before.assert_restored(&case.server, "a refusal");
    }
    let instance = case.start("--prefix 198.51.100.1 --prefix 2001:db8:ffff::1 --force");
    let targets =
        [veth::SERVER_V4, veth::SERVER_V6].map(|address| SocketAddr::new(address.parse().unwrap(), 4443));
    assert_answered(&client, &targets);
    assert_answered(&case.server, &targets);
    instance.stop();
    before.assert_restored(&case.server, "start with --force and stop");
}

fn ports_of_the_host_that_cut_nobody_need_no_force(case: &mut Case) {
    let client = veth::client_of(&case.server);
    let other: SocketAddr = format!("{}:2222", veth::SERVER_V4).parse().unwrap();
    let _other = Origin::saying(&case.server, other, "other");
    let address = veth::SERVER_V4;
    let instance = case.start(&format!("--prefix {address} --ports 10000-50000"));
    assert_answered(&client, &[SocketAddr::new(other.ip(), 12_345)]);
    instance.stop();
    let finished = case.launch(&format!("--prefix {address} --ports 2000-3000")).finish();
    let by = format!("(process {}) on tcp 2222", std::process::id());
    let flag = format!("give --force {address}, or write force = [\"{address}\"] under [dispatcher]");
    assert_says(&finished, FAILURE, &["would cut", &by, &flag]);
    // Whoever binds ssh must mean it, although nobody listens there now.
    let finished = case.launch(&format!("--prefix {address} --ports 22")).finish();
    assert_says(&finished, FAILURE, &["would cut ssh, whenever it listens on tcp 22"]);
    let finished = case.launch(&format!("--prefix {address} --ports 22 --force 203.0.113.1")).finish();
    assert_says(&finished, FAILURE, &["would cut ssh"]);
}

fn what_is_forced_by_name_by_file_or_by_reload_is_served(case: &mut Case) {
    let client = veth::client_of(&case.server);
    let address = veth::SERVER_V4;
    let target: SocketAddr = format!("{address}:22").parse().unwrap();
    let instance = case.start(&format!("--prefix {address} --ports 22 --force {address}"));
    assert_answered(&client, &[target]);
    instance.stop();

    let service = |prefix: &str| {
        format!(
            "[[service]]\nname = \"default\"\nrespond = \"hello\"\nbindings = [{{ prefix = \"{prefix}\", ports = 22 }}]\n"
        )
    };
    configure(&case.server, &format!("[dispatcher]\nforce = [\"{address}\"]\n{}", service(address)));
    let instance = case.start(CONFIG);
    assert_answered(&client, &[target]);
    instance.stop();

    configure(&case.server, &service("192.0.2.0/24"));
    let instance = case.start(CONFIG);
    configure(&case.server, &service(address));
    let refused = reload(&case.server, &instance).unwrap_err();
    assert!(refused.message.contains(&format!("--force {address}")), "{refused:?}");
    let verb = format!("reload --force {address}");
    let forced = Launch::new(&case.server).arguments(&verb).finish();
    assert_eq!(forced.code(), 0, "{forced}");
    assert_answered(&client, &[target]);
    // It holds for later reloads too.
    reload(&case.server, &instance).unwrap();
    instance.stop();
}

fn prefix_of_the_loopback_needs_no_force(case: &mut Case) {
    let other = Origin::saying(&case.server, "127.3.0.5:0".parse().unwrap(), "other");
    let before = State::of(&case.server);
    let instance = case.start("--prefix 127.3.0.0/16 --ports 1-1000");
    assert_answered(&case.server, &["127.3.9.9:9".parse().unwrap(), "127.3.0.1:1000".parse().unwrap()]);
    instance.stop();
    // Who listens there is named as on any other prefix.
    let instance = case.start("--prefix 127.3.0.0/16");
    assert_answered(&case.server, &[other.address()]);
    let status = connect(&case.server, &instance).ask("status").unwrap();
    let conflicts = status["conflicts"].as_array().unwrap();
    let addresses: Vec<&str> = conflicts.iter().filter_map(|conflict| conflict["address"].as_str()).collect();
    assert_eq!(addresses, [other.address().to_string()], "{status}");
    instance.stop();
    before.assert_restored(&case.server, "start and stop");
}

fn unknown_namespace_is_refused(case: &mut Case) {
    for name in ["nowhere", "/nowhere/at/all"] {
        let finished = case.launch(&format!("--prefix {} --netns {name}", case.prefix())).finish();
        assert_says(&finished, FAILURE, &[name]);
    }
    case.server.run(|| fs::write("/run/file", "no namespace")).unwrap();
    let finished = case.launch(&format!("--prefix {} --netns /run/file", case.prefix())).finish();
    assert_says(&finished, FAILURE, &["/run/file"]);
}

fn namespace_can_be_named_or_given_by_path(case: &mut Case) {
    let outside = Netns::create().unwrap();
    assert!(case.path.install(&outside), "no tools in {TOOLS}");
    outside.run(|| {
        fs::create_dir_all("/run/netns").unwrap();
        fs::write("/run/netns/inside", "").unwrap();
    });
    outside.command(&format!("mount --bind {} /run/netns/inside", case.server.path().display()));
    let [within, without] = [State::of(&case.server), State::of(&outside)];
    for name in ["inside".to_owned(), case.server.path().display().to_string()] {
        let arguments = format!("{} --prefix {} --netns {name}", case.path.flags(), case.prefix());
        let instance = Launch::new(&outside).arguments(&arguments).start();
        let target = case.any_target();
        assert_answered(&case.server, &[target]);
        without.assert_restored(&outside, "a start in another namespace");
        instance.stop();
        within.assert_restored(&case.server, "start and stop from outside");
    }
    let arguments = format!("{} --prefix {} --netns inside", case.path.flags(), case.prefix());
    Launch::new(&outside).arguments(&arguments).start().kill();
    let finished = Launch::new(&outside).arguments("clean --netns inside").finish();
    assert_eq!(finished.code(), 0, "{finished}");
    within.assert_restored(&case.server, "SIGKILL and clean from outside");
    without.assert_restored(&outside, "SIGKILL and clean from outside");
}

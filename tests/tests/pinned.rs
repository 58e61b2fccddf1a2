//! What steers without a process: pinned, bound, looked at and taken away by verbs that end at once. Each leaves the kernel as it says, and
//! whoever is killed or comes between leaves what the next one goes on with. Only sk_lookup has anything to pin.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use socket2::SockRef;
use spectrum_steering::DestinationId;
use spectrum_steering::dispatcher::Dispatcher;
use spectrum_tests::admin;
use spectrum_tests::control::configure;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_answered, assert_refused, dial};
use spectrum_tests::foreign_server::ForeignServer;
use spectrum_tests::instance::Launch;
use spectrum_tests::netns::Netns;
use spectrum_tests::require::{self, Need, find_in_path};
use spectrum_tests::state::State;
use spectrum_tests::verbs::{done, refused, status, verb};

const NEEDS: [Need; 5] = [Need::Netns, Need::Program, Need::Bpf, Need::Bpftool, Need::Ipv6];

/// A namespace for `test`, if the machine can.
fn server(test: &str, needs: &[Need]) -> Option<Netns> {
    (require::met(test, &NEEDS) && require::met(test, needs)).then(|| Netns::create().unwrap())
}

/// The bindings, a line each.
fn bindings(netns: &Netns) -> Vec<String> {
    let listed: Value = serde_json::from_str(&done(netns, "bindings --json")).unwrap();
    let word = |binding: &Value, key: &str| binding[key].as_str().unwrap().to_owned();
    let line =
        |binding: &Value| ["service", "protocol", "prefix", "ports"].map(|key| word(binding, key)).join(" ");
    listed.as_array().unwrap().iter().map(line).collect()
}

/// The destination of `status` that has this service, protocol and family.
fn destination(netns: &Netns, service: &str, protocol: &str, family: &str) -> Value {
    let status = status(netns);
    let all = status["destinations"].as_array().unwrap();
    let found = all
        .iter()
        .find(|one| one["service"] == service && one["protocol"] == protocol && one["family"] == family);
    found.unwrap_or_else(|| panic!("{service} {protocol} {family} in {status}")).clone()
}

/// The directory of what is pinned.
fn pins(netns: &Netns) -> PathBuf {
    format!("/sys/fs/bpf/spectrum/{}", netns.inode()).into()
}

fn objects(netns: &Netns) -> PathBuf {
    pins(netns).join("1")
}

/// Puts a socket in the place of a destination, as whoever registers it does.
fn put(netns: &Netns, id: &Value, socket: &(impl AsFd + Sync)) {
    let id = DestinationId(id.as_u64().unwrap().try_into().unwrap());
    let directory = objects(netns);
    netns.run(|| Dispatcher::open_pinned(&directory).unwrap().0.register(id, socket).unwrap());
}

/// A TCP server that says which address was dialled to whoever comes. Ends when it is dropped.
struct Greeter(TcpListener);

impl Drop for Greeter {
    fn drop(&mut self) {
        // Wakes who waits for clients, and that closes what it has.
        let _ = SockRef::from(&self.0).shutdown(Shutdown::Both);
    }
}

impl AsFd for Greeter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// One in `netns` at `address`.
fn greeter(netns: &Netns, address: &str) -> Greeter {
    let listener = netns.run(|| TcpListener::bind(address).unwrap());
    let copy = listener.try_clone().unwrap();
    thread::spawn(move || {
        for stream in copy.incoming() {
            let Ok(mut stream) = stream else { return };
            let dialled = stream.local_addr().map(|address| address.to_string()).unwrap_or_default();
            let _ = stream.write_all(dialled.as_bytes());
        }
    });
    Greeter(listener)
}

/// Panics unless `target` is answered by a [`greeter`].
fn assert_greeted(netns: &Netns, target: &str) {
    let target: SocketAddr = target.parse().unwrap();
    let heard = netns.run(|| {
        let mut stream =
            TcpStream::connect_timeout(&target, PATIENCE).unwrap_or_else(|error| panic!("{target}: {error}"));
        let mut heard = String::new();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_to_string(&mut heard).unwrap();
        heard
    });
    assert_eq!(heard, target.to_string());
}

fn nothing_listens(netns: &Netns, targets: &[&str]) {
    let targets: Vec<SocketAddr> = targets.iter().map(|target| target.parse().unwrap()).collect();
    assert_refused(netns, &targets);
}

#[test]
fn what_is_bound_steers_without_a_process_and_goes_with_unload() {
    let Some(netns) = server("what_is_bound_steers_without_a_process_and_goes_with_unload", &[]) else {
        return;
    };
    let before = State::of(&netns);
    assert!(done(&netns, "load").starts_with("loaded into network namespace "));
    assert!(done(&netns, "load").starts_with("already loaded into network namespace "));
    assert!(done(&netns, "bind web tcp 192.0.2.0/24 1000-2000").contains("web is new"));
    assert_eq!(done(&netns, "bind web tcp 2001:db8::/64"), "bound tcp 2001:db8::/64 1-65535 to web\n");
    done(&netns, "bind dns udp 192.0.2.0/25 53");
    assert_eq!(
        bindings(&netns),
        ["web tcp 192.0.2.0/24 1000-2000", "web tcp 2001:db8::/64 1-65535", "dns udp 192.0.2.0/25 53",]
    );
    // Nobody is there yet: refused, not passed to whoever listens on that port.
    let other = netns.run(|| TcpListener::bind("0.0.0.0:1500").unwrap());
    nothing_listens(&netns, &["192.0.2.9:1500", "[2001:db8::9]:80"]);
    assert_eq!(destination(&netns, "web", "tcp", "ipv4")["packets"]["missed"], 1);
    assert_eq!(destination(&netns, "web", "tcp", "ipv6")["packets"]["missed"], 1);

    let (ipv4, ipv6) = (greeter(&netns, "127.0.0.1:0"), greeter(&netns, "[::1]:0"));
    put(&netns, &destination(&netns, "web", "tcp", "ipv4")["id"], &ipv4);
    put(&netns, &destination(&netns, "web", "tcp", "ipv6")["id"], &ipv6);
    for target in ["192.0.2.9:1000", "192.0.2.255:2000", "[2001:db8::9]:1", "[2001:db8::ffff]:65535"] {
        assert_greeted(&netns, target);
    }
    let server = netns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    put(&netns, &destination(&netns, "dns", "udp", "ipv4")["id"], &server);
    netns.run(|| {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"who", "192.0.2.7:53").unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut heard = [0; 8];
        assert_eq!(server.recv_from(&mut heard).unwrap().0, 3);
    });
    assert_eq!(destination(&netns, "web", "tcp", "ipv4")["packets"]["steered"], 2);

    // What goes takes its route with it, and nothing else.
    done(&netns, "unbind web tcp 192.0.2.0/24 1000-2000");
    assert_greeted(&netns, "[2001:db8::9]:443");
    assert!(netns.ip("route show table local proto 83").contains("192.0.2.0/25"));
    done(&netns, "unbind dns udp 192.0.2.0/25 53");
    assert_eq!(netns.ip("route show table local proto 83"), "");
    drop((ipv6, server));
    assert!(done(&netns, "unload").starts_with("unloaded from network namespace "));
    assert!(done(&netns, "unload").starts_with("nothing is pinned in network namespace "));
    drop((ipv4, other));
    before.assert_restored(&netns, "unload");
}

#[test]
fn an_id_is_empty_whoever_had_it_before() {
    let Some(netns) = server("an_id_is_empty_whoever_had_it_before", &[]) else { return };
    done(&netns, "load");
    done(&netns, "bind first tcp 192.0.2.0/24");
    let first = greeter(&netns, "127.0.0.1:0");
    let id = destination(&netns, "first", "tcp", "ipv4")["id"].clone();
    put(&netns, &id, &first);
    assert_greeted(&netns, "192.0.2.9:80");
    done(&netns, "unbind first tcp 192.0.2.0/24");
    // As a killed process may leave it: in a place that nothing leads to.
    put(&netns, &id, &first);
    done(&netns, "bind second tcp 192.0.2.0/24");
    let second = destination(&netns, "second", "tcp", "ipv4");
    assert_eq!((&second["id"], &second["packets"]["steered"]), (&id, &Value::from(0)));
    nothing_listens(&netns, &["192.0.2.9:80"]);
    // While something refers to it nobody else gets it.
    done(&netns, "bind third udp 192.0.2.0/24");
    assert_ne!(destination(&netns, "third", "udp", "ipv4")["id"], id);
}

#[test]
fn all_of_ipv6_is_not_ipv4() {
    let Some(netns) = server("all_of_ipv6_is_not_ipv4", &[]) else { return };
    done(&netns, "load");
    done(&netns, "bind all both ::/0");
    let listener = greeter(&netns, "127.0.0.1:0");
    let address = listener.0.local_addr().unwrap().to_string();
    assert_greeted(&netns, &address);
    nothing_listens(&netns, &["[::1]:80"]);
    refused(&netns, "bind mapped tcp ::ffff:192.0.2.0/120", &["IPv4-mapped", "192.0.2.0/24"]);
    assert_eq!(bindings(&netns).len(), 2);
}

#[test]
fn an_error_says_what_there_is() {
    let Some(netns) = server("an_error_says_what_there_is", &[]) else { return };
    for line in
        ["bind web tcp 192.0.2.0/24", "unbind web tcp 192.0.2.0/24", "metrics", "status --instance pinned"]
    {
        refused(&netns, line, &["nothing is pinned in network namespace", "spectrum-user load"]);
    }
    done(&netns, "load");
    refused(&netns, "unbind web tcp 192.0.2.0/24", &["there is no service web; nothing is bound"]);
    done(&netns, "bind web tcp 192.0.2.0/24 80,1000-2000");
    done(&netns, "bind mail tcp 192.0.2.0/24 25");
    for (line, words) in [
        (
            "bind mail tcp 192.0.2.0/24 80",
            &["it is bound to web", "spectrum-user unbind web tcp 192.0.2.0/24 80"][..],
        ),
        (
            "bind mail tcp 192.0.2.0/24 1500-2500",
            &["bindings tie: ", "service web", "one range must be narrower"],
        ),
        ("unbind wbe tcp 192.0.2.0/24 80", &["there is no service wbe; there are web, mail"]),
        ("unbind mail tcp 192.0.2.0/24 80", &["it is bound to web, not to mail"]),
        (
            "unbind web tcp 192.0.2.0/24 81",
            &["web has no such binding, but tcp 192.0.2.0/24 80, tcp 192.0.2.0/24 1000-2000"],
        ),
        ("bind web sctp 192.0.2.0/24", &["tcp", "udp", "both"]),
        ("bind web tcp 192.0.2.0/24 0", &["for every port leave ports out"]),
        ("reload", &["none runs in network namespace"]),
        ("reload --instance pinned", &["it has no process that could answer"]),
        ("load --config /run/none.toml", &["read configuration /run/none.toml"]),
    ] {
        refused(&netns, line, words);
    }
    // Nothing of all this has changed anything.
    assert_eq!(
        bindings(&netns),
        ["mail tcp 192.0.2.0/24 25", "web tcp 192.0.2.0/24 80", "web tcp 192.0.2.0/24 1000-2000"]
    );
    configure(
        &netns,
        "[[service]]\nname = \"web\"\nrespond = \"hello\"\nbindings = [{ prefix = \"192.0.2.0/24\" }]\n",
    );
    refused(
        &netns,
        "load-bindings /run/spectrum.toml",
        &["service web is answered by a process of ours", "registered = true"],
    );
}

#[test]
fn without_a_bpf_file_system_the_cure_is_told() {
    let Some(netns) = server("without_a_bpf_file_system_the_cure_is_told", &[]) else { return };
    netns.command("umount /sys/fs/bpf");
    let before = State::of(&netns);
    refused(
        &netns,
        "load",
        &["no BPF file system is mounted at /sys/fs/bpf", "mount -t bpf bpf /sys/fs/bpf"],
    );
    before.assert_restored(&netns, "a load that failed");
    netns.command("mount -t bpf bpf /sys/fs/bpf");
    done(&netns, "load");
}

#[test]
fn instances_and_pins_leave_each_other_alone() {
    let Some(netns) = server("instances_and_pins_leave_each_other_alone", &[]) else { return };
    netns.run(|| fs::create_dir_all(spectrum_tests::path::TOOLS).unwrap());
    done(&netns, "load");
    done(&netns, "bind web tcp 192.0.2.0/24");
    let listener = greeter(&netns, "127.0.0.1:0");
    put(&netns, &destination(&netns, "web", "tcp", "ipv4")["id"], &listener);
    // A start takes nothing over that it would not go on with.
    refused(
        &netns,
        "--mode sk-lookup --prefix 192.0.2.128/25",
        &["take over what is pinned", "also steers web", "unload"],
    );
    let instance = Launch::new(&netns).arguments("--mode sk-lookup --prefix 198.51.100.0/24").start();
    assert_greeted(&netns, "192.0.2.9:80");
    assert_answered(&netns, &["198.51.100.9:80".parse().unwrap()]);
    refused(
        &netns,
        "bind web tcp 198.51.100.7",
        &["claim prefix 198.51.100.7/32: process ", "has 198.51.100.0/24"],
    );
    // Both can be asked, so which one is meant must be said.
    refused(&netns, "status", &["there are several", "--instance: pinned, "]);
    assert!(done(&netns, "status --instance pinned").starts_with("instance pinned (no process): ready"));
    assert!(done(&netns, "bindings --instance pinned").contains("192.0.2.0/24"));
    instance.stop();
    done(&netns, "clean");
    assert_greeted(&netns, "192.0.2.9:80");
    done(&netns, "bind web tcp 198.51.100.7");
}

#[test]
fn what_others_take_away_is_seen_and_put_back_by_the_next_command() {
    let Some(netns) = server("what_others_take_away_is_seen_and_put_back_by_the_next_command", &[]) else {
        return;
    };
    done(&netns, "load");
    done(&netns, "bind web tcp 192.0.2.0/24");
    let listener = greeter(&netns, "127.0.0.1:0");
    put(&netns, &destination(&netns, "web", "tcp", "ipv4")["id"], &listener);
    assert_eq!(status(&netns)["missing"], Value::Null);
    // The route.
    netns.ip("route del table local local 192.0.2.0/24 dev lo proto 83");
    assert!(status(&netns)["missing"][0].as_str().unwrap().contains("local route 192.0.2.0/24"));
    done(&netns, "clean");
    assert_greeted(&netns, "192.0.2.9:80");
    // The claim: who starts must not take the route for a leftover.
    netns.run(|| fs::remove_dir_all(format!("/run/spectrum/{}", netns.inode())).unwrap());
    refused(&netns, "--prefix 203.0.113.0/24 --mode sk-lookup", &["is gone", "spectrum-user clean"]);
    done(&netns, "clean");
    assert_greeted(&netns, "192.0.2.9:80");
    // The attachment.
    let links: Value = serde_json::from_str(&netns.command("bpftool -j link show")).unwrap();
    let ours = links.as_array().unwrap().iter().find(|link| link["netns_ino"] == netns.inode()).unwrap();
    netns.command(&format!("bpftool link detach id {}", ours["id"]));
    assert!(status(&netns)["missing"].to_string().contains("somebody has detached it"));
    done(&netns, "bind web tcp 192.0.3.0/24");
    assert_eq!(status(&netns)["missing"], Value::Null);
    assert_greeted(&netns, "192.0.3.9:80");
    // The link's file: it is detached with it.
    netns.run(|| fs::remove_file(pins(&netns).join("link")).unwrap());
    done(&netns, "clean");
    assert_greeted(&netns, "192.0.2.9:80");
}

#[test]
fn of_eight_writers_none_loses_a_binding() {
    let Some(netns) = server("of_eight_writers_none_loses_a_binding", &[]) else { return };
    done(&netns, "load");
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            (0..3)
                .map(|nth| {
                    Launch::new(&netns)
                        .arguments(&format!("bind w{writer} tcp 10.{writer}.{nth}.0/24 80"))
                        .spawn()
                })
                .collect::<Vec<_>>()
        })
        .collect();
    // Whoever looks meanwhile sees one generation or the next.
    for _ in 0..20 {
        let (status, listed) = (status(&netns), bindings(&netns));
        let counted: u64 =
            status["services"].as_array().unwrap().iter().map(|one| one["bindings"].as_u64().unwrap()).sum();
        assert!(counted <= listed.len() as u64 && listed.len() <= 24, "{status} {listed:?}");
    }
    for finished in writers.into_iter().flatten().map(|writer| writer.finish(PATIENCE * 2)) {
        assert_eq!(finished.code(), 0, "{finished}");
    }
    let mut expected: Vec<String> =
        (0..8).flat_map(|w| (0..3).map(move |nth| format!("w{w} tcp 10.{w}.{nth}.0/24 80"))).collect();
    let mut listed = bindings(&netns);
    expected.sort();
    listed.sort();
    assert_eq!(listed, expected);
    assert_eq!(status(&netns)["generation"], 25);
}

#[test]
fn two_namespaces_have_nothing_in_common() {
    let Some(one) = server("two_namespaces_have_nothing_in_common", &[]) else { return };
    let Some(other) = server("two_namespaces_have_nothing_in_common", &[]) else { return };
    for (netns, service) in [(&one, "one"), (&other, "other")] {
        done(netns, "load");
        done(netns, &format!("bind {service} tcp 192.0.2.0/24"));
    }
    let listener = greeter(&one, "127.0.0.1:0");
    put(&one, &destination(&one, "one", "tcp", "ipv4")["id"], &listener);
    assert_greeted(&one, "192.0.2.9:80");
    nothing_listens(&other, &["192.0.2.9:80"]);
    assert_eq!(destination(&one, "one", "tcp", "ipv4")["packets"]["missed"], 0);
    assert_eq!(bindings(&other), ["other tcp 192.0.2.0/24 1-65535"]);
    done(&other, "unload");
    assert_greeted(&one, "192.0.2.9:80");
    // By its name, from elsewhere, where one file system has them all.
    let path = one.path().display().to_string();
    let there = done(&one, &format!("bindings --netns {path}"));
    assert!(there.contains("one"), "{there}");
}

#[test]
fn five_thousand_bindings_are_as_good_as_one() {
    let Some(netns) = server("five_thousand_bindings_are_as_good_as_one", &[]) else { return };
    done(&netns, "load");
    let labelled: Vec<String> = (0..2_500)
        .map(|at| {
            format!(
                "{{\"label\": \"s{}\", \"prefix\": \"10.{}.{}.0/24\", \"port\": 80}}",
                at % 50,
                at / 250,
                at % 250
            )
        })
        .collect();
    netns.run(|| {
        fs::write("/run/bindings.json", format!("{{\"bindings\": [{}]}}", labelled.join(", "))).unwrap();
    });
    assert_eq!(done(&netns, "load-bindings /run/bindings.json").lines().count(), 5_000);
    assert_eq!(bindings(&netns).len(), 5_000);
    let listener = greeter(&netns, "127.0.0.1:0");
    put(&netns, &destination(&netns, "s7", "tcp", "ipv4")["id"], &listener);
    assert_greeted(&netns, "10.0.7.1:80");
    assert_eq!(done(&netns, "load-bindings /run/bindings.json"), "");
    done(&netns, "bind more tcp 192.0.2.0/24");
    assert_greeted(&netns, "10.0.7.1:80");
    assert_eq!(bindings(&netns).len(), 5_001);
}

#[test]
fn a_member_of_the_group_looks_and_changes_nothing() {
    let test = "a_member_of_the_group_looks_and_changes_nothing";
    let Some(netns) = server(test, &[Need::Setpriv]) else { return };
    done(&netns, "load --group 4242");
    done(&netns, "bind web tcp 192.0.2.0/24");
    netns.command("chmod 0755 /sys/fs/bpf");
    let listed = netns.command(&format!("ls -ln {}", objects(&netns).display()));
    let mode = |line: &str| if line.ends_with(" secret") { "-rw-------" } else { "-rw-r-----" };
    let is_right = |line: &str| line.starts_with(&format!("{} 1 0 4242 ", mode(line)));
    assert!(listed.contains(" secret") && listed.lines().skip(1).all(is_right), "{listed}");
    let setpriv = find_in_path("setpriv").unwrap();
    let by = |groups: &str, line: &str| {
        let through = format!("{} --reuid 4241 --regid {groups} --clear-groups", setpriv.display());
        Launch::new(&netns).arguments(line).through(&through).finish()
    };
    let status = by("4242", "status");
    assert!(status.code() == 0 && status.stdout.contains("web"), "{status}");
    let listed = by("4242", "bindings");
    assert!(listed.code() == 0 && listed.stdout.contains("192.0.2.0/24"), "{listed}");
    let metrics = by("4242", "metrics");
    assert!(metrics.code() == 0 && metrics.stdout.contains("spectrum_missed_packets_total"), "{metrics}");
    for line in ["bind web tcp 192.0.3.0/24", "unbind web tcp 192.0.2.0/24", "unload", "load"] {
        let finished = by("4242", line);
        assert_eq!(finished.code(), 77, "{finished}");
    }
    // Who is in no such group is told what there may be, if anything.
    let other = by("4243", "status");
    assert!(other.code() != 0 && !other.stdout.contains("web"), "{other}");
    assert_eq!(bindings(&netns).len(), 1);
    // As systemd mounts it nobody comes by, which is said.
    done(&netns, "unload");
    netns.command("chmod 0700 /sys/fs/bpf");
    assert!(done(&netns, "load --group 4242").contains("chmod o+x /sys/fs/bpf"));
    refused(&netns, "load --group no-such-group", &["there is no group no-such-group"]);
}

#[test]
fn metrics_are_served_until_told_to_stop() {
    let Some(netns) = server("metrics_are_served_until_told_to_stop", &[]) else { return };
    done(&netns, "load");
    done(&netns, "bind web tcp 192.0.2.0/24");
    nothing_listens(&netns, &["192.0.2.9:80"]);
    let server = Launch::new(&netns).arguments("metrics 127.0.0.1:9180").spawn();
    let admin = "127.0.0.1:9180".parse().unwrap();
    let (_, text) = eventually("metrics", PATIENCE, || admin::get(&netns, admin, "/metrics").ok());
    assert!(
        text.contains("spectrum_missed_packets_total{service=\"web\",protocol=\"tcp\",family=\"ipv4\"} 1"),
        "{text}"
    );
    server.stop();
    let error =
        netns.run(|| TcpStream::connect_timeout(&"127.0.0.1:9180".parse().unwrap(), Duration::from_secs(1)));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn an_upgrade_misses_no_packet_and_loses_no_count() {
    let Some(netns) = server("an_upgrade_misses_no_packet_and_loses_no_count", &[]) else { return };
    done(&netns, "load");
    done(&netns, "bind web tcp 192.0.2.0/24");
    done(&netns, "bind web tcp 2001:db8::/64");
    let foreign = ForeignServer::tcp(&netns, "[::]:0".parse().unwrap(), "web");
    done(&netns, &format!("register web --pid {} {}", std::process::id(), foreign.address()));
    let programs = || status(&netns)["program"]["id"].as_u64().unwrap();
    let (first, over) = (programs(), AtomicBool::new(false));
    let dialled = thread::scope(|scope| {
        let dial = |target: &'static str| {
            let (netns, over) = (&netns, &over);
            move || {
                let mut dialled = 0_u64;
                while !over.load(Ordering::Acquire) {
                    let target = target.parse().unwrap();
                    let heard = dial(netns, target).unwrap_or_else(|error| panic!("{target}: {error}"));
                    assert!(heard.text.starts_with("web "), "{heard:?}");
                    dialled += 1;
                }
                dialled
            }
        };
        let clients = ["192.0.2.9:80", "[2001:db8::9]:80"].map(|target| scope.spawn(dial(target)));
        for _ in 0..10 {
            let told = done(&netns, "upgrade");
            assert!(told.starts_with("upgraded pinned from="), "{told}");
        }
        over.store(true, Ordering::Release);
        clients.map(|client| client.join().unwrap())
    });
    assert_ne!(programs(), first);
    for (family, dialled) in ["ipv4", "ipv6"].into_iter().zip(dialled) {
        let packets = destination(&netns, "web", "tcp", family)["packets"].clone();
        assert_eq!((&packets["missed"], packets["steered"].as_u64()), (&Value::from(0), Some(dialled)));
    }
    let left: Vec<_> =
        netns.run(|| fs::read_dir(pins(&netns)).unwrap().map(|entry| entry.unwrap().file_name()).collect());
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn what_is_registered_is_told_and_what_does_not_fit_is_refused() {
    let Some(netns) = server("what_is_registered_is_told_and_what_does_not_fit_is_refused", &[]) else {
        return;
    };
    let own = std::process::id();
    refused(&netns, &format!("register web --pid {own} --instance pinned"), &["nothing is pinned"]);
    done(&netns, "load");
    done(&netns, "bind web tcp 192.0.2.0/24");
    let web = ForeignServer::tcp(&netns, "127.0.0.1:0".parse().unwrap(), "web");
    let udp = ForeignServer::udp(&netns, "127.0.0.1:0".parse().unwrap());
    refused(
        &netns,
        &format!("register wbe --pid {own} {}", web.address()),
        &["there is no service wbe; there are web"],
    );
    refused(
        &netns,
        &format!("register web --pid {own} {}", udp.address()),
        &["it binds tcp of ipv4, and offered are udp 127.0.0.1:"],
    );
    let told = done(&netns, &format!("register web --pid {own} {}", web.address()));
    assert!(told.contains("gets what is for web tcp ipv4"), "{told}");
    let shown = &status(&netns)["services"][0]["sockets"][0];
    assert_eq!((&shown["condition"], &shown["pid"]), (&"up".into(), &own.into()), "{shown}");
    assert_eq!(shown["address"], web.address().to_string());
    // By what another one knows it: unregistered it is refused, and so is who ends.
    refused(&netns, "unregister web --protocol udp", &["no such socket is registered: tcp ipv4: 127.0.0.1:"]);
    done(&netns, &format!("unregister web {}", web.address()));
    nothing_listens(&netns, &["192.0.2.9:80"]);
    done(&netns, &format!("register web --pid {own} {}", web.address()));
    let (before, address) =
        (destination(&netns, "web", "tcp", "ipv4")["packets"]["missed"].as_u64().unwrap(), web.address());
    drop(web);
    nothing_listens(&netns, &["192.0.2.9:80"]);
    assert_eq!(destination(&netns, "web", "tcp", "ipv4")["packets"]["missed"], before + 1);
    let shown = &status(&netns)["services"][0]["sockets"][0];
    assert_eq!((&shown["condition"], &shown["address"]), (&"gone".into(), &address.to_string().into()));
}

#[test]
fn what_is_broken_is_told_and_can_be_unloaded() {
    let Some(netns) = server("what_is_broken_is_told_and_can_be_unloaded", &[]) else { return };
    let before = State::of(&netns);
    for file in ["generation-2", "program", "LISTENERS", "TABLES"] {
        done(&netns, "load");
        done(&netns, "bind web tcp 192.0.2.0/24");
        netns.run(|| fs::remove_file(objects(&netns).join(file)).unwrap());
        let finished = verb(&netns, "bind web tcp 192.0.3.0/24");
        assert!(
            finished.code() == 1 && finished.stderr.contains("/sys/fs/bpf/spectrum/"),
            "{file}: {finished}"
        );
        assert!(done(&netns, "unload").contains("unloaded from network namespace"), "{file}");
        before.assert_restored(&netns, &format!("unload without {file}"));
    }
}

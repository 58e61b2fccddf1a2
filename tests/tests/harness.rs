//! The harness itself, without the program under test: a harness that sees nothing would find nothing wrong.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use spectrum_tests::dial::{assert_refused, dial, dial_all};
use spectrum_tests::netns::Netns;
use spectrum_tests::origin::{Origin, receive_sequence, send_sequence};
use spectrum_tests::path::{Family, Path};
use spectrum_tests::require::{self, Need};
use spectrum_tests::state::State;
use spectrum_tests::veth;

#[test]
fn namespaces_are_separate_and_empty() {
    if !require::met("namespaces_are_separate_and_empty", &[Need::Netns]) {
        return;
    }
    let host = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let [first, second] = [Netns::create().unwrap(), Netns::create().unwrap()];
    assert_ne!(first.inode(), second.inode());
    let inside = first.run(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap());
    assert_eq!(inside.display().to_string(), format!("net:[{}]", first.inode()));
    assert_ne!(inside, host);
    assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), host, "this thread went nowhere");
    assert_eq!(first.command("ls /sys/class/net").trim(), "lo");
    // A kernel without bpf(2) has no place for its files.
    for directory in
        ["/run", "/sys/fs/bpf"].map(std::path::Path::new).into_iter().filter(|path| path.exists())
    {
        let here = directory.join("here");
        first.run(|| std::fs::create_dir(&here).unwrap());
        assert!(!second.run(|| here.exists()));
    }
}

#[test]
fn state_shows_what_was_added_and_nothing_else() {
    if !require::met("state_shows_what_was_added_and_nothing_else", &[Need::Netns]) {
        return;
    }
    let netns = Netns::create().unwrap();
    let before = State::of(&netns);
    assert_eq!(before, State::of(&netns));
    netns.ip("route add local 192.0.2.0/24 dev lo");
    netns.ip("-6 route add local 2001:db8::/64 dev lo");
    let listener = Origin::echo(&netns, "127.0.0.1".parse().unwrap());
    let difference = before.difference(&State::of(&netns));
    assert!(difference.contains("+ local 192.0.2.0/24 dev lo"), "{difference}");
    assert!(difference.contains("+ local 2001:db8::/64 dev lo"), "{difference}");
    assert!(difference.contains(&listener.address().to_string()), "{difference}");
    assert!(!difference.contains("iptables"), "{difference}");
}

#[test]
fn state_shows_rules_of_both_variants_but_not_empty_tables() {
    for path in [Path::TproxyIptablesLegacy, Path::TproxyIptablesNft] {
        let needs = &path.needs()[2..];
        if !require::met("state_shows_rules_of_both_variants_but_not_empty_tables", needs) {
            continue;
        }
        let netns = Netns::create().unwrap();
        let before = State::of(&netns);
        assert!(path.install(&netns));
        let run =
            |line: &str| assert!(netns.run(|| path.command(line).status().unwrap().success()), "{line}");
        for tool in ["iptables", "ip6tables"] {
            run(&format!("{tool} -t mangle -A PREROUTING -p tcp -j ACCEPT"));
            let difference = before.difference(&State::of(&netns));
            assert!(difference.contains("-A PREROUTING -p tcp -j ACCEPT"), "{path}: {difference}");
            run(&format!("{tool} -t mangle -F"));
            before.assert_restored(&netns, "removing the rule");
        }
    }
}

#[test]
fn client_over_a_link_reaches_the_server_only() {
    if !require::met("client_over_a_link_reaches_the_server_only", &[Need::Netns]) {
        return;
    }
    let server = Netns::create().unwrap();
    let client = veth::client_of(&server);
    for family in [Family::V4, Family::V6] {
        let address = veth::server_address(family);
        let origin = Origin::saying(&server, SocketAddr::new(address, 0), "word");
        let answers = dial_all(&client, &[origin.address(); 100]);
        assert_eq!(answers.len(), 100);
        for (_, heard) in answers {
            assert_eq!(heard.unwrap().text, "word");
        }
        assert_eq!(dial(&server, origin.address()).unwrap().text, "word");
        let free = Origin::saying(&client, SocketAddr::new(family.parse("0.0.0.0", "::"), 0), "free");
        assert_refused(&client, &[SocketAddr::new(address, free.address().port())]);
    }
}

#[test]
fn sequences_are_told_from_each_other() {
    let exchange = |sent: (u64, u64), expected: (u64, u64)| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let receiver = listener.accept().unwrap().0;
        thread::scope(|scope| {
            scope.spawn(|| send_sequence(&sender, sent.0, sent.1).unwrap());
            let outcome = receive_sequence(&receiver, expected.0, expected.1);
            sender.shutdown(Shutdown::Both).unwrap();
            outcome
        })
    };
    exchange((1, 300_001), (1, 300_001)).unwrap();
    exchange((1, 65_536), (1, 65_536)).unwrap();
    exchange((1, 0), (1, 0)).unwrap();
    assert!(exchange((2, 1000), (1, 1000)).is_err());
    assert!(exchange((1, 999), (1, 1000)).is_err());
}

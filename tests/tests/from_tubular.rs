//! What tubular's users do, done with our verbs: every command of docs/from-tubular.md, in its order, on a server that knows nothing of it.
//! Other tests have what happens when something goes wrong.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::fs;
use std::net::{SocketAddr, UdpSocket};

use serde_json::Value;
use spectrum_tests::admin;
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::dial::{assert_refused, dial};
use spectrum_tests::foreign_server::ForeignServer;
use spectrum_tests::instance::{Finished, Launch, workspace};
use spectrum_tests::netns::Netns;
use spectrum_tests::require::{self, Need};
use spectrum_tests::state::State;

const NEEDS: [Need; 5] = [Need::Netns, Need::Program, Need::Bpf, Need::Bpftool, Need::Ipv6];

/// A namespace, and the page whose commands are typed in it.
struct Page {
    netns: Netns,
    text: String,
}

impl Page {
    /// Types a command of the page, in which `words` stand for others.
    fn types(&self, line: &str, words: &[(&str, &str)]) -> Finished {
        let is_told = self.text.contains(&format!("spectrum-user {line}"));
        assert!(is_told, "the page has no {line}");
        let line = words.iter().fold(line.to_owned(), |line, (word, by)| line.replace(word, by));
        Launch::new(&self.netns).arguments(&line).finish()
    }

    /// The same for one that must succeed: what it printed.
    fn done(&self, line: &str, words: &[(&str, &str)]) -> String {
        let finished = self.types(line, words);
        assert_eq!(finished.code(), 0, "{finished}");
        finished.stdout
    }
}

fn answered(netns: &Netns, target: &str, word: &str) {
    let target: SocketAddr = target.parse().unwrap();
    let heard = dial(netns, target).unwrap_or_else(|error| panic!("{target}: {error}"));
    assert!(heard.text.starts_with(&format!("{word} {target} ")), "{heard:?}");
}

fn refused(netns: &Netns, target: &str) {
    assert_refused(netns, &[target.parse().unwrap()]);
}

/// The bindings, a line each.
fn bound(page: &Page) -> Vec<String> {
    let listed = Launch::new(&page.netns).arguments("bindings --json").finish().stdout;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let word = |binding: &Value, key: &str| binding[key].as_str().unwrap().to_owned();
    let line =
        |binding: &Value| ["service", "protocol", "prefix", "ports"].map(|key| word(binding, key)).join(" ");
    listed.as_array().unwrap().iter().map(line).collect()
}

#[test]
fn each_command_of_the_page_does_what_it_says() {
    if !require::met("each_command_of_the_page_does_what_it_says", &NEEDS) {
        return;
    }
    let text = fs::read_to_string(workspace().join("docs/from-tubular.md")).unwrap();
    let page = Page { netns: Netns::create().unwrap(), text };
    let netns = &page.netns;
    let before = State::of(netns);
    let own = std::process::id().to_string();

    assert!(page.done("load", &[]).starts_with("loaded into network namespace "));
    page.done("bind foo tcp 127.0.0.0/8 4321", &[]);
    refused(netns, "127.0.0.23:4321");
    let server = ForeignServer::tcp(netns, "127.0.0.1:9999".parse().unwrap(), "foo");
    let register = "register foo --pid PID 127.0.0.1:9999";
    let registered = page.done(register, &[("PID", &own)]);
    assert!(registered.contains("gets what is for foo tcp ipv4"), "{registered}");
    answered(netns, "127.0.0.23:4321", "foo");

    page.done("bind foo tcp 127.0.0.22", &[]);
    for target in ["127.0.0.22:1", "127.0.0.22:65535", "127.0.0.24:4321"] {
        answered(netns, target, "foo");
    }
    let listed = page.done("bindings tcp 127.0.0.1", &[]);
    assert!(listed.contains("127.0.0.0/8") && !listed.contains("127.0.0.22"), "{listed}");
    page.done("unbind foo tcp 127.0.0.22", &[]);
    refused(netns, "127.0.0.22:1");
    answered(netns, "127.0.0.22:4321", "foo");

    let status = page.done("status", &[]);
    assert!(status.contains("127.0.0.1:9999") && status.contains("foo"), "{status}");

    let metrics = Launch::new(netns).arguments("metrics 127.0.0.1:8000").spawn();
    assert!(page.text.contains("spectrum-user metrics 127.0.0.1:8000"));
    let admin = "127.0.0.1:8000".parse().unwrap();
    let (_, text) = eventually("metrics", PATIENCE, || admin::get(netns, admin, "/metrics").ok());
    let steered = "spectrum_steered_packets_total{service=\"foo\",protocol=\"tcp\",family=\"ipv4\"} ";
    let count = text.lines().find_map(|line| line.strip_prefix(steered)).unwrap();
    assert!(count.parse::<u64>().unwrap() >= 5, "{text}");
    metrics.stop();

    // Its file, as its tests have one.
    netns.run(|| {
        let text = r#"{ "bindings": [
            { "label": "foo", "prefix": "127.0.0.1/32", "port": 0 },
            { "label": "bar", "prefix": "2001:db8::1/64", "port": 0 },
            { "label": "foo", "prefix": "127.0.0.2/32", "port": 53 }
        ] }"#;
        fs::write("/run/bindings.json", text).unwrap();
    });
    let changed = page.done("load-bindings FILE", &[("FILE", "/run/bindings.json")]);
    assert!(changed.contains("added udp 2001:db8::/64 1-65535 bar"), "{changed}");
    assert!(changed.contains("removed tcp 127.0.0.0/8 4321 foo"), "{changed}");
    assert_eq!(
        bound(&page),
        [
            "foo tcp 127.0.0.1/32 1-65535",
            "foo tcp 127.0.0.2/32 53",
            "bar tcp 2001:db8::/64 1-65535",
            "foo udp 127.0.0.1/32 1-65535",
            "foo udp 127.0.0.2/32 53",
            "bar udp 2001:db8::/64 1-65535",
        ]
    );
    // Whoever was registered still is.
    answered(netns, "127.0.0.2:53", "foo");

    let unregistered = page.done("unregister foo --protocol tcp", &[]);
    assert!(unregistered.contains("gets no more what is for foo tcp ipv4"), "{unregistered}");
    refused(netns, "127.0.0.2:53");
    page.done(register, &[("PID", &own)]);
    answered(netns, "127.0.0.2:53", "foo");

    page.done("upgrade", &[]);
    answered(netns, "127.0.0.2:53", "foo");

    page.done("unload", &[]);
    drop(server);
    before.assert_restored(netns, "unload");
}

/// The example that tubular comes with: a server of TCP and UDP on one port of both families, which knows what was dialled.
#[test]
fn its_example_works() {
    if !require::met("its_example_works", &NEEDS) {
        return;
    }
    let netns = Netns::create().unwrap();
    let done = |line: &str| {
        let finished = Launch::new(&netns).arguments(line).finish();
        assert_eq!(finished.code(), 0, "{finished}");
        finished.stdout
    };
    done("load");
    for line in [
        "bind example tcp 127.0.0.128/25",
        "bind example udp 127.0.0.128/25 1234",
        "bind example tcp 2001:db8::/64",
        "bind example udp 2001:db8::/64 1234",
    ] {
        done(line);
    }
    let servers = [
        ForeignServer::tcp(&netns, "127.0.0.1:1234".parse().unwrap(), "example"),
        ForeignServer::udp(&netns, "127.0.0.1:1234".parse().unwrap()),
        ForeignServer::tcp(&netns, "[::1]:1234".parse().unwrap(), "example"),
        ForeignServer::udp(&netns, "[::1]:1234".parse().unwrap()),
    ];
    for address in ["127.0.0.1:1234", "[::1]:1234"] {
        for protocol in ["tcp", "udp"] {
            done(&format!("register example --pid {} --protocol {protocol} {address}", std::process::id()));
        }
    }
    for target in ["127.0.0.128:7", "127.0.0.242:65000", "[2001:db8::2342]:80"] {
        answered(&netns, target, "example");
    }
    for target in ["127.0.0.129:1234", "[2001:db8::2342]:1234"] {
        let target: SocketAddr = target.parse().unwrap();
        netns.run(|| {
            let any = if target.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
            let client = UdpSocket::bind(any).unwrap();
            client.connect(target).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.send(b"who").unwrap();
            let mut heard = [0; 8];
            assert_eq!(client.recv(&mut heard).unwrap(), 3, "{target}");
        });
    }
    drop(servers);
}

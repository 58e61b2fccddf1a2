//! Policies that name interfaces, while these come, go and come again with another index, on every path. Whom a policy turns away else is
//! tested with policies.
#![allow(clippy::unwrap_used, reason = "test code panics")]

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use spectrum_steering::dispatcher::Dispatcher;
use spectrum_tests::case::Case;
use spectrum_tests::control::{CONFIG, configure};
use spectrum_tests::deadline::{PATIENCE, eventually};
use spectrum_tests::judged::services_with;
use spectrum_tests::netns::Netns;
use spectrum_tests::on_every_path;
use spectrum_tests::path::{Family, Path};
use spectrum_tests::veth::{CLIENT_V4, CLIENT_V6, SERVER_V4, SERVER_V6, join};

on_every_path!(an_interface_is_let_in_by_its_name_whatever_its_index_is);

/// A client behind the interface `name` of the server, which is made.
fn client_behind(case: &Case, client: &Netns, name: &str) {
    let addresses = [(SERVER_V4, CLIENT_V4, 24), (SERVER_V6, CLIENT_V6, 64)];
    join(&case.server, client, [name, "to-server"], &addresses);
    for (family, address) in [("", SERVER_V4), ("-6 ", SERVER_V6)] {
        client.ip(&format!("{family}route add default via {address}"));
    }
}

/// True if the client is let in, false if it is refused, or by iptables hears nothing; `None` while there is no way.
fn is_let_in(case: &Case, client: &Netns, target: SocketAddr) -> Option<bool> {
    let drops = matches!(case.path, Path::TproxyIptablesLegacy | Path::TproxyIptablesNft);
    match client.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(2))) {
        Ok(_) => Some(true),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Some(false),
        Err(error) => (drops && error.kind() == ErrorKind::TimedOut).then_some(false),
    }
}

fn index(case: &Case, name: &str) -> String {
    case.server.run(|| std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).unwrap())
}

fn an_interface_is_let_in_by_its_name_whatever_its_index_is(case: &mut Case) {
    configure(&case.server, &services_with(case, "[policy]\ninterfaces = [\"uplink0\"]", ""));
    let instance = case.start(CONFIG);
    let target = SocketAddr::new(case.address(7), 80);
    let client = Netns::create().unwrap();
    if case.path == Path::SkLookup
        && !case.server.run(|| Dispatcher::load(false, 0).unwrap().knows_interface())
    {
        // Linux before 5.17 does not tell a program by which interface a packet comes: by any.
        client_behind(case, &client, "downlink0");
        assert_eq!(is_let_in(case, &client, target), Some(true));
        return;
    }
    // One that comes after the start.
    client_behind(case, &client, "uplink0");
    let let_in = |expected: bool| {
        eventually("the interface", PATIENCE, || {
            (is_let_in(case, &client, target) == Some(expected)).then_some(())
        });
    };
    let_in(true);
    let mut indexes = vec![index(case, "uplink0")];
    for round in 0..3 {
        case.server.ip("link del uplink0");
        // What takes its place has another name.
        client_behind(case, &client, "downlink0");
        let_in(false);
        case.server.ip("link del downlink0");
        client_behind(case, &client, "uplink0");
        let_in(true);
        let now = index(case, "uplink0");
        assert!(!indexes.contains(&now), "round {round}: {indexes:?}");
        indexes.push(now);
    }
    // Another name is another interface, even where the index stays.
    case.server.ip("link set uplink0 down");
    case.server.ip("link set uplink0 name uplink1");
    case.server.ip("link set uplink1 up");
    if case.family == Family::V6 {
        // It has lost that while it was down.
        case.server.ip(&format!("-6 addr add {SERVER_V6}/64 dev uplink1 nodad"));
    }
    let_in(false);
    assert!(!instance.stderr().contains("ERROR"), "{}", instance.stderr());
    instance.stop();
}

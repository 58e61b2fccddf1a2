//! Real servers of UDP behind the program, and who asks them: what the tests of their answers and of what they are told share.
//! Judges nothing.

use std::fs;
use std::net::SocketAddr;

use crate::case::Case;
use crate::control::{CONFIG, configure};
use crate::instance::Instance;
use crate::netns::Netns;
use crate::peer::{Peer, converse, file};
use crate::veth::client_address;

/// The port of the client that has one of its own.
const CLIENT_PORT: u16 = 4242;

/// The port of [`knot`].
pub const KNOT: u16 = 8054;

/// The address of a server of the case's host at `port`.
pub fn at(case: &Case, port: u16) -> SocketAddr {
    SocketAddr::new(case.loopback(), port)
}

/// The client's address, and the port that it has of its own.
pub fn client(case: &Case) -> SocketAddr {
    SocketAddr::new(client_address(case.family), CLIENT_PORT)
}

/// A service of these ports in front of `origin`.
pub fn service(case: &Case, ports: &str, protocol: &str, origin: SocketAddr, more: &str) -> String {
    let name = format!("to-{}", origin.port());
    let prefix = case.prefix();
    format!(
        "[[service]]\nname = \"{name}\"\nbindings = [{{ prefix = \"{prefix}\", ports = \"{ports}\", protocol = \
         \"{protocol}\" }}]\norigins = [\"{origin}\"]\n{more}\n"
    )
}

/// An instance with this configuration.
pub fn start(case: &Case, configuration: &str) -> Instance {
    configure(&case.server, configuration);
    case.start(CONFIG)
}

/// Answers with the address of who asks.
pub fn knot(case: &Case) -> Peer<'_> {
    let address = case.loopback();
    let zone = "$ORIGIN test.\n@ 60 SOA ns hostmaster 1 60 60 60 60\n@ 60 NS ns\nns 60 A 192.0.2.1\n";
    let zone = file(&case.server, "test.zone", zone);
    let configuration = format!(
        "server:\n  listen: {address}@{KNOT}\n  rundir: /run/knot\n  proxy-allowlist: {address}\n  udp-workers: 1\n  \
         tcp-workers: 1\n  background-workers: 1\ndatabase:\n  storage: /run/knot\nlog:\n  - target: stderr\n    any: \
         info\ntemplate:\n  - id: default\n    storage: /run/knot\nzone:\n  - domain: test.\n    file: {}\n    module: \
         mod-whoami\n",
        zone.display()
    );
    case.server.run(|| fs::create_dir_all("/run/knot")).unwrap();
    let path = file(&case.server, "knot.conf", configuration);
    let knot = Peer::hearing(&case.server, &format!("knotd -c {}", path.display()), at(case, KNOT));
    knot.await_said("server started");
    knot
}

/// Asks for `test.`, from a port of the client's own. The answer's data, a line each.
pub fn ask(netns: &Netns, from: SocketAddr, target: SocketAddr, kind: &str) -> String {
    let line = format!(
        "kdig @{} -p {} -b {}#{} +notcp +timeout=5 +retry=5 +short test. {kind}",
        target.ip(),
        target.port(),
        from.ip(),
        from.port()
    );
    String::from_utf8(converse(netns, &line, b"")).unwrap().trim().to_owned()
}

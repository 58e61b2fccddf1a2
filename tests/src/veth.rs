//! A client in a namespace of its own, one hop away. Knows the documentation networks that the tests use.

use crate::deadline::{PATIENCE, eventually};
use crate::netns::Netns;
use crate::path::Family;

/// The server's address on the link to the client.
pub const SERVER_V4: &str = "198.51.100.1";
/// The server's IPv6 address on the link to the client.
pub const SERVER_V6: &str = "2001:db8:ffff::1";
/// The client's address on the link.
pub const CLIENT_V4: &str = "198.51.100.2";
/// The client's IPv6 address on the link.
pub const CLIENT_V6: &str = "2001:db8:ffff::2";

/// An origin's address on its link to the server.
pub const ORIGIN_V4: &str = "203.0.113.2";
/// An origin's IPv6 address on its link to the server.
pub const ORIGIN_V6: &str = "2001:db8:eeee::2";

/// Makes a namespace that reaches everything through `server`, over a veth pair, with reverse path filtering on.
pub fn client_of(server: &Netns) -> Netns {
    let names = ["to-client", "to-server"];
    link(server, names, &[(SERVER_V4, CLIENT_V4, 24), (SERVER_V6, CLIENT_V6, 64)])
}

/// Makes another such namespace, for origins, so that client and origin are two hops apart, with the server between them.
pub fn origin_of(server: &Netns) -> Netns {
    let names = ["to-origin", "to-server"];
    link(server, names, &[("203.0.113.1", ORIGIN_V4, 24), ("2001:db8:eeee::1", ORIGIN_V6, 64)])
}

/// `addresses` are the server's, the other's, and the length of both's prefix.
fn link(server: &Netns, names: [&str; 2], addresses: &[(&str, &str, u8)]) -> Netns {
    let other = Netns::create().expect("make the other namespace");
    join(server, &other, names, addresses);
    for (address, ..) in addresses {
        let family = if address.contains(':') { "-6 " } else { "" };
        other.ip(&format!("{family}route add default via {address}"));
    }
    other
}

/// Joins two namespaces by a veth pair of these `names`, with reverse path filtering on. `addresses` are the first's, the second's,
/// and the length of both's prefix.
pub fn join(first: &Netns, second: &Netns, names: [&str; 2], addresses: &[(&str, &str, u8)]) {
    for netns in [first, second] {
        // No address is to become another while a test looks: not even the one that a link gives itself.
        for which in ["all", "default"] {
            netns.sysctl(&format!("net/ipv6/conf/{which}/accept_dad"), "0");
        }
    }
    let [ours, theirs] = names;
    first.ip(&format!("link add {ours} type veth peer name {theirs} netns {}", second.path().display()));
    for (address, gateway, length) in addresses {
        for (netns, link, address) in [(first, ours, address), (second, theirs, gateway)] {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            netns.ip(&format!("addr add {address}/{length} dev {link}{nodad}"));
        }
    }
    for (netns, link) in [(first, ours), (second, theirs)] {
        netns.ip(&format!("link set {link} up"));
        netns.sysctl("net/ipv4/conf/all/rp_filter", "1");
        netns.sysctl(&format!("net/ipv4/conf/{link}/rp_filter"), "1");
    }
    // The kernel learns from a work queue that a link has a carrier, and changes routes then.
    for (netns, link) in [(first, ours), (second, theirs)] {
        let state = format!("/sys/class/net/{link}/operstate");
        eventually(&format!("{link} up"), PATIENCE, || {
            netns
                .run(|| std::fs::read_to_string(&state))
                .is_ok_and(|state| state.trim() == "up")
                .then_some(())
        });
        // By another it takes its IPv6 addresses into use, even those that nobody asks for.
        eventually(&format!("the addresses of {link}"), PATIENCE, || {
            netns.ip("-6 addr show tentative").is_empty().then_some(())
        });
    }
}

/// The origin's address on its link, of that family.
pub fn origin_address(family: Family) -> std::net::IpAddr {
    family.parse(ORIGIN_V4, ORIGIN_V6)
}

/// The client's address on its link, of that family.
pub fn client_address(family: Family) -> std::net::IpAddr {
    family.parse(CLIENT_V4, CLIENT_V6)
}

/// The server's address on the link, of that family.
pub fn server_address(family: Family) -> std::net::IpAddr {
    match family {
        Family::V4 => SERVER_V4,
        Family::V6 => SERVER_V6,
    }
    .parse()
    .expect("an address")
}

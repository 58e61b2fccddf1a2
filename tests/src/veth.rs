//! A client in a namespace of its own, one hop away. Knows the documentation networks that the tests use.

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

/// Makes a namespace that reaches everything through `server`, over a veth pair, with reverse path filtering on.
pub fn client_of(server: &Netns) -> Netns {
    let client = Netns::create().expect("make the client's namespace");
    for netns in [server, &client] {
        // No address is to become another while a test looks: not even the one that a link gives itself.
        for which in ["all", "default"] {
            netns.sysctl(&format!("net/ipv6/conf/{which}/accept_dad"), "0");
        }
    }
    server.ip(&format!("link add to-client type veth peer name to-server netns {}", client.path().display()));
    for (netns, link, v4, v6) in
        [(server, "to-client", SERVER_V4, SERVER_V6), (&client, "to-server", CLIENT_V4, CLIENT_V6)]
    {
        netns.ip(&format!("addr add {v4}/24 dev {link}"));
        netns.ip(&format!("addr add {v6}/64 dev {link} nodad"));
        netns.ip(&format!("link set {link} up"));
        netns.sysctl("net/ipv4/conf/all/rp_filter", "1");
        netns.sysctl(&format!("net/ipv4/conf/{link}/rp_filter"), "1");
    }
    client.ip(&format!("route add default via {SERVER_V4}"));
    client.ip(&format!("-6 route add default via {SERVER_V6}"));
    client
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

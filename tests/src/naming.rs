//! Headers by which trusted proxies name clients, written by the rules of the PROXY protocol. Sends none.

use std::net::{IpAddr, SocketAddr};

/// The header of version 1, before a connection.
pub fn v1(client: SocketAddr, dialled: SocketAddr) -> Vec<u8> {
    let kind = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (client.port(), dialled.port());
    format!("PROXY {kind} {} {} {from} {to}\r\n", client.ip(), dialled.ip()).into_bytes()
}

/// The header of version 2, before a connection.
pub fn v2(client: SocketAddr, dialled: SocketAddr) -> Vec<u8> {
    version_2(client, dialled, 1)
}

/// The header of version 2, in each datagram.
pub fn v2_of_datagram(client: SocketAddr, dialled: SocketAddr) -> Vec<u8> {
    version_2(client, dialled, 2)
}

fn version_2(client: SocketAddr, dialled: SocketAddr, kind: u8) -> Vec<u8> {
    let mut addresses = Vec::new();
    let mut add = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => addresses.extend(ip.octets()),
        IpAddr::V6(ip) => addresses.extend(ip.octets()),
    };
    add(client.ip());
    add(dialled.ip());
    addresses.extend(client.port().to_be_bytes());
    addresses.extend(dialled.port().to_be_bytes());
    let family = kind | if client.is_ipv4() { 0x10 } else { 0x20 };
    let length = u8::try_from(addresses.len()).unwrap();
    [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family, 0, length][..], &addresses].concat()
}

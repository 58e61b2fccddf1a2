//! Addresses as they are reported. Resolves none.

use std::net::SocketAddr;

/// A listener for both families reports IPv4 addresses mapped into IPv6; the client dialled IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_shown_as_the_ipv4_addresses_that_were_dialled() {
        for (raw, shown) in
            [("[::ffff:192.0.2.1]:80", "192.0.2.1:80"), ("[2001:db8::1]:80", "[2001:db8::1]:80")]
        {
            assert_eq!(canonical(raw.parse().unwrap()).to_string(), shown);
        }
    }
}

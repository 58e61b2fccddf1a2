//! The addresses that the namespace's interfaces have, and which of them prefixes would take over. Refuses nothing
//! itself.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::NetError;
use crate::model::{Family, Prefix};

/// An address of an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InterfaceAddress {
    /// The interface's name.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// True if the interface is a loopback interface.
    pub loopback: bool,
}

/// Every address of every interface in the namespace.
///
/// # Errors
/// The kernel does not list them.
pub fn interface_addresses() -> Result<Vec<InterfaceAddress>, NetError> {
    let interfaces = getifaddrs()
        .map_err(|errno| NetError::os("list addresses of", "network interfaces", errno, "CAP_NET_ADMIN"))?;
    Ok(interfaces
        .filter_map(|entry| {
            let storage = entry.address?;
            let address = storage
                .as_sockaddr_in()
                .map(|v4| IpAddr::from(v4.ip()))
                .or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))?;
            let loopback = entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
            Some(InterfaceAddress { interface: entry.interface_name, address, loopback })
        })
        .collect())
}

/// The families whose loopback address `lo` has, if it is up.
///
/// # Errors
/// The kernel does not list them.
pub fn loopback_families() -> Result<BTreeSet<Family>, NetError> {
    let op = "list addresses of";
    let entries = getifaddrs().map_err(|errno| NetError::os(op, "lo", errno, "CAP_NET_ADMIN"))?;
    let up =
        entries.filter(|entry| entry.interface_name == "lo" && entry.flags.contains(InterfaceFlags::IFF_UP));
    Ok(up
        .filter_map(|entry| entry.address)
        .filter_map(|storage| {
            let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
            v4.or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
        })
        .filter(|address| [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].contains(address))
        .map(Family::of)
        .collect())
}

/// An address of a non-loopback interface, and the longest prefix that takes it over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CoveredAddress {
    /// The prefix.
    pub prefix: Prefix,
    /// The address.
    pub address: IpAddr,
    /// The interface that has it.
    pub interface: String,
}

impl fmt::Display for CoveredAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "prefix {} covers {}, an address of {}", self.prefix, self.address, self.interface)
    }
}

/// The addresses of non-loopback interfaces that lie in one of `prefixes`: binding all of their ports locks the
/// administrator out.
#[must_use]
pub fn covered_addresses(prefixes: &[Prefix], addresses: &[InterfaceAddress]) -> Vec<CoveredAddress> {
    // One look-up per length in use instead of one comparison per prefix: there may be many of both.
    let known: HashSet<&Prefix> = prefixes.iter().collect();
    let lengths: BTreeSet<(Family, u8)> =
        prefixes.iter().map(|prefix| (prefix.family(), prefix.length())).collect();
    let longest = |address: IpAddr| {
        lengths
            .iter()
            .rev()
            .filter(|(family, _)| *family == Family::of(address))
            .filter_map(|(_, length)| Prefix::containing(address, *length).ok())
            .find(|prefix| known.contains(prefix))
    };
    addresses
        .iter()
        .filter(|of| !of.loopback)
        .filter_map(|of| {
            let prefix = longest(of.address)?;
            Some(CoveredAddress { prefix, address: of.address, interface: of.interface.clone() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(interface: &str, address: &str) -> InterfaceAddress {
        InterfaceAddress {
            interface: interface.to_owned(),
            address: address.parse().unwrap(),
            loopback: interface == "lo",
        }
    }

    fn covered(prefixes: &[&str], addresses: &[InterfaceAddress]) -> Vec<String> {
        let prefixes: Vec<_> = prefixes.iter().map(|text| text.parse().unwrap()).collect();
        covered_addresses(&prefixes, addresses).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_address_in_a_prefix_is_covered_by_the_longest() {
        assert_eq!(
            covered(&["192.0.0.0/16", "192.0.2.0/24", "2001:db8::/64"], &[on("eth0", "192.0.2.7")]),
            ["prefix 192.0.2.0/24 covers 192.0.2.7, an address of eth0"]
        );
    }

    #[test]
    fn loopback_interfaces_do_not_count() {
        assert!(covered(&["127.0.0.0/8", "::/0"], &[on("lo", "127.0.0.1"), on("lo", "::1")]).is_empty());
    }

    #[test]
    fn families_do_not_cover_each_other() {
        assert!(covered(&["::/0"], &[on("eth0", "192.0.2.7")]).is_empty());
        assert_eq!(
            covered(&["::/0", "0.0.0.0/0"], &[on("eth0", "fe80::1"), on("eth0", "192.0.2.7")]).len(),
            2
        );
    }

    #[test]
    fn addresses_outside_are_not_covered() {
        assert!(covered(&["192.0.2.0/25"], &[on("eth0", "192.0.2.128")]).is_empty());
    }
}

//! Addresses that no name may lead to, or only the names of a service that says so: what a stranger who can change a name must
//! not reach through us. Judges no address that was typed as such, and no loop.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::model::LocalOrigins;

/// A reason for which an address that a name means is not dialled.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum AddressRefusal {
    Broadcast,
    LinkLocal,
    Loopback,
    Multicast,
    /// An interface of this host has it.
    Own,
    Unspecified,
}

impl AddressRefusal {
    /// Why `address` is refused to a service whose names may mean `local` ones or not, if it is.
    pub(super) fn of(
        address: IpAddr,
        local: LocalOrigins,
        is_own: impl FnOnce(IpAddr) -> bool,
    ) -> Option<Self> {
        // The kernel dials an IPv4-mapped address by IPv4.
        let address = address.to_canonical();
        if address.is_multicast() {
            return Some(Self::Multicast);
        }
        if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Some(Self::Broadcast);
        }
        // All of 0.0.0.0/8 is this host on this network (RFC 1122, section 3.2.1.3).
        let is_unspecified = match address {
            IpAddr::V4(address) => address.octets()[0] == 0,
            IpAddr::V6(address) => address.is_unspecified(),
        };
        if is_unspecified {
            return Some(Self::Unspecified);
        }
        if local == LocalOrigins::Dialled {
            return None;
        }
        let is_link_local = match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        if address.is_loopback() {
            Some(Self::Loopback)
        } else if is_link_local {
            Some(Self::LinkLocal)
        } else {
            is_own(address).then_some(Self::Own)
        }
    }

    /// The cure if it is meant.
    pub(super) fn cure(self) -> &'static str {
        match self {
            Self::Broadcast | Self::Multicast | Self::Unspecified => {
                "correct what the name says, or give the server's address"
            }
            Self::LinkLocal | Self::Loopback | Self::Own => {
                "if it is meant, give the address itself, or local-origins = true to the service"
            }
        }
    }
}

impl fmt::Display for AddressRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Broadcast => "the broadcast address",
            Self::LinkLocal => "a link-local address",
            Self::Loopback => "a loopback address",
            Self::Multicast => "a multicast address",
            Self::Own => "an address of this host",
            Self::Unspecified => "the unspecified address",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(address: &str, local: LocalOrigins) -> Option<AddressRefusal> {
        let own: IpAddr = "192.0.2.7".parse().unwrap();
        AddressRefusal::of(address.parse().unwrap(), local, |address| address == own)
    }

    #[test]
    fn what_is_no_servers_address_is_refused_always() {
        for (address, expected) in [
            ("0.0.0.0", AddressRefusal::Unspecified),
            ("0.1.2.3", AddressRefusal::Unspecified),
            ("::", AddressRefusal::Unspecified),
            ("::ffff:0.0.0.0", AddressRefusal::Unspecified),
            ("224.0.0.1", AddressRefusal::Multicast),
            ("239.255.255.255", AddressRefusal::Multicast),
            ("ff02::1", AddressRefusal::Multicast),
            ("::ffff:224.0.0.1", AddressRefusal::Multicast),
            ("255.255.255.255", AddressRefusal::Broadcast),
            ("::ffff:255.255.255.255", AddressRefusal::Broadcast),
        ] {
            for local in [LocalOrigins::Dialled, LocalOrigins::Refused] {
                assert_eq!(refusal(address, local), Some(expected), "{address}");
            }
        }
    }

    #[test]
    fn what_only_this_host_reaches_is_refused_unless_the_service_says_otherwise() {
        for (address, expected) in [
            ("127.0.0.1", AddressRefusal::Loopback),
            ("127.255.0.9", AddressRefusal::Loopback),
            ("::1", AddressRefusal::Loopback),
            ("::ffff:127.0.0.1", AddressRefusal::Loopback),
            ("169.254.169.254", AddressRefusal::LinkLocal),
            ("fe80::1", AddressRefusal::LinkLocal),
            ("::ffff:169.254.169.254", AddressRefusal::LinkLocal),
            ("192.0.2.7", AddressRefusal::Own),
            ("::ffff:192.0.2.7", AddressRefusal::Own),
        ] {
            assert_eq!(refusal(address, LocalOrigins::Refused), Some(expected), "{address}");
            assert_eq!(refusal(address, LocalOrigins::Dialled), None, "{address}");
        }
        for address in ["10.0.0.1", "192.0.2.8", "2001:db8::1", "fd00::1", "203.0.113.1", "128.0.0.1"] {
            assert_eq!(refusal(address, LocalOrigins::Refused), None, "{address}");
        }
    }
}

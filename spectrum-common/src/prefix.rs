//! A masked IP network. Does not know whether the host owns any of its addresses.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::{Family, notation};

/// A masked IP network; a bare address is a /32 or a /128. Never IPv4-mapped IPv6.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(IpNet);

impl Prefix {
    /// The prefix of `length` bits that contains `address`: host bits are cleared.
    ///
    /// # Errors
    /// [`ParsePrefixError::Length`] when `length` is longer than the address.
    pub fn containing(address: IpAddr, length: u8) -> Result<Self, ParsePrefixError> {
        let net = IpNet::new(address, length).map_err(|_error| ParsePrefixError::Length {
            length: length.to_string(),
            max: if address.is_ipv4() { 32 } else { 128 },
        })?;
        Ok(Self(net.trunc()))
    }

    /// The prefix that holds `address` alone.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self(IpNet::from(address))
    }

    /// The lowest address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.0.addr()
    }

    /// The number of leading bits that are fixed: 0 to 32 or 0 to 128.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.0.prefix_len()
    }

    /// The prefix that is one bit shorter, or `None` of a prefix of length 0.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.supernet().map(Self)
    }

    /// The address family.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.address())
    }

    /// True if `address` lies within. An IPv4 address never lies within an IPv6 prefix, nor the reverse.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// True if the two share an address, which for prefixes means that one contains the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.contains(&other.0) || other.0.contains(&self.0)
    }
}

impl From<Prefix> for String {
    fn from(value: Prefix) -> Self {
        value.to_string()
    }
}

impl TryFrom<String> for Prefix {
    type Error = <Self as FromStr>::Err;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        let (address, length) = match typed.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (typed, None),
        };
        let address: IpAddr = address.parse().map_err(|_error| {
            let unknown = || ParsePrefixError::Address { address: address.to_owned() };
            notation::prefix(typed).map_or_else(unknown, |cure| ParsePrefixError::Notation { cure })
        })?;
        // Alone the unspecified address is nobody's, and means all of them elsewhere.
        if address.is_unspecified()
            && length.is_none()
            && let Some(cure) = notation::prefix(typed)
        {
            return Err(ParsePrefixError::Notation { cure });
        }
        let max = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => max,
            Some(length) => length
                .parse::<u8>()
                .ok()
                .filter(|bits| *bits <= max && length.bytes().all(|byte| byte.is_ascii_digit()))
                .ok_or_else(|| match notation::prefix(typed) {
                    Some(cure) => ParsePrefixError::Notation { cure },
                    None => ParsePrefixError::Length { length: length.to_owned(), max },
                })?,
        };
        if let IpAddr::V6(v6) = address
            && let Some(v4) = v6.to_ipv4_mapped()
        {
            return Err(ParsePrefixError::Mapped {
                suggestion: Self(IpNet::new_assert(IpAddr::V4(v4), length.saturating_sub(96)).trunc()),
            });
        }
        let net = IpNet::new_assert(address, length);
        if net.trunc() != net {
            return Err(ParsePrefixError::HostBits { address, suggestion: Self(net.trunc()) });
        }
        if address.is_multicast() {
            return Err(ParsePrefixError::Multicast);
        }
        Ok(Self(net))
    }
}

/// The error of a text that is not a [`Prefix`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParsePrefixError {
    /// The part before the slash is not an IP address.
    #[error("{address:?} is not an IP address (expected something like 192.0.2.0/24 or 2001:db8::/64)")]
    Address {
        /// The text that was typed.
        address: String,
    },
    /// Bits beyond the length are set.
    #[error(
        "host bits are set; write {suggestion} for the whole prefix, or {address} for that address alone"
    )]
    HostBits {
        /// The address that was typed.
        address: IpAddr,
        /// The prefix with the host bits cleared.
        suggestion: Prefix,
    },
    /// The part after the slash is not a length of this family.
    #[error("prefix length {length:?} is not a number from 0 to {max}")]
    Length {
        /// The text that was typed.
        length: String,
        /// The greatest length of the family.
        max: u8,
    },
    /// IPv4-mapped IPv6: the packets of such addresses are IPv4 packets.
    #[error("IPv4-mapped IPv6 is refused, its packets are IPv4; write {suggestion}")]
    Mapped {
        /// The IPv4 prefix it stands for.
        suggestion: Prefix,
    },
    /// Written as another product has it.
    #[error("{cure}")]
    Notation {
        /// The text to write instead.
        cure: String,
    },
    /// No connection has a multicast destination.
    #[error("multicast addresses cannot be steered to a listener")]
    Multicast,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Prefix, ParsePrefixError> {
        text.parse()
    }

    #[test]
    fn bare_address_is_a_host_prefix() {
        assert_eq!(parse("192.0.2.1").unwrap().to_string(), "192.0.2.1/32");
        assert_eq!(parse("2001:db8::1").unwrap().to_string(), "2001:db8::1/128");
    }

    #[test]
    fn host_bits_are_refused_with_the_masked_prefix() {
        assert_eq!(
            parse("192.0.2.1/24").unwrap_err().to_string(),
            "host bits are set; write 192.0.2.0/24 for the whole prefix, or 192.0.2.1 for that address alone"
        );
        assert_eq!(
            parse("2001:db8::1/64").unwrap_err().to_string(),
            "host bits are set; write 2001:db8::/64 for the whole prefix, or 2001:db8::1 for that address alone"
        );
    }

    #[test]
    fn mapped_addresses_are_refused_with_the_ipv4_prefix() {
        assert_eq!(
            parse("::ffff:192.0.2.0/120").unwrap_err().to_string(),
            "IPv4-mapped IPv6 is refused, its packets are IPv4; write 192.0.2.0/24"
        );
    }

    #[test]
    fn malformed_prefixes_are_refused() {
        for text in [
            "",
            "/24",
            "192.0.2/24",
            "192.0.2.0/",
            "192.0.2.0/33",
            "192.0.2.0/+4",
            "::/129",
            "a/b",
            "192.0.2.0/24/1",
            "224.0.0.0/4",
            "ff00::/8",
        ] {
            assert!(parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn everything_is_a_prefix() {
        assert!(parse("0.0.0.0/0").unwrap().contains("198.51.100.1".parse().unwrap()));
        assert!(!parse("::/0").unwrap().contains("198.51.100.1".parse().unwrap()));
    }
}

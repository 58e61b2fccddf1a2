//! Random numbers that need only to be different each time. Not for secrets.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A random number.
#[must_use]
pub fn number() -> u64 {
    // The standard library seeds every `RandomState` differently.
    RandomState::new().build_hasher().finish()
}

/// A random port, never 0.
#[must_use]
pub fn port() -> u16 {
    u16::try_from(number() % 65_535 + 1).unwrap_or(1)
}

/// A random address of the prefix of `length` bits at `address`.
#[must_use]
pub fn address(address: IpAddr, length: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let [.., a, b, c, d] = number().to_be_bytes();
            let host = u32::from_be_bytes([a, b, c, d]) & u32::MAX.checked_shr(length).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() | host).into()
        }
        IpAddr::V6(v6) => {
            let random = u128::from(number()) << 64 | u128::from(number());
            Ipv6Addr::from_bits(v6.to_bits() | random & u128::MAX.checked_shr(length).unwrap_or(0)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_addresses_stay_in_their_prefix() {
        for _ in 0..1000 {
            let IpAddr::V4(v4) = address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 0)), 24) else { panic!() };
            assert_eq!(v4.octets()[..3], [192, 0, 2]);
            let IpAddr::V6(v6) = address("2001:db8::".parse().unwrap(), 64) else { panic!() };
            assert_eq!(v6.segments()[..4], [0x2001, 0xdb8, 0, 0]);
            assert_eq!(address("192.0.2.1".parse().unwrap(), 32).to_string(), "192.0.2.1");
            assert_ne!(port(), 0);
        }
    }
}

//! What the decision looks at.

use core::net::IpAddr;

use crate::{Domain, Pace};

/// An address as a left-aligned 128-bit number: an IPv4 address is the upper 32 bits of `hi`, the rest is zero. So a
/// prefix length means the same number of leading bits in both families.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Address {
    /// The leading 64 bits, as a number.
    pub hi: u64,
    /// The trailing 64 bits, as a number.
    pub lo: u64,
}

impl Address {
    /// The part of the address that a prefix of `length` bits fixes. Lengths above 128 count as 128.
    #[must_use]
    pub const fn masked(self, length: u8) -> Self {
        let mask = Self::mask(length);
        Self { hi: self.hi & mask.hi, lo: self.lo & mask.lo }
    }

    /// `length` leading ones. Lengths above 128 count as 128.
    #[must_use]
    pub const fn mask(length: u8) -> Self {
        let ones = match length {
            0 => 0,
            1..=127 => u128::MAX << (128 - length as u32),
            _ => u128::MAX,
        };
        let [hi, lo] = halves(ones);
        Self { hi, lo }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self { hi: u64::from(v4.to_bits()) << 32, lo: 0 },
            IpAddr::V6(v6) => {
                let [hi, lo] = halves(v6.to_bits());
                Self { hi, lo }
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
const fn halves(number: u128) -> [u64; 2] {
    [(number >> 64) as u64, number as u64]
}

/// A packet that looks for a listener.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Packet {
    /// Its protocol and family.
    pub domain: Domain,
    /// The dialled address.
    pub address: Address,
    /// The dialled port, host byte order.
    pub port: u16,
}

/// The sender of a packet. Its family is that of the packet's domain, told once more: the kernel program reads it anew, since
/// what the verifier knows of the domain by then would have it walk the search once for each.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Source {
    /// Its address.
    pub address: Address,
    /// True if that is an IPv4 address.
    pub is_ipv4: bool,
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self { address: address.into(), is_ipv4: address.is_ipv4() }
    }
}

/// The sender of a packet, as far as a gate asks for it. The kernel implements it over the packet, the host over what it knows.
pub trait Sender {
    /// The address.
    fn source(&self) -> Source;

    /// The index of the interface by which the packet came; 0 where nobody knows.
    fn interface(&self) -> u32;

    /// True if `source`, the part of the address that is counted, may come by the rate `rate`, of which there may be several; then it is
    /// charged.
    fn may_come(&self, source: Address, rate: u32, pace: Pace) -> bool;
}

impl Sender for Source {
    fn source(&self) -> Source {
        *self
    }

    fn interface(&self) -> u32 {
        0
    }

    /// Always: nothing is counted.
    fn may_come(&self, _source: Address, _rate: u32, _pace: Pace) -> bool {
        true
    }
}

//! Protocol and family together: bindings of one domain never match packets of another.

/// A protocol of a family. The discriminant is the index of the domain's first [`Step`](crate::Step).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u32)]
pub enum Domain {
    /// TCP over IPv4.
    Tcp4 = 0,
    /// UDP over IPv4.
    Udp4 = 1,
    /// TCP over IPv6.
    Tcp6 = 2,
    /// UDP over IPv6.
    Udp6 = 3,
}

impl Domain {
    /// Every domain, in the order of their steps.
    pub const ALL: [Self; 4] = [Self::Tcp4, Self::Udp4, Self::Tcp6, Self::Udp6];

    /// True if its addresses are IPv4.
    #[must_use]
    #[inline(always)]
    pub const fn is_ipv4(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Udp4)
    }

    /// The domain of a number, of which the lower two bits count: the other way round than [`first_step`](Self::first_step).
    #[must_use]
    #[inline(always)]
    pub const fn of_number(number: u32) -> Self {
        match number & 3 {
            0 => Self::Tcp4,
            1 => Self::Udp4,
            2 => Self::Tcp6,
            _ => Self::Udp6,
        }
    }

    /// True if its packets are datagrams.
    #[must_use]
    #[inline(always)]
    pub const fn is_udp(self) -> bool {
        matches!(self, Self::Udp4 | Self::Udp6)
    }

    /// The index of the domain's first step in the steering table.
    #[must_use]
    pub const fn first_step(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_what_its_number_says() {
        for domain in Domain::ALL {
            assert_eq!(Domain::of_number(domain.first_step()), domain);
            assert_eq!(domain.is_udp(), domain.first_step() & 1 == 1);
        }
    }
}

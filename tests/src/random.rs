//! Reproducible random numbers: what a failing test drew can be drawn again. Not for secrets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{SystemTime, UNIX_EPOCH};

/// A small generator (splitmix64); equal seeds give equal sequences.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Seeds from `SPECTRUM_TEST_SEED`, else from the clock, and prints the seed, which libtest shows on failure.
    pub fn seeded() -> Self {
        let seed = std::env::var("SPECTRUM_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(|| {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                now.as_secs() << 20 ^ u64::from(now.subsec_nanos())
            });
        println!("repeat with SPECTRUM_TEST_SEED={seed}");
        Self(seed)
    }

    /// The generator of a fixed sequence.
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `limit`, exclusive.
    pub fn below<T: TryFrom<u64, Error: std::fmt::Debug>>(&mut self, limit: u64) -> T {
        T::try_from(self.bits() % limit).expect("a number of this type")
    }

    /// A port from 1 to 65535.
    pub fn port(&mut self) -> u16 {
        u16::try_from(self.bits() % 65_535).unwrap() + 1
    }

    /// An address of the prefix `network`/`length`.
    pub fn address(&mut self, network: IpAddr, length: u8) -> IpAddr {
        match network {
            IpAddr::V4(v4) => {
                let host = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
                let drawn = u32::try_from(self.bits() >> 32).unwrap();
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & !host | drawn & host))
            }
            IpAddr::V6(v6) => {
                let host = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
                let drawn = u128::from(self.bits()) << 64 | u128::from(self.bits());
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !host | drawn & host))
            }
        }
    }

    /// Fills `buffer` with the sequence.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bits = self.bits().to_le_bytes();
            chunk.copy_from_slice(&bits[..chunk.len()]);
        }
    }
}

//! What is told of packets that a source policy turned away: of few, for many. Chooses none.

use crate::Address;

/// A packet that was turned away, and how many it stands for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct DenialSample {
    /// The address that it came from: the halves of an [`Address`].
    pub source: [u64; 2],
    /// The address that it dialled.
    pub dialled: [u64; 2],
    /// The packets that were turned away by the same CPU since the last sample, with this one.
    pub packets: u64,
    /// The destination that it would have gone to.
    pub destination: u32,
    /// The source's port.
    pub source_port: u16,
    /// The dialled port.
    pub dialled_port: u16,
    /// The reason, as a number: [`DenyReason`](crate::DenyReason).
    pub reason: u32,
    /// The domain, by its number.
    pub domain: u32,
}

impl DenialSample {
    /// The size in memory, without padding.
    pub const BYTES: usize = 56;

    /// The one whose memory is `bytes`.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.get(..Self::BYTES)?.try_into().ok()?;
        let eight = |at: usize| {
            let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
        };
        let four = |at: usize| {
            let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
        };
        let two = |at: usize| {
            let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map_or(0, |bytes| u16::from_ne_bytes(*bytes))
        };
        Some(Self {
            source: [eight(0), eight(8)],
            dialled: [eight(16), eight(24)],
            packets: eight(32),
            destination: four(40),
            source_port: two(44),
            dialled_port: two(46),
            reason: four(48),
            domain: four(52),
        })
    }

    /// The halves of `address`.
    #[must_use]
    #[inline(always)]
    pub const fn halves(address: Address) -> [u64; 2] {
        [address.hi, address.lo]
    }
}

const _: () = assert!(size_of::<DenialSample>() == DenialSample::BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_read_as_it_was_written() {
        let sample = DenialSample {
            source: [1, 2],
            dialled: [3, 4],
            packets: 5,
            destination: 6,
            source_port: 7,
            dialled_port: 8,
            reason: 2,
            domain: 3,
        };
        let mut bytes = Vec::new();
        for half in [sample.source, sample.dialled].concat().into_iter().chain([sample.packets]) {
            bytes.extend(half.to_ne_bytes());
        }
        bytes.extend(sample.destination.to_ne_bytes());
        bytes.extend(sample.source_port.to_ne_bytes());
        bytes.extend(sample.dialled_port.to_ne_bytes());
        bytes.extend(sample.reason.to_ne_bytes());
        bytes.extend(sample.domain.to_ne_bytes());
        assert_eq!(DenialSample::of_bytes(&bytes), Some(sample));
        assert_eq!(DenialSample::of_bytes(&bytes[1..]), None);
        assert_eq!(DenialSample::of_bytes(&[bytes.clone(), vec![9; 8]].concat()), Some(sample));
    }
}

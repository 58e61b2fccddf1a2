//! Samples of the packets that the programs turn away, as they come. Counts nothing.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use aya::maps::{MapData, RingBuf};
use spectrum_common::{Address, DenialSample, DenyReason, Domain};

use crate::model::DestinationId;

/// The ring of samples. Whoever does not read it costs the programs nothing.
pub struct DenialSamples(pub(super) RingBuf<MapData>);

impl fmt::Debug for DenialSamples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DenialSamples").finish_non_exhaustive()
    }
}

/// A packet that was turned away, and how many it stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeniedPacket {
    /// The source.
    pub client: SocketAddr,
    /// The address and port that it dialled.
    pub dialled: SocketAddr,
    /// The destination that it would have gone to.
    pub destination: DestinationId,
    /// The reason.
    pub reason: DenyReason,
    /// The packets that it stands for.
    pub packets: u64,
}

impl DenialSamples {
    /// The next one, if there is one.
    pub fn next_sample(&mut self) -> Option<DeniedPacket> {
        let sample = DenialSample::of_bytes(&self.0.next()?)?;
        let is_ipv4 = Domain::of_number(sample.domain).is_ipv4();
        let address = |[hi, lo]: [u64; 2], port| SocketAddr::new(address(Address { hi, lo }, is_ipv4), port);
        let reason = DenyReason::ALL.get(usize::try_from(sample.reason).unwrap_or(usize::MAX)).copied();
        Some(DeniedPacket {
            client: address(sample.source, sample.source_port),
            dialled: address(sample.dialled, sample.dialled_port),
            destination: DestinationId(sample.destination),
            reason: reason.unwrap_or(DenyReason::Denied),
            packets: sample.packets,
        })
    }
}

fn address(address: Address, is_ipv4: bool) -> IpAddr {
    if is_ipv4 {
        IpAddr::V4(((address.hi >> 32) as u32).into())
    } else {
        IpAddr::V6((u128::from(address.hi) << 64 | u128::from(address.lo)).into())
    }
}

//! The registered sockets as the kernel has them. Registers none.

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{MapData, MapError, PerCpuArray, PerCpuValues};
use spectrum_common::RegisteredId;

use super::sys;

type PacketCounts = PerCpuArray<MapData, u64>;

/// The map of listeners, and what is counted of those behind the destinations' own.
#[derive(Clone)]
pub(super) struct PlacedSockets {
    listeners: Arc<OwnedFd>,
    /// The place of the first registered socket.
    first: u32,
    steered: Arc<Mutex<PacketCounts>>,
}

impl fmt::Debug for PlacedSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlacedSockets").field("first", &self.first).finish_non_exhaustive()
    }
}

impl PlacedSockets {
    /// Those of `listeners` from `first` on.
    pub(super) fn of(listeners: Arc<OwnedFd>, first: u32, steered: PacketCounts) -> Self {
        Self { listeners, first, steered: Arc::new(Mutex::new(steered)) }
    }

    /// The cookie of the socket at this place of the map, while there is one.
    pub(super) fn cookie(&self, index: u32) -> io::Result<Option<u64>> {
        sys::cookie(self.listeners.as_fd(), index)
    }

    /// The packets given to the socket at `place`.
    pub(super) fn steered(&self, place: RegisteredId) -> Result<u64, MapError> {
        let counted = self.counts().get(&self.number(place), 0)?;
        Ok(counted.iter().fold(0, |sum, count| sum.wrapping_add(*count)))
    }

    /// Nothing was given to the socket at `place` yet.
    pub(super) fn forget(&self, place: RegisteredId) -> Result<(), MapError> {
        let (number, mut counts) = (self.number(place), self.counts());
        let cpus = counts.get(&number, 0)?.len();
        let zeros = PerCpuValues::try_from(vec![0; cpus])?;
        counts.set(number, zeros, 0)
    }

    fn number(&self, place: RegisteredId) -> u32 {
        place.0.wrapping_sub(self.first)
    }

    fn counts(&self) -> MutexGuard<'_, PacketCounts> {
        self.steered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

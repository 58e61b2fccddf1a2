//! What was counted by programs whose place another one has taken: its own counters begin at 0, and packets that were in the midst of the
//! last program are counted by that. Counts nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::{Map, MapData, MapError};
use serde::{Deserialize, Serialize};
use spectrum_common::Counts;

use super::DispatcherError;
use super::probe::PacketCounters;
use crate::model::DestinationId;

/// The counts of former programs of a dispatcher.
#[derive(Default)]
pub struct FormerCounts {
    /// The sums of those that nobody counts in any more.
    sums: BTreeMap<u32, Counts>,
    /// The counters of the last one, and their descriptor.
    last: Option<(PacketCounters, OwnedFd)>,
    /// The tables that were published.
    pub(super) published: u64,
    /// The packets that were dropped before the stack saw them.
    pub(super) early: u64,
}

impl fmt::Debug for FormerCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FormerCounts").field("sums", &self.sums).finish_non_exhaustive()
    }
}

/// The part of [`FormerCounts`] that is no descriptor, as it is told to another process.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct FormerSums {
    /// By the id of the destination: steered, missed, and refused by the reason.
    sums: BTreeMap<u32, (u64, u64, Vec<u64>)>,
    /// By the id of the destination: denied by the reason, which former versions do not tell.
    #[serde(default)]
    denied: BTreeMap<u32, Vec<u64>>,
    published: u64,
    /// Those that were dropped before the stack saw them.
    #[serde(default)]
    early: u64,
}

impl FormerSums {
    /// Of destinations alone.
    #[must_use]
    pub fn of(counts: impl IntoIterator<Item = (DestinationId, Counts)>) -> Self {
        let mut all = Self::default();
        for (id, Counts { steered, missed, refused, denied }) in counts {
            all.sums.insert(id.0, (steered, missed, refused.to_vec()));
            all.denied.insert(id.0, denied.to_vec());
        }
        all
    }
}

impl FormerCounts {
    /// Those of which the sums are `sums` and the last counters are behind `counters`.
    ///
    /// # Errors
    /// [`DispatcherError::Load`]: these are no counters.
    pub fn open(sums: FormerSums, counters: OwnedFd) -> Result<Self, DispatcherError> {
        let FormerSums { sums, denied, published, early } = sums;
        let sums = sums.into_iter().map(|(id, (steered, missed, refused))| {
            let mut counts = Counts { steered, missed, ..Counts::default() };
            counts.refused.iter_mut().zip(refused).for_each(|(to, from)| *to = from);
            let denied = denied.get(&id).into_iter().flatten();
            counts.denied.iter_mut().zip(denied).for_each(|(to, from)| *to = *from);
            (id, counts)
        });
        Ok(Self { sums: sums.collect(), last: Some(last(counters)?), published, early })
    }

    /// Their parts: the sums, and the descriptor of the last counters.
    #[must_use]
    pub fn into_parts(self) -> (FormerSums, Option<OwnedFd>) {
        let denied = self.sums.iter().map(|(id, counts)| (*id, counts.denied.to_vec())).collect();
        let sums = self.sums.into_iter();
        let sums = sums.map(|(id, counts)| (id, (counts.steered, counts.missed, counts.refused.to_vec())));
        let told = FormerSums { sums: sums.collect(), denied, published: self.published, early: self.early };
        (told, self.last.map(|(_, descriptor)| descriptor))
    }

    /// These, and behind them what is behind `counters`.
    pub(super) fn followed_by(
        &self,
        counters: OwnedFd,
        published: u64,
        early: u64,
    ) -> Result<Self, DispatcherError> {
        let mut sums = self.sums.clone();
        if let Some((counters, _)) = &self.last {
            for id in 0..counters.len() {
                let count = counted(counters, id)?;
                if count != Counts::default() {
                    let sum = sums.entry(id).or_default();
                    *sum = count + *sum;
                }
            }
        }
        Ok(Self { sums, last: Some(last(counters)?), published, early })
    }

    /// What they have counted for `id`.
    pub(super) fn counts(&self, id: DestinationId) -> Result<Counts, DispatcherError> {
        let sum = self.sums.get(&id.0).copied().unwrap_or_default();
        match &self.last {
            Some((counters, _)) if id.0 < counters.len() => Ok(sum + counted(counters, id.0)?),
            _ => Ok(sum),
        }
    }

    /// Nothing was counted for `id`.
    pub(super) fn forget(&mut self, id: DestinationId) {
        if let Ok(now) = self.counts(id) {
            let sum = self.sums.entry(id.0).or_default();
            let less = |sum: &mut u64, now: u64| *sum = sum.wrapping_sub(now);
            less(&mut sum.steered, now.steered);
            less(&mut sum.missed, now.missed);
            sum.refused.iter_mut().zip(now.refused).for_each(|(sum, now)| less(sum, now));
            sum.denied.iter_mut().zip(now.denied).for_each(|(sum, now)| less(sum, now));
        }
    }
}

fn last(descriptor: OwnedFd) -> Result<(PacketCounters, OwnedFd), DispatcherError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| DispatcherError::Load { source };
    let copy = descriptor.as_fd().try_clone_to_owned().map_err(|error| failed(error.into()))?;
    let open =
        || -> Result<PacketCounters, MapError> { Map::from_map_data(MapData::from_fd(copy)?)?.try_into() };
    Ok((open().map_err(|error| failed(error.into()))?, descriptor))
}

fn counted(counters: &PacketCounters, id: u32) -> Result<Counts, DispatcherError> {
    let counted = counters
        .get(&id, 0)
        .map_err(|source| DispatcherError::Count { id: DestinationId(id), source: Box::new(source) })?;
    Ok(counted.iter().fold(Counts::default(), |sum, counts| sum + counts.0))
}

//! Records that are left out on purpose. Counts; decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A reason for which a record is left out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Omission {
    /// The client ended the connection before a byte came.
    Empty,
    /// It is none of the share that is wanted.
    Sampled,
    /// Very many were shed.
    Shed,
    /// Such connections are not to be recorded.
    Unwanted,
}

impl Omission {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Empty, Self::Sampled, Self::Shed, Self::Unwanted];

    /// Its name in metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Sampled => "sampled",
            Self::Shed => "shed",
            Self::Unwanted => "unwanted",
        }
    }
}

/// The numbers of records that are left out, by reason. Clones are about the same ones.
#[derive(Clone, Debug, Default)]
pub struct Omissions(Arc<[AtomicU64; 4]>);

impl Omissions {
    /// The number for that reason.
    #[must_use]
    pub fn of(&self, omission: Omission) -> u64 {
        self.cell(omission).load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, omission: Omission) {
        self.cell(omission).fetch_add(1, Ordering::Relaxed);
    }

    fn cell(&self, omission: Omission) -> &AtomicU64 {
        let [empty, sampled, shed, unwanted] = &*self.0;
        match omission {
            Omission::Empty => empty,
            Omission::Sampled => sampled,
            Omission::Shed => shed,
            Omission::Unwanted => unwanted,
        }
    }
}

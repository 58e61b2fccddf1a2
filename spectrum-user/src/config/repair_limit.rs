//! How often what others remove is put back. Counts nothing.

/// The most repairs of one kind of thing in a minute; more than that is a fight.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RepairLimit {
    /// The number; 0: nothing is put back.
    pub per_minute: u32,
}

impl RepairLimit {
    /// Nothing is put back.
    pub const NONE: Self = Self { per_minute: 0 };
}

impl Default for RepairLimit {
    fn default() -> Self {
        Self { per_minute: 20 }
    }
}

//! The small integer by which the kernel knows a destination.

use core::fmt;

/// Index of a destination (service, family, protocol) in the sockmap and in the counters.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DestinationId(pub u32);

impl fmt::Display for DestinationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

//! What became of a destination's packets.

use core::ops::Add;

/// Counters of one destination on one CPU; they wrap.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Counts {
    /// Packets given to the listener.
    pub steered: u64,
    /// Packets refused because the destination has no listener.
    pub missed: u64,
    /// Packets that the kernel would not give to the listener, by [`Refusal`].
    pub refused: [u64; REFUSALS],
    /// Packets whose source is denied.
    pub denied: u64,
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let mut refused = self.refused;
        for (sum, more) in refused.iter_mut().zip(other.refused) {
            *sum = sum.wrapping_add(more);
        }
        Self {
            steered: self.steered.wrapping_add(other.steered),
            missed: self.missed.wrapping_add(other.missed),
            refused,
            denied: self.denied.wrapping_add(other.denied),
        }
    }
}

/// Number of [`Refusal`]s.
pub const REFUSALS: usize = 5;

/// The refusal of `bpf_sk_assign` (bpf-helpers(7)).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(usize)]
pub enum Refusal {
    /// EAFNOSUPPORT: the listener is of another family.
    Family = 0,
    /// EEXIST: another program has chosen already.
    Chosen = 1,
    /// EPROTOTYPE: the listener is of another protocol.
    Protocol = 2,
    /// ESOCKTNOSUPPORT: the socket is neither listening TCP nor unconnected UDP.
    State = 3,
    /// Any other error.
    Other = 4,
}

impl Refusal {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; REFUSALS] = [Self::Family, Self::Chosen, Self::Protocol, Self::State, Self::Other];

    /// The refusal that a negative errno of `bpf_sk_assign` stands for.
    #[must_use]
    pub const fn of(errno: i32) -> Self {
        match errno {
            -97 => Self::Family,
            -17 => Self::Chosen,
            -91 => Self::Protocol,
            -94 => Self::State,
            _ => Self::Other,
        }
    }

    /// The errno's name, as metrics and `status` print it.
    #[must_use]
    pub const fn errno(self) -> &'static str {
        match self {
            Self::Family => "EAFNOSUPPORT",
            Self::Chosen => "EEXIST",
            Self::Protocol => "EPROTOTYPE",
            Self::State => "ESOCKTNOSUPPORT",
            Self::Other => "other",
        }
    }
}

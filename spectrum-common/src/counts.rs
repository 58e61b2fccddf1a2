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
    /// Packets that the source policy turned away, by [`DenyReason`].
    pub denied: [u64; DENY_REASONS],
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let (mut refused, mut denied) = (self.refused, self.denied);
        let sums = refused.iter_mut().chain(&mut denied);
        for (sum, more) in sums.zip(other.refused.into_iter().chain(other.denied)) {
            *sum = sum.wrapping_add(more);
        }
        Self {
            steered: self.steered.wrapping_add(other.steered),
            missed: self.missed.wrapping_add(other.missed),
            refused,
            denied,
        }
    }
}

/// Number of [`DenyReason`]s.
pub const DENY_REASONS: usize = 3;

/// The part of a source policy that a packet fails by.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(usize)]
pub enum DenyReason {
    /// Its source is in a prefix that is denied.
    Denied = 0,
    /// It came by an interface by which nobody may come.
    Interface = 1,
    /// Its source has come too often.
    Rate = 2,
}

impl DenyReason {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; DENY_REASONS] = [Self::Denied, Self::Interface, Self::Rate];

    /// Its word, as metrics and `status` print it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Interface => "interface",
            Self::Rate => "rate",
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

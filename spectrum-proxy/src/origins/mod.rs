//! A service's origins: where their names lead, which of them are up, and whose turn it is. Connects to none of them but to
//! check it; who does is told of a choice and tells of its outcome.

mod balance;
mod choice;
mod current_roster;
mod fading;
mod fault;
mod health;
mod own_bindings;
mod refusal;
mod resolver;
mod roster;
mod standing;
mod tally;
mod watch;

pub(super) use choice::{Choices, Chooser};
pub(super) use current_roster::CurrentRoster;
pub use own_bindings::OwnBindings;
pub use resolver::HostFile;
pub(super) use roster::{Member, Place};
pub(super) use tally::OpenGuard;
pub use watch::{
    CheckOutcome, Lookups, OriginCondition, OriginState, OriginWatch, RecordState, ResolveError, SetOrigin,
    SetOriginError, WatchError,
};

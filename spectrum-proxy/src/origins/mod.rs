//! From a service's origins to one that is connected: where their names lead, which of them are up, whose turn it is, and
//! the dial. What connections carry afterwards is none of its affair.

mod balance;
mod board;
mod dial;
mod dial_source;
mod fault;
mod health;
mod own_bindings;
mod refusal;
mod resolver;
mod roster;
mod standing;
mod tally;
mod watch;

pub(super) use board::Board;
pub(super) use dial::{Dialled, Dialler};
pub use own_bindings::OwnBindings;
pub(super) use tally::OpenGuard;
pub use watch::{
    CheckOutcome, Lookups, OriginCondition, OriginState, OriginWatch, RecordState, ResolveError, SetOrigin,
    SetOriginError, WatchError,
};

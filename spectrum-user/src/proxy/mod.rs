//! What stands behind the listeners: accept or receive, dial, relay or respond, and one report per session. Knows nothing of
//! how a connection came to its listener: no steering, no firewall, no configuration.

mod accept;
mod address;
mod balance;
mod board;
mod connections;
mod dial;
mod dial_source;
pub mod header;
mod health;
mod introduction;
mod limits;
mod own_bindings;
mod peer;
mod relay;
mod report;
mod resolver;
mod respond;
mod roster;
mod session;
mod standing;
mod sys;
mod traffic;
mod udp;
mod watch;
mod worker;
mod workers;

pub use own_bindings::OwnBindings;
pub use report::{DialFailure, End, Established, Event, Expiry, HeaderFault, Limit, Report, Side};
pub use traffic::Traffic;
pub use watch::{
    CheckOutcome, OriginCondition, OriginState, OriginWatch, RecordState, ResolveError, WatchError,
};
pub use workers::{DrainOutcome, Listener, Served, Workers, WorkersError};

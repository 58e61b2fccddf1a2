//! What stands behind the listeners: accept or receive, dial, relay or respond, and one report per session. Knows nothing of
//! how a connection came to its listener: no steering, no firewall, no configuration.

mod accept;
mod address;
mod commanded;
mod connections;
mod counter;
mod first_move;
pub mod header;
mod high_water;
mod introduction;
mod limits;
pub mod model;
mod origins;
mod peer;
mod relay;
mod report;
mod respond;
mod session;
mod stream;
mod sys;
mod traffic;
mod udp;
mod unique_id;
mod worker;
mod workers;

pub use counter::Counter;
pub use origins::{
    CheckOutcome, Lookups, OriginCondition, OriginState, OriginWatch, OwnBindings, RecordState, ResolveError,
    SetOrigin, SetOriginError, WatchError,
};
pub use report::{DialFailure, End, Established, Event, Expiry, HeaderFault, Limit, Report, Side};
pub use traffic::Traffic;
pub use workers::{DrainOutcome, Listener, Served, Workers, WorkersError};

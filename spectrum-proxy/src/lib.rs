//! What stands behind the listeners: accept or receive, dial, relay or respond, and one report per session. Knows nothing of
//! how a connection came to its listener: no steering, no firewall, no configuration.

mod address;
mod assignment;
mod commanded;
mod counter;
mod error;
mod high_water;
mod limits;
pub mod model;
mod origins;
mod report;
mod service;
mod session;
mod sys;
mod tcp;
mod traffic;
mod udp;
mod unique_id;
mod worker;
mod workers;

pub use counter::Counter;
pub use error::WorkersError;
pub use origins::{
    CheckOutcome, Lookups, OriginCondition, OriginState, OriginWatch, OwnBindings, RecordState, ResolveError,
    SetOrigin, SetOriginError, WatchError,
};
pub use report::{DialFailure, End, Established, Event, Expiry, HeaderFault, Limit, Report, Side};
pub use service::{Listener, Served};
pub use tcp::header;
pub use traffic::Traffic;
pub use workers::{DrainOutcome, Workers};

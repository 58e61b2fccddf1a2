//! What stands behind the listeners: accept or receive, dial, relay or respond, and one report per session. Knows nothing of
//! how a connection came to its listener: no steering, no firewall, no configuration.

mod accept;
mod address;
mod dial;
mod dial_source;
pub mod header;
mod introduction;
mod peer;
mod relay;
mod report;
mod resolve;
mod respond;
mod session;
mod udp;
mod worker;
mod workers;

pub use report::{DialFailure, End, Established, Event, Expiry, HeaderFault, Limit, Report, Side};
pub use resolve::{ResolveError, resolve_all};
pub use workers::{DrainOutcome, Listener, Served, Workers, WorkersError};

//! What stands behind the listeners: accept or receive, dial, relay or respond, and one report per session. Knows nothing of
//! how a connection came to its listener: no steering, no firewall, no configuration.
//!
//! ```
//! use std::net::TcpListener;
//! use std::num::NonZeroUsize;
//! use std::sync::Arc;
//!
//! use spectrum_proxy::model::{
//!     Destination, Family, Policy, Protocol, ResolverOptions, Responder, ServiceName, Target,
//! };
//! use spectrum_proxy::{OriginWatch, Served, Workers};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let origins = OriginWatch::start(ResolverOptions::default())?;
//! let workers = Workers::start(NonZeroUsize::MIN, origins, |_worker| |_event: spectrum_proxy::Event<'_>| {})?;
//! let service: ServiceName = "hello".parse()?;
//! let destination =
//!     Destination { service: service.clone(), revision: 0, family: Family::Ipv4, protocol: Protocol::Tcp };
//! let served = Served { service, target: Target::Respond(Responder::Hello), policy: Policy::default() };
//! workers.listen(&destination, vec![TcpListener::bind("127.0.0.1:0")?], Arc::new(served)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! One that relays is `examples/relay.rs`. The first to look at are [`Workers`], [`Served`], [`Listener`], [`OriginWatch`] and
//! [`Event`] with its [`Report`]; [`model`] has what can be said of a service.
//!
//! What stands here is promised, and written down in `public-api.txt`. `spectrum-user` reaches more, to reload and to show what
//! becomes of origins; that is not in these pages, and changes without notice.

#![warn(clippy::missing_errors_doc, reason = "who embeds it wants to know what can fail")]

mod address;
mod assignment;
mod commanded;
mod counter;
mod error;
#[doc(hidden)]
pub mod header;
mod high_water;
mod hold;
mod limits;
pub mod model;
mod origins;
mod privileged;
mod report;
mod service;
mod session;
mod source_judge;
mod sys;
mod tcp;
mod traffic;
mod udp;
mod unique_id;
mod worker;
mod workers;

#[doc(hidden)]
pub use counter::Counter;
pub use error::WorkersError;
#[doc(hidden)]
pub use origins::{
    CheckOutcome, HostFile, Lookups, OriginCondition, OriginState, OwnBindings, RecordState, ResolveError,
    SetOrigin, SetOriginError,
};
pub use origins::{OriginWatch, WatchError};
#[doc(hidden)]
pub use privileged::{PrivilegedSocket, SocketTaker};
pub use report::{Datagrams, DialFailure, End, Established, Event, Expiry, HeaderFault, Limit, Report, Side};
pub use service::{Listener, Served};
#[doc(hidden)]
pub use source_judge::{JudgeChange, SourceJudge};
pub use sys::give_memory_back;
#[doc(hidden)]
pub use traffic::TrafficCounters;
pub use traffic::{Traffic, TrafficCount};
#[doc(hidden)]
pub use udp::{ConnectionId, Moving, MovingSession};
pub use workers::{DrainOutcome, Workers};
#[doc(hidden)]
pub use workers::{Handover, PreparedHandovers};

//! Steering: one listening socket receives any port on any address of whole IP prefixes. By an eBPF program in the socket lookup,
//! or by firewall rules where the kernel has none. Knows nothing of what answers behind the listeners.
//!
//! A [`Plan`] says where packets go; [`Steering`] makes it so, and undoes it. A whole server that embeds it is `examples/echo.rs`.
//! Planning needs no privileges, and says what the kernel will do:
//!
//! ```
//! use spectrum_steering::{Binding, Bound, Plan, Protocol};
//!
//! let binding = Binding {
//!     protocol: Protocol::Tcp,
//!     prefix: "192.0.2.0/24".parse()?,
//!     ports: "1000-2000".parse()?,
//! };
//! let service = Bound { name: "game".parse()?, bindings: vec![binding], policy: None };
//! let plan = Plan::of(&[service]).map_err(|errors| format!("{errors:?}"))?;
//! assert!(plan.winner(Protocol::Tcp, "192.0.2.7".parse()?, 1234).is_some());
//! assert!(plan.winner(Protocol::Tcp, "192.0.2.7".parse()?, 80).is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What stands here is promised, and written down in `public-api.txt`. The crate's modules can be reached too, by `spectrum-user`,
//! which reloads, repairs and explains with the parts; they are not in these pages, and change without notice.

#![warn(clippy::missing_errors_doc, reason = "who embeds it wants to know what can fail")]

#[doc(hidden)]
pub mod dispatcher;
#[doc(hidden)]
pub mod host;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod netlink;
#[doc(hidden)]
pub mod plan;
mod steering;
#[doc(hidden)]
pub mod tproxy;

pub use model::{
    Binding, Destination, DestinationId, Family, ParsePortRangeError, ParsePrefixError, ParseProtocolError,
    ParseServiceNameError, PortRange, Prefix, Protocol, ServiceName,
};
pub use plan::{BindingIndex, Binds, Bound, Plan, PlanError, PlannedBinding};
pub use steering::{Steering, SteeringError, SteeringOptions, SteeringPath};

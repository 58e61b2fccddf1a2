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
//! let service = Bound { name: "game".parse()?, bindings: vec![binding] };
//! let plan = Plan::of(&[service]).map_err(|errors| format!("{errors:?}"))?;
//! assert!(plan.winner(Protocol::Tcp, "192.0.2.7".parse()?, 1234).is_some());
//! assert!(plan.winner(Protocol::Tcp, "192.0.2.7".parse()?, 80).is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Who reloads, repairs or explains works with the parts: [`plan`] decides what the kernel must contain, [`dispatcher`] or [`tproxy`]
//! have it steer, [`host`] has the routes and listeners around them, and [`netlink`] knows who took something away.

#![warn(clippy::missing_errors_doc, reason = "who embeds it wants to know what can fail")]

pub mod dispatcher;
pub mod host;
pub mod model;
pub mod netlink;
pub mod plan;
mod steering;
pub mod tproxy;

pub use model::{Binding, Destination, Family, PortRange, Prefix, Protocol, ServiceName};
pub use plan::{Binds, Bound, Plan, PlanError};
pub use steering::{Steering, SteeringError, SteeringOptions, SteeringPath};

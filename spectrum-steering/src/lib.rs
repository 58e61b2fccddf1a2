//! Steering: one listening socket receives any port on any address of whole IP prefixes. By an eBPF program in the socket lookup
//! ([`dispatcher`]), or by firewall rules where the kernel has none ([`tproxy`]); what either must contain is decided in
//! [`plan`], and [`host`] has the routes and listeners around them. Knows nothing of what answers behind the listeners.
//!
//! Planning needs no privileges, and says what the kernel will do:
//!
//! ```
//! use spectrum_steering::model::{Binding, Protocol};
//! use spectrum_steering::plan::{Bound, Plan};
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
//! A whole server that embeds it is `examples/echo.rs`. The first to look at are [`plan::Plan`], [`plan::table::Table`],
//! [`host::ListenerGroup`], [`host::LocalRoutes`] and [`dispatcher::Dispatcher`] or [`tproxy::Tproxy`].

pub mod dispatcher;
pub mod host;
pub mod model;
pub mod netlink;
pub mod plan;
pub mod tproxy;

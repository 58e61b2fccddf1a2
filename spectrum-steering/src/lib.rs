//! Steering: one listening socket receives any port on any address of whole IP prefixes. By an eBPF program in the socket lookup
//! ([`dispatcher`]), or by firewall rules where the kernel has none ([`tproxy`]); what either must contain is decided in
//! [`plan`], and [`host`] has the routes and listeners around them. Knows nothing of what answers behind the listeners.

pub mod dispatcher;
pub mod host;
pub mod model;
pub mod netlink;
pub mod plan;
pub mod tproxy;

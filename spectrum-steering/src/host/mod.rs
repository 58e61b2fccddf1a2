//! Sockets, addresses and routes of one network namespace. Decides nothing about which of them are wanted.

mod addresses;
mod announcement;
mod bridges;
mod error;
mod foreign_socket;
mod interfaces;
mod link_notices;
mod listener;
mod listener_addresses;
mod namespace;
mod notices;
mod offloads;
mod process_sockets;
mod reply_routes;
mod routes;
mod rp_filter;
mod settings;
mod silent_listener;
mod sockets;
mod syn_cookies;
mod sys;
mod tcp_listeners;

pub use addresses::{
    CoveredAddress, InterfaceAddress, covered_addresses, interface_addresses, loopback_families,
};
pub use announcement::Announcement;
pub use bridges::bridged_to_rules;
pub use error::{Denied, NetError};
pub use foreign_socket::{ForeignSocket, UnfitSocket, reachable_at};
pub use interfaces::interface_index;
#[doc(hidden)]
pub use link_notices::LinkNotices;
pub use listener::{ListenerGroup, ListenerOptions, Transparency};
pub use listener_addresses::ListenerAddresses;
pub use namespace::{NamespaceId, enter_namespace, in_throw_away_namespace, namespace_cookie};
pub use notices::{RouteNotice, RouteNotices};
pub use offloads::interfaces_without_gro;
pub use process_sockets::{
    ProcessSockets, descendants_of, processes_called, processes_of_unit, running_units, sockets_of_process,
};
pub use reply_routes::ReplyRoutes;
pub use routes::{LocalRoutes, ROUTE_PROTOCOL};
pub use rp_filter::strict_rp_filter;
pub use settings::{has_ipv6, setting};
pub use silent_listener::silent_listener;
pub use sockets::{ListeningSocket, SocketOwner, listening_sockets, own_sockets, socket_owners};
pub use syn_cookies::SynCookies;
pub use tcp_listeners::{ListenQueue, listen_queues};

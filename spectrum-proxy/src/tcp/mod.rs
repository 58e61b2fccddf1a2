//! Connections: accepted, introduced by whoever dialled for their clients, dialled onward, relayed or answered. Which origin
//! is dialled is chosen in `origins`; nothing here knows of datagrams.

pub(crate) mod accept;
pub(crate) mod connections;
pub(crate) mod dial;
pub(crate) mod dial_source;
pub(crate) mod first_move;
pub mod header;
mod introduction;
mod peer;
pub(crate) mod relay;
mod respond;
pub(crate) mod stream;

//! Connections: accepted, their PROXY headers read and written, their origins dialled, relayed or answered. Which origin
//! is dialled is chosen in `origins`; nothing here knows of datagrams.

pub(crate) mod accept;
pub(crate) mod connections;
pub(crate) mod dial;
pub(crate) mod dial_source;
pub(crate) mod first_move;
mod peer;
mod proxy_header;
pub(crate) mod relay;
mod respond;
pub(crate) mod stream;

//! Datagrams: which session each belongs to, where it goes, and the answer from the very address and port that was dialled.
//!
//! A session is a client and the address and port it dialled. All datagrams of clients come to the listener, many by one call,
//! and find their session in a table; answers leave through the *voice* of what was dialled. So neither the cost of a datagram
//! nor that of a stranger's grows with the number of sessions. Knows no way of steering datagrams to the listener.

mod answer;
mod checksum;
mod client_path;
mod complaints;
mod connection_book;
mod connection_id;
mod control;
mod crowds;
mod head;
mod header;
mod icmp;
mod incoming_header;
mod moving;
mod options;
mod parting;
mod poller;
mod post;
mod proxied;
mod queue_losses;
mod raw;
mod rebinding;
mod receiver;
mod session;
mod sessions;
mod spares;
mod sys;
mod table;
mod train;
mod upstream;
mod via;
mod voice;

pub(super) use answer::Answer;
pub(super) use complaints::open as icmp_socket;
pub(super) use connection_book::{ConnectionBook, Mailbox};
pub use connection_id::ConnectionId;
pub(super) use moving::Giving;
pub use moving::{Moving, MovingSession};
pub(super) use parting::open as parted_socket;
pub(super) use raw::open as raw_socket;
pub(super) use receiver::{AbandonedListener, Receiver};
pub(super) use sessions::{Sessions, capacity};
pub(super) use voice::open as voice_socket;

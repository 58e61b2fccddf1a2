//! Datagrams: which session each belongs to, and the answer from the very address and port that was dialled. Dials no
//! origin: the built-in answers are all that a datagram can get.
//!
//! A session is a client and the address and port it dialled. Its first datagram comes to the listener. From then on it
//! has a socket of its own, bound to the dialled address and port and connected to the client, which the kernel prefers to
//! every listener and asks before steering. A worker empties its listener before a new session reads its own socket,
//! so that what arrived first is answered first.

mod aged;
mod answer;
mod by_listener;
mod datagram;
mod raw;
mod receiver;
mod session;
mod sessions;

pub(super) use answer::Answer;
pub(super) use receiver::Receiver;
pub(super) use sessions::{Sessions, capacity};

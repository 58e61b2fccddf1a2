//! What crosses the kernel boundary, and [`steer`], the one decision. Knows neither sockets nor maps.
//!
//! The same code runs in the kernel program, in the loader, in property tests and in the fuzzer. With the feature `std`, which
//! the kernel program does without, also the words that steering and the proxy share: prefixes, port ranges, names.
#![cfg_attr(not(feature = "std"), no_std)]
#![allow(
    clippy::inline_always,
    reason = "BPF calls pass five words and return one: what is not inlined may not link"
)]

mod account;
#[cfg(feature = "std")]
mod address_and_port;
mod counts;
mod denial_sample;
mod destination;
mod domain;
#[cfg(feature = "std")]
mod hop;
pub mod names;
mod node;
#[cfg(feature = "std")]
mod notation;
mod packet;
mod pod;
#[cfg(feature = "std")]
mod port_range;
#[cfg(feature = "std")]
mod prefix;
#[cfg(feature = "std")]
mod protocol;
#[cfg(feature = "std")]
mod service_name;
mod shares;
mod steer;
#[cfg(feature = "std")]
mod unknown_word;
#[cfg(feature = "std")]
mod visible;

pub use account::{ACCOUNT_WORDS, Accounts, Charge, Pace, charge, hash_of, would_charge};
#[cfg(feature = "std")]
pub use address_and_port::{ParseAddressAndPortError, parse_address_and_port};
pub use counts::{Counts, DENY_REASONS, DenyReason, REFUSALS, Refusal};
pub use denial_sample::DenialSample;
#[cfg(feature = "std")]
pub use destination::Destination;
pub use destination::DestinationId;
pub use domain::Domain;
#[cfg(feature = "std")]
pub use hop::{Hop, reached};
pub use node::{
    Bucket4, Bucket6, EMPTY, Interfaces, NO_NODE, Node, PAGE_NODES, Page, Ports, SourceGate, Step, Value,
    bucket_of,
};
pub use packet::{Address, Packet, Sender, Source};
#[cfg(feature = "std")]
pub use port_range::{ParsePortRangeError, PortRange, parse_port_ranges};
#[cfg(feature = "std")]
pub use prefix::{ParsePrefixError, Prefix};
#[cfg(feature = "std")]
pub use protocol::{Family, ParseProtocolError, Protocol};
#[cfg(feature = "std")]
pub use service_name::{ParseServiceNameError, ServiceName};
pub use shares::{MEMORY_WORDS, RegisteredId, Remembered, SLOTS, Slot, slot_of};
#[cfg(feature = "std")]
pub use shares::{SocketShare, slots_of};
pub use steer::{
    MAX_BUCKETS, MAX_PORT_NODES, MAX_STEPS, Nodes, SourceVerdict, Verdict, admit, search, steer,
};
#[cfg(feature = "std")]
pub use unknown_word::{Either, UnknownWord};
#[cfg(feature = "std")]
pub use visible::{VisibleWriter, visible};

//! What crosses the kernel boundary, and [`steer`], the one decision. Knows neither sockets nor maps.
//!
//! The same code runs in the kernel program, in the loader, in property tests and in the fuzzer.
#![no_std]
#![allow(
    clippy::inline_always,
    reason = "BPF calls pass five words and return one: what is not inlined may not link"
)]

mod counts;
mod destination;
mod domain;
pub mod names;
mod node;
mod packet;
mod pod;
mod steer;

pub use counts::{Counts, REFUSALS, Refusal};
pub use destination::DestinationId;
pub use domain::Domain;
pub use node::{Bucket4, Bucket6, EMPTY, NO_NODE, Node, PAGE_NODES, Page, Ports, Step, Value, bucket_of};
pub use packet::{Address, Packet};
pub use steer::{MAX_BUCKETS, MAX_PORT_NODES, MAX_STEPS, Nodes, Verdict, steer};

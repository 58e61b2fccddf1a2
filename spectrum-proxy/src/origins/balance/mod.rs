//! Which of the members that may be used a connection gets. State in, choice out: who may be used, and what becomes of
//! the choice, is not decided here.

mod least_connections;
mod round_robin;
mod source_hash;

use std::net::IpAddr;

use crate::model::Balance;
use least_connections::LeastConnections;
use round_robin::RoundRobin;
pub(super) use source_hash::{client_key, score, seed};

/// A member that may be used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Its place among all members, usable or not.
    pub(super) index: usize,
    /// Its share; never 0.
    pub(super) weight: u32,
    /// Its open connections.
    pub(super) open: u32,
    /// By which it is told from the others, whatever their order.
    pub(super) seed: u64,
}

/// One worker's memory of what it chose.
#[derive(Debug)]
pub(super) enum Balancer {
    LeastConnections(LeastConnections),
    RoundRobin(RoundRobin),
    SourceHash,
}

impl Balancer {
    /// `skipped` choices are taken as made: workers that all began with the same member would crowd it after a start.
    pub(super) fn new(balance: Balance, skipped: usize) -> Self {
        match balance {
            Balance::LeastConnections => Self::LeastConnections(LeastConnections::new(skipped)),
            Balance::RoundRobin => Self::RoundRobin(RoundRobin::new(skipped)),
            Balance::SourceHash => Self::SourceHash,
        }
    }

    /// The index of one of `candidates` for a connection of `client`; `None` if there are none.
    pub(super) fn choose(
        &mut self,
        client: IpAddr,
        candidates: impl Iterator<Item = Candidate> + Clone,
    ) -> Option<usize> {
        match self {
            Self::LeastConnections(state) => state.choose(candidates),
            Self::RoundRobin(state) => state.choose(candidates),
            Self::SourceHash => source_hash::choose(client_key(client), candidates),
        }
    }
}

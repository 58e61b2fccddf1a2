//! A socket of another program that a destination's packets go to, as it was when it was registered. Whether it is still there, the
//! kernel knows.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use spectrum_common::{RegisteredId, hash_of};

use super::Weight;

/// A socket of another program that is registered.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RegisteredSocket {
    /// By which BPF and `ss -e` know it.
    pub cookie: u64,
    /// By which /proc knows it.
    pub inode: u64,
    /// The address that it is bound to.
    pub address: SocketAddr,
    /// The process that it was taken from.
    pub pid: u32,
    /// The name of that, as it can be shown.
    pub command: String,
    /// Its weight among those of the destination.
    #[serde(default = "RegisteredSocket::weight_of_one")]
    pub weight: Weight,
    /// Its place in the program's map, over `sk_lookup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<RegisteredId>,
}

impl RegisteredSocket {
    fn weight_of_one() -> Weight {
        Weight::ONE
    }

    /// What a socket of the same server had before it was started again, and no other of the destination has of which `before` so many with
    /// the same name and address are.
    #[must_use]
    pub fn key(&self, before: usize) -> u64 {
        let named = format!("{} {} {before}", self.command, self.address);
        named.bytes().fold(0, |hash, byte| hash_of([0; 2], [hash, byte.into()]))
    }

    /// True if nothing but when they were started tells them apart.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.command, self.address) == (&other.command, other.address)
    }
}

impl fmt::Display for RegisteredSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cookie, address, pid, command, .. } = self;
        write!(f, "{address} of {command} (process {pid}, sk:{cookie:x})")
    }
}

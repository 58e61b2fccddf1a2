//! A socket of another program that a destination's packets go to, as it was when it was registered. Whether it is still there, the
//! kernel knows.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

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
}

impl fmt::Display for RegisteredSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cookie, address, pid, command, .. } = self;
        write!(f, "{address} of {command} (process {pid}, sk:{cookie:x})")
    }
}

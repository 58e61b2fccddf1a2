//! How names of origins are resolved. Resolves none.

use std::net::SocketAddr;
use std::time::Duration;

/// The DNS servers that are asked, the patience with them, and the limits of what is kept.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct ResolverOptions {
    /// Empty: those of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// The time that one server may take to answer.
    pub timeout: Duration,
    /// The number of addresses that are used of a name.
    pub addresses: u16,
    /// The number of SRV records that are used of a name.
    pub targets: u16,
    /// For how long an answer is used at least, whatever it says of itself.
    pub min_ttl: Duration,
}

impl Default for ResolverOptions {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(2),
            addresses: 64,
            targets: 64,
            min_ttl: Duration::from_secs(1),
        }
    }
}

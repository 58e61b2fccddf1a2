//! How names of origins are resolved. Resolves none.

use std::net::SocketAddr;
use std::time::Duration;

/// Which DNS servers are asked, how patiently, and how much of what they say is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ResolverOptions {
    /// Empty: those of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// How long one server may take to answer.
    pub timeout: Duration,
    /// How many addresses of a name are used.
    pub addresses: u16,
    /// How many SRV records of a name are used.
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

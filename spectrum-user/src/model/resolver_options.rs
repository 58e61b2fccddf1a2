//! How names of origins are resolved. Resolves none.

use std::net::SocketAddr;
use std::time::Duration;

/// Which DNS servers are asked, and how patiently.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ResolverOptions {
    /// Empty: those of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// How long one server may take to answer.
    pub timeout: Duration,
}

impl Default for ResolverOptions {
    fn default() -> Self {
        Self { servers: Vec::new(), timeout: Duration::from_secs(2) }
    }
}

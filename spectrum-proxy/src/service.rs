//! The service behind a destination's listeners, and the sockets that these are. Serves nothing itself.

use std::sync::Arc;

use crate::model::{Policy, ServiceName, Target};
use crate::origins::CurrentRoster;

/// The service behind a destination's listeners.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Served {
    /// The service, as reports name it.
    pub service: ServiceName,
    /// The target that answers.
    pub target: Target,
    /// The rules for its connections.
    pub policy: Policy,
}

/// The same, with the way to its origins if it has any.
#[derive(Clone, Debug)]
pub(super) struct Serving {
    pub(super) served: Arc<Served>,
    pub(super) current: Option<Arc<CurrentRoster>>,
}

/// A socket that a destination's packets come to.
#[derive(Debug)]
pub enum Listener {
    /// Listening already.
    Tcp(std::net::TcpListener),
    /// Bound already. `IP_TRANSPARENT` or `IPV6_TRANSPARENT` where packets come through TPROXY: the sockets of sessions
    /// are then made so as well, which needs `CAP_NET_ADMIN`.
    Udp(std::net::UdpSocket),
}

impl From<std::net::TcpListener> for Listener {
    fn from(listener: std::net::TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<std::net::UdpSocket> for Listener {
    fn from(listener: std::net::UdpSocket) -> Self {
        Self::Udp(listener)
    }
}

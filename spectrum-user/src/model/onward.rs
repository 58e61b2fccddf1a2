//! Where a connection goes that we dial ourselves: elsewhere, or back to one of our own services. Says nothing of whether
//! it may.

use super::{PortRange, ServiceName};

/// Where dials of some ports of one address go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Onward {
    /// The ports.
    pub ports: PortRange,
    /// The service of ours that binds them; `None`: whoever else has the address.
    pub service: Option<ServiceName>,
}

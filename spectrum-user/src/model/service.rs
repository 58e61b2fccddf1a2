//! A named thing with bindings, and what stands behind it: where steering and the proxy meet.

use super::{Binding, Policy, ServiceName, Target};

/// A named thing: its bindings and what answers behind them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// Unique within a configuration.
    pub name: ServiceName,
    /// In the order configured; never empty.
    pub bindings: Vec<Binding>,
    /// The target that answers.
    pub target: Target,
    /// The rules for its connections.
    pub policy: Policy,
}

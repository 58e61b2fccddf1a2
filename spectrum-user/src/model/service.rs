//! A named thing with bindings, and what stands behind it: where steering and the proxy meet.

use std::collections::HashSet;

use super::{Binding, Policy, ServiceName, Target};

/// A named thing: its bindings and what answers behind them.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Service {
    /// Unique within a configuration.
    pub name: ServiceName,
    /// In the order configured; never empty.
    #[serde(with = "bindings")]
    pub bindings: Vec<Binding>,
    /// The target that answers.
    pub target: Target,
    /// The rules for its connections.
    pub policy: Policy,
}

/// The names of those of `services` that other programs answer.
#[must_use]
pub fn registered(services: &[Service]) -> HashSet<&ServiceName> {
    let registered = services.iter().filter(|service| service.target == Target::Registered);
    registered.map(|service| &service.name).collect()
}

/// Bindings as their parts, for who asks a running instance.
mod bindings {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::model::{Binding, PortRange, Prefix, Protocol};

    pub(super) fn serialize<S: Serializer>(bindings: &[Binding], serializer: S) -> Result<S::Ok, S::Error> {
        serializer
            .collect_seq(bindings.iter().map(|binding| (binding.protocol, binding.prefix, binding.ports)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Binding>, D::Error> {
        let parts = Vec::<(Protocol, Prefix, PortRange)>::deserialize(deserializer)?;
        let bindings = parts.into_iter().map(|(protocol, prefix, ports)| Binding { protocol, prefix, ports });
        Ok(bindings.collect())
    }
}

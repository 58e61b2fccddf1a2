//! What a running instance answers to who asks what it does. Changes nothing, but that an explanation counts as a packet.

mod explain;
mod status;

use super::exit::USAGE;
use super::running::Running;
use crate::control::{BindingsQuery, ControlError, ListedBinding, ListenerAnswer};
use crate::model::{DestinationId, parse_port_ranges};
use crate::plan::{Overlap, PlannedBinding};

impl Running {
    /// The bindings that overlap what is asked for, in the order of precedence.
    pub(super) fn bindings(&self, query: &BindingsQuery) -> Result<Vec<ListedBinding>, ControlError> {
        let unclear = |what, typed: &str, error: &dyn std::fmt::Display| {
            misunderstood(format!("understand {what} {typed:?}: {error}"))
        };
        let prefix = match &query.prefix {
            Some(typed) => Some(typed.parse().map_err(|error| unclear("prefix", typed, &error))?),
            None => None,
        };
        let ports = match &query.ports {
            Some(typed) => parse_port_ranges(typed).map_err(|error| unclear("ports", typed, &error))?,
            None => Vec::new(),
        };
        let overlap = Overlap { protocol: query.protocol, prefix, ports };
        Ok(self.plan.overlapping(&overlap).map(|planned| self.listed(planned)).collect())
    }

    fn listed(&self, planned: &PlannedBinding) -> ListedBinding {
        let service = self.plan.destination(planned.destination).map(|destination| &destination.service);
        ListedBinding {
            protocol: planned.binding.protocol,
            prefix: planned.binding.prefix.to_string(),
            ports: planned.binding.ports.to_string(),
            service: service.map_or_else(String::new, ToString::to_string),
            destination: planned.destination.0,
        }
    }

    fn listener(&self, id: DestinationId) -> Option<ListenerAnswer> {
        let group = self.listeners.get(&id)?;
        Some(ListenerAnswer {
            address: group.address(),
            cookies: group.cookies().iter().map(|cookie| format!("{cookie:x}")).collect(),
        })
    }
}

/// A question that makes no sense.
fn misunderstood(message: String) -> ControlError {
    ControlError::Refused { message, code: USAGE, problems: Vec::new() }
}

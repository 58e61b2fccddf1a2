//! What a running instance answers to who asks what it does. Changes nothing, but that an explanation counts as a packet.

mod explain;
mod top_sources;

use std::sync::Arc;

use super::exit_code::USAGE;
use crate::control::{BindingsQuery, ControlError, RunningConfiguration};
use crate::model::DestinationId;
use crate::plan::PlannedBinding;
use crate::view::{BindingView, ListenerView, Present};

/// So many bindings are looked at before others have their turn.
const BATCH: usize = 512;

impl Present {
    /// The bindings that overlap what is asked for, in the order of precedence, a few at a time: none of them is made before
    /// it is wanted.
    pub(super) fn bindings(
        self: &Arc<Self>,
        query: &BindingsQuery,
    ) -> Result<impl Iterator<Item = Vec<BindingView>> + use<>, ControlError> {
        let overlap = query.overlap().map_err(misunderstood)?;
        let present = Arc::clone(self);
        let starts = (0..present.plan.bindings.len()).step_by(BATCH);
        Ok(starts.map(move |from| {
            let batch = present.plan.bindings.iter().skip(from).take(BATCH);
            let overlapping = batch.filter(|planned| overlap.is_with(&planned.binding));
            overlapping.map(|planned| present.listed(planned)).collect()
        }))
    }

    /// The configuration in force.
    pub(super) fn configuration(&self) -> RunningConfiguration {
        RunningConfiguration {
            mode: self.mode,
            files: self.config.shown_files(),
            keys: self.config.keys.clone(),
            services: self.config.services.clone(),
        }
    }

    fn listed(&self, planned: &PlannedBinding) -> BindingView {
        BindingView::of(&self.plan, planned)
    }

    fn listener(&self, id: DestinationId) -> Option<ListenerView> {
        self.listeners.get(&id).cloned()
    }
}

/// A question that makes no sense.
fn misunderstood(message: String) -> ControlError {
    ControlError::Refused { message, code: USAGE, problems: Vec::new() }
}

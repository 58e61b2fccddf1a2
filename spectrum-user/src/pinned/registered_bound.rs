//! A service of pinned state as plans are made of it: its sockets are its own, and handed on to no other. Binds nothing.

use crate::model::{Binding, ServiceName};
use crate::plan::{Binds, Bound, OwnPolicy};

/// A service that other programs answer.
pub(super) struct RegisteredBound<'a>(&'a Bound);

impl<'a> RegisteredBound<'a> {
    /// Each of `services` as such.
    pub(super) fn all(services: &'a [Bound]) -> Vec<Self> {
        services.iter().map(Self).collect()
    }
}

impl Binds for RegisteredBound<'_> {
    fn name(&self) -> &ServiceName {
        self.0.name()
    }

    fn bindings(&self) -> &[Binding] {
        self.0.bindings()
    }

    fn answers_like(&self, before: &Self) -> bool {
        self.0.answers_like(before.0)
    }

    fn own_policy(&self) -> Option<&OwnPolicy> {
        self.0.own_policy()
    }

    fn is_registered(&self) -> bool {
        true
    }
}

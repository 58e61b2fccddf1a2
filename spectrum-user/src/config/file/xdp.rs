//! The interfaces where XDP drops who is denied without a word. Looks for none of them: they may come later.

use std::collections::BTreeSet;

use super::section::Typed;
use crate::config::ModeChoice;
use crate::config::error::Problems;
use crate::model::{InterfaceName, OnDeny};
use crate::plan::Plan;

const INTERFACE: &str = "the name of an interface such as \"eth0\"";

/// `xdp` as typed.
#[derive(Debug, Default)]
pub(super) struct DescribedXdp {
    interfaces: BTreeSet<InterfaceName>,
    /// The byte at which it stands, and its path.
    place: (usize, String),
}

impl DescribedXdp {
    pub(super) fn read(typed: Typed<'_, '_>) -> Self {
        let mut interfaces = BTreeSet::new();
        for (element, _) in typed.each("leave it out where no XDP program is to be") {
            let Some(name) = element.parsed::<InterfaceName>(INTERFACE) else { continue };
            if !interfaces.insert(name) {
                element.refuse("is named twice; remove one of them");
            }
        }
        Self { interfaces, place: (typed.offset(), typed.path()) }
    }

    /// The interfaces, if anything can be dropped there.
    pub(super) fn judged(
        self,
        mode: ModeChoice,
        plan: &Plan,
        problems: &Problems<'_>,
    ) -> BTreeSet<InterfaceName> {
        let Self { interfaces, place: (offset, path) } = self;
        let is_silent = |service| plan.policies.on_deny(service) == OnDeny::Silent;
        if mode == ModeChoice::Tproxy {
            problems.add_about(
                offset,
                path,
                "takes the maps of sk_lookup, and mode is \"tproxy\"; leave mode out, or remove it",
            );
        } else if !plan.destinations.is_empty()
            && !plan.destinations.values().any(|destination| is_silent(&destination.service))
        {
            problems.add_about(
                offset,
                path,
                "has no effect, since whoever is denied is told so, and XDP tells nobody; add on-deny = \"silent\", or remove it",
            );
        }
        interfaces
    }
}

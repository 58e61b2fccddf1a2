//! The interfaces that policies name, as the steering table has them: by their indexes, which are others when one is made again. Says when
//! that is to be put right; over TPROXY rules have names.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::running::Running;
use crate::model::InterfaceName;
use crate::plan::Plan;
use crate::registry::Mode;
use spectrum_steering::host::{LinkNotices, interface_index};

/// Things that the kernel tells within so long are looked at together.
const MOMENT: Duration = Duration::from_millis(10);

/// The pause between looks where the kernel tells, and where it cannot be heard, and before what failed is tried again.
const SELDOM: Duration = Duration::from_secs(30);
const UNHEARD: Duration = Duration::from_secs(1);

/// The indexes of interfaces at one time; those that were not there have none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct InterfaceIndexes(BTreeMap<InterfaceName, Option<u32>>);

impl InterfaceIndexes {
    /// Those of the interfaces that the policies of `plan` name, as they are now.
    pub(super) fn of(plan: &Plan) -> Self {
        Self(plan.policies.all_interfaces().map(|name| (name.clone(), interface_index(name))).collect())
    }

    /// The index of one of them.
    pub(super) fn index(&self, name: &InterfaceName) -> Option<u32> {
        self.0.get(name).copied().flatten()
    }

    /// Those that have another index now.
    fn changed(&self) -> impl Iterator<Item = &InterfaceName> {
        self.0.iter().filter(|(name, index)| interface_index(name) != **index).map(|(name, _)| name)
    }
}

/// The interfaces of the last table, and what the kernel tells of them.
#[derive(Debug, Default)]
pub(super) struct InterfaceWatch {
    compiled: InterfaceIndexes,
    notices: Option<LinkNotices>,
    /// The kernel cannot be heard.
    is_deaf: bool,
    due: Option<Instant>,
}

impl InterfaceWatch {
    /// A table has these indexes.
    pub(super) fn compiled(&mut self, indexes: InterfaceIndexes) {
        // One may have come since.
        self.due = (!indexes.0.is_empty()).then(|| Instant::now() + MOMENT);
        self.compiled = indexes;
    }

    /// Returns when an interface has another index than in the last table. Dropped while it waits, it forgets nothing.
    pub(super) async fn changed(&mut self) {
        loop {
            let Some(due) = self.due else { return std::future::pending().await };
            if self.notices.is_none() && !self.is_deaf {
                let hearing = LinkNotices::hear().inspect_err(|error| tracing::debug!("{error:#}"));
                (self.is_deaf, self.notices) = (hearing.is_err(), hearing.ok());
            }
            let heard = async {
                match &mut self.notices {
                    Some(notices) => notices.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep_until(due) => {
                    let is_changed = self.compiled.changed().next().is_some();
                    // After a change the next table says when to look again; if there is none, it is tried again.
                    let is_heard = self.notices.is_some() && !is_changed;
                    self.due = Some(Instant::now() + if is_heard { SELDOM } else { UNHEARD });
                    if is_changed {
                        return;
                    }
                }
                heard = heard => match heard {
                    Ok(()) => self.due = Some(due.min(Instant::now() + MOMENT)),
                    Err(error) => {
                        tracing::warn!("{error:#}; they are looked at every second instead");
                        (self.is_deaf, self.notices, self.due) = (true, None, Some(Instant::now()));
                    }
                },
            }
        }
    }
}

impl Running {
    /// Has the table name the interfaces of policies by the indexes that they have now.
    pub(super) async fn follow_interfaces(&mut self) {
        if self.mode() != Some(Mode::SkLookup) {
            return;
        }
        let changed: Vec<String> = self.interfaces.compiled.changed().map(ToString::to_string).collect();
        let interfaces = changed.join(" ");
        let said = self.denying.sources();
        match self.publish_denials(&said).await {
            Ok(()) => tracing::info!(interfaces, "policies go by interfaces as they are now"),
            Err(error) => {
                tracing::error!(
                    interfaces,
                    "policies go by interfaces as they were, which is tried again: {error:#}"
                );
            }
        }
    }
}

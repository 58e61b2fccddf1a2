//! A look at the firewall: whether what was applied is there as it was applied. Any thread can take it, for a bounded time. Changes
//! nothing.

use std::sync::Arc;

use super::{FirewallProgram, TproxyError};
use crate::plan::firewall::ChainPart;

/// A look that can be taken. Two are equal if they look for the same.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FirewallLook(Vec<Applied>);

/// A part that was applied, and how it was listed then, as far as that could be had.
#[derive(Clone, Debug)]
struct Applied {
    by: Arc<dyn FirewallProgram>,
    part: ChainPart,
    print: Option<String>,
}

impl PartialEq for Applied {
    fn eq(&self, other: &Self) -> bool {
        // A part's place says which program has it.
        (&self.part, &self.print) == (&other.part, &other.print)
    }
}

impl Eq for Applied {}

impl FirewallLook {
    /// Looks later for `parts` as they are now, each as the program lists it that is given with it.
    pub(super) fn of(parts: impl IntoIterator<Item = (Arc<dyn FirewallProgram>, ChainPart)>) -> Self {
        let applied = |(by, part): (Arc<dyn FirewallProgram>, ChainPart)| {
            let print = by.print(&part);
            // What cannot be had is not missed.
            let print = print.inspect_err(|error| tracing::debug!(%error, "look at what was made"));
            Applied { print: print.ok().flatten(), by, part }
        };
        Self(parts.into_iter().map(applied).collect())
    }

    /// Looks later for `parts`, each as it was listed in `prints`, by another process perhaps.
    pub(super) fn handed_on(
        parts: impl IntoIterator<Item = (Arc<dyn FirewallProgram>, ChainPart)>,
        prints: &[(ChainPart, Option<String>)],
    ) -> Self {
        let applied = |(by, part): (Arc<dyn FirewallProgram>, ChainPart)| {
            let print = prints.iter().find(|(of, _)| *of == part).and_then(|(_, print)| print.clone());
            Applied { by, part, print }
        };
        Self(parts.into_iter().map(applied).collect())
    }

    /// The parts, each as it was listed when it was applied.
    pub(super) fn prints(&self) -> Vec<(ChainPart, Option<String>)> {
        self.0.iter().map(|applied| (applied.part.clone(), applied.print.clone())).collect()
    }

    /// The parts that are looked for.
    pub(super) fn parts(&self) -> impl Iterator<Item = &ChainPart> {
        self.0.iter().map(|applied| &applied.part)
    }

    /// True where nobody tells when one of them is changed.
    pub(super) fn is_untold(&self) -> bool {
        self.0.iter().any(|applied| applied.by.is_untold())
    }

    /// The parts that are not as they were applied. Blocks the calling thread.
    ///
    /// # Errors
    /// The firewall's program does not list them.
    pub fn damaged(&self) -> Result<Vec<ChainPart>, TproxyError> {
        let mut damaged = Vec::new();
        for Applied { by, part, print } in &self.0 {
            let now = by.print(part)?;
            if now.is_none() || print.is_some() && now != *print {
                damaged.push(part.clone());
            }
        }
        Ok(damaged)
    }
}

//! Looking at the kernel for what the instance has raised, and putting back what somebody else took away. When to look, and
//! whether putting back is worth it, is decided elsewhere.

use std::time::{Duration, Instant};

use super::beside::RepairEvent;
use super::firewall_looks::{FirewallFinds, Worth};
use super::running::Running;
use super::{Judgement, Ledger, Look};
use crate::model::{Resource, ResourceKind};
use crate::registry::Mode;
use crate::view::{News, named};
use spectrum_steering::tproxy::Tproxy;

/// The pause between looks at the program's attachment, of which nobody tells: it costs a system call.
const GLANCE: Duration = Duration::from_millis(200);

/// The same of the files in the run directory.
const FILES: Duration = Duration::from_millis(400);

/// The same of the listeners in the program's map, and of iptables-legacy's rules, for which programs are run.
const SLOWER: Duration = Duration::from_millis(700);

/// The pause for what is not there at all.
const NEVER: Duration = Duration::from_hours(1);

impl Running {
    /// Looks at what the kernel told of, or puts back what a look found to be missing.
    pub(super) async fn repair(&mut self, event: RepairEvent) {
        match event {
            RepairEvent::Look(kinds) => self.look(kinds).await,
            RepairEvent::Seen(finds) => self.seen(finds).await,
            RepairEvent::Announce(event) => self.announce(event).await,
        }
    }

    /// Looks at things of `kinds`, and puts back what is missing. What looks at the firewall find is for [`seen`](Self::seen).
    async fn look(&mut self, kinds: Vec<ResourceKind>) {
        for kind in kinds {
            if self.stop_asked.is_asked() {
                return;
            }
            let begun = Instant::now();
            self.repairing.watch.looking(kind);
            let missing = match self.firewall_look(kind) {
                Some(look) => match self.repairing.looks.take(kind, look, &self.stop_asked) {
                    Ok(()) => continue,
                    Err(error) => Err(error.into()),
                },
                None => self.missing(kind).await,
            };
            let look = self.judge(kind, missing).await;
            let untold = self.untold(kind);
            self.repairing.watch.looked(kind, look, begun.elapsed(), untold);
        }
    }

    /// Puts back what a look at the firewall found to be missing.
    async fn seen(&mut self, finds: FirewallFinds) {
        let FirewallFinds { kind, look, begun, worth, damaged } = finds;
        let took = begun.elapsed();
        let now = self.firewall_look(kind);
        if worth == Worth::Nothing || now.as_ref() != Some(&look) {
            // It was a look at something else than what there is.
            return self.look(vec![kind]).await;
        }
        let missing =
            damaged.map(|damaged| if damaged.is_empty() { Vec::new() } else { self.firewall_part(kind) });
        let look = self.judge(kind, missing).await;
        let untold = self.untold(kind);
        self.repairing.watch.looked(kind, look, took, untold);
        if worth == Worth::Less {
            self.repairing.watch.suspect(kind, None);
        }
    }

    /// Puts back what is `missing` of `kind`, as far as that is worth it.
    async fn judge(&mut self, kind: ResourceKind, missing: anyhow::Result<Vec<Resource>>) -> Look {
        let author = self.repairing.watch.author(kind);
        let missing = match missing {
            // Others may have changed it without a trace: the elements of maps are not looked at.
            Ok(missing) if missing.is_empty() && self.repairing.watch.is_touched(kind) => {
                self.firewall_part(kind)
            }
            Ok(missing) => missing,
            Err(error) => {
                let error = format!("{error:#}");
                if self.repairs.unseen(kind, error.clone()) == News::New {
                    tracing::warn!(what = kind.as_str(), "what may be missing cannot be looked at: {error}");
                }
                return Look::Missing;
            }
        };
        if self.repairs.seen(kind) == News::New {
            tracing::info!(what = kind.as_str(), "what may be missing can be looked at again");
        }
        if missing.is_empty() {
            self.repairing.watch.renewed(kind);
            if self.repairs.whole(kind) == News::New {
                tracing::info!(what = kind.as_str(), "what was missing is there again");
            }
            return Look::Whole;
        }
        let by = author.as_ref().map_or_else(|| "somebody".to_owned(), ToString::to_string);
        let what = kind.as_str();
        let most = self.config.repairs.per_minute;
        match self.repairs.judge(kind, &missing, author.as_ref(), most, Instant::now()) {
            Judgement::Leave(News::Known) => Look::Missing,
            Judgement::Leave(News::New) => {
                let why = if most == 0 {
                    "nothing is put back, since repairing is switched off".to_owned()
                } else {
                    format!("put back {most} times within a minute, it is left alone for another")
                };
                tracing::warn!(what, by, "{} missing: {why}", named(&missing));
                Look::Missing
            }
            Judgement::PutBack => match self.put_back(&missing).await {
                Ok(()) => {
                    self.repairs.done(kind, Instant::now());
                    self.repairing.watch.renewed(kind);
                    tracing::warn!(what, by, "put back what was removed: {}", named(&missing));
                    Look::Whole
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    if self.repairs.failed(kind, &missing, author.as_ref(), error.clone()) == News::New {
                        tracing::warn!(what, by, "{} missing, and not put back: {error}", named(&missing));
                    }
                    Look::Missing
                }
            },
        }
    }

    /// Puts back whatever is missing, however often that was done. What cannot be is said.
    pub(super) async fn mend(&mut self) {
        for kind in ResourceKind::REMOVABLE {
            let looked = self.missing(kind).await.map(|missing| {
                let is_touched = missing.is_empty() && self.repairing.watch.is_touched(kind);
                if is_touched { self.firewall_part(kind) } else { missing }
            });
            match &looked {
                Ok(_) => drop(self.repairs.seen(kind)),
                Err(error) => drop(self.repairs.unseen(kind, format!("{error:#}"))),
            }
            let mended = match looked {
                Ok(missing) if missing.is_empty() => {
                    self.repairs.whole(kind);
                    continue;
                }
                Ok(missing) => self.put_back(&missing).await.map(|()| missing),
                Err(error) => Err(error),
            };
            // A look that began before would find it missing, and tell that after the reload.
            self.repairing.looks.forget();
            match mended {
                Ok(missing) => {
                    self.repairs.done(kind, Instant::now());
                    self.repairing.watch.renewed(kind);
                    tracing::warn!(what = kind.as_str(), "put back what was removed: {}", named(&missing));
                }
                Err(error) => tracing::warn!("put back what was removed: {error:#}"),
            }
        }
    }

    /// The pause before things of `kind` are looked at again if nobody tells of them: `None` where somebody does.
    fn untold(&self, kind: ResourceKind) -> Option<Duration> {
        match (kind, self.mode()) {
            (ResourceKind::Claim | ResourceKind::Control, _) => Some(FILES),
            (ResourceKind::Attachment, Some(Mode::SkLookup)) => Some(GLANCE),
            (ResourceKind::Xdp, Some(Mode::SkLookup)) if !self.xdp.is_empty() => Some(GLANCE),
            (ResourceKind::Registration, Some(Mode::SkLookup)) => Some(SLOWER / self.turns()),
            (ResourceKind::Rules, Some(Mode::Tproxy)) => {
                self.tproxy.as_ref().is_some_and(Tproxy::is_untold).then_some(SLOWER)
            }
            (
                ResourceKind::Attachment
                | ResourceKind::Registration
                | ResourceKind::Rules
                | ResourceKind::Xdp,
                _,
            ) => Some(NEVER),
            _ => None,
        }
    }

    /// Goes from what there is to what there was. What cannot be put back does not take with it what could.
    async fn put_back(&mut self, missing: &[Resource]) -> anyhow::Result<()> {
        let aim = self.aim();
        self.go(Ledger::course_back(missing), &aim).await.outcome().map(drop)
    }
}

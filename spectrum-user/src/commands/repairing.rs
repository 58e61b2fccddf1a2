//! Looking at the kernel for what the instance has raised, and putting back what somebody else took away. When to look, and
//! whether putting back is worth it, is decided elsewhere.

use std::time::{Duration, Instant};

use super::running::Running;
use crate::instance::{Judgement, Ledger, Look, Mode, News, Resource, ResourceKind, Watch, named};
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
    /// Looks at things of `kinds`, and puts back what is missing.
    pub(super) async fn look(&mut self, kinds: Vec<ResourceKind>, watch: &mut Watch) {
        for kind in kinds {
            if self.stop_asked.is_asked() {
                return;
            }
            let begun = Instant::now();
            let look = self.look_at(kind, watch).await;
            watch.looked(kind, look, begun.elapsed(), self.untold(kind));
        }
    }

    async fn look_at(&mut self, kind: ResourceKind, watch: &mut Watch) -> Look {
        let author = watch.author(kind);
        let missing = match self.surely_missing(kind).await {
            Ok(missing) if missing.is_empty() && watch.is_touched(kind) => self.touchable(kind),
            Ok(missing) => missing,
            Err(error) => {
                tracing::debug!("look for {}: {error:#}", kind.as_str());
                self.repairs.unseen(kind, format!("{error:#}"));
                return Look::Missing;
            }
        };
        if missing.is_empty() {
            watch.renewed(kind);
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
                    watch.renewed(kind);
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
            let mended = match self.surely_missing(kind).await {
                Ok(missing) if missing.is_empty() => {
                    self.repairs.whole(kind);
                    continue;
                }
                Ok(missing) => self.put_back(&missing).await.map(|()| missing),
                Err(error) => Err(error),
            };
            match mended {
                Ok(missing) => {
                    self.repairs.done(kind, Instant::now());
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
            (ResourceKind::Registration, Some(Mode::SkLookup)) => Some(SLOWER),
            (ResourceKind::Rules, Some(Mode::Tproxy)) => {
                self.tproxy.as_ref().is_some_and(Tproxy::is_untold).then_some(SLOWER)
            }
            (ResourceKind::Attachment | ResourceKind::Registration | ResourceKind::Rules, _) => Some(NEVER),
            _ => None,
        }
    }

    /// The things of `kind` that others may have changed without a trace: the elements of maps are not looked at.
    fn touchable(&self, kind: ResourceKind) -> Vec<Resource> {
        match kind {
            ResourceKind::Rules if self.tproxy.is_some() => vec![Resource::Rules(self.revision)],
            ResourceKind::Mark if self.replies.part().is_some() => vec![Resource::Mark],
            ResourceKind::Exemption if self.exempting.part().is_some() => vec![Resource::Exemption],
            _ => Vec::new(),
        }
    }

    /// The things of `kind` that are missing.
    async fn surely_missing(&mut self, kind: ResourceKind) -> anyhow::Result<Vec<Resource>> {
        let missing = self.missing(kind).await?;
        let is_listed = matches!(kind, ResourceKind::Exemption | ResourceKind::Mark | ResourceKind::Rules);
        // The programs of the firewall fail now and then on a busy machine, in words that also mean that a table is not there.
        if is_listed && !missing.is_empty() { self.missing(kind).await } else { Ok(missing) }
    }

    /// Goes from what there is to what there was. What cannot be put back does not take with it what could.
    async fn put_back(&mut self, missing: &[Resource]) -> anyhow::Result<()> {
        let aim = self.aim();
        self.go(Ledger::way_back(missing), &aim).await.outcome().map(drop)
    }
}

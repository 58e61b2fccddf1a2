//! Announcing while it is served: judges again and again whether each prefix can be, and goes to what that comes to. What the
//! operator says is heard and kept. Speaks with no BGP daemon.

mod decision;
mod origins_up;
mod withdrawals;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use self::decision::{AnnounceDamper, AnnounceFacts, WithdrawReason, hindered};
use self::origins_up::OriginsUp;
use self::withdrawals::{Withdrawal, Withdrawals};
use super::exit_code::USAGE;
use super::running::Running;
use super::state_dir::state_dir;
use super::{Farewell, Ledger};
use crate::config::Config;
use crate::control::{AnnounceAnswer, AnnounceQuery, Asked, Request};
use crate::model::{Announcing, Prefix, Resource, ResourceKind};
use crate::plan::Plan;
use crate::view::{AnnouncementView, InstanceState};
use spectrum_steering::host::Announcement;

/// The pause between judgements, where nothing is told.
const PAUSE: Duration = Duration::from_millis(100);

/// The first pause after a prefix could not be announced. It doubles so often.
const AGAIN: Duration = Duration::from_secs(1);
const DOUBLINGS: u32 = 4;

/// So many prefixes are named where another was typed.
const NAMED: usize = 8;

/// What is announced, what is not, and why.
#[derive(Debug, Default)]
pub(super) struct Announcer {
    /// Those who say what is withdrawn.
    asked: Option<mpsc::Receiver<Asked>>,
    origins: Option<OriginsUp>,
    withdrawals: Withdrawals,
    /// Why the operator's words could not be read or written.
    damage: Option<String>,
    /// Those that a reload is about to remove.
    leaving: BTreeSet<Prefix>,
    standings: BTreeMap<Prefix, Standing>,
}

/// How it stands with a prefix.
#[derive(Debug, Default)]
struct Standing {
    damper: AnnounceDamper,
    reasons: Vec<WithdrawReason>,
    /// Why it could not be announced, how often in a row, and when that is tried again.
    failure: Option<(String, u32, Instant)>,
}

/// A cause to judge anew.
pub(super) enum AnnounceEvent {
    /// Something may be otherwise.
    Judge,
    /// Somebody says what is to be withdrawn or announced.
    Asked(Asked),
}

impl Announcer {
    /// Waits for the next cause. Dropped while it waits, it forgets nothing.
    pub(super) async fn next(&mut self) -> AnnounceEvent {
        let Self { asked, origins, standings, .. } = self;
        let is_idle = standings.is_empty();
        tokio::select! {
            asked = heard(asked.as_mut()) => AnnounceEvent::Asked(asked),
            () = changed(origins.as_mut()) => AnnounceEvent::Judge,
            () = sleep(PAUSE), if !is_idle => AnnounceEvent::Judge,
        }
    }

    /// The prefixes that are to be announced now.
    fn judge(&mut self, rules: &Announcing, state: InstanceState, hindrances: &[String]) -> BTreeSet<Prefix> {
        let now = Instant::now();
        self.standings.retain(|prefix, _| rules.prefixes.contains_key(prefix));
        let mut wished = BTreeSet::new();
        for (prefix, conditions) in &rules.prefixes {
            let standing = self.standings.entry(*prefix).or_default();
            let up = |condition: &_| self.origins.as_ref().and_then(|origins| origins.of(condition));
            let conditions: Vec<_> = conditions.iter().map(|one| (one.clone(), up(&one.service))).collect();
            let withdrawn = self.withdrawals.of(prefix);
            let is_leaving = self.leaving.contains(prefix);
            let facts = AnnounceFacts { state, hindrances, is_leaving, withdrawn, conditions: &conditions };
            standing.reasons = hindered(&facts);
            if standing.damper.judge(&standing.reasons, rules, now) {
                wished.insert(*prefix);
            } else {
                standing.failure = None;
            }
        }
        wished
    }

    /// True if it may be tried to announce `prefix`.
    fn may_try(&self, prefix: &Prefix) -> bool {
        let failure = self.standings.get(prefix).and_then(|standing| standing.failure.as_ref());
        failure.is_none_or(|(_, _, again)| *again <= Instant::now())
    }

    /// Trying to announce `prefix` ended so. True if that is news.
    fn tried(&mut self, prefix: &Prefix, error: Option<String>) -> bool {
        let Some(standing) = self.standings.get_mut(prefix) else { return true };
        let before = standing.failure.take();
        let Some(error) = error else { return true };
        let times = before.as_ref().map_or(0, |(_, times, _)| *times + 1);
        let is_new = before.is_none_or(|(told, ..)| told != error);
        let pause = AGAIN * (1 << times.min(DOUBLINGS));
        standing.failure = Some((error, times, Instant::now() + pause));
        is_new
    }

    /// The view of `prefixes`, of which those in `raised` are announced.
    fn views(
        &self,
        prefixes: impl Iterator<Item = Prefix>,
        raised: &BTreeSet<Prefix>,
    ) -> Vec<AnnouncementView> {
        let view = |prefix: Prefix| {
            let standing = self.standings.get(&prefix);
            let reasons = standing.map_or(&[][..], |standing| &standing.reasons);
            let mut told: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            let failure = standing.and_then(|standing| standing.failure.as_ref());
            told.extend(failure.map(|(error, ..)| error.clone()));
            let is_announced = raised.contains(&prefix);
            if told.is_empty() && !is_announced && standing.is_some() {
                told.push("it waits until it has been served for long enough (rise and hold)".to_owned());
            }
            AnnouncementView {
                prefix: prefix.to_string(),
                announced: is_announced,
                by_hand: reasons.iter().any(|reason| matches!(reason, WithdrawReason::ByHand(_))),
                reasons: told,
            }
        };
        prefixes.map(view).collect()
    }
}

impl Running {
    /// Has what announcing needs, so that a start or a reload without it fails.
    pub(super) async fn require_announcing(&mut self, rules: &Announcing) -> anyhow::Result<()> {
        if self.announcement.is_none() && !rules.prefixes.is_empty() {
            self.announcement = Some(Announcement::open().await.context("announce")?);
        }
        Ok(())
    }

    /// Begins to judge. Whoever says what is withdrawn is heard by `asked`.
    pub(super) async fn begin_announcing(&mut self, asked: Option<mpsc::Receiver<Asked>>) {
        let (withdrawals, damage) = match state_dir() {
            Ok(dir) => Withdrawals::load(&dir),
            Err(error) => (Withdrawals::default(), Some(format!("{error:#}"))),
        };
        if let Some(damage) = &damage {
            tracing::error!("{damage}");
        }
        // What the program before announced stays so, until something speaks against it.
        let raised = self.announced().into_iter();
        let announcer = &mut self.repairing.announcer;
        announcer.standings = raised
            .map(|prefix| (prefix, Standing { damper: AnnounceDamper::announced(), ..Standing::default() }))
            .collect();
        (announcer.asked, announcer.withdrawals, announcer.damage) = (asked, withdrawals, damage);
        self.judge_announcements().await;
    }

    /// Judges anew, or does what somebody says.
    pub(super) async fn announce(&mut self, event: AnnounceEvent) {
        match event {
            AnnounceEvent::Judge => self.judge_announcements().await,
            AnnounceEvent::Asked(asked) => match self.settle_announcement(&asked).await {
                Ok(answer) => asked.done(&answer),
                Err(message) => asked.refused(&message, USAGE, &[]),
            },
        }
    }

    /// Goes to what is to be announced now.
    pub(super) async fn judge_announcements(&mut self) {
        let state = self.published.now().state;
        let config = std::sync::Arc::clone(&self.config);
        let hindrances = self.repairs.faults().hindrances();
        let asks = config.announcing.prefixes.values().any(|conditions| !conditions.is_empty());
        if asks != self.repairing.announcer.origins.is_some() {
            let begun = asks.then(|| OriginsUp::begin(self.published.clone(), &self.hearing.0));
            self.repairing.announcer.origins = begun;
        }
        let wished = self.repairing.announcer.judge(&config.announcing, state, &hindrances);
        let raised = self.announced();
        let gone: Vec<Prefix> = raised.difference(&wished).copied().collect();
        if !gone.is_empty() {
            self.go_to_announcing(&raised.intersection(&wished).copied().collect()).await;
            for prefix in &gone {
                self.published.now().announced(false);
                let why = self.why_withdrawn(prefix);
                tracing::warn!(%prefix, "withdrawn: {why}");
            }
        }
        let new: Vec<Prefix> = wished.difference(&raised).copied().collect();
        for prefix in new {
            if self.repairing.announcer.may_try(&prefix) {
                self.begin_to_announce(prefix).await;
            }
        }
        if config.announcing.prefixes.is_empty() && self.announced().is_empty() {
            self.announcement = None;
        }
        self.show_announcements();
    }

    async fn begin_to_announce(&mut self, prefix: Prefix) {
        let mut more = self.announced();
        more.insert(prefix);
        let failure = self.go_to_announcing(&more).await;
        let failure = failure.map(|error| format!("{error:#}"));
        let is_new = self.repairing.announcer.tried(&prefix, failure.clone());
        match failure {
            None => {
                self.published.now().announced(true);
                tracing::info!(%prefix, "announced");
            }
            Some(error) if is_new => tracing::error!(%prefix, "not announced: {error}"),
            Some(_) => {}
        }
    }

    /// Goes to what there is, with announcements of `prefixes` and no other.
    async fn go_to_announcing(&mut self, prefixes: &BTreeSet<Prefix>) -> Option<anyhow::Error> {
        let others = self.ledger.have().filter(|(_, due)| due.is_none()).map(|(resource, _)| resource);
        let others = others.filter(|resource| resource.kind() != ResourceKind::Announcement).cloned();
        let want = others.chain(prefixes.iter().copied().map(Resource::Announcement)).collect();
        let course = self.ledger.course_to(&want, Farewell::Drain(Duration::ZERO), Instant::now());
        let aim = self.aim();
        match Box::pin(self.go(course, &aim)).await.outcome() {
            Ok(left) => {
                for error in left {
                    tracing::warn!("{error:#}");
                }
                None
            }
            Err(error) => Some(error),
        }
    }

    /// The prefixes that are announced.
    pub(super) fn announced(&self) -> BTreeSet<Prefix> {
        announced(&self.ledger)
    }

    /// Withdraws everything before the end. True if anything was announced.
    pub(super) async fn withdraw_all(&mut self) -> bool {
        let any = !self.announced().is_empty();
        self.judge_announcements().await;
        any
    }

    /// Withdraws what `config` with `plan` announces no more, if that takes something from clients: true if they are to be waited for.
    pub(super) async fn withdraw_leaving(&mut self, config: &Config, plan: &Plan) -> bool {
        let leaving: BTreeSet<Prefix> = self
            .announced()
            .into_iter()
            .filter(|prefix| !config.announcing.prefixes.contains_key(prefix))
            .collect();
        if !leaving.iter().any(|prefix| takes_from(prefix, &self.plan, plan)) {
            return false;
        }
        self.repairing.announcer.leaving = leaving;
        self.judge_announcements().await;
        true
    }

    /// What a reload was about to remove is gone, or stays after all.
    pub(super) async fn forget_leaving(&mut self) {
        if !std::mem::take(&mut self.repairing.announcer.leaving).is_empty() {
            self.judge_announcements().await;
        }
    }

    fn why_withdrawn(&self, prefix: &Prefix) -> String {
        let standing = self.repairing.announcer.standings.get(prefix);
        let reasons = standing.map_or(&[][..], |standing| &standing.reasons);
        let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        if reasons.is_empty() { "the configuration has it no more".to_owned() } else { reasons.join("; ") }
    }

    /// Shows to those who ask what is announced.
    fn show_announcements(&self) {
        let announcer = &self.repairing.announcer;
        let raised = self.announced();
        let views = announcer.views(self.config.announcing.prefixes.keys().copied(), &raised);
        let device = self.announcement.as_ref().and_then(Announcement::device).map(str::to_owned);
        let now = self.published.now();
        if *now.announcements != *views
            || now.announcing_device != device
            || now.announcing_damage != announcer.damage
        {
            self.published.change(|now| {
                now.announcements = views.into();
                now.announcing_device = device;
                now.announcing_damage.clone_from(&announcer.damage);
            });
        }
    }

    /// Does what is asked: the answer, or why not.
    async fn settle_announcement(&mut self, asked: &Asked) -> Result<AnnounceAnswer, String> {
        let (AnnounceQuery { prefix, why }, is_withdrawn) = match &asked.request {
            Request::Withdraw(query) => (query, true),
            Request::Announce(query) => (query, false),
            _ => return Err("announce: it is asked for something else".to_owned()),
        };
        let op = if is_withdrawn { "withdraw" } else { "announce" };
        let all: Vec<Prefix> = self.config.announcing.prefixes.keys().copied().collect();
        let meant = meant(prefix.as_deref(), &all).map_err(|error| format!("{op}: {error}"))?;
        let (pid, uid) = (asked.peer.and_then(|peer| peer.pid), asked.peer.map(|peer| peer.uid));
        let announcer = &mut self.repairing.announcer;
        let stored = if is_withdrawn {
            announcer.withdrawals.withdraw(&meant, &Withdrawal::now(why.clone(), uid))
        } else {
            announcer.withdrawals.announce(&meant)
        };
        announcer.damage = stored.err().map(|error| {
            format!("write down what is withdrawn by hand: {error}; it holds until this process ends")
        });
        let unsaved = announcer.damage.clone();
        if let Some(unsaved) = &unsaved {
            tracing::error!("{unsaved}");
        }
        let typed = prefix.as_deref().unwrap_or("all");
        tracing::info!(prefix = typed, why, pid, uid, "told to {op}");
        self.judge_announcements().await;
        let raised = self.announced();
        let announcements = self.repairing.announcer.views(meant.into_iter(), &raised);
        Ok(AnnounceAnswer { announcements, unsaved })
    }

    /// Keeps withdrawn what a reload adds while all that was announced before is withdrawn by hand.
    pub(super) fn keep_withdrawn(&mut self, before: &Announcing, after: &Announcing) {
        let withdrawals = &mut self.repairing.announcer.withdrawals;
        let words: Option<Vec<_>> = before.prefixes.keys().map(|prefix| withdrawals.of(prefix)).collect();
        let Some(word) = words.and_then(|words| words.first().copied().cloned()) else { return };
        let new = after.prefixes.keys().filter(|prefix| !before.prefixes.contains_key(prefix));
        let new: Vec<Prefix> = new.copied().collect();
        if !new.is_empty()
            && let Err(error) = withdrawals.withdraw(&new, &word)
        {
            tracing::error!("write down what is withdrawn by hand: {error}");
        }
    }

    /// Raises the routes of `prefixes`.
    pub(super) async fn add_announcements(&mut self, prefixes: &[Prefix]) -> anyhow::Result<()> {
        let announcement = match &mut self.announcement {
            Some(announcement) => announcement,
            none => none.insert(Announcement::open().await?),
        };
        Ok(announcement.add(prefixes).await?)
    }

    /// Removes the routes of `prefixes`, and the device at the end.
    pub(super) async fn remove_announcements(&mut self, prefixes: &[Prefix]) -> Vec<anyhow::Error> {
        let Some(announcement) = &mut self.announcement else { return Vec::new() };
        let errors = announcement.remove(prefixes).await;
        if self.stopping.is_some() {
            self.announcement = None;
        }
        errors.into_iter().map(Into::into).collect()
    }
}

fn announced(ledger: &Ledger) -> BTreeSet<Prefix> {
    let raised = ledger.have().filter_map(|(resource, _)| match resource {
        Resource::Announcement(prefix) => Some(*prefix),
        _ => None,
    });
    raised.collect()
}

/// True if something that goes to `prefix` is steered by `before` and not by `after`.
fn takes_from(prefix: &Prefix, before: &Plan, after: &Plan) -> bool {
    let old = before.bindings.iter().map(|planned| &planned.binding);
    let mut old = old.filter(|old| old.prefix.overlaps(prefix));
    old.any(|old| {
        let mut new = after.bindings.iter().map(|planned| &planned.binding);
        !new.any(|new| {
            new.protocol == old.protocol
                && encloses(&new.prefix, &old.prefix)
                && new.ports.encloses(&old.ports)
        })
    })
}

fn encloses(outer: &Prefix, inner: &Prefix) -> bool {
    outer.length() <= inner.length() && outer.contains(inner.address())
}

/// The prefixes of `all` that `typed` means.
fn meant(typed: Option<&str>, all: &[Prefix]) -> Result<Vec<Prefix>, String> {
    if all.is_empty() {
        return Err("nothing is announced by this instance; add announce = true to a service".to_owned());
    }
    let Some(typed) = typed else { return Ok(all.to_vec()) };
    let prefix: Prefix = typed.parse().map_err(|error| format!("understand {typed:?}: {error}"))?;
    if all.contains(&prefix) {
        return Ok(vec![prefix]);
    }
    let named: Vec<String> = all.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match all.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Err(format!("{prefix} is not what is announced; there is {}{more}", named.join(", ")))
}

async fn heard(asked: Option<&mut mpsc::Receiver<Asked>>) -> Asked {
    if let Some(asked) = asked
        && let Some(asked) = asked.recv().await
    {
        return asked;
    }
    std::future::pending().await
}

async fn changed(origins: Option<&mut OriginsUp>) {
    match origins {
        Some(origins) => origins.changed().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_named_as_it_is_announced() {
        let all: Vec<Prefix> = ["192.0.2.0/24", "2001:db8::/64"].map(|text| text.parse().unwrap()).into();
        assert_eq!(meant(None, &all).unwrap(), all);
        assert_eq!(meant(Some("2001:db8::/64"), &all).unwrap(), all[1..]);
        assert!(
            meant(Some("192.0.2.0/25"), &all).unwrap_err().ends_with("there is 192.0.2.0/24, 2001:db8::/64")
        );
        assert!(meant(Some("x"), &all).unwrap_err().starts_with("understand \"x\""));
        assert!(meant(None, &[]).unwrap_err().contains("add announce = true"));
    }
}

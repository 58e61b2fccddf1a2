//! When to look whether what an instance has raised is still there: as soon as the kernel tells that it may not be, and from
//! time to time where the kernel does not tell. Looks at nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::model::ResourceKind;
use crate::plan::firewall::Chain;
use spectrum_steering::host::{RouteNotice, RouteNotices};
use spectrum_steering::netlink::Author;
use spectrum_steering::tproxy::{FirewallNotice, FirewallNotices, Touched};

/// Things that come within so long are looked at together.
const MOMENT: Duration = Duration::from_millis(10);

/// The time from the beginning to the first look.
const FIRST: Duration = Duration::from_millis(500);

/// The pause between looks where the kernel tells: they are for what it may have failed to tell.
const SELDOM: Duration = Duration::from_secs(30);

/// The same where it would tell, but cannot be heard.
const UNHEARD: Duration = Duration::from_secs(1);

/// The first pause after something could not be put back. It doubles so often.
const AGAIN: Duration = Duration::from_millis(250);
const DOUBLINGS: u32 = 5;

/// Looking takes no more than one part of so many of a core.
const SHARE: u32 = 4;

/// Hears the kernel, and keeps the times of looks. The default hears nothing, and never looks.
#[derive(Debug, Default)]
pub struct Watch {
    routes: Option<RouteNotices>,
    firewall: Option<FirewallNotices>,
    due: BTreeMap<ResourceKind, Instant>,
    /// The process that last touched things of a kind, since they were looked at.
    authors: BTreeMap<ResourceKind, Author>,
    /// Tables that others changed, which a look may not show.
    touched: BTreeSet<ResourceKind>,
    /// The number of looks in a row that found things of a kind missing.
    missed: BTreeMap<ResourceKind, u32>,
    /// Told when rules of others may have changed.
    elsewhere: Arc<Notify>,
}

/// The outcome of a look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Look {
    /// Something is missing still.
    Missing,
    /// Nothing is, or not any more.
    Whole,
}

impl Watch {
    /// Begins to hear of what `chain`'s instance has, in the network namespace of the calling thread and on the running
    /// runtime. Where the kernel cannot be heard, there are more looks.
    #[must_use]
    pub fn begin(chain: &Chain) -> Self {
        let first = Instant::now() + FIRST;
        Self {
            routes: RouteNotices::hear().inspect_err(|error| tracing::debug!("{error:#}")).ok(),
            // The kernel may do without nf_tables.
            firewall: FirewallNotices::hear(chain)
                .inspect_err(|error| tracing::debug!(%error, "hear of changes to nf_tables"))
                .ok(),
            due: ResourceKind::REMOVABLE.into_iter().map(|kind| (kind, first)).collect(),
            authors: BTreeMap::new(),
            touched: BTreeSet::new(),
            missed: BTreeMap::new(),
            elsewhere: Arc::default(),
        }
    }

    /// Is told when the kernel tells that rules of others may have changed.
    #[must_use]
    pub fn elsewhere(&self) -> Arc<Notify> {
        Arc::clone(&self.elsewhere)
    }

    /// Waits until something is to be looked at of the kinds that `may` be: these kinds, in the order of raising them. Dropped
    /// while it waits, it forgets nothing.
    pub async fn next(&mut self, may: impl Fn(ResourceKind) -> bool) -> Vec<ResourceKind> {
        loop {
            let now = Instant::now();
            let waited_for = || self.due.iter().filter(|(kind, _)| may(**kind));
            let due: Vec<ResourceKind> =
                waited_for().filter(|(_, due)| **due <= now).map(|(kind, _)| *kind).collect();
            if !due.is_empty() {
                return due;
            }
            let next = waited_for().map(|(_, due)| *due).min().unwrap_or(now + SELDOM);
            tokio::select! {
                heard = heard(&mut self.routes, async |notices| notices.next().await.map_err(|error| format!("{error:#}"))) => {
                    self.route_notice(heard);
                }
                heard = heard(&mut self.firewall, async |notices| notices.next().await.map_err(|error| error.to_string())) => {
                    self.firewall_notice(heard);
                }
                () = sleep_until(next) => {}
            }
        }
    }

    /// The process that touched things of `kind` since they were last looked at, where the kernel told.
    pub fn author(&mut self, kind: ResourceKind) -> Option<Author> {
        self.authors.remove(&kind)
    }

    /// True if others changed a table of `kind`, so that it is not as it was even where it looks so.
    #[must_use]
    pub fn is_touched(&self, kind: ResourceKind) -> bool {
        self.touched.contains(&kind)
    }

    /// The things of `kind` have been made anew.
    pub fn renewed(&mut self, kind: ResourceKind) {
        self.touched.remove(&kind);
        self.authors.remove(&kind);
    }

    /// A reload has ended: if it is `done`, it made everything anew that was touched before.
    pub fn reloaded(&mut self, done: bool) {
        if done {
            self.touched.clear();
        }
    }

    /// A look at things of `kind` begins. Until it has ended there is no other, unless the kernel tells of them.
    pub fn looking(&mut self, kind: ResourceKind) {
        self.due.remove(&kind);
    }

    /// The look at things of `kind` has ended, which took so long. Where nobody tells of them the next look is after `untold`.
    pub fn looked(&mut self, kind: ResourceKind, look: Look, took: Duration, untold: Option<Duration>) {
        let missed = self.missed.entry(kind).or_default();
        *missed = if look == Look::Missing { *missed + 1 } else { 0 };
        let pause = match *missed {
            0 => untold.unwrap_or_else(|| if self.is_told(kind) { SELDOM } else { UNHEARD }),
            missed => AGAIN * (1 << (missed - 1).min(DOUBLINGS)),
        };
        let next = Instant::now() + pause.max(took * SHARE);
        // The kernel may have told of them since the look began.
        let due = self.due.entry(kind).or_insert(next);
        *due = next.min(*due);
    }

    fn is_told(&self, kind: ResourceKind) -> bool {
        match kind {
            ResourceKind::Announcement | ResourceKind::Route | ResourceKind::Reply => self.routes.is_some(),
            ResourceKind::Mark | ResourceKind::Exemption | ResourceKind::Rules => self.firewall.is_some(),
            _ => false,
        }
    }

    fn route_notice(&mut self, heard: Result<RouteNotice, String>) {
        match heard {
            Ok(RouteNotice { routes, replies, announcements, author }) => {
                let kinds = [
                    (ResourceKind::Route, routes),
                    (ResourceKind::Reply, replies),
                    (ResourceKind::Announcement, announcements),
                ];
                for (kind, _) in kinds.into_iter().filter(|(_, is_told)| *is_told) {
                    self.suspect(kind, author.as_ref());
                }
            }
            Err(error) => {
                tracing::warn!("{error}; it is looked at every second instead");
                self.routes = None;
                self.suspect(ResourceKind::Route, None);
                self.suspect(ResourceKind::Reply, None);
                self.suspect(ResourceKind::Announcement, None);
            }
        }
    }

    fn firewall_notice(&mut self, heard: Result<FirewallNotice, String>) {
        let all = [ResourceKind::Mark, ResourceKind::Exemption, ResourceKind::Rules];
        match heard {
            Ok(FirewallNotice::Lost) => {
                self.elsewhere.notify_one();
                for kind in all {
                    self.suspect(kind, None);
                }
            }
            Ok(FirewallNotice::Touched(touched, author)) => {
                for touched in touched {
                    let kind = match touched {
                        Touched::Elsewhere => {
                            self.elsewhere.notify_one();
                            continue;
                        }
                        Touched::Exemption => ResourceKind::Exemption,
                        Touched::Mark => ResourceKind::Mark,
                        Touched::Mangle | Touched::Steering => ResourceKind::Rules,
                    };
                    // Others' rules are in the tables of iptables as well.
                    if touched != Touched::Mangle {
                        self.touched.insert(kind);
                    }
                    self.suspect(kind, author.as_ref());
                }
            }
            Err(error) => {
                tracing::warn!("hear of changes to nf_tables: {error}; it is looked at every second instead");
                self.firewall = None;
                for kind in all {
                    self.suspect(kind, None);
                }
            }
        }
    }

    /// Things of `kind` may be missing, by the doing of `author`.
    pub fn suspect(&mut self, kind: ResourceKind, author: Option<&Author>) {
        let soon = Instant::now() + MOMENT;
        let due = self.due.entry(kind).or_insert(soon);
        *due = soon.min(*due);
        if let Some(author) = author {
            self.authors.insert(kind, author.clone());
        }
    }
}

/// The news that `hear` hears, where there is somebody to be heard.
async fn heard<N, T>(
    notices: &mut Option<N>,
    hear: impl AsyncFnOnce(&mut N) -> Result<T, String>,
) -> Result<T, String> {
    match notices {
        Some(notices) => hear(notices).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deaf() -> Watch {
        let due = ResourceKind::REMOVABLE.into_iter().map(|kind| (kind, Instant::now() + SELDOM)).collect();
        Watch { due, ..Watch::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_is_looked_at_at_once_and_once() {
        let mut watch = deaf();
        let begun = Instant::now();
        let author = Some(Author::named(4711, "nft"));
        let touched = BTreeSet::from([Touched::Steering]);
        for _ in 0..100 {
            watch.firewall_notice(Ok(FirewallNotice::Touched(touched.clone(), author.clone())));
        }
        assert_eq!(watch.next(|_| true).await, [ResourceKind::Rules]);
        assert!(begun.elapsed() <= 2 * MOMENT);
        assert!(watch.is_touched(ResourceKind::Rules) && !watch.is_touched(ResourceKind::Mark));
        assert_eq!(watch.author(ResourceKind::Rules), author);
        watch.renewed(ResourceKind::Rules);
        watch.looking(ResourceKind::Rules);
        watch.looked(ResourceKind::Rules, Look::Whole, Duration::ZERO, Some(SELDOM * 2));
        assert!(watch.next(|_| true).await.iter().all(|kind| *kind != ResourceKind::Rules));
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_not_be_looked_at_now_keeps_no_other_waiting_and_is_not_forgotten() {
        let mut watch = deaf();
        watch.suspect(ResourceKind::Rules, None);
        watch.suspect(ResourceKind::Route, None);
        let aside = |kind: ResourceKind| !kind.is_in_firewall();
        assert_eq!(watch.next(aside).await, [ResourceKind::Route]);
        watch.looking(ResourceKind::Route);
        assert_eq!(watch.next(|_| true).await, [ResourceKind::Rules]);
        // It does not turn in circles for what is due.
        let waiting = tokio::time::timeout(SELDOM / 2, watch.next(aside));
        waiting.await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn rules_of_others_are_no_cause_of_a_repair_and_are_told_of_to_who_wants_to_know() {
        let mut watch = deaf();
        let elsewhere = watch.elsewhere();
        let touched = BTreeSet::from([Touched::Elsewhere]);
        watch.firewall_notice(Ok(FirewallNotice::Touched(touched, None)));
        assert!(watch.due.values().all(|due| *due > Instant::now() + SELDOM / 2));
        elsewhere.notified().await;
        watch.firewall_notice(Ok(FirewallNotice::Lost));
        elsewhere.notified().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_missing_is_looked_at_less_and_less_often() {
        let mut watch = deaf();
        let kind = ResourceKind::Route;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            watch.looking(kind);
            watch.looked(kind, Look::Missing, Duration::ZERO, None);
            pauses.push(watch.due[&kind].duration_since(Instant::now()).as_millis());
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
        watch.looking(kind);
        watch.looked(kind, Look::Whole, Duration::ZERO, None);
        assert_eq!(watch.due[&kind].duration_since(Instant::now()), UNHEARD);
        // A look that takes long is not taken often.
        watch.looking(kind);
        watch.looked(kind, Look::Whole, Duration::from_secs(1), None);
        assert_eq!(watch.due[&kind].duration_since(Instant::now()), Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_while_a_look_is_taken_is_looked_at_again() {
        let mut watch = deaf();
        let kind = ResourceKind::Rules;
        watch.looking(kind);
        let touched = BTreeSet::from([Touched::Steering]);
        watch.firewall_notice(Ok(FirewallNotice::Touched(touched, None)));
        assert_eq!(watch.next(|_| true).await, [kind], "told of while it is looked at");
        watch.looking(kind);
        watch.firewall_notice(Ok(FirewallNotice::Lost));
        watch.looked(kind, Look::Whole, Duration::from_secs(3), None);
        assert!(watch.next(|_| true).await.contains(&kind), "told of while it is looked at, which has ended");
    }
}

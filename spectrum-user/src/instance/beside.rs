//! What an instance waits for, while others may take away what it has: that comes back meanwhile. Above all the firewall's programs,
//! which are run by a thread of their own, since they may hang. Decides nothing about what they do.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;

use super::Watch;
use super::announcing::{AnnounceEvent, Announcer};
use super::firewall_looks::{FirewallFinds, FirewallLooks};
use super::running::{LOCK_PATIENCE, Running, registry};
use super::standby::{Standby, aside};
use crate::model::ResourceKind;
use crate::plan::firewall::Chain;
use crate::registry::StartupLock;
use spectrum_steering::tproxy::InterruptGuard;

/// Changes the firewall.
pub(super) static CHANGING: Standby = Standby::new("firewall");

/// When to look at what, and the looks that are under way.
#[derive(Debug, Default)]
pub(super) struct Repairing {
    pub(super) watch: Watch,
    pub(super) looks: FirewallLooks,
    pub(super) announcer: Announcer,
    /// True while the firewall is being changed. What is there of ours is in the hands of who changes it.
    changes_firewall: bool,
}

/// The cause of a repair, if one is needed.
pub(super) enum RepairEvent {
    /// Things of these kinds are to be looked at.
    Look(Vec<ResourceKind>),
    /// The firewall has been looked at.
    Seen(FirewallFinds),
    /// What is announced is to be judged anew.
    Announce(AnnounceEvent),
}

impl Repairing {
    /// Begins to hear of what `chain`'s instance has, as [`Watch::begin`].
    pub(super) fn begin(&mut self, chain: &Chain) {
        self.watch = Watch::begin(chain);
    }

    /// The next cause. Dropped while it waits, it forgets nothing.
    pub(super) async fn next(&mut self) -> RepairEvent {
        let Self { watch, looks, announcer, changes_firewall } = self;
        if *changes_firewall {
            return tokio::select! {
                kinds = watch.next(|kind| !kind.is_in_firewall()) => RepairEvent::Look(kinds),
                event = announcer.next() => RepairEvent::Announce(event),
            };
        }
        tokio::select! {
            kinds = watch.next(|_| true) => RepairEvent::Look(kinds),
            finds = looks.next() => RepairEvent::Seen(finds),
            event = announcer.next() => RepairEvent::Announce(event),
        }
    }
}

impl Running {
    /// The outcome of `doing`. What others take away meanwhile of what is served is put back.
    pub(super) async fn meanwhile<T>(&mut self, doing: impl Future<Output = T>) -> T {
        let mut doing = pin!(doing);
        loop {
            if self.stopping.is_some() || self.stop_asked.is_asked() {
                return doing.await;
            }
            let event = tokio::select! {
                biased;
                done = &mut doing => return done,
                event = self.repairing.next() => event,
            };
            Box::pin(self.repair(event)).await;
        }
    }

    /// Has `doing` done to a part of us in the firewall, which is away until then.
    pub(super) async fn with_firewall<P: Default + Send + 'static, T: Send + 'static>(
        &mut self,
        part: impl Fn(&mut Self) -> &mut P,
        doing: impl FnOnce(&mut P) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let mut taken = std::mem::take(part(self));
        let done = self.beside(move || {
            let done = doing(&mut taken);
            (taken, done)
        });
        let (given_back, done) = done.await?;
        *part(self) = given_back;
        Ok(done)
    }

    /// Has `doing` done to the firewall by another thread, which gives up when this one would.
    pub(super) async fn beside<T: Send + 'static>(
        &mut self,
        doing: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let flag = InterruptGuard::flag();
        let waiting = Arc::new(Mutex::new(Some(doing)));
        let take = |waiting: &Mutex<Option<_>>| waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let sent = Arc::clone(&waiting);
        let outcome = CHANGING.send(move || {
            let _given_up = InterruptGuard::like(flag);
            take(&sent).map(|doing| doing())
        });
        let done = match outcome {
            Ok(outcome) => {
                self.repairing.changes_firewall = true;
                let done = self.meanwhile(outcome).await;
                self.repairing.changes_firewall = false;
                done.context("wait for the thread that changes the firewall, which died")?
            }
            // What is to be undone must be, however short of threads the system is.
            Err(error) => {
                tracing::debug!(%error, "start a thread that changes the firewall");
                take(&waiting).map(|doing| doing())
            }
        };
        done.context("change the firewall twice")
    }

    /// The lock of those who start and reload.
    pub(super) async fn startup_lock(&mut self) -> anyhow::Result<StartupLock> {
        let (registry, stop) = (registry()?, self.stop_asked.clone());
        let locked = aside(move || registry.lock_unless(LOCK_PATIENCE, || stop.is_asked()));
        Ok(self.meanwhile(locked).await??)
    }
}

//! Exempting what is bound from NAT, for as long as rules of others would take its connections: those of containers'
//! published ports most of all, which mean every address of the host. Looks before anything is steered, then as soon as the kernel
//! tells of other rules, since containers come and go, and from time to time. A failure is said and stops nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::running::Running;
use super::standby::Standby;
use crate::config::NatChoice;
use crate::plan::firewall::{Chain, ChainPart};
use crate::plan::{Effect, Exemption, Plan};
use spectrum_steering::tproxy::{self, FirewallLook, HandedTable, SideTable};

/// The shortest time between a look and the next where nobody tells of other rules: of those of iptables-legacy nobody does.
const PAUSE: Duration = Duration::from_secs(10);

/// Looking takes no more than one part of so many of a core.
const SHARE: u32 = 100;

/// The same where somebody tells of other rules.
const TOLD_SHARE: u32 = 4;

/// Rules that come within so long are looked at together.
const MOMENT: Duration = Duration::from_millis(50);

/// Looks, one after the other.
static LOOKING: Standby = Standby::new("nat");

/// The exemption that there is.
#[derive(Debug, Default)]
pub(super) struct Exempting {
    exemption: Exemption,
    table: Option<SideTable>,
    /// The failure that was last told.
    failure: Option<String>,
}

/// The finds of a look at the rules of NAT.
#[derive(Debug, Default)]
pub(super) struct Looked {
    plans: Vec<Arc<Plan>>,
    needed: Exemption,
    /// The rules that take connections, in words.
    takers: Vec<String>,
    /// True if some take them in spite of what was exempted.
    is_open: bool,
    /// Why not everything was seen.
    errors: Vec<String>,
}

impl Looked {
    /// The part of `plans` that rules of NAT would take. Blocks the calling thread.
    fn at(plans: Vec<Arc<Plan>>) -> Self {
        let mut looked = Self { plans, ..Self::default() };
        if !tproxy::may_translate() {
            return looked;
        }
        let (listings, errors) = tproxy::listings();
        looked.errors = errors.iter().map(ToString::to_string).collect();
        for plan in &looked.plans {
            for obstacle in plan.obstacles(&listings) {
                looked.is_open |= obstacle.effect.takes();
                if obstacle.effect != Effect::Drops {
                    looked.takers.push(format!("{}: {}", obstacle.chain, obstacle.rule));
                }
            }
            if !looked.takers.is_empty() {
                looked.needed.add(plan.exemption(&listings));
            }
        }
        looked
    }
}

/// Looks on a thread of its own, which nobody waits for at the end. It is in the namespace that this thread is in.
fn look(plans: Vec<Arc<Plan>>) -> oneshot::Receiver<Looked> {
    LOOKING.send(move || Looked::at(plans)).unwrap_or_else(|error| {
        tracing::debug!(%error, "look for NAT rules");
        oneshot::channel().1
    })
}

impl Exempting {
    /// Exempts what was found to be taken, and nothing else. Blocks the calling thread.
    fn renew(&mut self, looked: Looked, chain: &Chain) {
        let Looked { mut needed, takers, is_open, errors, .. } = looked;
        if !errors.is_empty() {
            tracing::debug!(errors = errors.join("; "), "look for NAT rules");
            // What is not seen may still be there.
            needed.add(self.exemption.clone());
        }
        if needed.is_empty() {
            if let Some(error) = self.lower() {
                tracing::warn!("{error:#}");
            }
            return;
        }
        if self.table.is_some() && needed == self.exemption && !is_open {
            return;
        }
        match SideTable::exempting(chain, &needed) {
            Ok(table) => {
                tracing::info!(
                    rules = takers.join("; "),
                    "exempted what is bound from NAT, which would take its connections: {}",
                    table.part()
                );
                (self.exemption, self.table, self.failure) = (needed, Some(table), None);
            }
            Err(error) => {
                if self.table.is_none() {
                    SideTable::retreat(chain);
                }
                let failure = format!("{:#}", anyhow::Error::from(error));
                if self.failure.as_ref() != Some(&failure) {
                    tracing::warn!(
                        rules = takers.join("; "),
                        "NAT takes connections to what is bound: exempt it: {failure}"
                    );
                    self.failure = Some(failure);
                }
            }
        }
    }

    /// Exempts nothing any more. Blocks the calling thread.
    pub(super) fn lower(&mut self) -> Option<anyhow::Error> {
        self.exemption = Exemption::default();
        self.table.take()?.undo().map(Into::into)
    }

    /// The table, for a program that takes the place of this one.
    pub(super) fn handed_on(&self) -> Option<HandedTable> {
        self.table.as_ref().map(SideTable::handed_on)
    }

    /// There is `table`; what it exempts the next look finds out.
    pub(super) fn adopt(&mut self, table: Option<SideTable>) {
        self.table = table;
    }

    /// A look whether it is as it was made, if it was.
    pub(super) fn look(&self) -> Option<FirewallLook> {
        self.table.as_ref().map(SideTable::look)
    }

    /// Makes it anew. Blocks the calling thread.
    pub(super) fn put_back(&mut self) -> anyhow::Result<()> {
        Ok(self.table.as_mut().map_or(Ok(()), SideTable::put_back)?)
    }

    /// Its part in the firewall.
    pub(super) fn part(&self) -> Option<ChainPart> {
        self.table.as_ref().map(SideTable::part)
    }
}

/// The looks that are taken while serving. They keep nobody waiting.
#[derive(Debug)]
pub(super) struct Looks {
    due: Instant,
    /// No look is taken before.
    earliest: Instant,
    under_way: Option<UnderWay>,
    /// Told of other rules.
    elsewhere: Arc<Notify>,
}

#[derive(Debug)]
struct UnderWay {
    began: Instant,
    /// True if other rules were told of meanwhile.
    again: bool,
    looked: oneshot::Receiver<Looked>,
}

/// What becomes of the looks next.
enum Turn {
    Look,
    Looked(Option<Looked>),
    Told,
}

impl Looks {
    /// The first one is due after a while, or when `elsewhere` is told of other rules.
    pub(super) fn new(elsewhere: Arc<Notify>) -> Self {
        let now = Instant::now();
        Self { due: now + PAUSE, earliest: now, under_way: None, elsewhere }
    }

    /// The finds of the next look. Dropped before it has ended, it goes on.
    pub(super) async fn next(&mut self, plan: &Arc<Plan>, nat: NatChoice) -> Looked {
        if nat == NatChoice::Heed {
            return std::future::pending().await;
        }
        loop {
            let turn = tokio::select! {
                () = self.elsewhere.notified() => Turn::Told,
                looked = ended(self.under_way.as_mut()) => Turn::Looked(looked),
                () = sleep_until(self.due), if self.under_way.is_none() => Turn::Look,
            };
            match turn {
                Turn::Look => self.begin(look(vec![Arc::clone(plan)])),
                Turn::Looked(looked) => {
                    self.end();
                    if let Some(looked) = looked {
                        return looked;
                    }
                }
                Turn::Told => self.told(),
            }
        }
    }

    fn begin(&mut self, looked: oneshot::Receiver<Looked>) {
        self.under_way = Some(UnderWay { began: Instant::now(), again: false, looked });
    }

    fn end(&mut self) {
        let Some(UnderWay { began, again, .. }) = self.under_way.take() else { return };
        let (now, took) = (Instant::now(), began.elapsed());
        self.earliest = now + took * TOLD_SHARE;
        // Thousands of rules take a second to list.
        self.due = if again { self.earliest } else { now + PAUSE.max(took * SHARE) };
    }

    fn told(&mut self) {
        match &mut self.under_way {
            Some(under_way) => under_way.again = true,
            None => self.due = self.due.min(self.earliest.max(Instant::now() + MOMENT)),
        }
    }
}

/// The finds of the look that is under way, if nothing went wrong with it.
async fn ended(under_way: Option<&mut UnderWay>) -> Option<Looked> {
    match under_way {
        Some(under_way) => (&mut under_way.looked).await.ok(),
        None => std::future::pending().await,
    }
}

impl Running {
    /// Exempts what rules of NAT would take of `plans`, unless they are to be heeded.
    pub(super) async fn exempt(&mut self, plans: Vec<Arc<Plan>>, nat: NatChoice) {
        if nat == NatChoice::Heed {
            return;
        }
        // Whoever is told to stop lowers all of it.
        let stop = self.stop_asked.clone();
        if let Ok(Ok(looked)) = self.meanwhile(stop.unless(look(plans))).await {
            self.renew(looked).await;
        }
    }

    /// Acts on what a look found, if it was one at what is served now.
    pub(super) async fn looked(&mut self, looked: Looked) {
        let is_of_now = matches!(&looked.plans[..], [plan] if Arc::ptr_eq(plan, &self.plan));
        if is_of_now {
            self.renew(looked).await;
            self.publish();
        }
    }

    async fn renew(&mut self, looked: Looked) {
        let Ok(chain) = self.chain().cloned() else { return };
        let renewed = self.with_firewall(|all| &mut all.exempting, move |it| it.renew(looked, &chain));
        if let Err(error) = renewed.await {
            tracing::warn!("exempt what is bound from NAT: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn other_rules_are_looked_at_soon_and_no_more_often_than_a_part_of_the_time() {
        let mut looks = Looks::new(Arc::default());
        for _ in 0..100 {
            looks.told();
        }
        assert_eq!(looks.due, Instant::now() + MOMENT);
        looks.begin(oneshot::channel().1);
        looks.told();
        tokio::time::advance(Duration::from_secs(1)).await;
        looks.end();
        assert_eq!(looks.due, Instant::now() + Duration::from_secs(4), "told of while it was taken");
        looks.begin(oneshot::channel().1);
        tokio::time::advance(Duration::from_secs(1)).await;
        looks.end();
        assert_eq!(looks.due, Instant::now() + Duration::from_secs(100), "nobody told");
        looks.told();
        assert_eq!(looks.due, Instant::now() + Duration::from_secs(4), "told of after it");
    }
}

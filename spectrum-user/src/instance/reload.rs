//! From one configuration to the next while traffic flows: everything the next one needs is prepared beside the present
//! one, then one publication decides which of them a packet sees, then what nothing needs any more goes.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::Farewell;
use super::effects::{by_name, served};
use super::lookups::places;
use super::own_bindings::Speaking;
use super::replies::refuse_own_addresses;
use super::running::{Aim, Running, XDP_OVER_TPROXY};
use super::worker::{NOTICE, look_up};
use crate::config::{Config, InstanceKeys, ModeChoice, Planned};
use crate::control::ReloadQuery;
use crate::model::{Destination, DestinationId, Forced, Resource, ServiceName};
use crate::observe::RecordRules;
use crate::plan::{Binds as _, Plan};
use crate::registry::Mode;
use crate::worker_process::{HandoverOf, LinkError};
use spectrum_steering::tproxy::InterruptGuard;

/// The outcome of a reload.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Reloaded {
    /// Which configuration this is; the first was 0.
    pub(crate) revision: u32,
    pub(crate) services: usize,
    pub(crate) bindings: usize,
    /// Destinations that have new listeners.
    pub(crate) added: usize,
    /// Destinations that get no packets any more.
    pub(crate) removed: usize,
    /// Destinations whose listeners stay and that answer otherwise now.
    pub(crate) switched: usize,
}

impl Running {
    /// Refuses a configuration that only a start can go to.
    pub(super) fn refuse_what_takes_a_start(&self, config: &Config) -> anyhow::Result<()> {
        let mode = self.mode().context("reload before steering")?;
        let same = match config.mode {
            ModeChoice::Auto => true,
            ModeChoice::SkLookup => mode == Mode::SkLookup,
            ModeChoice::Tproxy => mode == Mode::Tproxy,
        };
        if !same {
            bail!(
                "dispatcher.mode: cannot change from {mode} to {} while running; restart instead",
                config.mode
            );
        }
        if config.mode == ModeChoice::Tproxy && !config.xdp.is_empty() {
            bail!("{XDP_OVER_TPROXY}");
        }
        if mode == Mode::Tproxy && config.firewall != self.config.firewall {
            bail!(
                "dispatcher.firewall: cannot change from {} to {} while running; restart instead",
                self.config.firewall,
                config.firewall
            );
        }
        if config.admin != self.config.admin {
            let shown =
                |admin: Option<SocketAddr>| admin.map_or("none".to_owned(), |admin| admin.to_string());
            bail!(
                "admin.listen: cannot change from {} to {} while running; restart instead",
                shown(self.config.admin),
                shown(config.admin)
            );
        }
        let (format, wanted) =
            (self.config.log.format.unwrap_or_default(), config.log.format.unwrap_or_default());
        if wanted != format {
            bail!("log.format: cannot change from {format} to {wanted} while running; restart instead");
        }
        if let Some((key, was, is)) = self.config.instance.fixed(&config.instance).into_iter().next() {
            bail!("instance.{key}: cannot change from {was} to {is} while running; restart instead");
        }
        Ok(())
    }

    /// Goes over to what is `planned`. After an error everything is as before.
    pub(super) async fn reload(&mut self, planned: Planned, query: &ReloadQuery) -> anyhow::Result<Reloaded> {
        let Planned { config, plan } = planned;
        self.refuse_what_takes_a_start(&config)?;
        let mode = self.mode().context("reload before steering")?;
        let drain = config.instance.drain.unwrap_or(InstanceKeys::DRAIN);
        let revision = self.revision + 1;
        let plan = plan.after(&self.plan, &self.config.services, &config.services, revision);
        let config = Arc::new(config);
        if let Some(dispatcher) = &self.dispatcher
            && plan.ids() > dispatcher.capacity()
        {
            let count = plan.destinations.len();
            bail!(
                "{count} destinations (service, protocol, family) are too many more than the instance was started with; restart \
                 it instead"
            );
        }
        let forced =
            query.force.iter().map(|typed| Ok(typed.parse()?)).collect::<anyhow::Result<Vec<Forced>>>()?;
        let before = self.settings.force.clone();
        self.settings.force.extend(&forced.into());
        let plan = Arc::new(plan);
        let mut reloaded = self.reload_with_worker(&config, &plan, mode, revision, Duration::ZERO).await;
        if reloaded.as_ref().is_err_and(has_lost_worker) {
            reloaded = self.reload_with_worker(&config, &plan, mode, revision, NOTICE).await;
        }
        match &reloaded {
            // What it removed has had the time that was said before.
            Ok(_) => self.settings.drain = drain,
            Err(_) => self.settings.force = before,
        }
        reloaded
    }

    /// That the worker process has ended may take `notice` to be noticed.
    async fn reload_with_worker(
        &mut self,
        config: &Arc<Config>,
        plan: &Arc<Plan>,
        mode: Mode,
        revision: u32,
        notice: Duration,
    ) -> anyhow::Result<Reloaded> {
        self.require_worker(notice).await?;
        self.reload_as_planned(config, plan, mode, revision).await
    }

    async fn reload_as_planned(
        &mut self,
        config: &Arc<Config>,
        plan: &Arc<Plan>,
        mode: Mode,
        revision: u32,
    ) -> anyhow::Result<Reloaded> {
        self.refuse_covered_addresses(plan, config)?;
        self.refuse_hidden_admin(
            plan,
            config,
            "leave that port of that address out of the bindings, reload with --force ADDRESS, or restart with another [admin] listen",
        )?;
        refuse_own_addresses(&config.services)?;
        self.require_announcing(&config.announcing).await?;
        let link = self.link()?;
        link.configure(config.resolver.clone());
        let (stop, lookups) = (self.stop_asked.clone(), look_up(&link, config)?);
        let looked_up = self.meanwhile(stop.unless(lookups.done())).await;
        let aim = Aim { config: Arc::clone(config), plan: Arc::clone(plan), revision, table: None };
        let reloaded = match looked_up {
            Ok(Ok(())) => self.go_over(aim, mode).await,
            Ok(Err(error)) => Err(error.into()),
            Err(stopped) => Err(stopped.into()),
        };
        self.lock = None;
        if reloaded.is_err() {
            link.configure(self.config.resolver.clone());
            link.place(places(&self.config));
        }
        reloaded
    }

    /// The part of a reload that touches anything.
    async fn go_over(&mut self, mut aim: Aim, mode: Mode) -> anyhow::Result<Reloaded> {
        if mode == Mode::SkLookup {
            aim.table = Some(Arc::new(self.compiled(&aim.plan).await?));
        }
        // What follows stands on it.
        self.mend().await;
        self.lock = Some(self.startup_lock().await?);
        let added = absent(&aim.plan, &self.plan);
        let removed = absent(&self.plan, &aim.plan);
        // Until the switch the old bindings take connections, from then on the new ones.
        let both = vec![Arc::clone(&self.plan), Arc::clone(&aim.plan)];
        self.exempt(both.clone(), aim.config.nat).await;
        let handovers = self.handovers(&aim);
        let switched = handovers.len();
        let outcome = match self.avoid(both, Speaking::of(&[&self.config, &aim.config])).await {
            Ok(()) => self.go_and_judge(&aim, mode, handovers).await,
            Err(error) => Err(error),
        };
        let went = outcome.map(|left| {
            for error in left {
                tracing::warn!("{error:#}");
            }
            self.arrive(aim);
        });
        // After a failure the other bindings are avoided as well, which the next reload puts right.
        if let Err(error) = self.avoid(vec![Arc::clone(&self.plan)], Speaking::of(&[&self.config])).await {
            tracing::warn!("{error:#}");
        }
        {
            // Also where it was given up since we are told to stop.
            let _whole = went.is_err().then(InterruptGuard::off);
            self.exempt(vec![Arc::clone(&self.plan)], self.config.nat).await;
        }
        went?;
        self.publish();
        self.judge_announcements().await;
        Ok(Reloaded {
            revision: self.revision,
            services: self.config.services.len(),
            bindings: self.plan.bindings.len(),
            added,
            removed,
            switched,
        })
    }

    /// What the listeners of destinations that stay serve otherwise by `aim`.
    fn handovers(&self, aim: &Aim) -> Vec<HandoverOf> {
        let (before, after) = (by_name(&self.config.services), by_name(&aim.config.services));
        let stays =
            aim.plan.destinations.iter().filter_map(|(id, to)| Some((self.plan.destination(*id)?, to)));
        let changes = stays.filter_map(|(from, to)| {
            let (was, is) = (before.get(&from.service)?, after.get(&to.service)?);
            let is_same = from == to && is.answers_like(was);
            (!is_same).then(|| HandoverOf { from: from.clone(), to: to.clone(), served: served(is) })
        });
        changes.collect()
    }

    /// Goes to `aim` with clients that are judged after accept. Where more changes than whom services let in, both configurations judge them
    /// in the meantime, so that nobody comes in by the bindings of one and the policy of the other.
    async fn go_and_judge(
        &mut self,
        aim: &Aim,
        mode: Mode,
        handovers: Vec<HandoverOf>,
    ) -> anyhow::Result<Vec<anyhow::Error>> {
        let link = self.link()?;
        let said = self.denying.sources();
        self.prepare_judge(&link, &aim.config, &aim.plan, said).await?;
        let is_bound_alike =
            self.plan.bindings == aim.plan.bindings && self.plan.destinations == aim.plan.destinations;
        if !is_bound_alike || !handovers.is_empty() {
            link.overlap_judges().await?;
        }
        let outcome = self.go_and_hand_over(aim, mode, handovers).await;
        let judged = match &outcome {
            Ok(_) => self.settle_judge(&link).await,
            Err(_) => link.forget_judge().await,
        };
        if let Err(error) = judged {
            // Another one takes its place soon, and is told what holds now.
            tracing::warn!("clients are judged after accept as around the reload: {error}");
        }
        outcome
    }

    /// Goes to `aim`, and has kept listeners serve what it says. What could not be lowered is no failure.
    async fn go_and_hand_over(
        &mut self,
        aim: &Aim,
        mode: Mode,
        handovers: Vec<HandoverOf>,
    ) -> anyhow::Result<Vec<anyhow::Error>> {
        let others = handovers.iter().filter(|handover| handover.from != handover.to);
        let handed_on: Vec<(Destination, Destination)> =
            others.map(|handover| (handover.from.clone(), handover.to.clone())).collect();
        let link = self.link()?;
        link.prepare(handovers).await?;
        self.hand_on(handed_on.iter().map(|(from, to)| (from, to)));
        let course = self.course_to(aim, mode, Farewell::Drain(self.settings.drain));
        let outcome = self.go(course, aim).await.outcome();
        if outcome.is_err() {
            self.hand_on(handed_on.iter().map(|(from, to)| (to, from)));
            return outcome;
        }
        // The bindings of these are what they were, so that their answers alone change.
        if let Err(error) = link.hand_over().await {
            // Another one takes its place soon, and is told what holds now.
            tracing::warn!("connections are answered as before the reload: {error}");
        }
        if let Some(dispatcher) = &mut self.dispatcher {
            let renamed = |(id, one): &(&DestinationId, &Destination)| {
                self.plan.destination(**id).is_some_and(|before| before != *one)
            };
            for (id, destination) in aim.plan.destinations.iter().filter(renamed) {
                if let Err(error) = dispatcher.reset_counts(*id) {
                    tracing::warn!(%destination, %error, "its counts go on from those of another service");
                }
            }
        }
        outcome
    }

    /// Has what is raised for the first of each be the second's.
    fn hand_on<'a>(&mut self, handed: impl Iterator<Item = (&'a Destination, &'a Destination)> + Clone) {
        let kinds = [Resource::Listener, Resource::Serving];
        let resources =
            handed.clone().flat_map(|(from, to)| kinds.map(|of| (of(from.clone()), of(to.clone()))));
        self.ledger.hand_on(resources.collect());
        // They may take each other's places.
        let groups: Vec<_> =
            handed.filter_map(|(from, to)| Some((to.clone(), self.listeners.remove(from)?))).collect();
        self.listeners.extend(groups);
    }

    /// `aim` is what there is now.
    fn arrive(&mut self, aim: Aim) {
        let kept: HashSet<&ServiceName> = aim.config.services.iter().map(|service| &service.name).collect();
        let before = self.gone.drain(..).chain(self.config.services.iter().cloned());
        self.gone = before.filter(|gone| !kept.contains(&gone.name)).collect();
        let before = Arc::clone(&self.config);
        self.keep_withdrawn(&before.announcing, &aim.config.announcing);
        (self.config, self.plan, self.revision) = (aim.config, aim.plan, aim.revision);
        self.keep_set_origins();
        self.keep_sockets();
        self.lists.begin(self.config.policy_places.lists().to_vec());
        if let Ok(link) = self.link() {
            link.follow(RecordRules::of(&self.config.log, &self.config.services));
        }
    }

    /// Has no origin dialled where the bindings of `plans` would bring the connection back.
    async fn avoid(&self, plans: Vec<Arc<Plan>>, speaking: Speaking) -> anyhow::Result<()> {
        self.bindings.are(plans, speaking)?;
        Ok(self.link()?.avoid().await?)
    }
}

/// True if it failed since there was no worker process any more, in which case there is another one soon.
pub(super) fn has_lost_worker(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(LinkError::Ended)))
}

/// The number of destinations of `plan` that `other` has not.
fn absent(plan: &Plan, other: &Plan) -> usize {
    plan.destinations.keys().filter(|id| !other.destinations.contains_key(id)).count()
}

//! From one configuration to the next while traffic flows: everything the next one needs is prepared beside the present
//! one, then one publication decides which of them a packet sees, then what nothing needs any more goes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::own_bindings::own_bindings;
use super::replies::refuse_own_addresses;
use super::run::{LOCK_PATIENCE, aside, joined};
use super::running::{NAMES_PATIENCE, Running, Steering, listen, look_up, places, register, registry};
use crate::config::{Config, ModeChoice};
use crate::control::ReloadQuery;
use crate::instance::Mode;
use crate::model::{Destination, DestinationId, Family, Forced, Prefix, Protocol, Service, ServiceName};
use crate::plan::ReplyNeeds;
use crate::plan::table::Table;
use crate::plan::{self, Plan};
use spectrum_steering::host::{ListenerGroup, LocalRoutes};
use spectrum_steering::tproxy::InterruptGuard;

/// Handshakes that the previous generation began complete within this time, or their clients try again: the first
/// retransmission of a SYN-ACK comes after a second (RFC 6298).
const HANDSHAKES: Duration = Duration::from_secs(3);

/// The outcome of a reload.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Reloaded {
    /// Which configuration this is; the first was 0.
    pub(super) revision: u32,
    pub(super) services: usize,
    pub(super) bindings: usize,
    /// Destinations that have new listeners.
    pub(super) added: usize,
    /// Destinations that get no packets any more.
    pub(super) removed: usize,
}

/// The parts that an earlier generation needed, and when they go.
#[derive(Debug, Default)]
pub(super) struct Retiring {
    /// Listeners to which nothing is steered any more. They still take what was on its way to them.
    pub(super) listeners: Vec<(Instant, Destination, ListenerGroup)>,
    /// Destinations whose services have gone. What is open there has until then to end by itself.
    pub(super) connections: Vec<(Instant, Destination)>,
    /// Those of them that the configuration has not at all, as they were.
    pub(super) services: Vec<Service>,
    /// Prefixes that no binding is in. Connections that are open still need their addresses.
    pub(super) routes: Vec<(Instant, Prefix)>,
    /// When what brings origins' answers back goes, as far as the present configuration has no use for it.
    pub(super) replies: Option<Instant>,
}

impl Retiring {
    /// Services that the configuration has no more, and when what they have open is cut.
    pub(super) fn gone(&self) -> Arc<[(Service, Instant)]> {
        let gone = self.services.iter().filter_map(|service| {
            let left = self.connections.iter().filter(|(_, left)| left.service == service.name);
            Some((service.clone(), left.map(|(due, _)| *due).max()?))
        });
        gone.collect()
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        let listeners = self.listeners.iter().map(|(due, ..)| *due);
        let connections = self.connections.iter().map(|(due, _)| *due);
        listeners.chain(connections).chain(self.routes.iter().map(|(due, _)| *due)).chain(self.replies).min()
    }
}

impl Running {
    /// Goes over to `config`. After an error everything is as before.
    pub(super) async fn reload(&mut self, config: Config, query: &ReloadQuery) -> anyhow::Result<Reloaded> {
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
        let revision = self.revision + 1;
        let config = Arc::new(config);
        let (plan, before, after) = (Arc::clone(&self.plan), Arc::clone(&self.config), Arc::clone(&config));
        let planning = aside(move || plan::following(&plan, &before.services, &after.services, revision));
        let plan = self
            .stop_asked
            .unless(planning)
            .await??
            .map_err(|errors| joined(errors.into_iter().map(Into::into)))?;
        if let Some(Steering::SkLookup(dispatcher)) = &self.steering
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
        let reloaded = self.reload_as_planned(config, plan, mode, revision).await;
        if reloaded.is_err() {
            self.settings.force = before;
        }
        reloaded
    }

    async fn reload_as_planned(
        &mut self,
        config: Arc<Config>,
        plan: Plan,
        mode: Mode,
        revision: u32,
    ) -> anyhow::Result<Reloaded> {
        self.refuse_covered_addresses(&plan, &config)?;
        self.refuse_hidden_admin(
            &plan,
            &config,
            "leave that port of that address out of the bindings, reload with --force ADDRESS, or restart with another [admin] listen",
        )?;
        refuse_own_addresses(&config.services)?;
        let origins = self.origins.clone().context("reload without watching origins")?;
        origins.configure(config.resolver.clone());
        let before = self.config.resolver.clone();
        let looked_up = self.stop_asked.unless(look_up(&origins, &config, NAMES_PATIENCE).unresolved()).await;
        let reloaded = match looked_up {
            Ok(Ok(_)) => self.go_over(config, Arc::new(plan), mode, revision).await,
            Ok(Err(error)) => Err(error.into()),
            Err(stopped) => Err(stopped.into()),
        };
        if reloaded.is_err() {
            origins.configure(before);
            origins.place(places(&self.config));
        }
        reloaded
    }

    /// The steps of a reload after everything that can be refused without touching anything.
    async fn go_over(
        &mut self,
        config: Arc<Config>,
        plan: Arc<Plan>,
        mode: Mode,
        revision: u32,
    ) -> anyhow::Result<Reloaded> {
        let table = self.compiled(&plan).await?;
        // What follows stands on it.
        self.mend().await;

        let registry = registry()?;
        let lock = registry.lock_unless(LOCK_PATIENCE, || self.stop_asked.is_asked())?;
        let claim = self.claim.as_mut().context("reload without a claim")?;
        let both: BTreeSet<Prefix> = claim.instance().prefixes.iter().chain(&plan.routes).copied().collect();
        lock.amend(claim, mode, &both.into_iter().collect::<Vec<_>>())?;

        let added = minus(&plan.destinations, &self.plan.destinations);
        let routed: BTreeSet<Prefix> =
            self.routes.iter().flat_map(|routes| routes.added().iter().copied()).collect();
        // Until the switch packets are steered by the old configuration, from then on by the new one.
        self.exempt(vec![Arc::clone(&self.plan), Arc::clone(&plan)], config.nat).await;
        let switched = match self.prepare(&config, &plan, &added).await {
            Ok(()) => self.switch(&plan, &table),
            Err(error) => Err(error),
        };
        if let Err(error) = switched {
            // Also where it was given up since we are told to stop.
            let _whole = InterruptGuard::off();
            let mut undone = self.abandon(&added, &routed).await;
            undone.extend(self.avoid(vec![Arc::clone(&self.plan)]).await.err());
            self.exempt(vec![Arc::clone(&self.plan)], self.config.nat).await;
            let claimed = self.claimed();
            if let Some(claim) = &mut self.claim {
                lock.amend(claim, mode, &claimed)?;
            }
            if undone.is_empty() {
                return Err(error);
            }
            bail!("{error:#}; then, while undoing: {:#}", joined(undone));
        }

        let removed = minus(&self.plan.destinations, &plan.destinations);
        let reloaded = Reloaded {
            revision,
            services: config.services.len(),
            bindings: plan.bindings.len(),
            added: added.len(),
            removed: removed.len(),
        };
        self.retire(removed, &plan);
        let kept: HashSet<&ServiceName> = config.services.iter().map(|service| &service.name).collect();
        self.retiring.services.retain(|gone| !kept.contains(&gone.name));
        let gone = self.config.services.iter().filter(|service| !kept.contains(&service.name));
        self.retiring.services.extend(gone.cloned());
        self.plan = plan;
        self.config = config;
        self.keep_set_origins();
        self.recorder.follow(&self.config.log, &self.config.services);
        // After a failure the old bindings are avoided as well, which the next reload puts right.
        if let Err(error) = self.avoid(vec![Arc::clone(&self.plan)]).await {
            tracing::warn!("{error:#}");
        }
        self.exempt(vec![Arc::clone(&self.plan)], self.config.nat).await;
        if self.replies.exceed(&ReplyNeeds::of(&self.config.services)) {
            self.retiring.replies = Some(Instant::now() + self.settings.drain);
        }
        self.revision = revision;
        self.tell_facts();
        self.publish();
        Ok(reloaded)
    }

    /// Has no origin dialled where the bindings of `plans` would bring the connection back.
    async fn avoid(&self, plans: Vec<Arc<Plan>>) -> anyhow::Result<()> {
        let origins = self.origins.as_ref().context("reload without watching origins")?;
        Ok(origins.avoid(own_bindings(plans)?).await?)
    }

    /// Gives the new destinations listeners and the new prefixes routes. Nothing is steered there yet.
    async fn prepare(
        &mut self,
        config: &Config,
        plan: &Arc<Plan>,
        added: &BTreeMap<DestinationId, Destination>,
    ) -> anyhow::Result<()> {
        let mode = self.mode().context("reload before steering")?;
        // Until the switch the old bindings take connections, from then on the new ones.
        self.avoid(vec![Arc::clone(&self.plan), Arc::clone(plan)]).await?;
        self.bind_listeners(added, mode)?;
        self.stop_asked.check()?;
        if let Some(Steering::SkLookup(dispatcher)) = &mut self.steering {
            for id in added.keys() {
                dispatcher.reset_counts(*id)?;
            }
            // Nothing is steered to them before the switch. What is abandoned leaves the map when it closes.
            register(dispatcher, self.listeners.iter().filter(|(id, _)| added.contains_key(id)))?;
        }
        let routes = self.routes.as_mut().context("reload without routes")?;
        let present: BTreeSet<Prefix> = self.plan.routes.iter().chain(routes.added()).copied().collect();
        let missing: Vec<Prefix> =
            plan.routes.iter().copied().filter(|prefix| !present.contains(prefix)).collect();
        routes.add(&missing).await?;
        self.stop_asked.check()?;
        self.raise_replies(&ReplyNeeds::of(&config.services)).await?;
        let workers = self.workers.as_ref().context("reload without workers")?;
        listen(workers, &mut self.listeners, added, config).await
    }

    /// The one moment from which packets see the new generation.
    fn switch(&mut self, plan: &Plan, table: &Table) -> anyhow::Result<()> {
        let firewall = self.firewall(plan)?;
        match self.steering.as_mut().context("reload before steering")? {
            Steering::SkLookup(dispatcher) => dispatcher.publish(table.nodes())?,
            Steering::Tproxy(tproxy) => tproxy.replace(&firewall)?,
        }
        Ok(())
    }

    /// Undoes [`prepare`](Self::prepare), complete or not.
    async fn abandon(
        &mut self,
        added: &BTreeMap<DestinationId, Destination>,
        routed: &BTreeSet<Prefix>,
    ) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        for (id, destination) in added {
            if self.listeners.remove(id).is_some()
                && let Some(workers) = &self.workers
            {
                workers.remove(destination).await;
            }
        }
        if let Some(routes) = &mut self.routes {
            let doomed: Vec<Prefix> =
                routes.added().iter().copied().filter(|prefix| !routed.contains(prefix)).collect();
            errors.extend(routes.remove(&doomed).await.into_iter().map(Into::into));
        }
        // What is still retiring is due at its own time.
        if self.retiring.replies.is_none() {
            let needs = ReplyNeeds::of(&self.config.services);
            errors.extend(self.lower_replies(&needs).await);
        }
        errors
    }

    /// Lets go of what the plan before `plan` needed: at once of its place in the kernel, later of the rest.
    fn retire(&mut self, removed: BTreeMap<DestinationId, Destination>, plan: &Plan) {
        let now = Instant::now();
        let served = Serves::of(plan);
        for (id, destination) in removed {
            if let Some(Steering::SkLookup(dispatcher)) = &mut self.steering
                && let Err(error) = dispatcher.unregister(id)
            {
                // Nothing leads there any more, and the socket leaves the map when it closes.
                tracing::debug!(%error, "retire");
            }
            if !served.has(&destination) {
                // Its listeners close first, so that nothing is accepted after the cut.
                let due = now + self.settings.drain.max(HANDSHAKES);
                self.retiring.connections.push((due, destination.clone()));
            }
            if let Some(group) = self.listeners.remove(&id) {
                self.retiring.listeners.push((now + HANDSHAKES, destination, group));
            }
        }
        let needed: BTreeSet<&Prefix> = plan.routes.iter().collect();
        self.retiring.routes.retain(|(_, prefix)| !needed.contains(prefix));
        let retiring: BTreeSet<Prefix> = self.retiring.routes.iter().map(|(_, prefix)| *prefix).collect();
        for prefix in self.routes.iter().flat_map(LocalRoutes::added) {
            if !needed.contains(prefix) && !retiring.contains(prefix) {
                self.retiring.routes.push((now + self.settings.drain, *prefix));
            }
        }
    }

    /// Takes away what is due.
    pub(super) async fn retire_due(&mut self) {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) =
            self.retiring.listeners.drain(..).partition(|(due, ..)| *due <= now);
        self.retiring.listeners = later;
        for (_, destination, group) in due {
            // Only its address and cookies: the workers have its sockets.
            drop(group);
            if let Some(workers) = &self.workers {
                workers.remove(&destination).await;
            }
        }
        self.cut_due(now).await;
        // There are fewer listeners, whose descriptors are for connections now, or fewer services.
        self.publish();
        if self.retiring.replies.is_some_and(|due| due <= now) {
            self.retiring.replies = None;
            for error in self.lower_replies(&ReplyNeeds::of(&self.config.services)).await {
                tracing::warn!("{error:#}");
            }
        }
        let (due, later): (Vec<_>, Vec<_>) = self.retiring.routes.drain(..).partition(|(due, _)| *due <= now);
        self.retiring.routes = later;
        if due.is_empty() {
            return;
        }
        let doomed: Vec<Prefix> = due.into_iter().map(|(_, prefix)| prefix).collect();
        if let Some(routes) = &mut self.routes {
            for error in routes.remove(&doomed).await {
                tracing::warn!("{:#}", anyhow::Error::from(error));
            }
        }
        if let Err(error) = self.amend_claim() {
            tracing::warn!("{error:#}");
        }
    }

    /// Cuts what is still open of services that have gone, and have not come back meanwhile.
    async fn cut_due(&mut self, now: Instant) {
        let Some(workers) = &self.workers else { return };
        let due: Vec<_> = self.retiring.connections.extract_if(.., |(due, _)| *due <= now).collect();
        let Retiring { connections, services, .. } = &mut self.retiring;
        let left: HashSet<&ServiceName> = connections.iter().map(|(_, left)| &left.service).collect();
        services.retain(|gone| left.contains(&gone.name));
        let served = Serves::of(&self.plan);
        for (_, destination) in due {
            if served.has(&destination) {
                continue;
            }
            let cut = workers.cut(&destination).await;
            if cut > 0 {
                tracing::warn!(%destination, cut, "connections of a removed service were cut");
            }
        }
    }

    fn amend_claim(&mut self) -> anyhow::Result<()> {
        let mode = self.mode().context("claim before steering")?;
        let claimed = self.claimed();
        let registry = registry()?;
        let lock = registry.lock_unless(LOCK_PATIENCE, || self.stop_asked.is_asked())?;
        match &mut self.claim {
            Some(claim) => Ok(lock.amend(claim, mode, &claimed)?),
            None => Ok(()),
        }
    }

    /// The prefixes in use: those of the plan, and those that are retiring.
    fn claimed(&self) -> Vec<Prefix> {
        let retiring = self.retiring.routes.iter().map(|(_, prefix)| *prefix);
        let claimed: BTreeSet<Prefix> = self.plan.routes.iter().copied().chain(retiring).collect();
        claimed.into_iter().collect()
    }
}

/// Services with the families and protocols that a plan has of them, whatever answers there.
struct Serves<'a>(HashSet<(&'a ServiceName, Family, Protocol)>);

impl<'a> Serves<'a> {
    fn of(plan: &'a Plan) -> Self {
        let each = plan.destinations.values();
        Self(each.map(|one| (&one.service, one.family, one.protocol)).collect())
    }

    fn has(&self, destination: &Destination) -> bool {
        let Destination { service, revision: _, family, protocol } = destination;
        self.0.contains(&(service, *family, *protocol))
    }
}

/// The entries of `all` whose keys `other` has not.
fn minus(
    all: &BTreeMap<DestinationId, Destination>,
    other: &BTreeMap<DestinationId, Destination>,
) -> BTreeMap<DestinationId, Destination> {
    all.iter().filter(|(id, _)| !other.contains_key(id)).map(|(id, one)| (*id, one.clone())).collect()
}

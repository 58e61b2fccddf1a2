//! Steering that outlives the instance: what it pins, what others have pinned before it, which it takes over, and what stays when it ends.
//! What pinned state is, `pinned` knows; when it is raised and lowered, the ledger.
//!
//! Whoever is killed leaves what steers to registered sockets, with a charter that says so; of what the instance answered for itself the listeners
//! have gone with it, so that clients are refused. What was prepared, and is not in force yet, the next start removes.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail, ensure};
use nix::unistd::Group;
use tokio::time::Instant;

use super::Farewell;
use super::effects::{PATIENCE, namespace};
use super::own_bindings::Speaking;
use super::running::{Aim, Running, registry};
use crate::config::{Config, ModeChoice};
use crate::model::{DestinationId, Prefix, Resource, ResourceKind, Service, Target, registered};
use crate::pinned::{Charter, PinnedBefore, PinnedPlace};
use crate::plan::table::Table;
use crate::plan::{Bound, Plan, PlanError};
use crate::registry::{GROUP, StartupLock, is_pinned_for, run_dir};
use spectrum_steering::dispatcher::{DispatcherError, PinnedLink, Secret, pin_link, unpin};
use spectrum_steering::host::{NamespaceId, interface_index, namespace_cookie};

/// The reason to refuse pins where TPROXY is insisted on.
const PINS_OVER_TPROXY: &str =
    "pin what steers: only sk_lookup can be pinned, and mode is \"tproxy\" (leave --pin or the mode out)";

/// What an instance has pinned, or is about to.
#[derive(Debug, Default)]
pub(super) struct Pinning {
    /// Where; none: nothing is to be pinned.
    place: Option<PinnedPlace>,
    /// True once it is there, and not aside.
    is_in_force: bool,
    /// What is pinned by others, until this instance has taken it over.
    before: Option<PinnedBefore>,
    /// The routes that stay when it ends, if anything does.
    staying: Option<Vec<Prefix>>,
}

impl Pinning {
    /// True while something that is pinned is still to be taken over.
    pub(super) fn is_taking_over(&self) -> bool {
        self.before.is_some()
    }

    /// The directory of what is pinned, once it is there.
    pub(super) fn directory(&self) -> Option<&Path> {
        self.place.as_ref().filter(|_| self.is_in_force).map(PinnedPlace::directory)
    }

    /// The program before had it pinned in this network namespace.
    pub(super) fn adopt(&mut self) -> anyhow::Result<()> {
        self.place = Some(PinnedPlace::of(NamespaceId::current()?.inode()));
        self.is_in_force = true;
        Ok(())
    }

    /// The prefixes that others need, whatever becomes of this instance.
    pub(super) fn routes_of_others(&self) -> BTreeSet<Prefix> {
        self.before.iter().flat_map(PinnedBefore::routes).collect()
    }

    /// That by which slots are clients' in what is to be taken over: with the same one they go where they went.
    pub(super) fn secret(&self) -> Option<Secret> {
        self.before.as_ref().and_then(PinnedBefore::secret)
    }

    /// Makes a directory for the objects of a program, if they are to be pinned: aside, or beside those whose place they are to take.
    pub(super) fn make_directory(&self) -> anyhow::Result<Option<PathBuf>> {
        let Some(place) = &self.place else { return Ok(None) };
        if self.is_in_force || self.before.is_some() {
            return Ok(Some(place.make_next()?));
        }
        place.sweep()?;
        let group = Group::from_name(GROUP).ok().flatten().map(|group| group.gid.as_raw());
        place.make_aside(group).map(Some).or_else(|error| {
            if group.is_none() {
                return Err(error.into());
            }
            // Who may not give it to the group keeps it.
            place.sweep()?;
            Ok(Some(place.make_aside(None)?))
        })
    }

    fn link_path(&self) -> Option<PathBuf> {
        let place = self.place.as_ref()?;
        let is_there = self.is_in_force || place.is_taken();
        Some(PinnedPlace::link_in(if is_there { place.directory() } else { place.aside() }))
    }

    /// Removes what was prepared in `directory` and is not in force.
    pub(super) fn give_up(&self, directory: &Path) {
        let Some(place) = self.place.as_ref().filter(|_| !self.is_in_force) else { return };
        let removed = if self.before.is_some() {
            unpin(directory).map_err(anyhow::Error::from)
        } else {
            place.sweep().map_err(anyhow::Error::from)
        };
        if let Err(error) = removed {
            // The next start does it.
            tracing::warn!("remove what was to be pinned: {error:#}");
        }
        place.tidy();
    }
}

impl Running {
    /// Finds what is pinned in the network namespace, and whether this instance is to take it over: where both bind the same, or it is to pin
    /// something itself. Then destinations that both have get the ids that they have there.
    pub(super) fn find_pinned(&mut self, lock: &StartupLock) -> anyhow::Result<()> {
        let is_to_pin = self.config.instance.pin.unwrap_or_default();
        if self.config.mode == ModeChoice::Tproxy {
            ensure!(!is_to_pin, "{PINS_OVER_TPROXY}");
            // What others have pinned, whoever claims its prefixes is told.
            return Ok(());
        }
        if is_to_pin {
            let place = PinnedPlace::of(lock.namespace());
            place.prepare()?;
            if let Some(holder) = lock.holder_of_pins()? {
                bail!(
                    "pin what steers: process {} has pinned what it steers in this network namespace, where only one may (leave --pin out, \
                     or stop that one)",
                    holder.pid
                );
            }
            self.pinning.place = Some(place);
        }
        let claimed = lock.pinned_prefixes()?;
        let is_shared = claimed.iter().any(|prefix| self.plan.routes.iter().any(|own| own.overlaps(prefix)));
        if !is_shared && !is_to_pin {
            return Ok(());
        }
        let op = "take over what is pinned in this network namespace";
        let before = PinnedBefore::find(lock)
            .with_context(|| format!("{op} (or take it away: spectrum-user unload)"))?;
        let Some(before) = before else { return Ok(()) };
        let beyond: Vec<String> =
            before.beyond(&self.config.services).iter().map(ToString::to_string).collect();
        if !beyond.is_empty() {
            let beyond = beyond.join(", ");
            if before.instance().is_none() {
                bail!(
                    "{op}: it also steers {beyond}, which the configuration has not (give it [[service]] of that name with registered = true; \
                     or take away what is pinned: spectrum-user unload)"
                );
            }
            tracing::warn!(
                services = beyond,
                "the instance before had these services, and the configuration has them no more"
            );
        }
        self.plan = Arc::new(before.renumbered(Plan::clone(&self.plan)));
        self.bindings.are(vec![Arc::clone(&self.plan)], Speaking::of(&[&self.config]))?;
        self.pinning.before = Some(before);
        Ok(())
    }

    /// Has the program that was loaded know the registered sockets of what is to be taken over, and who gets what of them. Nothing is steered
    /// to them by it yet.
    pub(super) fn take_pinned_sockets(&mut self) -> anyhow::Result<()> {
        let (Some(before), Some(dispatcher)) = (&mut self.pinning.before, &mut self.dispatcher) else {
            return Ok(());
        };
        let of_others = registered(&self.config.services);
        let destination = |id: DestinationId| {
            self.plan.destination(id).filter(|one| of_others.contains(&one.service)).cloned()
        };
        let moved = before.move_sockets(dispatcher, |id| destination(id).is_some())?;
        let named = moved.into_iter().filter_map(|(id, socket)| Some((destination(id)?, socket)));
        let (there, gone): (Vec<_>, Vec<_>) = named.partition(|(_, socket)| socket.place.is_some());
        self.others.adopt(there, []);
        let gone: Vec<_> = gone.into_iter().filter(|(one, _)| self.others.of(one).is_empty()).collect();
        self.others.adopt([], gone);
        Ok(())
    }

    /// Has what is pinned give way to the program of this instance, whose table is published: the one moment from which packets see that.
    pub(super) async fn take_pinned_over(&mut self, aim: &Aim) -> anyhow::Result<()> {
        let Some(mut before) = self.pinning.before.take() else { return Ok(()) };
        let own: BTreeSet<Prefix> = aim.plan.routes.iter().copied().collect();
        let needless: Vec<Prefix> = before.routes().into_iter().filter(|one| !own.contains(one)).collect();
        let given = self.have_given_way(&mut before, aim);
        if given.is_err() {
            self.pinning.before = Some(before);
            return given;
        }
        // From here on there is no way back, and nothing that went wrong would be better for one.
        let from = before.instance().map_or_else(|| "load".to_owned(), |id| format!("instance {id}"));
        if let Err(error) = self.have_left(before) {
            tracing::warn!("remove what was pinned before: {error:#}");
        }
        for error in self.opened_routes()?.remove(&needless).await {
            tracing::warn!("remove a route of what was pinned before: {:#}", anyhow::Error::from(error));
        }
        tracing::info!(from, sockets = self.others.all().count(), "took over what was pinned");
        Ok(())
    }

    fn have_given_way(&mut self, before: &mut PinnedBefore, aim: &Aim) -> anyhow::Result<()> {
        let chain = self.chain()?.clone();
        if self.pinning.place.is_some() {
            let lock = self.lock.as_ref().context("take over what is pinned without the lock")?;
            let both: BTreeSet<Prefix> = before.routes().into_iter().chain(aim.plan.routes.clone()).collect();
            lock.claim_pinned(&both.into_iter().collect::<Vec<_>>(), Some(&chain))?;
        }
        let dispatcher = self.dispatcher.as_mut().context("take over what is pinned without a program")?;
        Ok(before.give_way_to(dispatcher)?)
    }

    /// Removes what the version before has pinned, whose place this one's program has taken.
    pub(super) fn have_left_pins(&mut self) -> anyhow::Result<()> {
        let (Some(place), Some(dispatcher)) = (&self.pinning.place, &self.dispatcher) else { return Ok(()) };
        let Some(directory) = dispatcher.pinned_in().map(Path::to_owned) else { return Ok(()) };
        self.keep_link()?;
        place.keep_only(&directory)?;
        self.write_charter()
    }

    /// Removes what was pinned before, but for what is this instance's now.
    fn have_left(&mut self, before: PinnedBefore) -> anyhow::Result<()> {
        let dispatcher = self.dispatcher.as_ref().context("keep what is pinned without a program")?;
        if let Some(directory) = dispatcher.pinned_in().map(Path::to_owned) {
            self.pinning.is_in_force = true;
            self.keep_link()?;
            before.keep_only(&directory)?;
            return self.write_charter();
        }
        let lock = self.lock.as_ref().context("remove what was pinned without the lock")?;
        Ok(before.remove(lock)?)
    }

    /// Makes sure that the link's file is that of the link by which the program is attached.
    pub(super) fn keep_link(&self) -> anyhow::Result<()> {
        let (Some(path), Some(dispatcher)) = (self.pinning.link_path(), &self.dispatcher) else {
            return Ok(());
        };
        let Some(link) = dispatcher.link() else { return Ok(()) };
        let own = dispatcher.probe().program_id();
        let is_own = |(_, told): (_, PinnedLink)| told.program_id == own && told.namespace != 0;
        if PinnedLink::open(&path).is_ok_and(is_own) {
            return Ok(());
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(pin_link(link, &path)?),
        }
    }

    /// Has what is pinned be in force, or put back what somebody has removed of it.
    pub(super) fn keep_pins(&mut self) -> anyhow::Result<()> {
        let chain = self.chain()?.clone();
        let routes: Vec<Prefix> = self
            .ledger
            .have()
            .filter_map(|(resource, _)| match resource {
                Resource::Route(prefix) => Some(*prefix),
                _ => None,
            })
            .collect();
        let own;
        let lock = if let Some(lock) = &self.lock {
            lock
        } else {
            own = registry()?.lock_unless(PATIENCE, || self.stop_asked.is_asked())?;
            &own
        };
        lock.claim_pinned(&routes, Some(&chain))?;
        let place = self.pinning.place.as_ref().context("pin what steers where nothing was to be pinned")?;
        let dispatcher = self.dispatcher.as_mut().context("pin what steers without a program")?;
        if self.pinning.is_in_force {
            dispatcher.put_back_pins()?;
        } else {
            dispatcher.pins_are_moved_to(&place.take_effect()?);
            self.pinning.is_in_force = true;
        }
        self.keep_link()
    }

    /// Takes away what is pinned. What steers does so on, for as long as this process.
    pub(super) fn let_go_of_pins(&mut self) -> Vec<anyhow::Error> {
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.let_go_of_pins();
        }
        let Some(place) = self.pinning.place.as_ref().filter(|_| self.pinning.is_in_force) else {
            return Vec::new();
        };
        let removed = place.remove().map_err(anyhow::Error::from);
        self.pinning.is_in_force = false;
        let release = |lock: &StartupLock| lock.release_pinned().map_err(anyhow::Error::from);
        let released = match &self.lock {
            Some(lock) => release(lock),
            // Where somebody else has it, that one removes the claim of what is not pinned any more.
            None => registry()
                .map(|all| all.lock(PATIENCE).ok())
                .and_then(|lock| lock.iter().try_for_each(release)),
        };
        [removed, released].into_iter().filter_map(Result::err).collect()
    }

    /// True if something of what is pinned is missing.
    pub(super) fn misses_pins(&self) -> anyhow::Result<bool> {
        let Some(dispatcher) = &self.dispatcher else { return Ok(false) };
        let link = self.pinning.link_path();
        let has_link = link.is_none_or(|path| fs::symlink_metadata(path).is_ok());
        let namespace = NamespaceId::current()?.inode();
        Ok(!has_link
            || !dispatcher.missing_pins().is_empty()
            || !is_pinned_for(&run_dir(), namespace, self.chain()?))
    }

    /// The charter of `plan`, which `config` asks for and whose table has so many nodes, if what steers is pinned.
    fn charter(
        &self,
        config: &Config,
        plan: &Plan,
        nodes: usize,
        revision: u32,
    ) -> anyhow::Result<Option<Charter>> {
        let Some(dispatcher) = self.dispatcher.as_ref().filter(|one| one.pinned_in().is_some()) else {
            return Ok(None);
        };
        let bound = |service: &Service| Bound {
            name: service.name.clone(),
            bindings: service.bindings.clone(),
            policy: None,
        };
        let services: Vec<Bound> = config.services.iter().map(bound).collect();
        let probe = dispatcher.probe();
        let mut charter = Charter::of(&services, plan, probe.program_id(), nodes, revision);
        charter.namespace_cookie = namespace_cookie();
        charter.instance = self.claim.as_ref().map(|claim| claim.id().to_string());
        let own = config.services.iter().filter(|service| service.target != Target::Registered);
        charter.own = own.map(|service| service.name.clone()).collect();
        charter.following_place = dispatcher.following_place().0;
        for (id, destination) in &plan.destinations {
            let sockets = self.others.of(destination).to_vec();
            let gone = self.others.gone.get(destination).filter(|_| sockets.is_empty()).cloned();
            let gone = gone.into_iter().map(|mut gone| {
                gone.place = None;
                gone.beside.clear();
                gone
            });
            let all: Vec<_> = sockets.into_iter().chain(gone).collect();
            if !all.is_empty() {
                charter.sockets.insert(*id, all);
            }
            charter.set_former(*id, probe.counts_before(*id)?);
        }
        Ok(Some(charter))
    }

    /// Has the program go by `table`, that of `plan`, which `config` asks for, with the charter of that where it is pinned.
    pub(super) fn publish_table(
        &mut self,
        table: &Table,
        config: &Config,
        plan: &Plan,
        revision: u32,
    ) -> anyhow::Result<()> {
        let charter = self.charter(config, plan, table.nodes().len(), revision)?;
        let charter = charter.map(|charter| charter.text()).unwrap_or_default();
        let dispatcher = self.dispatcher.as_mut().context("publish a table without a program")?;
        dispatcher.publish_pinned(table.nodes(), table.run_time().nodes(), &charter)?;
        self.denying.published(table.run_time());
        Ok(())
    }

    /// Has the charter that is pinned say which registered sockets there are, and what was counted before.
    fn write_charter(&mut self) -> anyhow::Result<()> {
        let nodes = self.dispatcher.as_ref().map_or(0, |dispatcher| dispatcher.probe().nodes());
        if let Some(charter) = self.charter(&self.config, &self.plan, nodes, self.revision)?
            && let Some(dispatcher) = &mut self.dispatcher
        {
            dispatcher.publish_charter(&charter.text())?;
        }
        Ok(())
    }

    /// Marks that registered sockets are being changed, for whoever would find it half done.
    pub(super) fn mark_changing(&self) {
        if let Some(dispatcher) = &self.dispatcher
            && let Err(error) = dispatcher.mark_changing()
        {
            tracing::warn!("mark that registered sockets are changed: {:#}", anyhow::Error::from(error));
        }
    }

    /// Writes down which registered sockets there are, where that is pinned, then empties the places of those that there are no more.
    pub(super) fn settle_places(&mut self) {
        if !self.others.is_unsettled() {
            return;
        }
        let written = self.write_charter();
        if let Err(error) = &written {
            tracing::warn!("write down which sockets are registered: {error:#}");
        }
        for place in self.others.settle() {
            if let Some(dispatcher) = &mut self.dispatcher
                // Where it was closed meanwhile nothing is left to be taken away.
                && let Err(error) = dispatcher.dismiss(place)
            {
                tracing::debug!(%error, "take a registered socket away");
            }
        }
        if let (Ok(()), Some(dispatcher)) = (written, &self.dispatcher) {
            dispatcher.mark_changed();
        }
    }

    /// Goes from what there is to what stays when this instance ends, if anything does: what steers to registered sockets, and nothing else. All
    /// that is to stay; none where all is to go.
    pub(super) async fn go_to_what_stays(&mut self, left: &mut Vec<anyhow::Error>) -> bool {
        let services: Vec<Service> =
            self.config.services.iter().filter(|one| one.target == Target::Registered).cloned().collect();
        if !self.pinning.is_in_force || !self.ledger.has(ResourceKind::Pins) || services.is_empty() {
            return false;
        }
        let aim = match self.what_stays(services) {
            Ok(aim) => aim,
            Err(error) => {
                left.push(error.context("leave what is pinned"));
                return false;
            }
        };
        let mut want = BTreeSet::from([Resource::Attachment, Resource::Rules(aim.revision), Resource::Pins]);
        want.extend(aim.plan.routes.iter().map(|prefix| Resource::Route(*prefix)));
        want.extend(aim.plan.destinations.keys().map(|id| Resource::Registration(*id)));
        self.pinning.staying = Some(aim.plan.routes.clone());
        let course = self.ledger.course_to(&want, Farewell::AtOnce, Instant::now());
        match self.go(course, &aim).await.outcome() {
            Ok(errors) => {
                left.extend(errors);
                tracing::info!(
                    services = aim.config.services.len(),
                    "what is registered stays pinned, and is steered on (spectrum-user unload takes it away)"
                );
                true
            }
            Err(error) => {
                self.pinning.staying = None;
                left.push(error.context("leave what is pinned"));
                false
            }
        }
    }

    /// The aim that has `services` alone.
    fn what_stays(&self, services: Vec<Service>) -> anyhow::Result<Aim> {
        let tied = |errors: Vec<PlanError>| {
            anyhow!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        };
        let mut plan = Plan::of(&services).map_err(tied)?.numbered_as(&self.plan.destinations);
        for (id, destination) in &mut plan.destinations {
            // As they are known here.
            destination.revision =
                self.plan.destination(*id).map_or(destination.revision, |one| one.revision);
        }
        plan.policies = self.plan.policies.clone();
        plan.policies.own.retain(|name, _| services.iter().any(|service| service.name == *name));
        let table = Table::on(&plan, &self.denying.sources(), &interface_index)?;
        let config = Config { services, ..Config::clone(&self.config) };
        Ok(Aim {
            config: Arc::new(config),
            plan: Arc::new(plan),
            revision: self.revision + 1,
            table: Some(Arc::new(table)),
        })
    }

    /// Claims what stays for itself, before the claim of this instance goes.
    pub(super) fn claim_what_stays(&mut self) -> anyhow::Result<()> {
        let Some(routes) = self.pinning.staying.take() else { return Ok(()) };
        // Who waits for the lock may be told to stop as often as it takes.
        let lock = registry()?.lock(super::LOCK_PATIENCE)?;
        // Its own claim is still there.
        Ok(lock.claim_pinned(&routes, Some(self.chain()?))?)
    }

    /// Attaches the program by a link of its own.
    pub(super) fn attach_anew(&mut self) -> anyhow::Result<()> {
        let dispatcher = self.dispatcher.as_mut().context("attach without a program")?;
        // What is left of a link that somebody detached leads nowhere.
        if let Err(error) = dispatcher.detach() {
            tracing::debug!("let go of a link that was detached: {error:#}");
        }
        let namespace = namespace().map_err(|source| DispatcherError::Attach { source: Box::new(source) })?;
        dispatcher.attach(namespace)?;
        if dispatcher.pinned_in().is_some() { self.keep_link() } else { Ok(()) }
    }
}

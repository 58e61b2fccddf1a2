//! What is pinned, in the hands of who changes it: loaded, bound, unbound, unloaded, each under the lock of the namespace's registry, and in
//! such an order that whoever is killed leaves what the next one goes on with. Says nothing to anybody.
//!
//! The claim covers whatever may be in the kernel: it is written first and shrunk last. Routes are added before a table needs them and
//! removed after none does. An id is emptied before a table gives it to a destination, and again when none has it any more. In between stands
//! one update of one map, which publishes table and charter together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use spectrum_common::RegisteredId;
use spectrum_steering::dispatcher::{
    Dispatcher, DispatcherError, FormerCounts, PinnedGeneration, PinnedLink, PinnedLook, pin_link,
};
use spectrum_steering::host::{ForeignSocket, LocalRoutes, NetError, interface_index, namespace_cookie};

use super::charter::{Charter, CharterError};
use super::place::{PinnedPlace, PlaceError};
use super::registered_bound::RegisteredBound;
use crate::model::{
    DestinationId, MOST_SOCKETS, Prefix, RegisteredSocket, ServiceName, Weight, beside, shares,
};
use crate::plan::table::{Table, TableError};
use crate::plan::{Bound, Plan, PlanError, Policies, RunTimeSources};
use crate::registry::{RegistryError, StartupLock};

/// A change of what is pinned that failed. What was pinned before is in force.
#[derive(Debug, thiserror::Error)]
pub enum PinnedError {
    /// The pinned state was written by something else.
    #[error(transparent)]
    Charter(#[from] CharterError),
    /// The kernel would not.
    #[error(transparent)]
    Dispatcher(#[from] DispatcherError),
    /// An instance that runs has it.
    #[error(
        "change what is pinned: process {pid} has it, and steers by its configuration (try: change that, then spectrum-user reload; \
         unload is for when it has ended)"
    )]
    Held {
        /// The process of the instance.
        pid: u32,
    },
    /// A destination has enough sockets.
    #[error("{MOST_SOCKETS} sockets are registered already, and no more may share its clients")]
    Crowded,
    /// A route could not be had.
    #[error(transparent)]
    Net(#[from] NetError),
    /// There is no place for it.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Bindings cannot be together.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Plan(Vec<PlanError>),
    /// There is somebody who has what is bound.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// There is no room for so many destinations.
    #[error(
        "bind: {needed} destinations (service, protocol, family) are more than the {capacity} that there is room for (unload, and load \
         with a file that has them all)"
    )]
    Room {
        /// The number of ids that it takes.
        needed: usize,
        /// The number that there is.
        capacity: usize,
    },
    /// The bindings are too many for a table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Things that could not be taken back: they are left over, and the next command removes them.
    #[error("remove what is not needed any more: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Undo(Vec<NetError>),
}

/// The pinned state of the network namespace of the calling thread.
pub struct PinnedState {
    place: PinnedPlace,
    lock: StartupLock,
    dispatcher: Dispatcher,
    routes: LocalRoutes,
    charter: Charter,
    services: Vec<Bound>,
    plan: Plan,
}

impl PinnedState {
    /// Pins what steers `services`, of which nothing is pinned yet. `group` may read it.
    ///
    /// # Errors
    /// Nothing is pinned, or what is left of it is removed by the next command.
    pub async fn load(
        lock: StartupLock,
        services: Vec<Bound>,
        plan: Plan,
        group: Option<u32>,
    ) -> Result<Self, PinnedError> {
        let place = PinnedPlace::of(lock.namespace());
        place.prepare()?;
        place.sweep()?;
        lock.claim_pinned(&plan.routes, None)?;
        let mut routes = LocalRoutes::open()?;
        match Self::prepare(&place, &mut routes, &services, &plan, group).await {
            Ok((dispatcher, charter)) => {
                Ok(Self { place, lock, dispatcher, routes, charter, services, plan })
            }
            Err(error) => {
                // The error says more than what undoing would.
                let _ = place.sweep();
                let _ = routes.undo().await;
                let _ = lock.release_pinned();
                place.tidy();
                Err(error)
            }
        }
    }

    async fn prepare(
        place: &PinnedPlace,
        routes: &mut LocalRoutes,
        services: &[Bound],
        plan: &Plan,
        group: Option<u32>,
    ) -> Result<(Dispatcher, Charter), PinnedError> {
        let objects = place.make_aside(group)?;
        let mut dispatcher = Dispatcher::load_pinned(&objects, false, plan.ids(), None)?;
        routes.add(&plan.routes).await?;
        let charter = publish(&mut dispatcher, services, plan, None)?;
        attach(&mut dispatcher, &PinnedPlace::link_in(place.aside()))?;
        dispatcher.pins_are_moved_to(&place.take_effect()?);
        Ok((dispatcher, charter))
    }

    /// The pinned state, if there is any, mended where somebody was killed amid a change of it, or has taken something away.
    ///
    /// # Errors
    /// It is not to be understood, or not to be mended.
    pub async fn open(lock: StartupLock) -> Result<Result<Self, StartupLock>, PinnedError> {
        refuse_held(&lock)?;
        let place = PinnedPlace::of(lock.namespace());
        place.sweep()?;
        if !place.is_taken() {
            place.tidy();
            lock.release_pinned()?;
            return Ok(Err(lock));
        }
        let link_path = PinnedPlace::link_in(place.directory());
        let link = PinnedLink::open(&link_path).ok();
        let objects = place.in_force(link.as_ref().map(|(_, link)| link.program_id))?;
        let (mut dispatcher, generation) = Dispatcher::open_pinned(&objects)?;
        let charter = Charter::parse(&generation.charter)?;
        let is_attached = dispatcher.is_attached(namespace()?)?;
        if !is_attached && charter.namespace_cookie != namespace_cookie() {
            // The kernel has given the inode of a namespace that is gone to this one.
            drop((dispatcher, link));
            place.remove()?;
            lock.release_pinned()?;
            return Ok(Err(lock));
        }
        let (services, plan) = (charter.services(), charter.plan()?);
        let following = RegisteredId(charter.following_place);
        dispatcher.goes_on_with(charter.sockets.keys().copied(), charter.places(), following);
        if dispatcher.is_half_changed() && charter.require_abi().is_ok() {
            settle(&mut dispatcher, &plan, &charter)?;
        }
        lock.claim_pinned(&plan.routes, None)?;
        let mut routes = LocalRoutes::open()?;
        let absent = routes.absent(&plan.routes.iter().copied().collect()).await?;
        routes.add(&absent).await?;
        if !is_attached {
            drop(link);
            // A link that is detached cannot be attached again.
            match fs::remove_file(&link_path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(place.failed("remove the link of", error).into());
                }
                _ => attach(&mut dispatcher, &link_path)?,
            }
        }
        Ok(Ok(Self { place, lock, dispatcher, routes, charter, services, plan }))
    }

    /// The lock under which it may be changed, which it lets go of.
    #[must_use]
    pub fn into_lock(self) -> StartupLock {
        self.lock
    }

    /// The services, with what is bound.
    #[must_use]
    pub fn services(&self) -> &[Bound] {
        &self.services
    }

    /// The plan of what is bound.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The charter in force.
    #[must_use]
    pub fn charter(&self) -> &Charter {
        &self.charter
    }

    /// Steers packets of each of these destinations to its socket: in the place of those that it has, or `is_beside` them with its weight. What
    /// is written down of them follows: which sockets there are says the kernel.
    ///
    /// # Errors
    /// A socket is none that packets can be given to, and then nothing has changed; or the charter cannot be published.
    pub fn register(
        &mut self,
        sockets: Vec<(DestinationId, &ForeignSocket, RegisteredSocket)>,
        is_beside: bool,
    ) -> Result<(), PinnedError> {
        self.change(|dispatcher, all| {
            let mut leaving = Vec::new();
            for (id, file, mut socket) in sockets {
                let mut before = all.remove(&id).unwrap_or_default();
                before.retain(|one| is_there(dispatcher, one));
                let known = before.iter().find(|one| one.cookie == socket.cookie);
                if known.is_none() && is_beside && before.len() >= MOST_SOCKETS {
                    return Err(PinnedError::Crowded);
                }
                socket.place = match known.and_then(|known| known.place) {
                    Some(place) => Some(place),
                    None => Some(dispatcher.admit(file)?),
                };
                let (stay, leave) = beside(&before, socket, is_beside);
                dispatcher.share(id, &shares(&stay))?;
                leaving.extend(leave);
                all.insert(id, stay);
            }
            Ok(leaving)
        })
    }

    /// Steers packets of these destinations to these sockets no more.
    ///
    /// # Errors
    /// The kernel would not, or the charter cannot be published.
    pub fn unregister(&mut self, sockets: &[(DestinationId, RegisteredSocket)]) -> Result<(), PinnedError> {
        self.change(|dispatcher, all| {
            for (id, socket) in sockets {
                let Some(own) = all.get_mut(id) else { continue };
                own.retain(|one| one != socket);
                dispatcher.share(*id, &shares(own))?;
                if own.is_empty() {
                    all.remove(id);
                }
            }
            Ok(sockets.iter().map(|(_, socket)| socket.clone()).collect())
        })
    }

    /// Gives these sockets another weight: the destinations of which none has any now.
    ///
    /// # Errors
    /// The kernel would not, or the charter cannot be published.
    pub fn weigh(
        &mut self,
        sockets: &[(DestinationId, RegisteredSocket)],
        weight: Weight,
    ) -> Result<BTreeSet<DestinationId>, PinnedError> {
        let ids: BTreeSet<DestinationId> = sockets.iter().map(|(id, _)| *id).collect();
        self.change(|dispatcher, all| {
            for id in &ids {
                let Some(own) = all.get_mut(id) else { continue };
                let is_meant = |one: &&mut RegisteredSocket| sockets.iter().any(|(_, meant)| meant == *one);
                own.iter_mut().filter(is_meant).for_each(|one| one.weight = weight);
                dispatcher.share(*id, &shares(own))?;
            }
            Ok(Vec::new())
        })?;
        let is_drained = |id: &DestinationId| {
            let own = self.charter.sockets.get(id);
            own.is_some_and(|own| own.iter().all(|one| one.weight == Weight::ZERO))
        };
        Ok(ids.into_iter().filter(is_drained).collect())
    }

    /// Has `change` change which sockets destinations have, and writes that down; those that it returns are let go of then. Whoever is killed
    /// amid it leaves a mark, by which the next one has all be as it is written down.
    fn change(
        &mut self,
        change: impl FnOnce(
            &mut Dispatcher,
            &mut BTreeMap<DestinationId, Vec<RegisteredSocket>>,
        ) -> Result<Vec<RegisteredSocket>, PinnedError>,
    ) -> Result<(), PinnedError> {
        self.charter.require_abi()?;
        self.dispatcher.mark_changing()?;
        let mut next = self.charter.clone();
        let changed = change(&mut self.dispatcher, &mut next.sockets).and_then(|leaving| {
            next.following_place = self.dispatcher.following_place().0;
            next.revision += 1;
            self.dispatcher.publish_charter(&next.text())?;
            Ok(leaving)
        });
        match changed {
            Ok(leaving) => {
                self.charter = next;
                for place in leaving.iter().flat_map(RegisteredSocket::places) {
                    dismiss(&mut self.dispatcher, place);
                }
                self.dispatcher.mark_changed();
                Ok(())
            }
            Err(error) => {
                // Where that fails too the mark stays, and the next command does it.
                if let Err(error) = settle(&mut self.dispatcher, &self.plan, &self.charter) {
                    tracing::debug!(%error, "go back to the sockets of before");
                }
                Err(error)
            }
        }
    }

    /// Puts the program of this version in the place of the one that is pinned, in one step: what is bound and registered stays, and so do
    /// counters. `None`: nothing is pinned.
    ///
    /// # Errors
    /// The program before steers on.
    pub fn upgrade(lock: &StartupLock) -> Result<Option<Charter>, PinnedError> {
        refuse_held(lock)?;
        let place = PinnedPlace::of(lock.namespace());
        place.sweep()?;
        if !place.is_taken() {
            return Ok(None);
        }
        let link_path = PinnedPlace::link_in(place.directory());
        let (link, PinnedLink { program_id, .. }) = PinnedLink::open(&link_path)?;
        let former = place.in_force(Some(program_id))?;
        let before = Charter::parse(&PinnedGeneration::read(&former)?.charter)?;
        let (services, plan) = (before.services(), before.plan()?);
        let next = place.make_next()?;
        let replaced = replace(&former, &next, (link, &link_path), &services, &plan, before);
        match replaced {
            Ok(charter) => {
                place.keep_only(&next)?;
                Ok(Some(charter))
            }
            Err(error) => {
                // Which of the two is in force says the link, whatever has failed.
                let _ = place.in_force(PinnedLink::open(&link_path).ok().map(|(_, link)| link.program_id));
                Err(error)
            }
        }
    }

    /// Binds `services` in place of what is bound. They let in whom `policies` say; none: whom they do.
    ///
    /// # Errors
    /// What was bound before still is, but for [`PinnedError::Undo`].
    pub async fn rebind(
        &mut self,
        services: Vec<Bound>,
        policies: Option<Policies>,
    ) -> Result<(), PinnedError> {
        self.charter.require_abi()?;
        let revision = self.charter.revision + 1;
        let plan = {
            let (before, after) = (RegisteredBound::all(&self.services), RegisteredBound::all(&services));
            let mut plan = self.plan.following(&before, &after, revision).map_err(PinnedError::Plan)?;
            plan.policies = policies.unwrap_or_else(|| {
                let mut policies = self.plan.policies.clone();
                policies.own.retain(|name, _| services.iter().any(|service| service.name == *name));
                policies
            });
            plan
        };
        let capacity = self.dispatcher.capacity();
        if plan.ids() > capacity {
            return Err(PinnedError::Room { needed: plan.ids(), capacity });
        }
        let both: BTreeSet<Prefix> = self.plan.routes.iter().chain(&plan.routes).copied().collect();
        let both: Vec<Prefix> = both.into_iter().collect();
        self.lock.claim_pinned(&both, None)?;
        self.routes.add(&plan.routes).await?;
        let (were, are): (BTreeSet<DestinationId>, BTreeSet<DestinationId>) =
            (self.plan.destinations.keys().copied().collect(), plan.destinations.keys().copied().collect());
        // A killed process may have left a socket in a place that nothing was steered to.
        for id in are.difference(&were) {
            self.dispatcher.empty(*id)?;
            self.dispatcher.reset_counts(*id)?;
        }
        self.dispatcher.mark_changing()?;
        let next = publish(&mut self.dispatcher, &services, &plan, Some(&self.charter))?;
        let before = std::mem::replace(&mut self.charter, next);
        for id in were.difference(&are) {
            self.dispatcher.empty(*id)?;
            let left = before.sockets.get(id).into_iter().flatten();
            left.flat_map(RegisteredSocket::places).for_each(|place| dismiss(&mut self.dispatcher, place));
        }
        self.dispatcher.mark_changed();
        let needed: BTreeSet<Prefix> = plan.routes.iter().copied().collect();
        let needless: Vec<Prefix> =
            self.plan.routes.iter().filter(|route| !needed.contains(*route)).copied().collect();
        (self.services, self.plan) = (services, plan);
        let errors = self.routes.remove(&needless).await;
        if !errors.is_empty() {
            return Err(PinnedError::Undo(errors));
        }
        Ok(self.lock.claim_pinned(&self.plan.routes, None)?)
    }

    /// True if an instance answers for the service itself, when it runs.
    #[must_use]
    pub fn is_own(&self, service: &ServiceName) -> bool {
        self.charter.own.contains(service)
    }

    /// Takes away what is pinned though it cannot be understood; its routes are leftovers then.
    ///
    /// # Errors
    /// Something is left, which the next command removes.
    pub fn discard(lock: &StartupLock) -> Result<(), PinnedError> {
        refuse_held(lock)?;
        PinnedPlace::of(lock.namespace()).remove()?;
        Ok(lock.release_pinned()?)
    }

    /// Takes everything away.
    ///
    /// # Errors
    /// Something is left, which the next command removes.
    pub async fn unload(self) -> Result<(), PinnedError> {
        let Self { place, lock, dispatcher, mut routes, plan, .. } = self;
        drop(dispatcher);
        place.remove()?;
        let errors = routes.remove(&plan.routes).await;
        if !errors.is_empty() {
            return Err(PinnedError::Undo(errors));
        }
        Ok(lock.release_pinned()?)
    }
}

/// Refuses where an instance that runs has what is pinned.
fn refuse_held(lock: &StartupLock) -> Result<(), PinnedError> {
    match lock.holder_of_pins()? {
        Some(holder) => Err(PinnedError::Held { pid: holder.pid }),
        None => Ok(()),
    }
}

/// True while the kernel has it where it was put.
fn is_there(dispatcher: &Dispatcher, socket: &RegisteredSocket) -> bool {
    // Where the kernel does not say, it is as it was.
    let is_at = |place| dispatcher.probe().registered_cookie(place);
    socket.group().any(|one| {
        one.place.is_some_and(|place| is_at(place).map_or(true, |cookie| cookie == Some(one.cookie)))
    })
}

/// Empties the place of a registered socket that nothing is steered to any more.
fn dismiss(dispatcher: &mut Dispatcher, place: RegisteredId) {
    // Where it was closed meanwhile nothing is left to be taken away.
    if let Err(error) = dispatcher.dismiss(place) {
        tracing::debug!(%error, "take a registered socket away");
    }
}

/// Has the registered sockets of all destinations be as `charter` says, whatever a process that was killed has made of them.
fn settle(dispatcher: &mut Dispatcher, plan: &Plan, charter: &Charter) -> Result<(), PinnedError> {
    for id in plan.destinations.keys() {
        dispatcher.share(*id, &shares(charter.sockets.get(id).map_or(&[][..], Vec::as_slice)))?;
    }
    dispatcher.dismiss_others(&charter.places());
    dispatcher.mark_changed();
    Ok(())
}

/// Gives the sockets of `charter`, which the map `listeners` of another dispatcher has, places in that of `dispatcher`, and divides the clients
/// of their destinations as before.
pub(super) fn move_sockets(
    dispatcher: &mut Dispatcher,
    listeners: BorrowedFd<'_>,
    charter: &mut Charter,
) -> Result<(), DispatcherError> {
    for (id, sockets) in &mut charter.sockets {
        for socket in sockets.iter_mut() {
            let mut group = Vec::new();
            for mut one in socket.group() {
                let Some(place) = one.place else { continue };
                one.place = dispatcher.admit_from(listeners, place)?;
                group.extend(one.place.is_some().then_some(one));
            }
            if let Some(left) = socket.clone().with_group(&group) {
                *socket = left;
            } else {
                socket.place = None;
                socket.beside.clear();
            }
        }
        dispatcher.share(*id, &shares(sockets))?;
    }
    charter.following_place = dispatcher.following_place().0;
    Ok(())
}

/// Loads the program into `next`, with what the one in `former` has, and has the link run it.
fn replace(
    former: &Path,
    next: &Path,
    (link, link_path): (OwnedFd, &Path),
    services: &[Bound],
    plan: &Plan,
    mut before: Charter,
) -> Result<Charter, PinnedError> {
    let secret = Dispatcher::pinned_secret(former).ok();
    let mut dispatcher = Dispatcher::load_pinned(next, false, plan.ids(), secret)?;
    let listeners = Dispatcher::pinned_listeners(former)?;
    dispatcher.copy_listeners(listeners.as_fd(), plan.destinations.keys().copied())?;
    move_sockets(&mut dispatcher, listeners.as_fd(), &mut before)?;
    publish(&mut dispatcher, services, plan, Some(&before))?;
    let is_attached = PinnedLink::open(link_path)?.1.namespace != 0;
    if is_attached {
        dispatcher.take_over(link, FormerCounts::default(), namespace()?)?;
    } else {
        // The next command makes another link, to a program that is there.
        return Err(DispatcherError::Charter {
            path: link_path.to_owned(),
            cause: "somebody has detached it (try: spectrum-user clean, then upgrade)",
        }
        .into());
    }
    // What it has counted until now, and what it had counted before.
    let look = PinnedLook::open(former)?;
    let mut counted = before.clone();
    for id in plan.destinations.keys() {
        counted.set_former(*id, before.former(*id) + look.counts(*id)?);
    }
    publish(&mut dispatcher, services, plan, Some(&counted))
}

/// Publishes the table of `plan` with its charter, which comes after another one.
fn publish(
    dispatcher: &mut Dispatcher,
    services: &[Bound],
    plan: &Plan,
    before: Option<&Charter>,
) -> Result<Charter, PinnedError> {
    let revision = before.map_or(0, |before| before.revision + 1);
    let table = Table::on(plan, &RunTimeSources::default(), &interface_index)?;
    let program = dispatcher.probe().program_id();
    let mut charter = Charter::of(services, plan, program, table.nodes().len(), revision);
    charter.namespace_cookie = namespace_cookie();
    charter.following_place = dispatcher.following_place().0;
    if let Some(before) = before {
        charter = charter.after(before);
    }
    dispatcher.publish_pinned(table.nodes(), table.run_time().nodes(), &charter.text())?;
    Ok(charter)
}

/// Attaches the dispatcher to the network namespace of the calling thread by a link that is pinned at `path`.
fn attach(dispatcher: &mut Dispatcher, path: &Path) -> Result<(), PinnedError> {
    dispatcher.attach(namespace()?)?;
    if let Some(link) = dispatcher.link() {
        pin_link(link, path)?;
    }
    Ok(())
}

fn namespace() -> Result<File, DispatcherError> {
    File::open("/proc/thread-self/ns/net")
        .map_err(|source| DispatcherError::Attach { source: Box::new(source) })
}

//! What is pinned, in the hands of who changes it: loaded, bound, unbound, unloaded, each under the lock of the namespace's registry, and in
//! such an order that whoever is killed leaves what the next one goes on with. Says nothing to anybody.
//!
//! The claim covers whatever may be in the kernel: it is written first and shrunk last. Routes are added before a table needs them and
//! removed after none does. An id is emptied before a table gives it to a destination, and again when none has it any more. In between stands
//! one update of one map, which publishes table and charter together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use spectrum_steering::dispatcher::{
    Dispatcher, DispatcherError, FormerCounts, PinnedGeneration, PinnedLink, PinnedLook, make_directory,
    pin_link, unpin,
};
use spectrum_steering::host::{LocalRoutes, NetError, namespace_cookie};

use super::charter::{Charter, CharterError, PinnedSocket};
use super::place::{PinnedPlace, PlaceError};
use crate::model::{DestinationId, Prefix};
use crate::plan::table::{Table, TableError};
use crate::plan::{Bound, Plan, PlanError};
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
        sweep(&place)?;
        lock.claim_pinned(&plan.routes)?;
        let mut routes = LocalRoutes::open()?;
        match Self::prepare(&place, &mut routes, &services, &plan, group).await {
            Ok((dispatcher, charter)) => {
                Ok(Self { place, lock, dispatcher, routes, charter, services, plan })
            }
            Err(error) => {
                // The error says more than what undoing would.
                let _ = sweep(&place);
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
        let aside = place.aside();
        let objects = PinnedPlace::first_objects_in(aside);
        for path in [aside, &objects] {
            make_directory(path, group).map_err(|source| PlaceError::Os {
                op: "make directory",
                path: path.to_owned(),
                source,
            })?;
        }
        let mut dispatcher = Dispatcher::load_pinned(&objects, plan.ids())?;
        routes.add(&plan.routes).await?;
        let charter = publish(&mut dispatcher, services, plan, None)?;
        attach(&mut dispatcher, &PinnedPlace::link_in(aside))?;
        fs::rename(aside, place.directory()).map_err(|source| place.failed("rename to", source))?;
        // Its files have other names now.
        let (dispatcher, _) = Dispatcher::open_pinned(&PinnedPlace::first_objects_in(place.directory()))?;
        Ok((dispatcher, charter))
    }

    /// The pinned state, if there is any, mended where somebody was killed amid a change of it, or has taken something away.
    ///
    /// # Errors
    /// It is not to be understood, or not to be mended.
    pub async fn open(lock: StartupLock) -> Result<Result<Self, StartupLock>, PinnedError> {
        let place = PinnedPlace::of(lock.namespace());
        sweep(&place)?;
        if !place.is_taken() {
            lock.release_pinned()?;
            return Ok(Err(lock));
        }
        let link_path = PinnedPlace::link_in(place.directory());
        let link = PinnedLink::open(&link_path).ok();
        let objects = in_force(&place, link.as_ref().map(|(_, link)| link.program_id))?;
        let (mut dispatcher, generation) = Dispatcher::open_pinned(&objects)?;
        let charter = Charter::parse(&generation.charter)?;
        let is_attached = dispatcher.is_attached(namespace()?)?;
        if !is_attached && charter.namespace_cookie != namespace_cookie() {
            // The kernel has given the inode of a namespace that is gone to this one.
            drop((dispatcher, link));
            remove(&place)?;
            lock.release_pinned()?;
            return Ok(Err(lock));
        }
        let (services, plan) = (charter.services(), charter.plan()?);
        lock.claim_pinned(&plan.routes)?;
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

    /// Steers packets of each of these destinations to its socket, in the place of the one that it has. What is written down of them follows:
    /// which sockets there are says the kernel.
    ///
    /// # Errors
    /// A socket is none that packets can be given to.
    pub fn register(
        &mut self,
        sockets: Vec<(DestinationId, &impl AsFd, PinnedSocket)>,
    ) -> Result<(), PinnedError> {
        self.charter.require_abi()?;
        for (id, socket, _) in &sockets {
            self.dispatcher.register(*id, *socket)?;
        }
        self.write_down(|all| all.extend(sockets.into_iter().map(|(id, _, socket)| (id, socket))))
    }

    /// Steers packets of these destinations to nobody.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn unregister(&mut self, ids: &[DestinationId]) -> Result<(), PinnedError> {
        self.charter.require_abi()?;
        for id in ids {
            self.empty(*id);
        }
        self.write_down(|all| all.retain(|id, _| !ids.contains(id)))
    }

    fn write_down(
        &mut self,
        change: impl FnOnce(&mut BTreeMap<DestinationId, PinnedSocket>),
    ) -> Result<(), PinnedError> {
        let mut before = self.charter.clone();
        change(&mut before.sockets);
        self.charter = publish(&mut self.dispatcher, &self.services, &self.plan, Some(&before))?;
        Ok(())
    }

    /// Puts the program of this version in the place of the one that is pinned, in one step: what is bound and registered stays, and so do
    /// counters. `None`: nothing is pinned.
    ///
    /// # Errors
    /// The program before steers on.
    pub fn upgrade(lock: &StartupLock) -> Result<Option<Charter>, PinnedError> {
        let place = PinnedPlace::of(lock.namespace());
        sweep(&place)?;
        if !place.is_taken() {
            return Ok(None);
        }
        let link_path = PinnedPlace::link_in(place.directory());
        let (link, PinnedLink { program_id, .. }) = PinnedLink::open(&link_path)?;
        let former = in_force(&place, Some(program_id))?;
        let before = Charter::parse(&PinnedGeneration::read(&former)?.charter)?;
        let (services, plan) = (before.services(), before.plan()?);
        let (number, group) = numbered(&former)?;
        let next = place.directory().join((number + 1).to_string());
        make_directory(&next, Some(group)).map_err(|source| PlaceError::Os {
            op: "make directory",
            path: next.clone(),
            source,
        })?;
        let replaced = replace(&former, &next, (link, &link_path), &services, &plan, &before);
        match replaced {
            Ok(charter) => {
                // Out of sight in one step, so that nobody finds half of it.
                fs::rename(&former, place.former()).map_err(|source| PlaceError::Os {
                    op: "rename",
                    path: former,
                    source,
                })?;
                sweep(&place)?;
                Ok(Some(charter))
            }
            Err(error) => {
                // Which of the two is in force says the link, whatever has failed.
                let _ = in_force(&place, PinnedLink::open(&link_path).ok().map(|(_, link)| link.program_id));
                Err(error)
            }
        }
    }

    /// Binds `services` in place of what is bound.
    ///
    /// # Errors
    /// What was bound before still is, but for [`PinnedError::Undo`].
    pub async fn rebind(&mut self, services: Vec<Bound>) -> Result<(), PinnedError> {
        self.charter.require_abi()?;
        let revision = self.charter.revision + 1;
        let plan = self.plan.following(&self.services, &services, revision).map_err(PinnedError::Plan)?;
        let capacity = self.dispatcher.capacity();
        if plan.ids() > capacity {
            return Err(PinnedError::Room { needed: plan.ids(), capacity });
        }
        let both: BTreeSet<Prefix> = self.plan.routes.iter().chain(&plan.routes).copied().collect();
        let both: Vec<Prefix> = both.into_iter().collect();
        self.lock.claim_pinned(&both)?;
        self.routes.add(&plan.routes).await?;
        let (were, are): (BTreeSet<DestinationId>, BTreeSet<DestinationId>) =
            (self.plan.destinations.keys().copied().collect(), plan.destinations.keys().copied().collect());
        // A killed process may have left a socket in a place that nothing was steered to.
        for id in are.difference(&were) {
            self.empty(*id);
            self.dispatcher.reset_counts(*id)?;
        }
        self.charter = publish(&mut self.dispatcher, &services, &plan, Some(&self.charter))?;
        for id in were.difference(&are) {
            self.empty(*id);
        }
        let needed: BTreeSet<Prefix> = plan.routes.iter().copied().collect();
        let needless: Vec<Prefix> =
            self.plan.routes.iter().filter(|route| !needed.contains(*route)).copied().collect();
        (self.services, self.plan) = (services, plan);
        let errors = self.routes.remove(&needless).await;
        if !errors.is_empty() {
            return Err(PinnedError::Undo(errors));
        }
        Ok(self.lock.claim_pinned(&self.plan.routes)?)
    }

    /// Leaves `id` without a socket.
    fn empty(&mut self, id: DestinationId) {
        // Most have none, which is an error to the kernel.
        if let Err(error) = self.dispatcher.unregister(id) {
            tracing::trace!(%error, "empty a place");
        }
    }

    /// Takes away what is pinned though it cannot be understood; its routes are leftovers then.
    ///
    /// # Errors
    /// Something is left, which the next command removes.
    pub fn discard(lock: &StartupLock) -> Result<(), PinnedError> {
        remove(&PinnedPlace::of(lock.namespace()))?;
        Ok(lock.release_pinned()?)
    }

    /// Takes everything away.
    ///
    /// # Errors
    /// Something is left, which the next command removes.
    pub async fn unload(self) -> Result<(), PinnedError> {
        let Self { place, lock, dispatcher, mut routes, plan, .. } = self;
        drop(dispatcher);
        remove(&place)?;
        let errors = routes.remove(&plan.routes).await;
        if !errors.is_empty() {
            return Err(PinnedError::Undo(errors));
        }
        Ok(lock.release_pinned()?)
    }
}

/// Takes what is in force out of sight, in one step, then takes it away.
fn remove(place: &PinnedPlace) -> Result<(), PinnedError> {
    fs::rename(place.directory(), place.former()).map_err(|source| place.failed("rename", source))?;
    sweep(place)?;
    place.tidy();
    Ok(())
}

/// Removes what killed processes have left beside what is in force.
fn sweep(place: &PinnedPlace) -> Result<(), PlaceError> {
    for path in [place.aside(), place.former()] {
        unpin(path).map_err(|source| PlaceError::Os { op: "remove", path: path.to_owned(), source })?;
    }
    Ok(())
}

/// The directory of objects that are in force: those whose program the link runs. The others, of an upgrade that was killed, are removed.
fn in_force(place: &PinnedPlace, program: Option<u32>) -> Result<PathBuf, PinnedError> {
    let mut all = place.objects()?;
    let is_meant = |path: &Path| {
        Dispatcher::pinned_program(path).is_ok_and(|found| program.is_none_or(|program| program == found))
    };
    let meant = all.iter().position(|(_, path)| is_meant(path)).unwrap_or_default();
    if all.is_empty() {
        let path = place.directory().to_owned();
        return Err(
            DispatcherError::Charter { path, cause: "nothing is in it (try: spectrum-user unload)" }.into()
        );
    }
    let (_, path) = all.swap_remove(meant);
    for (_, other) in all {
        unpin(&other).map_err(|source| PlaceError::Os { op: "remove", path: other.clone(), source })?;
    }
    Ok(path)
}

/// The number of a directory of objects, and its group.
fn numbered(objects: &Path) -> Result<(u32, u32), PlaceError> {
    let number = objects.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or_default();
    let metadata = fs::metadata(objects).map_err(|source| PlaceError::Os {
        op: "look at",
        path: objects.to_owned(),
        source,
    })?;
    Ok((number, metadata.gid()))
}

/// Loads the program into `next`, with what the one in `former` has, and has the link run it.
fn replace(
    former: &Path,
    next: &Path,
    (link, link_path): (OwnedFd, &Path),
    services: &[Bound],
    plan: &Plan,
    before: &Charter,
) -> Result<Charter, PinnedError> {
    let mut dispatcher = Dispatcher::load_pinned(next, plan.ids())?;
    let listeners = Dispatcher::pinned_listeners(former)?;
    dispatcher.copy_listeners(listeners.as_fd(), plan.destinations.keys().copied())?;
    publish(&mut dispatcher, services, plan, Some(before))?;
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
    let table = Table::of(plan)?;
    let program = dispatcher.probe().program_id();
    let mut charter = Charter::of(services, plan, program, table.nodes().len(), revision);
    charter.namespace_cookie = namespace_cookie();
    if let Some(before) = before {
        charter = charter.after(before);
    }
    dispatcher.publish_pinned(table.nodes(), &charter.text())?;
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

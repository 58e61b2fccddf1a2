//! What is pinned, in the hands of an instance that takes it over, whoever has pinned it: `load`, or an instance that was killed. Until the
//! link runs another program everything stays as it is, and may be left so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use spectrum_steering::dispatcher::{
    Dispatcher, DispatcherError, FormerCounts, FormerSums, PinnedGeneration, PinnedLink, PinnedLook, Secret,
};
use spectrum_steering::host::namespace_cookie;

use super::charter::Charter;
use super::place::{PinnedPlace, PlaceError};
use super::state::{PinnedError, move_sockets};
use crate::model::{Destination, DestinationId, Prefix, RegisteredSocket, Service, ServiceName};
use crate::plan::Plan;
use crate::registry::StartupLock;

/// What is pinned before an instance takes it over.
#[derive(Debug)]
pub struct PinnedBefore {
    place: PinnedPlace,
    /// None where somebody has removed it: nothing is steered then.
    link: Option<OwnedFd>,
    objects: PathBuf,
    charter: Charter,
    /// The prefixes that are claimed for it: who was killed may have added routes that no charter speaks of.
    claimed: Vec<Prefix>,
}

impl PinnedBefore {
    /// What is pinned in the network namespace of the calling thread; `None`: nothing is, or what another namespace has left whose inode this
    /// one has now, which is removed.
    ///
    /// # Errors
    /// It cannot be read, or was made by a version of the program that this one does not understand.
    pub fn find(lock: &StartupLock) -> Result<Option<Self>, PinnedError> {
        let place = PinnedPlace::of(lock.namespace());
        place.sweep()?;
        if !place.is_taken() {
            return Ok(None);
        }
        let link = PinnedLink::open(&PinnedPlace::link_in(place.directory())).ok();
        let objects = place.in_force(link.as_ref().map(|(_, link)| link.program_id))?;
        let charter = Charter::parse(&PinnedGeneration::read(&objects)?.charter)?;
        let is_attached = link.as_ref().is_some_and(|(_, link)| link.namespace != 0);
        if !is_attached && charter.namespace_cookie != namespace_cookie() {
            drop(link);
            place.remove()?;
            lock.release_pinned()?;
            return Ok(None);
        }
        charter.require_abi()?;
        charter.plan()?;
        let claimed = lock.pinned_prefixes()?;
        Ok(Some(Self { place, link: link.map(|(link, _)| link), objects, charter, claimed }))
    }

    /// The place where it is.
    #[must_use]
    pub fn place(&self) -> &PinnedPlace {
        &self.place
    }

    /// The instance whose configuration it was; none where verbs have bound it.
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        self.charter.instance.as_deref()
    }

    /// The prefixes that it has routes for, or may have.
    #[must_use]
    pub fn routes(&self) -> BTreeSet<Prefix> {
        // It was looked at when it was found.
        let routes = self.charter.plan().map(|plan| plan.routes).unwrap_or_default();
        routes.into_iter().chain(self.claimed.iter().copied()).collect()
    }

    /// The services that it has and `services` have not.
    #[must_use]
    pub fn beyond(&self, services: &[Service]) -> Vec<ServiceName> {
        let names = self.charter.services().into_iter().map(|service| service.name);
        names.filter(|name| !services.iter().any(|service| service.name == *name)).collect()
    }

    /// `plan`, which is a first one, with the numbers of destinations that both have. What else it has gets numbers that nobody had.
    #[must_use]
    pub fn renumbered(&self, plan: Plan) -> Plan {
        let known: BTreeMap<DestinationId, Destination> =
            self.charter.plan().map(|plan| plan.destinations).unwrap_or_default();
        plan.numbered_as(&known)
    }

    /// That by which slots are clients': with the same one they go where they went.
    #[must_use]
    pub fn secret(&self) -> Option<Secret> {
        Dispatcher::pinned_secret(&self.objects).ok()
    }

    /// Gives the registered sockets of destinations for which `is_wanted` places in the map of `dispatcher`, and divides the clients as before:
    /// those that are there, and those that are not any more.
    ///
    /// # Errors
    /// The kernel would not.
    pub fn move_sockets(
        &mut self,
        dispatcher: &mut Dispatcher,
        is_wanted: impl Fn(DestinationId) -> bool,
    ) -> Result<Vec<(DestinationId, RegisteredSocket)>, DispatcherError> {
        let listeners = Dispatcher::pinned_listeners(&self.objects)?;
        let mut moved = self.charter.clone();
        moved.sockets.retain(|id, _| is_wanted(*id));
        move_sockets(dispatcher, listeners.as_fd(), &mut moved)?;
        let each = moved.sockets.into_iter();
        Ok(each.flat_map(|(id, sockets)| sockets.into_iter().map(move |socket| (id, socket))).collect())
    }

    /// Has the link run the program of `dispatcher`, in one step, and goes on counting. From here on this is no more in force.
    ///
    /// # Errors
    /// What is pinned steers on.
    pub fn give_way_to(&mut self, dispatcher: &mut Dispatcher) -> Result<(), PinnedError> {
        let op = |source| DispatcherError::Attach { source: Box::new(source) };
        let namespace = File::open("/proc/thread-self/ns/net").map_err(op)?;
        let sums = self.charter.former_of_all();
        let counters = PinnedLook::counters(&self.objects)?;
        let former = FormerCounts::open(FormerSums::of(sums), counters)?;
        if let Some(link) = self.link.take() {
            dispatcher.take_over(link, former, namespace)?;
        } else {
            dispatcher.attach(namespace)?;
            dispatcher.goes_on_from(former);
        }
        Ok(())
    }

    /// Removes what is pinned, which is not in force any more.
    ///
    /// # Errors
    /// Something is left, which the next command removes.
    pub fn remove(self, lock: &StartupLock) -> Result<(), PinnedError> {
        self.place.remove()?;
        Ok(lock.release_pinned()?)
    }

    /// Removes it but for the objects in `directory`, which are in force.
    ///
    /// # Errors
    /// Something is left, which the next command removes.
    pub fn keep_only(self, directory: &Path) -> Result<(), PlaceError> {
        self.place.keep_only(directory)
    }
}

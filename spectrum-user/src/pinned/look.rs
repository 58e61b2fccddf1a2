//! What is pinned, for who looks at it: needs no more than to read the files, and takes no lock, since a generation never changes. Changes
//! nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::thread;

use tokio::runtime;

use super::charter::Charter;
use super::place::PinnedPlace;
use super::state::PinnedError;
use crate::model::{Destination, DestinationId, Protocol, RegisteredSocket, Weight};
use crate::plan::{Bound, Overlap, Plan};
use crate::registry::{InstanceName, Mode};
use crate::view::{
    BindingView, DETACHED, DestinationPlan, DestinationView, InstanceState, RegisteredCondition,
    RegisteredView, ServicePlan, ServiceView, TableView, View, counted, in_percent,
};
use spectrum_common::Page;
use spectrum_steering::dispatcher::{
    AttachedProgram, DispatcherError, PinnedGeneration, PinnedLink, PinnedLook, attached_programs,
};
use spectrum_steering::host::{ListenQueue, LocalRoutes, listen_queues};

/// The words for what answers.
const TARGET: &str = "registered sockets of other programs";

/// The same of what an instance answered for itself.
const OWN_TARGET: &str = "nobody: the instance that answered for it has ended, and clients are refused";

/// A generation that is pinned, as it was when it was read.
#[derive(Debug)]
pub struct PinnedView {
    namespace: u64,
    /// The directory of its objects.
    objects: PathBuf,
    number: u64,
    charter: Charter,
    services: Vec<Bound>,
    plan: Plan,
}

impl PinnedView {
    /// The generation in force in the network namespace with inode `namespace`; `None`: nothing is pinned there, as far as who asks may
    /// know.
    ///
    /// # Errors
    /// It may not be read, or not be understood.
    pub fn read(namespace: u64) -> Result<Option<Self>, PinnedError> {
        let place = PinnedPlace::of(namespace);
        if !place.is_taken() {
            return match place.unfinished() {
                None => Ok(None),
                Some(path) => {
                    let cause = "a process was killed amid load or unload (try: spectrum-user clean)";
                    Err(DispatcherError::Charter { path: path.to_owned(), cause }.into())
                }
            };
        }
        // Of an upgrade that was killed there are two; who may open the link knows which is in force.
        let program = PinnedLink::open(&PinnedPlace::link_in(place.directory())).ok();
        let program = program.map(|(_, link)| link.program_id);
        let mut last = None;
        for (_, objects) in place.objects()?.into_iter().rev() {
            match Self::read_from(namespace, objects) {
                Ok(pinned) if program.is_none_or(|program| program == pinned.charter.program) => {
                    return Ok(Some(pinned));
                }
                other => {
                    last.get_or_insert(other);
                }
            }
        }
        last.unwrap_or_else(|| {
            let path = place.directory().to_owned();
            Err(DispatcherError::Charter { path, cause: "nothing is in it (try: spectrum-user unload)" }
                .into())
        })
        .map(Some)
    }

    fn read_from(namespace: u64, objects: PathBuf) -> Result<Self, PinnedError> {
        let PinnedGeneration { number, charter, .. } = PinnedGeneration::read(&objects)?;
        let charter = Charter::parse(&charter)?;
        let (services, plan) = (charter.services(), charter.plan()?);
        Ok(Self { namespace, objects, number, charter, services, plan })
    }

    /// The instance whose configuration it is. While that lives it is to be asked instead.
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        self.charter.instance.as_deref()
    }

    /// The version that has published it.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.charter.version
    }

    /// Its bindings that overlap what is asked for, in the order of precedence.
    #[must_use]
    pub fn bindings(&self, overlap: &Overlap) -> Vec<BindingView> {
        let overlapping = self.plan.bindings.iter().filter(|planned| overlap.is_with(&planned.binding));
        overlapping.map(|planned| BindingView::of(&self.plan, planned)).collect()
    }

    /// The view of it, as of an instance.
    ///
    /// # Errors
    /// Something of it may not be read.
    pub fn view(&self) -> anyhow::Result<View> {
        let look = PinnedLook::open(&self.objects)?;
        let mut view = View {
            version: self.charter.version.clone(),
            id: Some(InstanceName::Pinned.to_string()),
            state: InstanceState::Ready,
            mode: Some(Mode::SkLookup),
            namespace: self.namespace,
            generation: self.number,
            revision: self.charter.revision,
            pins: Some(PinnedPlace::of(self.namespace).directory().display().to_string()),
            program: Some(AttachedProgram { id: self.charter.program, name: None }),
            table: Some(TableView { nodes: self.charter.nodes, bytes: Page::bytes_of(self.charter.nodes) }),
            ..View::default()
        };
        let queues = listen_queues().unwrap_or_default();
        view.services = self.services.iter().map(|service| self.service(service, &look, &queues)).collect();
        let each = self.plan.destinations.iter();
        view.destinations = each.map(|one| self.destination(&look, one)).collect::<anyhow::Result<_>>()?;
        self.look_for_missing(&mut view);
        Ok(view)
    }

    /// Adds what others have taken away.
    fn look_for_missing(&self, view: &mut View) {
        match File::open("/proc/thread-self/ns/net").and_then(attached_programs) {
            Ok(attached) => {
                let mut is_attached = false;
                for program in attached {
                    if program.id == self.charter.program {
                        is_attached = true;
                        view.program = Some(program);
                    } else {
                        view.surroundings.other_programs.push(program);
                    }
                }
                if !is_attached {
                    view.missing.push(DETACHED.to_owned());
                    view.hindrances.push(DETACHED.to_owned());
                }
            }
            Err(error) => view.unseen.push(format!("whether the program is attached: {error}")),
        }
        // On a thread of its own, since whoever asks may be amid something that waits.
        let absent = || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let routes = self.plan.routes.iter().copied().collect();
            anyhow::Ok(runtime.block_on(async { LocalRoutes::open()?.absent(&routes).await })?)
        };
        let absent = thread::scope(|scope| scope.spawn(absent).join());
        match absent.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
            Ok(absent) => {
                for route in absent {
                    let missing = format!("local route {route} missing (spectrum-user clean puts it back)");
                    view.missing.push(missing.clone());
                    view.hindrances.push(missing);
                }
            }
            Err(error) => view.unseen.push(format!("local routes: {error:#}")),
        }
    }
}

impl PinnedView {
    fn service(
        &self,
        service: &Bound,
        look: &PinnedLook,
        queues: &BTreeMap<u64, ListenQueue>,
    ) -> ServiceView {
        let is_own = self.charter.own.contains(&service.name);
        let plan = ServicePlan {
            name: service.name.to_string(),
            bindings: service.bindings.len(),
            target: if is_own { OWN_TARGET } else { TARGET }.to_owned(),
            ..ServicePlan::default()
        };
        let own = self.plan.destinations.iter().filter(|(_, one)| one.service == service.name && !is_own);
        let sockets = own.flat_map(|(id, one)| self.sockets(*id, one, look, queues)).collect();
        ServiceView { plan, sockets, ..ServiceView::default() }
    }

    /// The sockets of a destination as the kernel has them, told by what was written down of them.
    fn sockets(
        &self,
        id: DestinationId,
        destination: &Destination,
        look: &PinnedLook,
        queues: &BTreeMap<u64, ListenQueue>,
    ) -> Vec<RegisteredView> {
        let known = self.charter.sockets.get(&id).map_or(&[][..], Vec::as_slice);
        // Whoever has put one there himself has told nobody.
        let untold = look.cookie(id).ok().flatten();
        if known.is_empty() || untold.is_some() {
            let condition = match untold {
                Some(_) => RegisteredCondition::Up,
                None => RegisteredCondition::None,
            };
            return vec![RegisteredView::of(destination, condition, None)];
        }
        let mut views: Vec<RegisteredView> =
            known.iter().map(|socket| socket_view(destination, socket, look, queues)).collect();
        in_percent(&mut views);
        views
    }

    fn destination(
        &self,
        look: &PinnedLook,
        (id, destination): (&DestinationId, &Destination),
    ) -> anyhow::Result<DestinationView> {
        let (packets, denied) = counted(&(self.charter.former(*id) + look.counts(*id)?));
        let plan = DestinationPlan::of((id, destination));
        Ok(DestinationView { plan, listener: None, packets: Some(packets), denied })
    }
}

/// One of them.
fn socket_view(
    destination: &Destination,
    socket: &RegisteredSocket,
    look: &PinnedLook,
    queues: &BTreeMap<u64, ListenQueue>,
) -> RegisteredView {
    // Where the kernel does not say, it is as it was.
    let is_at = |place| look.registered_cookie(place);
    let is_there = socket.group().any(|one| {
        one.place.is_some_and(|place| is_at(place).map_or(true, |cookie| cookie == Some(one.cookie)))
    });
    let queue = queues.get(&socket.cookie).filter(|_| is_there && destination.protocol == Protocol::Tcp);
    let condition = match (is_there, socket.weight) {
        (false, _) => RegisteredCondition::Gone,
        (true, _) if queue.is_some_and(ListenQueue::is_full) => RegisteredCondition::Full,
        (true, Weight::ZERO) => RegisteredCondition::Drained,
        (true, _) => RegisteredCondition::Up,
    };
    RegisteredView {
        weight: Some(socket.weight.get()),
        steered: socket.place.and_then(|place| look.steered_to(place).ok()),
        waiting: queue.map(|queue| queue.waiting),
        most_waiting: queue.map(|queue| queue.most),
        ..RegisteredView::of(destination, condition, Some(socket))
    }
}

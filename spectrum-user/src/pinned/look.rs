//! What is pinned, for who looks at it: needs no more than to read the files, and takes no lock, since a generation never changes. Changes
//! nothing.

use std::fs::File;
use std::thread;

use anyhow::Context as _;
use tokio::runtime;

use super::charter::Charter;
use super::place::PinnedPlace;
use super::state::PinnedError;
use crate::model::{Destination, DestinationId};
use crate::plan::{Bound, Overlap, Plan};
use crate::registry::{InstanceName, Mode};
use crate::view::{
    BindingView, DETACHED, DestinationPlan, DestinationView, InstanceState, ServicePlan, ServiceView,
    TableView, View, counted,
};
use spectrum_common::Page;
use spectrum_steering::dispatcher::{
    AttachedProgram, DispatcherError, PinnedGeneration, PinnedLook, attached_programs,
};
use spectrum_steering::host::LocalRoutes;

/// The words for what answers.
const TARGET: &str = "registered sockets";

/// A generation that is pinned, as it was when it was read.
#[derive(Debug)]
pub struct PinnedView {
    namespace: u64,
    place: PinnedPlace,
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
        let objects = place.objects()?;
        let Some((_, directory)) = objects.first() else {
            let path = place.directory().to_owned();
            return Err(DispatcherError::Charter {
                path,
                cause: "nothing is in it (try: spectrum-user unload)",
            }
            .into());
        };
        let PinnedGeneration { number, charter, .. } = PinnedGeneration::read(directory)?;
        let charter = Charter::parse(&charter)?;
        let (services, plan) = (charter.services(), charter.plan()?);
        Ok(Some(Self { namespace, place, number, charter, services, plan }))
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
        let objects = self.place.objects()?;
        let (_, directory) = objects.first().context("look at what is pinned: it is gone")?;
        let look = PinnedLook::open(directory)?;
        let mut view = View {
            version: self.charter.version.clone(),
            id: Some(InstanceName::Pinned.to_string()),
            state: InstanceState::Ready,
            mode: Some(Mode::SkLookup),
            namespace: self.namespace,
            generation: self.number,
            revision: self.charter.revision,
            program: Some(AttachedProgram { id: self.charter.program, name: None }),
            table: Some(TableView { nodes: self.charter.nodes, bytes: Page::bytes_of(self.charter.nodes) }),
            ..View::default()
        };
        view.services = self.services.iter().map(service).collect();
        let each = self.plan.destinations.iter();
        view.destinations = each.map(|one| destination(&look, one)).collect::<anyhow::Result<_>>()?;
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

fn service(service: &Bound) -> ServiceView {
    let plan = ServicePlan {
        name: service.name.to_string(),
        bindings: service.bindings.len(),
        target: TARGET.to_owned(),
        ..ServicePlan::default()
    };
    ServiceView { plan, ..ServiceView::default() }
}

fn destination(
    look: &PinnedLook,
    (id, destination): (&DestinationId, &Destination),
) -> anyhow::Result<DestinationView> {
    let (packets, denied) = counted(&look.counts(*id)?);
    Ok(DestinationView {
        plan: DestinationPlan::of((id, destination)),
        listener: None,
        packets: Some(packets),
        denied,
    })
}

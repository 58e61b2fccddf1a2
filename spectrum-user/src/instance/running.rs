//! One instance: what it has, and the courses that it takes: to start, to stop, and when something is due. What a step of a course does is
//! in `effects`; its order, and what becomes of a course that fails, the ledger says.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use sd_notify::NotifyState;
use socket2::Socket;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::beside::Repairing;
use super::denying::Denying;
use super::exempting::Exempting;
use super::finding::SocketSearch;
use super::hearing::Hearing;
use super::interface_watch::{InterfaceIndexes, InterfaceWatch};
use super::judging::Judging;
use super::leaving::LeavingWorkers;
use super::list_watch::ListWatch;
use super::notifying::notify;
use super::own_bindings::{CurrentBindings, Speaking};
use super::pinning::Pinning;
use super::ready::Ready;
use super::registering::Registered;
use super::replies::{Replies, refuse_own_addresses};
use super::standby::aside;
use super::stop::Stop;
use super::sweep;
use super::upgrade::OwnProgram;
use super::worker::WorkerEnds;
use super::xdp_links::XdpLinks;
use super::{Act, Course, Farewell, Ledger, Repairs, want};
use crate::admin::AdminServer;
use crate::config::{Config, FirewallChoice, ModeChoice};
use crate::confinement::WorkerUser;
use crate::control::{Asked, ControlServer};
use crate::model::{Destination, DestinationId, Family, Force, Protocol, Resource, ResourceKind, Service};
use crate::plan::Plan;
use crate::plan::firewall::Chain;
use crate::plan::table::Table;
use crate::registry::{Claim, Mode, Registry, StartupLock, run_dir};
use crate::view::{InstanceState, ListenerView, Published, Seen};
use crate::worker_process::{Begun, Host, WorkerProcess};
use spectrum_steering::dispatcher::Dispatcher;
use spectrum_steering::host::{
    Announcement, ListenerAddresses, ListenerGroup, LocalRoutes, NamespaceId, SynCookies,
};
use spectrum_steering::tproxy::{InterruptGuard, Tproxy};

/// The settings that are not part of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) workers: Option<NonZeroUsize>,
    pub(crate) force: Force,
    pub(crate) drain: Duration,
    /// The place of what serves.
    pub(crate) worker: WorkerPlace,
    /// This program.
    pub(crate) program: OwnProgram,
}

/// The place of what serves.
#[derive(Clone, Debug)]
pub(crate) enum WorkerPlace {
    /// A process of its own, of this user.
    Process(WorkerUser),
    /// A thread of this one.
    Thread,
}

/// A configuration to go to, or the one that there is.
#[derive(Clone)]
pub(super) struct Aim {
    pub(super) config: Arc<Config>,
    pub(super) plan: Arc<Plan>,
    /// The number of configurations before this one.
    pub(super) revision: u32,
    /// Its steering table, over sk_lookup, until that is published.
    pub(super) table: Option<Arc<Table>>,
}

/// An instance, complete or as far as it got.
pub(super) struct Running {
    pub(super) config: Arc<Config>,
    pub(super) plan: Arc<Plan>,
    /// The number of configurations before this one.
    pub(super) revision: u32,
    pub(super) settings: Settings,
    /// The path that is taken, once that is decided.
    pub(super) path: Option<Mode>,
    /// The view that those who ask see.
    pub(super) published: Published,
    /// The bindings that hold, as the worker process asks for them.
    pub(super) bindings: CurrentBindings,
    /// The listener for the order to give up what is being done.
    pub(super) stop_asked: Stop,
    /// The orders to stop that there were when it began to stop: one more cuts what is open.
    pub(super) stopping: Option<u32>,
    /// The threads that hear those who ask.
    pub(super) hearing: (Handle, mpsc::Sender<Asked>),
    /// The place of worker processes.
    pub(super) host: Host,
    pub(super) worker: Option<WorkerProcess>,
    /// Those that ended before their time.
    pub(super) ends: WorkerEnds,
    /// Those that have left their listeners to it.
    pub(super) leaving: LeavingWorkers,
    /// The look-ups that are waited for before anything is served.
    pub(super) lookups: Option<Begun>,
    pub(super) ledger: Ledger,
    // What the ledger's things are held by.
    /// Held through all of a start and of a reload.
    pub(super) lock: Option<StartupLock>,
    pub(super) claim: Option<Claim>,
    pub(super) control: Option<ControlServer>,
    pub(super) dispatcher: Option<Box<Dispatcher>>,
    pub(super) routes: Option<LocalRoutes>,
    pub(super) replies: Replies,
    pub(super) admin: Option<AdminServer>,
    /// The device by which prefixes are announced.
    pub(super) announcement: Option<Announcement>,
    /// The destinations that have had a place in the program's map.
    pub(super) registered: BTreeSet<DestinationId>,
    pub(super) listeners: BTreeMap<Destination, ListenerGroup>,
    /// The sockets of other programs.
    pub(super) others: Registered,
    pub(super) finding: SocketSearch,
    /// The part of it that outlives this process.
    pub(super) pinning: Pinning,
    /// The sockets that never answer.
    pub(super) silent: BTreeMap<(Protocol, Family), Socket>,
    pub(super) addresses: ListenerAddresses,
    pub(super) syn_cookies: SynCookies,
    pub(super) exempting: Exempting,
    pub(super) xdp: XdpLinks,
    pub(super) tproxy: Option<Tproxy>,
    /// The revision whose rules steer.
    pub(super) steered: Option<u32>,
    /// Services that the configuration has no more, as they were, while what they have open may end by itself.
    pub(super) gone: Vec<Service>,
    /// The things that others took away.
    pub(super) repairs: Repairs,
    pub(super) repairing: Repairing,
    /// What was said at run time of whom services let in.
    pub(super) denying: Denying,
    /// What the worker process judges by.
    pub(super) judging: Judging,
    /// The lists of prefixes that the configuration names.
    pub(super) lists: ListWatch,
    /// The interfaces that policies name.
    pub(super) interfaces: InterfaceWatch,
    /// The listener that is looked at next.
    pub(super) next_listener: DestinationId,
}

/// The end of a course.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    /// The reason that it led back.
    failure: Option<anyhow::Error>,
    /// Everything that could not be lowered.
    pub(super) left: Vec<anyhow::Error>,
}

impl Arrival {
    /// The reason that it led back, with what could not be undone, or what could not be lowered on it.
    pub(super) fn outcome(self) -> anyhow::Result<Vec<anyhow::Error>> {
        match self.failure {
            None => Ok(self.left),
            Some(error) if self.left.is_empty() => Err(error),
            Some(error) => Err(anyhow!("{error:#}; then, while undoing: {:#}", joined(self.left))),
        }
    }
}

impl Running {
    pub(super) fn new(
        config: Arc<Config>,
        plan: Arc<Plan>,
        settings: Settings,
        host: Host,
        published: Published,
        hearing: &Hearing,
    ) -> Self {
        let repairs = Repairs::default();
        repairs.faults().enter(&published.now().book);
        Self {
            config,
            plan,
            revision: 0,
            settings,
            path: None,
            published,
            bindings: CurrentBindings::default(),
            stop_asked: hearing.stop(),
            stopping: None,
            hearing: (hearing.handle(), hearing.requests()),
            host,
            worker: None,
            ends: WorkerEnds::default(),
            leaving: LeavingWorkers::default(),
            lookups: None,
            ledger: Ledger::default(),
            lock: None,
            claim: None,
            control: None,
            dispatcher: None,
            routes: None,
            replies: Replies::default(),
            admin: None,
            announcement: None,
            registered: BTreeSet::new(),
            listeners: BTreeMap::new(),
            others: Registered::default(),
            finding: SocketSearch::default(),
            pinning: Pinning::default(),
            silent: BTreeMap::new(),
            addresses: ListenerAddresses::default(),
            syn_cookies: SynCookies::now(),
            exempting: Exempting::default(),
            xdp: XdpLinks::default(),
            tproxy: None,
            steered: None,
            gone: Vec::new(),
            repairs,
            repairing: Repairing::default(),
            denying: Denying::default(),
            judging: Judging::default(),
            lists: ListWatch::default(),
            interfaces: InterfaceWatch::default(),
            next_listener: DestinationId(0),
        }
    }

    /// The configuration that there is.
    pub(super) fn aim(&self) -> Aim {
        let (config, plan) = (Arc::clone(&self.config), Arc::clone(&self.plan));
        Aim { config, plan, revision: self.revision, table: None }
    }

    /// Takes `course`, which leads to `aim`. Signals and those who ask are heard meanwhile, by other threads.
    pub(super) async fn go(&mut self, mut course: Course, aim: &Aim) -> Arrival {
        let mut arrival = Arrival::default();
        let mut whole = None;
        while let Some(step) = course.next(&mut self.ledger) {
            match step {
                Act::Raise(resources) => {
                    let raised = match self.stop_asked.check() {
                        // Who stops raises what stays.
                        Err(stopped) if self.stopping.is_none() => Err(stopped.into()),
                        _ => self.raise(&resources, aim).await,
                    };
                    if let Err(error) = raised {
                        course.failed();
                        arrival.failure = Some(error);
                        // Also where it was given up since we are told to stop.
                        whole = Some(InterruptGuard::off());
                    }
                }
                Act::Lower(resources) => arrival.left.extend(self.lower(&resources).await),
            }
        }
        drop(whole);
        arrival
    }

    /// Goes from nothing to traffic that flows, and returns what says so. After an error there may be something left for
    /// [`stop`](Self::stop): what was there before the step that failed.
    pub(super) async fn start(&mut self) -> anyhow::Result<Ready> {
        if self.config.mode == ModeChoice::Tproxy {
            ensure!(self.config.xdp.is_empty(), "{XDP_OVER_TPROXY}");
        }
        self.refuse_covered_addresses(&self.plan, &self.config)?;
        refuse_own_addresses(&self.config.services)?;
        self.bindings.are(vec![Arc::clone(&self.plan)], Speaking::of(&[&self.config]))?;
        let config = Arc::clone(&self.config);
        self.require_announcing(&config.announcing).await?;
        self.lookups = Some(self.start_worker_process(&config)?);
        self.link()?.avoid().await?;

        let lock = registry()?.lock_unless(LOCK_PATIENCE, || self.stop_asked.is_asked())?;
        self.find_pinned(&lock)?;
        for leftover in sweep::leftovers(&lock).await? {
            tracing::info!("removed {leftover}, which a killed instance left");
        }
        self.lock = Some(lock);
        let mut aim = self.aim();
        self.have_also([Resource::Claim, Resource::Control], &aim).await?;
        let mode = self.choose_path(&aim).await?;
        self.path = Some(mode);
        self.denying.begin(None);
        self.show_denials();
        if mode == Mode::SkLookup {
            aim.table = Some(Arc::new(self.compiled(&aim.plan).await?));
        }
        let course = self.course_to(&aim, mode, Farewell::AtOnce);
        self.go(course, &aim).await.outcome()?;
        // It is known now who carries the rules.
        if mode == Mode::Tproxy && config.firewall == FirewallChoice::Auto {
            self.judge_anew().await?;
        }
        // With the mode in it.
        self.claim(LOCK_PATIENCE)?;
        self.lock = None;
        // From here on it is serving, and stopped as such.
        self.publish();
        self.published.change(|now| now.state = InstanceState::Ready);
        let (services, bindings) = (self.config.services.len(), self.plan.bindings.len());
        Ok(Ready { mode, services, bindings })
    }

    /// The course to `aim`.
    pub(super) fn course_to(&self, aim: &Aim, mode: Mode, farewell: Farewell) -> Course {
        let mut want = want(&aim.config, &aim.plan, mode, aim.revision);
        // What is announced stays so; whether more can be is judged when it is served.
        let kept =
            self.announced().into_iter().filter(|one| aim.config.announcing.prefixes.contains_key(one));
        want.extend(kept.map(Resource::Announcement));
        self.ledger.course_to(&want, farewell, Instant::now())
    }

    /// Goes to what there is and `more`.
    async fn have_also(&mut self, more: impl IntoIterator<Item = Resource>, aim: &Aim) -> anyhow::Result<()> {
        let want = self.ledger.have().map(|(resource, _)| resource.clone()).chain(more).collect();
        let course = self.ledger.course_to(&want, Farewell::AtOnce, Instant::now());
        self.go(course, aim).await.outcome().map(drop)
    }

    /// The path: whether sk_lookup is possible is what the kernel says when the program, which steers nothing yet, is attached.
    async fn choose_path(&mut self, aim: &Aim) -> anyhow::Result<Mode> {
        match aim.config.mode {
            ModeChoice::Tproxy => Ok(Mode::Tproxy),
            ModeChoice::Auto if self.pinning.is_taking_over() => {
                // What is there steers by it, before any rule.
                self.have_also([Resource::Attachment], aim).await.map(|()| Mode::SkLookup)
            }
            ModeChoice::SkLookup => {
                self.have_also([Resource::Attachment], aim).await.map(|()| Mode::SkLookup)
            }
            ModeChoice::Auto => match self.have_also([Resource::Attachment], aim).await {
                Ok(()) => {
                    tracing::info!("steering by sk_lookup");
                    Ok(Mode::SkLookup)
                }
                Err(error) => {
                    let reason = format!("{error:#}");
                    tracing::info!(reason, "steering by tproxy, since sk_lookup is not possible");
                    if !aim.config.xdp.is_empty() {
                        tracing::warn!(
                            "XDP takes the maps of sk_lookup: whoever is denied is dropped by the firewall alone"
                        );
                    }
                    if aim.config.instance.pin == Some(true) {
                        tracing::warn!(
                            "nothing is pinned, which takes sk_lookup: registered sockets are steered to while this process lives"
                        );
                    }
                    Ok(Mode::Tproxy)
                }
            },
        }
    }

    /// Goes to nothing: traffic goes off first, then open connections get their time, unless we are told once more. Returns
    /// every error.
    pub(super) async fn stop(mut self) -> Vec<anyhow::Error> {
        self.stopping = Some(self.stop_asked.times());
        self.lock = None;
        notify(&[NotifyState::Stopping], &self.published);
        let mut left = Vec::new();
        if !self.go_to_what_stays(&mut left).await {
            let course = self.ledger.course_to(&BTreeSet::new(), Farewell::AtOnce, Instant::now());
            let aim = self.aim();
            left.extend(self.go(course, &aim).await.left);
        }
        left
    }

    /// Lowers what is due.
    pub(super) async fn retire_due(&mut self) {
        let course = self.ledger.course_of_due(Instant::now());
        let aim = self.aim();
        for error in self.go(course, &aim).await.left {
            tracing::warn!("{error:#}");
        }
        let Self { gone, ledger, .. } = self;
        gone.retain(|service| cut_at(ledger, service).is_some());
        // There are fewer listeners, whose descriptors are for connections now, or fewer services.
        self.publish();
    }

    /// The mode in which it steers, while it does.
    pub(super) fn mode(&self) -> Option<Mode> {
        self.path.filter(|_| self.ledger.has(ResourceKind::Rules))
    }

    /// The steering table of `plan`.
    pub(super) async fn compiled(&mut self, plan: &Arc<Plan>) -> anyhow::Result<Table> {
        let (plan, stop, said) = (Arc::clone(plan), self.stop_asked.clone(), self.denying.sources());
        let indexes = InterfaceIndexes::of(&plan);
        let known = indexes.clone();
        let compile = move || Table::on(&plan, &said, &|name| known.index(name));
        let table = self.meanwhile(stop.unless(aside(compile))).await???;
        self.interfaces.compiled(indexes);
        Ok(table)
    }

    /// Shows what is there now to those who ask.
    pub(super) fn publish(&self) {
        let seen = match (self.mode(), &self.dispatcher, &self.tproxy) {
            (Some(Mode::SkLookup), Some(dispatcher), _) => Some(Seen::SkLookup(dispatcher.probe().clone())),
            (Some(Mode::Tproxy), _, Some(tproxy)) => Some(Seen::Tproxy(tproxy.parts())),
            _ => None,
        };
        let packets = self.dispatcher.as_ref().map(|dispatcher| dispatcher.probe().clone());
        let besides = self.replies.part().into_iter().chain(self.exempting.part()).collect();
        let gone =
            self.gone.iter().filter_map(|one| Some((one.clone(), cut_at(&self.ledger, one)?))).collect();
        let listeners = self
            .plan
            .destinations
            .iter()
            .filter_map(|(id, destination)| Some((*id, listener(self.listeners.get(destination)?))));
        let of_others = self.plan.destinations.iter().filter_map(|(id, destination)| {
            let sockets = self.others.of(destination);
            let cookies = sockets.iter().map(|socket| format!("{:x}", socket.cookie)).collect();
            Some((*id, ListenerView { address: sockets.first()?.address, cookies }))
        });
        let listeners = Arc::new(listeners.chain(of_others).collect());
        let sockets = Arc::new(by_id(&self.plan, &self.others.sockets));
        let gone_sockets = Arc::new(by_id(&self.plan, &self.others.gone));
        let own_listeners = self.listeners.values().flat_map(|group| group.inodes().iter().copied());
        let own_listeners = Arc::new(own_listeners.collect());
        self.published.change(|now| {
            now.mode = self.mode().or(now.mode);
            now.revision = self.revision;
            now.go_by(&self.config, &self.plan);
            now.steering = seen;
            now.packets = packets.or(now.packets.take());
            now.besides = besides;
            now.xdp = self.xdp.views();
            now.admin = self.admin.as_ref().map(AdminServer::address);
            now.gone = gone;
            now.faults = self.repairs.faults();
            now.leaving = self.leaving.shown().into();
            now.listeners = listeners;
            now.sockets = sockets;
            now.gone_sockets = gone_sockets;
            now.own_listeners = own_listeners;
            now.pins = self.pinning.directory().map(|path| path.display().to_string());
        });
    }

    pub(super) fn chain(&self) -> anyhow::Result<&Chain> {
        Ok(&self.claim.as_ref().context("write firewall rules without a claim")?.instance().chain)
    }
}

/// The moment at which what `service` has open is cut, if nothing wants it any more.
fn cut_at(ledger: &Ledger, service: &Service) -> Option<Instant> {
    let left = ledger.have().filter_map(|(resource, due)| match resource {
        Resource::Connections(name, ..) if *name == service.name => due,
        _ => None,
    });
    left.max()
}

/// What is known of destinations, by the ids that they have in `plan`.
fn by_id<T: Clone>(plan: &Plan, known: &BTreeMap<Destination, T>) -> BTreeMap<DestinationId, T> {
    let destinations = plan.destinations.iter();
    destinations.filter_map(|(id, destination)| Some((*id, known.get(destination)?.clone()))).collect()
}

fn listener(group: &ListenerGroup) -> ListenerView {
    ListenerView {
        address: group.address(),
        cookies: group.cookies().iter().map(|cookie| format!("{cookie:x}")).collect(),
    }
}

/// The registry of the network namespace that this process works in.
pub(super) fn registry() -> anyhow::Result<Registry> {
    Ok(Registry::open(&run_dir(), NamespaceId::current()?.inode())?)
}

/// Several errors as one line.
pub(super) fn joined(errors: impl IntoIterator<Item = anyhow::Error>) -> anyhow::Error {
    let texts: Vec<String> = errors.into_iter().map(|error| format!("{error:#}")).collect();
    anyhow!("{}", texts.join("; "))
}

/// The reason to refuse XDP where TPROXY is insisted on.
pub(super) const XDP_OVER_TPROXY: &str = "take packets off the interfaces of policy.xdp: that takes the maps of sk_lookup, and mode is \"tproxy\" (leave \
                                          mode out, or remove xdp)";

/// Longer than any start takes; a start that waits longer than this waits for one that hangs.
pub(crate) const LOCK_PATIENCE: Duration = Duration::from_secs(10);

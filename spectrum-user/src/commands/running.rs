//! One instance's parts in the order of starting them; undoing goes the other way. Every step that changes the system
//! leaves behind what undoes it before the next one begins.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures_util::future::try_join_all;
use nix::sys::resource::{Resource, getrlimit};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::exempting::Exempting;
use super::facts::ToldFacts;
use super::hearing::Hearing;
use super::own_bindings::own_bindings;
use super::ready::Ready;
use super::reload::Retiring;
use super::replies::{Replies, refuse_own_addresses};
use super::run::{LOCK_PATIENCE, aside};
use super::stop::Stop;
use super::sweep;
use super::view::{Published, Seen, View};
use crate::config::{Config, FirewallChoice, ModeChoice};
use crate::control::{Asked, ControlServer, InstanceState, ListenerAnswer};
use crate::instance::{Claim, Mode, Registry, Repairs, run_dir};
use crate::model::{
    Destination, DestinationId, Force, LocalOrigins, Origin, Protocol, Service, ServiceName, Target,
};
use crate::observe::{self, AdminServer, Counters, Metrics, Output, Readiness, Recorder};
use crate::plan::ReplyNeeds;
use crate::plan::firewall::{Chain, Firewall, Rule};
use crate::plan::table::Table;
use crate::plan::{ListenerRoom, Plan};
use spectrum_proxy::{Listener, Lookups, OriginWatch, Served, Workers};
use spectrum_steering::dispatcher::{Dispatcher, DispatcherError};
use spectrum_steering::host::{
    ListenerAddresses, ListenerGroup, ListenerOptions, LocalRoutes, NamespaceId, Transparency,
};
use spectrum_steering::tproxy::{Backend, Tproxy};

/// The settings that are not part of the configuration.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) workers: Option<NonZeroUsize>,
    pub(super) force: Force,
    pub(super) drain: Duration,
}

/// An instance, complete or as far as it got.
pub(super) struct Running {
    pub(super) config: Arc<Config>,
    pub(super) plan: Arc<Plan>,
    pub(super) settings: Settings,
    /// The view that those who ask see.
    pub(super) published: Published,
    /// The listener for the order to give up what is being done.
    pub(super) stop_asked: Stop,
    /// The threads that hear those who ask.
    pub(super) hearing: (Handle, mpsc::Sender<Asked>),
    // In the order of starting.
    pub(super) claim: Option<Claim>,
    pub(super) control: Option<ControlServer>,
    output: Output,
    pub(super) recorder: Recorder,
    pub(super) origins: Option<OriginWatch>,
    pub(super) counters: Counters,
    pub(super) workers: Option<Workers>,
    pub(super) admin: Option<AdminServer>,
    pub(super) readiness: Readiness,
    pub(super) facts: ToldFacts,
    pub(super) listeners: BTreeMap<DestinationId, ListenerGroup>,
    addresses: ListenerAddresses,
    pub(super) routes: Option<LocalRoutes>,
    pub(super) replies: Replies,
    pub(super) exempting: Exempting,
    pub(super) steering: Option<Steering>,
    /// The parts that earlier generations needed and nothing needs soon.
    pub(super) retiring: Retiring,
    /// The things that others took away.
    pub(super) repairs: Repairs,
    /// The listener that is looked at next.
    pub(super) next_listener: DestinationId,
    /// The number of configurations before this one.
    pub(super) revision: u32,
}

/// The steering of packets to the listeners.
pub(super) enum Steering {
    SkLookup(Box<Dispatcher>),
    Tproxy(Tproxy),
}

/// The path that is taken: decided before listeners exist, because TPROXY needs transparent ones.
enum Path {
    SkLookup(Box<Dispatcher>),
    Tproxy,
}

impl Running {
    pub(super) fn new(
        config: Arc<Config>,
        plan: Arc<Plan>,
        settings: Settings,
        output: &Output,
        counters: Counters,
        published: Published,
        hearing: &Hearing,
    ) -> Self {
        Self {
            config,
            plan,
            settings,
            published,
            stop_asked: hearing.stop(),
            hearing: (hearing.handle(), hearing.requests()),
            claim: None,
            control: None,
            output: output.clone(),
            recorder: Recorder::new(output.clone()),
            origins: None,
            counters,
            workers: None,
            admin: None,
            readiness: Readiness::default(),
            facts: ToldFacts::default(),
            listeners: BTreeMap::new(),
            addresses: ListenerAddresses::default(),
            routes: None,
            replies: Replies::default(),
            exempting: Exempting::default(),
            steering: None,
            retiring: Retiring::default(),
            repairs: Repairs::default(),
            next_listener: DestinationId(0),
            revision: 0,
        }
    }

    /// Takes every step until traffic flows, and returns what says so. After an error the steps taken so far
    /// are for [`stop`](Self::stop) to undo.
    pub(super) async fn start(&mut self) -> anyhow::Result<Ready> {
        self.refuse_covered_addresses(&self.plan, &self.config)?;
        refuse_own_addresses(&self.config.services)?;
        let origins = self.origins.insert(OriginWatch::start(self.config.resolver.clone())?);
        let lookups = look_up(origins, &self.config, NAMES_PATIENCE);
        origins.avoid(own_bindings(vec![Arc::clone(&self.plan)])?).await?;

        let registry = registry()?;
        let lock = registry.lock_unless(LOCK_PATIENCE, || self.stop_asked.is_asked())?;
        for leftover in sweep::leftovers(&lock).await? {
            tracing::info!("removed {leftover}, which a killed instance left");
        }
        self.claim = Some(lock.claim(&self.plan.routes)?);
        self.listen_for_requests()?;
        self.stop_asked.check()?;

        let mut path = self.choose_path()?;
        let mode = match path {
            Path::SkLookup(_) => Mode::SkLookup,
            Path::Tproxy => Mode::Tproxy,
        };
        self.start_workers()?;
        self.start_admin()?;
        self.refuse_hidden_admin(
            &self.plan,
            &self.config,
            "give --admin or [admin] listen an address or a port that no service binds, or --force ADDRESS does it anyway",
        )?;
        let destinations = self.plan.destinations.clone();
        self.bind_listeners(&destinations, mode)?;
        // While they are at hand: nothing is steered to them before there is a table.
        if let Path::SkLookup(dispatcher) = &mut path {
            register(dispatcher, &self.listeners)?;
        }
        self.publish();
        let routes = self.routes.insert(LocalRoutes::open()?);
        routes.add(&self.plan.routes).await?;
        self.stop_asked.check()?;
        self.raise_replies(&ReplyNeeds::of(&self.config.services)).await?;
        // So that with name servers that answer the first connection finds its origin.
        self.stop_asked.unless(lookups.unresolved()).await??;
        let workers = self.workers.as_ref().context("listen without workers")?;
        listen(workers, &mut self.listeners, &destinations, &self.config).await?;
        self.stop_asked.check()?;
        self.exempt(vec![Arc::clone(&self.plan)], self.config.nat).await;
        self.steer(path).await?;
        if let Some(claim) = &mut self.claim {
            lock.amend(claim, mode, &self.plan.routes)?;
        }
        self.tell_facts();
        // From here on it is serving, and stopped as such.
        self.readiness.ready();
        self.publish();
        self.published.state(InstanceState::Ready);
        let (services, bindings) = (self.config.services.len(), self.plan.bindings.len());
        Ok(Ready { mode, services, bindings })
    }

    /// Waits for something that must not happen while running.
    pub(super) async fn failure(&self) -> anyhow::Error {
        let failure = match &self.workers {
            Some(workers) => workers.failure().await,
            None => None,
        };
        failure.map_or_else(|| anyhow!("the workers have ended"), anyhow::Error::from)
    }

    /// Undoes every step taken: traffic goes off first, then open connections get their time, unless `hurry` completes.
    /// Returns every error.
    pub(super) async fn stop(mut self, hurry: impl Future<Output = ()>) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        // Nobody waits for it when not started by systemd.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.readiness.draining();
        match self.steering.take() {
            Some(Steering::SkLookup(mut dispatcher)) => {
                errors.extend(dispatcher.detach().err().map(Into::into));
            }
            Some(Steering::Tproxy(tproxy)) => errors.extend(tproxy.undo().into_iter().map(Into::into)),
            None => {}
        }
        errors.extend(self.exempting.lower());
        self.publish();
        self.listeners.clear();
        self.retiring.listeners.clear();
        if let Some(workers) = self.workers.take() {
            let outcome = {
                let drain = workers.drain(self.settings.drain);
                tokio::pin!(drain);
                tokio::select! {
                    outcome = &mut drain => outcome,
                    () = hurry => {
                        workers.abort();
                        drain.await
                    }
                }
            };
            if outcome.cut > 0 {
                tracing::warn!(cut = outcome.cut, finished = outcome.finished, "connections were cut");
            }
        }
        // Until here it can be watched how the last connections end.
        drop(self.admin.take());
        self.facts.forget();
        // Open connections needed the addresses to be local until here.
        if let Some(mut routes) = self.routes.take() {
            errors.extend(routes.undo().await.into_iter().map(Into::into));
        }
        errors.extend(self.lower_replies(&ReplyNeeds::default()).await);
        // Until here it can be asked how it fares.
        if let Some(control) = self.control.take() {
            control.close().await;
        }
        // Last: until here the kernel held something that the claim covers.
        drop(self.claim.take());
        errors
    }

    /// The path that is taken, once it is.
    pub(super) fn mode(&self) -> Option<Mode> {
        self.steering.as_ref().map(|steering| match steering {
            Steering::SkLookup(_) => Mode::SkLookup,
            Steering::Tproxy(_) => Mode::Tproxy,
        })
    }

    /// Loads and attaches the dispatcher, which steers nothing yet: whether sk_lookup is possible is what the kernel
    /// says to that.
    fn choose_path(&self) -> anyhow::Result<Path> {
        match self.config.mode {
            ModeChoice::Tproxy => Ok(Path::Tproxy),
            ModeChoice::SkLookup => Ok(Path::SkLookup(Box::new(attached(&self.plan)?))),
            ModeChoice::Auto => match attached(&self.plan) {
                Ok(dispatcher) => {
                    tracing::info!("steering by sk_lookup");
                    Ok(Path::SkLookup(Box::new(dispatcher)))
                }
                Err(error) => {
                    let reason = format!("{:#}", anyhow::Error::from(error));
                    tracing::info!(reason, "steering by tproxy, since sk_lookup is not possible");
                    Ok(Path::Tproxy)
                }
            },
        }
    }

    fn start_workers(&mut self) -> anyhow::Result<()> {
        let count = match self.settings.workers {
            Some(count) => count,
            None => thread::available_parallelism().context("count the cores")?,
        };
        let origins = self.origins.clone().context("start workers without watching origins")?;
        self.recorder.follow(&self.config.log, &self.config.services);
        let workers =
            Workers::start(count, origins, |_| observe::observer(self.counters.worker(), &self.recorder))?;
        self.workers = Some(workers);
        Ok(())
    }

    /// Serves metrics and health, where that is asked for.
    fn start_admin(&mut self) -> anyhow::Result<()> {
        let Some(address) = self.config.admin else { return Ok(()) };
        let facts = self.facts.clone();
        let metrics =
            Metrics::new(self.counters.clone(), self.output.losses(), self.recorder.omissions(), move || {
                facts.now()
            });
        let facts = self.facts.clone();
        let services = Box::new(move |service: &str| facts.readiness(service));
        let admin = AdminServer::start(address, metrics, self.readiness.clone(), services)?;
        tracing::info!(address = %admin.address(), "serving metrics and health");
        self.admin = Some(admin);
        Ok(())
    }

    /// Binds a group of listeners for each of `destinations`.
    pub(super) fn bind_listeners(
        &mut self,
        destinations: &BTreeMap<DestinationId, Destination>,
        mode: Mode,
    ) -> anyhow::Result<()> {
        let transparency = match mode {
            Mode::SkLookup => Transparency::Opaque,
            Mode::Tproxy => Transparency::Transparent,
        };
        let workers = self
            .workers
            .as_ref()
            .and_then(|workers| NonZeroUsize::new(workers.count()))
            .context("bind listeners before starting workers")?;
        let sockets = self.sockets_of_each(destinations.len(), workers)?;
        for (id, destination) in destinations {
            self.stop_asked.check()?;
            let options = ListenerOptions {
                family: destination.family,
                protocol: destination.protocol,
                sockets,
                transparency,
            };
            let present = self.listeners.len() + self.retiring.listeners.len();
            let group = ListenerGroup::bind(&options, &mut self.addresses, present)
                .with_context(|| format!("listen for {destination}"))?;
            self.listeners.insert(*id, group);
        }
        Ok(())
    }

    /// The number of sockets that each of `groups` new listeners gets, beside those that there are.
    fn sockets_of_each(&self, groups: usize, workers: NonZeroUsize) -> anyhow::Result<NonZeroUsize> {
        let (descriptors, _) =
            getrlimit(Resource::RLIMIT_NOFILE).context("ask for the limit of open files")?;
        let retiring = self.retiring.listeners.iter().map(|(.., group)| group);
        let room = ListenerRoom {
            descriptors: usize::try_from(descriptors).unwrap_or(usize::MAX),
            held: self.listeners.values().chain(retiring).map(|group| group.cookies().len()).sum(),
            workers,
        };
        let sockets = room.sockets_of_each(groups)?;
        if sockets < workers {
            tracing::info!(
                destinations = groups,
                sockets,
                workers,
                descriptors,
                "listeners have fewer sockets than there are workers, since descriptors are few (LimitNOFILE)"
            );
        }
        Ok(sockets)
    }

    /// Traffic goes on.
    async fn steer(&mut self, path: Path) -> anyhow::Result<()> {
        self.steering = Some(match path {
            Path::SkLookup(mut dispatcher) => {
                let table = self.compiled(&self.plan).await?;
                dispatcher.publish(table.nodes())?;
                Steering::SkLookup(dispatcher)
            }
            Path::Tproxy => {
                let backends = match self.config.firewall {
                    FirewallChoice::Auto => &Backend::PREFERENCE[..],
                    FirewallChoice::Iptables => &[Backend::Iptables],
                    FirewallChoice::Nftables => &[Backend::Nftables],
                };
                Steering::Tproxy(Tproxy::apply(backends, self.chain()?, &self.firewall(&self.plan)?)?)
            }
        });
        Ok(())
    }

    /// The steering table of `plan`.
    pub(super) async fn compiled(&self, plan: &Arc<Plan>) -> anyhow::Result<Table> {
        let plan = Arc::clone(plan);
        Ok(self.stop_asked.unless(aside(move || Table::compile(&plan.bindings))).await???)
    }

    /// Shows what is there now to those who ask.
    pub(super) fn publish(&self) {
        let steering = match &self.steering {
            Some(Steering::SkLookup(dispatcher)) => match dispatcher.probe() {
                Ok(probe) => Some(Seen::SkLookup(probe)),
                Err(error) => {
                    tracing::warn!("show the dispatcher: {:#}", anyhow::Error::from(error));
                    None
                }
            },
            Some(Steering::Tproxy(tproxy)) => Some(Seen::Tproxy(tproxy.parts())),
            None => None,
        };
        let before = self.published.now();
        self.published.publish(View {
            state: before.state,
            mode: self.mode().or(before.mode),
            revision: self.revision,
            config: Arc::clone(&self.config),
            plan: Arc::clone(&self.plan),
            steering,
            besides: self.replies.part().into_iter().chain(self.exempting.part()).collect(),
            counters: self.counters.clone(),
            origins: self.origins.clone(),
            admin: self.admin.as_ref().map(AdminServer::address),
            descriptors: self.workers.as_ref().map_or(0, Workers::descriptors),
            descriptors_of_each: self
                .workers
                .as_ref()
                .map_or(0, |workers| workers.descriptors_of_each(self.config.services.len())),
            gone: self.retiring.gone(),
            faults: self.repairs.faults(),
            listeners: Arc::new(self.listeners.iter().map(|(id, group)| (*id, listener(group))).collect()),
        });
    }

    /// The firewall rules of `plan`, whose destinations all have listeners.
    pub(super) fn firewall(&self, plan: &Plan) -> anyhow::Result<Firewall> {
        let rules = plan
            .bindings
            .iter()
            .map(|planned| {
                let group = self.listeners.get(&planned.destination).context("steer without listeners")?;
                Ok(Rule { binding: planned.binding, listener: group.address() })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Firewall::of(rules))
    }

    pub(super) fn chain(&self) -> anyhow::Result<&Chain> {
        Ok(&self.claim.as_ref().context("write firewall rules without a claim")?.instance().chain)
    }

    /// Adds what brings origins' answers to clients back here, as far as `needs` asks for it.
    pub(super) async fn raise_replies(&mut self, needs: &ReplyNeeds) -> anyhow::Result<()> {
        let chain = self.chain()?.clone();
        self.replies.raise(needs, &chain).await
    }

    /// Removes what `needs` does not ask for.
    pub(super) async fn lower_replies(&mut self, needs: &ReplyNeeds) -> Vec<anyhow::Error> {
        match self.chain().cloned() {
            Ok(chain) => self.replies.lower(needs, &chain).await,
            // Nothing was added before there was a claim.
            Err(_no_claim) => Vec::new(),
        }
    }
}

fn listener(group: &ListenerGroup) -> ListenerAnswer {
    ListenerAnswer {
        address: group.address(),
        cookies: group.cookies().iter().map(|cookie| format!("{cookie:x}")).collect(),
    }
}

/// The registry of the network namespace that this process works in.
pub(super) fn registry() -> anyhow::Result<Registry> {
    Ok(Registry::open(&run_dir(), NamespaceId::current()?.inode())?)
}

/// Hands those of `listeners` that are for `destinations` to the workers, to be served as `config` says.
pub(super) async fn listen(
    workers: &Workers,
    listeners: &mut BTreeMap<DestinationId, ListenerGroup>,
    destinations: &BTreeMap<DestinationId, Destination>,
    config: &Config,
) -> anyhow::Result<()> {
    let services: HashMap<&ServiceName, &Service> =
        config.services.iter().map(|service| (&service.name, service)).collect();
    let mut handed = Vec::with_capacity(destinations.len());
    for (id, destination) in destinations {
        let service = services.get(&destination.service).context("listen for an unknown service")?;
        let group = listeners.get_mut(id).context("listen without listeners")?;
        let served = Arc::new(Served {
            service: service.name.clone(),
            target: service.target.clone(),
            policy: service.policy.clone(),
        });
        let sockets = group.take_sockets().into_iter().map(|socket| match destination.protocol {
            Protocol::Tcp => Listener::Tcp(socket.into()),
            Protocol::Udp => Listener::Udp(socket.into()),
        });
        handed.push((destination, sockets.collect::<Vec<_>>(), served));
    }
    // All at once: there may be thousands, and each is acknowledged.
    let handing =
        handed.into_iter().map(|(destination, sockets, served)| workers.listen(destination, sockets, served));
    try_join_all(handing).await?;
    Ok(())
}

/// Registers the first socket of each group; it stands for all.
pub(super) fn register<'a>(
    dispatcher: &mut Dispatcher,
    listeners: impl IntoIterator<Item = (&'a DestinationId, &'a ListenerGroup)>,
) -> anyhow::Result<()> {
    for (id, group) in listeners {
        let socket = group.first().context("register a listener without sockets")?;
        dispatcher.register(*id, socket)?;
    }
    Ok(())
}

/// Begins to look up the names of the origins of `config`, and has what is wrong with them said with their places.
pub(super) fn look_up(watch: &OriginWatch, config: &Config, patience: Duration) -> Lookups {
    watch.place(places(config));
    watch.look_up(origins_of(config).map(|origin| (origin.origin, origin.local)), patience)
}

/// The places of each service's origins in the file, or flags.
pub(super) fn places(config: &Config) -> HashMap<ServiceName, Vec<String>> {
    origins_of(config).fold(HashMap::new(), |mut places, origin| {
        let place = config.origin_places.place(origin.service, origin.index);
        places.entry(origin.name.clone()).or_insert_with(Vec::new).push(place);
        places
    })
}

/// One origin of a configuration, by the number of its service and its own.
#[derive(Clone, Copy)]
pub(super) struct Numbered<'a> {
    pub(super) service: usize,
    pub(super) name: &'a ServiceName,
    pub(super) index: usize,
    pub(super) origin: &'a Origin,
    pub(super) local: LocalOrigins,
}

/// The origins of all services of `config`, in their order.
pub(super) fn origins_of(config: &Config) -> impl Iterator<Item = Numbered<'_>> {
    config.services.iter().enumerate().flat_map(|(number, service)| {
        let (list, local) = match &service.target {
            Target::Origins(origins) => (origins.list.as_slice(), origins.local),
            Target::Respond(_) => (&[][..], LocalOrigins::default()),
        };
        let name = &service.name;
        let numbered = move |(index, origin)| Numbered { service: number, name, index, origin, local };
        list.iter().enumerate().map(numbered)
    })
}

/// The time that a start or a reload waits for name servers, all names together. What is not answered by then is
/// unresolved until it is.
pub(super) const NAMES_PATIENCE: Duration = Duration::from_secs(1);

fn attached(plan: &Plan) -> Result<Dispatcher, DispatcherError> {
    let log_drops = tracing::enabled!(tracing::Level::DEBUG);
    let mut dispatcher = Dispatcher::load(log_drops, plan.destinations.len())?;
    if log_drops && let Some(log) = dispatcher.take_drop_log() {
        tokio::spawn(log.write_on());
    }
    let namespace = File::open("/proc/thread-self/ns/net")
        .map_err(|source| DispatcherError::Attach { source: Box::new(source) })?;
    dispatcher.attach(namespace)?;
    Ok(dispatcher)
}

//! One instance's parts in the order of starting them; undoing goes the other way. Every step that changes the system
//! leaves behind what undoes it before the next one begins.

use std::fs::File;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};

use super::run::LOCK_PATIENCE;
use super::sweep;
use crate::config::{Config, FirewallChoice, ModeChoice};
use crate::dispatcher::{Dispatcher, DispatcherError};
use crate::instance::{Claim, Mode, Registry, run_dir};
use crate::model::{DestinationId, Protocol, Target};
use crate::net::{self, ListenerGroup, ListenerOptions, LocalRoutes, NamespaceId, Transparency};
use crate::observe::{self, ConnectionLog, Counters, LogFormat};
use crate::plan::Plan;
use crate::plan::firewall::{Firewall, Rule};
use crate::plan::table::Table;
use crate::proxy::{self, Listener, Served, Workers};
use crate::tproxy::{Backend, Tproxy};

/// What is not part of the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) workers: Option<NonZeroUsize>,
    pub(super) log_format: LogFormat,
    pub(super) force: bool,
    pub(super) drain: Duration,
}

/// An instance, complete or as far as it got.
pub(super) struct Running {
    config: Config,
    plan: Plan,
    settings: Settings,
    // In the order of starting.
    claim: Option<Claim>,
    log: Option<ConnectionLog>,
    counters: Counters,
    workers: Option<Workers>,
    listeners: Vec<ListenerGroup>,
    routes: Option<LocalRoutes>,
    steering: Option<Steering>,
}

/// What brings packets to the listeners.
enum Steering {
    SkLookup(Box<Dispatcher>),
    Tproxy(Tproxy),
}

/// The path that is taken: decided before listeners exist, because TPROXY needs transparent ones.
enum Path {
    SkLookup(Box<Dispatcher>),
    Tproxy,
}

impl Running {
    pub(super) fn new(config: Config, plan: Plan, settings: Settings) -> Self {
        Self {
            config,
            plan,
            settings,
            claim: None,
            log: None,
            counters: Counters::default(),
            workers: None,
            listeners: Vec::new(),
            routes: None,
            steering: None,
        }
    }

    /// Takes every step until traffic flows, and returns the line that says so. After an error the steps taken so far
    /// are for [`stop`](Self::stop) to undo.
    pub(super) async fn start(&mut self) -> anyhow::Result<String> {
        self.refuse_covered_addresses()?;
        self.resolve_origins().await?;

        let registry = Registry::open(&run_dir(), NamespaceId::current()?.inode())?;
        let lock = registry.lock(LOCK_PATIENCE)?;
        sweep::leftovers(&lock).await?;
        self.claim = Some(lock.claim(&self.plan.routes)?);

        let path = self.choose_path()?;
        let mode = match path {
            Path::SkLookup(_) => Mode::SkLookup,
            Path::Tproxy => Mode::Tproxy,
        };
        self.start_workers()?;
        self.bind_listeners(&path)?;
        self.add_routes().await?;
        self.listen().await?;
        self.steer(path)?;
        if let Some(claim) = &mut self.claim {
            lock.amend(claim, mode, &self.plan.routes)?;
        }
        let (services, bindings) = (self.config.services.len(), self.plan.bindings.len());
        Ok(format!("ready mode={mode} services={services} bindings={bindings}"))
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
        match self.steering.take() {
            Some(Steering::SkLookup(mut dispatcher)) => {
                errors.extend(dispatcher.detach().err().map(Into::into));
            }
            Some(Steering::Tproxy(tproxy)) => errors.extend(tproxy.undo().into_iter().map(Into::into)),
            None => {}
        }
        // The workers' sockets are duplicates of these: both must go for the port to close.
        self.listeners.clear();
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
        // Open connections needed the addresses to be local until here.
        if let Some(mut routes) = self.routes.take() {
            errors.extend(routes.undo().await.into_iter().map(Into::into));
        }
        if let Some(log) = self.log.take() {
            log.finish();
        }
        // Last: until here the kernel held something that the claim covers.
        drop(self.claim.take());
        errors
    }

    /// A typo in a prefix must not lock anybody out of the host.
    fn refuse_covered_addresses(&self) -> anyhow::Result<()> {
        let covered = net::covered_addresses(&self.plan.routes, &net::interface_addresses()?);
        if covered.is_empty() {
            return Ok(());
        }
        let list = covered.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if self.settings.force {
            tracing::warn!("serving addresses of this host's own interfaces: {list}");
            return Ok(());
        }
        bail!("{list}: serving it would cut what is reached through that address; --force does it anyway")
    }

    async fn resolve_origins(&self) -> anyhow::Result<()> {
        let origins = self.config.services.iter().flat_map(|service| match &service.target {
            Target::Origins(origins) => origins.as_slice(),
            Target::Respond(_) => &[],
        });
        proxy::resolve_all(origins).await.map_err(|errors| {
            let list = errors.iter().map(|error| chain(error)).collect::<Vec<_>>();
            anyhow!("{}", list.join("; "))
        })
    }

    /// Loads and attaches the dispatcher, which steers nothing yet: whether sk_lookup is possible is what the kernel
    /// says to that.
    fn choose_path(&self) -> anyhow::Result<Path> {
        match self.config.mode {
            ModeChoice::Tproxy => Ok(Path::Tproxy),
            ModeChoice::SkLookup => Ok(Path::SkLookup(Box::new(attached()?))),
            ModeChoice::Auto => match attached() {
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
        let log = ConnectionLog::start(self.settings.log_format, io::stderr())
            .context("start the connection log")?;
        let counters = &self.counters;
        let workers = Workers::start(count, |_| observe::observer(counters.worker(), log.sender()))?;
        self.workers = Some(workers);
        self.log = Some(log);
        Ok(())
    }

    fn bind_listeners(&mut self, path: &Path) -> anyhow::Result<()> {
        let transparency = match path {
            Path::SkLookup(_) => Transparency::Opaque,
            Path::Tproxy => Transparency::Transparent,
        };
        let sockets = self
            .workers
            .as_ref()
            .and_then(|workers| NonZeroUsize::new(workers.count()))
            .context("bind listeners before starting workers")?;
        for destination in &self.plan.destinations {
            let options = ListenerOptions {
                family: destination.family,
                protocol: destination.protocol,
                sockets,
                transparency,
            };
            let group = ListenerGroup::bind(&options).with_context(|| format!("listen for {destination}"))?;
            self.listeners.push(group);
        }
        Ok(())
    }

    async fn add_routes(&mut self) -> anyhow::Result<()> {
        let routes = self.routes.insert(LocalRoutes::open()?);
        Ok(routes.add(&self.plan.routes).await?)
    }

    /// Hands the listeners to the workers.
    async fn listen(&self) -> anyhow::Result<()> {
        let workers = self.workers.as_ref().context("listen without workers")?;
        for (destination, group) in self.plan.destinations.iter().zip(&self.listeners) {
            let service = self
                .config
                .services
                .iter()
                .find(|service| service.name == destination.service)
                .context("listen for an unknown service")?;
            let served = Arc::new(Served { service: service.name.clone(), target: service.target.clone() });
            let sockets = group
                .sockets()
                .iter()
                .map(|socket| {
                    let socket = OwnedFd::from(socket.try_clone()?);
                    Ok(match destination.protocol {
                        Protocol::Tcp => Listener::Tcp(socket.into()),
                        Protocol::Udp => Listener::Udp(socket.into()),
                    })
                })
                .collect::<io::Result<Vec<Listener>>>()
                .context("duplicate listeners")?;
            workers.listen(destination, sockets, served).await?;
        }
        Ok(())
    }

    /// Traffic goes on.
    fn steer(&mut self, path: Path) -> anyhow::Result<()> {
        match path {
            Path::SkLookup(mut dispatcher) => {
                for (id, group) in (0..).map(DestinationId).zip(&self.listeners) {
                    let socket = group.sockets().first().context("register a listener without sockets")?;
                    dispatcher.register(id, socket)?;
                }
                dispatcher.publish(Table::compile(&self.plan.bindings)?.nodes())?;
                self.steering = Some(Steering::SkLookup(dispatcher));
            }
            Path::Tproxy => {
                let chain =
                    &self.claim.as_ref().context("write firewall rules without a claim")?.instance().chain;
                let rules = self
                    .plan
                    .bindings
                    .iter()
                    .filter_map(|planned| {
                        let group = self.listeners.get(planned.destination.0 as usize)?;
                        Some(Rule { binding: planned.binding, listener: group.address() })
                    })
                    .collect::<Vec<_>>();
                let backends = match self.config.firewall {
                    FirewallChoice::Auto => &Backend::PREFERENCE[..],
                    FirewallChoice::Iptables => &[Backend::Iptables],
                    FirewallChoice::Nftables => &[Backend::Nftables],
                };
                let tproxy = Tproxy::apply(backends, chain, &Firewall::of(rules))?;
                self.steering = Some(Steering::Tproxy(tproxy));
            }
        }
        Ok(())
    }
}

fn attached() -> Result<Dispatcher, DispatcherError> {
    let log_drops = tracing::enabled!(tracing::Level::DEBUG);
    let mut dispatcher = Dispatcher::load(log_drops)?;
    let namespace = File::open("/proc/thread-self/ns/net")
        .map_err(|source| DispatcherError::Attach { source: Box::new(source) })?;
    dispatcher.attach(namespace)?;
    Ok(dispatcher)
}

/// An error with its causes on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

//! How each kind of thing is raised, lowered and looked at: three matches, and nothing else does any of it. In which order, and
//! what becomes of a course that fails, the ledger says.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::resource::{Resource as Limit, getrlimit};

use super::denials;
use super::exempting::Exempting;
use super::registering::slots;
use super::replies::make;
use super::running::{Aim, Running, registry};
use crate::admin::AdminServer;
use crate::config::{Config, FirewallChoice};
use crate::control::ControlServer;
use crate::model::{
    Destination, DestinationId, Family, InterfaceName, Prefix, Protocol, RegisteredSocket, Resource,
    ResourceKind, Service, ServiceName, registered,
};
use crate::plan::firewall::{Firewall, Rule, Sharing};
use crate::plan::{ListenerRoom, Plan, RunTimeSources};
use crate::registry::{Claim, Mode};
use crate::worker_process::{Link, LinkError, NewListeners};
use spectrum_proxy::Served;
use spectrum_steering::dispatcher::{Dispatcher, DispatcherError, Secret};
use spectrum_steering::host::{ListenerGroup, ListenerOptions, LocalRoutes, Transparency, silent_listener};
use spectrum_steering::tproxy::{Backend, FirewallLook, SideTable, Tproxy};

/// So many listeners are looked at at once.
const LISTENERS: usize = 1024;

/// Others may be starting: then there will be another look.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

impl Running {
    /// Raises `resources`, all of one kind, for `aim`; where there is a part of one already, the rest of it. After an error
    /// some of them may be there, or a part of one.
    pub(super) async fn raise(&mut self, resources: &[Resource], aim: &Aim) -> anyhow::Result<()> {
        let Some(kind) = resources.first().map(Resource::kind) else { return Ok(()) };
        match kind {
            ResourceKind::Claim if self.claim.is_some() => self.claim(PATIENCE),
            ResourceKind::Claim => {
                let lock = self.lock.as_ref().context("claim without the lock")?;
                let claim = if self.pinning.is_taking_over() {
                    lock.claim_over_pins(&aim.plan.routes)?
                } else {
                    lock.claim(&aim.plan.routes)?
                };
                let claim = self.claim.insert(claim);
                self.published.change(|now| now.id = Some(claim.id()));
                Ok(())
            }
            ResourceKind::Control => self.listen_for_requests(),
            ResourceKind::Attachment => self.attach(&aim.plan),
            ResourceKind::Route => {
                // The claim covers what may be in the kernel.
                self.claim(PATIENCE)?;
                let prefixes: Vec<Prefix> = resources.iter().filter_map(prefix).collect();
                Ok(self.opened_routes()?.put_back(&prefixes).await?)
            }
            ResourceKind::Reply => {
                let chain = self.chain()?.clone();
                self.replies.add(resources.iter().filter_map(family), &chain).await
            }
            ResourceKind::Mark => {
                let chain = self.chain()?.clone();
                self.with_firewall(|all| &mut all.replies.mark, move |mark| make(mark, &chain)).await?
            }
            ResourceKind::Admin => self.start_admin(aim),
            // They come by themselves.
            ResourceKind::Connections => Ok(()),
            ResourceKind::Workers => Ok(self.link()?.start(self.worker_count()?.get()).await?),
            ResourceKind::Listener => self.bind_listeners(resources),
            ResourceKind::Silent => self.listen_silently(resources),
            ResourceKind::Registration => self.register(resources.iter().filter_map(id), aim),
            ResourceKind::Serving => {
                self.publish();
                // So that with name servers that answer the first connection finds its origin.
                if let Some(lookups) = self.lookups.take() {
                    self.stop_asked.unless(lookups.done()).await??;
                }
                let link = self.link()?;
                // A reload prepares it before, and it holds when traffic flows otherwise.
                if self.steered.is_none() {
                    self.have_judged(&link, &aim.config, &aim.plan).await?;
                }
                self.serve(&link, resources, &aim.config).await
            }
            ResourceKind::Exemption => {
                if self.exempting.part().is_some() {
                    return self.with_firewall(|all| &mut all.exempting, Exempting::put_back).await?;
                }
                self.exempt(vec![Arc::clone(&aim.plan)], aim.config.nat).await;
                Ok(())
            }
            ResourceKind::Xdp => {
                let dispatcher =
                    self.dispatcher.as_mut().context("attach to interfaces without a program")?;
                self.xdp.add(resources.iter().filter_map(interface), dispatcher)?;
                self.publish();
                Ok(())
            }
            ResourceKind::Pins => self.keep_pins(),
            ResourceKind::Announcement => {
                let prefixes: Vec<Prefix> = resources.iter().filter_map(announced).collect();
                self.add_announcements(&prefixes).await
            }
            ResourceKind::Rules => {
                if let Err(error) = self.part(&aim.plan).await {
                    tracing::warn!("UDP sessions do not outlast their steering: {error:#}");
                }
                self.steer(aim).await
            }
        }
    }

    /// Lowers those of `resources`, all of one kind, that are there. Returns every error.
    pub(super) async fn lower(&mut self, resources: &[Resource]) -> Vec<anyhow::Error> {
        let Some(kind) = resources.first().map(Resource::kind) else { return Vec::new() };
        match kind {
            ResourceKind::Claim => {
                let stays = self.claim_what_stays();
                drop(self.claim.take());
                return stays.err().into_iter().collect();
            }
            ResourceKind::Control => {
                if let Some(control) = self.control.take() {
                    control.close().await;
                }
            }
            ResourceKind::Attachment => {
                if let Some(mut dispatcher) = self.dispatcher.take() {
                    let detached = dispatcher.detach();
                    if let Some(directory) = dispatcher.pinned_in() {
                        self.pinning.give_up(directory);
                    }
                    return detached.err().map(Into::into).into_iter().collect();
                }
            }
            ResourceKind::Route => return self.remove_routes(resources).await,
            ResourceKind::Reply => match self.chain().cloned() {
                Ok(chain) => return self.replies.remove(resources.iter().filter_map(family), &chain).await,
                Err(error) => return vec![error],
            },
            ResourceKind::Mark => {
                let removed = self.with_firewall(
                    |all| &mut all.replies.mark,
                    |mark| mark.take().and_then(SideTable::undo).map(anyhow::Error::from),
                );
                return removed.await.unwrap_or_else(Some).into_iter().collect();
            }
            ResourceKind::Admin => {
                // Until here it can be watched how the last connections end.
                drop(self.admin.take());
            }
            ResourceKind::Connections => self.cut(resources).await,
            ResourceKind::Workers => self.drain().await,
            ResourceKind::Listener => {
                for destination in resources.iter().filter_map(destination) {
                    self.listeners.remove(destination);
                }
            }
            ResourceKind::Silent => {
                // They leave the map when they close.
                for pair in resources.iter().filter_map(silent) {
                    self.silent.remove(&pair);
                }
            }
            ResourceKind::Registration => {
                for id in resources.iter().filter_map(id) {
                    self.registered.remove(&id);
                    if let Some(dispatcher) = &mut self.dispatcher
                        && dispatcher.shared().contains(&id)
                        && let Err(error) = dispatcher.share(id, &[])
                    {
                        tracing::debug!(%error, "leave a destination without registered sockets");
                    }
                    if let Some(dispatcher) = &mut self.dispatcher
                        && let Err(error) = dispatcher.unregister(id)
                    {
                        // Nothing leads there any more, and the socket leaves the map when it closes.
                        tracing::debug!(%error, "leave a destination without a listener");
                    }
                }
            }
            ResourceKind::Serving => {
                if let Ok(link) = self.link() {
                    return not_done(link.remove(resources.iter().filter_map(destination)).await);
                }
            }
            ResourceKind::Exemption => {
                let removed = self.with_firewall(|all| &mut all.exempting, Exempting::lower);
                return removed.await.unwrap_or_else(Some).into_iter().collect();
            }
            ResourceKind::Xdp => self.xdp.remove(resources.iter().filter_map(interface)),
            ResourceKind::Pins => return self.let_go_of_pins(),
            ResourceKind::Announcement => {
                let prefixes: Vec<Prefix> = resources.iter().filter_map(announced).collect();
                return self.remove_announcements(&prefixes).await;
            }
            ResourceKind::Rules => {
                if self.stopping.is_some()
                    && let Ok(link) = self.link()
                    && let Err(error) = link.part(udp(self.plan.destinations.values())).await
                {
                    tracing::warn!("UDP sessions do not outlast their steering: {error}");
                }
                return self.steer_no_more(resources).await;
            }
        }
        Vec::new()
    }

    /// The things of `kind` that are missing, by one look.
    pub(super) async fn missing(&mut self, kind: ResourceKind) -> anyhow::Result<Vec<Resource>> {
        let all = |is_whole: bool, resource| if is_whole { Vec::new() } else { vec![resource] };
        Ok(match kind {
            ResourceKind::Claim => all(self.claim.as_ref().is_none_or(Claim::is_seen), Resource::Claim),
            ResourceKind::Control => {
                all(self.control.as_ref().is_none_or(ControlServer::is_found), Resource::Control)
            }
            ResourceKind::Attachment => match &self.dispatcher {
                Some(dispatcher) => all(dispatcher.is_attached(namespace()?)?, Resource::Attachment),
                None => Vec::new(),
            },
            ResourceKind::Registration => {
                self.unregistered()?.into_iter().map(Resource::Registration).collect()
            }
            ResourceKind::Route => {
                let raised = self.ledger.have().filter_map(|(resource, _)| prefix(resource));
                let raised: BTreeSet<Prefix> = raised.collect();
                self.opened_routes()?.absent(&raised).await?.into_iter().map(Resource::Route).collect()
            }
            ResourceKind::Reply => {
                let broken = self.replies.broken(self.chain()?).await?;
                broken.into_iter().map(Resource::Reply).collect()
            }
            ResourceKind::Announcement => match &mut self.announcement {
                Some(announcement) => {
                    let raised = self.ledger.have().filter_map(|(resource, _)| announced(resource));
                    let absent = announcement.absent(&raised.collect()).await?;
                    absent.into_iter().map(Resource::Announcement).collect()
                }
                None => Vec::new(),
            },
            ResourceKind::Pins if self.ledger.has(kind) => all(!self.misses_pins()?, Resource::Pins),
            ResourceKind::Xdp => self.xdp.missing()?.into_iter().map(Resource::Xdp).collect(),
            ResourceKind::Exemption | ResourceKind::Mark | ResourceKind::Rules => {
                let Some(look) = self.firewall_look(kind) else { return Ok(Vec::new()) };
                let damaged = self.beside(move || look.damaged()).await??;
                if damaged.is_empty() { Vec::new() } else { self.firewall_part(kind) }
            }
            // Nobody else can reach them.
            ResourceKind::Admin
            | ResourceKind::Connections
            | ResourceKind::Listener
            | ResourceKind::Pins
            | ResourceKind::Serving
            | ResourceKind::Silent
            | ResourceKind::Workers => Vec::new(),
        })
    }

    /// The look at what `kind` has in the firewall, if there is anything. Any thread may take it: programs are run for it.
    pub(super) fn firewall_look(&self, kind: ResourceKind) -> Option<FirewallLook> {
        match kind {
            ResourceKind::Exemption => self.exempting.look(),
            ResourceKind::Mark => self.replies.look(),
            ResourceKind::Rules => self.tproxy.as_ref().map(Tproxy::look),
            _ => None,
        }
    }

    /// All that `kind` has there.
    pub(super) fn firewall_part(&self, kind: ResourceKind) -> Vec<Resource> {
        self.ledger.have().map(|(resource, _)| resource).filter(|one| one.kind() == kind).cloned().collect()
    }

    /// Claims the prefixes of all routes that are raised, unless that is what others see. Waits at most `patience` for the lock,
    /// where it is not held.
    pub(super) fn claim(&mut self, patience: Duration) -> anyhow::Result<()> {
        let prefixes: BTreeSet<Prefix> = self.ledger.have().filter_map(|(one, _)| prefix(one)).collect();
        let mode = self.mode();
        let claim = self.claim.as_mut().context("claim again without a claim")?;
        let instance = claim.instance();
        let is_same = || instance.prefixes.iter().copied().collect::<BTreeSet<_>>() == prefixes;
        // Of a start nothing is raised yet, and all is claimed.
        if claim.is_seen() && instance.mode == mode && (prefixes.is_empty() || is_same()) {
            return Ok(());
        }
        let prefixes: Vec<Prefix> =
            if prefixes.is_empty() { instance.prefixes.clone() } else { prefixes.into_iter().collect() };
        let taken;
        let lock = if let Some(lock) = &self.lock {
            lock
        } else {
            taken = registry()?.lock_unless(patience, || self.stop_asked.is_asked())?;
            &taken
        };
        lock.amend(claim, mode, &prefixes)?;
        if self.pinning.directory().is_some() {
            lock.claim_pinned(&prefixes, Some(&claim.instance().chain))?;
        }
        Ok(())
    }

    /// Claims no more than is raised.
    async fn claim_less(&mut self) -> anyhow::Result<()> {
        if self.lock.is_some() {
            return self.claim(PATIENCE);
        }
        self.lock = Some(self.startup_lock().await?);
        let claimed = self.claim(PATIENCE);
        self.lock = None;
        claimed
    }

    /// Has a control socket, in the place of one there may have been.
    fn listen_for_requests(&mut self) -> anyhow::Result<()> {
        let path = self.claim.as_ref().context("listen without a claim")?.control_socket();
        // The directory may have gone, too.
        registry()?;
        // It removes what is at its path.
        drop(self.control.take());
        let (handle, requests) = &self.hearing;
        self.control = Some(ControlServer::listen(&path, handle, requests.clone())?);
        Ok(())
    }

    /// Attaches the program, which is loaded if it is not: without a table it steers nothing. One that takes over what is pinned is attached
    /// when that gives way to it.
    fn attach(&mut self, plan: &Plan) -> anyhow::Result<()> {
        if self.dispatcher.is_none() {
            let secret = self.pinning.secret();
            let directory = self.pinning.make_directory()?;
            match loaded(plan, secret, directory.as_deref()) {
                Ok(dispatcher) => self.dispatcher = Some(Box::new(dispatcher)),
                Err(error) => {
                    if let Some(directory) = &directory {
                        self.pinning.give_up(directory);
                    }
                    return Err(error.into());
                }
            }
            self.take_pinned_sockets()?;
        }
        if let Some(samples) = self.dispatcher.as_mut().and_then(|dispatcher| dispatcher.take_samples()) {
            self.hearing.0.spawn(denials::read(samples, self.published.clone()));
        }
        if self.pinning.is_taking_over() { Ok(()) } else { self.attach_anew() }
    }

    pub(super) fn opened_routes(&mut self) -> anyhow::Result<&mut LocalRoutes> {
        Ok(match &mut self.routes {
            Some(routes) => routes,
            none => none.insert(LocalRoutes::open()?),
        })
    }

    async fn remove_routes(&mut self, resources: &[Resource]) -> Vec<anyhow::Error> {
        let Some(routes) = &mut self.routes else { return Vec::new() };
        // Some were there before us.
        let of_others = self.pinning.routes_of_others();
        let added: BTreeSet<Prefix> =
            routes.added().iter().filter(|one| !of_others.contains(one)).copied().collect();
        let doomed: Vec<Prefix> =
            resources.iter().filter_map(prefix).filter(|one| added.contains(one)).collect();
        let mut errors: Vec<anyhow::Error> =
            routes.remove(&doomed).await.into_iter().map(Into::into).collect();
        // A claim that is about to go is not made smaller.
        if self.stopping.is_none() {
            errors.extend(self.claim_less().await.err());
        }
        errors
    }

    /// Gives what is open its time, unless we are told once more to stop. All worker processes are gone afterwards.
    async fn drain(&mut self) {
        if let Some(worker) = self.worker.take() {
            self.leaving.add(worker, self.settings.drain);
        }
        let hurry = self.stop_asked.beyond(self.stopping.unwrap_or_default());
        let links = self.leaving.links();
        let all_over = self.leaving.all_over();
        tokio::pin!(all_over);
        tokio::select! {
            () = &mut all_over => {}
            () = hurry => {
                links.iter().for_each(Link::abort);
                all_over.await;
            }
        }
        self.published.worker().is(None);
    }

    /// Has UDP sessions of services that `plan` has no more go on without steering. So do, over TPROXY, those of services that
    /// get other listeners: there the kernel chooses among the sockets of a listener by their own port, and so another worker.
    async fn part(&self, plan: &Plan) -> anyhow::Result<()> {
        let of = |one: &Destination| (one.service.clone(), one.family, one.protocol);
        let served: HashSet<_> = plan.destinations.values().map(of).collect();
        let moves = |id| self.path == Some(Mode::Tproxy) && !plan.destinations.contains_key(id);
        let parted =
            self.plan.destinations.iter().filter(|(id, one)| moves(id) || !served.contains(&of(one)));
        Ok(self.link()?.part(udp(parted.map(|(_, destination)| destination))).await?)
    }

    /// Cuts what is still open of services that have gone.
    async fn cut(&self, resources: &[Resource]) {
        let Ok(link) = self.link() else { return };
        for resource in resources {
            let Resource::Connections(service, family, protocol) = resource else { continue };
            // Of whatever revision.
            let destination =
                Destination { service: service.clone(), revision: 0, family: *family, protocol: *protocol };
            match link.cut(destination.clone()).await {
                Ok(0) => {}
                Ok(cut) => tracing::warn!(%destination, cut, "connections of a removed service were cut"),
                Err(error) => tracing::warn!(%destination, "cut what is open of a removed service: {error}"),
            }
        }
    }

    /// Serves metrics and health, which bindings must not hide.
    fn start_admin(&mut self, aim: &Aim) -> anyhow::Result<()> {
        let address = aim.config.admin.context("serve metrics without an address")?;
        let published = self.published.clone();
        let admin = AdminServer::start(address, move |scope| published.now().view(scope))?;
        tracing::info!(address = %admin.address(), "serving metrics and health");
        self.admin = Some(admin);
        self.refuse_hidden_admin(
            &aim.plan,
            &aim.config,
            "give --admin or [admin] listen an address or a port that no service binds, or --force ADDRESS does it anyway",
        )
    }

    /// Binds a group of listeners for each destination.
    fn bind_listeners(&mut self, resources: &[Resource]) -> anyhow::Result<()> {
        let transparency = match self.path.context("bind listeners before the path is chosen")? {
            Mode::SkLookup => Transparency::Opaque,
            Mode::Tproxy => Transparency::Transparent,
        };
        let workers = self.worker_count()?;
        let sockets = self.sockets_of_each(resources.len(), workers)?;
        let are_cookies_about = self.syn_cookies.are_about();
        for destination in resources.iter().filter_map(destination) {
            self.stop_asked.check()?;
            let Destination { family, protocol, .. } = *destination;
            let options = ListenerOptions { family, protocol, sockets, transparency, are_cookies_about };
            let group = ListenerGroup::bind(&options, &mut self.addresses, self.listeners.len())
                .with_context(|| format!("listen for {destination}"))?;
            self.listeners.insert(destination.clone(), group);
        }
        Ok(())
    }

    /// Has denied packets go to sockets that never answer.
    pub(super) fn listen_silently(&mut self, resources: &[Resource]) -> anyhow::Result<()> {
        let dispatcher = self.dispatcher.as_mut().context("listen silently without a program")?;
        for (protocol, family) in resources.iter().filter_map(silent) {
            let socket = silent_listener(protocol, family)?;
            dispatcher.register_silent(protocol, family, &socket)?;
            self.silent.insert((protocol, family), socket);
        }
        Ok(())
    }

    /// The number of sockets that each of `groups` new listeners gets, beside those that there are.
    fn sockets_of_each(&self, groups: usize, workers: NonZeroUsize) -> anyhow::Result<NonZeroUsize> {
        let (descriptors, _) = getrlimit(Limit::RLIMIT_NOFILE).context("ask for the limit of open files")?;
        let room = ListenerRoom {
            descriptors: usize::try_from(descriptors).unwrap_or(usize::MAX),
            held: self.listeners.values().map(|group| group.cookies().len()).sum(),
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

    /// Registers the first socket of each group; it stands for all. Nothing is steered to them before there is a table.
    fn register(&mut self, ids: impl Iterator<Item = DestinationId>, aim: &Aim) -> anyhow::Result<()> {
        let dispatcher = self.dispatcher.as_mut().context("register listeners without a program")?;
        let of_others = registered(&aim.config.services);
        for id in ids {
            let destination = aim.plan.destination(id);
            if destination.is_some_and(|destination| of_others.contains(&destination.service)) {
                // Others put something there, in their time.
                if self.registered.insert(id) {
                    dispatcher.reset_counts(id)?;
                }
                continue;
            }
            let group = destination.and_then(|destination| self.listeners.get(destination));
            let socket = group.context("register a listener that there is not")?.first();
            if self.registered.insert(id) {
                dispatcher.reset_counts(id)?;
                dispatcher.register(id, socket)?;
            } else {
                // Others took it away, and its counts go on.
                dispatcher.register_again(id, socket)?;
            }
        }
        Ok(())
    }

    /// Destinations that had lost their place in the program's map, of those whose turn it is. The kernel only tells by taking
    /// them in.
    fn unregistered(&mut self) -> anyhow::Result<Vec<DestinationId>> {
        let Some(dispatcher) = &mut self.dispatcher else { return Ok(Vec::new()) };
        let mut lost = Vec::new();
        let all = &self.plan.destinations;
        let mut turn = all.range(self.next_listener..);
        for (id, destination) in turn.by_ref().take(LISTENERS) {
            let Some(group) = self.listeners.get(destination) else { continue };
            // In the middle of a reload some have been taken out by us.
            if !self.ledger.contains(&Resource::Registration(*id)) {
                continue;
            }
            if dispatcher.register_again(*id, group.first())? {
                dispatcher.unregister(*id)?;
                lost.push(*id);
            }
        }
        self.next_listener = turn.next().map_or(DestinationId(0), |(id, _)| *id);
        Ok(lost)
    }

    /// The number of looks that it takes to see all of them.
    pub(super) fn turns(&self) -> u32 {
        u32::try_from(self.plan.destinations.len().div_ceil(LISTENERS)).unwrap_or(u32::MAX).max(1)
    }

    /// Hands listeners to the workers behind `link`, to be served as `config` says.
    pub(super) async fn serve(
        &self,
        link: &Link,
        resources: &[Resource],
        config: &Config,
    ) -> anyhow::Result<()> {
        let services = by_name(&config.services);
        // Those that are gone, and still take what is in their queues.
        let gone = by_name(&self.gone);
        let handed = resources.iter().filter_map(destination).map(|destination| {
            let name = &destination.service;
            let service =
                services.get(name).or_else(|| gone.get(name)).context("listen for an unknown service")?;
            let group = self.listeners.get(destination).context("listen without listeners")?;
            Ok(NewListeners {
                destination: destination.clone(),
                sockets: group.copies().context("hand listeners to the workers")?,
                served: served(service),
            })
        });
        link.listen(handed).await
    }

    /// The one moment from which packets see the generation of `aim`. After an error they see the one before.
    async fn steer(&mut self, aim: &Aim) -> anyhow::Result<()> {
        match self.path {
            Some(Mode::SkLookup) => {
                let table = aim.table.as_ref().context("steer without a table")?;
                self.publish_table(table, &aim.config, &aim.plan, aim.revision)?;
                self.take_pinned_over(aim).await?;
            }
            Some(Mode::Tproxy) => {
                let chain = self.chain()?.clone();
                let is_back = self.tproxy.is_some() && self.steered == Some(aim.revision);
                let run_time = self.denying.sources();
                let next =
                    if is_back { None } else { Some(self.firewall(&aim.config, &aim.plan, &run_time)?) };
                let backends = match aim.config.firewall {
                    FirewallChoice::Auto => &Backend::PREFERENCE[..],
                    FirewallChoice::Iptables => &[Backend::Iptables],
                    FirewallChoice::Nftables => &[Backend::Nftables],
                };
                let steer = move |tproxy: &mut Option<Tproxy>| match (tproxy, next) {
                    (Some(tproxy), None) => tproxy.put_back(),
                    (Some(tproxy), Some(next)) => tproxy.replace(&next),
                    (none, next) => Tproxy::apply(backends, &chain, &next.unwrap_or_default())
                        .map(|made| *none = Some(made)),
                };
                self.with_firewall(|all| &mut all.tproxy, steer).await??;
            }
            None => bail!("steer before the path is chosen"),
        }
        self.steered = Some(aim.revision);
        Ok(())
    }

    /// Traffic goes off, if what steers is among `resources`: what was replaced is gone already.
    async fn steer_no_more(&mut self, resources: &[Resource]) -> Vec<anyhow::Error> {
        if !resources
            .iter()
            .any(|one| matches!(one, Resource::Rules(revision) if self.steered == Some(*revision)))
        {
            return Vec::new();
        }
        self.steered = None;
        // Nothing else is left for the program to do.
        let detached = self.dispatcher.as_mut().and_then(|dispatcher| dispatcher.detach().err());
        let remove = |tproxy: &mut Option<Tproxy>| tproxy.take().map(Tproxy::undo).unwrap_or_default();
        let removed = self.with_firewall(|all| &mut all.tproxy, remove).await;
        self.publish();
        let removed = match removed {
            Ok(errors) => errors.into_iter().map(anyhow::Error::from).collect(),
            Err(error) => vec![error],
        };
        detached.into_iter().map(Into::into).chain(removed).collect()
    }

    /// The firewall rules of `plan`, whose destinations all have listeners, and of what was said at run time.
    pub(super) fn firewall(
        &self,
        config: &Config,
        plan: &Plan,
        run_time: &RunTimeSources,
    ) -> anyhow::Result<Firewall> {
        let own = |one: &Destination| self.listeners.get(one).map(ListenerGroup::address);
        firewall_of(config, plan, run_time, own, &self.others.sockets)
    }
}

/// The firewall rules of `plan`, whose destinations have listeners where `own` says, or sockets of other programs, of which there are `others`.
pub(super) fn firewall_of(
    config: &Config,
    plan: &Plan,
    run_time: &RunTimeSources,
    own: impl Fn(&Destination) -> Option<SocketAddr>,
    others: &BTreeMap<Destination, Vec<RegisteredSocket>>,
) -> anyhow::Result<Firewall> {
    let of_others = registered(&config.services);
    let is_others = |one: &Destination| of_others.contains(&one.service);
    let mut places: HashMap<&Destination, SocketAddr> = HashMap::new();
    let mut shares = Vec::new();
    for (id, one) in &plan.destinations {
        if !is_others(one) {
            places.extend(own(one).map(|address| (one, address)));
            continue;
        }
        let listener = Sharing::name(*id, one.family);
        let listener =
            listener.context("steer to sockets of other programs by rules: too many destinations")?;
        places.insert(one, listener);
        let slots = others.get(one).map_or(Vec::new(), |sockets| slots(sockets, one.family));
        shares.push(Sharing { protocol: one.protocol, listener, slots });
    }
    let rules = plan
        .bindings
        .iter()
        .map(|planned| {
            let listener = plan.destination(planned.destination).and_then(|one| places.get(one));
            let listener = *listener.context("steer without listeners")?;
            Ok(Rule { binding: planned.binding, listener })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let denials = plan.denials(run_time, |one| places.get(one).copied());
    Ok(Firewall::of(rules).denying(denials).sharing(shares))
}

fn prefix(resource: &Resource) -> Option<Prefix> {
    match resource {
        Resource::Route(prefix) => Some(*prefix),
        _ => None,
    }
}

fn announced(resource: &Resource) -> Option<Prefix> {
    match resource {
        Resource::Announcement(prefix) => Some(*prefix),
        _ => None,
    }
}

fn interface(resource: &Resource) -> Option<&InterfaceName> {
    match resource {
        Resource::Xdp(interface) => Some(interface),
        _ => None,
    }
}

fn family(resource: &Resource) -> Option<Family> {
    match resource {
        Resource::Reply(family) => Some(*family),
        _ => None,
    }
}

fn silent(resource: &Resource) -> Option<(Protocol, Family)> {
    match resource {
        Resource::Silent(protocol, family) => Some((*protocol, *family)),
        _ => None,
    }
}

fn id(resource: &Resource) -> Option<DestinationId> {
    match resource {
        Resource::Registration(id) => Some(*id),
        _ => None,
    }
}

fn destination(resource: &Resource) -> Option<&Destination> {
    match resource {
        Resource::Listener(destination) | Resource::Serving(destination) => Some(destination),
        _ => None,
    }
}

/// Services by their names.
pub(super) fn by_name(services: &[Service]) -> HashMap<&ServiceName, &Service> {
    services.iter().map(|service| (&service.name, service)).collect()
}

/// The part of `service` that workers are told of.
pub(super) fn served(service: &Service) -> Served {
    let Service { name, target, policy, .. } = service;
    Served { service: name.clone(), target: target.clone(), policy: policy.clone() }
}

/// Those of UDP.
fn udp<'a>(destinations: impl Iterator<Item = &'a Destination>) -> Vec<Destination> {
    destinations.filter(|one| one.protocol == Protocol::Udp).cloned().collect()
}

/// What a worker process that was to do something at the end did not do. One that is gone has nothing.
fn not_done(outcome: Result<(), LinkError>) -> Vec<anyhow::Error> {
    match outcome {
        Ok(()) | Err(LinkError::Ended) => Vec::new(),
        Err(error) => vec![error.into()],
    }
}

/// A dispatcher for `plan`, with the `secret` of the one before it if there was one, pinned in `directory` if it is to be.
pub(super) fn loaded(
    plan: &Plan,
    secret: Option<Secret>,
    directory: Option<&Path>,
) -> Result<Dispatcher, DispatcherError> {
    let log_drops = tracing::enabled!(tracing::Level::DEBUG);
    // Ids that another one gave may leave gaps.
    let destinations = plan.destinations.len().max(plan.ids().div_ceil(2));
    let mut dispatcher = match (directory, secret) {
        (Some(directory), secret) => Dispatcher::load_pinned(directory, log_drops, destinations, secret)?,
        (None, Some(secret)) => Dispatcher::load_with(log_drops, destinations, secret)?,
        (None, None) => Dispatcher::load(log_drops, destinations)?,
    };
    if log_drops && let Some(log) = dispatcher.take_drop_log() {
        tokio::spawn(log.write_on());
    }
    Ok(dispatcher)
}

/// The network namespace that this thread is in.
pub(super) fn namespace() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

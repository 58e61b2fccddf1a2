//! The thread that watches origins: it makes rosters, and makes them anew when names or their failures say so. Nothing here is
//! shared with other threads but the current rosters, the standings and the healths.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::mem::discriminant;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::{sleep_until, timeout_at};

use super::ResolveError;
use super::check;
use super::route::note_routes;
use super::selection::{Selection, SelectionFault, select};
use super::settings::{ByHand, Full, Part};
use super::state::{shown, shown_way};
use super::{SetOrigin, SetOriginError};
use crate::model::{
    HealthCheck, LocalOrigins, Origin, OriginHost, OriginIdentity, OriginPort, OriginSetting, Origins,
    ResolverOptions, ServiceName, Weight,
};
use crate::origins::current_roster::{CurrentRoster, CurrentRosters};
use crate::origins::fading::Fading;
use crate::origins::health::Health;
use crate::origins::own_bindings::{LoopJudgement, OwnBindings};
use crate::origins::refusal::AddressRefusal;
use crate::origins::resolver::{Resolution, Resolver, Turns, Unused};
use crate::origins::roster::{Loop, Nowhere, Place, Refused, Roster};
use crate::origins::standing::Standing;

/// A command to the thread.
pub(super) enum WatchCommand {
    /// Have no roster lead back through these.
    Avoid { own: OwnBindings, done: oneshot::Sender<()> },
    /// Keep a roster for a service.
    Roster { service: ServiceName, origins: Origins, done: oneshot::Sender<Arc<CurrentRoster>> },
    /// Resolve by other servers.
    Configure(ResolverOptions),
    /// Forget what is set of others than these.
    Keep(Vec<(ServiceName, OriginIdentity)>),
    /// Say in the log of the origins of each service that they were typed here.
    Places(HashMap<ServiceName, Vec<String>>),
    /// Look up what is not known, all at once, and say by then which origins have no address.
    Resolve { origins: Vec<(Origin, LocalOrigins)>, by: Instant, done: oneshot::Sender<Vec<ResolveError>> },
    /// Set one of a service's origins, as typed.
    Set {
        service: ServiceName,
        typed: String,
        setting: OriginSetting,
        done: oneshot::Sender<Result<SetOrigin, SetOriginError>>,
    },
}

/// For how long it is believed that the host's interfaces have the addresses that they had.
const OWN_ADDRESSES_TTL: Duration = Duration::from_secs(1);

/// So many addresses of a name are written to the log.
const SHOWN_ADDRESSES: usize = 16;

/// By what a standing is found again after a reload: one address of a service, and where its port comes from.
type StandingKey = (ServiceName, OriginPort, Option<u16>, IpAddr);

/// Everything the thread knows.
pub(super) struct WatchThread {
    resolver: RefCell<Rc<Resolver>>,
    names: RefCell<HashMap<OriginHost, Rc<Name>>>,
    own: RefCell<OwnBindings>,
    /// The addresses of this host's interfaces when they were last looked at, and the time.
    own_addresses: RefCell<(Rc<BTreeSet<IpAddr>>, Option<Instant>)>,
    places: RefCell<HashMap<ServiceName, Vec<String>>>,
    rosters: RefCell<CurrentRosters>,
    /// Those whose rosters leave out what would come back.
    looping: RefCell<Vec<Weak<CurrentRoster>>>,
    standings: RefCell<Fading<StandingKey, Standing>>,
    settings: RefCell<ByHand>,
    healths: RefCell<Fading<SocketAddr, Health>>,
    /// Those that may have a health of an address.
    checked: RefCell<Fading<SocketAddr, CurrentRoster>>,
    /// The checks that may begin.
    checks: Rc<Semaphore>,
}

/// The treatment of a failure that is not to be asked about again yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Failures {
    Retried,
    WaitedOut,
}

/// A name that somebody asked for. Locked while it is looked up, so that one query answers everybody who waits.
#[derive(Default)]
struct Name {
    latest: RefCell<Option<Arc<Resolution>>>,
    asking: Mutex<()>,
    refreshed: RefCell<bool>,
}

impl WatchThread {
    pub(super) async fn run(options: ResolverOptions, mut commands: mpsc::UnboundedReceiver<WatchCommand>) {
        let this = Rc::new(Self {
            resolver: RefCell::new(Rc::new(Resolver::new(options, Turns::default()))),
            names: RefCell::default(),
            own: RefCell::default(),
            own_addresses: RefCell::default(),
            places: RefCell::default(),
            rosters: RefCell::default(),
            looping: RefCell::default(),
            standings: RefCell::default(),
            settings: RefCell::default(),
            healths: RefCell::default(),
            checked: RefCell::default(),
            checks: Rc::new(Semaphore::new(check::AT_ONCE)),
        });
        while let Some(command) = commands.recv().await {
            let this = Rc::clone(&this);
            match command {
                WatchCommand::Avoid { own, done } => {
                    this.own.replace(own);
                    // Whoever was asked before may have known less.
                    this.own_addresses.borrow_mut().1 = None;
                    this.look_at_own_addresses();
                    this.renew(&this.alive());
                    let _ = done.send(());
                }
                WatchCommand::Configure(options) => {
                    let resolver = Rc::clone(&this.resolver.borrow());
                    if *resolver.options() != options {
                        this.resolver.replace(Rc::new(resolver.with(options)));
                        // What other servers said is not to be passed off as what these say.
                        this.names.borrow_mut().retain(|_, name| *name.refreshed.borrow());
                    }
                }
                WatchCommand::Keep(origins) => this.settings.borrow_mut().keep(&origins),
                WatchCommand::Set { service, typed, setting, done } => {
                    let _ = done.send(this.set(&service, &typed, setting));
                }
                WatchCommand::Places(places) => drop(this.places.replace(places)),
                WatchCommand::Resolve { origins, by, done } => {
                    this.forget_unused();
                    spawn_local(async move {
                        let _ = done.send(this.unresolved(origins, by).await);
                    });
                }
                WatchCommand::Roster { service, origins, done } => {
                    let _ = done.send(this.current_roster(service, origins));
                }
            }
        }
    }

    async fn unresolved(
        self: Rc<Self>,
        origins: Vec<(Origin, LocalOrigins)>,
        by: Instant,
    ) -> Vec<ResolveError> {
        let found = origins.into_iter().enumerate().map(async |(index, (origin, local))| {
            let lookup = self.resolution(&origin.host, Failures::Retried);
            let nowhere = match timeout_at(by.into(), lookup).await {
                Ok(resolution) => {
                    Nowhere::of(&resolution).or_else(|| self.refused_all(&resolution, &origin, local))?
                }
                Err(_elapsed) => match self.known(&origin.host) {
                    Some(known) if !known.is_empty() => self.refused_all(&known, &origin, local)?,
                    _ => Nowhere::unanswered(),
                },
            };
            let Nowhere { reason, cure } = nowhere;
            Some(ResolveError { index, origin, reason, cure: cure.unwrap_or_default() })
        });
        join_all(found).await.into_iter().flatten().collect()
    }

    /// Why there is nothing to dial although there are addresses.
    fn refused_all(&self, resolution: &Resolution, origin: &Origin, local: LocalOrigins) -> Option<Nowhere> {
        let mut first = None;
        for address in resolution.targets.iter().flat_map(|target| &target.addresses) {
            let refusal = self.refusal(&origin.host, local, *address)?;
            first.get_or_insert((address, refusal));
        }
        let (address, refusal) = first?;
        let reason = format!("it means {address}, {refusal}, where no name may lead");
        Some(Nowhere { reason, cure: Some(refusal.cure()) })
    }

    /// Why `address`, which the name of an origin means, is not dialled, if it is not.
    fn refusal(&self, host: &OriginHost, local: LocalOrigins, address: IpAddr) -> Option<AddressRefusal> {
        // What was typed is meant, and so is a name that means this host wherever it is said.
        let local = match host {
            OriginHost::Address(_) => return None,
            host if host.is_localhost() => LocalOrigins::Dialled,
            OriginHost::Name(_) | OriginHost::Service(_) => local,
        };
        let own = Rc::clone(&self.own_addresses.borrow().0);
        AddressRefusal::of(address, local, |address| own.contains(&address))
    }

    /// Looks at this host's interfaces, unless that was done a moment ago: whether they have other addresses than before.
    fn look_at_own_addresses(&self) -> bool {
        let now = Instant::now();
        if self.own_addresses.borrow().1.is_some_and(|at| now.duration_since(at) < OWN_ADDRESSES_TTL) {
            return false;
        }
        let own = self.own.borrow().clone();
        let addresses = Rc::new(own.addresses());
        let (before, _) = self.own_addresses.replace((Rc::clone(&addresses), Some(now)));
        before != addresses
    }

    /// Lets go of what was looked up for a configuration that did not come about.
    fn forget_unused(&self) {
        let now = Instant::now();
        let is_used = |name: &Name| {
            let latest = name.latest.borrow();
            let until = latest.as_ref().and_then(|latest| latest.until);
            *name.refreshed.borrow() || until.is_none_or(|until| until > now)
        };
        self.names.borrow_mut().retain(|_, name| is_used(name));
    }

    /// The current roster of a service whose origins are these: the one that there is, or a new one. Waits for no name.
    fn current_roster(self: &Rc<Self>, service: ServiceName, origins: Origins) -> Arc<CurrentRoster> {
        let known = self.rosters.borrow().of(&service).into_iter().find(|current| current.origins == origins);
        if let Some(current) = known {
            self.rosters.borrow_mut().add(&current);
            return current;
        }
        let current = Arc::new(CurrentRoster::new(service, origins));
        self.rosters.borrow_mut().add(&current);
        self.renew(std::slice::from_ref(&current));
        for origin in &current.origins.list {
            self.refresh(&origin.host);
        }
        current
    }

    /// Makes `rosters` anew.
    fn renew(self: &Rc<Self>, rosters: &[Arc<CurrentRoster>]) {
        let mut affected: Vec<Arc<CurrentRoster>> =
            self.looping.borrow().iter().filter_map(Weak::upgrade).collect();
        affected.retain(|current| rosters.iter().all(|one| !Arc::ptr_eq(one, current)));
        affected.extend_from_slice(rosters);
        let before: Vec<Arc<Roster>> = affected.iter().map(|current| current.roster()).collect();
        for current in rosters {
            self.renew_one(current);
        }
        // Then those that leave something out, which need be so no longer since others have changed. What they take in again
        // closes no circle, since that is what each of them looks for.
        for current in affected.iter().filter(|current| !current.roster().loops.is_empty()) {
            self.renew_one(current);
        }
        for (current, before) in affected.iter().zip(&before) {
            report_loops(current, &before.loops);
            self.report_nowhere(current, &before.nowhere);
            report_refused(current, &before.refused);
            report_unused(current, &before.unused);
        }
        affected.retain(|current| !current.roster().loops.is_empty());
        self.looping.replace(affected.iter().map(Arc::downgrade).collect());
    }

    fn alive(&self) -> Vec<Arc<CurrentRoster>> {
        self.rosters.borrow().all()
    }

    fn renew_one(self: &Rc<Self>, current: &Arc<CurrentRoster>) {
        let resolutions: Vec<Option<Arc<Resolution>>> = current
            .origins
            .list
            .iter()
            .map(|origin| match &origin.host {
                OriginHost::Address(address) => Some(Arc::new(Resolution::of_address(*address))),
                host => self.known(host),
            })
            .collect();
        let own = self.own.borrow().clone();
        let judge = |origin: &Origin, port: Option<u16>, address: IpAddr| match self.refusal(
            &origin.host,
            current.origins.local,
            address,
        ) {
            Some(refusal) => LoopJudgement { refusal: Some(refusal), ..LoopJudgement::default() },
            None => {
                own.judge(&current.service, address, origin.port, port, |to| self.way(to, &current.service))
            }
        };
        let set: Vec<Option<Weight>> = {
            let settings = self.settings.borrow();
            current.origins.list.iter().map(|origin| settings.weight(&current.service, origin)).collect()
        };
        let mut origins = current.origins.clone();
        for (origin, weight) in origins.list.iter_mut().zip(&set) {
            origin.weight = weight.unwrap_or(origin.weight);
        }
        let mut roster = Roster::of(&origins, &resolutions, judge, |origin, port, address, judgement| {
            self.place(current, origin, port, address, judgement)
        });
        for (share, weight) in roster.shares.iter_mut().zip(&set) {
            share.is_by_hand = weight.is_some();
        }
        note_routes(&roster);
        current.renew(roster);
    }

    /// Sets one of the origins of `service`, or some of its addresses, for all who dial it from now on.
    fn set(
        self: &Rc<Self>,
        service: &ServiceName,
        typed: &str,
        setting: OriginSetting,
    ) -> Result<SetOrigin, SetOriginError> {
        let current = self.rosters.borrow().latest(service).ok_or(SetOriginError::Originless)?;
        let roster = current.roster();
        let Selection { origin, parts } =
            select(&current.origins.list, &roster, typed).map_err(|fault| match fault {
                SelectionFault::Several(origins) => SetOriginError::Several(origins),
                SelectionFault::Unknown => {
                    SetOriginError::Unknown(current.origins.list.iter().map(ToString::to_string).collect())
                }
            })?;
        let origin = current.origins.list.get(origin).ok_or(SetOriginError::Originless)?;
        let mut settings = self.settings.borrow_mut();
        let set = if parts.is_empty() {
            settings.set(service, origin, setting)
        } else {
            let is_drained = match setting.weight() {
                None => false,
                Some(Weight::ZERO) => true,
                Some(_) => return Err(SetOriginError::Share { origin: origin.to_string() }),
            };
            settings.set_parts(service, origin, &parts, is_drained)
        };
        set.map_err(|Full| SetOriginError::Full)?;
        drop(settings);
        let rosters = self.rosters.borrow().of(service);
        self.renew(&rosters);
        let addresses = parts.iter().map(|part| shown(origin, part.port, part.address)).collect();
        Ok(SetOrigin { origin: origin.to_string(), addresses })
    }

    /// The shortest way by which connections of the service `from` may come to the service `to`: both, and those between them.
    fn way(&self, from: &ServiceName, to: &ServiceName) -> Option<Vec<ServiceName>> {
        let rosters = self.rosters.borrow();
        // Each with the place in this list of the one before it.
        let mut reached = vec![(from.clone(), None)];
        let mut next = 0;
        while let Some((here, _)) = reached.get(next) {
            if here == to {
                let mut way = Vec::new();
                let mut at = Some(next);
                while let Some((service, before)) = at.and_then(|at| reached.get(at)) {
                    way.push(service.clone());
                    at = *before;
                }
                way.reverse();
                return Some(way);
            }
            if let Some(current) = rosters.latest(here) {
                for service in &current.roster().through {
                    if reached.iter().all(|(one, _)| one != service) {
                        reached.push((service.clone(), Some(next)));
                    }
                }
            }
            next += 1;
        }
        None
    }

    fn place(
        self: &Rc<Self>,
        current: &Arc<CurrentRoster>,
        origin: &Origin,
        port: Option<u16>,
        address: IpAddr,
        judgement: &LoopJudgement,
    ) -> Place {
        let key = (current.service.clone(), origin.port, port, address);
        let mut standings = self.standings.borrow_mut();
        let known = standings.last(&key);
        let standing = known.unwrap_or_else(|| {
            let standing = Arc::new(Standing::new(address));
            standings.add(key, &standing);
            standing
        });
        let health = current.origins.health.as_ref().and_then(|check| {
            let own = match origin.port {
                OriginPort::Fixed(port) => Some(port.get()),
                OriginPort::Record => port,
                // The configuration says which port instead.
                OriginPort::Dialled | OriginPort::Offset(_) => None,
            };
            let address = SocketAddr::new(address, check.port.or(own)?);
            self.checked.borrow_mut().add(address, current);
            Some(self.health(address, check))
        });
        let mut place = Place::new(standing, health, judgement);
        place.judged = current.origins.judged();
        place.is_drained_by_hand =
            self.settings.borrow().drains(&current.service, origin, Part { address, port });
        place
    }

    /// The health of an address, checked from now on if it was not before.
    fn health(self: &Rc<Self>, address: SocketAddr, check: &HealthCheck) -> Arc<Health> {
        let mut healths = self.healths.borrow_mut();
        let alive = healths.of(&address);
        if let Some(health) = alive.iter().find(|health| health.check == *check) {
            return Arc::clone(health);
        }
        let health = Arc::new(Health::new(address, check.clone(), alive.last().map(Arc::as_ref)));
        healths.add(address, &health);
        let this = Rc::clone(self);
        let services = move |health: &Arc<Health>| this.services(health);
        spawn_local(check::check(Rc::clone(&self.checks), Arc::downgrade(&health), services));
        health
    }

    /// The services that use `health`.
    fn services(&self, health: &Arc<Health>) -> String {
        let uses = |current: &Arc<CurrentRoster>| {
            let roster = current.roster();
            roster.places().any(|place| place.health.as_ref().is_some_and(|one| Arc::ptr_eq(one, health)))
        };
        let rosters = self.checked.borrow().of(&health.address);
        let mut services: Vec<String> =
            rosters.into_iter().filter(uses).map(|current| current.service.to_string()).collect();
        services.sort_unstable();
        services.dedup();
        services.join(",")
    }

    /// The resolution of `host`, looked up unless an answer is still good. What is new about it is on the rosters then.
    async fn resolution(self: &Rc<Self>, host: &OriginHost, failures: Failures) -> Arc<Resolution> {
        if let OriginHost::Address(address) = host {
            return Arc::new(Resolution::of_address(*address));
        }
        let name = Rc::clone(self.names.borrow_mut().entry(host.clone()).or_default());
        let before = Instant::now();
        let _asking = name.asking.lock().await;
        let latest = name.latest.borrow().clone();
        if let Some(latest) = &latest {
            let is_good = latest.until.is_none_or(|until| until > Instant::now());
            let is_retried = failures == Failures::Retried
                && latest.fault.is_some()
                && latest.at.is_none_or(|at| at < before);
            if is_good && !is_retried {
                return Arc::clone(latest);
            }
        }
        let so_far = |resolution| self.publish(host, &name, &Arc::new(resolution));
        let resolution = Arc::new(self.resolver().resolve(host, latest.as_deref(), so_far).await);
        self.publish(host, &name, &resolution);
        report(host, latest.as_deref(), &resolution);
        resolution
    }

    /// Has everybody who dials `host` go by `resolution`.
    fn publish(self: &Rc<Self>, host: &OriginHost, name: &Name, resolution: &Arc<Resolution>) {
        let before = name.latest.replace(Some(Arc::clone(resolution)));
        let kind = |resolution: &Resolution| resolution.fault.as_ref().map(discriminant);
        let is_news = before
            .is_none_or(|before| before.targets != resolution.targets || kind(&before) != kind(resolution));
        if self.look_at_own_addresses() {
            self.renew(&self.alive());
        } else if is_news {
            self.renew(&self.rosters_of(host));
        } else {
            self.rosters_of(host).iter().for_each(|current| note_routes(&current.roster()));
        }
    }

    /// What was found out of `host` last, whether it is still good or not.
    fn known(&self, host: &OriginHost) -> Option<Arc<Resolution>> {
        self.names.borrow().get(host)?.latest.borrow().clone()
    }

    /// The resolver, made anew if the host has changed its mind about where names are resolved.
    fn resolver(&self) -> Rc<Resolver> {
        let mut resolver = self.resolver.borrow_mut();
        if resolver.is_outdated() {
            *resolver = Rc::new(resolver.with(resolver.options().clone()));
        }
        Rc::clone(&resolver)
    }

    /// Looks `host` up whenever its answer has expired, for as long as a roster needs it.
    fn refresh(self: &Rc<Self>, host: &OriginHost) {
        if matches!(host, OriginHost::Address(_)) {
            return;
        }
        let name = Rc::clone(self.names.borrow_mut().entry(host.clone()).or_default());
        if name.refreshed.replace(true) {
            return;
        }
        let (this, host) = (Rc::clone(self), host.clone());
        spawn_local(async move {
            loop {
                let until = name.latest.borrow().as_ref().and_then(|resolution| resolution.until);
                if let Some(until) = until {
                    sleep_until(until.into()).await;
                }
                if this.rosters_of(&host).is_empty() {
                    name.refreshed.replace(false);
                    this.names.borrow_mut().remove(&host);
                    return;
                }
                this.resolution(&host, Failures::WaitedOut).await;
            }
        });
    }

    fn rosters_of(&self, host: &OriginHost) -> Vec<Arc<CurrentRoster>> {
        self.rosters.borrow().of_host(host)
    }

    /// Says in the log which origins of a roster lead nowhere since now, and which do no longer.
    fn report_nowhere(&self, current: &CurrentRoster, before: &[Option<Nowhere>]) {
        let (roster, service) = (current.roster(), &current.service);
        let places = self.places.borrow();
        let places = places.get(service).map_or(&[][..], Vec::as_slice);
        let is_said = |nowhere: Option<&Option<Nowhere>>| {
            nowhere.and_then(Option::as_ref).is_some_and(|nowhere| nowhere.cure.is_some())
        };
        for (index, (origin, nowhere)) in current.origins.list.iter().zip(&roster.nowhere).enumerate() {
            let was_said = is_said(before.get(index));
            let Some(Nowhere { reason, cure: Some(cure) }) = nowhere else {
                if was_said && nowhere.is_none() {
                    tracing::info!(%service, %origin, "origin resolves again");
                }
                continue;
            };
            if was_said {
                continue;
            }
            let at = places.get(index).map_or("", String::as_str);
            if roster.members.is_empty() {
                tracing::warn!(
                    %service, %origin, at, reason, cure,
                    "resolve origin: the service is unresolved and refuses connections until a name of its origins has an \
                     address, which is asked for again"
                );
            } else {
                tracing::warn!(
                    %service, %origin, at, reason, cure,
                    "resolve origin: it has no address; connections go to the other origins, and it is asked for again"
                );
            }
        }
    }
}

/// Says in the log what is newly left out of a roster, and why.
fn report_loops(current: &CurrentRoster, before: &[Loop]) {
    for one in current.roster().loops.iter().filter(|one| !before.contains(one)) {
        let Some(origin) = current.origins.list.get(one.origin) else { continue };
        let (service, address, judgement) = (&current.service, one.address, &one.judgement);
        let ports = judgement.barred.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let by = judgement.by().map(ServiceName::as_str).collect::<Vec<_>>().join(",");
        let ways: Vec<String> =
            judgement.ways.iter().map(|way| shown_way([service].into_iter().chain(way))).collect();
        let ways = ways.join(", ");
        let others: Vec<&str> = judgement.by().filter(|by| *by != service).map(ServiceName::as_str).collect();
        if others.is_empty() {
            tracing::warn!(
                %service, %origin, %address, ports, bound_by = by, way = ways,
                "origin leads back to this service and is not dialled there; give its name an address that no binding \
                 here has, or bind fewer ports"
            );
        } else {
            let others = others.join(" and ");
            tracing::warn!(
                %service, %origin, %address, ports, bound_by = by, way = ways,
                "origin leads to service {others} and from there back to this service, and is not dialled there; give one \
                 of the names on the way an address that none of these services binds, or bind fewer ports"
            );
        }
    }
}

/// Says in the log which origins' names mean since now what is refused.
fn report_refused(current: &CurrentRoster, before: &[Refused]) {
    let roster = current.roster();
    let mut said: HashSet<(usize, AddressRefusal)> =
        before.iter().map(|one| (one.origin, one.refusal)).collect();
    for Refused { origin, address, refusal, .. } in &roster.refused {
        // Of each kind one is enough: whoever says such things may say others all the time.
        if !said.insert((*origin, *refusal)) {
            continue;
        }
        let Some(origin) = current.origins.list.get(*origin) else { continue };
        let (service, cure) = (&current.service, refusal.cure());
        tracing::warn!(%service, %origin, %address, cure, "origin's name means {refusal}, which is not dialled");
    }
}

/// Says in the log which origins' names say more than is used since now.
fn report_unused(current: &CurrentRoster, before: &[Unused]) {
    let roster = current.roster();
    for (index, (origin, unused)) in current.origins.list.iter().zip(&roster.unused).enumerate() {
        let is_new = before.get(index).is_none_or(|before| *before == Unused::default());
        if is_new && *unused != Unused::default() {
            let (service, Unused { targets, addresses }) = (&current.service, *unused);
            tracing::warn!(
                %service, %origin, targets, addresses,
                "origin's name has so many SRV records and addresses more than [resolver] targets and addresses allow, \
                 which are not used"
            );
        }
    }
}

/// Says in the log when what was known of a name is no longer confirmed, when it is again, and what is new about it. That it
/// leads nowhere is said of each service that uses it.
fn report(host: &OriginHost, before: Option<&Resolution>, after: &Resolution) {
    let Some(before) = before else { return };
    let is_stale = |resolution: &Resolution| resolution.fault.is_some() && !resolution.is_empty();
    match (is_stale(before), &after.fault) {
        (false, Some(fault)) if !after.is_empty() => {
            tracing::warn!(origin = %host, reason = fault.text(), "resolve origin: what was known before still holds");
        }
        (true, None) => tracing::info!(origin = %host, "origin resolves again"),
        _ => {}
    }
    if before.targets != after.targets && !after.is_empty() {
        let addresses = after.targets.iter().flat_map(|target| &target.addresses);
        let count = addresses.clone().count();
        let addresses =
            addresses.take(SHOWN_ADDRESSES).map(ToString::to_string).collect::<Vec<_>>().join(",");
        tracing::info!(origin = %host, count, addresses, "origin has other addresses");
    }
}

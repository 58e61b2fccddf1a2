//! What the watching thread does: it hangs rosters on boards, and hangs others when names or their failures say so. Nothing
//! here is shared with other threads but the boards, the standings and the healths.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::discriminant;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Instant;

use futures_util::future::join_all;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::sleep_until;

use super::ResolveError;
use super::check;
use super::selection::{Selection, SelectionFault, select};
use super::settings::{Full, Part, Settings};
use super::state::{shown, shown_way};
use super::{SetOrigin, SetOriginError};
use crate::model::{
    HealthCheck, Origin, OriginHost, OriginIdentity, OriginPort, OriginSetting, Origins, ResolverOptions,
    ServiceName, Weight,
};
use crate::proxy::origins::board::Board;
use crate::proxy::origins::health::Health;
use crate::proxy::origins::own_bindings::{Judgement, OwnBindings};
use crate::proxy::origins::resolver::{Fault, Resolution, Resolver};
use crate::proxy::origins::roster::{Loop, Place, Roster};
use crate::proxy::origins::standing::Standing;

/// What the thread is told.
pub(super) enum Command {
    /// Have no roster lead back through these.
    Avoid { own: OwnBindings, done: oneshot::Sender<()> },
    /// Keep a board for a service.
    Board { service: ServiceName, origins: Origins, done: oneshot::Sender<Arc<Board>> },
    /// Resolve by other servers.
    Configure(ResolverOptions),
    /// Forget what is set of others than these.
    Keep(Vec<(ServiceName, OriginIdentity)>),
    /// Say which origins have no address.
    Resolve { origins: Vec<Origin>, done: oneshot::Sender<Vec<ResolveError>> },
    /// Set one of a service's origins, as typed.
    Set {
        service: ServiceName,
        typed: String,
        setting: OriginSetting,
        done: oneshot::Sender<Result<SetOrigin, SetOriginError>>,
    },
}

/// By what a standing is found again after a reload: one address of a service, and where its port comes from.
type StandingKey = (ServiceName, OriginPort, Option<u16>, IpAddr);

/// Everything the thread knows.
pub(super) struct Lead {
    resolver: RefCell<Rc<Resolver>>,
    names: RefCell<HashMap<OriginHost, Rc<Name>>>,
    own: RefCell<OwnBindings>,
    /// The latest of each service last.
    boards: RefCell<Vec<Weak<Board>>>,
    /// Those whose rosters leave out what would come back.
    looping: RefCell<Vec<Weak<Board>>>,
    standings: RefCell<HashMap<StandingKey, Weak<Standing>>>,
    settings: RefCell<Settings>,
    healths: RefCell<HashMap<SocketAddr, Vec<Weak<Health>>>>,
    pub(super) checks: Semaphore,
}

/// Who is told what is wrong with a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Audience {
    Caller,
    Log,
}

/// A name that somebody asked for. Locked while it is looked up, so that one query answers everybody who waits.
#[derive(Default)]
struct Name {
    latest: RefCell<Option<Arc<Resolution>>>,
    asking: Mutex<()>,
    refreshed: RefCell<bool>,
}

impl Lead {
    pub(super) async fn run(options: ResolverOptions, mut commands: mpsc::UnboundedReceiver<Command>) {
        let lead = Rc::new(Self {
            resolver: RefCell::new(Rc::new(Resolver::new(options))),
            names: RefCell::default(),
            own: RefCell::default(),
            boards: RefCell::default(),
            looping: RefCell::default(),
            standings: RefCell::default(),
            settings: RefCell::default(),
            healths: RefCell::default(),
            checks: Semaphore::new(check::AT_ONCE),
        });
        while let Some(command) = commands.recv().await {
            let lead = Rc::clone(&lead);
            match command {
                Command::Avoid { own, done } => {
                    lead.own.replace(own);
                    lead.hang(&lead.alive());
                    let _ = done.send(());
                }
                Command::Configure(options) => {
                    if *lead.resolver.borrow().options() != options {
                        lead.resolver.replace(Rc::new(Resolver::new(options)));
                        // What other servers said is not to be passed off as what these say.
                        lead.names.borrow_mut().retain(|_, name| *name.refreshed.borrow());
                    }
                }
                Command::Keep(origins) => lead.settings.borrow_mut().keep(&origins),
                Command::Set { service, typed, setting, done } => {
                    let _ = done.send(lead.set(&service, &typed, setting));
                }
                Command::Resolve { origins, done } => {
                    spawn_local(async move {
                        let _ = done.send(lead.unresolved(origins).await);
                    });
                }
                Command::Board { service, origins, done } => {
                    spawn_local(async move {
                        let _ = done.send(lead.board(service, origins).await);
                    });
                }
            }
        }
    }

    async fn unresolved(self: Rc<Self>, origins: Vec<Origin>) -> Vec<ResolveError> {
        let found = origins.into_iter().enumerate().map(async |(index, origin)| {
            let resolution = self.resolution(&origin.host, Audience::Caller).await;
            let denied = Fault::Denied("there is no address".to_owned());
            let fault = resolution.fault.as_ref().unwrap_or(&denied);
            let (reason, cure) = (fault.text().to_owned(), fault.cure());
            resolution.is_empty().then_some(ResolveError { index, origin, reason, cure })
        });
        join_all(found).await.into_iter().flatten().collect()
    }

    /// The board of a service whose origins are these: the one that there is, or a new one.
    async fn board(self: Rc<Self>, service: ServiceName, origins: Origins) -> Arc<Board> {
        // Before looking for one, since others may look while we wait.
        join_all(origins.list.iter().map(|origin| self.resolution(&origin.host, Audience::Log))).await;
        let known = self
            .boards
            .borrow()
            .iter()
            .filter_map(Weak::upgrade)
            .find(|board| board.service == service && board.origins == origins);
        if let Some(board) = known {
            let mut boards = self.boards.borrow_mut();
            boards.retain(|one| !std::ptr::eq(one.as_ptr(), Arc::as_ptr(&board)));
            boards.push(Arc::downgrade(&board));
            return board;
        }
        let board = Arc::new(Board::new(service, origins));
        self.boards.borrow_mut().push(Arc::downgrade(&board));
        self.hang(std::slice::from_ref(&board));
        for origin in &board.origins.list {
            self.refresh(&origin.host);
        }
        board
    }

    /// Makes the rosters of `boards` anew.
    fn hang(self: &Rc<Self>, boards: &[Arc<Board>]) {
        let mut affected: Vec<Arc<Board>> = self.looping.borrow().iter().filter_map(Weak::upgrade).collect();
        affected.retain(|board| boards.iter().all(|one| !Arc::ptr_eq(one, board)));
        affected.extend_from_slice(boards);
        let before: Vec<Arc<Roster>> = affected.iter().map(|board| board.roster()).collect();
        for board in boards {
            self.hang_one(board);
        }
        // Then those that leave something out, which need be so no longer since others have changed. What they take in again
        // closes no circle, since that is what each of them looks for.
        for board in affected.iter().filter(|board| !board.roster().loops.is_empty()) {
            self.hang_one(board);
        }
        for (board, before) in affected.iter().zip(&before) {
            report_loops(board, &before.loops);
        }
        affected.retain(|board| !board.roster().loops.is_empty());
        self.looping.replace(affected.iter().map(Arc::downgrade).collect());
        self.standings.borrow_mut().retain(|_, standing| standing.strong_count() > 0);
        self.healths.borrow_mut().retain(|_, healths| {
            healths.retain(|health| health.strong_count() > 0);
            !healths.is_empty()
        });
    }

    fn alive(&self) -> Vec<Arc<Board>> {
        self.boards.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    fn hang_one(self: &Rc<Self>, board: &Board) {
        let names = self.names.borrow();
        let resolutions: Vec<Option<Arc<Resolution>>> = board
            .origins
            .list
            .iter()
            .map(|origin| match &origin.host {
                OriginHost::Address(address) => Some(Arc::new(Resolution::of_address(*address))),
                host => names.get(host).and_then(|name| name.latest.borrow().clone()),
            })
            .collect();
        drop(names);
        let own = self.own.borrow().clone();
        let judge = |origin: &Origin, port: Option<u16>, address: IpAddr| {
            own.judge(&board.service, address, origin.port, port, |to| self.way(to, &board.service))
        };
        let set: Vec<Option<Weight>> = {
            let settings = self.settings.borrow();
            board.origins.list.iter().map(|origin| settings.weight(&board.service, origin)).collect()
        };
        let mut origins = board.origins.clone();
        for (origin, weight) in origins.list.iter_mut().zip(&set) {
            origin.weight = weight.unwrap_or(origin.weight);
        }
        let mut roster = Roster::of(&origins, &resolutions, judge, |origin, port, address, judgement| {
            self.place(board, origin, port, address, judgement)
        });
        for (share, weight) in roster.shares.iter_mut().zip(&set) {
            share.is_by_hand = weight.is_some();
        }
        board.hang(roster);
    }

    /// Sets one of the origins of `service`, or some of its addresses, for all who dial it from now on.
    fn set(
        self: &Rc<Self>,
        service: &ServiceName,
        typed: &str,
        setting: OriginSetting,
    ) -> Result<SetOrigin, SetOriginError> {
        let board = Board::latest(&self.boards.borrow(), service).ok_or(SetOriginError::Originless)?;
        let roster = board.roster();
        let Selection { origin, parts } =
            select(&board.origins.list, &roster, typed).map_err(|fault| match fault {
                SelectionFault::Several(origins) => SetOriginError::Several(origins),
                SelectionFault::Unknown => {
                    SetOriginError::Unknown(board.origins.list.iter().map(ToString::to_string).collect())
                }
            })?;
        let origin = board.origins.list.get(origin).ok_or(SetOriginError::Originless)?;
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
        let mut boards = self.alive();
        boards.retain(|board| board.service == *service);
        self.hang(&boards);
        let addresses = parts.iter().map(|part| shown(origin, part.port, part.address)).collect();
        Ok(SetOrigin { origin: origin.to_string(), addresses })
    }

    /// The shortest way by which connections of the service `from` may come to the service `to`: both, and those between them.
    fn way(&self, from: &ServiceName, to: &ServiceName) -> Option<Vec<ServiceName>> {
        let boards = self.boards.borrow();
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
            if let Some(board) = Board::latest(&boards, here) {
                for service in &board.roster().through {
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
        board: &Board,
        origin: &Origin,
        port: Option<u16>,
        address: IpAddr,
        judgement: &Judgement,
    ) -> Place {
        let key = (board.service.clone(), origin.port, port, address);
        let mut standings = self.standings.borrow_mut();
        let standing = standings.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let standing = Arc::new(Standing::new(address));
            standings.insert(key, Arc::downgrade(&standing));
            standing
        });
        let health = board.origins.health.and_then(|check| {
            let own = match origin.port {
                OriginPort::Fixed(port) => Some(port.get()),
                OriginPort::Record => port,
                // The configuration says which port instead.
                OriginPort::Dialled | OriginPort::Offset(_) => None,
            };
            Some(self.health(SocketAddr::new(address, check.port.or(own)?), check))
        });
        let mut place = Place::new(standing, health, judgement);
        place.is_drained_by_hand =
            self.settings.borrow().drains(&board.service, origin, Part { address, port });
        place
    }

    /// The health of an address, checked from now on if it was not before.
    fn health(self: &Rc<Self>, address: SocketAddr, check: HealthCheck) -> Arc<Health> {
        let mut healths = self.healths.borrow_mut();
        let known = healths.entry(address).or_default();
        let alive: Vec<Arc<Health>> = known.iter().filter_map(Weak::upgrade).collect();
        if let Some(health) = alive.iter().find(|health| health.check == check) {
            return Arc::clone(health);
        }
        let health = Arc::new(Health::new(address, check, alive.last().map(Arc::as_ref)));
        known.push(Arc::downgrade(&health));
        spawn_local(check::check(Rc::clone(self), Arc::downgrade(&health)));
        health
    }

    /// The services that use `health`.
    pub(super) fn services(&self, health: &Arc<Health>) -> String {
        let uses = |board: &Arc<Board>| {
            let roster = board.roster();
            roster.places().any(|place| place.health.as_ref().is_some_and(|one| Arc::ptr_eq(one, health)))
        };
        let boards = self.boards.borrow();
        let mut services: Vec<String> = boards
            .iter()
            .filter_map(Weak::upgrade)
            .filter(uses)
            .map(|board| board.service.to_string())
            .collect();
        services.sort_unstable();
        services.dedup();
        services.join(",")
    }

    /// What is known of `host`, looked up unless an answer is still good.
    async fn resolution(&self, host: &OriginHost, audience: Audience) -> Arc<Resolution> {
        if let OriginHost::Address(address) = host {
            return Arc::new(Resolution::of_address(*address));
        }
        let name = Rc::clone(self.names.borrow_mut().entry(host.clone()).or_default());
        let _asking = name.asking.lock().await;
        let latest = name.latest.borrow().clone();
        if let Some(latest) = &latest
            && latest.until.is_none_or(|until| until > Instant::now())
        {
            return Arc::clone(latest);
        }
        let resolution = Arc::new(self.resolver().resolve(host, latest.as_deref()).await);
        // A name that was never of use is no news to a log whose reader gets it as an error.
        if audience == Audience::Log || latest.is_some() || !resolution.is_empty() {
            report(host, latest.as_deref(), &resolution);
        }
        name.latest.replace(Some(Arc::clone(&resolution)));
        resolution
    }

    /// The resolver, made anew if the host has changed its mind about where names are resolved.
    fn resolver(&self) -> Rc<Resolver> {
        let mut resolver = self.resolver.borrow_mut();
        if resolver.is_outdated() {
            *resolver = Rc::new(Resolver::new(resolver.options().clone()));
        }
        Rc::clone(&resolver)
    }

    /// Looks `host` up whenever its answer has expired, for as long as a board needs it.
    fn refresh(self: &Rc<Self>, host: &OriginHost) {
        if matches!(host, OriginHost::Address(_)) {
            return;
        }
        let Some(name) = self.names.borrow().get(host).cloned() else { return };
        if name.refreshed.replace(true) {
            return;
        }
        let (lead, host) = (Rc::clone(self), host.clone());
        spawn_local(async move {
            loop {
                let before = name.latest.borrow().clone();
                if let Some(until) = before.as_ref().and_then(|resolution| resolution.until) {
                    sleep_until(until.into()).await;
                }
                let boards = lead.boards_of(&host);
                if boards.is_empty() {
                    name.refreshed.replace(false);
                    lead.names.borrow_mut().remove(&host);
                    return;
                }
                let after = lead.resolution(&host, Audience::Log).await;
                let same = before.is_some_and(|before| {
                    let kind = |resolution: &Resolution| resolution.fault.as_ref().map(discriminant);
                    before.targets == after.targets && kind(&before) == kind(&after)
                });
                if !same {
                    lead.hang(&boards);
                }
            }
        });
    }

    fn boards_of(&self, host: &OriginHost) -> Vec<Arc<Board>> {
        let mut boards = self.boards.borrow_mut();
        boards.retain(|board| board.strong_count() > 0);
        let names = |board: &Arc<Board>| board.origins.list.iter().any(|origin| origin.host == *host);
        boards.iter().filter_map(Weak::upgrade).filter(names).collect()
    }
}

/// Says in the log what is newly left out of a board's roster, and why.
fn report_loops(board: &Board, before: &[Loop]) {
    for one in board.roster().loops.iter().filter(|one| !before.contains(one)) {
        let Some(origin) = board.origins.list.get(one.origin) else { continue };
        let (service, address, judgement) = (&board.service, one.address, &one.judgement);
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

/// Says in the log when a name begins to fail, and when it is over.
fn report(host: &OriginHost, before: Option<&Resolution>, after: &Resolution) {
    let failed = |resolution: &Resolution| resolution.fault.is_some();
    match (before.is_some_and(failed), &after.fault) {
        (false, Some(fault)) => {
            let reason = fault.text();
            let kept = if after.is_empty() {
                "there is nothing to go by"
            } else {
                "what was known before still holds"
            };
            tracing::warn!(origin = %host, reason, "resolve origin: {kept}");
        }
        (true, None) => tracing::info!(origin = %host, "origin resolves again"),
        _ => {}
    }
    if let Some(before) = before
        && before.targets != after.targets
    {
        let addresses: Vec<String> =
            after.targets.iter().flat_map(|target| &target.addresses).map(ToString::to_string).collect();
        tracing::info!(origin = %host, addresses = addresses.join(","), "origin has other addresses");
    }
}

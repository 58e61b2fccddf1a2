//! The sockets of other programs to which packets of services go: put there when somebody asks, looked at, and let go of. Takes them out of
//! no process: whoever asks has done that, and their descriptors are closed as soon as the kernel knows them. A descriptor that is kept
//! would keep the queue of a dead server open, for clients to wait in.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::time::Instant;

use super::running::Running;
use crate::config::nearest;
use crate::control::{
    Asked, Asker, OfferedSocket, RegisterAnswer, RegisterQuery, Request, UnregisterQuery, WeightQuery,
};
use crate::model::{
    Destination, DestinationId, Family, GroupSocket, MOST_SOCKETS, PortRange, Protocol, RegisteredSocket,
    ServiceName, SocketShape, SocketSource, Target, Weight, answer_notes, choose_sockets, key_of, shares,
};
use crate::plan::firewall::SharedSlot;
use crate::registry::Mode;
use crate::view::DestinationPlan;
use spectrum_common::{RegisteredId, SocketShare, slots_of};
use spectrum_steering::dispatcher::Dispatcher;
use spectrum_steering::host::{ForeignSocket, ListeningSocket, NamespaceId, listening_sockets, reachable_at};

/// The time between two looks whether they are still there.
const GLANCE: Duration = Duration::from_secs(1);

/// So many sockets of one group have places: one of them stands for the others when it is closed.
const MOST_OF_A_GROUP: usize = 8;

/// The registered sockets of an instance.
#[derive(Debug, Default)]
pub(super) struct Registered {
    /// Those that packets are steered to, of each destination in the order in which they came. Each has one at least.
    pub(super) sockets: BTreeMap<Destination, Vec<RegisteredSocket>>,
    /// Those that were closed meanwhile, of destinations that have had no other since.
    pub(super) gone: BTreeMap<Destination, RegisteredSocket>,
    /// The inodes of sockets that were seen to share a port with one of them, and nobody could take: they are tried once.
    strange: BTreeSet<u64>,
    /// The next look.
    due: Option<Instant>,
    /// True while something of it is not written down.
    is_unsettled: bool,
    /// The places of those that packets are steered to no more, which are to be emptied.
    left: Vec<RegisteredId>,
}

impl Registered {
    /// True while something of it is not written down, or a place is to be emptied.
    pub(super) fn is_unsettled(&self) -> bool {
        self.is_unsettled || !self.left.is_empty()
    }

    /// All of it is written down: the places that are to be emptied.
    pub(super) fn settle(&mut self) -> Vec<RegisteredId> {
        self.is_unsettled = false;
        std::mem::take(&mut self.left)
    }

    /// Keeps those of destinations that there are: the others.
    fn keep<'a>(&mut self, destinations: impl Iterator<Item = &'a Destination>) -> Vec<RegisteredSocket> {
        let kept: BTreeSet<&Destination> = destinations.collect();
        self.gone.retain(|destination, _| kept.contains(destination));
        let left = self.sockets.extract_if(.., |destination, _| !kept.contains(destination));
        left.flat_map(|(_, sockets)| sockets).collect()
    }

    /// Those of `destination`.
    pub(super) fn of(&self, destination: &Destination) -> &[RegisteredSocket] {
        self.sockets.get(destination).map_or(&[], Vec::as_slice)
    }

    /// All, each with its destination.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Destination, &RegisteredSocket)> {
        self.sockets.iter().flat_map(|(destination, all)| all.iter().map(move |socket| (destination, socket)))
    }

    /// The moment of the next look, while there is anything to be looked at.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| !self.sockets.is_empty())
    }

    /// The program before had these `sockets`, and knew that those are `gone`.
    pub(super) fn adopt(
        &mut self,
        sockets: impl IntoIterator<Item = (Destination, RegisteredSocket)>,
        gone: impl IntoIterator<Item = (Destination, RegisteredSocket)>,
    ) {
        for (destination, socket) in sockets {
            self.sockets.entry(destination).or_default().push(socket);
        }
        self.gone.extend(gone);
        self.due = Some(Instant::now());
    }
}

/// A socket that was offered, or several that share a port: the kernel chooses among these, whichever of them it is told of.
pub(super) struct Offered {
    socket: ForeignSocket,
    beside: Vec<ForeignSocket>,
    pid: u32,
    command: String,
}

impl Offered {
    /// True if both have the same address and take the same packets, as only those have that share a port.
    fn shares_port_with(&self, other: &ForeignSocket) -> bool {
        let of = |socket: &ForeignSocket| (socket.protocol(), socket.address(), socket.families().to_vec());
        of(&self.socket) == of(other)
    }

    /// All of them.
    fn sockets(&self) -> impl Iterator<Item = &ForeignSocket> {
        std::iter::once(&self.socket).chain(&self.beside)
    }

    /// True if `registered` is one of them, or shares the port with them.
    fn is_of(&self, registered: &RegisteredSocket) -> bool {
        registered.address == self.socket.address()
            || registered.group().any(|one| self.sockets().any(|socket| socket.cookie() == one.cookie))
    }

    /// The group that the kernel chooses among: those of `known` that are open, then these, of which none is known.
    fn grouped(
        &self,
        known: Option<&RegisteredSocket>,
        mut admit: impl FnMut(&ForeignSocket) -> anyhow::Result<Option<RegisteredId>>,
    ) -> anyhow::Result<Vec<GroupSocket>> {
        let mut group: Vec<GroupSocket> = known.into_iter().flat_map(RegisteredSocket::group).collect();
        for socket in self.sockets() {
            if group.len() < MOST_OF_A_GROUP && group.iter().all(|one| one.cookie != socket.cookie()) {
                let place = admit(socket)?;
                group.push(GroupSocket { cookie: socket.cookie(), inode: socket.inode(), place });
            }
        }
        Ok(group)
    }
}

/// What becomes of sockets that are offered.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Offer<'a> {
    /// Their weight beside those that the destination has; `None`: they take the place of those.
    pub(super) weight: Option<Weight>,
    /// The words of the configuration by which they were found.
    pub(super) source: Option<&'a SocketSource>,
}

impl Running {
    /// Answers whoever wants sockets registered, or let go of.
    pub(super) async fn settle_sockets(&mut self, mut asked: Asked) {
        let (files, peer) = (std::mem::take(&mut asked.files), asked.peer);
        let request = asked.request.clone();
        let outcome = match &request {
            Request::Register(query) => self.register_sockets(query, files, peer).await,
            Request::Unregister(query) => self.unregister_sockets(query, peer).await,
            Request::Weight(query) => self.weigh_sockets(query, peer).await,
            _ => Err(anyhow!("it is no request about sockets")),
        };
        self.settle_places();
        super::life::settle(outcome, asked);
    }

    /// Steers packets of the service to the sockets behind `files`: in the place of those that it has for the same destinations, or with a
    /// weight beside them.
    pub(super) async fn register_sockets(
        &mut self,
        query: &RegisterQuery,
        files: Vec<OwnedFd>,
        peer: Option<Asker>,
    ) -> anyhow::Result<RegisterAnswer> {
        let op = format!("register {}", query.service);
        refuse_strangers(peer).context(op.clone())?;
        let service = self.registered_service(&query.service).context(op.clone())?;
        if files.len() != query.sockets.len() {
            bail!("{op}: {} sockets were named, and {} came", query.sockets.len(), files.len());
        }
        let namespace = NamespaceId::current()?;
        let mut sockets = Vec::new();
        for (file, named) in files.into_iter().zip(&query.sockets) {
            let OfferedSocket { pid, command, descriptor } = named;
            let socket = ForeignSocket::of(file, namespace).map_err(|why| {
                anyhow!("{op}: descriptor {descriptor} of process {pid} ({command}) is {why}")
            })?;
            sockets.push((named.clone(), socket));
        }
        let offered = self.offered(sockets).context(op)?;
        // What is closed takes nobody's part.
        self.look_at_sockets().await;
        let all = self.plan.destinations.iter().filter(|(_, one)| one.service == service);
        let wanted: Vec<(DestinationId, Destination)> = all.map(|(id, one)| (*id, one.clone())).collect();
        let offer = Offer { weight: query.weight, source: None };
        self.register_offered(&service, &wanted, &offered, offer).await
    }

    /// The sockets with those that share a port together, if none is a listener of this instance.
    pub(super) fn offered(
        &self,
        sockets: Vec<(OfferedSocket, ForeignSocket)>,
    ) -> anyhow::Result<Vec<Offered>> {
        let mut offered: Vec<Offered> = Vec::new();
        for (OfferedSocket { pid, command, descriptor }, socket) in sockets {
            if self.listeners.values().any(|group| group.inodes().contains(&socket.inode())) {
                bail!(
                    "descriptor {descriptor} of process {pid} ({command}) is a listener of this very instance"
                );
            }
            match offered.iter_mut().find(|one| one.shares_port_with(&socket)) {
                Some(one) => one.beside.push(socket),
                None => offered.push(Offered { socket, beside: Vec::new(), pid, command }),
            }
        }
        Ok(offered)
    }

    /// Steers packets of the `wanted` destinations of a service to those of the sockets that fit them.
    pub(super) async fn register_offered(
        &mut self,
        service: &ServiceName,
        wanted: &[(DestinationId, Destination)],
        offered: &[Offered],
        offer: Offer<'_>,
    ) -> anyhow::Result<RegisterAnswer> {
        let op = format!("register {service}");
        let chosen = choose_sockets(wanted, offered, |one| shape(&one.socket)).context(op.clone())?;
        let mut answer =
            RegisterAnswer { service: service.to_string(), sockets: Vec::new(), notes: Vec::new() };
        for (id, destination, offered) in chosen {
            let given = self.give(id, destination, offered, offer);
            let registered = given.with_context(|| format!("{op}: {destination}"))?;
            tracing::info!(%destination, socket = %registered, weight = registered.weight.get(), "registered");
            answer.notes.extend(self.notes(id, destination, offered));
            answer.sockets.push((DestinationPlan::of((&id, destination)), registered));
            self.others.gone.remove(destination);
        }
        self.others.due.get_or_insert(Instant::now() + GLANCE);
        let steered = self.steer_to_sockets().await.context(op);
        self.publish();
        steered.map(|()| answer)
    }

    /// Steers packets of the service to the sockets that are meant no more: its clients are refused.
    async fn unregister_sockets(
        &mut self,
        query: &UnregisterQuery,
        peer: Option<Asker>,
    ) -> anyhow::Result<RegisterAnswer> {
        let op = format!("unregister {}", query.service);
        let (mut answer, meant) = self.meant(query, peer).context(op.clone())?;
        for (destination, leaving) in meant {
            let stay = self.others.of(&destination).iter().filter(|one| !leaving.contains(one));
            let id = self.divide(&destination, stay.cloned().collect()).context(op.clone())?;
            for socket in leaving {
                tracing::info!(%destination, %socket, "unregistered");
                self.dismiss(places(&socket));
                answer.sockets.push((DestinationPlan::of((&id, &destination)), socket));
            }
        }
        let steered = self.steer_to_sockets().await.context(op);
        self.publish();
        steered.map(|()| answer)
    }

    /// Gives the sockets that are meant another weight.
    async fn weigh_sockets(
        &mut self,
        query: &WeightQuery,
        peer: Option<Asker>,
    ) -> anyhow::Result<RegisterAnswer> {
        let WeightQuery { sockets, weight } = query;
        let op = format!("weight {}", sockets.service);
        let (mut answer, meant) = self.meant(sockets, peer).context(op.clone())?;
        for (destination, meant) in meant {
            let mut all = self.others.of(&destination).to_vec();
            all.iter_mut().filter(|one| meant.contains(one)).for_each(|one| one.weight = *weight);
            let changed: Vec<RegisteredSocket> =
                all.iter().filter(|one| meant.iter().any(|was| was.cookie == one.cookie)).cloned().collect();
            let is_drained = all.iter().all(|one| one.weight == Weight::ZERO);
            let id = self.divide(&destination, all).context(op.clone())?;
            if is_drained {
                answer
                    .notes
                    .push(format!("{destination}: no socket has a weight, and new clients are refused"));
            }
            for socket in changed {
                tracing::info!(%destination, %socket, weight = weight.get(), "registered socket has another weight");
                answer.sockets.push((DestinationPlan::of((&id, &destination)), socket));
            }
        }
        let steered = self.steer_to_sockets().await.context(op);
        self.publish();
        steered.map(|()| answer)
    }

    /// The sockets that `query` means, of which there must be some, and an answer that is to name them.
    fn meant(
        &self,
        query: &UnregisterQuery,
        peer: Option<Asker>,
    ) -> anyhow::Result<(RegisterAnswer, BTreeMap<Destination, Vec<RegisteredSocket>>)> {
        let UnregisterQuery { service: name, protocol, address } = query;
        refuse_strangers(peer)?;
        let service = self.registered_service(name)?;
        let mut meant = BTreeMap::<Destination, Vec<RegisteredSocket>>::new();
        for (destination, socket) in self.others.all().filter(|(one, _)| one.service == service) {
            let is_meant = protocol.is_none_or(|protocol| destination.protocol == protocol)
                && address.is_none_or(|address| socket.address == address);
            if is_meant {
                meant.entry(destination.clone()).or_default().push(socket.clone());
            }
        }
        if meant.is_empty() {
            let there = self.others.all().filter(|(one, _)| one.service == service);
            let there: Vec<String> =
                there.map(|(one, socket)| format!("{} {}: {socket}", one.protocol, one.family)).collect();
            let there = if there.is_empty() { "it has none".to_owned() } else { there.join(", ") };
            bail!("no such socket is registered: {there}");
        }
        let answer = RegisterAnswer { service: service.to_string(), sockets: Vec::new(), notes: Vec::new() };
        Ok((answer, meant))
    }

    /// The registered service of this name.
    fn registered_service(&self, name: &str) -> anyhow::Result<ServiceName> {
        let services = &self.config.services;
        let registered: Vec<&str> = services
            .iter()
            .filter(|service| service.target == Target::Registered)
            .map(|service| service.name.as_str())
            .collect();
        let there = match registered.as_slice() {
            [] => "no service is registered, which [[service]] says by registered = true".to_owned(),
            all => format!("registered are {}", all.join(", ")),
        };
        match services.iter().find(|service| service.name.as_str() == name) {
            Some(service) if service.target == Target::Registered => Ok(service.name.clone()),
            Some(_) => Err(anyhow!("this program answers for it itself; {there}")),
            None => {
                let near = nearest(name, &registered).map(|near| format!("; did you mean {near:?}?"));
                Err(anyhow!("there is no such service; {there}{}", near.unwrap_or_default()))
            }
        }
    }

    /// Has the kernel know the socket, so that it needs no descriptor from now on, and gives it a weight beside those that the destination
    /// has; without one it takes their place.
    fn give(
        &mut self,
        id: DestinationId,
        destination: &Destination,
        offered: &Offered,
        offer: Offer<'_>,
    ) -> anyhow::Result<RegisteredSocket> {
        let Offer { weight, source } = offer;
        let socket = &offered.socket;
        let before = self.others.of(destination).to_vec();
        let known = before.iter().find(|one| offered.is_of(one));
        let is_known = |one: &RegisteredSocket| known.is_some_and(|known| known.cookie == one.cookie);
        let (mut all, leaving): (Vec<_>, Vec<_>) =
            before.iter().cloned().partition(|one| weight.is_some() || is_known(one));
        if all.len() >= MOST_SOCKETS && known.is_none() {
            bail!("{MOST_SOCKETS} sockets are registered already, and no more may share its clients");
        }
        let mut new = Vec::new();
        let group = if self.path == Some(Mode::SkLookup) {
            if destination.protocol == Protocol::Udp {
                let answered = offered.sockets().try_for_each(ForeignSocket::answer_from_any_address);
                answered
                    .with_context(|| format!("let {socket} answer for {destination} from what is dialled"))?;
            }
            let dispatcher = self.dispatcher.as_mut().context("register without a program")?;
            offered.grouped(known, |socket| {
                let place = dispatcher.admit(socket)?;
                new.push(place);
                Ok(Some(place))
            })
        } else {
            let at = |address| reachable_at(address, destination.family);
            let alike = all.iter().find(|one| !is_known(one) && at(one.address) == at(socket.address()));
            if let Some(alike) = alike {
                bail!(
                    "{alike} has the same address and port, and firewall rules know sockets by nothing else"
                );
            }
            // The one that the kernel chooses among several must be so as well.
            let made = offered.sockets().try_for_each(|socket| socket.set_transparent(true));
            made.with_context(|| format!("make {socket} transparent for {destination}, as TPROXY demands"))?;
            offered.grouped(known, |_| Ok(None))
        };
        let divided = group.and_then(|group| {
            let registered = RegisteredSocket {
                cookie: socket.cookie(),
                inode: socket.inode(),
                address: socket.address(),
                pid: offered.pid,
                command: offered.command.clone(),
                weight: weight.unwrap_or(Weight::ONE),
                place: None,
                beside: Vec::new(),
                source: source.or(known.and_then(|known| known.source.as_ref())).cloned(),
            };
            let registered = registered.with_group(&group).context("register no socket")?;
            match all.iter_mut().find(|one| is_known(one)) {
                Some(known) => *known = registered.clone(),
                None => all.push(registered.clone()),
            }
            let divided = self.divide(destination, all);
            divided.with_context(|| format!("divide the clients of destination {id}")).map(|_| registered)
        });
        if divided.is_err() {
            self.dismiss(new);
        }
        let registered = divided?;
        for socket in &leaving {
            tracing::info!(%destination, %socket, "another socket takes its place");
            self.dismiss(places(socket));
        }
        Ok(registered)
    }

    /// Has the kernel divide the clients of `destination` among `sockets` from now on: its id. Where rules steer they say so later.
    pub(super) fn divide(
        &mut self,
        destination: &Destination,
        sockets: Vec<RegisteredSocket>,
    ) -> anyhow::Result<DestinationId> {
        let id = self.plan.destinations.iter().find(|(_, one)| *one == destination).map(|(id, _)| *id);
        let id = id.context("divide the clients of a destination that is gone")?;
        self.mark_changing();
        self.others.is_unsettled = true;
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.share(id, &shares(&sockets))?;
        }
        if sockets.is_empty() {
            self.others.sockets.remove(destination);
        } else {
            self.others.sockets.insert(destination.clone(), sockets);
        }
        Ok(id)
    }

    /// Nothing is steered to these places any more: they are emptied when that is written down.
    pub(super) fn dismiss(&mut self, places: impl IntoIterator<Item = RegisteredId>) {
        self.others.left.extend(places);
    }

    /// Lets go of the sockets of destinations that are gone.
    pub(super) fn keep_sockets(&mut self) {
        for socket in self.others.keep(self.plan.destinations.values()) {
            self.dismiss(places(&socket));
        }
    }

    /// Gives the sockets that the program before had, whose map of listeners is `listeners`, places in the map of `dispatcher`.
    pub(super) fn take_places(
        &mut self,
        dispatcher: &mut Dispatcher,
        listeners: BorrowedFd<'_>,
    ) -> anyhow::Result<()> {
        for (destination, sockets) in &mut self.others.sockets {
            for socket in sockets.iter_mut() {
                for place in std::iter::once(&mut socket.place)
                    .chain(socket.beside.iter_mut().map(|one| &mut one.place))
                {
                    *place = match *place {
                        Some(place) => dispatcher.admit_from(listeners, place)?,
                        None => None,
                    };
                }
            }
            if let Some((id, _)) = self.plan.destinations.iter().find(|(_, one)| *one == destination) {
                dispatcher.share(*id, &shares(sockets))?;
            }
        }
        Ok(())
    }

    /// Has firewall rules lead to the sockets that there are, where these steer.
    pub(super) async fn steer_to_sockets(&mut self) -> anyhow::Result<()> {
        if self.path != Some(Mode::Tproxy) {
            return Ok(());
        }
        let next = self.firewall(&self.config, &self.plan, &self.denying.sources())?;
        if self.tproxy.as_ref().is_none_or(|tproxy| tproxy.is_of(&next)) {
            return Ok(());
        }
        let replaced = self.with_firewall(
            |all| &mut all.tproxy,
            move |tproxy| tproxy.as_mut().map_or(Ok(()), |tproxy| tproxy.replace(&next)),
        );
        Ok(replaced.await??)
    }

    /// The reasons for which clients of datagrams do not take for answers what the server says.
    fn notes(&self, id: DestinationId, destination: &Destination, offered: &Offered) -> Vec<String> {
        let socket = &offered.socket;
        let bound = self.plan.bindings.iter().filter(|planned| planned.destination == id);
        let bound: BTreeSet<PortRange> = bound.map(|planned| planned.binding.ports).collect();
        let asks = socket.is_told_what_is_dialled();
        answer_notes(destination, &bound, socket.address().port(), &offered.command, asks)
    }

    /// Notices which sockets are closed: another one of their group goes on, or their clients are refused.
    pub(super) async fn look_at_sockets(&mut self) {
        self.others.due = Some(Instant::now() + GLANCE);
        let looked = match self.open_sockets() {
            Ok(looked) => looked,
            Err(error) => return tracing::debug!("look at registered sockets: {error:#}"),
        };
        let Looked { open, joined } = looked;
        let is_any = !open.is_empty();
        let mut closed = Vec::new();
        for (destination, open) in open {
            closed.extend(
                self.leave_closed(&destination, &open)
                    .into_iter()
                    .map(|socket| (destination.clone(), socket)),
            );
        }
        if is_any {
            if let Err(error) = self.steer_to_sockets().await {
                tracing::warn!("refuse the clients of a registered socket that is closed: {error:#}");
            }
            self.publish();
        }
        for (destination, socket) in closed.into_iter().chain(joined) {
            self.regroup(&destination, &socket).await;
        }
    }

    /// Goes on with those sockets of a destination that are `open`, by the cookie of the one that stands for each group: those of which none is.
    fn leave_closed(
        &mut self,
        destination: &Destination,
        open: &BTreeMap<u64, Vec<GroupSocket>>,
    ) -> Vec<RegisteredSocket> {
        let (mut stay, mut closed, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for socket in self.others.of(destination) {
            let group = open.get(&socket.cookie).cloned().unwrap_or_else(|| socket.group().collect());
            left.extend(socket.group().filter(|one| !group.contains(one)).filter_map(|one| one.place));
            match socket.clone().with_group(&group) {
                None => closed.push(socket.clone()),
                Some(next) => {
                    if next.cookie != socket.cookie {
                        tracing::info!(%destination, %socket, next = %next, "a registered socket is closed: others of its group go on");
                    }
                    stay.push(next);
                }
            }
        }
        let is_last = stay.is_empty();
        if let Err(error) = self.divide(destination, stay) {
            tracing::warn!(%destination, "divide the clients of a socket that is closed: {error:#}");
        }
        self.dismiss(left);
        for socket in &closed {
            let what = if is_last {
                "clients are refused until another one is registered"
            } else {
                "its clients go to the others"
            };
            tracing::warn!(%destination, %socket, "a registered socket is closed: {what}");
            if is_last {
                self.others.gone.insert(destination.clone(), socket.clone());
            }
        }
        closed
    }

    /// The sockets that are open, of those groups of which one is not.
    fn open_sockets(&mut self) -> anyhow::Result<Looked> {
        let listed = match self.path {
            Some(Mode::SkLookup) => None,
            _ => Some(listening_sockets()?),
        };
        let mut looked = Looked::default();
        for (destination, socket) in self.others.all() {
            let is_open = |one: &GroupSocket| -> anyhow::Result<bool> {
                Ok(match (&listed, &self.dispatcher, one.place) {
                    (Some(listed), ..) => {
                        listed.iter().any(|of| (of.protocol, of.inode) == (destination.protocol, one.inode))
                    }
                    (None, Some(dispatcher), Some(place)) => {
                        dispatcher.probe().registered_cookie(place)? == Some(one.cookie)
                    }
                    (None, ..) => false,
                })
            };
            let mut open = Vec::new();
            for one in socket.group() {
                if is_open(&one)? {
                    open.push(one);
                }
            }
            if open.len() < socket.group().count() {
                looked.open.entry(destination.clone()).or_default().insert(socket.cookie, open);
            }
        }
        let listed = listed.unwrap_or_default();
        self.others.strange.retain(|inode| listed.iter().any(|one| one.inode == *inode));
        let strangers = self.strangers(&listed);
        looked
            .joined
            .extend(strangers.iter().map(|(_, destination, socket)| (destination.clone(), socket.clone())));
        self.others.strange.extend(strangers.into_iter().map(|(inode, ..)| inode));
        Ok(looked)
    }

    /// Those of `listed` that share a port with a registered socket, and were not there when that was registered: rules lead to them as well, and
    /// they are not transparent yet.
    fn strangers(&self, listed: &[ListeningSocket]) -> Vec<(u64, Destination, RegisteredSocket)> {
        let known: BTreeSet<u64> =
            self.others.all().flat_map(|(_, socket)| socket.group()).map(|one| one.inode).collect();
        let mut strangers = Vec::new();
        for (destination, socket) in self.others.all() {
            let strange = listed.iter().find(|one| {
                (one.protocol, one.address) == (destination.protocol, socket.address)
                    && !known.contains(&one.inode)
                    && !self.others.strange.contains(&one.inode)
            });
            strangers.extend(strange.map(|one| (one.inode, destination.clone(), socket.clone())));
        }
        strangers
    }
}

/// What a look at the registered sockets has found.
#[derive(Debug, Default)]
struct Looked {
    /// Of each group of which a socket is closed those that are not, by the cookie of the one that stands for all.
    open: BTreeMap<Destination, BTreeMap<u64, Vec<GroupSocket>>>,
    /// Those that others have come to share the port with.
    joined: Vec<(Destination, RegisteredSocket)>,
}

/// The places that a socket and its group have.
pub(super) fn places(socket: &RegisteredSocket) -> Vec<RegisteredId> {
    socket.group().filter_map(|one| one.place).collect()
}

/// The slots of a firewall for a destination of `family`, whose clients `sockets` share: a slot for each part of them, or
/// one where they are all alike.
pub(super) fn slots(sockets: &[RegisteredSocket], family: Family) -> Vec<SharedSlot> {
    // Numbers take the part of places.
    let numbered = (0..).zip(sockets).map(|(number, socket)| SocketShare {
        socket: RegisteredId(number),
        key: key_of(sockets, number as usize),
        weight: socket.weight.get(),
        spare: None,
    });
    let at = |RegisteredId(number): RegisteredId| {
        sockets.get(number as usize).map(|socket| reachable_at(socket.address, family))
    };
    let slots = slots_of(&numbered.collect::<Vec<_>>());
    let mut slots: Vec<SharedSlot> = slots
        .iter()
        .filter_map(|slot| Some(SharedSlot { first: at(slot.first())?, next: at(slot.next()) }))
        .collect();
    if slots.first().is_some_and(|first| slots.iter().all(|slot| slot == first)) {
        slots.truncate(1);
    }
    slots
}

/// The part of `socket` that decides for what it is.
pub(crate) fn shape(socket: &ForeignSocket) -> SocketShape {
    let (protocol, families) = (socket.protocol(), socket.families().to_vec());
    SocketShape { protocol, families, address: socket.address() }
}

/// Whoever registers a socket gets the connections of a service.
fn refuse_strangers(peer: Option<Asker>) -> anyhow::Result<()> {
    if peer.is_some_and(Asker::is_trusted) {
        return Ok(());
    }
    let own = nix::unistd::Uid::effective();
    Err(anyhow!("only root and user {own} may, since it decides who gets the connections"))
}

//! The sockets of other programs to which packets of services go: put there when somebody asks, looked at, and let go of. Takes them out of
//! no process: whoever asks has done that, and their descriptors are closed as soon as the kernel knows them. A descriptor that is kept
//! would keep the queue of a dead server open, for clients to wait in.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::time::Instant;

use super::running::Running;
use crate::config::nearest;
use crate::control::{Asked, Asker, OfferedSocket, RegisterAnswer, RegisterQuery, Request, UnregisterQuery};
use crate::model::{Destination, DestinationId, PortRange, Protocol, RegisteredSocket, ServiceName, Target};
use crate::registry::Mode;
use crate::view::DestinationPlan;
use spectrum_steering::host::{ForeignSocket, NamespaceId, listening_sockets};

/// The time between two looks whether they are still there.
const GLANCE: Duration = Duration::from_secs(1);

/// Only so many ranges of ports are named.
const NAMED: usize = 4;

/// The registered sockets of an instance.
#[derive(Debug, Default)]
pub(super) struct Registered {
    /// Those that packets are steered to.
    pub(super) sockets: BTreeMap<Destination, RegisteredSocket>,
    /// Those that were closed meanwhile, of destinations that have had no other since.
    pub(super) gone: BTreeMap<Destination, RegisteredSocket>,
    /// The next look.
    due: Option<Instant>,
}

impl Registered {
    /// Keeps those of destinations that there are.
    pub(super) fn keep<'a>(&mut self, destinations: impl Iterator<Item = &'a Destination>) {
        let kept: BTreeSet<&Destination> = destinations.collect();
        self.sockets.retain(|destination, _| kept.contains(destination));
        self.gone.retain(|destination, _| kept.contains(destination));
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
        self.sockets.extend(sockets);
        self.gone.extend(gone);
        self.due = Some(Instant::now());
    }
}

/// A socket that was offered, or several that share a port: the kernel chooses among these, whichever of them it is told of.
struct Offered {
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
}

impl Running {
    /// Answers whoever wants sockets registered, or let go of.
    pub(super) async fn settle_sockets(&mut self, mut asked: Asked) {
        let (files, peer) = (std::mem::take(&mut asked.files), asked.peer);
        let request = asked.request.clone();
        let outcome = match &request {
            Request::Register(query) => self.register_sockets(query, files, peer).await,
            Request::Unregister(query) => self.unregister_sockets(query, peer).await,
            _ => Err(anyhow!("it is no request about sockets")),
        };
        super::life::settle(outcome, asked);
    }

    /// Steers packets of the service to the sockets behind `files`, in the place of those that it has for the same destinations.
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
        let mut offered: Vec<Offered> = Vec::new();
        for (file, OfferedSocket { pid, command, descriptor }) in files.into_iter().zip(&query.sockets) {
            let socket = ForeignSocket::of(file, namespace).map_err(|why| {
                anyhow!("{op}: descriptor {descriptor} of process {pid} ({command}) is {why}")
            })?;
            if self.listeners.values().any(|group| group.inodes().contains(&socket.inode())) {
                bail!(
                    "{op}: descriptor {descriptor} of process {pid} ({command}) is a listener of this very instance"
                );
            }
            if let Some(one) = offered.iter_mut().find(|one| one.shares_port_with(&socket)) {
                one.beside.push(socket);
            } else {
                let (pid, command, beside) = (*pid, command.clone(), Vec::new());
                offered.push(Offered { socket, beside, pid, command });
            }
        }
        let wanted: Vec<(DestinationId, Destination)> = self
            .plan
            .destinations
            .iter()
            .filter(|(_, one)| one.service == service)
            .map(|(id, one)| (*id, one.clone()))
            .collect();
        let chosen = chosen(&wanted, &offered).context(op.clone())?;
        let mut answer =
            RegisterAnswer { service: service.to_string(), sockets: Vec::new(), notes: Vec::new() };
        for (id, destination, offered) in chosen {
            self.give(id, &destination, offered).context(op.clone())?;
            let Offered { socket, pid, command, .. } = offered;
            let registered = RegisteredSocket {
                cookie: socket.cookie(),
                inode: socket.inode(),
                address: socket.address(),
                pid: *pid,
                command: command.clone(),
            };
            tracing::info!(%destination, socket = %registered, "registered");
            answer.notes.extend(self.notes(id, &destination, offered));
            answer.sockets.push((DestinationPlan::of((&id, &destination)), registered.clone()));
            self.others.gone.remove(&destination);
            self.others.sockets.insert(destination, registered);
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
        let UnregisterQuery { service: name, protocol, address } = query;
        let op = format!("unregister {name}");
        refuse_strangers(peer).context(op.clone())?;
        let service = self.registered_service(name).context(op.clone())?;
        let is_meant = |(destination, socket): &(&Destination, &RegisteredSocket)| {
            destination.service == service
                && protocol.is_none_or(|protocol| destination.protocol == protocol)
                && address.is_none_or(|address| socket.address == address)
        };
        let meant: Vec<(Destination, RegisteredSocket)> = self
            .others
            .sockets
            .iter()
            .filter(is_meant)
            .map(|(destination, socket)| (destination.clone(), socket.clone()))
            .collect();
        if meant.is_empty() {
            let there = self.others.sockets.iter().filter(|(one, _)| one.service == service);
            let there: Vec<String> =
                there.map(|(one, socket)| format!("{} {}: {socket}", one.protocol, one.family)).collect();
            let there = if there.is_empty() { "it has none".to_owned() } else { there.join(", ") };
            bail!("{op}: no such socket is registered: {there}");
        }
        let mut answer =
            RegisterAnswer { service: service.to_string(), sockets: Vec::new(), notes: Vec::new() };
        for (destination, socket) in meant {
            let id = self.plan.destinations.iter().find(|(_, one)| **one == destination).map(|(id, _)| *id);
            if let (Some(id), Some(dispatcher)) = (id, &mut self.dispatcher) {
                // Where it was closed meanwhile nothing is left to be taken away.
                if let Err(error) = dispatcher.unregister(id) {
                    tracing::debug!(%error, "take a registered socket away");
                }
            }
            tracing::info!(%destination, %socket, "unregistered");
            self.others.sockets.remove(&destination);
            let id = id.unwrap_or(DestinationId(0));
            answer.sockets.push((DestinationPlan::of((&id, &destination)), socket));
        }
        let steered = self.steer_to_sockets().await.context(op);
        self.publish();
        steered.map(|()| answer)
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

    /// Has the kernel know the socket: from now on it needs no descriptor.
    fn give(
        &mut self,
        id: DestinationId,
        destination: &Destination,
        offered: &Offered,
    ) -> anyhow::Result<()> {
        match self.path {
            Some(Mode::SkLookup) => {
                if destination.protocol == Protocol::Udp {
                    offered.sockets().try_for_each(ForeignSocket::answer_from_any_address).with_context(
                        || format!("let {} answer for {destination} from what is dialled", offered.socket),
                    )?;
                }
                let dispatcher = self.dispatcher.as_mut().context("register without a program")?;
                Ok(dispatcher.register(id, &offered.socket)?)
            }
            // The one that the kernel chooses among several must be so as well.
            _ => offered.sockets().try_for_each(|socket| socket.set_transparent(true)).with_context(|| {
                format!("make {} transparent for {destination}, as TPROXY demands", offered.socket)
            }),
        }
    }

    /// Has firewall rules lead to the sockets that there are, where these steer.
    async fn steer_to_sockets(&mut self) -> anyhow::Result<()> {
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

    /// What keeps clients of datagrams from taking for answers what the server says.
    fn notes(&self, id: DestinationId, destination: &Destination, offered: &Offered) -> Vec<String> {
        if destination.protocol != Protocol::Udp {
            return Vec::new();
        }
        let socket = &offered.socket;
        let port = socket.address().port();
        let bound = self.plan.bindings.iter().filter(|planned| planned.destination == id);
        let bound: BTreeSet<PortRange> = bound.map(|planned| planned.binding.ports).collect();
        let others = bound.iter().filter(|ports| (ports.first(), ports.last()) != (port, port));
        let others: Vec<String> = others.take(NAMED).map(ToString::to_string).collect();
        let mut notes = Vec::new();
        if !others.is_empty() {
            notes.push(format!(
                "{destination}: answers leave from port {port}, and no client takes them for answers that dialled another one ({}): bind port \
                 {port} alone, or relay to the server by origins",
                others.join(", ")
            ));
        }
        if !socket.is_told_what_is_dialled() {
            notes.push(format!(
                "{destination}: {} does not ask which address a datagram was sent to (IP_PKTINFO), so that its answers leave from another one, \
                 and no client takes them for answers",
                offered.command
            ));
        }
        notes
    }

    /// Notices which sockets are closed: their clients are refused.
    pub(super) async fn look_at_sockets(&mut self) {
        self.others.due = Some(Instant::now() + GLANCE);
        let gone = match self.gone_sockets() {
            Ok(gone) => gone,
            Err(error) => return tracing::debug!("look at registered sockets: {error:#}"),
        };
        if gone.is_empty() {
            return;
        }
        for destination in gone {
            let Some(socket) = self.others.sockets.remove(&destination) else { continue };
            tracing::warn!(
                %destination,
                %socket,
                "a registered socket is closed: clients are refused until another one is registered"
            );
            self.others.gone.insert(destination, socket);
        }
        if let Err(error) = self.steer_to_sockets().await {
            tracing::warn!("refuse the clients of a registered socket that is closed: {error:#}");
        }
        self.publish();
    }

    /// The destinations whose sockets are closed.
    fn gone_sockets(&self) -> anyhow::Result<Vec<Destination>> {
        let mut gone = Vec::new();
        if let (Some(Mode::SkLookup), Some(dispatcher)) = (self.path, &self.dispatcher) {
            for (id, destination) in &self.plan.destinations {
                let Some(socket) = self.others.sockets.get(destination) else { continue };
                if dispatcher.probe().listener_cookie(*id)? != Some(socket.cookie) {
                    gone.push(destination.clone());
                }
            }
            return Ok(gone);
        }
        let there: BTreeSet<(Protocol, u64)> =
            listening_sockets()?.into_iter().map(|socket| (socket.protocol, socket.inode)).collect();
        let is_gone = |(destination, socket): &(&Destination, &RegisteredSocket)| {
            !there.contains(&(destination.protocol, socket.inode))
        };
        gone.extend(self.others.sockets.iter().filter(is_gone).map(|(destination, _)| destination.clone()));
        Ok(gone)
    }
}

/// Whoever registers a socket gets the connections of a service.
fn refuse_strangers(peer: Option<Asker>) -> anyhow::Result<()> {
    if peer.is_some_and(Asker::is_trusted) {
        return Ok(());
    }
    let own = nix::unistd::Uid::effective();
    Err(anyhow!("only root and user {own} may, since it decides who gets the connections"))
}

/// For each of the `wanted` destinations the socket that fits it, of which there must be one.
fn chosen<'a>(
    wanted: &[(DestinationId, Destination)],
    offered: &'a [Offered],
) -> anyhow::Result<Vec<(DestinationId, Destination, &'a Offered)>> {
    let mut chosen = Vec::new();
    for (id, destination) in wanted {
        let fits = |one: &&Offered| {
            one.socket.protocol() == destination.protocol
                && one.socket.families().contains(&destination.family)
        };
        let mut fit: Vec<&Offered> = offered.iter().filter(fits).collect();
        // A socket of one family alone is meant for it.
        if fit.iter().any(|one| one.socket.families().len() == 1) {
            fit.retain(|one| one.socket.families().len() == 1);
        }
        match fit.as_slice() {
            [] => {}
            [one] => chosen.push((*id, destination.clone(), *one)),
            several => {
                let several: Vec<String> =
                    several.iter().map(|one| one.socket.address().to_string()).collect();
                bail!(
                    "several sockets fit {destination}: {}; say which, by its address and port at the end of the line",
                    several.join(", ")
                );
            }
        }
    }
    if chosen.is_empty() {
        let wanted: Vec<String> =
            wanted.iter().map(|(_, one)| format!("{} of {}", one.protocol, one.family)).collect();
        let offered: Vec<String> = offered.iter().map(|one| described(&one.socket)).collect();
        bail!("it binds {}, and offered are {}", wanted.join(", "), offered.join(", "));
    }
    Ok(chosen)
}

fn described(socket: &ForeignSocket) -> String {
    let families: Vec<String> = socket.families().iter().map(ToString::to_string).collect();
    format!("{socket} of {}", families.join(" and "))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::model::Family;

    fn offered(file: impl Into<OwnedFd>) -> Option<Offered> {
        // Without CAP_NET_ADMIN nobody says whose namespace it is.
        let socket = ForeignSocket::of(file.into(), NamespaceId::current().unwrap()).ok()?;
        Some(Offered { socket, beside: Vec::new(), pid: 1, command: "test".to_owned() })
    }

    fn wanted(protocol: Protocol, family: Family) -> (DestinationId, Destination) {
        (DestinationId(7), Destination { service: "web".parse().unwrap(), revision: 0, family, protocol })
    }

    #[test]
    fn each_destination_gets_the_one_socket_that_fits() {
        let sockets = [
            offered(TcpListener::bind("127.0.0.1:0").unwrap()),
            offered(UdpSocket::bind("127.0.0.1:0").unwrap()),
            offered(TcpListener::bind("[::1]:0").unwrap()),
        ];
        let Some(sockets) = sockets.into_iter().collect::<Option<Vec<_>>>() else {
            println!("SKIP each_destination_gets_the_one_socket_that_fits: needs CAP_NET_ADMIN");
            return;
        };
        let all = [
            wanted(Protocol::Tcp, Family::Ipv4),
            wanted(Protocol::Tcp, Family::Ipv6),
            wanted(Protocol::Udp, Family::Ipv4),
            wanted(Protocol::Udp, Family::Ipv6),
        ];
        let cookies: Vec<u64> =
            chosen(&all, &sockets).unwrap().iter().map(|(_, _, one)| one.socket.cookie()).collect();
        assert_eq!(cookies, [0, 2, 1].map(|at: usize| sockets[at].socket.cookie()));
        let refused = chosen(&all[3..], &sockets[..2]).err().unwrap().to_string();
        assert!(refused.starts_with("it binds udp of ipv6, and offered are tcp 127.0.0.1:"), "{refused}");
        let more = offered(TcpListener::bind("127.0.0.1:0").unwrap());
        let sockets: Vec<Offered> = sockets.into_iter().chain(more).collect();
        let refused = chosen(&all, &sockets).err().unwrap().to_string();
        assert!(refused.starts_with("several sockets fit web tcp ipv4: 127.0.0.1:"), "{refused}");
    }
}

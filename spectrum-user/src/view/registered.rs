//! The registered sockets of a service in the view, and how each fares as the kernel has it. Registers none.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use strum::Display;

use super::Present;
use crate::model::{
    Destination, DestinationId, Family, GroupSocket, Protocol, RegisteredSocket, Service, SocketSource,
    Weight,
};
use crate::registry::Mode;
use spectrum_steering::host::{ListenQueue, listen_queues, listening_sockets};

/// A destination that other programs answer, and a socket of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RegisteredView {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its family.
    pub family: Family,
    /// The condition of its socket.
    pub condition: RegisteredCondition,
    /// The socket, or the last one that there was.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub socket: Option<SocketView>,
    /// The words of the configuration by which it was found, or is looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Its weight among those of the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// The part of new clients that it gets, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u64>,
    /// The packets that the program gave to it since it was registered or the program last upgraded, over `sk_lookup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steered: Option<u64>,
    /// The connections that wait to be accepted, of TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u32>,
    /// More than so many cannot wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_waiting: Option<u32>,
}

/// A socket of another program.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SocketView {
    /// The address that it is bound to.
    pub address: SocketAddr,
    /// Its cookie, in hexadecimal, as `ss -e` prints it behind `sk:`.
    pub cookie: String,
    /// The process that it was taken from.
    pub pid: u32,
    /// The name of that.
    pub command: String,
}

impl From<&RegisteredSocket> for SocketView {
    fn from(socket: &RegisteredSocket) -> Self {
        let RegisteredSocket { cookie, address, pid, command, .. } = socket;
        Self { address: *address, cookie: format!("{cookie:x}"), pid: *pid, command: command.clone() }
    }
}

/// The condition of a destination that other programs answer.
#[derive(Clone, Copy, Debug, Deserialize, Display, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum RegisteredCondition {
    /// Its weight is 0: no new clients come to it.
    Drained,
    /// Connections wait, and there is room for no more: nobody accepts them, or not fast enough.
    Full,
    /// Its socket was closed, and clients are refused.
    Gone,
    /// It is looked for, and others get the clients meanwhile.
    Missing,
    /// None was registered yet, and clients are refused.
    None,
    /// Packets go to its socket.
    Up,
}

impl RegisteredView {
    /// A `destination` and a `socket` of it, in this `condition`.
    #[must_use]
    pub fn of(
        destination: &Destination,
        condition: RegisteredCondition,
        socket: Option<&RegisteredSocket>,
    ) -> Self {
        let Destination { protocol, family, .. } = *destination;
        Self {
            protocol,
            family,
            condition,
            socket: socket.map(Into::into),
            source: socket.and_then(|socket| socket.source.as_ref()).map(ToString::to_string),
            weight: None,
            percent: None,
            steered: None,
            waiting: None,
            most_waiting: None,
        }
    }

    /// True if clients are answered, as far as the kernel can tell.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.condition == RegisteredCondition::Up
    }

    /// True if it is as somebody wants it.
    #[must_use]
    pub fn is_right(&self) -> bool {
        matches!(self.condition, RegisteredCondition::Drained | RegisteredCondition::Up)
    }

    /// Its condition in words, with the cure where there is one.
    #[must_use]
    pub fn condition_line(&self) -> String {
        let waiting = self.waiting.unwrap_or_default();
        match self.condition {
            RegisteredCondition::Drained => "drained: no new clients come to it".to_owned(),
            RegisteredCondition::Full => {
                let command = self.socket.as_ref().map_or("nobody", |socket| socket.command.as_str());
                format!(
                    "full: {waiting} wait to be accepted, and what else comes is dropped (does {command} still accept?)"
                )
            }
            RegisteredCondition::Gone => {
                "gone: it was closed, and clients are refused; register another one".to_owned()
            }
            RegisteredCondition::Missing => {
                let source = self.source.as_deref().unwrap_or("it");
                format!("missing: {source} is looked for, and the others get its clients")
            }
            RegisteredCondition::None => "none: clients are refused until one is registered".to_owned(),
            RegisteredCondition::Up => "up".to_owned(),
        }
    }
}

/// Says of each of `views`, the sockets of one destination, which part of new clients it gets.
pub fn in_percent(views: &mut [RegisteredView]) {
    let weight = |view: &RegisteredView| match view.condition {
        RegisteredCondition::Gone => 0,
        _ => view.weight.map_or(0, u64::from),
    };
    let total: u64 = views.iter().map(weight).sum();
    for view in views {
        view.percent = (weight(view) * 200 + total).checked_div(2 * total);
    }
}

/// The sockets that the kernel has.
#[derive(Debug, Default)]
pub(super) struct SocketsLook {
    queues: BTreeMap<u64, ListenQueue>,
    /// The inodes of those that take connections or datagrams, where nothing else says which there are.
    inodes: Option<Vec<(Protocol, u64)>>,
}

impl Present {
    /// A look at all sockets, where `services` have any of other programs.
    pub(super) fn look_at_sockets(&self, services: &[&Service]) -> SocketsLook {
        let is_any = services.iter().any(|one| self.plan_of(one).next().is_some());
        if !is_any || (self.sockets.is_empty() && self.gone_sockets.is_empty()) {
            return SocketsLook::default();
        }
        let inodes = (self.mode == Some(Mode::Tproxy)).then(listening_sockets).and_then(Result::ok);
        let inodes =
            inodes.map(|all| all.into_iter().map(|socket| (socket.protocol, socket.inode)).collect());
        SocketsLook { queues: listen_queues().unwrap_or_default(), inodes }
    }

    /// The sockets of `service`, one at least for each of its destinations, if other programs answer it.
    pub(super) fn registered(&self, service: &Service, look: &SocketsLook) -> Vec<RegisteredView> {
        let views = self.plan_of(service).flat_map(|(id, destination)| {
            let sockets = self.sockets.get(id).map_or(&[][..], Vec::as_slice);
            if sockets.is_empty() {
                return vec![self.none_at(*id, destination)];
            }
            let mut views: Vec<RegisteredView> =
                sockets.iter().map(|socket| self.registered_at(destination, socket, look)).collect();
            in_percent(&mut views);
            views.extend(self.sought(destination, sockets));
            views
        });
        views.collect()
    }

    fn plan_of<'a>(
        &'a self,
        service: &'a Service,
    ) -> impl Iterator<Item = (&'a DestinationId, &'a Destination)> {
        let is_registered = service.target == crate::model::Target::Registered;
        let destinations = self.plan.destinations.iter().filter(move |_| is_registered);
        destinations.filter(|(_, destination)| destination.service == service.name)
    }

    /// Those that share the clients of a destination by the configuration, and are not among its `sockets`.
    fn sought(&self, destination: &Destination, sockets: &[RegisteredSocket]) -> Vec<RegisteredView> {
        let listed = self.config.socket_sources.get(&destination.service).map_or(&[][..], Vec::as_slice);
        let is_there = |source: &SocketSource| {
            sockets
                .iter()
                .filter_map(|socket| socket.source.as_ref())
                .any(|found| found.is_same_server(source))
        };
        let shares = |source: &&SocketSource| {
            source.protocol == destination.protocol && source.weight_among(listed).is_some()
        };
        let missing = listed.iter().filter(shares).filter(|source| !is_there(source));
        let view = |source: &SocketSource| RegisteredView {
            source: Some(source.to_string()),
            ..RegisteredView::of(destination, RegisteredCondition::Missing, None)
        };
        missing.map(view).collect()
    }

    /// A destination that has no socket now.
    fn none_at(&self, id: DestinationId, destination: &Destination) -> RegisteredView {
        let gone = self.gone_sockets.get(&id);
        let condition = if gone.is_some() { RegisteredCondition::Gone } else { RegisteredCondition::None };
        RegisteredView::of(destination, condition, gone)
    }

    /// The packets that were given to a socket or another of its group, where somebody counts.
    fn steered_to(&self, socket: &RegisteredSocket) -> Option<u64> {
        let places = socket.group().filter_map(|one| one.place);
        let counts = places.map(|place| self.probe()?.steered_to(place).ok());
        counts.reduce(|sum, count| Some(sum? + count?)).flatten()
    }

    fn registered_at(
        &self,
        destination: &Destination,
        socket: &RegisteredSocket,
        look: &SocketsLook,
    ) -> RegisteredView {
        let protocol = destination.protocol;
        // Not what was the last time: what is. Of a group any one will do.
        let is_open = |one: GroupSocket| match (&look.inodes, self.probe(), one.place) {
            (Some(inodes), ..) => inodes.contains(&(protocol, one.inode)),
            (None, Some(probe), Some(place)) => {
                probe.registered_cookie(place).map_or(true, |cookie| cookie == Some(one.cookie))
            }
            (None, ..) => true,
        };
        let is_there = socket.group().any(is_open);
        let weight = Some(socket.weight.get());
        let of = |condition| RegisteredView {
            weight,
            steered: self.steered_to(socket),
            ..RegisteredView::of(destination, condition, Some(socket))
        };
        if !is_there {
            return of(RegisteredCondition::Gone);
        }
        // The sockets of one group have one address, and each has a queue.
        let own = socket.group().find_map(|one| look.queues.get(&one.cookie));
        let own = own.filter(|_| protocol == Protocol::Tcp);
        let group = own.map(|own| look.queues.values().filter(|one| one.address == own.address));
        let group: Option<Vec<&ListenQueue>> = group.map(Iterator::collect);
        let is_full = group.as_ref().is_some_and(|group| group.iter().any(|queue| queue.is_full()));
        let sum = |of: fn(&ListenQueue) -> u32| {
            group.as_ref().map(|group| group.iter().map(|queue| of(queue)).fold(0, u32::saturating_add))
        };
        RegisteredView {
            waiting: sum(|queue| queue.waiting),
            most_waiting: sum(|queue| queue.most),
            ..of(match (is_full, socket.weight) {
                (true, _) => RegisteredCondition::Full,
                (false, Weight::ZERO) => RegisteredCondition::Drained,
                (false, _) => RegisteredCondition::Up,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_the_cure() {
        let socket = RegisteredSocket {
            cookie: 0x1f,
            inode: 7,
            address: "0.0.0.0:80".parse().unwrap(),
            pid: 12,
            command: "nginx".to_owned(),
            weight: Weight::ONE,
            place: None,
            beside: Vec::new(),
            source: None,
        };
        let destination = Destination {
            service: "web".parse().unwrap(),
            revision: 0,
            family: Family::Ipv4,
            protocol: Protocol::Tcp,
        };
        let view = |condition| RegisteredView {
            waiting: Some(512),
            most_waiting: Some(511),
            ..RegisteredView::of(&destination, condition, Some(&socket))
        };
        assert!(view(RegisteredCondition::Up).is_up());
        let full = view(RegisteredCondition::Full);
        assert!(!full.is_up());
        assert_eq!(
            full.condition_line(),
            "full: 512 wait to be accepted, and what else comes is dropped (does nginx still accept?)"
        );
        let told = serde_json::to_value(full).unwrap();
        assert_eq!((&told["cookie"], &told["condition"]), (&"1f".into(), &"full".into()));
    }
}

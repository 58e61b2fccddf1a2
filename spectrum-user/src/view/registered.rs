//! The registered sockets of a service in the view, and how each fares as the kernel has it. Registers none.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use strum::Display;

use super::Present;
use crate::model::{Destination, DestinationId, Family, Protocol, RegisteredSocket, Service};
use crate::registry::Mode;
use spectrum_steering::host::{ListenQueue, listen_queues, listening_sockets};

/// A destination that other programs answer, and its socket.
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
    /// Connections wait, and there is room for no more: nobody accepts them, or not fast enough.
    Full,
    /// Its socket was closed, and clients are refused.
    Gone,
    /// None was registered yet, and clients are refused.
    None,
    /// Packets go to its socket.
    Up,
}

impl RegisteredView {
    /// True if clients are answered, as far as the kernel can tell.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.condition == RegisteredCondition::Up
    }

    /// Its condition in words, with the cure where there is one.
    #[must_use]
    pub fn condition_line(&self) -> String {
        let waiting = self.waiting.unwrap_or_default();
        match self.condition {
            RegisteredCondition::Full => {
                let command = self.socket.as_ref().map_or("nobody", |socket| socket.command.as_str());
                format!(
                    "full: {waiting} wait to be accepted, and what else comes is dropped (does {command} still accept?)"
                )
            }
            RegisteredCondition::Gone => {
                "gone: it was closed, and clients are refused; register another one".to_owned()
            }
            RegisteredCondition::None => "none: clients are refused until one is registered".to_owned(),
            RegisteredCondition::Up => "up".to_owned(),
        }
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

    /// The sockets of `service`, one for each of its destinations, if other programs answer it.
    pub(super) fn registered(&self, service: &Service, look: &SocketsLook) -> Vec<RegisteredView> {
        self.plan_of(service).map(|(id, destination)| self.registered_at(*id, destination, look)).collect()
    }

    fn plan_of<'a>(
        &'a self,
        service: &'a Service,
    ) -> impl Iterator<Item = (&'a DestinationId, &'a Destination)> {
        let is_registered = service.target == crate::model::Target::Registered;
        let destinations = self.plan.destinations.iter().filter(move |_| is_registered);
        destinations.filter(|(_, destination)| destination.service == service.name)
    }

    fn registered_at(
        &self,
        id: DestinationId,
        destination: &Destination,
        look: &SocketsLook,
    ) -> RegisteredView {
        let Destination { protocol, family, .. } = *destination;
        let of = |condition, socket: Option<&RegisteredSocket>| RegisteredView {
            protocol,
            family,
            condition,
            socket: socket.map(Into::into),
            waiting: None,
            most_waiting: None,
        };
        let Some(socket) = self.sockets.get(&id) else {
            let gone = self.gone_sockets.get(&id);
            let condition =
                if gone.is_some() { RegisteredCondition::Gone } else { RegisteredCondition::None };
            return of(condition, gone);
        };
        // Not what was the last time: what is.
        let is_there = match (&look.inodes, self.probe()) {
            (Some(inodes), _) => inodes.contains(&(protocol, socket.inode)),
            (None, Some(probe)) => {
                probe.listener_cookie(id).map_or(true, |cookie| cookie == Some(socket.cookie))
            }
            (None, None) => true,
        };
        if !is_there {
            return of(RegisteredCondition::Gone, Some(socket));
        }
        // The sockets of one group have one address, and each has a queue.
        let own = look.queues.get(&socket.cookie).filter(|_| protocol == Protocol::Tcp);
        let group = own.map(|own| look.queues.values().filter(|one| one.address == own.address));
        let group: Option<Vec<&ListenQueue>> = group.map(Iterator::collect);
        let is_full = group.as_ref().is_some_and(|group| group.iter().any(|queue| queue.is_full()));
        let sum = |of: fn(&ListenQueue) -> u32| {
            group.as_ref().map(|group| group.iter().map(|queue| of(queue)).fold(0, u32::saturating_add))
        };
        RegisteredView {
            waiting: sum(|queue| queue.waiting),
            most_waiting: sum(|queue| queue.most),
            ..of(if is_full { RegisteredCondition::Full } else { RegisteredCondition::Up }, Some(socket))
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
        };
        let view = |condition| RegisteredView {
            protocol: Protocol::Tcp,
            family: Family::Ipv4,
            condition,
            socket: Some((&socket).into()),
            waiting: Some(512),
            most_waiting: Some(511),
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

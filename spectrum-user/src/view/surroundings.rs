//! What is on the host around an instance and stands in its way: programs, listeners, rules. Removes no obstacle.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::SocketAddr;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::Present;
use crate::doctor::{bridged, loosening, unbridging};
use crate::model::{Family, Prefix, Protocol, RegisteredSocket};
use crate::plan::Extent;
use crate::registry::Mode;
use spectrum_steering::dispatcher::{self, AttachedProgram};
use spectrum_steering::host::{self, ListeningSocket};
use spectrum_steering::tproxy;

/// The things that stand in the way of an instance.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Surroundings {
    /// The other sk_lookup programs of the namespace.
    pub other_programs: Vec<AttachedProgram>,
    /// Listeners that are not for steering and that bindings hide: those of other programs, and the one for metrics.
    pub conflicts: Vec<Conflict>,
    /// The rules that may drop packets before they are steered.
    pub obstacles: Vec<String>,
    /// The things that could not be looked at, each with the reason.
    pub unknown: Vec<String>,
}

/// A listener that is not for steering and that bindings hide.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Conflict {
    /// Its protocol.
    pub protocol: Protocol,
    /// The address at which it listens.
    pub address: SocketAddr,
    /// The process that has it, if that is known.
    pub pid: Option<u32>,
    /// The name of its program.
    pub command: Option<String>,
    /// True if nothing reaches it, or only what is dialled elsewhere.
    pub wholly: bool,
    /// The bindings that hide it, in words.
    pub hidden: String,
}

impl Present {
    /// Adds the listeners and rules that stand in its way.
    pub(super) fn look_around(&self, around: &mut Surroundings) {
        match self.conflicts() {
            Ok(conflicts) => around.conflicts = conflicts,
            Err(error) => around.unknown.push(format!("{error:#}")),
        }
        self.obstacles(around);
    }

    /// The listeners that bindings hide, but for registered ones, which get what they hide.
    fn conflicts(&self) -> anyhow::Result<Vec<Conflict>> {
        let is_admin =
            |socket: &ListeningSocket| socket.protocol == Protocol::Tcp && Some(socket.address) == self.admin;
        let groups = self.sockets.values().flatten().flat_map(RegisteredSocket::group);
        let registered: BTreeSet<u64> = groups.map(|socket| socket.inode).collect();
        let is_for_steering = |inode: u64| self.own_listeners.contains(&inode) || registered.contains(&inode);
        let others: Vec<ListeningSocket> = host::listening_sockets()?
            .into_iter()
            .filter(|socket| !is_for_steering(socket.inode) || is_admin(socket))
            .collect();
        let addresses: Vec<_> = others.iter().map(|socket| (socket.protocol, socket.address)).collect();
        let mut hidden: Vec<_> = self
            .plan
            .hidden(&addresses)
            .into_iter()
            .filter_map(|hidden| Some((others.get(hidden.index)?, hidden.extent)))
            .collect();
        if !hidden.is_empty() {
            // Which of thousands of descriptors are sockets takes long to find out.
            let own = host::own_sockets();
            hidden.retain(|(socket, _)| !own.contains(&socket.inode) || is_admin(socket));
        }
        if hidden.is_empty() {
            return Ok(Vec::new());
        }
        let owners =
            host::socket_owners(&hidden.iter().map(|(socket, _)| socket.inode).collect::<BTreeSet<_>>());
        let conflicts = hidden.into_iter().map(|(socket, extent)| {
            let owner = owners.get(&socket.inode);
            Conflict {
                protocol: socket.protocol,
                address: socket.address,
                pid: owner.map(|owner| owner.pid),
                command: owner.map(|owner| owner.command.clone()),
                wholly: matches!(extent, Extent::Wholly { .. }),
                hidden: self.plan.hiding(socket.address, &extent),
            }
        });
        Ok(conflicts.collect())
    }

    /// The rules that may drop packets before they are steered, and what could not be looked at.
    fn obstacles(&self, around: &mut Surroundings) {
        let serves_ipv4 = self.plan.routes.iter().any(|prefix| prefix.family() == Family::Ipv4);
        let strict = host::strict_rp_filter();
        if serves_ipv4 && !strict.is_empty() {
            around.obstacles.push(format!(
                "rp_filter is strict on {}: IPv4 packets are dropped whose sender is reached through another interface; \
                 cure: {}",
                strict.join(", "),
                loosening(&strict)
            ));
        }
        if self.mode == Some(Mode::Tproxy) {
            let families: BTreeSet<Family> = self.plan.routes.iter().map(Prefix::family).collect();
            around.obstacles.extend(families.into_iter().filter_map(bridges_to_rules));
        }
        let (listings, errors) = tproxy::listings();
        around.obstacles.extend(self.plan.obstacles(&listings).iter().map(ToString::to_string));
        around.unknown.extend(errors.into_iter().map(|error| format!("{:#}", anyhow::Error::from(error))));
    }
}

/// The obstacle that rules which meet packets on bridges are to TPROXY, if they do.
#[must_use]
pub fn bridges_to_rules(family: Family) -> Option<String> {
    let setting = host::bridged_to_rules(family)?;
    Some(format!("{setting} is 1: {}; cure: {}", bridged(family), unbridging(&[setting])))
}

/// The sk_lookup programs of this thread's network namespace.
pub(super) fn attached() -> anyhow::Result<Vec<AttachedProgram>> {
    let op = "list the sk_lookup programs of the namespace";
    let namespace = File::open("/proc/thread-self/ns/net").context(op)?;
    match dispatcher::attached_programs(namespace) {
        // A kernel without bpf(2), or without sk_lookup, has none.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Ok(Vec::new()),
        attached => attached.context(op),
    }
}

//! Sockets of other programs in the hands of what is pinned: `register` and `unregister` where no instance is asked. The kernel has them from
//! then on, and nobody of ours.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::{Context as _, anyhow, bail};
use serde::Serialize;

use super::{all_of, nothing_pinned, under_lock};
use crate::control::{OfferedSocket, UnregisterQuery};
use crate::model::{Destination, DestinationId, Protocol};
use crate::pinned::{PinnedSocket, PinnedState};
use crate::view::DestinationPlan;
use spectrum_steering::host::ForeignSocket;

/// The destinations whose sockets are others now.
#[derive(Debug, Default, Serialize)]
pub(in crate::commands) struct PinnedAnswer {
    sockets: Vec<(DestinationPlan, PinnedSocket)>,
    notes: Vec<String>,
}

impl PinnedAnswer {
    /// Writes a line for each; `verb` is what became of it.
    pub(in crate::commands) fn write(&self, verb: &str, out: &mut dyn Write) -> io::Result<()> {
        for (DestinationPlan { service, protocol, family, .. }, socket) in &self.sockets {
            writeln!(out, "{socket} {verb} what is for {service} {protocol} {family}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))
    }
}

/// Steers packets of `service` to those of `offered` that fit, in the place of the sockets that it has.
pub(in crate::commands) fn register(
    netns: Option<&str>,
    service: &str,
    offered: &[(OfferedSocket, &ForeignSocket)],
) -> anyhow::Result<PinnedAnswer> {
    let op = || format!("register {service}");
    under_lock("register", netns, async |lock| {
        let namespace = lock.namespace();
        let Ok(mut state) = PinnedState::open(lock).await? else {
            return Err(nothing_pinned("register", namespace));
        };
        let mut answer = PinnedAnswer::default();
        let mut given = Vec::new();
        let wanted = destinations_of(&state, service).with_context(op)?;
        for (id, destination) in &wanted {
            let Some((named, socket)) = fitting(destination, offered).with_context(op)? else { continue };
            if destination.protocol == Protocol::Udp {
                socket
                    .answer_from_any_address()
                    .with_context(|| format!("let {socket} answer for {destination} from what is dialled"))?;
                answer.notes.extend(note(&state, *id, destination, named, socket));
            }
            let record = PinnedSocket {
                cookie: socket.cookie(),
                inode: socket.inode(),
                address: socket.address(),
                pid: named.pid,
                command: named.command.clone(),
            };
            answer.sockets.push((DestinationPlan::of((id, destination)), record.clone()));
            given.push((*id, *socket, record));
        }
        if given.is_empty() {
            let wanted = wanted.iter().map(|(_, one)| format!("{} of {}", one.protocol, one.family));
            let offered = offered.iter().map(|(_, socket)| {
                let families: Vec<String> = socket.families().iter().map(ToString::to_string).collect();
                format!("{socket} of {}", families.join(" and "))
            });
            bail!("{}: it binds {}, and offered are {}", op(), joined(wanted), joined(offered));
        }
        state.register(given).with_context(op)?;
        Ok(answer)
    })
}

fn joined(all: impl Iterator<Item = String>) -> String {
    all.collect::<Vec<_>>().join(", ")
}

/// The one of `offered` that fits a destination, if any does. One of one family alone is meant for it; of several that share a port the
/// kernel chooses, whichever of them it is told of.
fn fitting<'a, 's>(
    destination: &Destination,
    offered: &'a [(OfferedSocket, &'s ForeignSocket)],
) -> anyhow::Result<Option<&'a (OfferedSocket, &'s ForeignSocket)>> {
    let fits = |(_, socket): &&(OfferedSocket, &ForeignSocket)| {
        socket.protocol() == destination.protocol && socket.families().contains(&destination.family)
    };
    let mut fit: Vec<_> = offered.iter().filter(fits).collect();
    if fit.iter().any(|(_, socket)| socket.families().len() == 1) {
        fit.retain(|(_, socket)| socket.families().len() == 1);
    }
    let mut addresses: Vec<_> = fit.iter().map(|(_, socket)| socket.address()).collect();
    addresses.sort();
    addresses.dedup();
    if addresses.len() > 1 {
        bail!(
            "several sockets fit {destination}: {}; say which, by its address and port at the end of the line",
            joined(addresses.iter().map(ToString::to_string))
        );
    }
    Ok(fit.into_iter().next())
}

/// The reason for which clients of datagrams take nothing for an answer that the server says, if there is one.
fn note(
    state: &PinnedState,
    id: DestinationId,
    destination: &Destination,
    named: &OfferedSocket,
    socket: &ForeignSocket,
) -> Option<String> {
    let port = socket.address().port();
    let bound = state.plan().bindings.iter().filter(|planned| planned.destination == id);
    let other =
        bound.map(|planned| planned.binding.ports).find(|ports| ports.width() > 1 || ports.first() != port);
    if let Some(other) = other {
        return Some(format!(
            "{destination}: answers leave from port {port}, and no client takes them for answers that dialled another one ({other}): bind \
             port {port} alone"
        ));
    }
    (!socket.is_told_what_is_dialled()).then(|| {
        format!(
            "{destination}: {} does not ask which address a datagram was sent to (IP_PKTINFO), so that its answers leave from another one, \
             and no client takes them for answers",
            named.command
        )
    })
}

/// Steers packets of a service to the sockets that are meant no more: its clients are refused.
pub(in crate::commands) fn unregister(
    netns: Option<&str>,
    query: &UnregisterQuery,
) -> anyhow::Result<PinnedAnswer> {
    let UnregisterQuery { service, protocol, address, .. } = query;
    let op = || format!("unregister {service}");
    under_lock("unregister", netns, async |lock| {
        let namespace = lock.namespace();
        let Ok(mut state) = PinnedState::open(lock).await? else {
            return Err(nothing_pinned("unregister", namespace));
        };
        let own: BTreeMap<DestinationId, Destination> =
            destinations_of(&state, service).with_context(op)?.into_iter().collect();
        let of =
            |(id, socket): (&DestinationId, &PinnedSocket)| Some((*id, own.get(id)?.clone(), socket.clone()));
        let there: Vec<_> = state.charter().sockets.iter().filter_map(of).collect();
        let is_meant = |(_, destination, socket): &&(DestinationId, Destination, PinnedSocket)| {
            protocol.is_none_or(|protocol| destination.protocol == protocol)
                && address.is_none_or(|address| socket.address == address)
        };
        let meant: Vec<_> = there.iter().filter(is_meant).collect();
        if meant.is_empty() {
            let there =
                there.iter().map(|(_, one, socket)| format!("{} {}: {socket}", one.protocol, one.family));
            let there = joined(there);
            let there = if there.is_empty() { "it has none".to_owned() } else { there };
            bail!("{}: no such socket is registered: {there}", op());
        }
        let sockets =
            meant.iter().map(|(id, one, socket)| (DestinationPlan::of((id, one)), socket.clone())).collect();
        let ids: Vec<DestinationId> = meant.iter().map(|(id, ..)| *id).collect();
        state.unregister(&ids).with_context(op)?;
        Ok(PinnedAnswer { sockets, notes: Vec::new() })
    })
}

/// The destinations of the service of this name.
fn destinations_of(state: &PinnedState, service: &str) -> anyhow::Result<Vec<(DestinationId, Destination)>> {
    let all = state.plan().destinations.iter();
    let own = all.filter(|(_, one)| one.service.as_str() == service);
    let own: Vec<_> = own.map(|(id, one)| (*id, one.clone())).collect();
    if own.is_empty() {
        return Err(anyhow!(
            "there is no service {service}; {} (spectrum-user bind {service} PROTOCOL PREFIX makes one)",
            all_of(state.services())
        ));
    }
    Ok(own)
}

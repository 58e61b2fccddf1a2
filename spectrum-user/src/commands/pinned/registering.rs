//! Sockets of other programs in the hands of what is pinned: `register`, `unregister` and `weight` where no instance is asked. The kernel has them
//! from then on, and nobody of ours.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, anyhow, bail};

use super::{all_of, nothing_pinned, under_lock};
use crate::control::{OfferedSocket, RegisterAnswer, UnregisterQuery, WeightQuery};
use crate::instance::shape;
use crate::model::{
    Destination, DestinationId, PortRange, Protocol, RegisteredSocket, ServiceName, Weight, answer_notes,
    choose_sockets,
};
use crate::pinned::PinnedState;
use crate::view::DestinationPlan;
use spectrum_steering::host::ForeignSocket;

/// A destination, and a socket of it.
type OfDestination = (DestinationId, Destination, RegisteredSocket);

/// Steers packets of `service` to those of `offered` that fit: in the place of the sockets that it has, or with a `weight` beside them.
pub(in crate::commands) fn register(
    netns: Option<&str>,
    service: &str,
    offered: &[(OfferedSocket, &ForeignSocket)],
    weight: Option<Weight>,
) -> anyhow::Result<RegisterAnswer> {
    let op = || format!("register {service}");
    under_lock("register", netns, async |lock| {
        let namespace = lock.namespace();
        let Ok(mut state) = PinnedState::open(lock).await? else {
            return Err(nothing_pinned("register", namespace));
        };
        let mut answer = answer_for(service);
        let mut given = Vec::new();
        let wanted = destinations_of(&state, service).with_context(op)?;
        for (id, destination, (named, socket)) in
            choose_sockets(&wanted, offered, |(_, socket)| shape(socket)).with_context(op)?
        {
            if destination.protocol == Protocol::Udp {
                socket
                    .answer_from_any_address()
                    .with_context(|| format!("let {socket} answer for {destination} from what is dialled"))?;
            }
            let bound = state.plan().bindings.iter().filter(|planned| planned.destination == id);
            let bound: BTreeSet<PortRange> = bound.map(|planned| planned.binding.ports).collect();
            let asks = socket.is_told_what_is_dialled();
            let notes = answer_notes(destination, &bound, socket.address().port(), &named.command, asks);
            answer.notes.extend(notes);
            let registered = RegisteredSocket {
                cookie: socket.cookie(),
                inode: socket.inode(),
                address: socket.address(),
                pid: named.pid,
                command: named.command.clone(),
                weight: weight.unwrap_or(Weight::ONE),
                place: None,
                beside: Vec::new(),
                source: None,
            };
            answer.sockets.push((DestinationPlan::of((&id, destination)), registered.clone()));
            given.push((id, *socket, registered));
        }
        state.register(given, weight.is_some()).with_context(op)?;
        Ok(answer)
    })
}

/// Steers packets of a service to the sockets that are meant no more: its clients are refused, or go to the others.
pub(in crate::commands) fn unregister(
    netns: Option<&str>,
    query: &UnregisterQuery,
) -> anyhow::Result<RegisterAnswer> {
    let op = || format!("unregister {}", query.service);
    under_lock("unregister", netns, async |lock| {
        let namespace = lock.namespace();
        let Ok(mut state) = PinnedState::open(lock).await? else {
            return Err(nothing_pinned("unregister", namespace));
        };
        let meant = meant(&state, query).with_context(op)?;
        let mut answer = answer_for(&query.service);
        let sockets: Vec<_> = meant.iter().map(|(id, _, socket)| (*id, socket.clone())).collect();
        state.unregister(&sockets).with_context(op)?;
        answer.sockets.extend(told(meant));
        Ok(answer)
    })
}

/// Gives the sockets that are meant another weight.
pub(in crate::commands) fn weigh(netns: Option<&str>, query: &WeightQuery) -> anyhow::Result<RegisterAnswer> {
    let WeightQuery { sockets, weight } = query;
    let op = || format!("weight {}", sockets.service);
    under_lock("weight", netns, async |lock| {
        let namespace = lock.namespace();
        let Ok(mut state) = PinnedState::open(lock).await? else {
            return Err(nothing_pinned("weight", namespace));
        };
        let mut meant = meant(&state, sockets).with_context(op)?;
        let mut answer = answer_for(&sockets.service);
        let those: Vec<_> = meant.iter().map(|(id, _, socket)| (*id, socket.clone())).collect();
        let drained = state.weigh(&those, *weight).with_context(op)?;
        for id in drained {
            if let Some(destination) = state.plan().destination(id) {
                answer
                    .notes
                    .push(format!("{destination}: no socket has a weight, and new clients are refused"));
            }
        }
        for (.., socket) in &mut meant {
            socket.weight = *weight;
        }
        answer.sockets.extend(told(meant));
        Ok(answer)
    })
}

fn answer_for(service: &str) -> RegisterAnswer {
    RegisterAnswer { service: service.to_owned(), sockets: Vec::new(), notes: Vec::new() }
}

fn told(all: Vec<OfDestination>) -> impl Iterator<Item = (DestinationPlan, RegisteredSocket)> {
    all.into_iter().map(|(id, one, socket)| (DestinationPlan::of((&id, &one)), socket))
}

/// The sockets that `query` means, of which there must be some.
fn meant(state: &PinnedState, query: &UnregisterQuery) -> anyhow::Result<Vec<OfDestination>> {
    let UnregisterQuery { service, protocol, address, .. } = query;
    let own: BTreeMap<DestinationId, Destination> = destinations_of(state, service)?.into_iter().collect();
    let all = state.charter().sockets.iter().flat_map(|(id, all)| all.iter().map(move |socket| (id, socket)));
    let there: Vec<OfDestination> =
        all.filter_map(|(id, socket)| Some((*id, own.get(id)?.clone(), socket.clone()))).collect();
    let is_meant = |(_, destination, socket): &&OfDestination| {
        protocol.is_none_or(|protocol| destination.protocol == protocol)
            && address.is_none_or(|address| socket.address == address)
    };
    let meant: Vec<OfDestination> = there.iter().filter(is_meant).cloned().collect();
    if meant.is_empty() {
        let there: Vec<String> = there
            .iter()
            .map(|(_, one, socket)| format!("{} {}: {socket}", one.protocol, one.family))
            .collect();
        let there = if there.is_empty() { "it has none".to_owned() } else { there.join(", ") };
        bail!("no such socket is registered: {there}");
    }
    Ok(meant)
}

/// The destinations of the service of this name, which other programs answer.
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
    if service.parse().is_ok_and(|name: ServiceName| state.is_own(&name)) {
        bail!("an instance answers for it itself, when it runs (give it registered = true, or start that)");
    }
    Ok(own)
}

//! What an instance is and how it fares, and what on the host stands in its way. Removes no obstacle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::time::Duration;

use spectrum_common::Refusal;
use tokio::time::Instant;

use crate::commands::target::described;
use crate::commands::view::{Seen, View};
use crate::control::{
    CheckAnswer, DestinationAnswer, DrainingAnswer, ErrorAnswer, InstanceState, OriginAnswer, PacketCounts,
    ProgramAnswer, RecordAnswer, ServiceAnswer, Status, TableAnswer,
};
use crate::doctor::{bridged, loosening, unbridging};
use crate::instance::{Mode, ResourceKind};
use crate::model::{DestinationId, Family, Prefix, Protocol, Service, ServiceName};
use crate::observe::Totals;
use spectrum_proxy::{End, RecordState};
use spectrum_steering::dispatcher::{self, AttachedProgram, Probe};
use spectrum_steering::host::{self, NamespaceId};
use spectrum_steering::tproxy;

/// So many origins of a service are named with it: all of them are listed apart.
const NAMED: usize = 4;

impl View {
    /// The status, with what could not be found out among it.
    pub(in crate::commands) fn status(&self) -> anyhow::Result<Status> {
        let mut unknown = Vec::new();
        let mut known = |outcome: anyhow::Result<()>| {
            if let Err(error) = outcome {
                unknown.push(format!("{error:#}"));
            }
        };
        let probe = self.probe();
        let own = |probe: &Probe| ProgramAnswer { id: probe.program_id(), name: None };
        let (mut program, mut other_programs) = (probe.map(own), Vec::new());
        let mut missing = self.faults.lines();
        known(attached().map(|attached| {
            if let Some(own) = &program
                && self.is_steering()
                && !self.faults.has(ResourceKind::Attachment)
                && !attached.iter().any(|attached| attached.id == own.id)
            {
                missing.push(DETACHED.to_owned());
            }
            for AttachedProgram { id, name } in attached {
                match &mut program {
                    Some(own) if own.id == id => own.name = name,
                    _ => other_programs.push(ProgramAnswer { id, name }),
                }
            }
        }));
        let mut conflicts = Vec::new();
        known(self.conflicts().map(|found| conflicts = found));
        let (obstacles, unread) = self.obstacles();
        unknown.extend(unread);
        Ok(Status {
            pid: std::process::id(),
            state: self.state,
            mode: self.mode,
            namespace: NamespaceId::current()?.inode(),
            generation: probe.map_or(u64::from(self.revision) + 1, Probe::generation),
            program,
            firewall: self.firewall_parts(),
            table: probe.map(|probe| TableAnswer { nodes: probe.nodes(), bytes: probe.table_bytes() }),
            admin: self.admin,
            descriptors: self.descriptors,
            descriptors_of_each: self.descriptors_of_each,
            services: self.services(),
            destinations: self.destinations(),
            other_programs,
            conflicts,
            missing,
            obstacles,
            unknown,
        })
    }

    fn probe(&self) -> Option<&Probe> {
        match &self.steering {
            Some(Seen::SkLookup(probe)) => Some(probe),
            _ => None,
        }
    }

    fn firewall_parts(&self) -> Vec<String> {
        let steering = match &self.steering {
            Some(Seen::Tproxy(parts)) => parts.as_slice(),
            _ => &[],
        };
        steering.iter().chain(&self.besides).map(ToString::to_string).collect()
    }

    /// Those of the configuration, then those that it has no more and that still have something open.
    fn services(&self) -> Vec<ServiceAnswer> {
        let totals = self.counters.totals();
        let answer = |service: &Service, bindings, draining| {
            let of = |protocol| totals.get(&(service.name.clone(), protocol));
            let counted = [Protocol::Tcp, Protocol::Udp].map(of);
            let counted = || counted.iter().copied().flatten();
            ServiceAnswer {
                name: service.name.to_string(),
                target: described(service, NAMED),
                draining,
                origins: self.origins(&service.name),
                limits: (&service.policy.limits).into(),
                timeouts: (&service.policy.timeouts).into(),
                bindings,
                open: counted().map(|totals| totals.open).sum(),
                total: counted().map(|totals| totals.opened).sum(),
                denied: denied(counted()),
            }
        };
        let configured =
            self.config.services.iter().map(|service| answer(service, service.bindings.len(), None));
        let gone = self.gone.iter().map(|(service, due)| {
            let cut_in_ms = millis(due.saturating_duration_since(Instant::now()));
            answer(service, 0, Some(DrainingAnswer { cut_in_ms }))
        });
        configured.chain(gone.filter(|service| service.open > 0)).collect()
    }

    pub(in crate::commands) fn origins(&self, service: &ServiceName) -> Vec<OriginAnswer> {
        let states = self.origins.as_ref().map_or_else(Vec::new, |origins| origins.states(service));
        let origins = states.into_iter().map(|state| OriginAnswer {
            origin: state.origin,
            address: state.address,
            role: state.role.as_str().to_owned(),
            weight: state.weight,
            by_hand: state.is_by_hand,
            condition: state.condition.to_string(),
            reason: state.reason,
            last_check: state.last_check.map(|check| CheckAnswer {
                ago_ms: millis(check.ago),
                connected_us: check
                    .outcome
                    .as_ref()
                    .ok()
                    .map(|after| u64::try_from(after.as_micros()).unwrap_or(u64::MAX)),
                error: check.outcome.err(),
            }),
            open: state.open,
            connections: state.connections,
            failures: state.failed_dials + state.broken,
            failures_in_row: state.failures_in_row,
            bytes_to_origin: state.bytes_to,
            bytes_from_origin: state.bytes_from,
            last_error: state.last_error.map(|(error, ago)| ErrorAnswer { error, ago_ms: millis(ago) }),
            record: state.record.map(|RecordState { priority, weight, port, target }| RecordAnswer {
                priority,
                weight,
                port,
                target,
            }),
            way: state.way.iter().map(ToString::to_string).collect(),
        });
        origins.collect()
    }

    fn destinations(&self) -> Vec<DestinationAnswer> {
        let destinations = self.plan.destinations.iter().map(|(id, destination)| DestinationAnswer {
            id: id.0,
            service: destination.service.to_string(),
            protocol: destination.protocol,
            family: destination.family,
            listener: self.listener(*id),
            packets: self.probe().and_then(|probe| packets(probe, *id)),
        });
        destinations.collect()
    }

    /// The rules that may drop packets before they are steered, and what could not be looked at.
    fn obstacles(&self) -> (Vec<String>, Vec<String>) {
        let mut obstacles = Vec::new();
        let serves_ipv4 = self.plan.routes.iter().any(|prefix| prefix.family() == Family::Ipv4);
        let strict = host::strict_rp_filter();
        if serves_ipv4 && !strict.is_empty() {
            obstacles.push(format!(
                "rp_filter is strict on {}: IPv4 packets are dropped whose sender is reached through another interface; \
                 cure: {}",
                strict.join(", "),
                loosening(&strict)
            ));
        }
        if self.mode == Some(Mode::Tproxy) {
            let families: BTreeSet<Family> = self.plan.routes.iter().map(Prefix::family).collect();
            obstacles.extend(families.into_iter().filter_map(bridges_to_rules));
        }
        let (listings, errors) = tproxy::listings();
        obstacles.extend(self.plan.obstacles(&listings).iter().map(ToString::to_string));
        (obstacles, errors.into_iter().map(|error| format!("{:#}", anyhow::Error::from(error))).collect())
    }

    /// True while what it raised is supposed to be there.
    pub(super) fn is_steering(&self) -> bool {
        matches!(self.state, InstanceState::Ready | InstanceState::Reloading)
    }

    /// True if the kernel runs our program on packets; also where it does not say.
    pub(super) fn is_attached(&self) -> bool {
        let Some(own) = self.probe() else { return true };
        attached().map_or(true, |attached| attached.iter().any(|program| program.id == own.program_id()))
    }

    pub(super) fn other_programs_note(&self) -> Vec<String> {
        let own = self.probe().map(Probe::program_id);
        let others: Vec<String> = attached()
            .unwrap_or_default()
            .into_iter()
            .filter(|program| Some(program.id) != own)
            .map(|program| program.id.to_string())
            .collect();
        if others.is_empty() {
            return Vec::new();
        }
        vec![format!(
            "other sk_lookup programs are attached and may choose another socket: {}",
            others.join(", ")
        )]
    }
}

/// The obstacle that rules which meet packets on bridges are to TPROXY, if they do.
pub(super) fn bridges_to_rules(family: Family) -> Option<String> {
    let setting = host::bridged_to_rules(family)?;
    Some(format!("{setting} is 1: {}; cure: {}", bridged(family), unbridging(&[setting])))
}

/// The numbers of what was denied, by the limit.
fn denied<'a>(totals: impl Iterator<Item = &'a Totals>) -> BTreeMap<String, u64> {
    let mut denied = BTreeMap::new();
    for (end, count) in totals.flat_map(|totals| &totals.ends) {
        if let End::Denied(limit) = end {
            *denied.entry(limit.key().to_owned()).or_default() += count;
        }
    }
    denied
}

/// The program is there, but not where packets come by.
pub(super) const DETACHED: &str =
    "the attachment of the sk_lookup program missing (somebody has detached it)";

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn attached() -> anyhow::Result<Vec<AttachedProgram>> {
    use anyhow::Context as _;
    let op = "list the sk_lookup programs of the namespace";
    let namespace = File::open("/proc/thread-self/ns/net").context(op)?;
    match dispatcher::attached_programs(namespace) {
        // A kernel without bpf(2), or without sk_lookup, has none.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Ok(Vec::new()),
        attached => attached.context(op),
    }
}

fn packets(probe: &Probe, id: DestinationId) -> Option<PacketCounts> {
    let counts = probe.counts(id).ok()?;
    let refused = Refusal::ALL.into_iter().zip(counts.refused).filter(|(_, count)| *count > 0);
    Some(PacketCounts {
        steered: counts.steered,
        missed: counts.missed,
        refused: refused.map(|(refusal, count)| (refusal.errno().to_owned(), count)).collect(),
    })
}

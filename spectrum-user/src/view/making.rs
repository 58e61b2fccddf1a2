//! The one place where a view is made: of what an instance has published, and of what the kernel says. Changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use spectrum_common::{Counts, DenyReason, Refusal};
use tokio::time::Instant;

use super::surroundings::attached;
use super::{
    DestinationPlan, DestinationView, DrainingView, LeavingView, LeavingWorker, LogView, OriginView,
    PacketCounts, Present, Seen, ServicePlan, ServiceView, SessionsView, TableView, View,
};
use crate::model::{Protocol, ResourceKind, Service, ServiceName, registered};
use crate::observe::{Counters, LossKind, Losses, Omission, Omissions, Totals};
use crate::plan::firewall::Sharing;
use crate::worker_process::WorkersLook;
use spectrum_proxy::End;
use spectrum_steering::dispatcher::{AttachedProgram, Probe};
use spectrum_steering::tproxy::DenialCounts;

/// So many origins of a service are named with it: all of them are listed apart.
const NAMED: usize = 4;

/// The program is there, but not where packets come by.
pub const DETACHED: &str = "the attachment of the sk_lookup program missing (somebody has detached it)";

/// The part of a view that is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope<'a> {
    /// All of it. What stands in its way takes programs of the firewall and a walk through `/proc`.
    All,
    /// The instance itself: soon made, however often somebody scrapes.
    Instance,
    /// Of its services only this one, if any, and nothing that is counted: what readiness takes.
    Service(Option<&'a str>),
}

impl Present {
    /// The view now. What the kernel can be asked for at once is asked: nothing of it is older than the call, but for what is
    /// missing of routes, rules and listeners, which is as old as the last look of repair.
    #[must_use]
    pub fn view(&self, scope: Scope<'_>) -> View {
        let attached = attached();
        let (missing, hindrances) = self.missing(attached.as_deref().unwrap_or_default(), attached.is_ok());
        let (look, unanswered) = self.look(scope);
        let mut view = View {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            id: self.id.map(|id| id.to_string()),
            pid: std::process::id(),
            state: self.state,
            mode: self.mode,
            namespace: self.namespace.inode(),
            generation: self.probe().map_or(u64::from(self.revision) + 1, Probe::generation),
            revision: self.revision,
            files: self.config.shown_files(),
            reloads: self.reloads(),
            upgrades: self.upgrades.clone(),
            pins: self.pins.clone(),
            admin: self.admin,
            xdp: self.xdp.to_vec(),
            dropped_early: self.dropped_early(),
            worker_process: look.confinement.clone(),
            leaving_workers: self.leaving(),
            descriptors: look.descriptors,
            descriptors_of_each: look.descriptors_of_each,
            missing,
            hindrances,
            announcements: self.announcements.to_vec(),
            announcing_device: self.announcing_device.clone(),
            announcing_damage: self.announcing_damage.clone(),
            run_time: self.run_time.view(),
            judged_after_accept: self.judged_after_accept().map(str::to_owned),
            unseen: self
                .faults
                .unseen()
                .into_iter()
                .chain(unanswered)
                .chain(self.lists_damage.clone())
                .collect(),
            ..View::default()
        };
        view.program = self.probe().map(|probe| AttachedProgram { id: probe.program_id(), name: None });
        match attached {
            Ok(attached) => {
                for program in attached {
                    match &mut view.program {
                        Some(own) if own.id == program.id => *own = program,
                        _ => view.surroundings.other_programs.push(program),
                    }
                }
            }
            Err(error) => view.surroundings.unknown.push(format!("{error:#}")),
        }
        if let Scope::Service(name) = scope {
            let asked = self.config.services.iter().filter(|service| Some(service.name.as_str()) == name);
            let asked: Vec<&Service> = asked.collect();
            let sockets = self.look_at_sockets(&asked);
            let view_of = |service: &&Service| {
                let sockets = self.registered(service, &sockets);
                ServiceView { sockets, ..self.service(service, None, service.bindings.len(), &[], &look) }
            };
            view.services = asked.iter().map(view_of).collect();
            return view;
        }
        let totals = Counters::of(&self.book).totals(|service| self.known.contains(service));
        view.services = self.services(&totals, &look);
        view.sessions = totals
            .iter()
            .map(|((service, protocol), totals)| SessionsView::of(service, *protocol, totals))
            .collect();
        view.destinations = self.destinations();
        let by_word = |counts: Vec<(&str, u64)>| {
            counts.into_iter().map(|(what, count)| (what.to_owned(), count)).collect()
        };
        view.repairs = by_word(self.faults.repaired());
        view.announcing_changes = self.announcing_changes();
        view.failed_looks = by_word(self.faults.failed_looks());
        view.log = self.log();
        view.uncounted = self.book.uncounted();
        view.firewall = self.firewall_parts();
        view.table = self.probe().map(|probe| TableView { nodes: probe.nodes(), bytes: probe.table_bytes() });
        if scope == Scope::All {
            self.look_around(&mut view.surroundings);
        }
        view
    }

    fn leaving(&self) -> Vec<LeavingView> {
        let now = Instant::now();
        let view = |one: &LeavingWorker| {
            let cut_in_ms = millis(one.cut_at.saturating_duration_since(now));
            LeavingView { pid: one.pid, cut_in_ms }
        };
        self.leaving.iter().map(view).collect()
    }

    /// The things that others removed and that have not been put back, and those of them that clients need.
    fn missing(&self, attached: &[AttachedProgram], is_known: bool) -> (Vec<String>, Vec<String>) {
        let (mut missing, mut hindrances) = (self.faults.lines(), self.faults.hindrances());
        let is_steering = self.state.is_serving();
        if let Some(own) = self.probe().map(Probe::program_id)
            && is_steering
            && is_known
            && !self.faults.has(ResourceKind::Attachment)
            && !attached.iter().any(|attached| attached.id == own)
        {
            missing.push(DETACHED.to_owned());
            hindrances.push(DETACHED.to_owned());
        }
        (missing, hindrances)
    }

    /// True if the kernel runs our program on packets; also where it does not say.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        let Some(own) = self.probe() else { return true };
        attached().map_or(true, |attached| attached.iter().any(|program| program.id == own.program_id()))
    }

    /// The dispatcher that steers, if one does.
    #[must_use]
    pub fn probe(&self) -> Option<&Probe> {
        match &self.steering {
            Some(Seen::SkLookup(probe)) => Some(probe),
            _ => None,
        }
    }

    /// What XDP has dropped, where it may.
    fn dropped_early(&self) -> Option<u64> {
        let packets = self.packets.as_ref().filter(|_| !self.xdp.is_empty())?;
        packets.dropped_early().inspect_err(|error| tracing::debug!(%error, "count packets")).ok()
    }

    fn firewall_parts(&self) -> Vec<String> {
        let steering = match &self.steering {
            Some(Seen::Tproxy(parts)) => parts.as_slice(),
            _ => &[],
        };
        steering.iter().chain(&self.besides).map(ToString::to_string).collect()
    }

    /// Those of the configuration, then those that it has no more and that still have something open.
    fn services(
        &self,
        totals: &BTreeMap<(ServiceName, Protocol), Totals>,
        look: &WorkersLook,
    ) -> Vec<ServiceView> {
        let view = |service: &Service, draining, bindings| {
            let of = |protocol| totals.get(&(service.name.clone(), protocol));
            let counted: Vec<&Totals> = [Protocol::Tcp, Protocol::Udp].into_iter().filter_map(of).collect();
            self.service(service, draining, bindings, &counted, look)
        };
        let services: Vec<&Service> = self.config.services.iter().collect();
        let sockets = self.look_at_sockets(&services);
        let configured = services.into_iter().map(|service| ServiceView {
            sockets: self.registered(service, &sockets),
            ..view(service, None, service.bindings.len())
        });
        let gone = self.gone.iter().map(|(service, due)| {
            let cut_in_ms = millis(due.saturating_duration_since(Instant::now()));
            view(service, Some(DrainingView { cut_in_ms }), 0)
        });
        configured.chain(gone.filter(|service| service.open > 0)).collect()
    }

    fn service(
        &self,
        service: &Service,
        draining: Option<DrainingView>,
        bindings: usize,
        counted: &[&Totals],
        look: &WorkersLook,
    ) -> ServiceView {
        let mut denied = BTreeMap::new();
        for (end, count) in counted.iter().flat_map(|totals| &totals.ends) {
            if let End::Denied(limit) = end {
                *denied.entry(limit.key().to_owned()).or_default() += count;
            }
        }
        ServiceView {
            plan: ServicePlan::of(&self.config, service, bindings, NAMED),
            open: counted.iter().map(|totals| totals.open).sum(),
            total: counted.iter().map(|totals| totals.opened).sum(),
            denied,
            draining,
            origins: OriginView::all(look, &service.name),
            sockets: Vec::new(),
        }
    }

    /// What only the worker process knows of what `scope` wants; and why nobody knows it now, if so.
    fn look(&self, scope: Scope<'_>) -> (WorkersLook, Option<String>) {
        let names: Vec<ServiceName> = match scope {
            Scope::Service(None) => return Default::default(),
            Scope::Service(Some(name)) => name.parse().into_iter().collect(),
            Scope::All | Scope::Instance => {
                let gone = self.gone.iter().map(|(service, _)| service);
                self.config.services.iter().chain(gone).map(|service| service.name.clone()).collect()
            }
        };
        let (look, error) = self.worker.look_and_block(names, self.config.services.len());
        let is_serving = self.state.is_serving();
        (look, error.filter(|_| is_serving).map(|error| format!("the states of origins: {error}")))
    }

    fn destinations(&self) -> Vec<DestinationView> {
        let by_rules = self.denied_by_rules();
        let others = registered(&self.config.services);
        let destinations = self.plan.destinations.iter().map(|(id, destination)| {
            let counts = self.packets.as_ref().and_then(|packets| counts(packets, *id)).as_ref().map(counted);
            let (packets, denied) = counts.unzip();
            let listener = self.listeners.get(id).cloned();
            let by_rules = || {
                let own = || Some(listener.as_ref()?.address);
                let is_others = others.contains(&destination.service);
                // Rules call sockets of other programs by names of their own.
                let named = || Sharing::name(*id, destination.family);
                let address = if is_others { named() } else { own() }?;
                let of = |reason| by_rules.as_ref()?.get(reason, destination.protocol, address);
                let counts = DenyReason::ALL.into_iter().map(|reason| (reason.word().to_owned(), of(reason)));
                Some(counts.filter_map(|(reason, count)| Some((reason, count?))).collect())
            };
            DestinationView {
                plan: DestinationPlan::of((id, destination)),
                packets,
                denied: denied.or_else(by_rules).unwrap_or_default(),
                listener,
            }
        });
        destinations.collect()
    }

    /// What the rules of the firewall have counted, where there are any that deny.
    fn denied_by_rules(&self) -> Option<DenialCounts> {
        let Some(Seen::Tproxy(parts)) = &self.steering else { return None };
        if self.plan.policies.is_empty() && !self.run_time.sources.is_in_use {
            return None;
        }
        DenialCounts::of(parts).inspect_err(|error| tracing::debug!(%error, "count whom rules deny")).ok()
    }

    fn log(&self) -> LogView {
        let lost =
            LossKind::ALL.map(|kind| kind.stream().to_owned()).into_iter().zip(Losses::sums(&self.book));
        let omitted = Omission::ALL.map(|why| why.word().to_owned()).into_iter();
        let omitted = omitted.zip(Omissions::of(&self.book).sums());
        LogView { lost: lost.collect(), omitted: omitted.collect() }
    }
}

fn counts(packets: &Probe, id: crate::model::DestinationId) -> Option<Counts> {
    packets.counts(id).inspect_err(|error| tracing::debug!(%error, "count packets")).ok()
}

/// The fates of the packets of a destination, and how many were turned away by which reason.
pub(crate) fn counted(counts: &Counts) -> (PacketCounts, BTreeMap<String, u64>) {
    let refused = Refusal::ALL.into_iter().zip(counts.refused).filter(|(_, count)| *count > 0);
    let denied = DenyReason::ALL.into_iter().zip(counts.denied);
    let packets = PacketCounts {
        steered: counts.steered,
        missed: counts.missed,
        refused: refused.map(|(refusal, count)| (refusal.errno().to_owned(), count)).collect(),
    };
    (packets, denied.map(|(reason, count)| (reason.word().to_owned(), count)).collect())
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

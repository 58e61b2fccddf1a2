//! Whether one more connection may be had: limits of its service, of its source, and of the process. What is to become of
//! one that may not is its worker's affair.

mod bucket;
mod descriptors;
mod sources;

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::report::Limit;
use crate::model::{Limits, ServiceName};
pub(super) use bucket::Bucket;
pub(super) use descriptors::{DescriptorPool, Descriptors, Held, ServiceShare};
use sources::{SourcePrefix, Sources};

/// The shortest time between two tellings of one worker that a service's connections are shed.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The counts of services that have limits, for all workers, and from one configuration to the next. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct LimitBook(Arc<Mutex<HashMap<ServiceName, Arc<ServiceCounts>>>>);

/// The counts of one service.
#[derive(Debug)]
struct ServiceCounts {
    open: AtomicU32,
    sources: Sources,
    epoch: Instant,
}

impl ServiceCounts {
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl LimitBook {
    /// The way to `service` for one worker, with what has been counted for it already.
    pub(super) fn gate(&self, service: &ServiceName, limits: &Limits) -> Gate {
        let counts = limits.any().then(|| self.counts(service));
        Gate { limits: *limits, counts, complaints: Complaints::default() }
    }

    fn counts(&self, service: &ServiceName) -> Arc<ServiceCounts> {
        let mut services = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Where neither a worker nor a connection has any, nothing is open.
        services.retain(|name, counts| name == service || Arc::strong_count(counts) > 1);
        let counts = services.entry(service.clone()).or_insert_with(|| {
            Arc::new(ServiceCounts {
                open: AtomicU32::new(0),
                sources: Sources::default(),
                epoch: Instant::now(),
            })
        });
        Arc::clone(counts)
    }
}

/// One worker's way to one service, as far as limits go. Without limits it touches nothing shared.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Limits,
    counts: Option<Arc<ServiceCounts>>,
    complaints: Complaints,
}

impl Gate {
    /// Counts one more connection of `client`, unless a limit is reached.
    pub(super) fn admit(&self, client: IpAddr) -> Result<Option<Admission>, Limit> {
        let Some(counts) = &self.counts else { return Ok(None) };
        if let Some(most) = self.limits.connections {
            let more = |open| (open < most.get()).then_some(open + 1);
            counts
                .open
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
                .map_err(|_full| Limit::Service)?;
        }
        // From here on what was counted is taken back when the admission is dropped.
        let mut admission = Admission {
            counts: Arc::clone(counts),
            counted: self.limits.connections.is_some(),
            source: None,
        };
        if self.limits.connections_per_source.is_some() || self.limits.rate_per_source.is_some() {
            let source = SourcePrefix::of(client, &self.limits);
            counts.sources.open(source, &self.limits, counts.now())?;
            admission.source = Some(source);
        }
        Ok(Some(admission))
    }

    /// Counts one more connection of `client`, which was admitted by another process, whatever the limits are.
    pub(super) fn readmit(&self, client: IpAddr) -> Option<Admission> {
        let counts = self.counts.as_ref()?;
        let counted = self.limits.connections.is_some();
        if counted {
            counts.open.fetch_add(1, Ordering::Relaxed);
        }
        let has_sources =
            self.limits.connections_per_source.is_some() || self.limits.rate_per_source.is_some();
        let source = has_sources.then(|| SourcePrefix::of(client, &self.limits));
        if let Some(source) = source {
            counts.sources.reopen(source, counts.now());
        }
        Some(Admission { counts: Arc::clone(counts), counted, source })
    }

    /// Counts the connection of `admission`, admitted for who dialled, for `client` instead, whom that one speaks for.
    pub(super) fn reassign(&self, admission: &mut Admission, client: IpAddr) -> Result<(), Limit> {
        let Some(former) = admission.source else { return Ok(()) };
        let (source, counts) = (SourcePrefix::of(client, &self.limits), &admission.counts);
        if source == former {
            return Ok(());
        }
        let opened = counts.sources.open(source, &self.limits, counts.now());
        counts.sources.forget(former, &self.limits, counts.now());
        admission.source = opened.is_ok().then_some(source);
        opened
    }

    /// Counts the connection of `admission` for `client`, where its client is now. If a limit is reached it stays as it was.
    pub(super) fn follow(&self, admission: &mut Admission, client: IpAddr) -> Result<(), Limit> {
        let Some(former) = admission.source else { return Ok(()) };
        let (source, counts) = (SourcePrefix::of(client, &self.limits), &admission.counts);
        if source != former {
            counts.sources.open(source, &self.limits, counts.now())?;
            counts.sources.close(former, counts.now());
            admission.source = Some(source);
        }
        Ok(())
    }

    /// Tells the log of a connection that was shed, or of many at once.
    pub(super) fn complain(&self, service: &ServiceName, client: IpAddr, limit: Limit) {
        let Some(more) = self.complaints.due(Instant::now()) else { return };
        match limit {
            Limit::Descriptors => {
                tracing::error!(%service, %client, more, "out of descriptors: new connections are reset, open ones go on");
            }
            Limit::DescriptorShare => {
                tracing::warn!(
                    %service, %client, more,
                    "the service has its share of the descriptors, the rest is for others: new connections are reset, open ones go on"
                );
            }
            // Whoever wants to know has the records.
            Limit::Policy | Limit::PolicyRate => {
                tracing::debug!(%service, %client, more, "the source policy lets clients in no more");
            }
            limit => {
                let limit = limit.key();
                tracing::warn!(%service, %client, limit, more, "limit reached: new connections are reset");
            }
        }
    }
}

/// One connection's place in the counts, given up when dropped.
#[derive(Debug)]
pub(super) struct Admission {
    counts: Arc<ServiceCounts>,
    counted: bool,
    source: Option<SourcePrefix>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.counted {
            self.counts.open.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(source) = self.source {
            self.counts.sources.close(source, self.counts.now());
        }
    }
}

/// The time at which the last word was said, and about how many nothing was said since.
#[derive(Debug, Default)]
struct Complaints {
    told: Cell<Option<Instant>>,
    untold: Cell<u64>,
}

impl Complaints {
    /// The number of others that a word is about, if one is due.
    fn due(&self, now: Instant) -> Option<u64> {
        if self.told.get().is_some_and(|told| now.duration_since(told) < LOG_INTERVAL) {
            self.untold.set(self.untold.get() + 1);
            return None;
        }
        self.told.set(Some(now));
        Some(self.untold.replace(0))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn limits(connections: u32, per_source: u32) -> Limits {
        Limits {
            connections: NonZeroU32::new(connections),
            connections_per_source: NonZeroU32::new(per_source),
            ..Limits::default()
        }
    }

    fn client(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn without_limits_nothing_is_counted() {
        let ledger = LimitBook::default();
        let gate = ledger.gate(&ServiceName::default(), &Limits::default());
        let admitted: Vec<_> = (0..100).map(|_| gate.admit(client(1)).unwrap()).collect();
        assert!(admitted.iter().all(Option::is_none));
        assert!(ledger.0.lock().unwrap().is_empty());
    }

    #[test]
    fn what_was_admitted_elsewhere_is_counted_whatever_the_limits_are() {
        let ledger = LimitBook::default();
        let limits = Limits { rate_per_source: NonZeroU32::new(1), ..limits(2, 2) };
        let gate = ledger.gate(&ServiceName::default(), &limits);
        let admitted: Vec<_> = (0..3).map(|_| gate.readmit(client(1)).unwrap()).collect();
        assert_eq!(gate.admit(client(2)).unwrap_err(), Limit::Service);
        drop(admitted);
        assert!(gate.admit(client(1)).is_ok(), "nothing was taken of the rate");
    }

    #[test]
    fn all_workers_and_the_next_configuration_count_together() {
        let ledger = LimitBook::default();
        let name = ServiceName::default();
        let [one, other] = [ledger.gate(&name, &limits(3, 2)), ledger.gate(&name, &limits(3, 2))];
        let first = one.admit(client(1)).unwrap();
        let second = other.admit(client(1)).unwrap();
        assert_eq!(one.admit(client(1)).unwrap_err(), Limit::Source);
        drop((one, other));
        let next = ledger.gate(&name, &limits(3, 3));
        let third = next.admit(client(1)).unwrap();
        assert_eq!(next.admit(client(2)).unwrap_err(), Limit::Service);
        drop(first);
        let fourth = next.admit(client(2)).unwrap();
        // What a source limit refuses does not stay in the service's count.
        drop((second, third));
        for _ in 0..10 {
            let full = ledger.gate(&name, &limits(3, 1));
            assert_eq!(full.admit(client(2)).unwrap_err(), Limit::Source);
        }
        drop(fourth);
        drop(next);
        assert_eq!(ledger.gate(&name, &limits(1, 1)).counts.unwrap().open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_speaks_for_others_is_counted_until_it_says_for_whom() {
        let ledger = LimitBook::default();
        let gate = ledger.gate(&ServiceName::default(), &limits(4, 1));
        let (proxy, named) = (client(1), [client(2), client(3)]);
        let mut open = Vec::new();
        for named in named {
            let mut admission = gate.admit(proxy).unwrap().unwrap();
            assert_eq!(gate.admit(proxy).unwrap_err(), Limit::Source);
            gate.reassign(&mut admission, named).unwrap();
            assert_eq!(gate.admit(named).unwrap_err(), Limit::Source);
            open.push(admission);
        }
        let mut again = gate.admit(proxy).unwrap().unwrap();
        assert_eq!(gate.reassign(&mut again, named[0]), Err(Limit::Source));
        assert!(gate.admit(proxy).is_ok(), "who was refused is nobody's");
        drop(again);
        drop(open);
        assert_eq!(gate.counts.as_ref().unwrap().open.load(Ordering::Relaxed), 0);
        assert_eq!(gate.counts.unwrap().sources.len(), 0);
    }

    #[test]
    fn who_is_elsewhere_is_counted_there_unless_there_are_too_many() {
        let ledger = LimitBook::default();
        let gate = ledger.gate(&ServiceName::default(), &limits(9, 1));
        let mut moving = gate.admit(client(1)).unwrap().unwrap();
        let resident = gate.admit(client(2)).unwrap();
        assert_eq!(gate.follow(&mut moving, client(2)), Err(Limit::Source));
        assert_eq!(gate.admit(client(1)).unwrap_err(), Limit::Source, "it stayed where it was");
        gate.follow(&mut moving, client(3)).unwrap();
        gate.follow(&mut moving, client(3)).unwrap();
        assert_eq!(gate.admit(client(3)).unwrap_err(), Limit::Source);
        let next = gate.admit(client(1)).unwrap();
        drop((moving, resident, next));
        assert_eq!(gate.counts.as_ref().unwrap().open.load(Ordering::Relaxed), 0);
        assert_eq!(gate.counts.unwrap().sources.len(), 0);
    }

    #[test]
    fn services_that_are_gone_are_forgotten_when_nothing_of_theirs_is_open() {
        let ledger = LimitBook::default();
        let names = ["a", "b", "c"].map(|name| name.parse::<ServiceName>().unwrap());
        let open = ledger.gate(&names[0], &limits(1, 1)).admit(client(1)).unwrap();
        drop(ledger.gate(&names[1], &limits(1, 1)));
        let _last = ledger.gate(&names[2], &limits(1, 1));
        assert_eq!(ledger.0.lock().unwrap().len(), 2);
        assert_eq!(ledger.gate(&names[0], &limits(1, 1)).admit(client(1)).unwrap_err(), Limit::Service);
        drop(open);
    }

    #[test]
    fn a_flood_is_one_complaint_a_second() {
        let complaints = Complaints::default();
        let begin = Instant::now();
        let told: Vec<u64> =
            (0..250).filter_map(|step| complaints.due(begin + Duration::from_millis(10) * step)).collect();
        assert_eq!(told, [0, 99, 99]);
    }
}

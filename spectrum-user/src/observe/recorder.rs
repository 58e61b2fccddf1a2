//! Which connections are recorded, as the configuration says at the moment, for all workers. Writes no record itself.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::omissions::{Omission, Omissions, WorkerOmissions};
use super::output::Output;
use super::shed_records::ShedRecords;
use crate::model::{LogOptions, RecordKeys, Records, Sample, Service, ServiceName, Target};
use spectrum_proxy::{End, Established, Report, Side};

/// The rules which connections are recorded by. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Recorder {
    output: Output,
    omissions: Omissions,
    rules: Arc<Current>,
    /// Nobody outside is to choose which of their connections are sampled.
    seed: RandomState,
}

#[derive(Debug, Default)]
struct Current {
    /// The number of their changes: what a worker looks at before it takes the lock.
    version: AtomicU64,
    rules: Mutex<Arc<RecordRules>>,
}

/// The rules of all services.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct RecordRules {
    general: RecordRule,
    services: HashMap<ServiceName, RecordRule>,
}

impl RecordRules {
    /// The rules that `options` mean for `services`.
    #[must_use]
    pub fn of(options: &LogOptions, services: &[Service]) -> Self {
        let rule = |service: &Service| {
            let usual = match service.target {
                // Of what other programs answer there is none.
                Target::Origins(_) | Target::Registered => Empty::RecordedIfDialled,
                // Who watches what strangers try wants to know of it.
                Target::Respond(_) => Empty::Recorded,
            };
            (service.name.clone(), RecordRule::of(options.of(&service.name), usual))
        };
        let general = RecordRule::of(options.general, Empty::RecordedIfDialled);
        Self { general, services: services.iter().map(rule).collect() }
    }
}

/// The rule for one service.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct RecordRule {
    records: Records,
    sample: u32,
    opened: bool,
    empty: Empty,
}

impl Default for RecordRule {
    fn default() -> Self {
        Self::of(RecordKeys::default(), Empty::Recorded)
    }
}

/// The recording of connections that the client ended before a byte came.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
enum Empty {
    /// They are left out.
    Omitted,
    /// They are recorded.
    Recorded,
    /// They are recorded unless they were reset before an origin was dialled: they cost nothing and changed nothing.
    RecordedIfDialled,
}

impl RecordRule {
    fn of(keys: RecordKeys, usual: Empty) -> Self {
        Self {
            records: keys.records.unwrap_or_default(),
            sample: keys.sample.unwrap_or(Sample::WHOLE).of(),
            opened: keys.opened.unwrap_or_default(),
            empty: match keys.empty {
                Some(true) => Empty::Recorded,
                Some(false) => Empty::Omitted,
                None => usual,
            },
        }
    }

    /// Why `report` is not to be recorded, if it is not.
    fn omission(self, report: &Report, is_sampled: impl FnOnce() -> bool) -> Option<Omission> {
        let has_failed = report.end.status() != 200;
        let is_of_interest = match self.records {
            Records::All => true,
            Records::Failures => has_failed,
            Records::None => false,
        };
        if !is_of_interest {
            return Some(Omission::Unwanted);
        }
        let is_reset = report.end == End::Reset(Side::Downstream);
        let is_empty = report.bytes_from_client == 0 && report.bytes_to_client == 0;
        if is_empty
            && match self.empty {
                Empty::Omitted => is_reset || report.end == End::Closed,
                Empty::Recorded => false,
                Empty::RecordedIfDialled => is_reset && report.origin.is_none(),
            }
        {
            return Some(Omission::Empty);
        }
        (self.sample > 1 && !has_failed && !is_sampled()).then_some(Omission::Sampled)
    }
}

impl Recorder {
    /// One that has `output` write every record, and counts the others among `omissions`.
    #[must_use]
    pub fn new(output: Output, omissions: Omissions) -> Self {
        Self { output, omissions, rules: Arc::default(), seed: RandomState::new() }
    }

    /// From now on holds what `rules` say.
    pub fn follow(&self, rules: RecordRules) {
        *self.rules.rules.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        self.rules.version.fetch_add(1, Ordering::Release);
    }

    /// One worker's.
    pub(super) fn worker(&self) -> WorkerRecorder {
        WorkerRecorder {
            recorder: self.clone(),
            version: Cell::new(0),
            rules: RefCell::default(),
            omissions: self.omissions.worker(),
            shed: ShedRecords::default(),
        }
    }
}

/// A worker's own copy of the rules.
pub(super) struct WorkerRecorder {
    recorder: Recorder,
    version: Cell<u64>,
    rules: RefCell<Arc<RecordRules>>,
    omissions: WorkerOmissions,
    shed: ShedRecords,
}

impl WorkerRecorder {
    /// Records what has begun, if that is wanted.
    pub(super) fn established(&self, established: &Established<'_>) {
        let rule = self.rule(established.service);
        let is_sampled = || self.is_sampled(rule, established.client, established.dialled);
        if rule.opened && rule.records == Records::All && is_sampled() {
            self.recorder.output.record_opened(established);
        }
    }

    /// Records what is over, if that is wanted.
    pub(super) fn ended(&self, report: &Report) {
        let rule = self.rule(&report.service);
        let is_shed = matches!(report.end, End::Denied(_) | End::Evicted);
        let omission = rule.omission(report, || self.is_sampled(rule, report.client, report.dialled));
        match omission {
            None if is_shed && !self.shed.allow(Instant::now()) => {
                self.omissions.add(Omission::Shed);
            }
            None => self.recorder.output.record(report),
            Some(omission) => self.omissions.add(omission),
        }
    }

    /// The same answer for all records of a connection.
    fn is_sampled(
        &self,
        rule: RecordRule,
        client: std::net::SocketAddr,
        dialled: std::net::SocketAddr,
    ) -> bool {
        rule.sample <= 1 || self.recorder.seed.hash_one((client, dialled)).is_multiple_of(rule.sample.into())
    }

    fn rule(&self, service: &ServiceName) -> RecordRule {
        let current = &self.recorder.rules;
        let version = current.version.load(Ordering::Acquire);
        if self.version.replace(version) != version {
            let rules = Arc::clone(&current.rules.lock().unwrap_or_else(PoisonError::into_inner));
            self.rules.replace(rules);
        }
        let rules = self.rules.borrow();
        rules.services.get(service).copied().unwrap_or(rules.general)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::book::Book;
    use crate::observe::record::tests::report;
    use spectrum_proxy::DialFailure;

    fn omission(keys: RecordKeys, usual: Empty, change: impl FnOnce(&mut Report)) -> Option<Omission> {
        let mut report = Report { end: End::Closed, ..report() };
        change(&mut report);
        RecordRule::of(keys, usual).omission(&report, || false)
    }

    fn empty(end: End) -> impl FnOnce(&mut Report) {
        move |report| (report.end, report.bytes_from_client, report.bytes_to_client) = (end, 0, 0)
    }

    const RESET: End = End::Reset(Side::Downstream);
    const REFUSED: End = End::Undialled(DialFailure::Refused);

    #[test]
    fn failures_are_recorded_unless_nothing_is() {
        let failed = |report: &mut Report| report.end = REFUSED;
        let keys = RecordKeys { sample: "1/1000".parse().ok(), ..RecordKeys::default() };
        for (records, of_good, of_failed) in [
            (Records::All, Some(Omission::Sampled), None),
            (Records::Failures, Some(Omission::Unwanted), None),
            (Records::None, Some(Omission::Unwanted), Some(Omission::Unwanted)),
        ] {
            let keys = RecordKeys { records: Some(records), ..keys };
            assert_eq!(omission(keys, Empty::Recorded, |_| {}), of_good, "{records}");
            assert_eq!(omission(keys, Empty::Recorded, failed), of_failed, "{records}");
        }
        assert_eq!(omission(RecordKeys::default(), Empty::Recorded, |_| {}), None);
    }

    #[test]
    fn what_a_load_balancers_check_leaves_is_left_out_where_that_is_said() {
        let keys = |empty| RecordKeys { empty, ..RecordKeys::default() };
        let usual = Empty::RecordedIfDialled;
        // Nothing is said: only what was reset before an origin was dialled.
        assert_eq!(omission(keys(None), usual, empty(RESET)), Some(Omission::Empty));
        assert_eq!(omission(keys(None), usual, empty(End::Closed)), None);
        assert_eq!(omission(keys(None), Empty::Recorded, empty(RESET)), None);
        let dialled = |report: &mut Report| {
            empty(RESET)(report);
            report.origin = Some("192.0.2.1:80".parse().unwrap());
        };
        assert_eq!(omission(keys(None), usual, dialled), None);
        assert_eq!(omission(keys(Some(false)), usual, dialled), Some(Omission::Empty));
        assert_eq!(omission(keys(Some(false)), usual, empty(End::Closed)), Some(Omission::Empty));
        assert_eq!(omission(keys(Some(true)), usual, empty(RESET)), None);
        // Bytes, and failures of ours, are no check.
        assert_eq!(omission(keys(Some(false)), usual, |report| report.end = RESET), None);
        assert_eq!(omission(keys(Some(false)), usual, empty(REFUSED)), None);
    }

    #[test]
    fn a_change_holds_for_what_is_over_from_then_on_and_is_counted() {
        let nowhere = || std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
        let output = Output::start(crate::model::LogFormat::Text, nowhere(), nowhere()).unwrap();
        let omissions = Omissions::of(&Book::create().unwrap());
        let recorder = Recorder::new(output, omissions.clone());
        let worker = recorder.worker();
        let count = |omission: Omission| omissions.sums()[omission as usize];
        worker.ended(&report());
        assert_eq!(count(Omission::Unwanted), 0);
        let general = RecordKeys { records: Some(Records::None), ..RecordKeys::default() };
        recorder.follow(RecordRules::of(&LogOptions { general, ..LogOptions::default() }, &[]));
        worker.ended(&report());
        assert_eq!(count(Omission::Unwanted), 1);
        recorder.follow(RecordRules::of(&LogOptions::default(), &[]));
        worker.ended(&report());
        assert_eq!(count(Omission::Unwanted), 1);
        for _ in 0..100 {
            worker.ended(&Report { end: End::Evicted, ..report() });
        }
        assert!((70..=90).contains(&count(Omission::Shed)), "{}", count(Omission::Shed));
    }

    #[test]
    fn of_many_connections_about_the_share_is_sampled_and_both_records_of_one_agree() {
        let nowhere = || std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
        let output = Output::start(crate::model::LogFormat::Text, nowhere(), nowhere()).unwrap();
        let recorder = Recorder::new(output, Omissions::of(&Book::create().unwrap()));
        let (one, other) = (recorder.worker(), recorder.worker());
        let keys = RecordKeys { sample: "1/10".parse().ok(), ..RecordKeys::default() };
        let rule = RecordRule::of(keys, Empty::Recorded);
        let dialled = report().dialled;
        let sampled = (1..=10_000_u16).filter(|port| {
            let client = (std::net::Ipv4Addr::LOCALHOST, *port).into();
            let is_sampled = one.is_sampled(rule, client, dialled);
            assert_eq!(is_sampled, other.is_sampled(rule, client, dialled));
            is_sampled
        });
        let count = sampled.count();
        assert!((700..=1300).contains(&count), "{count}");
    }
}

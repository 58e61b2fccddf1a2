//! What is known of an origin's name, and how that changes with each lookup. Asks nobody.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::LookupError;
use crate::model::ResolverOptions;

/// For how long an answer is used at most, whatever it says of itself: nobody wants to wait a week for a typo in a zone.
const LONGEST_TTL: Duration = Duration::from_mins(5);

/// The multiple of one name's addresses that all targets of SRV records may have together.
const TARGETS_SHARE: usize = 4;

/// The limits of what is kept of what is found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct AnswerBounds {
    /// Addresses of a name.
    pub(super) addresses: usize,
    /// SRV records of a name.
    pub(super) targets: usize,
    /// For how long an answer is used at least: a TTL of 0 must not be a storm of queries.
    pub(super) min_ttl: Duration,
}

impl From<&ResolverOptions> for AnswerBounds {
    fn from(options: &ResolverOptions) -> Self {
        let ResolverOptions { addresses, targets, min_ttl, .. } = options;
        Self { addresses: usize::from(*addresses), targets: usize::from(*targets), min_ttl: *min_ttl }
    }
}

/// The time until a lookup that failed is tried again: after this, then twice as long each time.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The time for which it counts that an authority says a name has nothing.
const DENIED_TTL: Duration = Duration::from_secs(5);

/// The answer of one lookup of one family.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ttl: Duration,
}

impl Lookup {
    /// Servers say the same in another order each time, which is no news.
    pub(super) fn put_in_order(&mut self) {
        self.addresses.sort_unstable();
        self.addresses.dedup();
    }
}

/// The addresses that a name leads to now.
#[derive(Clone, Debug)]
pub(crate) struct Resolution {
    /// One for a host, those of the SRV records for a service.
    pub(crate) targets: Vec<ResolvedTarget>,
    /// The numbers of SRV records and addresses beyond those that are kept.
    pub(crate) unused: Unused,
    /// The fault of the last lookup. There may be targets all the same, from an earlier one.
    pub(crate) fault: Option<LookupFailure>,
    /// The time at which to look again.
    pub(crate) until: Option<Instant>,
    /// The time at which the last lookup ended.
    pub(crate) at: Option<Instant>,
    /// True if it ever led anywhere.
    was_known: bool,
    /// The number of lookups in a row that have failed.
    failures: u32,
}

/// The excess of an answer over what is kept.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Unused {
    /// SRV records.
    pub(crate) targets: usize,
    pub(crate) addresses: usize,
}

/// The fault of a lookup.
#[derive(Clone, Debug)]
pub(crate) enum LookupFailure {
    /// An authority says that there is nothing, and it is believed (RFC 8767, section 4).
    Denied(String),
    /// Nobody answered usefully, so that what was known before still holds.
    Failed(String),
}

/// A host with its addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ResolvedTarget {
    /// Its name; empty for an address.
    pub(crate) name: String,
    /// The port that its SRV record says.
    pub(crate) port: Option<u16>,
    /// Of SRV records: the lowest that can be reached is used.
    pub(crate) priority: u16,
    /// Of SRV records: the share among those of one priority.
    pub(crate) weight: u16,
    /// IPv6 first.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Resolution {
    /// An address needs no lookup, ever.
    pub(crate) fn of_address(address: IpAddr) -> Self {
        let targets = vec![host(String::new(), vec![address])];
        Self {
            targets,
            unused: Unused::default(),
            fault: None,
            until: None,
            at: None,
            was_known: true,
            failures: 0,
        }
    }

    /// The resolution of a host after the lookups of its families, IPv6 first.
    pub(super) fn of_name(
        found: [Result<Lookup, LookupError>; 2],
        last: Option<&Self>,
        bounds: &AnswerBounds,
        now: Instant,
    ) -> Self {
        let known = last.and_then(|last| last.targets.first()).map_or(&[][..], |target| &target.addresses);
        let mut merged = Merged::of(found, known);
        let unused = Unused { targets: 0, addresses: merged.keep(bounds.addresses) };
        let targets = vec![host(String::new(), merged.addresses)];
        Self { unused, ..Self::of_merged(targets, merged.ttl, merged.fault, last, bounds, now) }
    }

    /// The resolution of a service after the lookups of its SRV records and their hosts.
    pub(super) fn of_service(
        found: Vec<(ResolvedTarget, [Result<Lookup, LookupError>; 2])>,
        unused_targets: usize,
        ttl: Duration,
        last: Option<&Self>,
        bounds: &AnswerBounds,
        now: Instant,
    ) -> Self {
        let (mut targets, mut ttl, mut fault) = (Vec::new(), ttl, None);
        let mut unused = Unused { targets: unused_targets, addresses: 0 };
        let mut room = bounds.addresses.saturating_mul(TARGETS_SHARE);
        for (mut target, lookups) in found {
            let known = last.and_then(|last| last.targets.iter().find(|known| known.name == target.name));
            let mut merged = Merged::of(lookups, known.map_or(&[][..], |target| &target.addresses));
            unused.addresses += merged.keep(bounds.addresses.min(room));
            room -= merged.addresses.len();
            target.addresses = merged.addresses;
            ttl = ttl.min(merged.ttl);
            // A target of several without an address is not the end of the service.
            fault = fault.or(merged.fault);
            targets.push(target);
        }
        Self { unused, ..Self::of_merged(targets, ttl, fault, last, bounds, now) }
    }

    /// The resolution of a service whose SRV records cannot be had.
    pub(super) fn of_failed_service(
        error: &LookupError,
        last: Option<&Self>,
        bounds: &AnswerBounds,
        now: Instant,
    ) -> Self {
        let fault = LookupFailure::of(error);
        let (targets, unused) = match (&fault, last) {
            (LookupFailure::Failed(_), Some(last)) => (last.targets.clone(), last.unused),
            _ => Default::default(),
        };
        Self { unused, ..Self::of_merged(targets, DENIED_TTL, Some(fault), last, bounds, now) }
    }

    fn of_merged(
        targets: Vec<ResolvedTarget>,
        ttl: Duration,
        fault: Option<LookupFailure>,
        last: Option<&Self>,
        bounds: &AnswerBounds,
        now: Instant,
    ) -> Self {
        let failures = match fault {
            Some(LookupFailure::Failed(_)) => last.map_or(0, |last| last.failures) + 1,
            _ => 0,
        };
        let wait = match failures {
            0 => ttl.clamp(bounds.min_ttl, LONGEST_TTL.max(bounds.min_ttl)),
            failures => (RETRY.0 * (1 << (failures - 1).min(10))).min(RETRY.1),
        };
        let was_known = last.is_some_and(|last| last.was_known) || !is_empty(&targets);
        Self {
            targets,
            unused: Unused::default(),
            fault,
            until: Some(now + wait),
            at: Some(now),
            was_known,
            failures,
        }
    }

    /// The same as what is known while the rest of it is still asked for, after `last`. No fault yet, and no end to asking.
    pub(super) fn interim(self, last: Option<&Self>) -> Self {
        let (at, failures) = last.map_or((None, 0), |last| (last.at, last.failures));
        Self { fault: None, until: self.at, at, failures, ..self }
    }

    /// True if it led somewhere once, and now nobody says whether it still does.
    pub(crate) fn is_lost(&self) -> bool {
        self.was_known && self.is_empty() && matches!(self.fault, Some(LookupFailure::Failed(_)))
    }

    /// The number of lookups in a row that have failed.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// True if there is nowhere to go.
    pub(crate) fn is_empty(&self) -> bool {
        is_empty(&self.targets)
    }
}

fn is_empty(targets: &[ResolvedTarget]) -> bool {
    targets.iter().all(|target| target.addresses.is_empty())
}

impl LookupFailure {
    fn of(error: &LookupError) -> Self {
        let text = error.to_string();
        match error {
            LookupError::Denied => Self::Denied(text),
            LookupError::Failed(_) | LookupError::System { .. } => Self::Failed(text),
        }
    }

    /// The cure while nothing else is known of the name.
    pub(crate) fn cure(&self) -> &'static str {
        match self {
            Self::Denied(_) => "correct the name, or give the server's address",
            Self::Failed(_) => "see whether the name servers can be reached, or give the server's address",
        }
    }

    /// In words.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Denied(text) | Self::Failed(text) => text,
        }
    }
}

fn host(name: String, addresses: Vec<IpAddr>) -> ResolvedTarget {
    ResolvedTarget { name, port: None, priority: 0, weight: 0, addresses }
}

/// The addresses of both families, each from the lookup or, where that failed, from before.
struct Merged {
    addresses: Vec<IpAddr>,
    ttl: Duration,
    fault: Option<LookupFailure>,
}

impl Merged {
    fn of(found: [Result<Lookup, LookupError>; 2], known: &[IpAddr]) -> Self {
        let mut merged = Self { addresses: Vec::new(), ttl: LONGEST_TTL, fault: None };
        let mut denied = None;
        for (lookup, is_v6) in found.into_iter().zip([true, false]) {
            match lookup {
                Ok(lookup) => {
                    merged.ttl = merged.ttl.min(lookup.ttl);
                    merged.addresses.extend(lookup.addresses);
                }
                Err(error) => match LookupFailure::of(&error) {
                    fault @ LookupFailure::Denied(_) => denied = Some(fault),
                    fault @ LookupFailure::Failed(_) => {
                        merged.fault = Some(fault);
                        merged.addresses.extend(known.iter().filter(|address| address.is_ipv6() == is_v6));
                    }
                },
            }
        }
        // Most hosts have addresses of one family: that the other has none is no fault of theirs.
        if merged.addresses.is_empty() && merged.fault.is_none() {
            merged.fault = denied;
            merged.ttl = DENIED_TTL;
        }
        merged
    }

    /// Lets go of what is more than `most` addresses, of the family that has more: how many that are. Which ones does not
    /// depend on the order in which a server says them.
    fn keep(&mut self, most: usize) -> usize {
        let unused = self.addresses.len().saturating_sub(most);
        if unused > 0 {
            let v6 = self.addresses.iter().filter(|address| address.is_ipv6()).count();
            let v4 = self.addresses.len() - v6;
            // Each may have half, and what the other one leaves.
            let kept_v6 = v6.min(most.div_ceil(2).max(most.saturating_sub(v4)));
            let kept = [kept_v6, most - kept_v6];
            let mut counts = [0; 2];
            self.addresses.retain(|address| {
                let family = usize::from(address.is_ipv4());
                counts[family] += 1;
                counts[family] <= kept[family]
            });
        }
        unused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::net::NetError;

    const BOUNDS: AnswerBounds = AnswerBounds { addresses: 64, targets: 64, min_ttl: Duration::from_secs(1) };

    #[expect(clippy::unnecessary_wraps, reason = "it stands beside lookups that failed")]
    fn found(addresses: &[&str], seconds: u64) -> Result<Lookup, LookupError> {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Ok(Lookup { addresses, ttl: Duration::from_secs(seconds) })
    }

    fn failed() -> Result<Lookup, LookupError> {
        Err(LookupError::Failed(NetError::Timeout))
    }

    fn denied() -> Result<Lookup, LookupError> {
        Err(LookupError::Denied)
    }

    fn shown(resolution: &Resolution) -> String {
        let addresses = resolution.targets.iter().flat_map(|target| &target.addresses);
        addresses.map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_failure_keeps_what_was_known_and_a_denial_does_not() {
        let now = Instant::now();
        let first =
            Resolution::of_name([found(&["2001:db8::1"], 60), found(&["192.0.2.1"], 60)], None, &BOUNDS, now);
        assert_eq!(shown(&first), "2001:db8::1 192.0.2.1");
        let half = Resolution::of_name([failed(), found(&["192.0.2.2"], 60)], Some(&first), &BOUNDS, now);
        assert_eq!(shown(&half), "2001:db8::1 192.0.2.2", "only the family that was not answered is old");
        let stale = Resolution::of_name([failed(), failed()], Some(&half), &BOUNDS, now);
        assert_eq!(shown(&stale), "2001:db8::1 192.0.2.2");
        assert!(matches!(stale.fault, Some(LookupFailure::Failed(_))));
        let one = Resolution::of_name([denied(), found(&["192.0.2.2"], 60)], Some(&stale), &BOUNDS, now);
        assert_eq!(shown(&one), "192.0.2.2");
        assert!(one.fault.is_none(), "one family is enough");
        let gone = Resolution::of_name([denied(), denied()], Some(&one), &BOUNDS, now);
        assert!(gone.is_empty() && matches!(gone.fault, Some(LookupFailure::Denied(_))));
    }

    #[test]
    fn ttls_are_bounded_and_failures_are_retried_ever_more_slowly() {
        let now = Instant::now();
        let wait = |resolution: &Resolution| resolution.until.unwrap().duration_since(now).as_secs();
        for (ttl, waits) in [(0, 1), (60, 60), (86_400, 300)] {
            let resolution = Resolution::of_name([denied(), found(&["192.0.2.1"], ttl)], None, &BOUNDS, now);
            assert_eq!(wait(&resolution), waits);
        }
        let mut last = Resolution::of_name([denied(), found(&["192.0.2.1"], 60)], None, &BOUNDS, now);
        let mut waits = Vec::new();
        for _ in 0..7 {
            last = Resolution::of_name([failed(), failed()], Some(&last), &BOUNDS, now);
            waits.push(wait(&last));
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(shown(&last), "192.0.2.1");
    }

    #[test]
    fn a_service_keeps_its_targets_when_it_cannot_be_looked_up() {
        let now = Instant::now();
        let target = ResolvedTarget {
            port: Some(80),
            priority: 1,
            weight: 2,
            ..host("a.example.".to_owned(), vec![])
        };
        let found = vec![(target, [denied(), found(&["192.0.2.1"], 60)])];
        let first = Resolution::of_service(found, 0, Duration::from_secs(30), None, &BOUNDS, now);
        assert_eq!(shown(&first), "192.0.2.1");
        assert_eq!(first.until, Some(now + Duration::from_secs(30)), "the shortest TTL counts");
        let failed = LookupError::Failed(NetError::Timeout);
        let stale = Resolution::of_failed_service(&failed, Some(&first), &BOUNDS, now);
        assert_eq!(stale.targets, first.targets);
        assert!(Resolution::of_failed_service(&LookupError::Denied, Some(&stale), &BOUNDS, now).is_empty());
    }

    #[expect(clippy::unnecessary_wraps, reason = "it stands beside lookups that failed")]
    fn many(family: &str, count: u8) -> Result<Lookup, LookupError> {
        let addresses = (0..count).map(|last| format!("{family}{last}").parse().unwrap()).collect();
        Ok(Lookup { addresses, ttl: Duration::from_mins(1) })
    }

    #[test]
    fn of_too_many_addresses_both_families_are_kept() {
        let bounds = AnswerBounds { addresses: 8, ..BOUNDS };
        for (v6, v4, kept_v6, kept_v4) in
            [(9, 9, 4, 4), (200, 1, 7, 1), (2, 100, 2, 6), (0, 9, 0, 8), (5, 3, 5, 3)]
        {
            let found = [many("2001:db8::", v6), many("192.0.2.", v4)];
            let resolution = Resolution::of_name(found, None, &bounds, Instant::now());
            let addresses = &resolution.targets[0].addresses;
            let is_v6 = addresses.iter().filter(|address| address.is_ipv6()).count();
            assert_eq!((is_v6, addresses.len() - is_v6), (kept_v6, kept_v4), "of {v6} and {v4}");
            assert_eq!(resolution.unused.addresses, usize::from(v6) + usize::from(v4) - kept_v6 - kept_v4);
        }
    }

    #[test]
    fn targets_of_a_service_share_their_addresses() {
        let bounds = AnswerBounds { addresses: 8, ..BOUNDS };
        let found = (0..9).map(|number| {
            let target = ResolvedTarget { port: Some(80), ..host(format!("t{number}."), Vec::new()) };
            (target, [denied(), many(&format!("192.0.{number}."), 9)])
        });
        let ttl = Duration::from_mins(1);
        let resolution = Resolution::of_service(found.collect(), 3, ttl, None, &bounds, Instant::now());
        let kept: Vec<usize> = resolution.targets.iter().map(|target| target.addresses.len()).collect();
        assert_eq!(kept, [8, 8, 8, 8, 0, 0, 0, 0, 0]);
        assert_eq!(resolution.unused, Unused { targets: 3, addresses: 81 - 32 });
    }
}

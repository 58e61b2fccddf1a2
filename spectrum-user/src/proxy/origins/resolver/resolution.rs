//! What is known of an origin's name, and how that changes with each lookup. Asks nobody.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::LookupError;

/// For how long an answer is used at least and at most, whatever it says of itself: a TTL of 0 must not be a storm of
/// queries, and nobody wants to wait a week for a typo in a zone.
const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));

/// How soon a lookup that failed is tried again: after this, then twice as long each time.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long it counts that an authority says a name has nothing.
const DENIED_TTL: Duration = Duration::from_secs(5);

/// What one lookup of one family said.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ttl: Duration,
}

impl Lookup {
    pub(super) fn make_unique(&mut self) {
        let mut unique = Vec::with_capacity(self.addresses.len());
        for address in self.addresses.drain(..) {
            if !unique.contains(&address) {
                unique.push(address);
            }
        }
        self.addresses = unique;
    }
}

/// Where connections to a name go now.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Resolution {
    /// One for a host, those of the SRV records for a service.
    pub(in crate::proxy) targets: Vec<ResolvedTarget>,
    /// What was wrong with the last lookup. There may be targets all the same, from an earlier one.
    pub(in crate::proxy) fault: Option<Fault>,
    /// When to look again.
    pub(in crate::proxy) until: Option<Instant>,
    /// How many lookups in a row have failed.
    failures: u32,
}

/// What was wrong with a lookup.
#[derive(Clone, Debug)]
pub(in crate::proxy) enum Fault {
    /// An authority says that there is nothing, and it is believed (RFC 8767, section 4).
    Denied(String),
    /// Nobody answered usefully, so that what was known before still holds.
    Failed(String),
}

/// A host with its addresses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::proxy) struct ResolvedTarget {
    /// Its name; empty for an address.
    pub(in crate::proxy) name: String,
    /// The port that its SRV record says.
    pub(in crate::proxy) port: Option<u16>,
    /// Of SRV records: the lowest that can be reached is used.
    pub(in crate::proxy) priority: u16,
    /// Of SRV records: the share among those of one priority.
    pub(in crate::proxy) weight: u16,
    /// IPv6 first.
    pub(in crate::proxy) addresses: Vec<IpAddr>,
}

impl Resolution {
    /// An address needs no lookup, ever.
    pub(in crate::proxy) fn of_address(address: IpAddr) -> Self {
        let targets = vec![host(String::new(), vec![address])];
        Self { targets, fault: None, until: None, failures: 0 }
    }

    /// What the lookups of a host's families, IPv6 first, make of what was known.
    pub(super) fn of_name(
        found: [Result<Lookup, LookupError>; 2],
        last: Option<&Self>,
        now: Instant,
    ) -> Self {
        let known = last.and_then(|last| last.targets.first()).map_or(&[][..], |target| &target.addresses);
        let merged = Merged::of(found, known);
        Self::of_merged(vec![host(String::new(), merged.addresses)], merged.ttl, merged.fault, last, now)
    }

    /// What SRV records and the lookups of their hosts make of what was known.
    pub(super) fn of_service(
        found: Vec<(ResolvedTarget, [Result<Lookup, LookupError>; 2])>,
        ttl: Duration,
        last: Option<&Self>,
        now: Instant,
    ) -> Self {
        let (mut targets, mut ttl, mut fault) = (Vec::new(), ttl, None);
        for (mut target, lookups) in found {
            let known = last.and_then(|last| last.targets.iter().find(|known| known.name == target.name));
            let merged = Merged::of(lookups, known.map_or(&[][..], |target| &target.addresses));
            target.addresses = merged.addresses;
            ttl = ttl.min(merged.ttl);
            // A target of several without an address is not the end of the service.
            fault = fault.or(merged.fault);
            targets.push(target);
        }
        Self::of_merged(targets, ttl, fault, last, now)
    }

    /// What is left when the SRV records cannot be had.
    pub(super) fn of_failed_service(error: &LookupError, last: Option<&Self>, now: Instant) -> Self {
        let fault = Fault::of(error);
        let targets = match (&fault, last) {
            (Fault::Failed(_), Some(last)) => last.targets.clone(),
            _ => Vec::new(),
        };
        Self::of_merged(targets, DENIED_TTL, Some(fault), last, now)
    }

    fn of_merged(
        targets: Vec<ResolvedTarget>,
        ttl: Duration,
        fault: Option<Fault>,
        last: Option<&Self>,
        now: Instant,
    ) -> Self {
        let failures = match fault {
            Some(Fault::Failed(_)) => last.map_or(0, |last| last.failures) + 1,
            _ => 0,
        };
        let wait = match failures {
            0 => ttl.clamp(TTL.0, TTL.1),
            failures => (RETRY.0 * (1 << (failures - 1).min(10))).min(RETRY.1),
        };
        Self { targets, fault, until: Some(now + wait), failures }
    }

    /// Whether there is nowhere to go.
    pub(in crate::proxy) fn is_empty(&self) -> bool {
        self.targets.iter().all(|target| target.addresses.is_empty())
    }
}

impl Fault {
    fn of(error: &LookupError) -> Self {
        let text = error.to_string();
        match error {
            LookupError::Denied => Self::Denied(text),
            LookupError::Failed(_) | LookupError::System { .. } => Self::Failed(text),
        }
    }

    /// What to do about it while nothing else is known of the name.
    pub(in crate::proxy) fn cure(&self) -> &'static str {
        match self {
            Self::Denied(_) => "correct the name, or give the server's address",
            Self::Failed(_) => "see whether the name servers can be reached, or give the server's address",
        }
    }

    /// In words.
    pub(in crate::proxy) fn text(&self) -> &str {
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
    fault: Option<Fault>,
}

impl Merged {
    fn of(found: [Result<Lookup, LookupError>; 2], known: &[IpAddr]) -> Self {
        let mut merged = Self { addresses: Vec::new(), ttl: TTL.1, fault: None };
        let mut denied = None;
        for (lookup, is_v6) in found.into_iter().zip([true, false]) {
            match lookup {
                Ok(lookup) => {
                    merged.ttl = merged.ttl.min(lookup.ttl);
                    merged.addresses.extend(lookup.addresses);
                }
                Err(error) => match Fault::of(&error) {
                    fault @ Fault::Denied(_) => denied = Some(fault),
                    fault @ Fault::Failed(_) => {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::net::NetError;

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
        let first = Resolution::of_name([found(&["2001:db8::1"], 60), found(&["192.0.2.1"], 60)], None, now);
        assert_eq!(shown(&first), "2001:db8::1 192.0.2.1");
        let half = Resolution::of_name([failed(), found(&["192.0.2.2"], 60)], Some(&first), now);
        assert_eq!(shown(&half), "2001:db8::1 192.0.2.2", "only the family that was not answered is old");
        let stale = Resolution::of_name([failed(), failed()], Some(&half), now);
        assert_eq!(shown(&stale), "2001:db8::1 192.0.2.2");
        assert!(matches!(stale.fault, Some(Fault::Failed(_))));
        let one = Resolution::of_name([denied(), found(&["192.0.2.2"], 60)], Some(&stale), now);
        assert_eq!(shown(&one), "192.0.2.2");
        assert!(one.fault.is_none(), "one family is enough");
        let gone = Resolution::of_name([denied(), denied()], Some(&one), now);
        assert!(gone.is_empty() && matches!(gone.fault, Some(Fault::Denied(_))));
    }

    #[test]
    fn ttls_are_bounded_and_failures_are_retried_ever_more_slowly() {
        let now = Instant::now();
        let wait = |resolution: &Resolution| resolution.until.unwrap().duration_since(now).as_secs();
        for (ttl, waits) in [(0, 1), (60, 60), (86_400, 300)] {
            let resolution = Resolution::of_name([denied(), found(&["192.0.2.1"], ttl)], None, now);
            assert_eq!(wait(&resolution), waits);
        }
        let mut last = Resolution::of_name([denied(), found(&["192.0.2.1"], 60)], None, now);
        let mut waits = Vec::new();
        for _ in 0..7 {
            last = Resolution::of_name([failed(), failed()], Some(&last), now);
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
        let first = Resolution::of_service(found, Duration::from_secs(30), None, now);
        assert_eq!(shown(&first), "192.0.2.1");
        assert_eq!(first.until, Some(now + Duration::from_secs(30)), "the shortest TTL counts");
        let failed = LookupError::Failed(NetError::Timeout);
        let stale = Resolution::of_failed_service(&failed, Some(&first), now);
        assert_eq!(stale.targets, first.targets);
        assert!(Resolution::of_failed_service(&LookupError::Denied, Some(&stale), now).is_empty());
    }
}

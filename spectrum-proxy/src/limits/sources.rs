//! What is known of the sources of a service's connections, for all workers. Forgets whatever a new entry would say as
//! well, so that many sources are no more to keep than the connections that are open and the attempts of a second.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::bucket::Bucket;
use crate::model::{Family, Limits};
use crate::report::Limit;

/// Workers that ask at the same time seldom ask for the same part.
const SHARDS: usize = 64;

/// A part is looked through for what may be forgotten when it has so many entries, or twice what was left last time.
const SWEPT: usize = 256;

/// More entries without a connection than these a part does not keep: only how fast those sources came is forgotten then.
const KEPT: usize = 8192;

/// A client's source prefix.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct SourcePrefix {
    bits: u128,
    length: u8,
    family: Family,
}

impl SourcePrefix {
    pub(super) fn of(client: IpAddr, limits: &Limits) -> Self {
        match client {
            IpAddr::V4(v4) => {
                let length = limits.source_ipv4.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Self { bits: (v4.to_bits() & mask).into(), length, family: Family::Ipv4 }
            }
            IpAddr::V6(v6) => {
                let length = limits.source_ipv6.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Self { bits: v6.to_bits() & mask, length, family: Family::Ipv6 }
            }
        }
    }
}

/// The counts of one source.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    open: u32,
    bucket: Bucket,
}

impl Known {
    fn is_new(&self, now: u64) -> bool {
        self.open == 0 && self.bucket.is_full(now)
    }
}

#[derive(Debug)]
struct Shard {
    known: HashMap<SourcePrefix, Known>,
    swept: usize,
}

/// The sources of one service. Times are nanoseconds since whenever the caller began to count.
#[derive(Debug)]
pub(super) struct Sources {
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
}

impl Default for Sources {
    fn default() -> Self {
        let shard = || Mutex::new(Shard { known: HashMap::new(), swept: SWEPT });
        Self { hasher: RandomState::new(), shards: (0..SHARDS).map(|_| shard()).collect() }
    }
}

impl Sources {
    /// Counts one more connection from `source`, unless a limit is reached. What is refused takes nothing of the rate.
    pub(super) fn open(&self, source: SourcePrefix, limits: &Limits, now: u64) -> Result<(), Limit> {
        let Some(mut shard) = self.shard(source) else { return Ok(()) };
        if shard.known.len() >= shard.swept && !shard.known.contains_key(&source) {
            shard.sweep(now);
        }
        let known = shard.known.entry(source).or_default();
        if limits.connections_per_source.is_some_and(|most| known.open >= most.get()) {
            return Err(Limit::Source);
        }
        if limits.rate_per_source.is_some_and(|rate| !known.bucket.take(now, rate)) {
            return Err(Limit::SourceRate);
        }
        known.open = known.open.saturating_add(1);
        Ok(())
    }

    /// Counts one more connection from `source`, which another process has counted so far.
    pub(super) fn reopen(&self, source: SourcePrefix, now: u64) {
        let Some(mut shard) = self.shard(source) else { return };
        if shard.known.len() >= shard.swept && !shard.known.contains_key(&source) {
            shard.sweep(now);
        }
        let known = shard.known.entry(source).or_default();
        known.open = known.open.saturating_add(1);
    }

    /// A connection that was counted turns out to be another source's: as if it had never come.
    pub(super) fn forget(&self, source: SourcePrefix, limits: &Limits, now: u64) {
        if let Some(rate) = limits.rate_per_source
            && let Some(mut shard) = self.shard(source)
            && let Some(known) = shard.known.get_mut(&source)
        {
            known.bucket.give_back(rate);
        }
        self.close(source, now);
    }

    /// A connection that was counted is over.
    pub(super) fn close(&self, source: SourcePrefix, now: u64) {
        let Some(mut shard) = self.shard(source) else { return };
        if let Some(known) = shard.known.get_mut(&source) {
            known.open = known.open.saturating_sub(1);
            if known.is_new(now) {
                shard.known.remove(&source);
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
    fn shard(&self, source: SourcePrefix) -> Option<MutexGuard<'_, Shard>> {
        let shard = self.shards.get(self.hasher.hash_one(source) as usize % SHARDS)?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap().known.len()).sum()
    }
}

impl Shard {
    fn sweep(&mut self, now: u64) {
        self.known.retain(|_, known| !known.is_new(now));
        let open = self.known.values().filter(|known| known.open > 0).count();
        if self.known.len() - open > KEPT {
            self.known.retain(|_, known| known.open > 0);
        }
        self.swept = (self.known.len() * 2).max(SWEPT);
        self.known.shrink_to(self.swept);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;
    use std::num::NonZeroU32;

    use super::*;

    fn limits(connections: Option<u32>, rate: Option<u32>) -> Limits {
        Limits {
            connections_per_source: connections.and_then(NonZeroU32::new),
            rate_per_source: rate.and_then(NonZeroU32::new),
            ..Limits::default()
        }
    }

    fn source(number: u128, limits: &Limits) -> SourcePrefix {
        SourcePrefix::of(Ipv6Addr::from_bits(number << 64).into(), limits)
    }

    #[test]
    fn addresses_of_one_prefix_are_one_source() {
        let limits = Limits { source_ipv4: 24, source_ipv6: 48, ..Limits::default() };
        let of = |text: &str| SourcePrefix::of(text.parse().unwrap(), &limits);
        assert_eq!(of("192.0.2.1"), of("192.0.2.255"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("2001:db8:1::1"), of("2001:db8:1:ffff::"));
        assert_ne!(of("2001:db8:1::1"), of("2001:db8:2::1"));
        let all = Limits { source_ipv4: 0, source_ipv6: 0, ..Limits::default() };
        assert_eq!(
            SourcePrefix::of("192.0.2.1".parse().unwrap(), &all),
            SourcePrefix::of("10.0.0.1".parse().unwrap(), &all)
        );
        assert_ne!(
            SourcePrefix::of("192.0.2.1".parse().unwrap(), &all),
            SourcePrefix::of("::1".parse().unwrap(), &all)
        );
        let each = Limits { source_ipv4: 32, source_ipv6: 128, ..Limits::default() };
        assert_ne!(
            SourcePrefix::of("::1".parse().unwrap(), &each),
            SourcePrefix::of("::2".parse().unwrap(), &each)
        );
    }

    #[test]
    fn what_is_over_makes_room_and_leaves_nothing_behind() {
        let (sources, limits) = (Sources::default(), limits(Some(2), None));
        let [one, other] = [source(1, &limits), source(2, &limits)];
        assert_eq!(sources.open(one, &limits, 0), Ok(()));
        assert_eq!(sources.open(one, &limits, 0), Ok(()));
        assert_eq!(sources.open(one, &limits, 0), Err(Limit::Source));
        assert_eq!(sources.open(other, &limits, 0), Ok(()));
        sources.close(one, 0);
        assert_eq!(sources.open(one, &limits, 0), Ok(()));
        for closed in [one, one, other] {
            sources.close(closed, 0);
        }
        assert_eq!(sources.len(), 0);
    }

    #[test]
    fn refused_connections_do_not_use_up_the_rate() {
        let (sources, limits) = (Sources::default(), limits(Some(1), Some(2)));
        let one = source(1, &limits);
        assert_eq!(sources.open(one, &limits, 0), Ok(()));
        for _ in 0..10 {
            assert_eq!(sources.open(one, &limits, 0), Err(Limit::Source));
        }
        sources.close(one, 0);
        assert_eq!(sources.open(one, &limits, 0), Ok(()));
        sources.close(one, 0);
        assert_eq!(sources.open(one, &limits, 0), Err(Limit::SourceRate));
    }

    #[test]
    fn what_was_another_source_s_takes_neither_a_place_nor_the_rate() {
        let (sources, limits) = (Sources::default(), limits(Some(1), Some(2)));
        let proxy = source(1, &limits);
        for _ in 0..100 {
            assert_eq!(sources.open(proxy, &limits, 0), Ok(()));
            assert_eq!(sources.open(proxy, &limits, 0), Err(Limit::Source));
            sources.forget(proxy, &limits, 0);
        }
        assert_eq!(sources.len(), 0);
    }

    #[test]
    fn many_sources_are_no_more_to_keep_than_a_second_s_worth() {
        let (sources, limits) = (Sources::default(), limits(None, Some(100)));
        // A source a microsecond, each of which opens, closes, and is not seen again.
        for number in 0..300_000_u64 {
            let (one, now) = (source(number.into(), &limits), number * 1000);
            sources.open(one, &limits, now).unwrap();
            sources.close(one, now);
        }
        // Of each, a hundredth of a second is what is missing.
        assert!(sources.len() <= 2 * (10_000 + SHARDS * SWEPT), "{} kept", sources.len());
    }

    #[test]
    fn a_flood_costs_the_memory_of_rates_and_never_that_of_open_connections() {
        let (sources, limits) = (Sources::default(), limits(Some(1), Some(1)));
        let held: Vec<SourcePrefix> = (0..1000).map(|number| source(number, &limits)).collect();
        for one in &held {
            sources.open(*one, &limits, 0).unwrap();
        }
        for number in 1000..800_000 {
            let one = source(number, &limits);
            sources.open(one, &limits, 1).unwrap();
            sources.close(one, 1);
        }
        assert!(sources.len() <= 1000 + 2 * SHARDS * (KEPT + SWEPT), "{} kept", sources.len());
        for one in held {
            assert_eq!(sources.open(one, &limits, 2), Err(Limit::Source));
        }
    }
}

//! How fast one source may open connections: a token bucket that holds a second's worth. Reads no clock.

use std::num::NonZeroU32;

const SECOND: u64 = 1_000_000_000;

/// A bucket, in the form that takes least room: when it will be full again, in nanoseconds of its keeper's clock.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Bucket {
    full: u64,
}

impl Bucket {
    /// Takes a token if there is one: `rate` of them come back in a second, and `rate` there are at most.
    pub(crate) fn take(&mut self, now: u64, rate: NonZeroU32) -> bool {
        let full = self.full.max(now) + SECOND / u64::from(rate.get());
        if full - now > SECOND {
            return false;
        }
        self.full = full;
        true
    }

    /// Gives back a token that was taken for nothing.
    pub(super) fn give_back(&mut self, rate: NonZeroU32) {
        self.full = self.full.saturating_sub(SECOND / u64::from(rate.get()));
    }

    /// True if nothing is missing, so that a new bucket would do as well.
    pub(super) fn is_full(self, now: u64) -> bool {
        self.full <= now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(rate: u32) -> NonZeroU32 {
        NonZeroU32::new(rate).unwrap()
    }

    #[test]
    fn a_burst_is_a_second_s_worth_and_tokens_come_back_one_by_one() {
        let mut bucket = Bucket::default();
        let at_once = (0..20).filter(|_| bucket.take(0, rate(10))).count();
        assert_eq!(at_once, 10);
        assert!(!bucket.take(SECOND / 10 - 1, rate(10)));
        assert!(bucket.take(SECOND / 10, rate(10)));
        assert!(!bucket.take(SECOND / 10, rate(10)));
        assert!(!bucket.is_full(SECOND));
        assert!(bucket.is_full(2 * SECOND));
    }

    proptest! {
        /// However the attempts are spread, and whatever is refused, a window of a second holds a burst and a second's worth at most.
        #[test]
        fn no_window_holds_more_than_it_may(
            rated in 1_u32..1000,
            gaps in prop::collection::vec(0_u64..SECOND / 20, 1..400),
        ) {
            let mut bucket = Bucket::default();
            let mut now = 0;
            let mut taken = Vec::new();
            for gap in gaps {
                now += gap;
                if bucket.take(now, rate(rated)) {
                    taken.push(now);
                }
            }
            for first in &taken {
                let within = taken.iter().filter(|time| (*first..*first + SECOND).contains(time)).count();
                prop_assert!(within <= 2 * rated as usize, "{} of {}", within, rated);
            }
        }
    }
}

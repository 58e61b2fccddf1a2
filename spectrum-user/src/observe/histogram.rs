//! How durations are spread: counted by one thread, summed by another. Exports nothing.

use std::time::Duration;

use spectrum_proxy::Counter;

/// The number of bounds. What is longer than the last has a place of its own.
pub(super) const BOUNDS: usize = 14;

/// The durations up to which each place counts.
pub type Bounds = [Duration; BOUNDS];

/// The bounds of dialling: from a neighbour in the rack to the last of several tries.
pub const DIAL: Bounds = [
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
];

/// The bounds of sessions: from a probe to a login that lasts the day.
pub const SESSION: Bounds = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_mins(1),
    Duration::from_mins(5),
    Duration::from_mins(15),
    Duration::from_hours(1),
    Duration::from_hours(4),
    Duration::from_hours(24),
];

/// Counts a duration among one thread's counts: places, and behind them all nanoseconds together. Only that thread may.
pub(super) fn observe(cells: &[Counter; BOUNDS + 2], bounds: &Bounds, duration: Duration) {
    let [places @ .., nanoseconds] = cells;
    let place = bounds.partition_point(|bound| *bound < duration);
    if let Some(place) = places.get(place) {
        nanoseconds.add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        place.add(1);
    }
}

/// The sums over all threads.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Histogram {
    places: [u64; BOUNDS + 1],
    nanoseconds: u64,
}

impl Histogram {
    /// Adds a thread's counts, as [`observe`] leaves them.
    pub(super) fn add(&mut self, numbers: &[u64]) {
        for (sum, number) in self.places.iter_mut().zip(numbers) {
            *sum = sum.wrapping_add(*number);
        }
        let nanoseconds = numbers.get(self.places.len()).copied().unwrap_or(0);
        self.nanoseconds = self.nanoseconds.wrapping_add(nanoseconds);
    }

    /// The number of all values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.places.iter().fold(0, |sum, place| sum.saturating_add(*place))
    }

    /// All of them together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds)
    }

    /// Each bound, the last none, and how many lie between it and the one before.
    pub fn buckets(&self, bounds: &Bounds) -> impl Iterator<Item = (Option<Duration>, u64)> {
        bounds.map(Some).into_iter().chain([None]).zip(self.places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_up_to_the_first_bound_that_is_not_below_it() {
        let cells = <[Counter; BOUNDS + 2]>::default();
        for duration in [Duration::ZERO, DIAL[0], DIAL[0] + Duration::from_nanos(1), DIAL[13], Duration::MAX]
        {
            observe(&cells, &DIAL, duration);
        }
        let mut sum = Histogram::default();
        sum.add(&cells.each_ref().map(Counter::get));
        let counts: Vec<u64> = sum.buckets(&DIAL).map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(sum.count(), 5);
    }

    #[test]
    fn bounds_rise() {
        assert!(DIAL.is_sorted() && SESSION.is_sorted());
    }
}

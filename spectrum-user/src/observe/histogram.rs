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

/// One thread's counts.
#[derive(Debug, Default)]
pub(super) struct HistogramCells {
    places: [Counter; BOUNDS + 1],
    nanoseconds: Counter,
}

impl HistogramCells {
    /// Counts one. Only one thread may.
    pub(super) fn observe(&self, bounds: &Bounds, duration: Duration) {
        let place = bounds.partition_point(|bound| *bound < duration);
        if let Some(place) = self.places.get(place) {
            self.nanoseconds.add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
            place.add(1);
        }
    }
}

/// The sums over all threads.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Histogram {
    places: [u64; BOUNDS + 1],
    nanoseconds: u64,
}

impl Histogram {
    pub(super) fn add(&mut self, cells: &HistogramCells) {
        for (sum, cell) in self.places.iter_mut().zip(&cells.places) {
            *sum += cell.get();
        }
        self.nanoseconds = self.nanoseconds.wrapping_add(cells.nanoseconds.get());
    }

    /// The number of all values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.places.iter().sum()
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
        let cells = HistogramCells::default();
        for duration in [Duration::ZERO, DIAL[0], DIAL[0] + Duration::from_nanos(1), DIAL[13], Duration::MAX]
        {
            cells.observe(&DIAL, duration);
        }
        let mut sum = Histogram::default();
        sum.add(&cells);
        let counts: Vec<u64> = sum.buckets(&DIAL).map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(sum.count(), 5);
    }

    #[test]
    fn bounds_rise() {
        assert!(DIAL.is_sorted() && SESSION.is_sorted());
    }
}

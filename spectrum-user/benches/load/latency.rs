//! Latencies and their quantiles. Keeps every one: a slice has some ten thousand.

use std::time::Duration;

#[derive(Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The latency, in microseconds, that so many of a thousand do not exceed.
    pub(crate) fn permille(&mut self, permille: usize) -> f64 {
        self.0.sort_unstable();
        let place = self.0.len() * permille / 1000;
        self.0
            .get(place.min(self.0.len().saturating_sub(1)))
            .map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
    }
}

//! Waiting for something to become true. The only place of the tests that pauses, and never without a deadline.

use std::thread;
use std::time::{Duration, Instant};

/// Long enough for anything that is going to happen, on a machine that does much else or is emulated.
pub const PATIENCE: Duration = Duration::from_mins(1);

const PAUSE: Duration = Duration::from_millis(5);

/// Calls `probe` until it answers; panics naming `what` when `within` has passed.
pub fn eventually<T>(what: &str, within: Duration, probe: impl FnMut() -> Option<T>) -> T {
    perhaps(within, probe).unwrap_or_else(|| panic!("{what}: not within {within:?}"))
}

/// Calls `probe` until it answers; `None` when `within` has passed.
pub fn perhaps<T>(within: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = probe() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

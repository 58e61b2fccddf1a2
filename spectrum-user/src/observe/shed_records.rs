//! How many records of connections that were shed are written: enough to see who comes, few enough that a flood is not
//! a flood of records too. Writes none itself.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// The number that a worker may write.
const MOST: u32 = 10;

/// In which time.
const WINDOW: Duration = Duration::from_secs(1);

/// One worker's account.
#[derive(Debug, Default)]
pub(super) struct ShedRecords {
    window: Cell<Option<Instant>>,
    written: Cell<u32>,
}

impl ShedRecords {
    /// True if one more may be written.
    pub(super) fn allow(&self, now: Instant) -> bool {
        if self.window.get().is_none_or(|began| now.duration_since(began) >= WINDOW) {
            self.window.set(Some(now));
            self.written.set(0);
        }
        self.written.set(self.written.get().saturating_add(1));
        self.written.get() <= MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_flood_ten_in_a_second_are_written() {
        let (shed, begin) = (ShedRecords::default(), Instant::now());
        let written = (0..3000).filter(|step| shed.allow(begin + Duration::from_millis(1) * *step)).count();
        assert_eq!(written, 30);
    }
}

//! When a worker should give memory back: many sessions came and most of them have gone. Gives nothing back itself.

use std::cell::Cell;

/// Fewer sessions than this are not worth it: they leave less than 3 MB behind.
const MANY: usize = 1024;

/// The part of the most that must have gone. What the rest holds lies in between, so nearly all must have.
const LEFT: usize = 8;

/// The most sessions that were open since memory was given back last.
#[derive(Debug, Default)]
pub(super) struct HighWater(Cell<usize>);

impl HighWater {
    /// To be told of `open` sessions whenever one of them is about to end. Whether memory is to be given back now.
    pub(super) fn has_ebbed(&self, open: usize) -> bool {
        let most = self.0.get().max(open);
        let ebbed = most >= MANY && open <= most / LEFT;
        self.0.set(if ebbed { open } else { most });
        ebbed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_when_most_of_many_have_gone() {
        let water = HighWater::default();
        let from = |most: usize| (1..=most).rev().find(|open| water.has_ebbed(*open));
        assert_eq!(from(MANY - 1), None);
        assert_eq!(from(MANY), Some(MANY / LEFT));
        assert_eq!(from(MANY / LEFT - 1), None);
        // What is left of very many is many, too.
        assert_eq!(from(MANY * 100), Some(MANY * 100 / LEFT));
        assert_eq!(from(MANY * 100 / LEFT - 1), Some(MANY * 100 / LEFT / LEFT));
    }
}

//! Each member in turn, as often as its weight says, and evenly spread: of weights 5, 1, 1 comes a a b a c a a and not
//! five of a first. The method is the one that nginx made known as smooth weighted round-robin.

use super::Candidate;

/// The arrears of each member behind its share.
#[derive(Debug)]
pub(crate) struct RoundRobin {
    behind: Vec<i64>,
    /// Choices still to be taken as made.
    skip: usize,
}

impl RoundRobin {
    pub(super) fn new(skipped: usize) -> Self {
        Self { behind: Vec::new(), skip: skipped }
    }

    pub(super) fn choose(&mut self, candidates: impl Iterator<Item = Candidate> + Clone) -> Option<usize> {
        while self.skip > 0 {
            self.skip -= 1;
            self.next(candidates.clone());
        }
        self.next(candidates)
    }

    fn next(&mut self, candidates: impl Iterator<Item = Candidate>) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for candidate in candidates {
            if candidate.index >= self.behind.len() {
                self.behind.resize(candidate.index + 1, 0);
            }
            let weight = i64::from(candidate.weight);
            total += weight;
            if let Some(behind) = self.behind.get_mut(candidate.index) {
                *behind += weight;
                if best.is_none_or(|(_, most)| *behind > most) {
                    best = Some((candidate.index, *behind));
                }
            }
        }
        let (index, _) = best?;
        if let Some(behind) = self.behind.get_mut(index) {
            *behind -= total;
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidates(weights: &[u32]) -> impl Iterator<Item = Candidate> + Clone {
        weights.iter().enumerate().map(|(index, weight)| Candidate {
            index,
            weight: *weight,
            open: 0,
            seed: 0,
        })
    }

    fn sequence(weights: &[u32], skipped: usize, length: usize) -> Vec<usize> {
        let mut state = RoundRobin::new(skipped);
        (0..length).map(|_| state.choose(candidates(weights)).unwrap()).collect()
    }

    #[test]
    fn weights_are_kept_and_spread() {
        assert_eq!(sequence(&[5, 1, 1], 0, 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(sequence(&[1, 1, 1], 0, 4), [0, 1, 2, 0]);
        assert_eq!(sequence(&[1, 1, 1], 1, 4), [1, 2, 0, 1], "another worker begins with another");
    }

    #[test]
    fn who_may_not_be_used_is_passed_over() {
        let mut state = RoundRobin::new(0);
        let mut without = |gone| {
            state.choose(candidates(&[1, 1, 1]).filter(move |candidate| candidate.index != gone)).unwrap()
        };
        let chosen: Vec<_> = (0..6).map(|_| without(1)).collect();
        assert_eq!(chosen.iter().filter(|index| **index == 0).count(), 3);
        assert!(!chosen.contains(&1));
        assert_eq!(RoundRobin::new(0).choose(candidates(&[])), None);
    }

    proptest! {
        #[test]
        fn after_as_many_choices_as_the_weights_sum_up_to_everyone_had_its_share(
            weights in prop::collection::vec(1u32..20, 1..8),
        ) {
            let total = weights.iter().sum::<u32>() as usize;
            let chosen = sequence(&weights, 0, total);
            for (index, weight) in weights.iter().enumerate() {
                prop_assert_eq!(chosen.iter().filter(|one| **one == index).count(), *weight as usize);
            }
        }
    }
}

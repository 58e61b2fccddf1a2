//! The member with the fewest open connections for its weight; of equals, each in turn.

use std::cmp::Ordering;

use super::Candidate;

/// Whose turn it is among equals.
#[derive(Debug)]
pub(crate) struct LeastConnections {
    turn: usize,
}

impl LeastConnections {
    pub(super) fn new(skipped: usize) -> Self {
        Self { turn: skipped }
    }

    pub(super) fn choose(&mut self, candidates: impl Iterator<Item = Candidate> + Clone) -> Option<usize> {
        let least = candidates.clone().min_by(|a, b| compare(*a, *b))?;
        let equals = candidates.filter(|one| compare(*one, least) == Ordering::Equal);
        let turn = self.turn.checked_rem(equals.clone().count()).unwrap_or(0);
        self.turn = self.turn.wrapping_add(1);
        equals.map(|candidate| candidate.index).nth(turn)
    }
}

/// By how loaded each would be with one more: among idle ones, the heaviest comes first.
fn compare(a: Candidate, b: Candidate) -> Ordering {
    let load = |one: Candidate, other: Candidate| (u64::from(one.open) + 1) * u64::from(other.weight);
    load(a, b).cmp(&load(b, a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidates(members: &[(u32, u32)]) -> impl Iterator<Item = Candidate> + Clone {
        members.iter().enumerate().map(|(index, (weight, open))| Candidate {
            index,
            weight: *weight,
            open: *open,
            seed: 0,
        })
    }

    #[test]
    fn the_least_loaded_for_its_weight_is_chosen() {
        for (members, chosen) in [
            (&[(1, 3), (1, 2), (1, 4)][..], Some(1)),
            (&[(1, 1), (4, 4)], Some(1)),
            (&[(1, 0), (4, 0)], Some(1)),
            (&[(1, 0), (4, 4)], Some(0)),
            (&[], None),
        ] {
            assert_eq!(LeastConnections::new(0).choose(candidates(members)), chosen, "{members:?}");
        }
    }

    #[test]
    fn equals_take_turns() {
        let mut state = LeastConnections::new(0);
        let chosen: Vec<_> = (0..4).filter_map(|_| state.choose(candidates(&[(1, 0), (1, 0)]))).collect();
        assert_eq!(chosen, [0, 1, 0, 1]);
    }

    proptest! {
        #[test]
        fn connections_that_stay_open_are_shared_by_weight(weights in prop::collection::vec(1u32..20, 1..8)) {
            let mut state = LeastConnections::new(0);
            let mut members: Vec<(u32, u32)> = weights.iter().map(|weight| (*weight, 0)).collect();
            for _ in 0..weights.iter().sum::<u32>() {
                let chosen = state.choose(candidates(&members)).unwrap();
                members[chosen].1 += 1;
            }
            for (weight, open) in members {
                prop_assert_eq!(open, weight);
            }
        }
    }
}

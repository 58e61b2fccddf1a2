//! Measuring in turns: short slices of every subject, interleaved, so that what the machine does meanwhile hits all of
//! them alike. Does not know what a slice measures.

use std::time::Duration;

use anyhow::Result;

use xtask::interrupt::Interrupt;

use super::statistics::Spread;

/// The time that one subject is measured before it is the next one's turn.
pub(super) const SLICE: Duration = Duration::from_millis(80);

/// The number of slices that each subject gets.
pub(super) const ROUNDS: usize = 60;

/// The measurement of one slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// The figure: CPU time of one operation, in nanoseconds.
    pub(super) cost: f64,
    /// Operations per second, which swings with the machine's other users.
    pub(super) rate: f64,
}

/// The samples of each subject, in the order of the rounds: the nth of any two subjects are neighbours in time.
pub(super) fn interleave<S>(
    subjects: &mut [S],
    interrupt: &Interrupt,
    mut slice: impl FnMut(&mut S) -> Result<Sample>,
) -> Result<Vec<Vec<Sample>>> {
    let mut samples = vec![Vec::with_capacity(ROUNDS); subjects.len()];
    for subject in subjects.iter_mut() {
        // The first one pays for cold caches, empty slabs and page faults.
        slice(subject)?;
    }
    for round in 0..ROUNDS {
        interrupt.check()?;
        // Whoever follows an expensive neighbour must not always be the same.
        for turn in 0..subjects.len() {
            let index = (turn + round) % subjects.len();
            samples[index].push(slice(&mut subjects[index])?);
        }
    }
    Ok(samples)
}

/// The ratios of `subject`'s costs to those of `peer`, slice by slice.
pub(super) fn ratios(subject: &[Sample], peer: &[Sample]) -> Spread {
    Spread::of(subject.iter().zip(peer).map(|(subject, peer)| subject.cost / peer.cost))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_is_measured_in_every_round_and_in_every_place() {
        let mut turns = Vec::new();
        let mut subjects = ['a', 'b', 'c'];
        let samples = interleave(&mut subjects, &Interrupt::never(), |subject| {
            turns.push(*subject);
            Ok(Sample { cost: 1.0, rate: 1.0 })
        })
        .unwrap();
        assert!(samples.iter().all(|samples| samples.len() == ROUNDS));
        assert_eq!(turns[3..12].iter().collect::<String>(), "abcbcacab");
    }

    #[test]
    fn a_slow_moment_that_hits_both_does_not_change_their_ratio() {
        let sample = |cost| Sample { cost, rate: 1.0 };
        let subject = [sample(11.0), sample(110.0), sample(11.0)];
        let peer = [sample(10.0), sample(100.0), sample(10.0)];
        assert!((ratios(&subject, &peer).median - 1.1).abs() < 1e-9);
    }
}

//! The division of slots among shares. Exact: each share gets as many as its weight says. Steady: who leaves or comes moves its own slots
//! and next to no other. Without memory: the same shares always divide them the same way.
//!
//! For each slot every share has a score, as in weighted rendezvous hashing (Thaler and Ravishankar; the logarithm is what makes the
//! chance of the best score proportional to the weight). Alone these would be as uneven as dice are, so a share takes no more slots
//! than are its due, those that it has the best scores for. What that moves elsewhere is a fraction of a percent of the slots.

use std::collections::HashMap;

use super::{RegisteredId, SLOTS, Slot};
use crate::hash_of;

/// The part of a destination's clients that one registered socket gets.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SocketShare {
    /// The socket.
    pub socket: RegisteredId,
    /// A number that a socket of the same server had before, and no other share of the destination has: it gets the same slots.
    pub key: u64,
    /// The weight among those of the destination. One of 0 gets no new clients.
    pub weight: u16,
    /// Another socket of the same server, which gets its clients when it is gone and no other share has a weight.
    pub spare: Option<RegisteredId>,
}

/// The slots as they are divided among `shares`, by number. None where no share has a weight.
#[must_use]
pub fn slots_of(shares: &[SocketShare]) -> Vec<Slot> {
    let mut taking: Vec<SocketShare> = shares.iter().copied().filter(|share| share.weight > 0).collect();
    // In whichever order they came.
    taking.sort_unstable_by_key(|share| (share.key, share.socket));
    let mut room = dues(&taking);
    let mut offers: Vec<(f64, u32, usize)> = Vec::with_capacity(taking.len() * SLOTS as usize);
    for (index, share) in taking.iter().enumerate() {
        offers.extend((0..SLOTS).map(|slot| (score(share, slot), slot, index)));
    }
    offers.sort_unstable_by(|(one, slot, index), (other, other_slot, other_index)| {
        one.total_cmp(other).then((slot, index).cmp(&(other_slot, other_index)))
    });

    let mut firsts: Vec<Option<usize>> = vec![None; SLOTS as usize];
    for (_, slot, index) in &offers {
        let (Some(first), Some(room)) = (firsts.get_mut(*slot as usize), room.get_mut(*index)) else {
            continue;
        };
        if first.is_none() && *room > 0 {
            *first = Some(*index);
            *room -= 1;
        }
    }
    // Whoever would have it if the first were not there, but for those few who would have had their due by then.
    let mut nexts: HashMap<u32, usize> = HashMap::with_capacity(SLOTS as usize);
    for (_, slot, index) in &offers {
        if firsts.get(*slot as usize) != Some(&Some(*index)) {
            nexts.entry(*slot).or_insert(*index);
        }
    }
    let share = |index: usize| taking.get(index);
    let slots = (0..).zip(firsts).filter_map(|(slot, first)| {
        let first = share(first?)?;
        let next = nexts.get(&slot).and_then(|index| share(*index)).map(|next| next.socket);
        Some(Slot::of(first.socket, next.or(first.spare)))
    });
    slots.collect()
}

/// The number of slots that are the due of each: its part, rounded so that all are given away, and at least one.
fn dues(shares: &[SocketShare]) -> Vec<u64> {
    let total: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
    if total == 0 {
        return Vec::new();
    }
    let parts = || shares.iter().map(|share| u64::from(share.weight) * u64::from(SLOTS));
    let mut dues: Vec<u64> = parts().map(|part| part / total).collect();
    let mut rests: Vec<(u64, usize)> =
        (0..).zip(parts()).map(|(index, part)| (part % total, index)).collect();
    // The largest first, and of equal ones the first.
    rests.sort_unstable_by_key(|(rest, index)| (u64::MAX - rest, *index));
    let given: u64 = dues.iter().sum();
    let left = usize::try_from(u64::from(SLOTS) - given).unwrap_or(0);
    for (_, index) in rests.into_iter().take(left) {
        if let Some(due) = dues.get_mut(index) {
            *due += 1;
        }
    }
    while let Some(none) = dues.iter().position(|due| *due == 0) {
        let most = (0..dues.len()).max_by_key(|index| dues.get(*index).copied());
        let Some(most) = most.and_then(|index| dues.get_mut(index)).filter(|most| **most > 1) else { break };
        *most -= 1;
        if let Some(none) = dues.get_mut(none) {
            *none = 1;
        }
    }
    dues
}

/// The score of a share for a slot: the less the better.
fn score(share: &SocketShare, slot: u32) -> f64 {
    // Nobody chooses the keys of shares to harm: what the hash is keyed with is no secret.
    let drawn = hash_of([0; 2], [share.key, slot.into()]) >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits")]
    let drawn = (drawn as f64 + 0.5) / (1_u64 << 53) as f64;
    -drawn.ln() / f64::from(share.weight)
}

#[cfg(test)]
mod tests;
